"""The decision: what the kernel should hold. PURE: values in, a value out.

The packet's way through our rules (priorities in ``config``):

1. main's specific routes that don't go through an ENI: Docker, VPN and bridges stay in force for every source;
2. a secondary's sources: its own table. A link that goes down loses its routes in every table while the rules stay,
   so a fence behind the table's routes keeps the traffic from silently leaving by another ENI;
3. sockets bound to a secondary's device that have no source yet: its table too;
4. the primary's sources: a table with the primary's own vSwitch and whatever main would send by a secondary. It has
   no default route: the rest falls through to main as before. (``primary: full`` gives it one, and no fence: a link
   that is down must not lock out who comes by another way.)

The fence is a route for IPv4 and a rule for IPv6. With a worse route behind a gateway whose neighbour entry has failed,
IPv6 prefers the worse route and never probes the gateway again (kernel 6.18: silent for 60 s; with a rule 0.01 s).
"""

from collections import defaultdict
from ipaddress import IPv6Network
from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Sequence, Set, Tuple

from eni_bootstrap.config.settings import Config, fence
from eni_bootstrap.evidence import at_parents, children, leave_contained
from eni_bootstrap.links import Unaddressed, link_changes, link_groups, link_settings
from eni_bootstrap.maintable import MainTable, neighbour
from eni_bootstrap.marks import Marked, mark_rules, marked
from eni_bootstrap.model.changes import Made
from eni_bootstrap.model.eni import Eni, Left, Listing, Unfit
from eni_bootstrap.model.host import ContainerNetwork
from eni_bootstrap.model.kernel import (
    EVERYWHERE, IPV6_METRIC, LOCAL, MAIN, UNREACHABLE_METRIC, Address, Hop, LinkAddress, LinkGroup, LinkSetting,
    LinkUp, Network, Route, Rule, Snapshot, network_of,
)
from eni_bootstrap.pairing import (
    leave_ignored, leave_out_ipv6, leave_resting, left_text, named, pair, possible, refuse_stealing,
)
from eni_bootstrap.policy import policy
from eni_bootstrap.tables import Memory, Numbers, assign

_LINK_LOCAL = IPv6Network("fe80::/64")
_METRIC = {4: 0, 6: IPV6_METRIC}
_NAMED = 3
"""So many of a user's routes fit into one remark that can be read."""


class Decision(NamedTuple):
    """What should be, and what stays out of it."""

    enis: Tuple[Eni, ...]
    unfit: Tuple[Unfit, ...]
    numbers: Dict[str, Numbers]
    """By device."""
    remarks: Tuple[str, ...]
    """What an operator should know although nothing is wrong."""
    unaddressed: Tuple[Unaddressed, ...]
    """Still to be waited for."""
    sources: Dict[str, List[Network]]
    """By device: what packets of the ENI come from."""
    displaced: bool = False
    """Somebody else uses an ENI's natural table."""

    ups: Tuple[LinkUp, ...] = ()
    groups: Tuple[LinkGroup, ...] = ()
    settings: Tuple[LinkSetting, ...] = ()
    addresses: Tuple[LinkAddress, ...] = ()
    routes: Tuple[Route, ...] = ()
    rules: Tuple[Rule, ...] = ()

    dropped_addresses: Tuple[LinkAddress, ...] = ()
    """Addresses that we added and that the cloud took away."""
    kept_tables: FrozenSet[int] = frozenset()
    """Tables of ours whose ENI must stay as it is."""
    kept_devs: FrozenSet[str] = frozenset()
    problems: Tuple[str, ...] = ()
    """What the configuration asks for and can't be had."""
    marked: Tuple[Marked, ...] = ()
    """The ENIs whose connections are marked."""
    left: FrozenSet[str] = frozenset()
    """Devices of ENIs that are left alone."""
    used: FrozenSet[str] = frozenset()
    """Of these, somebody else's."""
    children: FrozenSet[str] = frozenset()
    """Macvlans and the like of the ENIs' devices: what addresses they bear is the ENIs', too."""


def decide(
    listing: Listing, snapshot: Snapshot, made: Made, patience_over: FrozenSet[Tuple[str, int]], config: Config,
    networks: Sequence[ContainerNetwork] = (),
) -> Decision:
    """The whole decision.

    ``patience_over`` has the (device, IP version) that no DHCP client has addressed for long enough; ``networks`` are
    the container networks that are configured here.
    """
    fit, unfit = pair(listing, snapshot.links)
    enis, thieves = refuse_stealing(fit, unfit, snapshot.addresses)
    enis, without, switched_off = leave_out_ipv6(enis, snapshot.links)
    unfit += thieves + without
    memory = Memory(snapshot, config)
    enis, unfit, left = leave_ignored(enis, unfit, config.ignore, config.only)
    if config.container_networks == "leave":
        enis, unfit, contained = leave_contained(
            enis, unfit, snapshot.links, snapshot.addresses, memory, networks)
        left += contained
    if config.unattended:
        enis, resting = leave_resting(enis, snapshot.links, made.ups | made.seen_up)
        unfit += resting
    main = MainTable(snapshot, config)
    on_link = _on_link(snapshot.addresses)
    behind = _on_link(at_parents(snapshot.links, snapshot.addresses))
    sources = {eni.dev: _sources(eni, behind, listing) for eni in enis}
    problems = _more_sources(sources, enis, config)

    kept_tables, gone_devs, remarks = _kept(enis, unfit, left, sources, snapshot, behind, memory)
    remarks += left_text(enis, left, config.ignore)

    def base_routes(eni: Eni, table: int) -> List[Route]:
        if eni.primary and config.primary != "full":
            return _vswitch_routes(eni, table, main)
        return [route for route in _own_routes(eni, table, main) if route.hops or not eni.primary]

    numbers, displaced, failed = assign(enis, sources, base_routes, kept_tables, memory, config)
    remarks += switched_off + displaced
    remarks += ["{}: {}".format(member.label, member.reason) for member in unfit if member.resting]
    crowded = bool(displaced or failed)
    unfit += [eni.unfit(reason) for eni, reason in failed]
    enis = [eni for eni in enis if eni.dev in numbers]

    secondaries = [eni for eni in enis if not eni.primary]
    kept_rules = {rule for rule in memory.own_rules if rule.table in kept_tables}
    versions = {subnet.version for eni in secondaries for subnet in eni.interface.subnets}
    versions |= {rule.version for rule in kept_rules if rule.table != config.table_primary}
    kept_devs = frozenset(gone_devs) | {member.dev for member in unfit if member.dev}
    ours = kept_devs.union(*(eni.devs for eni in enis))
    outline = Decision(
        tuple(enis), tuple(member for member in unfit if not member.resting), numbers, tuple(remarks), unaddressed=(),
        sources=sources, displaced=crowded,
        kept_tables=kept_tables.union([LOCAL] if config.prefixes == "local" and (unfit or kept_tables) else []),
        kept_devs=kept_devs, left=frozenset(dev for member in left for dev in member.devs) - ours,
        used=frozenset(dev for member in left for dev in member.devs if member.used) - ours,
        children=frozenset(link.name for link in children(snapshot.links, ours)))
    ups, addresses, dropped, unaddressed, said = link_changes(enis, on_link, snapshot, made, patience_over, config)
    remarks += said
    if config.entries:
        versions |= {subnet.version for eni in enis for subnet in eni.interface.subnets}
    settings, said = link_settings(enis, config)
    problems += said
    outline = outline._replace(settings=tuple(settings))
    pools = [pool for eni in enis for pool in _pools(eni)] if config.prefixes == "local" else []
    if not versions:
        return outline._replace(remarks=tuple(remarks), addresses=tuple(addresses), dropped_addresses=tuple(dropped),
                                routes=tuple(pools), problems=tuple(problems))

    groups, without_group = link_groups(enis, unfit, snapshot, config)
    if without_group:
        remarks.append(without_group)
    primary_devs = {eni.dev for eni in enis if eni.primary} | {member.dev for member in unfit if member.primary}
    defaults = main_defaults(secondaries, primary_devs, numbers, main, config)
    secondary_devs = ({eni.dev for eni in secondaries} | outline.kept_devs) - primary_devs

    routes: List[Route] = []
    rules: List[Rule] = [
        Rule(version, config.priority_main, table=MAIN, suppress_prefixlength=0,
             suppress_ifgroup=config.group if groups else None)
        for version in sorted(versions)
    ]
    for eni in enis:
        table = numbers[eni.dev].table
        own = base_routes(eni, table)
        copies = main.copies(eni.dev, table, config.copies)
        others = [other for other in enis if other is not eni]
        if eni.primary:
            own += _detours(eni, table, others, secondary_devs, copies.routes, main)
            own += copies.routes if config.primary == "full" else _primary_default(
                eni, table, secondary_devs, defaults, main)
            own = [route for route in own if route.version in versions]
        else:
            own += copies.routes
            if not groups:
                own += _detours(eni, table, others, {other.dev for other in others} | outline.kept_devs,
                                list(copies.closed), main)
        if copies.left_out and (config.primary == "full" or not eni.primary):
            remarks.append("{}: more than {} routes of yours go by it; the rest is not copied into table {} and "
                           "does not hold for its addresses".format(eni.label, config.copies, table))
        if copies.closed:
            there = set(own)
            remarks += _closed_text(eni, table, [route for fence, route in copies.closed.items() if fence in there])
        routes += _first_of_each_key(own)
        rules += _rules(eni, table, sources[eni.dev], versions, early=not groups, config=config)
    kept = {member.dev: memory.tables_of(member.dev, []) for member in unfit}
    tables = {dev: own.table for dev, own in numbers.items()}
    members: List[Marked] = []
    if config.connection_marks:
        members, unmarked = marked(enis, unfit, tables, kept, versions, config)
        rules += mark_rules(members, config)
        problems += unmarked
    if config.entries or config.spreads:
        asked = policy(enis, unfit, tables, kept, sources, snapshot.working, versions, config)
        rules += asked.rules
        routes += asked.routes
        remarks += asked.remarks
        problems += asked.problems
    return outline._replace(
        problems=tuple(problems), marked=tuple(members),
        remarks=tuple(remarks), unaddressed=tuple(unaddressed), ups=tuple(ups), groups=tuple(groups),
        addresses=tuple(addresses), dropped_addresses=tuple(dropped), routes=tuple(routes + defaults + pools),
        rules=tuple(rules),
    )


def _sources(eni: Eni, on_link: Dict[str, List[LinkAddress]], listing: Listing) -> List[Network]:
    """All that metadata gives the ENI, and what sits on its link, or a child of it, inside its vSwitch (HAVIP,
    keepalived)."""
    addresses: List[Address] = []
    prefixes: List[Network] = []
    for subnet in eni.interface.subnets:
        known = set(subnet.addresses)
        addresses += subnet.addresses
        prefixes += subnet.prefixes
        for address in (held.address for held in on_link.get(eni.dev, ())):
            if address.version == subnet.version and address in subnet.vswitch and address not in known:
                if not _claimed_by_another(address, eni, listing):
                    known.add(address)
                    addresses.append(address)
    return [network_of(address) for address in addresses] + prefixes


def _more_sources(sources: Dict[str, List[Network]], enis: Sequence[Eni], config: Config) -> List[str]:
    """Add what the configuration gives to ENIs; what is wrong with that."""
    problems = []
    for extra in config.extra:
        where = "sources on line {}: ".format(extra.line)
        fitting = named(extra.eni, enis)
        if len(fitting) != 1 or fitting[0].primary:
            problems.append(where + "{} names {}".format(extra.eni, "no ENI" if not fitting else "the primary ENI"
                            if len(fitting) == 1 else "several ENIs"))
            continue
        own = sources[fitting[0].dev]
        for network in extra.networks:
            owner = next((dev for dev, others in sources.items() if others is not own and any(
                network.overlaps(other) for other in others if other.version == network.version)), "")
            if owner:
                problems.append(where + "{} is {}'s".format(network, owner))
            elif network not in own:
                own.append(network)
    return problems


def _claimed_by_another(address: Address, eni: Eni, listing: Listing) -> bool:
    return any(
        address in subnet.addresses or any(address in prefix for prefix in subnet.prefixes)
        for other in listing.interfaces if other.mac != eni.interface.mac for subnet in other.subnets
    )


def _on_link(addresses: Iterable[LinkAddress]) -> Dict[str, List[LinkAddress]]:
    held: Dict[str, List[LinkAddress]] = defaultdict(list)
    for address in addresses:
        held[address.dev].append(address)
    return held


def _first_of_each_key(routes: Iterable[Route]) -> List[Route]:
    """Two routes with one key can't both be in a table: what comes first is there."""
    found: Dict[Tuple[int, Network, int, int], Route] = {}
    for route in routes:
        found.setdefault(route.key, route)
    return list(found.values())


def _own_routes(eni: Eni, table: int, main: MainTable) -> List[Route]:
    """A secondary's table: its vSwitch, its default, its fence."""
    routes = _vswitch_routes(eni, table, main)
    for subnet in eni.interface.subnets:
        version = subnet.version
        routes += neighbour(table, Hop(eni.dev, subnet.gateway))
        routes.append(Route(table, EVERYWHERE[version], (Hop(eni.dev, subnet.gateway),), metric=_METRIC[version]))
        if version == 4:
            routes.append(fence(table))
        else:
            routes.append(Route(table, _LINK_LOCAL, (Hop(eni.dev),), metric=IPV6_METRIC))
    return routes


def _pools(eni: Eni) -> List[Route]:
    """All addresses of the ENI's delegated prefixes as this host's own."""
    return [Route(LOCAL, prefix, (Hop("lo"),), "local", _METRIC[prefix.version])
            for subnet in eni.interface.subnets for prefix in subnet.prefixes]


def _vswitch_routes(eni: Eni, table: int, main: MainTable) -> List[Route]:
    """The ENI's own vSwitch, directly on its link.

    IPv6 only where main has it so: DHCPv6 gives a /128 and no on-link prefix, then neighbours are reached by the
    gateway.
    """
    return [
        Route(table, subnet.vswitch, (Hop(eni.dev),), metric=_METRIC[subnet.version])
        for subnet in eni.interface.subnets
        if subnet.version == 4 or main.on_link(subnet.vswitch, eni.dev)
    ]


def _detours(
    eni: Eni, table: int, others: Sequence[Eni], other_devs: Set[str], own_copies: List[Route], main: MainTable
) -> List[Route]:
    """By the ENI's own gateway: all that main would send through another ENI.

    Where main has a more specific route of the user's through this very ENI inside such a destination, that one is
    copied, since nothing would fall through to it any more.
    """
    routes: List[Route] = []
    for subnet in eni.interface.subnets:
        away = {dst for dst in main.destinations(other_devs) if dst.version == subnet.version}
        away |= {other.vswitch for member in others for other in member.interface.subnets
                 if other.version == subnet.version}
        if subnet.version == 4 or main.on_link(subnet.vswitch, eni.dev):
            away.discard(subnet.vswitch)
        blocks = _blocks(away)
        copies = [route for route in own_copies if route.version == subnet.version and _inside(route.dst, blocks)]
        routes += copies
        routes += neighbour(table, Hop(eni.dev, subnet.gateway)) if away else []
        for dst in sorted(away - {route.dst for route in copies}):
            routes.append(Route(table, dst, (Hop(eni.dev, subnet.gateway),), metric=_METRIC[subnet.version]))
    return routes


def _closed_text(eni: Eni, table: int, routes: Sequence[Route]) -> List[str]:
    more = len(routes) - _NAMED
    return ["{}: table {} can't have a copy of {}{}: it refuses what the ENI's addresses send there, unless you put a "
            "route of your own into it".format(eni.label, table, ", ".join(map(str, routes[:_NAMED])),
                                               " and of {} more".format(more) if more > 0 else "")] if routes else []


def _inside(network: Network, blocks: Set[Tuple[int, int]]) -> bool:
    """Whether one of the blocks, as (prefix length, leading bits), holds the network."""
    bits = int(network.network_address)
    return any((length, bits >> (network.max_prefixlen - length)) in blocks for length in range(network.prefixlen + 1))


def _blocks(networks: Iterable[Network]) -> Set[Tuple[int, int]]:
    return {(block.prefixlen, int(block.network_address) >> (block.max_prefixlen - block.prefixlen))
            for block in networks}


def main_defaults(secondaries: Sequence[Eni], primary_devs: Set[str], numbers: Dict[str, Numbers], main: MainTable,
                  config: Config) -> List[Route]:
    """A default route in main for each secondary to which the operating system gave none, worse than the primary's.

    Some systems (Ubuntu 16, wicked) make none for a second interface; then nothing is reachable from its device. Where
    main has no better one of somebody else's there is none by a secondary either: the host's own way is in another
    table, is still to come, or is not wanted.
    """
    found: List[Route] = []
    for eni in secondaries:
        for subnet in eni.interface.subnets:
            version = subnet.version
            others = [seen.route for seen in main.defaults
                      if seen.route.version == version and not (main.is_own(seen) and seen.route.devs() == (eni.dev,))]
            if any(eni.dev in route.devs() for route in others) or main.elsewhere(subnet.gateway, eni.dev):
                continue
            taken = {route.metric for route in others} | {route.metric for route in found if route.version == version}
            metric = max(main.metric(version, primary_devs), config.metric_least) \
                + config.metric_step * numbers[eni.dev].order
            while metric in taken:
                metric += 1
            if metric >= UNREACHABLE_METRIC or not main.has_better(version, metric):
                continue  # the primary's is the worst there is, so that nothing can be worse, or there is none
            found.append(Route(MAIN, EVERYWHERE[version], (Hop(eni.dev, subnet.gateway),), metric=metric))
    return found


def _primary_default(eni: Eni, table: int, secondary_devs: Set[str], added: Sequence[Route], main: MainTable
                     ) -> List[Route]:
    """The primary's own default, where main's best one goes by a secondary: its sources must not follow that.

    Two IPv6 defaults of one metric (router advertisements on both links) share the traffic; so does a multipath one.
    """
    routes = []
    for subnet in eni.interface.subnets:
        defaults = [seen.route for seen in main.defaults
                    if not (main.is_own(seen) and secondary_devs.issuperset(seen.route.devs()))] + list(added)
        defaults = [route for route in defaults if route.version == subnet.version]
        best = min((route.metric for route in defaults), default=0)
        if any(secondary_devs.intersection(route.devs()) for route in defaults if route.metric == best):
            routes.append(Route(table, EVERYWHERE[subnet.version], (Hop(eni.dev, subnet.gateway),),
                                metric=_METRIC[subnet.version]))
    return routes


def _rules(eni: Eni, table: int, sources: List[Network], versions: Set[int], early: bool, config: Config) -> List[Rule]:
    """What leads an ENI's packets to its table.

    ``early``: without an interface group main's specific routes can't be told apart, so that the table's own specific
    ones must come before them.
    """
    rules: List[Rule] = []
    for src in sources:
        version = src.version
        if version not in versions:
            continue
        if early:
            rules.append(Rule(version, config.priority_early, src, table=table, suppress_prefixlength=0))
        if eni.primary:
            rules.append(Rule(version, config.priority_primary, src, table=table))
            continue
        whole = src.prefixlen == src.max_prefixlen
        priority = config.priority_address if whole else config.priority_prefix
        rules.append(Rule(version, priority, src, table=table))
        if version == 6:
            rules.append(Rule(version, config.priority_fence, src, action="unreachable"))
    if not eni.primary:
        rules += [Rule(subnet.version, config.priority_device, oif=eni.dev, table=table)
                  for subnet in eni.interface.subnets]
    return rules


def _kept(
    enis: Sequence[Eni], unfit: Sequence[Unfit], left: Sequence[Left], sources: Dict[str, List[Network]],
    snapshot: Snapshot, on_link: Dict[str, List[LinkAddress]], memory: Memory
) -> Tuple[FrozenSet[int], List[str], List[str]]:
    """Tables of ours that must stay as they are, devices that metadata no longer lists, and what to say of those.

    An ENI's things go only when a complete list lacks it *and* its link is gone. Where a listed ENI can't be found in
    the kernel at all, anything that nobody claims may be its own, so all of that stays.
    """
    kept: Set[int] = set()
    remarks: List[str] = []
    gone: List[str] = []
    lost = False
    for member in unfit:
        own = [network_of(address) for subnet in member.subnets for address in subnet.addresses]
        own += [network_of(held.address) for held in on_link.get(member.dev, ())]
        tables = memory.tables_of(member.dev, own)
        kept.update(tables)
        lost = lost or not (tables or member.dev)
    listed = {eni.dev for eni in enis} | {eni.link.name for eni in enis} | {member.dev for member in unfit}
    listed.update(dev for member in left for dev in member.devs)
    for link in possible(snapshot.links):
        if link.name in listed:
            continue
        own = [network_of(held.address) for held in on_link.get(link.name, ())]
        tables = memory.tables_of(link.name, own, by_name=False)
        if tables:
            kept.update(tables)
            gone.append(link.name)
            remarks.append("{} ({}): metadata does not list it any more; what was set up for it stays until the link "
                           "goes".format(link.name, link.mac))
    claimed = {table for eni in enis for table in memory.tables_of(eni.dev, sources[eni.dev])}
    if lost:
        left_tables = {table for member in left for dev in member.devs or ("",)
                       for table in memory.tables_of(dev, member.sources)}
        kept |= memory.tables() - left_tables - {MAIN}
    return frozenset(kept - claimed), gone, remarks

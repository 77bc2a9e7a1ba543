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

from typing import Dict, FrozenSet, List, NamedTuple, Sequence, Set, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.access import policy
from eni_bootstrap.desired.cni import at_parents, children, leave_contained
from eni_bootstrap.desired.connmark import Marked, mark_rules, marked
from eni_bootstrap.desired.links import Unaddressed, link_changes, link_groups, link_settings
from eni_bootstrap.desired.main_table import MainTable
from eni_bootstrap.desired.matching import pair, possible
from eni_bootstrap.desired.routes import (
    eni_routes, first_of_each_key, local_prefixes, main_defaults, primary_default, via_own_gateway, vswitch_routes,
)
from eni_bootstrap.desired.rules import eni_rules
from eni_bootstrap.desired.selection import leave_admin_down, leave_ignored, leave_out_ipv6, left_text
from eni_bootstrap.desired.sources import add_configured_sources, all_sources, on_link_addresses
from eni_bootstrap.desired.tables import Memory, Numbers, assign
from eni_bootstrap.desired.validation import refuse_stealing
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.eni import Eni, Listing, SkippedEni, UnreadyEni
from eni_bootstrap.model.host import ContainerNetwork
from eni_bootstrap.model.kernel import (
    LOCAL, MAIN, LinkAddress, LinkGroup, LinkSetting, LinkUp, Network, Route, Rule, Snapshot, network_of,
)

_NAMED = 3
"""So many of a user's routes fit into one remark that can be read."""


class Decision(NamedTuple):
    """What should be, and what stays out of it."""

    enis: Tuple[Eni, ...]
    unready: Tuple[UnreadyEni, ...]
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
    listing: Listing, snapshot: Snapshot, made: Record, address_wait_expired: FrozenSet[Tuple[str, int]], config: Config,
    networks: Sequence[ContainerNetwork] = (),
) -> Decision:
    """The whole decision.

    ``address_wait_expired`` has the (device, IP version) that no DHCP client has addressed for long enough; ``networks`` are
    the container networks that are configured here.
    """
    fit, unready = pair(listing, snapshot.links)
    enis, thieves = refuse_stealing(fit, unready, snapshot.addresses)
    enis, without, switched_off = leave_out_ipv6(enis, snapshot.links)
    unready += thieves + without
    memory = Memory(snapshot, config)
    enis, unready, left = leave_ignored(enis, unready, config.ignore, config.only)
    if config.container_networks == "leave":
        enis, unready, contained = leave_contained(
            enis, unready, snapshot.links, snapshot.addresses, memory, networks)
        left += contained
    if config.unattended:
        enis, admin_down = leave_admin_down(enis, snapshot.links, made.ups | made.seen_up)
        unready += admin_down
    main = MainTable(snapshot, config)
    on_link = on_link_addresses(snapshot.addresses)
    behind = on_link_addresses(at_parents(snapshot.links, snapshot.addresses))
    sources = {eni.dev: all_sources(eni, behind, listing) for eni in enis}
    problems = add_configured_sources(sources, enis, config)

    kept_tables, gone_devs, remarks = _kept(enis, unready, left, sources, snapshot, behind, memory)
    remarks += left_text(enis, left, config.ignore)

    def base_routes(eni: Eni, table: int) -> List[Route]:
        if eni.primary and config.primary != "full":
            return vswitch_routes(eni, table, main)
        return [route for route in eni_routes(eni, table, main) if route.hops or not eni.primary]

    numbers, displaced, failed = assign(enis, sources, base_routes, kept_tables, memory, config)
    remarks += switched_off + displaced
    remarks += ["{}: {}".format(member.label, member.reason) for member in unready if member.admin_down]
    with_spare_tables = bool(displaced or failed)
    unready += [eni.unready(reason) for eni, reason in failed]
    enis = [eni for eni in enis if eni.dev in numbers]

    secondaries = [eni for eni in enis if not eni.primary]
    kept_rules = {rule for rule in memory.own_rules if rule.table in kept_tables}
    versions = {subnet.version for eni in secondaries for subnet in eni.interface.subnets}
    versions |= {rule.version for rule in kept_rules if rule.table != config.table_primary}
    kept_devs = frozenset(gone_devs) | {member.dev for member in unready if member.dev}
    ours = kept_devs.union(*(eni.devs for eni in enis))
    outline = Decision(
        tuple(enis), tuple(member for member in unready if not member.admin_down), numbers, tuple(remarks), unaddressed=(),
        sources=sources, displaced=with_spare_tables,
        kept_tables=kept_tables.union([LOCAL] if config.prefixes == "local" and (unready or kept_tables) else []),
        kept_devs=kept_devs, left=frozenset(dev for member in left for dev in member.devs) - ours,
        used=frozenset(dev for member in left for dev in member.devs if member.used) - ours,
        children=frozenset(link.name for link in children(snapshot.links, ours)))
    ups, addresses, dropped, unaddressed, said = link_changes(enis, on_link, snapshot, made, address_wait_expired, config)
    remarks += said
    if config.entries:
        versions |= {subnet.version for eni in enis for subnet in eni.interface.subnets}
    settings, said = link_settings(enis, config)
    problems += said
    outline = outline._replace(settings=tuple(settings))
    own_prefixes = [local_prefix for eni in enis for local_prefix in local_prefixes(eni)] if config.prefixes == "local" else []
    if not versions:
        return outline._replace(remarks=tuple(remarks), addresses=tuple(addresses), dropped_addresses=tuple(dropped),
                                routes=tuple(own_prefixes), problems=tuple(problems))

    groups, without_group = link_groups(enis, unready, snapshot, config)
    if without_group:
        remarks.append(without_group)
    primary_devs = {eni.dev for eni in enis if eni.primary} | {member.dev for member in unready if member.primary}
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
            own += via_own_gateway(eni, table, others, secondary_devs, copies.routes, main)
            own += copies.routes if config.primary == "full" else primary_default(
                eni, table, secondary_devs, defaults, main)
            own = [route for route in own if route.version in versions]
        else:
            own += copies.routes
            if not groups:
                own += via_own_gateway(eni, table, others, {other.dev for other in others} | outline.kept_devs,
                                list(copies.closed), main)
        if copies.left_out and (config.primary == "full" or not eni.primary):
            remarks.append("{}: more than {} routes of yours go by it; the rest is not copied into table {} and "
                           "does not hold for its addresses".format(eni.label, config.copies, table))
        if copies.closed:
            there = set(own)
            remarks += _closed_text(eni, table, [route for fence, route in copies.closed.items() if fence in there])
        routes += first_of_each_key(own)
        rules += eni_rules(eni, table, sources[eni.dev], versions, without_ifgroup=not groups, config=config)
    kept = {member.dev: memory.tables_of(member.dev, []) for member in unready}
    tables = {dev: own.table for dev, own in numbers.items()}
    members: List[Marked] = []
    if config.connection_marks:
        members, unmarked = marked(enis, unready, tables, kept, versions, config)
        rules += mark_rules(members, config)
        problems += unmarked
    if config.entries or config.spreads:
        asked = policy(enis, unready, tables, kept, sources, snapshot.working, versions, config)
        rules += asked.rules
        routes += asked.routes
        remarks += asked.remarks
        problems += asked.problems
    return outline._replace(
        problems=tuple(problems), marked=tuple(members),
        remarks=tuple(remarks), unaddressed=tuple(unaddressed), ups=tuple(ups), groups=tuple(groups),
        addresses=tuple(addresses), dropped_addresses=tuple(dropped), routes=tuple(routes + defaults + own_prefixes),
        rules=tuple(rules),
    )


def _closed_text(eni: Eni, table: int, routes: Sequence[Route]) -> List[str]:
    more = len(routes) - _NAMED
    return ["{}: table {} can't have a copy of {}{}: it refuses what the ENI's addresses send there, unless you put a "
            "route of your own into it".format(eni.label, table, ", ".join(map(str, routes[:_NAMED])),
                                               " and of {} more".format(more) if more > 0 else "")] if routes else []


def _kept(
    enis: Sequence[Eni], unready: Sequence[UnreadyEni], left: Sequence[SkippedEni], sources: Dict[str, List[Network]],
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
    for member in unready:
        own = [network_of(address) for subnet in member.subnets for address in subnet.addresses]
        own += [network_of(held.address) for held in on_link.get(member.dev, ())]
        tables = memory.tables_of(member.dev, own)
        kept.update(tables)
        lost = lost or not (tables or member.dev)
    listed = {eni.dev for eni in enis} | {eni.link.name for eni in enis} | {member.dev for member in unready}
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

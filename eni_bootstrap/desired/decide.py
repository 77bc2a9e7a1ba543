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

from typing import AbstractSet, FrozenSet, Iterable, List, NamedTuple, Sequence, Set, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.access import Policy, policy
from eni_bootstrap.desired.cni import at_parents, children
from eni_bootstrap.desired.connmark import Marked, mark_rules, marked
from eni_bootstrap.desired.egress import Egress, egresses
from eni_bootstrap.desired.kept import Kept, kept
from eni_bootstrap.desired.links import LinkChanges, link_changes, link_groups, link_settings
from eni_bootstrap.desired.main_table import MainTable
from eni_bootstrap.desired.routes import (
    family_routes, first_of_each_key, local_prefixes, main_defaults, primary_default, via_own_gateway,
)
from eni_bootstrap.desired.rules import family_rules, main_rule
from eni_bootstrap.desired.selection import Selection, select
from eni_bootstrap.desired.sources import with_configured_sources, with_sources
from eni_bootstrap.desired.tables import Memory, assign, natural_numbers
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model import finding
from eni_bootstrap.model.eni import Eni, EniFamily, Listing, UnreadyEni
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.host import ContainerNetwork
from eni_bootstrap.model.kernel import (
    LOCAL, LinkAddress, LinkGroup, LinkSetting, LinkUp, Network, Route, Rule, Snapshot,
)

_NAMED = 3
"""Maximum routes of the user that one remark names: more of them can't be read."""


class Decision(NamedTuple):
    """What the kernel should hold, and what stays out of it."""

    enis: Tuple[Eni, ...] = ()
    """ENIs that are set up, the primary first; maybe in one of their address families only."""
    families: Tuple[EniFamily, ...] = ()
    """The address families of these ENIs that are set up."""
    unready: Tuple[UnreadyEni, ...] = ()
    findings: Tuple[Finding, ...] = ()
    """What an operator should know, but for what is said of those that are unready or unaddressed."""
    unaddressed: Tuple[EniFamily, ...] = ()
    """ENI families that carry no address yet, and that somebody else may still address."""
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
    kept_tables: FrozenSet[Tuple[int, int]] = frozenset()
    """(table, IP version) pairs in which our routes and rules stay as they are: their ENI can't be looked after now."""
    kept_families: FrozenSet[Tuple[str, int]] = frozenset()
    """(device, IP version) pairs of these ENIs."""
    ways: Tuple[Egress, ...] = ()
    """The egresses by which packets can be sent; an ENI that can't be set up now, and was before, has one, too."""
    marked: Tuple[Marked, ...] = ()
    """The ENIs whose connections are marked."""
    skipped: FrozenSet[str] = frozenset()
    """Devices of ENIs that are left alone."""
    used: FrozenSet[str] = frozenset()
    """Those of the skipped devices that somebody else uses."""
    children: FrozenSet[str] = frozenset()
    """Macvlans and the like on the ENIs' devices: the addresses that they carry are the ENIs', too."""

    @property
    def problems(self) -> Tuple[str, ...]:
        """What the configuration asks for and can't be had."""
        return finding.errors(self.findings)

    @property
    def remarks(self) -> Tuple[str, ...]:
        """What an operator should know although nothing is wrong."""
        return finding.remarks(self.findings)

    @property
    def kept_devs(self) -> FrozenSet[str]:
        return frozenset(dev for dev, _ in self.kept_families)

    @property
    def untouched_devs(self) -> FrozenSet[str]:
        """Devices of which no address family is set up."""
        return self.kept_devs.difference(eni.dev for eni in self.enis)

    def table_of(self, dev: str) -> int:
        """The routing table of the ENI with this device; 0: none."""
        return next((family.table for family in self.families if family.dev == dev), 0)

    def sources_of(self, dev: str) -> List[Network]:
        """The sources of the ENI with this device: IPv4, then IPv6."""
        return [source for family in self.families if family.dev == dev for source in family.sources]


def decide(
    listing: Listing, snapshot: Snapshot, record: Record, address_wait_expired: AbstractSet[Tuple[str, int]],
    config: Config, networks: Sequence[ContainerNetwork] = (),
) -> Decision:
    """Decide what the kernel should hold.

    ``address_wait_expired``: (device, IP version) pairs that no DHCP client has addressed in time. ``networks``: the
    container networks that are configured on this host.
    """
    memory, main = Memory(snapshot, config), MainTable(snapshot, config)
    chosen = select(listing, snapshot, record, memory, networks, config)
    found, unknown = with_configured_sources(
        with_sources(chosen.enis, at_parents(snapshot.links, snapshot.addresses), listing), chosen.enis, config)
    spared = kept(chosen, found, snapshot, memory)
    assigned = assign(found, natural_numbers(chosen.secondaries), spared.others_tables(found, memory), memory, main,
                      config)
    families = assigned.families
    chosen = chosen._replace(
        enis=tuple(eni for eni in chosen.enis if eni.dev in {family.dev for family in families}),
        unready=chosen.unready + assigned.failed)
    spared = kept(chosen, families, snapshot, memory) if assigned.failed else spared
    links = link_changes(families, snapshot, record, address_wait_expired, config)
    settings, unsettled = link_settings(chosen.enis, config)
    prefixes = [route for family in families for route in local_prefixes(family)] \
        if config.prefixes == "local" else []
    decision = _outline(chosen, families, spared, links, config)._replace(
        children=frozenset(link.name for link in children(snapshot.links, _own_devs(chosen, spared))),
        settings=tuple(settings), displaced=assigned.displaced, routes=tuple(prefixes),
        findings=(*unknown, *unsettled, *spared.findings, *chosen.findings, *assigned.findings, *links.findings))
    versions = _versions(families, spared, memory, config)
    if not versions:  # one ENI: nothing is installed
        return decision._replace(ups=(), unaddressed=())
    groups, without_group = link_groups(chosen.enis, chosen.unready, snapshot, config)
    tables = _tables(decision, versions, bool(groups), main, config)
    ways = egresses(families, chosen.unready, spared.tables_of, memory)
    members, unmarked = marked(ways, versions, config) if config.connection_marks else ([], [])
    asked = policy(families, ways, snapshot.working, versions, config) \
        if config.entries or config.spreads else Policy([], [], [])
    return decision._replace(
        groups=tuple(groups), ways=tuple(ways), marked=tuple(members),
        routes=(*tables.routes, *asked.routes, *decision.routes),
        rules=(*tables.rules, *mark_rules(members, config), *asked.rules),
        findings=(*decision.findings, *without_group, *tables.findings, *unmarked, *asked.findings))


def _outline(chosen: Selection, families: Sequence[EniFamily], spared: Kept, links: LinkChanges, config: Config
             ) -> Decision:
    """The part of the decision that needs no routing table: ENIs, links, addresses, what is kept or skipped."""
    own = _own_devs(chosen, spared)
    whole = config.prefixes != "local" or not (chosen.unready or spared.tables)
    return Decision(
        chosen.enis, tuple(families), tuple(member for member in chosen.unready if not member.admin_down),
        unaddressed=links.unaddressed, ups=links.ups, addresses=links.addresses, dropped_addresses=links.dropped,
        kept_tables=spared.tables if whole else spared.tables | {(LOCAL, 4), (LOCAL, 6)}, kept_families=spared.devs,
        skipped=frozenset(dev for member in chosen.skipped for dev in member.devs) - own,
        used=frozenset(dev for member in chosen.skipped for dev in member.devs if member.used) - own)


def _own_devs(chosen: Selection, spared: Kept) -> Set[str]:
    """The devices of all ENIs but the skipped ones."""
    return {dev for dev, _ in spared.devs}.union(*(eni.devs for eni in chosen.enis))


def _versions(families: Iterable[EniFamily], spared: Kept, memory: Memory, config: Config) -> Set[int]:
    """The IP versions that need rules: those of secondaries; with access entries those of all ENIs."""
    found = {family.version for family in families if not family.primary or config.entries}
    return found | {rule.version for rule in memory.own_rules
                    if (rule.table, rule.version) in spared.tables and rule.table != config.table_primary}


class _Tables(NamedTuple):
    """The routes of the ENIs' tables and of main, and the rules that lead there."""

    routes: List[Route]
    rules: List[Rule]
    findings: List[Finding]


def _tables(decision: Decision, versions: AbstractSet[int], with_ifgroup: bool, main: MainTable, config: Config
            ) -> _Tables:
    """The routes and rules of all ENIs, of these IP versions only."""
    families = [family for family in decision.families if family.version in versions]
    primary_devs = {eni.dev for eni in decision.enis if eni.primary}
    primary_devs |= {member.dev for member in decision.unready if member.primary}
    secondary_devs = decision.kept_devs.union(family.dev for family in decision.families) - primary_devs
    defaults = main_defaults(families, primary_devs, main, config)
    found = _Tables([], [main_rule(version, with_ifgroup, config) for version in sorted(versions)], [])
    for family in families:
        own = family_routes(family, main, config)
        vswitches = [each.vswitch for each in families if each.eni is not family.eni]
        vswitches += [vswitch for member in decision.unready if member.dev and member.dev != family.dev
                      for vswitch in member.vswitches]
        copies = main.copies(family, config.copies)
        if family.primary:
            own += via_own_gateway(family, vswitches, secondary_devs, copies.routes, main)
            own += copies.routes if config.primary == "full" else primary_default(
                family, secondary_devs, defaults, main)
        else:
            own += copies.routes
            if not with_ifgroup:
                others = decision.kept_devs.union(each.dev for each in families) - {family.dev}
                own += via_own_gateway(family, vswitches, others, list(copies.closed), main)
        if copies.left_out and (config.primary == "full" or not family.primary):
            found.findings.append(Finding.remark(
                "routes-left-out", "more than {} routes of yours go by it, and the rest is not copied into table {}, "
                "so that it does not hold for its addresses".format(config.copies, family.table), eni=family.label))
        there = set(own) if copies.closed else set()
        found.findings.extend(_closed(family, [route for fence, route in copies.closed.items() if fence in there]))
        found.routes.extend(first_of_each_key(own))
        found.rules.extend(family_rules(family, with_ifgroup, config))
    found.routes.extend(defaults)
    return found._replace(findings=list(dict.fromkeys(found.findings)))


def _closed(family: EniFamily, routes: Sequence[Route]) -> List[Finding]:
    more = len(routes) - _NAMED
    return [Finding.remark(
        "route-not-copied", "table {} can't have a copy of a route of yours, and refuses what the ENI's addresses "
        "send there".format(family.table), "put a route of your own into the table", family.label, family.version,
        ", ".join(map(str, routes[:_NAMED])) + (" and {} more".format(more) if more > 0 else ""))] if routes else []

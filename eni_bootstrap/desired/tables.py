"""Which routing table is whose. PURE.

The kernel is the memory: an ENI keeps the table that our routes through its device are in, else the one that our rules
for its sources lead to (a link that went down has lost its routes and kept its rules), else for its device: a device's
name may have become another ENI's meanwhile, an address is its owner's. A fresh ENI gets its natural id, 1000 + n;
where somebody else uses that one, the lowest id from 1100 that nobody uses. Never the order in the metadata, never the
ifindex: both change when an ENI is bound.
"""

import re
from collections import defaultdict
from typing import Callable, Dict, FrozenSet, Iterable, List, NamedTuple, Sequence, Set, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.eni import Eni
from eni_bootstrap.model.kernel import LOCAL, Network, Route, Rule, Snapshot


class Memory:
    """What the kernel remembers of earlier runs, and what in it is other people's."""

    def __init__(self, snapshot: Snapshot, config: Config) -> None:
        self._by_route: Dict[str, Set[int]] = defaultdict(set)
        self._by_device_rule: Dict[str, Set[int]] = defaultdict(set)
        self._by_source: Dict[Network, Set[int]] = defaultdict(set)
        self.own_routes: Dict[Route, None] = {}
        self.own_rules: Dict[Rule, None] = {}
        """Each once, in the kernel's order."""
        self.foreign_routes: Dict[int, List[Route]] = defaultdict(list)
        self.foreign_rules: Dict[int, List[Rule]] = defaultdict(list)
        for route, protocol, _ in snapshot.routes:
            if not config.owns_route(route, protocol):
                self.foreign_routes[route.table].append(route)
                continue
            self.own_routes[route] = None
            for dev in route.devs() if route.table not in (config.table_spread, LOCAL) else ():
                self._by_route[dev].add(route.table)
        for rule, protocol in snapshot.rules:
            if not config.owns_rule(rule, protocol):
                self.foreign_rules[rule.table].append(rule)
                continue
            self.own_rules[rule] = None
            if rule.oif:
                self._by_device_rule[rule.oif].add(rule.table)
            elif rule.src is not None and rule.action == "lookup":
                self._by_source[rule.src].add(rule.table)

    def tables_of(self, dev: str, sources: Iterable[Network], by_name: bool = True) -> List[int]:
        """The tables of ours that belong to an ENI: by its routes, else by its sources, else by its device's name."""
        if self._by_route.get(dev):
            return sorted(self._by_route[dev])
        found: Set[int] = set()
        for source in sources:
            found |= self._by_source.get(source, set())
        if not found and by_name:
            found = self._by_device_rule.get(dev, found)
        return sorted(found)

    def tables(self) -> Set[int]:
        """All tables that something of ours is in or leads to."""
        found = {route.table for route in self.own_routes} - {LOCAL}
        return found | {rule.table for rule in self.own_rules if rule.action == "lookup"}


class Numbers(NamedTuple):
    """The numbers of one ENI."""

    table: int
    order: int
    """n of the default route's metric: 1 for eth1."""


def orders(secondaries: Sequence[Eni]) -> Dict[str, int]:
    """n of each secondary by its device: the number in eth<n>, up to 99, else the position in natural order, from 1.

    ``secondaries`` are in natural order.
    """
    found = {}
    for position, eni in enumerate(secondaries, start=1):
        named = re.match(r"eth([1-9][0-9]?)$", eni.link.name)
        found[eni.dev] = int(named.group(1)) if named else position
    return found


def wanted(enis: Sequence[Eni], with_spare_tables: bool, config: Config) -> Set[int]:
    """The ids that ``assign`` wants to look into: the natural ones, and when those are not free the spare ones."""
    ids = {config.table_primary + n for n in orders([eni for eni in enis if not eni.primary]).values()}
    ids.add(config.table_primary)
    if with_spare_tables:
        ids.update(_spare(enis, config))
    return {table for table in ids if config.owns_table(table)}


def _spare(enis: Sequence[Eni], config: Config) -> range:
    """Ids for displaced ENIs: as many as there are ENIs, and as many again that others may hold."""
    return range(config.table_displaced, config.table_displaced + 2 * len(enis))


def assign(
    enis: Sequence[Eni],
    sources: Dict[str, List[Network]],
    base_routes: Callable[[Eni, int], List[Route]],
    kept: FrozenSet[int],
    memory: Memory,
    config: Config,
) -> Tuple[Dict[str, Numbers], List[str], List[Tuple[Eni, str]]]:
    """A table for each ENI.

    ``sources`` has each device's sources; ``base_routes`` tells what an ENI would put into a table; ``kept`` are the
    tables of ENIs that must stay as they are. Returns the numbers by device, remarks, and the ENIs that got none.
    """
    secondaries = [eni for eni in enis if not eni.primary]
    order = orders(secondaries)
    home = {eni.dev: config.table_primary + order.get(eni.dev, 0) for eni in enis}
    taken = set(kept)
    given: Dict[str, int] = {}
    reasons: Dict[str, str] = {}
    remarks: List[str] = []

    def trouble(eni: Eni, table: int, fresh: bool) -> str:
        return _trouble(eni, table, set(sources[eni.dev]), base_routes(eni, table), memory, fresh)

    def give(eni: Eni, table: int) -> None:
        given[eni.dev] = table
        taken.add(table)

    # Those who have one keep it; the natural owner first.
    claims = [(table != home[eni.dev], place, table, eni)
              for place, eni in enumerate(enis) for table in memory.tables_of(eni.dev, sources[eni.dev])]
    for _, _, table, eni in sorted(claims, key=lambda claim: claim[:3]):
        if eni.dev not in given and table not in taken and not trouble(eni, table, fresh=False):
            give(eni, table)

    displaced: List[Eni] = []
    for eni in sorted(enis, key=lambda eni: not eni.link.name.startswith("eth")):  # eth1's 1001 is eth1's
        if eni.dev in given:
            continue
        table = home[eni.dev]
        reason = "it is taken by another ENI" if table in taken else trouble(eni, table, table not in memory.tables())
        if not reason and table < config.table_displaced:
            give(eni, table)
            continue
        displaced.append(eni)
        reasons[eni.dev] = "table {} is not free: {}".format(table, reason or "it is out of range")

    used = set(memory.foreign_routes) | set(memory.foreign_rules) | memory.tables()
    failed = []
    for eni in displaced:
        free = (table for table in _spare(enis, config)
                if table not in taken and table not in used and config.owns_table(table))
        table = next(free, 0)
        if table:
            give(eni, table)
            remarks.append("{}: {}; table {} instead".format(eni.label, reasons[eni.dev], table))
        else:
            failed.append((eni, "{}; none from {} on is".format(reasons[eni.dev], config.table_displaced)))
    return {dev: Numbers(table, order.get(dev, 0)) for dev, table in given.items()}, remarks, failed


def _trouble(eni: Eni, table: int, sources: Set[Network], ours: List[Route], memory: Memory, fresh: bool) -> str:
    """Why a table is somebody else's, or "".

    What goes through this very ENI by its own gateway (the vendor's page, the user's additions) is compatible.
    A rule that leads others to a table of ours was made after ours, on purpose; one that leads them to a table that we
    have not used yet belongs to the table's owner.
    """
    by_key = {route.key: route for route in ours}
    defaults = {route.dst: route for route in ours if route.is_default and route.hops}
    for route in memory.foreign_routes.get(table, ()):
        if route.way in ours:
            continue
        if set(route.devs()) != {eni.dev}:
            return "somebody else's route is in it: " + str(route)
        default = defaults.get(route.dst)
        if route.key in by_key or default is not None and route.hops != default.hops:
            return "somebody else's route in it contradicts ours: " + str(route)
    for rule in memory.foreign_rules.get(table, ()) if fresh else ():
        if rule.oif not in eni.devs and (rule.src is None or rule.src not in sources):
            return "somebody else's rule leads to it: " + str(rule)
    return ""

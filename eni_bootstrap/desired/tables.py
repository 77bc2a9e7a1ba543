"""Which ENI has which routing table. PURE.

The kernel is the memory. An ENI keeps the table that our routes through its device are in. Else it keeps the table to
which our rules lead its sources (a link that went down has lost its routes and kept its rules). Else it keeps the table
to which our rules lead its device: that comes last, because a device's name may be another ENI's by now, while an
address is its owner's. A new ENI gets its natural id, 1000 + n; where somebody else uses that one, the lowest id from
1100 that nobody uses. The order in the metadata and the ifindex never count: both change when an ENI is bound.
"""

import re
from collections import defaultdict
from typing import AbstractSet, Dict, Iterable, List, Mapping, NamedTuple, Sequence, Set, Tuple

from eni_bootstrap.config.own_rules import owns_route, owns_rule
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.main_table import MainTable
from eni_bootstrap.desired.routes import family_routes
from eni_bootstrap.model.eni import Eni, EniFamily, UnreadyEni
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import LOCAL, Network, Route, Rule, Snapshot, natural


class Memory:
    """A snapshot's routes and rules, sorted into ours, made by earlier runs, and those of others."""

    def __init__(self, snapshot: Snapshot, config: Config) -> None:
        self._by_route: Dict[str, Set[int]] = defaultdict(set)
        self._by_device_rule: Dict[str, Set[int]] = defaultdict(set)
        self._by_source: Dict[Network, Set[int]] = defaultdict(set)
        self.own_routes: Dict[Route, None] = {}
        self.own_rules: Dict[Rule, None] = {}
        """Each once, in the kernel's order."""
        self.set_up: Set[Tuple[int, int]] = set()
        """Table and IP version of which an ENI's own routes, or the rule for its device, are there."""
        self.foreign_routes: Dict[int, List[Route]] = defaultdict(list)
        self.foreign_rules: Dict[int, List[Rule]] = defaultdict(list)
        for route, protocol, _ in snapshot.routes:
            if not owns_route(route, protocol, config):
                self.foreign_routes[route.table].append(route)
                continue
            self.own_routes[route] = None
            for dev in route.devs() if route.table not in (config.table_spread, LOCAL) else ():
                self._by_route[dev].add(route.table)
                self.set_up.add((route.table, route.version))
        for rule, protocol in snapshot.rules:
            if not owns_rule(rule, protocol, config):
                self.foreign_rules[rule.table].append(rule)
                continue
            self.own_rules[rule] = None
            if rule.oif:
                self._by_device_rule[rule.oif].add(rule.table)
                self.set_up.add((rule.table, rule.version))
            elif rule.src is not None and rule.action == "lookup" and rule.priority < config.priority_rest:
                self._by_source[rule.src].add(rule.table)

    def tables_of(self, dev: str, sources: Iterable[Network], by_name: bool = True) -> List[int]:
        """Our tables that belong to an ENI, sorted: by its routes, else by its sources, else by its device's name."""
        if self._by_route.get(dev):
            return sorted(self._by_route[dev])
        found: Set[int] = set()
        for source in sources:
            found |= self._by_source.get(source, set())
        if not found and by_name:
            found = self._by_device_rule.get(dev, found)
        return sorted(found)

    def led_to(self, table: int) -> Set[Network]:
        """The sources that an ENI's own rules lead to a table: what an access entry sends there is not the ENI's."""
        return {source for source, tables in self._by_source.items() if table in tables}

    def tables(self) -> Set[int]:
        """All tables that hold a route of ours or that a rule of ours leads to."""
        found = {route.table for route in self.own_routes} - {LOCAL}
        return found | {rule.table for rule in self.own_rules if rule.action == "lookup"}


class Assignment(NamedTuple):
    """Which ENI has which table and number."""

    families: Tuple[EniFamily, ...]
    """Those of the ENIs that have got a table, with it."""
    failed: Tuple[UnreadyEni, ...] = ()
    """The ENIs that have got none."""
    findings: Tuple[Finding, ...] = ()

    @property
    def displaced(self) -> bool:
        """Whether somebody else uses an ENI's natural table."""
        return bool(self.failed or self.findings)


def natural_numbers(links: Mapping[str, str]) -> Dict[str, int]:
    """Device -> n of each secondary: the number in eth<n>, up to 99, else the position in natural order, from 1.

    ``links``: device -> name of the ENI's own link, of all listed secondaries that have a link and are not ignored. A
    sick ENI counts: no ENI's number depends on another one's health.
    """
    found = {}
    for position, dev in enumerate(sorted(links, key=lambda dev: natural(links[dev])), start=1):
        named = re.match(r"eth([1-9][0-9]?)$", links[dev])
        found[dev] = int(named.group(1)) if named else position
    return found


def tables_to_read(links: Sequence[str], with_spare_tables: bool, config: Config) -> Set[int]:
    """The ids of the tables that ``assign`` may look into: the natural ones, and if asked the spare ones, too.

    ``links``: the names of all listed secondaries' links, also of ignored ones.
    """
    ids = {config.table_primary + n for n in natural_numbers({name: name for name in links}).values()}
    ids.update(range(config.table_primary, config.table_primary + len(links)))
    if with_spare_tables:
        ids.update(_spare(len(links), config))
    return {table for table in ids if config.owns_table(table)}


def _spare(count: int, config: Config) -> range:
    """The spare ids, for displaced ENIs: one for each ENI, and as many again that others may hold."""
    return range(config.table_displaced, config.table_displaced + 2 * count)


def assign(families: Sequence[EniFamily], numbers: Mapping[str, int], kept: AbstractSet[int], memory: Memory,
           main: MainTable, config: Config) -> Assignment:
    """Give each ENI a table: the one that it has, else its natural one, else the lowest spare one.

    ``numbers``: from ``natural_numbers``. ``kept``: tables of ENIs that must stay as they are.
    """
    search = _TableSearch(families, numbers, kept, memory, main, config)
    search.keep()
    displaced = search.give_natural()
    return search.give_spare(displaced)


class _TableSearch:
    """The tables that are given so far, to which ENI, and those that are taken."""

    def __init__(self, families: Sequence[EniFamily], numbers: Mapping[str, int], kept: AbstractSet[int],
                 memory: Memory, main: MainTable, config: Config) -> None:
        self._families, self._memory, self._main, self._config = families, memory, main, config
        self._numbers = numbers
        self._enis = list({family.dev: family.eni for family in families}.values())
        self._taken = set(kept)
        self._given: Dict[str, int] = {}

    def keep(self) -> None:
        """Let each ENI keep the table that it has; where two ENIs have one table, its natural owner keeps it."""
        claims = [(table != self._natural(eni), place, table, eni) for place, eni in enumerate(self._enis)
                  for table in self._memory.tables_of(eni.dev, self._sources(eni))]
        for _, _, table, eni in sorted(claims, key=lambda claim: claim[:3]):
            if eni.dev not in self._given and table not in self._taken and not self._trouble(eni, table, fresh=False):
                self._give(eni, table)

    def give_natural(self) -> Dict[str, str]:
        """Give the other ENIs their natural tables. Returns device -> why not, of the ENIs that are displaced."""
        displaced = {}
        for eni in sorted(self._enis, key=lambda eni: not eni.link.name.startswith("eth")):  # eth1's 1001 is eth1's
            if eni.dev in self._given:
                continue
            table = self._natural(eni)
            reason = "it is taken by another ENI" if table in self._taken else self._trouble(
                eni, table, table not in self._memory.tables())
            if not reason and table < self._config.table_displaced:
                self._give(eni, table)
            else:
                displaced[eni.dev] = "table {} is not free: {}".format(table, reason or "it is out of range")
        return displaced

    def give_spare(self, displaced: Mapping[str, str]) -> Assignment:
        """Give the displaced ENIs spare tables. Returns the whole assignment."""
        memory, config = self._memory, self._config
        used = set(memory.foreign_routes) | set(memory.foreign_rules) | memory.tables()
        findings, failed = [], []
        for eni in [eni for eni in self._enis if eni.dev in displaced]:
            table = next((table for table in _spare(len(self._enis), config) if table not in self._taken
                          and table not in used and config.owns_table(table)), 0)
            if table:
                self._give(eni, table)
                findings.append(Finding.remark("table-taken", "{}; table {} instead".format(displaced[eni.dev], table),
                                               eni=eni.label))
            else:
                failed.append(eni.unready("{}; none from {} on is".format(displaced[eni.dev], config.table_displaced)))
        return Assignment(tuple(
            family._replace(table=self._given[family.dev], number=self._number(family.dev))
            for family in self._families if family.dev in self._given), tuple(failed), tuple(findings))

    def _number(self, dev: str) -> int:
        """The ENI's number. It follows the table: an ENI that keeps its table keeps its metric in main, too."""
        table, config = self._given[dev], self._config
        return table - config.table_primary if table < config.table_displaced else self._numbers.get(dev, 0)

    def _natural(self, eni: Eni) -> int:
        return self._config.table_primary + self._numbers.get(eni.dev, 0)

    def _sources(self, eni: Eni) -> List[Network]:
        return [source for family in self._families if family.eni is eni for source in family.sources]

    def _give(self, eni: Eni, table: int) -> None:
        self._given[eni.dev] = table
        self._taken.add(table)

    def _trouble(self, eni: Eni, table: int, fresh: bool) -> str:
        ours = [route for family in self._families if family.eni is eni
                for route in family_routes(family._replace(table=table), self._main, self._config)]
        return _trouble(eni, table, set(self._sources(eni)), ours, self._memory, fresh)


def _trouble(eni: Eni, table: int, sources: Set[Network], ours: List[Route], memory: Memory, fresh: bool) -> str:
    """Why a table is somebody else's, or "". ``fresh``: we have not used it yet.

    A route through this very ENI by its own gateway (the vendor's page, the user's additions) is compatible. A rule
    that leads other sources to a table of ours was made after ours, on purpose; one that leads them to a table that we
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

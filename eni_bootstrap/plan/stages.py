"""Which changes of a plan can be made now. PURE."""

from typing import Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.desired.tables import Memory
from eni_bootstrap.model.changes import Change, Item, Plan
from eni_bootstrap.model.kernel import (
    ANY, MAIN, LinkAddress, LinkGroup, LinkUp, Match, Network, Route, Rule, network_of,
)

Family = Tuple[str, int]
"""An ENI's device and an IP version."""

Selector = Tuple[int, Optional[Network], str, Match]
"""The packets that a rule catches, whatever it does with them: IP version, source, device, the rest."""


def staged(todo: Plan) -> Tuple[Plan, bool]:
    """The part of the plan that can be made at once, and whether another look is due for the rest.

    A table that is to be filled for one ENI, while old rules still lead another's sources there (links that were
    plugged in anew in other places), would send these out by the wrong ENI, if only for a moment: first those rules go.
    But a source's old rule, and the table that it leads to, goes only when its new rule is there, which leads to a
    table that is whole.
    """
    if not todo.removals:
        return todo, False
    again = {change.item for change in todo.rules}  # the same rules with another mark
    stale = {change.item.table for change in todo.removals
             if isinstance(change.item, Rule) and change.item.action == "lookup" and change.item not in again}
    contested = stale.intersection(route.table for route in _routes(todo.routes)) - {MAIN}
    waiting = {change.item.src for change in todo.rules
               if isinstance(change.item, Rule) and change.item.table in contested and change.item.src is not None}

    needed = {change.item.table for change in todo.removals
              if isinstance(change.item, Rule) and change.item.src in waiting} - {0, MAIN}

    def stays(item: Item) -> bool:
        return isinstance(item, Rule) and item.src in waiting or isinstance(item, Route) and item.table in needed

    def waits(item: Item) -> bool:
        if isinstance(item, LinkAddress):
            return network_of(item.address) in waiting
        if isinstance(item, Route) and item.is_local_prefix:
            return item.dst in waiting
        fence = isinstance(item, Rule) and item.action == "unreachable" and item.src in waiting
        return fence or isinstance(item, (Route, Rule)) and item.table in contested

    freed = any(isinstance(change.item, Rule) and change.item.table in contested and not stays(change.item)
                for change in todo.removals)
    if not freed:
        return todo, False
    return todo._replace(
        routes=_without(todo.routes, waits), rules=_without(todo.rules, waits),
        addresses=_without(todo.addresses, waits), removals=_without(todo.removals, stays)), True


class Refusals:
    """The changes that the kernel refused, or that waited because of that, and which others have to wait, too.

    Whatever is left undone, no packet may go a way that is neither its old one nor its new one:

    - a source keeps all that it has until all that is new for it stands, its address comes after its rules, and what
      jumps to a look-up or stands behind it is made with it, and goes before it;
    - a look-up is made when those asked before it stand that would take its packets, and goes before they do;
    - what rules lead to goes when they have gone: a table's routes, then its link; and so does the links' group. Where
      a link is not in its group, main's specific routes are asked as before.
    """

    def __init__(self, removals: Iterable[Change] = ()) -> None:
        """``removals``: the plan's; what they would remove can stay."""
        self.any = False
        self._selectors: Set[Selector] = set()
        self._tables: Set[Tuple[int, int]] = set()
        self._devs: Set[str] = set()
        self._grouped = self._ungrouped = False
        self._missing = _Priorities(min)
        self._staying = _Priorities(max)
        self._renewed = {_selector(change.item) for change in removals
                         if isinstance(change.item, Rule) and change.item.suppress_prefixlength is not None}

    def note(self, change: Change) -> None:
        """Record that this change is not made."""
        self.any = True
        item, away = change.item, change.verb == "remove"
        if isinstance(item, Rule):
            self._selectors.add(_selector(item))
            if item.action == "lookup" and not item.oif:  # a socket that is bound to a device leaves by no other
                (self._staying if away else self._missing).note(item)
            if away:
                self._tables.add((item.version, item.table))
                self._grouped = self._grouped or item.suppress_ifgroup is not None
        elif isinstance(item, LinkGroup):
            self._ungrouped = True
        elif away and isinstance(item, LinkAddress):
            self._selectors.add(_selector_of(network_of(item.address)))
        elif away and isinstance(item, Route):
            self._devs.update(item.devs())
            if item.is_local_prefix:
                self._selectors.add(_selector_of(item.dst))

    def concern(self, change: Change) -> bool:
        """Whether this change has to wait."""
        item, away = change.item, change.verb == "remove"
        if isinstance(item, Rule):
            own = _selector(item) in self._selectors
            if away:
                return own or item.priority < self._staying.of(item, -1)
            if item.action != "lookup":
                return own and item.action in ("goto", "unreachable")
            if item.suppress_ifgroup is not None and self._ungrouped and _selector(item) in self._renewed:
                return True
            return not item.oif and item.priority > self._missing.of(item, item.priority)
        if isinstance(item, Route):
            if item.is_local_prefix:
                return not away and _selector_of(item.dst) in self._selectors
            return away and (item.version, item.table) in self._tables
        if isinstance(item, LinkAddress):
            return not away and _selector_of(network_of(item.address)) in self._selectors
        return isinstance(item, LinkUp) and away and item.dev in self._devs or \
            isinstance(item, LinkGroup) and self._grouped


class _Priorities:
    """The first, or the last, priority of some rules by IP version: of all rules, and of those without a source."""

    def __init__(self, outermost: Callable[[int, int], int]) -> None:
        self._outermost = outermost
        self._found: Dict[Tuple[int, bool], int] = {}

    def note(self, rule: Rule) -> None:
        for key in ((rule.version, False), (rule.version, True)) if rule.src is None else ((rule.version, False),):
            self._found[key] = self._outermost(rule.priority, self._found.get(key, rule.priority))

    def of(self, rule: Rule, default: int) -> int:
        """The outermost priority of the rules that may take this rule's packets, or the default."""
        return self._found.get((rule.version, rule.src is not None), default)


def _selector(rule: Rule) -> Selector:
    return rule.version, rule.src, rule.oif, rule.match


def _selector_of(source: Network) -> Selector:
    return source.version, source, "", ANY


def families_of(routes: Iterable[Route], decision: Decision) -> Set[Family]:
    """(device, version) pairs that own these routes; main-table routes own none."""
    return {(eni.dev, route.version) for route in routes for eni in decision.enis
            if decision.table_of(eni.dev) == route.table}


def sparing(changes: Sequence[Change], spared: Set[Family], decision: Decision, memory: Memory) -> Tuple[Change, ...]:
    """The changes that touch nothing of the ``spared`` ENI families: these keep what they have.

    A source of an ENI that is well is not spared, whatever table it is led to at present.
    """
    sources: Dict[str, Set[Network]] = {eni.dev: set(decision.sources_of(eni.dev)) for eni in decision.enis}
    well = {source for dev, own in sources.items() for source in own if (dev, source.version) not in spared}
    tables = {(dev, version): set(memory.tables_of(dev, sources[dev])) | {decision.table_of(dev)}
              for dev, version in spared}

    def touches(item: Item, family: Family) -> bool:
        dev, version = family
        if isinstance(item, Rule):
            stale = item.table in tables[family] and item.src is not None and item.src not in well
            own = item.src in sources[dev] and item.table != MAIN  # the primary's keep off access entries as they are
            return item.version == version and (item.oif == dev or own or stale)
        if isinstance(item, Route):
            fence = not item.hops and item.table in tables[family]
            local_prefix = item.is_local_prefix and item.dst in sources[dev]
            return item.version == version and (dev in item.devs() or fence or local_prefix)
        return isinstance(item, LinkAddress) and family == (item.dev, item.address.version)

    return _without(changes, lambda item: any(touches(item, family) for family in spared))


def _routes(changes: Sequence[Change]) -> List[Route]:
    return [change.item for change in changes if isinstance(change.item, Route)]


def _without(changes: Sequence[Change], condition: Callable[[Item], bool]) -> Tuple[Change, ...]:
    return tuple(change for change in changes if not condition(change.item))

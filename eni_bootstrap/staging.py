"""What of a plan can be done now. PURE."""

from typing import Callable, Dict, Iterable, List, Sequence, Set, Tuple

from eni_bootstrap.model import MAIN, LinkAddress, Network, Route, Rule
from eni_bootstrap.pairing import network_of
from eni_bootstrap.plan import Change, Item, Plan
from eni_bootstrap.routing import Decision
from eni_bootstrap.tables import Memory

Family = Tuple[str, int]
"""An ENI's device and an IP version."""


def staged(todo: Plan) -> Tuple[Plan, bool]:
    """The plan as far as it goes at once, and whether another look is due for the rest.

    A table that is to be filled for one ENI while old rules still lead another's sources there (links that were plugged
    in anew in other places) would send these out by the wrong ENI, be it for a moment: first those rules go. But a
    source's old rule, and what it leads to, goes only when its new one is there, which leads to a table that is whole.
    """
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
        if isinstance(item, Route) and item.is_pool:
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


def families_of(routes: Iterable[Route], decision: Decision) -> Set[Family]:
    """Whose routes these are; those in main are nobody's condition."""
    return {(dev, route.version) for route in routes for dev, numbers in decision.numbers.items()
            if numbers.table == route.table}


def sparing(changes: Sequence[Change], spared: Set[Family], decision: Decision, memory: Memory) -> Tuple[Change, ...]:
    """The changes that touch nothing of these ENIs: what they have, they keep.

    What belongs to an ENI that is well is not spared, whatever table it is led to at present.
    """
    sources: Dict[str, Set[Network]] = {dev: set(own) for dev, own in decision.sources.items()}
    well = {source for dev, own in sources.items() for source in own if (dev, source.version) not in spared}
    tables = {(dev, version): set(memory.tables_of(dev, sources[dev])) | {decision.numbers[dev].table}
              for dev, version in spared}

    def touches(item: Item, family: Family) -> bool:
        dev, version = family
        if isinstance(item, Rule):
            stale = item.table in tables[family] and item.src is not None and item.src not in well
            return item.version == version and (item.oif == dev or item.src in sources[dev] or stale)
        if isinstance(item, Route):
            fence = not item.hops and item.table in tables[family]
            pool = item.is_pool and item.dst in sources[dev]
            return item.version == version and (dev in item.devs() or fence or pool)
        return isinstance(item, LinkAddress) and family == (item.dev, item.address.version)

    return _without(changes, lambda item: any(touches(item, family) for family in spared))


def _routes(changes: Sequence[Change]) -> List[Route]:
    return [change.item for change in changes if isinstance(change.item, Route)]


def _without(changes: Sequence[Change], condition: Callable[[Item], bool]) -> Tuple[Change, ...]:
    return tuple(change for change in changes if not condition(change.item))

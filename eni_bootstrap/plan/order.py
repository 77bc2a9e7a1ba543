"""The order in which changes are made, and which of them can be sent at once. PURE."""

import itertools
from typing import Iterable, Iterator, List, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.changes import Change, Item
from eni_bootstrap.model.kernel import MAIN, LinkGroup, LinkSetting, LinkUp, Route, Rule


class Order:
    """The order in which objects are made; they are removed in the reverse order."""

    def __init__(self, configs: Iterable[Config]) -> None:
        self._fronts = [(config.priority_refusal, config.priority_main) for config in configs]

    def made(self, changes: Iterable[Change]) -> Tuple[Change, ...]:
        return tuple(sorted(changes, key=lambda change: self._place(change.item)))

    def undone(self, changes: Iterable[Change]) -> Tuple[Change, ...]:
        def reverse(change: Change) -> Tuple[int, int, str, int, int]:
            rank, priority = self._place(change.item)
            # The text of a rule for all does not tell its IP version.
            return -rank, -priority, str(change.item), change.protocol, getattr(change.item, "version", 0)

        return tuple(sorted(changes, key=reverse))

    def _place(self, item: Item) -> Tuple[int, int]:
        """Rank and priority. An access entry's refusal stands in front of all look-ups, a fence behind them."""
        if isinstance(item, Rule) and item.action in _REFUSING and any(
                first <= item.priority < end for first, end in self._fronts):
            return _REFUSALS, 0
        return _place(item)


_REFUSING = ("prohibit", "unreachable", "blackhole")
_REFUSALS, _FOR_EVERYBODY = 6, 10


def steps(changes: Iterable[Change]) -> Iterator[List[Change]]:
    """The changes in steps that can be sent at once: no change of a step needs another one of the same step."""
    for _, step in itertools.groupby(changes, lambda change: (change.verb == "remove", _place(change.item))):
        yield list(step)


def _place(item: Item) -> Tuple[int, int]:
    """Rank and, among rules for everybody, the priority: each is made after those that are asked before it."""
    rank = _rank(item)
    return rank, item.priority if rank == _FOR_EVERYBODY and isinstance(item, Rule) else 0


def _rank(item: Item) -> int:
    if isinstance(item, Rule):  # asked first: of a rule for each address there are the most
        return _rule_rank(item)
    if isinstance(item, LinkGroup):
        return 0
    if isinstance(item, (LinkUp, LinkSetting)):
        return 1
    if isinstance(item, Route):
        if item.is_local_prefix:
            return 12
        if not item.hops:
            return 5  # the fence
        if item.table == MAIN:
            return 4  # after the primary's own default, which may be needed because of it
        return 2 if all(hop.gateway is None for hop in item.hops) else 3
    return 12  # an address


def _rule_rank(item: Rule) -> int:
    if item.suppress_prefixlength is not None:
        return 7 if item.src is not None else 8  # what must come before main's specific routes, and those
    if item.action != "lookup":
        return 11  # what jumps to a look-up, or is its fence
    return 9 if item.src is not None or item.oif else _FOR_EVERYBODY  # access entries, spreads, connection marks

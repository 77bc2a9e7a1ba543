"""Which routes and rules of a snapshot are ours. PURE."""

from typing import FrozenSet, Iterable, List, NamedTuple, Sequence, Set, Tuple

from eni_bootstrap.config.own_rules import owns_route, owns_rule
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.model.changes import Item
from eni_bootstrap.model.kernel import MAIN, PROTOCOL_KERNEL, Route, Rule, SeenRule, Snapshot


class OwnedObjects(NamedTuple):
    """The routes and rules of a snapshot that are ours."""

    routes: FrozenSet[Route]
    rules: FrozenSet[Rule]
    marks: FrozenSet[SeenRule]
    """The rules with their protocols: for the kernel, one rule with each of our two protocols is two rules."""


def owned(snapshot: Snapshot, eni_devs: Iterable[str], config: Config) -> OwnedObjects:
    """Routes and rules that carry our protocol *and* lie in our bands; of main, default routes by an ENI's device only.
    """
    marks = {seen for seen in snapshot.rules if owns_rule(seen.rule, seen.protocol, config)}
    rules = {seen.rule for seen in marks}
    tables = {route for route, protocol, _ in snapshot.routes if owns_route(route, protocol, config)}
    devs = set(eni_devs) | {rule.oif for rule in rules if rule.oif} | {dev for route in tables for dev in route.devs()}
    defaults = {route for route, protocol, _ in snapshot.routes if protocol == config.protocol
                and route.table == MAIN and route.is_default and route.hops and devs.issuperset(route.devs())}
    return OwnedObjects(frozenset(tables | defaults), frozenset(rules), frozenset(marks))


NOTHING = OwnedObjects(frozenset(), frozenset(), frozenset())


def bears_kernels_mark(snapshot: Snapshot, config: Config) -> bool:
    """Whether a rule or route of ours carries protocol ``kernel``."""
    return any(protocol == PROTOCOL_KERNEL and owns_rule(rule, protocol, config) for rule, protocol in snapshot.rules) \
        or any(seen.protocol == PROTOCOL_KERNEL and owns_route(seen.route, seen.protocol, config)
               for seen in snapshot.routes)


def outdated(snapshot: Snapshot, eni_devs: Iterable[str], former: Sequence[Config], config: Config) -> OwnedObjects:
    """Routes and rules that are ours by former numbers, and not by those in force.

    Where the bands of tables overlap, a table of the former band counts as former: it may be another ENI's now.
    """
    routes: Set[Route] = set()
    marks: Set[SeenRule] = set()
    protocols = {seen.route: seen.protocol for seen in snapshot.routes}
    for each in former:
        found = owned(snapshot, eni_devs, each)
        moved = each.table_primary != config.table_primary
        routes |= {route for route in found.routes if moved and each.owns_table(route.table)
                   or not owns_route(route, protocols[route], config)
                   and not (route.table == MAIN and protocols[route] == config.protocol)}
        marks |= {seen for seen in found.marks if moved and each.owns_table(seen.rule.table)
                  or not owns_rule(seen.rule, seen.protocol, config)}
    return OwnedObjects(frozenset(routes), frozenset(seen.rule for seen in marks), frozenset(marks))


def unfinished(left: OwnedObjects, decision: Decision, snapshot: Snapshot, former: Config, config: Config) -> bool:
    """Whether a route or rule by these former numbers has still to be made anew, or to be removed."""
    wanted: Set[Item] = {*decision.routes, *decision.rules}
    found: List[Tuple[Item, int]] = [(seen.route, seen.protocol) for seen in snapshot.routes
                                     if seen.route in left.routes]
    found += left.marks
    return any(item not in wanted or protocol == former.protocol != config.protocol for item, protocol in found)


def without(snapshot: Snapshot, left: OwnedObjects) -> Snapshot:
    """The snapshot without these routes and rules."""
    return snapshot._replace(routes=tuple(seen for seen in snapshot.routes if seen.route not in left.routes),
                             rules=tuple(seen for seen in snapshot.rules if seen not in left.marks))

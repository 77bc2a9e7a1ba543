"""What has to be done, and in which order. PURE.

Desired minus present is added; ours minus desired is removed. Additions come before removals, a table is filled before
a rule leads to it, what refuses is there before what leads past it, a rule goes before its table is emptied: a run that
is killed after any single message leaves the old state, the new one, or traffic that is refused, never a wrong way out.
"""

import itertools
from typing import AbstractSet, Dict, FrozenSet, Iterable, Iterator, List, NamedTuple, Sequence, Set, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.desired.links import takes_others_along
from eni_bootstrap.model.changes import Change, Conflict, Item, Made, Plan
from eni_bootstrap.model.kernel import (
    MAIN, PROTOCOL_KERNEL, LinkAddress, LinkGroup, LinkSetting, LinkUp, Route, Rule, SeenRule, Snapshot,
)


class Owned(NamedTuple):
    """What in a snapshot is ours."""

    routes: FrozenSet[Route]
    rules: FrozenSet[Rule]
    marks: FrozenSet[SeenRule]
    """The rules with their protocols: one with each of our marks counts as two for the kernel."""


def owned(snapshot: Snapshot, eni_devs: Iterable[str], config: Config) -> Owned:
    """Ours is what carries our protocol *and* lies in our bands; a default in main only through an ENI's device."""
    marks = {seen for seen in snapshot.rules if config.owns_rule(seen.rule, seen.protocol)}
    rules = {seen.rule for seen in marks}
    tables = {route for route, protocol, _ in snapshot.routes if config.owns_route(route, protocol)}
    devs = set(eni_devs) | {rule.oif for rule in rules if rule.oif} | {dev for route in tables for dev in route.devs()}
    defaults = {route for route, protocol, _ in snapshot.routes if protocol == config.protocol
                and route.table == MAIN and route.is_default and route.hops and devs.issuperset(route.devs())}
    return Owned(frozenset(tables | defaults), frozenset(rules), frozenset(marks))


NOTHING = Owned(frozenset(), frozenset(), frozenset())


def bears_kernels_mark(snapshot: Snapshot, config: Config) -> bool:
    """Whether anything of ours bears the kernel's mark."""
    return any(protocol == PROTOCOL_KERNEL and config.owns_rule(rule, protocol) for rule, protocol in snapshot.rules) \
        or any(seen.protocol == PROTOCOL_KERNEL and config.owns_route(seen.route, seen.protocol)
               for seen in snapshot.routes)


def outdated(snapshot: Snapshot, eni_devs: Iterable[str], former: Sequence[Config], config: Config) -> Owned:
    """What is ours by former numbers, and not by those in force.

    Where the bands of tables overlap, a table of the former ones counts as such: it may be another ENI's now.
    """
    routes: Set[Route] = set()
    marks: Set[SeenRule] = set()
    protocols = {seen.route: seen.protocol for seen in snapshot.routes}
    for each in former:
        found = owned(snapshot, eni_devs, each)
        moved = each.table_primary != config.table_primary
        routes |= {route for route in found.routes if moved and each.owns_table(route.table)
                   or not config.owns_route(route, protocols[route])
                   and not (route.table == MAIN and protocols[route] == config.protocol)}
        marks |= {seen for seen in found.marks if moved and each.owns_table(seen.rule.table)
                  or not config.owns_rule(seen.rule, seen.protocol)}
    return Owned(frozenset(routes), frozenset(seen.rule for seen in marks), frozenset(marks))


def unfinished(left: Owned, decision: Decision, snapshot: Snapshot, former: Config, config: Config) -> bool:
    """Whether something by these former numbers is still to be made anew, or to go."""
    wanted: Set[Item] = {*decision.routes, *decision.rules}
    found: List[Tuple[Item, int]] = [(seen.route, seen.protocol) for seen in snapshot.routes
                                     if seen.route in left.routes]
    found += left.marks
    return any(item not in wanted or protocol == former.protocol != config.protocol for item, protocol in found)


def without(snapshot: Snapshot, left: Owned) -> Snapshot:
    return snapshot._replace(routes=tuple(seen for seen in snapshot.routes if seen.route not in left.routes),
                             rules=tuple(seen for seen in snapshot.rules if seen not in left.marks))


def plan(
    decision: Decision, snapshot: Snapshot, made: Made, config: Config, former: Sequence[Config] = (),
    left: Owned = NOTHING, in_use: AbstractSet[str] = frozenset()
) -> Plan:
    """The changes that lead from the snapshot to the decision. ``left``: what there is by ``former`` numbers.

    An ENI that is left alone loses what is ours of its link, too; ``in_use`` as for ``withdrawal``.
    """
    ours = owned(snapshot, {eni.dev for eni in decision.enis} | decision.left, config)
    # A fence of ours with the wrong mark has to be made again.
    present_routes = {seen.route for seen in snapshot.routes if seen.route not in ours.routes or seen.route.hops
                      or seen.protocol == config.protocol_guarded}
    present_routes -= {seen.route for seen in snapshot.routes if seen.route in left.routes
                       and seen.protocol != _change("add", seen.route, config).protocol}
    by_key = {seen.route.key: seen.route for seen in snapshot.routes}

    links = {link.name: link for link in snapshot.links}
    to_links: List[Item] = [group for group in decision.groups if links[group.dev].group != group.group]
    to_links += [up for up in decision.ups if not links[up.dev].up]
    to_links += [setting for setting in decision.settings if setting not in snapshot.settings]
    held = set(snapshot.addresses)
    addresses = [_change("replace" if address._replace(deprecated=True) in held else "add", address, config)
                 for address in decision.addresses if address not in held]

    routes: List[Change] = []
    pools: List[Change] = []
    conflicts: List[Conflict] = []
    replaced: Set[Route] = set()
    for route in decision.routes:
        if route in present_routes:
            continue
        holder = by_key.get(route.key)
        if holder is None:
            (pools if route.is_pool else routes).append(_change("add", route, config))
        elif holder in ours.routes or holder in left.routes:
            replaced.add(holder)
            routes.append(_change("replace", route, config))
        elif holder.way != route.way:
            conflicts.append(Conflict(route, holder))

    rules: Dict[Rule, None] = dict.fromkeys(decision.rules)
    rules.update(dict.fromkeys(sorted(_kept_rules(decision, ours), key=lambda rule: (str(rule), rule.version))))
    present_rules = {seen.rule for seen in snapshot.rules
                     if seen.protocol == config.protocol_guarded or seen not in ours.marks | left.marks}
    remove = [Change("remove", rule, protocol) for rule, protocol in ours.marks | left.marks
              if rule not in rules or protocol != config.protocol_guarded]
    remove += _without(snapshot, {
        route for route in (ours.routes | left.routes) - set(decision.routes) - replaced
        if route.table not in decision.kept_tables and not decision.kept_devs.intersection(route.devs())})
    remove += [_change("remove", address, config) for address in decision.dropped_addresses]
    remove += _links_back(decision.left - decision.used, snapshot, made, in_use, config)
    everybody = {link.name for link in snapshot.links} - decision.kept_devs
    remove += _former_groups(made, snapshot, decision.left if decision.groups else everybody, config)
    asked = {(setting.dev, setting.name) for setting in decision.settings}
    remove += [change for change in _former_settings(made, snapshot, config)
               if change.item[:2] not in asked and change.item[0] not in decision.kept_devs]
    for group in {each.group for each in (Config(), *former)} - {config.group}:  # udev's rule knows the usual one only
        remove += _former_groups(made, snapshot, everybody, config._replace(group=group))
    order = _Order([config, *former])
    return Plan(
        tuple(_change("add", item, config) for item in to_links), order.made(routes),
        order.made(_change("add", rule, config) for rule in rules if rule not in present_rules),
        tuple(addresses + pools), order.taken_back(remove),
        tuple(conflicts))


def withdrawal(
    snapshot: Snapshot, made: Made, in_use: AbstractSet[str], config: Config, former: Sequence[Config] = ()
) -> Plan:
    """The changes that take back all that is ours. Needs no metadata: the kernel and the record tell.

    A link that we brought up stays up when somebody has addressed it since or routes by it (``in_use``), and keeps the
    address without which the kernel would drop those routes.
    """
    remove: List[Change] = []
    for each in (config, *former):
        ours = owned(snapshot, made.ups | {group.dev for group in made.groups}, each)
        remove += [Change("remove", rule, protocol) for rule, protocol in ours.marks]
        remove += _without(snapshot, ours.routes)
    devs = {link.name for link in snapshot.links}
    remove += _links_back(devs, snapshot, made, in_use, config)
    for group in {each.group for each in (Config(), config, *former)}:
        remove += _former_groups(made, snapshot, devs, config._replace(group=group))
    remove += _former_settings(made, snapshot, config)
    return Plan(removals=_Order([config, *former]).taken_back(dict.fromkeys(remove)))


def _links_back(devs: AbstractSet[str], snapshot: Snapshot, made: Made, in_use: AbstractSet[str], config: Config
                ) -> List[Change]:
    """Takes back the addresses that we put on these devices, and that we brought them up."""
    back = [_change("remove", address, config) for address in snapshot.addresses
            if address in made.addresses and address.dev in devs - in_use
            and not takes_others_along(address, snapshot.addresses, made)]
    used = in_use | {held.dev for held in snapshot.addresses if held not in made.addresses}
    return back + [_change("remove", LinkUp(link.name), config) for link in snapshot.links
                   if link.up and link.name in devs & made.ups - used]


def _kept_rules(decision: Decision, ours: Owned) -> Set[Rule]:
    """Rules of ENIs that stay as they are: those that lead to a kept table, and the fences of the same sources.

    A source or a device that belongs to an ENI that is set up is that one's by now, whoever had it before.
    """
    given = {source for eni in decision.enis for source in decision.sources[eni.dev]}
    devs = {eni.dev for eni in decision.enis}
    kept = {rule for rule in ours.rules if rule.action == "lookup" and rule.table in decision.kept_tables
            and rule.src not in given and rule.oif not in devs}
    selected = {(rule.src, rule.match) for rule in kept}
    return kept | {rule for rule in ours.rules if rule.action == "unreachable" and (rule.src, rule.match) in selected}


def _former_groups(made: Made, snapshot: Snapshot, devs: AbstractSet[str], config: Config) -> List[Change]:
    """The groups that these devices had before, of those that nobody has put into another one since.

    Who is in ours without a record was put there by udev's rule when it was plugged in, out of none.
    """
    ours = {link.name for link in snapshot.links if link.group == config.group and link.name in devs}
    former = {dev: 0 for dev in ours}
    former.update((dev, group) for dev, group in made.groups if dev in ours)
    return [_change("add", LinkGroup(dev, group), config) for dev, group in sorted(former.items())]


def _former_settings(made: Made, snapshot: Snapshot, config: Config) -> List[Change]:
    """What our links' settings were, of those that nobody has changed since."""
    return [_change("remove", done.setting._replace(value=done.former), config) for done in made.settings
            if done.setting in snapshot.settings]


def _change(verb: str, item: Item, config: Config) -> Change:
    """What no device holds, a rule or a fence, bears the mark that nobody takes for a leftover."""
    guarded = isinstance(item, Rule) or isinstance(item, Route) and not item.hops
    return Change(verb, item, config.protocol_guarded if guarded else config.protocol)


def _without(snapshot: Snapshot, routes: AbstractSet[Route]) -> List[Change]:
    """The routes' removal: each bears the mark that it was made with."""
    return [Change("remove", seen.route, seen.protocol) for seen in snapshot.routes if seen.route in routes]


class _Order:
    """The order in which things are made; they are taken back in the reverse one."""

    def __init__(self, configs: Iterable[Config]) -> None:
        self._fronts = [(config.priority_refusal, config.priority_main) for config in configs]

    def made(self, changes: Iterable[Change]) -> Tuple[Change, ...]:
        return tuple(sorted(changes, key=lambda change: self._place(change.item)))

    def taken_back(self, changes: Iterable[Change]) -> Tuple[Change, ...]:
        def reverse(change: Change) -> Tuple[int, int, str, int, int]:
            rank, priority = self._place(change.item)
            # The text of a rule for all does not tell its IP version.
            return -rank, -priority, str(change.item), change.protocol, getattr(change.item, "version", 0)

        return tuple(sorted(changes, key=reverse))

    def _place(self, item: Item) -> Tuple[int, int]:
        """An access entry's refusal is asked in front of all look-ups, a fence behind them."""
        if isinstance(item, Rule) and item.action in _REFUSING and any(
                first <= item.priority < end for first, end in self._fronts):
            return _REFUSALS, 0
        return _place(item)


_REFUSING = ("prohibit", "unreachable", "blackhole")
_REFUSALS, _FOR_EVERYBODY = 6, 10


def steps(changes: Iterable[Change]) -> Iterator[List[Change]]:
    """What can be sent at once: no change of a step needs another one of it."""
    for _, step in itertools.groupby(changes, lambda change: (change.verb == "remove", _place(change.item))):
        yield list(step)


def _place(item: Item) -> Tuple[int, int]:
    """Of rules for everybody each comes after those that are asked before it."""
    rank = _rank(item)
    return rank, item.priority if isinstance(item, Rule) and rank == _FOR_EVERYBODY else 0


def _rank(item: Item) -> int:
    if isinstance(item, LinkGroup):
        return 0
    if isinstance(item, (LinkUp, LinkSetting)):
        return 1
    if isinstance(item, Route):
        if item.is_pool:
            return 12
        if not item.hops:
            return 5  # the fence
        if item.table == MAIN:
            return 4  # after the primary's own default, which may be needed because of it
        return 2 if all(hop.gateway is None for hop in item.hops) else 3
    if isinstance(item, LinkAddress):
        return 12
    if item.suppress_prefixlength is not None:
        return 7 if item.src is not None else 8  # what must come before main's specific routes, and those
    if item.action != "lookup":
        return 11  # what jumps to a look-up, or is its fence
    return 9 if item.src is not None or item.oif else _FOR_EVERYBODY  # access entries, spreads, connection marks

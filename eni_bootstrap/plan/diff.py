"""The changes that lead from the present state to the desired one, in a safe order. PURE.

Desired minus present is added; ours minus desired is removed. Additions come before removals; a table is filled before
a rule leads to it; a refusal is there before a rule leads past it; a rule goes before its table is emptied. So a run
that is killed after any single message leaves the old state, the new one, or traffic that is refused, never a wrong way
out.
"""

from typing import AbstractSet, Dict, FrozenSet, List, NamedTuple, Sequence, Set, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.desired.links import takes_others_along
from eni_bootstrap.model.changes import Change, Conflict, Item, Plan, Record
from eni_bootstrap.model.kernel import LinkGroup, LinkUp, Route, Rule, Snapshot
from eni_bootstrap.plan.order import Order
from eni_bootstrap.plan.ownership import NOTHING, OwnedObjects, owned


class Before(NamedTuple):
    """What earlier runs left, beside the record."""

    former: Tuple[Config, ...] = ()
    """Configurations with former numbers, by which there may still be objects of ours."""
    outdated: OwnedObjects = NOTHING
    """The objects that are ours by these numbers only."""
    in_use: FrozenSet[str] = frozenset()
    """Devices that we brought up and that somebody else has addressed since or routes by."""


def plan(decision: Decision, snapshot: Snapshot, made: Record, config: Config, before: Before = Before()) -> Plan:
    """The changes that lead from the snapshot to the decision.

    An ENI that is left alone loses our changes to its link, too. ``made``: the record, as far as it is still true.
    """
    ours = owned(snapshot, {eni.dev for eni in decision.enis} | decision.skipped, config)
    routes = _route_changes(decision, snapshot, ours, before.outdated, config)
    rules: Dict[Rule, None] = dict.fromkeys(decision.rules)
    rules.update(dict.fromkeys(sorted(_kept_rules(decision, ours), key=lambda rule: (str(rule), rule.version))))
    present_rules = {seen.rule for seen in snapshot.rules if seen.protocol == config.protocol_networkd_safe
                     or seen not in ours.marks | before.outdated.marks}
    remove = [Change("remove", rule, protocol) for rule, protocol in ours.marks | before.outdated.marks
              if rule not in rules or protocol != config.protocol_networkd_safe]
    remove += _without(snapshot, {
        route for route in (ours.routes | before.outdated.routes) - set(decision.routes) - routes.replaced
        if (route.table, route.version) not in decision.kept_tables
        and decision.kept_families.isdisjoint((dev, route.version) for dev in route.devs())})
    remove += [_change("remove", address, config) for address in decision.dropped_addresses]
    remove += _links_back(decision.skipped - decision.used, snapshot, made, before.in_use, config)
    remove += _others_back(decision, snapshot, made, config, before.former)
    order = Order([config, *before.former])
    return Plan(
        _link_changes(decision, snapshot, config), order.made(routes.tables),
        order.made(_change("add", rule, config) for rule in rules if rule not in present_rules),
        _address_changes(decision, snapshot, config) + tuple(routes.local_prefixes), order.undone(remove),
        tuple(routes.conflicts))


def _link_changes(decision: Decision, snapshot: Snapshot, config: Config) -> Tuple[Change, ...]:
    links = {link.name: link for link in snapshot.links}
    items: List[Item] = [group for group in decision.groups if links[group.dev].group != group.group]
    items += [up for up in decision.ups if not links[up.dev].up]
    items += [setting for setting in decision.settings if setting not in snapshot.settings]
    return tuple(_change("add", item, config) for item in items)


def _address_changes(decision: Decision, snapshot: Snapshot, config: Config) -> Tuple[Change, ...]:
    held = set(snapshot.addresses)
    return tuple(_change("replace" if address._replace(deprecated=True) in held else "add", address, config)
                 for address in decision.addresses if address not in held)


class _RouteChanges(NamedTuple):
    """The changes that the desired routes need."""

    tables: List[Change]
    local_prefixes: List[Change]
    conflicts: List[Conflict]
    replaced: Set[Route]
    """Routes of ours that a desired one with the same key replaces."""


def _route_changes(decision: Decision, snapshot: Snapshot, ours: OwnedObjects, outdated: OwnedObjects, config: Config
                   ) -> _RouteChanges:
    # A fence of ours with the wrong mark has to be made again.
    present = {seen.route for seen in snapshot.routes if seen.route not in ours.routes or seen.route.hops
               or seen.protocol == config.protocol_networkd_safe}
    present -= {seen.route for seen in snapshot.routes if seen.route in outdated.routes
                and seen.protocol != _change("add", seen.route, config).protocol}
    by_key = {seen.route.key: seen.route for seen in snapshot.routes}
    found = _RouteChanges([], [], [], set())
    for route in [route for route in decision.routes if route not in present]:
        holder = by_key.get(route.key)
        if holder is None:
            place = found.local_prefixes if route.is_local_prefix else found.tables
            place.append(_change("add", route, config))
        elif holder in ours.routes or holder in outdated.routes:
            found.replaced.add(holder)
            found.tables.append(_change("replace", route, config))
        elif holder.way != route.way:
            found.conflicts.append(Conflict(route, holder))
    return found


def _others_back(decision: Decision, snapshot: Snapshot, made: Record, config: Config, former: Sequence[Config]
                 ) -> List[Change]:
    """Restore former groups and settings of links, where ours are not wanted any more."""
    everybody = {link.name for link in snapshot.links} - decision.untouched_devs
    back = _former_groups(made, snapshot, decision.skipped if decision.groups else everybody, config)
    asked = {(setting.dev, setting.name) for setting in decision.settings}
    back += [change for change in _former_settings(made, snapshot, config)
             if change.item[:2] not in asked and change.item[0] not in decision.untouched_devs]
    for group in {each.group for each in (Config(), *former)} - {config.group}:  # udev's rule knows the usual one only
        back += _former_groups(made, snapshot, everybody, config._replace(group=group))
    return back


def withdrawal(
    snapshot: Snapshot, made: Record, in_use: AbstractSet[str], config: Config, former: Sequence[Config] = ()
) -> Plan:
    """The removal of all that is ours. It needs no metadata: the kernel and the record know what is ours.

    A link that we brought up stays up when somebody else has addressed it since, or routes by it (``in_use``); it also
    keeps the address without which the kernel would drop those routes.
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
    return Plan(removals=Order([config, *former]).undone(dict.fromkeys(remove)))


def _links_back(devs: AbstractSet[str], snapshot: Snapshot, made: Record, in_use: AbstractSet[str], config: Config
                ) -> List[Change]:
    """Remove the addresses that we put on these devices, and take down the links that we brought up."""
    back = [_change("remove", address, config) for address in snapshot.addresses
            if address in made.addresses and address.dev in devs - in_use
            and not takes_others_along(address, snapshot.addresses, made)]
    used = in_use | {held.dev for held in snapshot.addresses if held not in made.addresses}
    return back + [_change("remove", LinkUp(link.name), config) for link in snapshot.links
                   if link.up and link.name in devs & made.ups - used]


def _kept_rules(decision: Decision, ours: OwnedObjects) -> Set[Rule]:
    """Rules of ENIs that stay as they are: those that lead to a kept table, and the fences of the same sources.

    A source or a device of an ENI that is set up belongs to that ENI by now, whoever had it before.
    """
    given = {source for family in decision.families for source in family.sources}
    devs = {family.key for family in decision.families}
    kept = {rule for rule in ours.rules
            if rule.action == "lookup" and (rule.table, rule.version) in decision.kept_tables
            and rule.src not in given and (rule.oif, rule.version) not in devs}
    selected = {(rule.src, rule.match) for rule in kept}
    return kept | {rule for rule in ours.rules if rule.action == "unreachable" and (rule.src, rule.match) in selected}


def _former_groups(made: Record, snapshot: Snapshot, devs: AbstractSet[str], config: Config) -> List[Change]:
    """Restore the former groups of these devices, where they are still in our group.

    A device in our group without a record was put there by udev's rule when it was plugged in; before it had no group.
    """
    ours = {link.name for link in snapshot.links if link.group == config.group and link.name in devs}
    former = {dev: 0 for dev in ours}
    former.update((dev, group) for dev, group in made.groups if dev in ours)
    return [_change("add", LinkGroup(dev, group), config) for dev, group in sorted(former.items())]


def _former_settings(made: Record, snapshot: Snapshot, config: Config) -> List[Change]:
    """Restore the former settings of links, where nobody has changed them since."""
    return [_change("remove", done.setting._replace(value=done.former), config) for done in made.settings
            if done.setting in snapshot.settings]


def _change(verb: str, item: Item, config: Config) -> Change:
    """A change with its protocol: rules and fences, which belong to no device, get the networkd-safe one."""
    networkd_safe = isinstance(item, Rule) or isinstance(item, Route) and not item.hops
    return Change(verb, item, config.protocol_networkd_safe if networkd_safe else config.protocol)


def _without(snapshot: Snapshot, routes: AbstractSet[Route]) -> List[Change]:
    """The removal of these routes, each with the protocol with which it was made."""
    return [Change("remove", seen.route, seen.protocol) for seen in snapshot.routes if seen.route in routes]

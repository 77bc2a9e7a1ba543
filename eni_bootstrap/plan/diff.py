"""What has to be done, and in which order. PURE.

Desired minus present is added; ours minus desired is removed. Additions come before removals, a table is filled before
a rule leads to it, what refuses is there before what leads past it, a rule goes before its table is emptied: a run that
is killed after any single message leaves the old state, the new one, or traffic that is refused, never a wrong way out.
"""

from typing import AbstractSet, Dict, List, Sequence, Set

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.desired.links import takes_others_along
from eni_bootstrap.model.changes import Change, Conflict, Item, Plan, Record
from eni_bootstrap.model.kernel import LinkGroup, LinkUp, Route, Rule, Snapshot
from eni_bootstrap.plan.order import Order
from eni_bootstrap.plan.ownership import NOTHING, OwnedObjects, owned


def plan(
    decision: Decision, snapshot: Snapshot, made: Record, config: Config, former: Sequence[Config] = (),
    left: OwnedObjects = NOTHING, in_use: AbstractSet[str] = frozenset()
) -> Plan:
    """The changes that lead from the snapshot to the decision. ``left``: what there is by ``former`` numbers.

    An ENI that is left alone loses what is ours of its link, too; ``in_use`` as for ``withdrawal``.
    """
    ours = owned(snapshot, {eni.dev for eni in decision.enis} | decision.skipped, config)
    # A fence of ours with the wrong mark has to be made again.
    present_routes = {seen.route for seen in snapshot.routes if seen.route not in ours.routes or seen.route.hops
                      or seen.protocol == config.protocol_networkd_safe}
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
    own_prefixes: List[Change] = []
    conflicts: List[Conflict] = []
    replaced: Set[Route] = set()
    for route in decision.routes:
        if route in present_routes:
            continue
        holder = by_key.get(route.key)
        if holder is None:
            (own_prefixes if route.is_local_prefix else routes).append(_change("add", route, config))
        elif holder in ours.routes or holder in left.routes:
            replaced.add(holder)
            routes.append(_change("replace", route, config))
        elif holder.way != route.way:
            conflicts.append(Conflict(route, holder))

    rules: Dict[Rule, None] = dict.fromkeys(decision.rules)
    rules.update(dict.fromkeys(sorted(_kept_rules(decision, ours), key=lambda rule: (str(rule), rule.version))))
    present_rules = {seen.rule for seen in snapshot.rules
                     if seen.protocol == config.protocol_networkd_safe or seen not in ours.marks | left.marks}
    remove = [Change("remove", rule, protocol) for rule, protocol in ours.marks | left.marks
              if rule not in rules or protocol != config.protocol_networkd_safe]
    remove += _without(snapshot, {
        route for route in (ours.routes | left.routes) - set(decision.routes) - replaced
        if (route.table, route.version) not in decision.kept_tables
        and decision.kept_families.isdisjoint((dev, route.version) for dev in route.devs())})
    remove += [_change("remove", address, config) for address in decision.dropped_addresses]
    remove += _links_back(decision.skipped - decision.used, snapshot, made, in_use, config)
    everybody = {link.name for link in snapshot.links} - decision.untouched_devs
    remove += _former_groups(made, snapshot, decision.skipped if decision.groups else everybody, config)
    asked = {(setting.dev, setting.name) for setting in decision.settings}
    remove += [change for change in _former_settings(made, snapshot, config)
               if change.item[:2] not in asked and change.item[0] not in decision.untouched_devs]
    for group in {each.group for each in (Config(), *former)} - {config.group}:  # udev's rule knows the usual one only
        remove += _former_groups(made, snapshot, everybody, config._replace(group=group))
    order = Order([config, *former])
    return Plan(
        tuple(_change("add", item, config) for item in to_links), order.made(routes),
        order.made(_change("add", rule, config) for rule in rules if rule not in present_rules),
        tuple(addresses + own_prefixes), order.removed_flag(remove),
        tuple(conflicts))


def withdrawal(
    snapshot: Snapshot, made: Record, in_use: AbstractSet[str], config: Config, former: Sequence[Config] = ()
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
    return Plan(removals=Order([config, *former]).removed_flag(dict.fromkeys(remove)))


def _links_back(devs: AbstractSet[str], snapshot: Snapshot, made: Record, in_use: AbstractSet[str], config: Config
                ) -> List[Change]:
    """Takes back the addresses that we put on these devices, and that we brought them up."""
    back = [_change("remove", address, config) for address in snapshot.addresses
            if address in made.addresses and address.dev in devs - in_use
            and not takes_others_along(address, snapshot.addresses, made)]
    used = in_use | {held.dev for held in snapshot.addresses if held not in made.addresses}
    return back + [_change("remove", LinkUp(link.name), config) for link in snapshot.links
                   if link.up and link.name in devs & made.ups - used]


def _kept_rules(decision: Decision, ours: OwnedObjects) -> Set[Rule]:
    """Rules of ENIs that stay as they are: those that lead to a kept table, and the fences of the same sources.

    A source or a device that belongs to an ENI that is set up is that one's by now, whoever had it before.
    """
    given = {source for family in decision.families for source in family.sources}
    devs = {family.key for family in decision.families}
    kept = {rule for rule in ours.rules
            if rule.action == "lookup" and (rule.table, rule.version) in decision.kept_tables
            and rule.src not in given and (rule.oif, rule.version) not in devs}
    selected = {(rule.src, rule.match) for rule in kept}
    return kept | {rule for rule in ours.rules if rule.action == "unreachable" and (rule.src, rule.match) in selected}


def _former_groups(made: Record, snapshot: Snapshot, devs: AbstractSet[str], config: Config) -> List[Change]:
    """The groups that these devices had before, of those that nobody has put into another one since.

    Who is in ours without a record was put there by udev's rule when it was plugged in, out of none.
    """
    ours = {link.name for link in snapshot.links if link.group == config.group and link.name in devs}
    former = {dev: 0 for dev in ours}
    former.update((dev, group) for dev, group in made.groups if dev in ours)
    return [_change("add", LinkGroup(dev, group), config) for dev, group in sorted(former.items())]


def _former_settings(made: Record, snapshot: Snapshot, config: Config) -> List[Change]:
    """What our links' settings were, of those that nobody has changed since."""
    return [_change("remove", done.setting._replace(value=done.former), config) for done in made.settings
            if done.setting in snapshot.settings]


def _change(verb: str, item: Item, config: Config) -> Change:
    """What no device holds, a rule or a fence, bears the mark that nobody takes for a leftover."""
    networkd_safe = isinstance(item, Rule) or isinstance(item, Route) and not item.hops
    return Change(verb, item, config.protocol_networkd_safe if networkd_safe else config.protocol)


def _without(snapshot: Snapshot, routes: AbstractSet[Route]) -> List[Change]:
    """The routes' removal: each bears the mark that it was made with."""
    return [Change("remove", seen.route, seen.protocol) for seen in snapshot.routes if seen.route in routes]

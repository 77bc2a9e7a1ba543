"""The changes that lead from Windows' present state to the desired one, in a safe order. PURE.

Desired minus present is added; ours minus desired is removed, additions first. A run that is killed after any single
command leaves a state from which the next one gets to the same end: what is made was put on record before.
"""

from typing import AbstractSet, Dict, List, NamedTuple, Sequence, Set, Tuple

from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.model.eni import Listing
from eni_bootstrap.model.kernel import Address, Network, Route
from eni_bootstrap.windows.desired import owned, placed
from eni_bootstrap.windows.model import Recorded, Snapshot, WindowsRoute
from eni_bootstrap.windows.scripts import ACTIVE, BOTH, PERSISTENT, command

Key = Tuple[Network, int, Address]


class RouteChange(NamedTuple):
    """One change; as text, the PowerShell command that makes it."""

    verb: str
    """``add``, ``set`` (the metric) or ``remove``."""
    route: WindowsRoute
    store: str
    """``scripts.BOTH``, ``ACTIVE`` or ``PERSISTENT``."""
    dev: str
    """The adapter's name; empty where it is gone."""

    @property
    def item(self) -> Route:
        return self.route.on(self.dev)

    def __str__(self) -> str:
        return command(self.verb, self.route, self.store)


class Plan(NamedTuple):
    """The steps, and what has to be on record before the first of them."""

    changes: Tuple[RouteChange, ...]
    during: Tuple[Recorded, ...]
    """What may be ours whatever becomes of the steps."""


def plan(listing: Listing, decision: Decision, snapshot: Snapshot, recorded: Sequence[Recorded]) -> Plan:
    """The changes that lead from the snapshot to the decision."""
    ours = owned(recorded, snapshot)
    keys = {entry.route.key for entry in ours}
    known = placed(recorded, snapshot).keys()
    adapters = {each.name: each for each in snapshot.adapters}
    changes: List[RouteChange] = []
    wanted: List[Recorded] = []
    for route in decision.routes:
        hop = route.hops[0]
        assert hop.gateway is not None
        adapter = adapters[hop.dev]
        made = WindowsRoute(route.dst, adapter.ifindex, hop.gateway, route.metric)
        wanted.append(Recorded(adapter.mac, adapter.guid, made))
        changes += _making(made, keys, known, snapshot, hop.dev)
    kept = {entry.route.key for entry in wanted}
    changes += [change for entry in ours
                if entry.route.key not in kept and _is_over(entry, listing, decision, snapshot)
                for change in _removal(entry.route, known, snapshot)]
    places = {_place(entry) for entry in ours}
    during = [entry for entry in recorded
              if _place(entry) in places or not _is_over(entry, listing, decision, snapshot)]
    return Plan(tuple(changes), tuple(dict.fromkeys([*during, *wanted])))


def _place(entry: Recorded) -> Tuple[str, Network, Address]:
    """What a route is for, whatever its index and metric."""
    return entry.guid, entry.route.dst, entry.route.gateway


def withdrawal(snapshot: Snapshot, recorded: Sequence[Recorded]) -> Plan:
    """The plan that removes all that is ours."""
    known = placed(recorded, snapshot).keys()
    return Plan(tuple(change for entry in owned(recorded, snapshot)
                      for change in _removal(entry.route, known, snapshot)), tuple(recorded))


def settled(todo: Plan, failed: Sequence[RouteChange], snapshot: Snapshot) -> Tuple[Recorded, ...]:
    """The record after these changes, of which some have failed."""
    stores: Dict[str, Dict[Key, WindowsRoute]] = {
        ACTIVE: {route.key: route for route in snapshot.active},
        PERSISTENT: {route.key: route for route in snapshot.persistent}}
    removed: Set[Key] = set()
    # Of what can't be added, somebody was faster, and it is his; what can't be removed is still ours.
    for change in [change for change in todo.changes if change not in failed]:
        key = change.route.key
        removed.update([key] if change.verb == "remove" else [])
        for store in [stores[change.store]] if change.store else stores.values():
            there = store.pop(key, None)
            if change.verb == "add" or change.verb == "set" and there is not None:
                store[key] = change.route
    gone = removed.difference(*stores.values())
    after = snapshot._replace(active=tuple(stores[ACTIVE].values()), persistent=tuple(stores[PERSISTENT].values()))
    ours = owned(todo.during, after)
    known = [*ours, *(entry for entry in todo.during if _is_asleep(entry, ours, after))]
    return tuple(entry for entry in dict.fromkeys(known) if entry.route.key not in gone)


def _is_asleep(entry: Recorded, ours: Sequence[Recorded], snapshot: Snapshot) -> bool:
    """Its adapter is disabled or gone, and may come back with its routes, listed until then or not."""
    if any(each.guid == entry.guid and each.enabled for each in snapshot.adapters):
        return False
    if entry.route.key in {each.route.key for each in ours}:
        return False
    keys = {route.key for store in (snapshot.active, snapshot.persistent) for route in store}
    return entry.route.key not in keys or snapshot.index_of(entry.guid) is None


def _making(made: WindowsRoute, ours: AbstractSet[Key], known: AbstractSet[WindowsRoute], snapshot: Snapshot, dev: str
            ) -> List[RouteChange]:
    """The changes that put a route into both stores; none where somebody else's is in force instead."""
    active, persistent = (next((route for route in store if route.key == made.key), None)
                          for store in (snapshot.active, snapshot.persistent))
    if made.key not in ours:
        return [RouteChange("add", made, BOTH, dev)]
    if active is not None and active not in known:
        return []
    if persistent is None:
        # New-NetRoute can't add to that store alone.
        return [RouteChange("remove", made, ACTIVE, dev), RouteChange("add", made, BOTH, dev)]
    changes = [RouteChange("add", persistent, ACTIVE, dev)] if active is None else []
    if {active or persistent, persistent} != {made}:
        changes.append(RouteChange("set", made, BOTH, dev))
    return changes


def _removal(route: WindowsRoute, known: AbstractSet[WindowsRoute], snapshot: Snapshot) -> List[RouteChange]:
    """Of each store by itself, because that of an adapter that is gone or disabled is in one only, or ours in one."""
    dev = next((each.name for each in snapshot.adapters if each.ifindex == route.ifindex), "")
    return [RouteChange("remove", each, store, dev)
            for store, routes in ((ACTIVE, snapshot.active), (PERSISTENT, snapshot.persistent))
            for each in routes if each.key == route.key and each in known]


def _is_over(entry: Recorded, listing: Listing, decision: Decision, snapshot: Snapshot) -> bool:
    """Whether a route of ours is unwanted and has to go; an ENI that can't be set up keeps what it has."""
    adapter = next((each for each in snapshot.adapters if each.guid == entry.guid), None)
    if adapter is None:
        listed = {each.mac for each in listing.interfaces} | {each.mac for each in listing.sick}
        # One that is listed may come back, unless it has come back in another place.
        return entry.mac not in listed or any(each.mac == entry.mac for each in snapshot.adapters)
    if adapter.name in decision.skipped:
        return True
    eni = next((eni for eni in decision.enis if eni.dev == adapter.name), None)
    if eni is None or eni.primary:
        return False
    version = entry.route.version
    if (adapter.name, version) in decision.kept_families:
        return False
    gateways = [subnet.gateway for each in listing.interfaces if each.mac == eni.mac for subnet in each.subnets
                if subnet.version == version]
    if entry.route.gateway in gateways:
        return False
    there = any((route.dst, route.ifindex) == (entry.route.dst, adapter.ifindex) and route.gateway in gateways
                for route in snapshot.active)
    wanted = any(route.version == version and route.devs() == (adapter.name,) for route in decision.routes)
    return not gateways or there or wanted

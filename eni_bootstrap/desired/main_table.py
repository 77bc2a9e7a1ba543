"""The main table: its default routes, and its specific routes through an ENI. PURE."""

import itertools
from collections import defaultdict
from typing import AbstractSet, Dict, Iterable, List, NamedTuple, Set

from eni_bootstrap.config.own_rules import fence
from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.eni import EniFamily
from eni_bootstrap.model.kernel import (
    IPV6_METRIC, MAIN, PROTOCOL_KERNEL, Address, Hop, Network, Route, SeenRoute, Snapshot, network_of,
)


class Copies(NamedTuple):
    """The user's own routes through an ENI, as its table has them."""

    routes: List[Route]
    left_out: bool
    """Whether there are more of them than may be copied."""
    closed: Dict[Route, Route]
    """Fence -> the user's route that can't be copied with all that it carries: the fence refuses that route's
    destination. Where a better route to it can be copied, there is no fence: main asks that route first, too.

    By its metric the user may put a route of his own before the fence. A more specific IPv6 destination than the
    default's is a node of its own, so that the gateway is not skipped because of it.
    """


class MainTable:
    """Main's default routes, and its specific routes by device."""

    def __init__(self, snapshot: Snapshot, config: Config) -> None:
        self.defaults: List[SeenRoute] = []
        self._protocol = config.protocol
        self._missing = config.metric_missing
        self._specific: Dict[str, List[SeenRoute]] = defaultdict(list)
        self._held = {held.address for held in snapshot.addresses}
        for seen in snapshot.routes:
            route = seen.route
            if route.table != MAIN:
                continue
            if route.is_default:
                self.defaults.append(seen)
            elif route.kind == "unicast" and not (route.dst.is_link_local or route.dst.is_multicast) and not route.tos:
                for dev in set(route.devs()):
                    self._specific[dev].append(seen)

    def on_link(self, network: Network, dev: str) -> bool:
        """Whether main reaches a network directly on a device."""
        return any(route.dst == network and any(hop.dev == dev and hop.gateway is None for hop in route.hops)
                   for route, _, _ in self._specific.get(dev, ()))

    def elsewhere(self, gateway: Address, dev: str) -> bool:
        """Whether main has an IPv6 gateway as another ENI's neighbour and would refuse a route to it by this one."""
        near = {name for name, routes in self._specific.items() for route, _, _ in routes if gateway in route.dst}
        return gateway.version == 6 and bool(near) and dev not in near

    def destinations(self, devs: Iterable[str]) -> Set[Network]:
        """The destinations of main's specific routes through one of the devices.

        The kernel's own routes to single addresses are left out: they lead to this host's own addresses, and packets to
        these never get as far as our rules.
        """
        return {route.dst for dev in devs for route, protocol, _ in self._specific.get(dev, ())
                if protocol != PROTOCOL_KERNEL or route.dst.prefixlen < route.dst.max_prefixlen}

    def copies(self, family: EniFamily, most: int) -> "Copies":
        """The user's own routes through an ENI as routes of its table. ``most``: of both IP versions together."""
        found: List[Route] = []
        closed: Dict[Network, Route] = {}
        for route, protocol, expires in self._specific.get(family.dev, ()):
            if protocol not in (PROTOCOL_KERNEL, self._protocol) and not expires:
                hops = tuple(self._copied(hop) for hop in route.hops if hop.dev == family.dev)
                if not any(hop.other for hop in hops):
                    found.append(route._replace(table=family.table, hops=hops))
                elif route.dst not in closed or route.metric < closed[route.dst].metric:
                    closed[route.dst] = route
        found = [route for route in found if route.dst not in closed or route.metric < closed[route.dst].metric]
        reached = {route.dst for route in found}
        fences = {fence(family.table, dst): route for dst, route in closed.items() if dst not in reached}
        found = list(itertools.chain(fences, found))
        own = [route for route in found[:most] if route.version == family.version]
        neighbours = [near for route in own for hop in route.hops for near in neighbour(family.table, hop)]
        return Copies(neighbours + own, len(found) > most, {
            refusal: route for refusal, route in fences.items() if route.version == family.version})

    def _copied(self, hop: Hop) -> Hop:
        """The hop as a copy has it, alone in its route.

        A gateway that is this host's own address means that the destination is directly on the link: main takes it as
        that, while the kernel refuses it with ``onlink``, which the copy needs (fib_check_nh, kernel 6.18).
        """
        return hop._replace(weight=1, gateway=None if hop.gateway in self._held else hop.gateway)

    def others_defaults(self, version: int, devs: AbstractSet[str]) -> List[Route]:
        """The default routes of an IP version without those of ours that go by these devices only."""
        return [seen.route for seen in self.defaults if seen.route.version == version
                and not (seen.protocol == self._protocol and devs >= set(seen.route.devs()))]

    def has_better(self, version: int, metric: int) -> bool:
        """Whether somebody else's default route comes before one of this metric.

        Without such a route ours would be the host's own default: it would replace one that is in another table by now,
        or make one where there is none on purpose.
        """
        return any(seen.route.version == version and seen.route.metric < metric and not seen.route.tos
                   and seen.protocol != self._protocol for seen in self.defaults)

    def metric(self, version: int, devs: AbstractSet[str]) -> int:
        """The best metric of a default route through one of the devices; for none, the worst that may still come."""
        return min((seen.route.metric for seen in self.defaults
                    if seen.route.version == version and not devs.isdisjoint(seen.route.devs())),
                   default=self._missing)


def neighbour(table: int, hop: Hop) -> List[Route]:
    """The route to an IPv6 gateway itself; none for IPv4 and link-local gateways.

    The kernel looks for an IPv6 gateway in the route's own table, unless the route says ``onlink``: then in main, where
    the gateway may be another ENI's neighbour (two ENIs in one vSwitch, one of them with the /64 on its link), and
    refuses the route (ip6_route_check_nh_onlink, kernel 6.18). So our tables say where it is.
    """
    if hop.gateway is None or hop.gateway.version == 4 or hop.gateway.is_link_local:
        return []
    return [Route(table, network_of(hop.gateway), (Hop(hop.dev),), metric=IPV6_METRIC)]

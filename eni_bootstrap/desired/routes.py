"""The routes of an ENI's table, and those of main and local that belong to it. PURE."""

from ipaddress import IPv6Network
from typing import Dict, Iterable, List, Sequence, Set, Tuple

from eni_bootstrap.config.settings import Config, fence
from eni_bootstrap.desired.main_table import MainTable, neighbour
from eni_bootstrap.desired.tables import Numbers
from eni_bootstrap.model.eni import Eni
from eni_bootstrap.model.kernel import EVERYWHERE, IPV6_METRIC, LOCAL, MAIN, UNREACHABLE_METRIC, Hop, Network, Route

_LINK_LOCAL = IPv6Network("fe80::/64")
_METRIC = {4: 0, 6: IPV6_METRIC}


def first_of_each_key(routes: Iterable[Route]) -> List[Route]:
    """Two routes with one key can't both be in a table: what comes first is there."""
    found: Dict[Tuple[int, Network, int, int], Route] = {}
    for route in routes:
        found.setdefault(route.key, route)
    return list(found.values())


def eni_routes(eni: Eni, table: int, main: MainTable) -> List[Route]:
    """A secondary's table: its vSwitch, its default, its fence."""
    routes = vswitch_routes(eni, table, main)
    for subnet in eni.interface.subnets:
        version = subnet.version
        routes += neighbour(table, Hop(eni.dev, subnet.gateway))
        routes.append(Route(table, EVERYWHERE[version], (Hop(eni.dev, subnet.gateway),), metric=_METRIC[version]))
        if version == 4:
            routes.append(fence(table))
        else:
            routes.append(Route(table, _LINK_LOCAL, (Hop(eni.dev),), metric=IPV6_METRIC))
    return routes


def local_prefixes(eni: Eni) -> List[Route]:
    """All addresses of the ENI's delegated prefixes as this host's own."""
    return [Route(LOCAL, prefix, (Hop("lo"),), "local", _METRIC[prefix.version])
            for subnet in eni.interface.subnets for prefix in subnet.prefixes]


def vswitch_routes(eni: Eni, table: int, main: MainTable) -> List[Route]:
    """The ENI's own vSwitch, directly on its link.

    IPv6 only where main has it so: DHCPv6 gives a /128 and no on-link prefix, then neighbours are reached by the
    gateway.
    """
    return [
        Route(table, subnet.vswitch, (Hop(eni.dev),), metric=_METRIC[subnet.version])
        for subnet in eni.interface.subnets
        if subnet.version == 4 or main.on_link(subnet.vswitch, eni.dev)
    ]


def via_own_gateway(
    eni: Eni, table: int, others: Sequence[Eni], other_devs: Set[str], own_copies: List[Route], main: MainTable
) -> List[Route]:
    """By the ENI's own gateway: all that main would send through another ENI.

    Where main has a more specific route of the user's through this very ENI inside such a destination, that one is
    copied, since nothing would fall through to it any more.
    """
    routes: List[Route] = []
    for subnet in eni.interface.subnets:
        away = {dst for dst in main.destinations(other_devs) if dst.version == subnet.version}
        away |= {other.vswitch for member in others for other in member.interface.subnets
                 if other.version == subnet.version}
        if subnet.version == 4 or main.on_link(subnet.vswitch, eni.dev):
            away.discard(subnet.vswitch)
        blocks = _blocks(away)
        copies = [route for route in own_copies if route.version == subnet.version and _inside(route.dst, blocks)]
        routes += copies
        routes += neighbour(table, Hop(eni.dev, subnet.gateway)) if away else []
        for dst in sorted(away - {route.dst for route in copies}):
            routes.append(Route(table, dst, (Hop(eni.dev, subnet.gateway),), metric=_METRIC[subnet.version]))
    return routes


def _inside(network: Network, blocks: Set[Tuple[int, int]]) -> bool:
    """Whether one of the blocks, as (prefix length, leading bits), holds the network."""
    bits = int(network.network_address)
    return any((length, bits >> (network.max_prefixlen - length)) in blocks for length in range(network.prefixlen + 1))


def _blocks(networks: Iterable[Network]) -> Set[Tuple[int, int]]:
    return {(block.prefixlen, int(block.network_address) >> (block.max_prefixlen - block.prefixlen))
            for block in networks}


def main_defaults(secondaries: Sequence[Eni], primary_devs: Set[str], numbers: Dict[str, Numbers], main: MainTable,
                  config: Config) -> List[Route]:
    """A default route in main for each secondary to which the operating system gave none, worse than the primary's.

    Some systems (Ubuntu 16, wicked) make none for a second interface; then nothing is reachable from its device. Where
    main has no better one of somebody else's there is none by a secondary either: the host's own way is in another
    table, is still to come, or is not wanted.
    """
    found: List[Route] = []
    for eni in secondaries:
        for subnet in eni.interface.subnets:
            version = subnet.version
            others = [seen.route for seen in main.defaults
                      if seen.route.version == version and not (main.is_own(seen) and seen.route.devs() == (eni.dev,))]
            if any(eni.dev in route.devs() for route in others) or main.elsewhere(subnet.gateway, eni.dev):
                continue
            taken = {route.metric for route in others} | {route.metric for route in found if route.version == version}
            metric = max(main.metric(version, primary_devs), config.metric_least) \
                + config.metric_step * numbers[eni.dev].order
            while metric in taken:
                metric += 1
            if metric >= UNREACHABLE_METRIC or not main.has_better(version, metric):
                continue  # the primary's is the worst there is, so that nothing can be worse, or there is none
            found.append(Route(MAIN, EVERYWHERE[version], (Hop(eni.dev, subnet.gateway),), metric=metric))
    return found


def primary_default(eni: Eni, table: int, secondary_devs: Set[str], added: Sequence[Route], main: MainTable
                    ) -> List[Route]:
    """The primary's own default, where main's best one goes by a secondary: its sources must not follow that.

    Two IPv6 defaults of one metric (router advertisements on both links) share the traffic; so does a multipath one.
    """
    routes = []
    for subnet in eni.interface.subnets:
        defaults = [seen.route for seen in main.defaults
                    if not (main.is_own(seen) and secondary_devs.issuperset(seen.route.devs()))] + list(added)
        defaults = [route for route in defaults if route.version == subnet.version]
        best = min((route.metric for route in defaults), default=0)
        if any(secondary_devs.intersection(route.devs()) for route in defaults if route.metric == best):
            routes.append(Route(table, EVERYWHERE[subnet.version], (Hop(eni.dev, subnet.gateway),),
                                metric=_METRIC[subnet.version]))
    return routes

"""The routes of an ENI's table, and the ENI's routes in main and local. PURE."""

from ipaddress import IPv6Network
from typing import AbstractSet, Dict, Iterable, List, Sequence, Set, Tuple

from eni_bootstrap.config.own_rules import fence
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.main_table import MainTable, neighbour
from eni_bootstrap.model.eni import EniFamily
from eni_bootstrap.model.kernel import EVERYWHERE, IPV6_METRIC, LOCAL, MAIN, UNREACHABLE_METRIC, Hop, Network, Route

_LINK_LOCAL = IPv6Network("fe80::/64")
_METRIC = {4: 0, 6: IPV6_METRIC}


def first_of_each_key(routes: Iterable[Route]) -> List[Route]:
    """Drop each route whose key an earlier one has: the kernel holds only one route of a key."""
    found: Dict[Tuple[int, Network, int, int], Route] = {}
    for route in routes:
        found.setdefault(route.key, route)
    return list(found.values())


def family_routes(family: EniFamily, main: MainTable, config: Config) -> List[Route]:
    """The routes of an ENI's table for one address family that depend on no other route of the host.

    A secondary has its vSwitch, a default route, the fence. The primary has its vSwitch, and with ``primary: full`` a
    default route without a fence.
    """
    routes = _vswitch_route(family, main)
    if family.primary and config.primary != "full":
        return routes
    routes += neighbour(family.table, family.hop)
    routes.append(_by_gateway(family, EVERYWHERE[family.version]))
    if family.version == 6:
        routes.append(Route(family.table, _LINK_LOCAL, (Hop(family.dev),), metric=IPV6_METRIC))
    elif not family.primary:
        routes.append(fence(family.table))
    return routes


def local_prefixes(family: EniFamily) -> List[Route]:
    """Local routes that make all addresses of the ENI's delegated prefixes this host's own."""
    return [Route(LOCAL, prefix, (Hop("lo"),), "local", _METRIC[prefix.version]) for prefix in family.prefixes]


def _vswitch_route(family: EniFamily, main: MainTable) -> List[Route]:
    """The route to the ENI's own vSwitch, directly on its link.

    For IPv6 only where main has it so: DHCPv6 gives a /128 and no on-link prefix; then neighbours are reached by the
    gateway.
    """
    if family.version == 6 and not main.on_link(family.vswitch, family.dev):
        return []
    return [Route(family.table, family.vswitch, (Hop(family.dev),), metric=_METRIC[family.version])]


def _by_gateway(family: EniFamily, dst: Network) -> Route:
    return Route(family.table, dst, (family.hop,), metric=_METRIC[family.version])


def via_own_gateway(family: EniFamily, vswitches: Iterable[Network], other_devs: AbstractSet[str],
                    own_copies: Sequence[Route], main: MainTable) -> List[Route]:
    """Routes by the ENI's own gateway to all destinations that main would send through another ENI.

    ``vswitches``: of the other ENIs.

    Where main has a more specific route of the user's through this very ENI inside such a destination, that route is
    copied (``own_copies``), since nothing would fall through to it any more.
    """
    away = {dst for dst in main.destinations(other_devs) if dst.version == family.version}
    away |= {vswitch for vswitch in vswitches if vswitch.version == family.version}
    if _vswitch_route(family, main):
        away.discard(family.vswitch)
    blocks = _blocks(away)
    copies = [route for route in own_copies if _inside(route.dst, blocks)]
    near = neighbour(family.table, family.hop) if away else []
    return copies + near + [_by_gateway(family, dst) for dst in sorted(away - {route.dst for route in copies})]


def _inside(network: Network, blocks: Set[Tuple[int, int]]) -> bool:
    """Whether one of the blocks, as (prefix length, leading bits), holds the network."""
    bits = int(network.network_address)
    return any((length, bits >> (network.max_prefixlen - length)) in blocks for length in range(network.prefixlen + 1))


def _blocks(networks: Iterable[Network]) -> Set[Tuple[int, int]]:
    return {(block.prefixlen, int(block.network_address) >> (block.max_prefixlen - block.prefixlen))
            for block in networks}


def main_defaults(families: Sequence[EniFamily], primary_devs: AbstractSet[str], main: MainTable, config: Config
                  ) -> List[Route]:
    """A default route in main for each secondary to which the operating system gave none, worse than the primary's.

    Some systems (Ubuntu 16, wicked) make none for a second interface; then nothing is reachable from its device. Where
    main has no better default route of somebody else's, a secondary gets none either: the host's own default is in
    another table, is still to come, or is not wanted.
    """
    found: List[Route] = []
    for family in families:
        if family.primary or main.elsewhere(family.gateway, family.dev):
            continue
        others = main.others_defaults(family.version, {family.dev})
        if any(family.dev in route.devs() for route in others):
            continue
        taken = {route.metric for route in others + found if route.version == family.version}
        metric = max(main.metric(family.version, primary_devs), config.metric_least) \
            + config.metric_step * family.number
        while metric in taken:
            metric += 1
        # Else the primary's is the worst there is, so that nothing can be worse, or there is none.
        if metric < UNREACHABLE_METRIC and main.has_better(family.version, metric):
            found.append(Route(MAIN, EVERYWHERE[family.version], (family.hop,), metric=metric))
    return found


def primary_default(family: EniFamily, secondary_devs: AbstractSet[str], added: Sequence[Route], main: MainTable
                    ) -> List[Route]:
    """The primary's own default route, only where main's best one goes by a secondary: its sources must not follow it.

    Two IPv6 defaults of one metric (router advertisements on both links) share the traffic; so does a multipath one.
    ``added``: defaults in main that we add.
    """
    defaults = main.others_defaults(family.version, secondary_devs)
    defaults += [route for route in added if route.version == family.version]
    best = min((route.metric for route in defaults), default=0)
    by_secondary = any(not secondary_devs.isdisjoint(route.devs()) for route in defaults if route.metric == best)
    return [_by_gateway(family, EVERYWHERE[family.version])] if by_secondary else []

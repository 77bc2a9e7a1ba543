"""An earlier decision, read back from the kernel's routes and rules, for when metadata is not asked. PURE."""

from collections import Counter
from typing import List, Optional, Sequence, Set

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.cni import at_parents
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.desired.egress import egresses
from eni_bootstrap.desired.matching import possible
from eni_bootstrap.desired.tables import Memory
from eni_bootstrap.model.eni import Eni, EniFamily, NetworkInterface, Subnet
from eni_bootstrap.model.kernel import MAIN, Address, Hop, Network, Route, Snapshot, natural, network_of


def recall(snapshot: Snapshot, config: Config) -> Decision:
    """The ENIs that have a table of ours, as far as their routes and rules describe them.

    A table belongs to the ENI whose routes are in it. Only where it has no routes, its sources decide: another link may
    carry one of them, too.
    """
    memory = Memory(snapshot, config)
    enis: List[Eni] = []
    families: List[EniFamily] = []
    taken: Set[int] = set()
    defaults = [seen.route for seen in snapshot.routes if seen.route.table == MAIN and seen.route.is_default]
    links = sorted(possible(snapshot.links), key=lambda link: natural(link.name))
    all_held = at_parents(snapshot.links, snapshot.addresses)
    for link in sorted(links, key=lambda link: not memory.tables_of(link.name, (), by_name=False)):
        held = [held for held in all_held if held.dev == link.name]
        addresses = {each.address for each in held}
        local = [rule.src for rule in memory.own_rules if rule.src and rule.src.network_address in addresses]
        for table in [table for table in memory.tables_of(link.name, local) if table not in taken][:1]:
            taken.add(table)
            led = memory.led_to(table)
            # What the link holds inside a vSwitch of the table should be led there, too, whether it is or not.
            own_routes = [route for route in memory.own_routes if route.table == table]
            blocks = [route.dst for route in own_routes
                      if route.hops == (Hop(link.name),) and not route.dst.is_link_local]
            led |= {network_of(address) for address in addresses
                    if any(block.version == address.version and address in block for block in blocks)}
            own = sorted(led, key=lambda src: (src.version, src))
            near = [each.network for each in held]
            subnets = tuple(
                _subnet(link.name, [src for src in own if src.version == version],
                        [route for route in own_routes if route.version == version],
                        [route for route in defaults if route.version == version], near)
                for version in sorted({src.version for src in own}))
            enis.append(Eni(NetworkInterface("", link.mac, table == config.table_primary, subnets), link, link.name))
            families += [EniFamily(enis[-1], subnet, tuple(src for src in own if src.version == subnet.version), table)
                         for subnet in subnets]
    enis.sort(key=lambda eni: (not eni.primary, natural(eni.dev)))
    families.sort(key=lambda family: (not family.primary, natural(family.dev), family.version))
    return Decision(tuple(enis), tuple(families), rules=tuple(memory.own_rules), routes=tuple(memory.own_routes),
                    ways=tuple(egresses(families, (), {}, memory)))


def _subnet(
    dev: str, sources: Sequence[Network], routes: Sequence[Route], defaults: Sequence[Route], near: Sequence[Network]
) -> Subnet:
    """The subnet of one IP version, from the ENI's sources and the routes of its table.

    ``defaults``: main's default routes. ``near``: the prefixes of the link's addresses, which tell the vSwitch from a
    user's on-link route that holds the source as well. A link that is down has lost its routes; then its first source
    stands for the vSwitch and the gateway.
    """
    first = sources[0]
    vswitches = [route.dst for route in routes
                 if route.hops == (Hop(dev),) and first.network_address in route.dst]
    gateway = _gateway(dev, routes, defaults)
    hosts = {src.network_address for src in sources if src.prefixlen == src.max_prefixlen}
    return Subnet(max(vswitches, key=lambda block: (block in near, -block.prefixlen), default=first),
                  first.network_address if gateway is None else gateway, tuple(sorted(hosts)))


def _gateway(dev: str, routes: Sequence[Route], defaults: Sequence[Route]) -> Optional[Address]:
    """The gateway of the table's default route; None where no route of the table has a gateway.

    The primary's table has no default route, but copies of the user's routes by other gateways. Then it is the gateway
    of main's default route, or else of most of the table's routes; of several such gateways the lowest.
    """
    ways = Counter(_via(dev, routes))
    for gateway in _via(dev, [route for route in routes if route.is_default] + list(defaults)):
        if gateway in ways:
            return gateway
    return max(ways, key=lambda gateway: (ways[gateway], -int(gateway)), default=None)


def _via(dev: str, routes: Sequence[Route]) -> List[Address]:
    """The gateways of these routes that are reached by the device."""
    return [hop.gateway for route in routes for hop in route.hops if hop.dev == dev and hop.gateway is not None]

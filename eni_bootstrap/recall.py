"""What the kernel tells of an earlier decision, where metadata can't be asked. PURE."""

from typing import Dict, List, Set

from eni_bootstrap.config import Config
from eni_bootstrap.evidence import at_parents
from eni_bootstrap.model import Address, Hop, NetworkInterface, Network, Snapshot, Subnet
from eni_bootstrap.pairing import Eni, natural, network_of
from eni_bootstrap.routing import Decision
from eni_bootstrap.tables import Memory, Numbers


def recall(snapshot: Snapshot, config: Config) -> Decision:
    """The ENIs that have a table of ours, as far as their routes and rules describe them."""
    memory = Memory(snapshot, config)
    enis: List[Eni] = []
    sources: Dict[str, List[Network]] = {}
    numbers: Dict[str, Numbers] = {}
    addresses = at_parents(snapshot.links, snapshot.addresses)
    for link in sorted(snapshot.links, key=lambda link: natural(link.name)):
        held = {held.address for held in addresses if held.dev == link.name}
        local = [rule.src for rule in memory.own_rules if rule.src and rule.src.network_address in held]
        for table in memory.tables_of(link.name, local)[:1]:
            primary = table == config.table_primary
            led = {rule.src for rule in memory.own_rules if rule.table == table and rule.src}
            # What the link holds inside a vSwitch of the table should be led there, too, whether it is or not.
            blocks = [route.dst for route in memory.own_routes
                      if route.table == table and route.hops == (Hop(link.name),) and not route.dst.is_link_local]
            led |= {network_of(address) for address in held
                    if any(block.version == address.version and address in block for block in blocks)}
            own = sorted(led, key=lambda src: (src.version, src))
            subnets = tuple(_subnet(version, link.name, table, own, memory)
                            for version in sorted({src.version for src in own}))
            enis.append(Eni(NetworkInterface("", link.mac, primary, subnets), link, link.name))
            sources[link.name] = own
            numbers[link.name] = Numbers(table, 0)
    enis.sort(key=lambda eni: not eni.primary)
    return Decision(tuple(enis), (), numbers, (), (), sources, rules=tuple(memory.own_rules),
                    routes=tuple(memory.own_routes))


def _subnet(version: int, dev: str, table: int, sources: List[Network], memory: Memory) -> Subnet:
    """A link that is down has lost its routes; then its first source stands for the vSwitch and the gateway.

    In the primary's table, which has no default, any gateway is the primary's.
    """
    first = next(src for src in sources if src.version == version)
    vswitch, gateway = first, first.network_address
    for route in memory.own_routes:
        if route.table != table or route.version != version or dev not in route.devs():
            continue
        via = route.hops[0].gateway
        if via is None and first.network_address in route.dst:
            vswitch = route.dst
        elif via is not None and (route.is_default or gateway == first.network_address):
            gateway = via
    hosts: Set[Address] = {src.network_address for src in sources
                           if src.version == version and src.prefixlen == src.max_prefixlen}
    return Subnet(vswitch, gateway, tuple(sorted(hosts)))

"""What an ENI's packets come from. PURE."""

from collections import defaultdict
from typing import Dict, Iterable, List, Sequence

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.matching import named
from eni_bootstrap.model.eni import Eni, Listing, Subnet
from eni_bootstrap.model.kernel import Address, LinkAddress, Network, network_of


def sources_of(subnets: Sequence[Subnet]) -> List[Network]:
    """All that an ENI's packets come from."""
    claims = [network_of(address) for subnet in subnets for address in subnet.addresses]
    return claims + [prefix for subnet in subnets for prefix in subnet.prefixes]


def all_sources(eni: Eni, on_link: Dict[str, List[LinkAddress]], listing: Listing) -> List[Network]:
    """All that metadata gives the ENI, and what sits on its link, or a child of it, inside its vSwitch (HAVIP,
    keepalived)."""
    addresses: List[Address] = []
    prefixes: List[Network] = []
    for subnet in eni.interface.subnets:
        known = set(subnet.addresses)
        addresses += subnet.addresses
        prefixes += subnet.prefixes
        for address in (held.address for held in on_link.get(eni.dev, ())):
            if address.version == subnet.version and address in subnet.vswitch and address not in known:
                if not _claimed_by_another(address, eni, listing):
                    known.add(address)
                    addresses.append(address)
    return [network_of(address) for address in addresses] + prefixes


def add_configured_sources(sources: Dict[str, List[Network]], enis: Sequence[Eni], config: Config) -> List[str]:
    """Add what the configuration gives to ENIs; what is wrong with that."""
    problems = []
    for extra in config.extra:
        where = "sources on line {}: ".format(extra.line)
        fitting = named(extra.eni, enis)
        if len(fitting) != 1 or fitting[0].primary:
            problems.append(where + "{} names {}".format(extra.eni, "no ENI" if not fitting else "the primary ENI"
                            if len(fitting) == 1 else "several ENIs"))
            continue
        own = sources[fitting[0].dev]
        for network in extra.networks:
            owner = next((dev for dev, others in sources.items() if others is not own and any(
                network.overlaps(other) for other in others if other.version == network.version)), "")
            if owner:
                problems.append(where + "{} is {}'s".format(network, owner))
            elif network not in own:
                own.append(network)
    return problems


def _claimed_by_another(address: Address, eni: Eni, listing: Listing) -> bool:
    return any(
        address in subnet.addresses or any(address in prefix for prefix in subnet.prefixes)
        for other in listing.interfaces if other.mac != eni.interface.mac for subnet in other.subnets
    )


def on_link_addresses(addresses: Iterable[LinkAddress]) -> Dict[str, List[LinkAddress]]:
    held: Dict[str, List[LinkAddress]] = defaultdict(list)
    for address in addresses:
        held[address.dev].append(address)
    return held

"""The sources of each ENI: the addresses and prefixes that its packets come from. PURE."""

from typing import Dict, List, Sequence, Tuple

from eni_bootstrap.config.settings import Config, Source
from eni_bootstrap.desired.matching import named
from eni_bootstrap.model.eni import Eni, EniFamily, Listing, Subnet
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import Address, LinkAddress, Network, network_of


def with_sources(enis: Sequence[Eni], addresses: Sequence[LinkAddress], listing: Listing) -> List[EniFamily]:
    """An ``EniFamily`` for each ENI and address family, with its sources; of each ENI IPv4 first.

    Sources are the addresses and prefixes that metadata gives the ENI, and the other addresses inside its vSwitch that
    its link, or a child of it, carries (HAVIP, keepalived). ``addresses``: from ``at_parents``.
    """
    return [EniFamily(eni, subnet, _sources(eni, subnet, addresses, listing)) for eni in enis for subnet in eni.subnets]


def _sources(eni: Eni, subnet: Subnet, addresses: Sequence[LinkAddress], listing: Listing) -> Tuple[Network, ...]:
    more = {held.address: None for held in addresses
            if held.dev == eni.dev and held.address.version == subnet.version and held.address in subnet.vswitch
            and held.address not in subnet.addresses and not _is_another_s(held.address, eni, listing)}
    return tuple(map(network_of, subnet.addresses + tuple(more))) + subnet.prefixes


def _is_another_s(address: Address, eni: Eni, listing: Listing) -> bool:
    return any(
        address in subnet.addresses or any(address in prefix for prefix in subnet.prefixes)
        for other in listing.interfaces if other.mac != eni.mac for subnet in other.subnets)


def with_configured_sources(families: Sequence[EniFamily], enis: Sequence[Eni], config: Config
                            ) -> Tuple[List[EniFamily], List[Finding]]:
    """Add the sources that the configuration gives to ENIs. Returns the families, and problems with such entries."""
    found = {family.key: family for family in families}
    problems: List[Finding] = []
    for extra in config.extra:
        where = "sources on line {}: {} names ".format(extra.line, extra.eni)
        fitting = named(extra.eni, enis)
        if not fitting:
            problems.append(Finding.error("no-such-eni", where + "no ENI"))
        elif len(fitting) > 1:
            problems.append(Finding.error("several-enis", where + "several ENIs"))
        elif fitting[0].primary:
            problems.append(Finding.error("source-not-possible", where + "the primary ENI", eni=fitting[0].label))
        else:
            problems += _add(found, fitting[0], extra)
    return list(found.values()), problems


def _add(found: Dict[Tuple[str, int], EniFamily], eni: Eni, extra: Source) -> List[Finding]:
    causes = {}
    for network in extra.networks:
        owner = next((family.dev for family in found.values() if family.eni is not eni and any(
            network.overlaps(other) for other in family.sources if other.version == network.version)), "")
        own = found.get((eni.dev, network.version))
        if owner:
            causes[network] = "{} is {}'s".format(network, owner)
        elif own is None:
            causes[network] = "no IPv{} is set up, and so not {}".format(network.version, network)
        elif network not in own.sources:
            found[own.key] = own._replace(sources=own.sources + (network,))
    return [Finding.error("source-not-possible", "sources on line {}: {}".format(extra.line, cause), eni=eni.label,
                          family=network.version) for network, cause in causes.items()]

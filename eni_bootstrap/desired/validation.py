"""Descriptions of ENIs that can't be true, or that would steal another ENI's traffic. PURE."""

from typing import Dict, List, Sequence, Set, Tuple

from eni_bootstrap.model.eni import Eni, Subnet, UnreadyEni
from eni_bootstrap.model.kernel import CLOUD_SERVICES, Address, LinkAddress, Network, network_of


def refuse_stealing(
    enis: Sequence[Eni], others: Sequence[UnreadyEni], held: Sequence[LinkAddress]
) -> Tuple[List[Eni], List[UnreadyEni]]:
    """Split off the address families whose description is absurd, and those of secondaries that would catch traffic of
    others.

    A rule is only as good as the address in it: one absurd prefix in the metadata could send all of the host's traffic
    out of a secondary ENI. Where metadata describes the primary badly, the addresses on its link (``held``) count as
    its own. ``enis``: the primary first. ``others``: ENIs that can't be set up.
    """
    primaries: Set[Network] = set()
    for subnets in [eni.subnets for eni in enis if eni.primary]:
        primaries.update(_claims(subnets))
    for other in others:
        if other.primary:
            primaries.update(_claims(other.subnets))
            primaries.update(_held(held, other.dev, other.versions))
    fit: List[Eni] = []
    refused: List[UnreadyEni] = []
    taken: Set[Network] = set()
    wide = [network for network in primaries if network.prefixlen < network.max_prefixlen]
    for eni in enis:
        reasons: Dict[int, str] = {}
        for subnet in eni.subnets:
            claims = subnet.sources
            reason = _absurdity(subnet)
            if not reason and not eni.primary:
                reason = _theft(subnet, claims, primaries, taken, wide)
            if reason:
                reasons[subnet.version] = reason
                primaries.update(_held(held, eni.dev, [subnet.version]) if eni.primary else ())
            else:
                taken.update(claims)
                wide += [network for network in claims if network.prefixlen < network.max_prefixlen]
        rest, bad = eni.without(reasons)
        fit += [rest] if rest else []
        refused += [member._replace(vswitches=_believed_vswitches(member)) for member in bad]
    return fit, refused


WIDEST = {4: 8, 6: 48}
"""Prefix length of the widest vSwitch that is believed: Alibaba's have /16 to /29 and /64. A wider one, taken for
on-link, would cut off half of the world."""


def _absurdity(subnet: Subnet) -> str:
    """Why this description can't be true of any ENI, or ""."""
    vswitch = subnet.vswitch
    reason = _vswitch_absurdity(vswitch)
    if reason:
        return reason
    nobody_s: Set[Address] = set()
    if vswitch.version == 4 and vswitch.prefixlen < 31:
        nobody_s = {vswitch.network_address, vswitch.broadcast_address}
    for address in subnet.addresses:
        if (address in nobody_s or address.is_loopback or address.is_multicast or address.is_unspecified
                or address.is_link_local):
            return "metadata gives it {}, which can't be an ENI's address".format(address)
    return ""


def _vswitch_absurdity(vswitch: Network) -> str:
    if vswitch.prefixlen < WIDEST[vswitch.version]:
        return "metadata gives it the vSwitch {}, which is too wide to be one".format(vswitch)
    if vswitch.version == 4 and vswitch.overlaps(CLOUD_SERVICES):
        return "metadata gives it the vSwitch {}, which is the cloud's own services'".format(vswitch)
    return ""


def _believed_vswitches(member: UnreadyEni) -> Tuple[Network, ...]:
    """The vSwitch of a family whose addresses alone are wrong: what others send there does not depend on its health.

    Of an ENI that is refused as a whole nothing is believed.
    """
    return tuple(subnet.vswitch for subnet in member.subnets
                 if member.version and not _vswitch_absurdity(subnet.vswitch))


def _theft(subnet: Subnet, claims: Sequence[Network], primaries: Set[Network], taken: Set[Network],
           wide: Sequence[Network]) -> str:
    """Why a secondary must not have the sources of this description (``claims``), or "".

    ``primaries``: the primary's sources. ``taken``: those of the ENIs before. ``wide``: what of both is more than one
    address.
    """
    for address in subnet.addresses:
        if address not in subnet.vswitch and not any(address in block for block in subnet.vpc):
            return "metadata gives it {}, which is outside its vSwitch {}".format(address, subnet.vswitch)
    for prefix in subnet.prefixes:
        inside = prefix.network_address in subnet.vswitch and prefix.prefixlen >= subnet.vswitch.prefixlen
        if not inside:
            return "metadata gives it the prefix {}, which is outside its vSwitch {}".format(prefix, subnet.vswitch)
    for network in claims:
        single = network.prefixlen == network.max_prefixlen
        if network in primaries or any(
                _overlap(other, network) for other in (wide if single else primaries) if other in primaries):
            return "metadata gives it {}, which is the primary ENI's".format(network)
        # An address inside another ENI's prefix is its own: the address's rule comes first.
        if network in taken or not single and any(_overlap(other, network) for other in wide):
            return "metadata gives it {}, which it gives to another ENI too".format(network)
    return ""


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and (
        one.network_address in other or other.network_address in one)


def _held(held: Sequence[LinkAddress], dev: str, versions: Sequence[int]) -> List[Network]:
    return [network_of(own.address) for own in held if own.dev == dev and own.address.version in versions]


def _claims(subnets: Sequence[Subnet]) -> List[Network]:
    return [source for subnet in subnets for source in subnet.sources]

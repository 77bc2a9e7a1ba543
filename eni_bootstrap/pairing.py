"""Which link is which ENI, and which ENIs can be set up. PURE.

An ENI and its link know each other by the MAC alone. Names lie (a custom image calls the second ENI ens5), the order
in the metadata means nothing, and one MAC can sit on several devices: a bridge takes its port's, a VLAN or macvlan
child its parent's, a bond's ports the bond's.
"""

from fnmatch import fnmatchcase
from typing import AbstractSet, Dict, Iterable, List, Mapping, Sequence, Set, Tuple, Union

from eni_bootstrap.model.eni import Eni, Left, Listing, NetworkInterface, Subnet, Unfit
from eni_bootstrap.model.kernel import CLOUD_SERVICES, Address, Link, LinkAddress, Network, natural, network_of


def pair(listing: Listing, links: Sequence[Link]) -> Tuple[List[Eni], List[Unfit]]:
    """Join what metadata lists with the links that there are; both in natural order of the device names."""
    enis: List[Eni] = []
    unfit: List[Unfit] = []
    by_index = {link.ifindex: link for link in links}

    def give_up(interface: NetworkInterface, reason: str, passing: bool = False, dev: str = "") -> None:
        unfit.append(Unfit(interface.eni_id, interface.mac, interface.primary, reason, passing, dev, interface.subnets,
                           vswitch_id=interface.vswitch_id))

    for sick in listing.sick:
        own = _own_links(sick.mac, links)
        dev = own[0].name if len(own) == 1 else ""
        unfit.append(Unfit(sick.eni_id, sick.mac, sick.primary, sick.reason, sick.passing, dev))
    for interface in listing.interfaces:
        own = _own_links(interface.mac, links)
        if not own:
            give_up(interface, "no link has this MAC; is it still being bound, or in another network namespace?", True)
            continue
        if len(own) > 1:
            give_up(interface, "several links have this MAC: " + ", ".join(link.name for link in own))
            continue
        carrier = _carrier(own[0], by_index)
        if carrier is not own[0] and carrier.kind not in _CARRIERS:
            give_up(interface, "{} is a port of the {} {}, which routes by itself: left alone".format(
                own[0].name, carrier.kind or "device", carrier.name), dev=own[0].name)
            continue
        enis.append(Eni(interface, own[0], carrier.name))

    enis.sort(key=lambda eni: (not eni.primary, natural(eni.link.name)))
    first: Dict[str, Eni] = {}
    for eni in enis:
        if first.setdefault(eni.dev, eni) is not eni:
            give_up(eni.interface, "{} already carries {}".format(eni.dev, first[eni.dev].label), dev=eni.link.name)
    return [eni for eni in enis if first[eni.dev] is eni], unfit


_CARRIERS = ("bond", "bridge", "team")
"""Masters that carry their ports' addresses and routes. Others (VRF, Open vSwitch) look up routes in a way of their
own, past our rules."""


def _carrier(link: Link, by_index: Mapping[int, Link]) -> Link:
    """The device that carries a link's addresses and routes: the outermost master."""
    while link.master in by_index:
        link = by_index[link.master]
    return link


def _own_links(mac: str, links: Sequence[Link]) -> List[Link]:
    """Links that can be the ENI itself: hardware, or a veth where the whole instance is a namespace."""
    return [link for link in links if link.mac == mac and link.kind in ("", "veth")]


def possible(links: Sequence[Link]) -> List[Link]:
    """The links that can be an ENI's device: one that can be the ENI itself, or the bond, bridge or team over it.

    Others may bear an ENI's address, too: lo for a load balancer, a macvlan for keepalived.
    """
    by_index = {link.ifindex: link for link in links}
    own = {eni.link.ifindex for eni in likely(links)}
    own |= {carrier.ifindex for carrier in (_carrier(link, by_index) for link in links if link.ifindex in own)
            if carrier.kind in _CARRIERS}
    return [link for link in links if link.ifindex in own]


def likely(links: Sequence[Link]) -> List[Eni]:
    """Whatever may be an ENI, as long as nobody tells: without addresses."""
    return [Eni(NetworkInterface("", link.mac, False, ()), link, link.name)
            for link in links if link.mac and link in _own_links(link.mac, [link])]


def refuse_stealing(
    enis: Sequence[Eni], others: Sequence[Unfit], held: Sequence[LinkAddress]
) -> Tuple[List[Eni], List[Unfit]]:
    """Take out the secondaries whose description would catch traffic that can't be theirs.

    A rule is only as good as the address in it: one absurd prefix in the metadata could send all of the host's
    traffic out of a secondary ENI. Where metadata describes the primary badly, what its link holds (``held``) is
    taken for its own.
    """
    primaries: Set[Network] = set()
    for subnets in [eni.interface.subnets for eni in enis if eni.primary]:
        primaries.update(sources_of(subnets))
    for other in others:
        if other.primary:
            primaries.update(sources_of(other.subnets))
            primaries.update(network_of(own.address) for own in held if own.dev == other.dev)
    fit: List[Eni] = []
    refused: List[Unfit] = []
    taken: Set[Network] = set()
    wide = [network for network in primaries if network.prefixlen < network.max_prefixlen]
    for eni in enis:
        reason = _absurdity(eni.interface)
        if not reason and not eni.primary:
            reason = _theft(eni.interface, primaries, taken, wide)
        if reason:
            refused.append(eni.unfit(reason))
        else:
            claims = sources_of(eni.interface.subnets)
            taken.update(claims)
            wide += [network for network in claims if network.prefixlen < network.max_prefixlen]
            fit.append(eni)
    return fit, refused


WIDEST = {4: 8, 6: 48}
"""Prefix length of the widest vSwitch that is believed: Alibaba's have /16 to /29 and /64. A wider one, taken for
on-link, would cut off half of the world."""


def sources_of(subnets: Sequence[Subnet]) -> List[Network]:
    """All that an ENI's packets come from."""
    claims = [network_of(address) for subnet in subnets for address in subnet.addresses]
    return claims + [prefix for subnet in subnets for prefix in subnet.prefixes]


def _absurdity(interface: NetworkInterface) -> str:
    """Why this description can't be true of any ENI, or ""."""
    for subnet in interface.subnets:
        vswitch = subnet.vswitch
        if vswitch.prefixlen < WIDEST[vswitch.version]:
            return "metadata gives it the vSwitch {}, which is too wide to be one".format(vswitch)
        if vswitch.version == 4 and vswitch.overlaps(CLOUD_SERVICES):
            return "metadata gives it the vSwitch {}, which is the cloud's own services'".format(vswitch)
        nobody_s: Set[Address] = set()
        if vswitch.version == 4 and vswitch.prefixlen < 31:
            nobody_s = {vswitch.network_address, vswitch.broadcast_address}
        for address in subnet.addresses:
            if (address in nobody_s or address.is_loopback or address.is_multicast or address.is_unspecified
                    or address.is_link_local):
                return "metadata gives it {}, which can't be an ENI's address".format(address)
    return ""


def _theft(interface: NetworkInterface, primaries: Set[Network], taken: Set[Network], wide: Sequence[Network]) -> str:
    """Why a secondary must not have what this description gives it, or "".

    ``wide`` has what of ``primaries`` and ``taken`` is more than one address.
    """
    for subnet in interface.subnets:
        for address in subnet.addresses:
            if not any(address in block for block in (subnet.vswitch,) + subnet.vpc):
                return "metadata gives it {}, which is outside its vSwitch {}".format(address, subnet.vswitch)
        for prefix in subnet.prefixes:
            inside = prefix.network_address in subnet.vswitch and prefix.prefixlen >= subnet.vswitch.prefixlen
            if not inside:
                return "metadata gives it the prefix {}, which is outside its vSwitch {}".format(prefix, subnet.vswitch)
    for network in sources_of(interface.subnets):
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


def leave_out_ipv6(enis: Sequence[Eni], links: Sequence[Link]) -> Tuple[List[Eni], List[Unfit], List[str]]:
    """The ENIs without IPv6 where it is switched off on their device: the kernel would refuse every route."""
    off = {link.name for link in links if not link.ipv6}
    fit: List[Eni] = []
    unfit: List[Unfit] = []
    remarks: List[str] = []
    for eni in enis:
        interface = eni.interface
        rest = tuple(subnet for subnet in interface.subnets if subnet.version == 4 or eni.dev not in off)
        if not rest:
            unfit.append(eni.unfit(
                "metadata gives it IPv6 only, which is switched off on the device (sysctl disable_ipv6)"))
            continue
        if rest != interface.subnets:
            remarks.append(eni.label + ": IPv6 is switched off on the device (sysctl disable_ipv6) and left out")
        fit.append(eni._replace(interface=interface._replace(subnets=rest)))
    return fit, unfit, remarks


def leave_resting(enis: Sequence[Eni], links: Sequence[Link], once_up: AbstractSet[str]
                  ) -> Tuple[List[Eni], List[Unfit]]:
    """The ENIs without the secondaries whose link somebody has taken down: it was up once, and is not now."""
    down = {link.name for link in links if not link.up}
    resting = [eni for eni in enis if not eni.primary and eni.dev in down and eni.dev in once_up]
    reason = "its link has been taken down and is left so"
    return ([eni for eni in enis if eni not in resting], [eni.unfit(reason)._replace(resting=True) for eni in resting])


def names(pattern: str, eni_id: str, mac: str, devs: Iterable[str], vswitch_id: str = "") -> bool:
    """Whether a word of the configuration, wildcards and all, names this ENI."""
    return any(name and fnmatchcase(name.lower(), pattern.lower()) for name in (eni_id, mac, vswitch_id, *devs))


def named(pattern: str, enis: Sequence[Eni]) -> List[Eni]:
    return [eni for eni in enis if names(pattern, eni.interface.eni_id, eni.interface.mac, (eni.dev, eni.link.name),
                                         eni.interface.vswitch_id)]


def leave_ignored(enis: Sequence[Eni], unfit: Sequence[Unfit], ignore: Sequence[str], only: Sequence[str]
                  ) -> Tuple[List[Eni], List[Unfit], List[Left]]:
    """What the configuration lets us work on, and what it leaves alone: never the primary.

    Metadata may have lost the vSwitch of one that is unfit, and then ``only`` can't tell: what it has stays.
    """
    def out(eni_id: str, mac: str, devs: Tuple[str, ...], vswitch_id: str, whole: bool = True) -> bool:
        return any(names(pattern, eni_id, mac, devs, vswitch_id) for pattern in ignore) or bool(only) and not any(
            names(pattern, eni_id, mac, devs, vswitch_id) or not whole and "vsw" in pattern for pattern in only)

    ignored = [eni for eni in enis if not eni.primary and out(
        eni.interface.eni_id, eni.mac, eni.devs, eni.interface.vswitch_id)]
    spared = [member for member in unfit if not member.primary and out(
        member.eni_id, member.mac, member.devs, member.vswitch_id, bool(member.vswitch_id))]
    reason = "as the configuration says"
    return ([eni for eni in enis if eni not in ignored], [member for member in unfit if member not in spared],
            [left(eni, reason) for eni in ignored] + [left(member, reason) for member in spared])


def left_text(enis: Sequence[Eni], left_ones: Sequence[Left], ignore: Sequence[str]) -> List[str]:
    """What to say of those that are left alone, and of a primary that somebody has named and that is not."""
    return [member.text for member in left_ones] + [
        "{}: ignore names it, but it is the primary ENI, which is never left alone".format(eni.label)
        for eni in enis if eni.primary and any(
            named(word, [eni]) for word in ignore if not set("*?[").intersection(word))]


def unwanted_text(ignore: Sequence[str], only: Sequence[str]) -> List[str]:
    """What the configuration leaves alone, where it can't be told which ENIs these are."""
    said = "left alone, as the configuration says: {}{}"
    return [said.format(but, ", ".join(words)) for but, words in (("", ignore), ("all but ", only)) if words]


def left(eni: Union[Eni, Unfit], reason: str, used: bool = False) -> Left:
    """An ENI, fit or not, as one that is left alone."""
    return Left(eni.label, eni.devs, tuple(sources_of(eni.subnets)), reason, used)

"""Which link is which ENI, and which ENIs can be set up. PURE.

Only the MAC joins an ENI and its link. Names lie (a custom image calls the second ENI ens5), the order in the metadata
means nothing, and several devices can have one MAC: a bridge takes its port's, a VLAN or macvlan child its parent's, a
bond's ports the bond's.
"""

from fnmatch import fnmatchcase
from typing import Dict, Iterable, List, Mapping, Sequence, Tuple, Union

from eni_bootstrap.model.eni import Eni, Listing, NetworkInterface, SkippedEni, UnreadyEni
from eni_bootstrap.model.kernel import Link, natural


def pair(listing: Listing, links: Sequence[Link]) -> Tuple[List[Eni], List[UnreadyEni]]:
    """Join the listed ENIs with the links of this host.

    Returns the ENIs that have a device, in natural order of their links' names, the primary first; and the others.
    """
    enis: List[Eni] = []
    unready: List[UnreadyEni] = []
    by_index = {link.ifindex: link for link in links}

    def give_up(interface: NetworkInterface, reason: str, transient: bool = False, dev: str = "", cure: str = ""
                ) -> None:
        unready.append(UnreadyEni(interface.eni_id, interface.mac, interface.primary, reason, transient, dev,
                                  interface.subnets, vswitch_id=interface.vswitch_id, link=dev, cure=cure))

    for sick in listing.sick:
        own = own_links(sick.mac, links)
        link, dev = (own[0].name, _device(own[0], by_index)) if len(own) == 1 else ("", "")
        unready.append(UnreadyEni(sick.eni_id, sick.mac, sick.primary, sick.reason, sick.transient, dev,
                                  vswitch_id=sick.vswitch_id, version=sick.version, link=link,
                                  vswitches=sick.vswitches))
    for interface in listing.interfaces:
        own = own_links(interface.mac, links)
        if not own:
            give_up(interface, "no link has this MAC", True,
                    cure="see whether it is still being bound, or is in another network namespace")
            continue
        if len(own) > 1:
            give_up(interface, "several links have this MAC: " + ", ".join(link.name for link in own))
            continue
        carrier = _carrier(own[0], by_index)
        if carrier is not own[0] and carrier.kind not in _CARRIERS:
            give_up(interface, "{} is a port of the {} {}, which routes by itself: left alone".format(
                own[0].name, carrier.kind or "device", carrier.name), dev=own[0].name)
            continue
        enis.append(Eni(interface, own[0], _device(own[0], by_index)))

    enis.sort(key=lambda eni: (not eni.primary, natural(eni.link.name)))
    first = _first_of_each_device(enis, unready)
    unready = [member if first.get(member.dev, member).mac == member.mac else member._replace(dev=member.link)
               for member in unready]
    for eni in enis:
        if first[eni.dev].mac != eni.mac:
            give_up(eni.interface, "{} already carries {}".format(eni.dev, first[eni.dev].label), dev=eni.link.name)
    return [eni for eni in enis if first[eni.dev].mac == eni.mac], unready


def _first_of_each_device(enis: Sequence[Eni], unready: Sequence[UnreadyEni]) -> Dict[str, Union[Eni, UnreadyEni]]:
    """Device -> the ENI that has it: of several ports' ENIs the first. A sick one counts: what it has stays."""
    claims: List[Tuple[str, Union[Eni, UnreadyEni]]] = [(eni.link.name, eni) for eni in enis]
    claims += [(member.link, member) for member in unready if member.dev]
    claims.sort(key=lambda claim: (not claim[1].primary, natural(claim[0])))
    found: Dict[str, Union[Eni, UnreadyEni]] = {}
    for _, eni in claims:
        found.setdefault(eni.dev, eni)
    return found


_CARRIERS = ("bond", "bridge", "team")
"""Kinds of masters that carry their ports' addresses and routes. Others (VRF, Open vSwitch) look up routes in a way of
their own, past our rules."""


def _carrier(link: Link, by_index: Mapping[int, Link]) -> Link:
    """The device that carries a link's addresses and routes: the outermost master."""
    while link.master in by_index:
        link = by_index[link.master]
    return link


def _device(link: Link, by_index: Mapping[int, Link]) -> str:
    """The name of the device by which an ENI's routes go: its own link, or the bond, bridge or team over it."""
    carrier = _carrier(link, by_index)
    return carrier.name if carrier.kind in _CARRIERS else link.name


def own_links(mac: str, links: Sequence[Link]) -> List[Link]:
    """Links that can be the ENI itself: hardware, or a veth where the whole instance is a namespace."""
    return [link for link in links if link.mac == mac and link.kind in ("", "veth")]


def possible(links: Sequence[Link]) -> List[Link]:
    """The links that can be an ENI's device: a link that can be the ENI itself, or the bond, bridge or team over it.

    Other links may carry an ENI's address, too: lo for a load balancer, a macvlan for keepalived.
    """
    by_index = {link.ifindex: link for link in links}
    own = {eni.link.ifindex for eni in likely(links)}
    own |= {carrier.ifindex for carrier in (_carrier(link, by_index) for link in links if link.ifindex in own)
            if carrier.kind in _CARRIERS}
    return [link for link in links if link.ifindex in own]


def likely(links: Sequence[Link]) -> List[Eni]:
    """Candidate ENIs by link type alone, for when metadata was not asked; they carry no addresses."""
    return [Eni(NetworkInterface("", link.mac, False, ()), link, link.name)
            for link in links if link.mac and link in own_links(link.mac, [link])]


def skip(eni: Union[Eni, UnreadyEni], reason: str, used: bool = False) -> SkippedEni:
    """Turn an ENI, ready or not, into one that is left alone. ``used``: somebody else uses it."""
    return SkippedEni(eni.label, eni.devs, tuple(source for subnet in eni.subnets for source in subnet.sources),
                      reason, used)


def names(pattern: str, eni_id: str, mac: str, devs: Iterable[str], vswitch_id: str = "") -> bool:
    """Whether a word of the configuration, which may have wildcards, names this ENI; case does not count."""
    return any(name and fnmatchcase(name.lower(), pattern.lower()) for name in (eni_id, mac, vswitch_id, *devs))


def named(pattern: str, enis: Sequence[Eni]) -> List[Eni]:
    """The ENIs that a word of the configuration names."""
    return [eni for eni in enis if names(pattern, eni.interface.eni_id, eni.interface.mac, (eni.dev, eni.link.name),
                                         eni.interface.vswitch_id)]

"""What should be of the ENIs' links: their group, up or not, an address. PURE."""

from typing import Dict, FrozenSet, List, NamedTuple, Sequence, Tuple

from eni_bootstrap.config import Config
from eni_bootstrap.model import LinkAddress, LinkGroup, LinkUp, Made, Snapshot, Subnet
from eni_bootstrap.pairing import Eni, Unfit


class Unaddressed(NamedTuple):
    """A link that is up and has no address of a family that its ENI has."""

    eni: Eni
    version: int


def link_groups(
    enis: Sequence[Eni], unfit: Sequence[Unfit], snapshot: Snapshot, config: Config
) -> Tuple[List[LinkGroup], str]:
    """Our interface group on every ENI's device; none at all, and why, where one belongs to somebody else's."""
    devs = {eni.dev: eni.label for eni in enis}
    devs.update({member.dev: member.label for member in unfit if member.dev})
    present = {link.name: link for link in snapshot.links if link.name in devs}
    for name, link in sorted(present.items()):
        if link.group not in (0, config.group):
            return [], ("{}: belongs to interface group {}, which is somebody else's; going without a group: routes in "
                        "main that overlap an ENI's are less exact".format(devs[name], link.group))
    return [LinkGroup(name, config.group) for name, link in sorted(present.items()) if not link.master], ""


def link_changes(
    secondaries: Sequence[Eni], on_link: Dict[str, List[LinkAddress]], snapshot: Snapshot, made: Made,
    patience_over: FrozenSet[Tuple[str, int]],
) -> Tuple[List[LinkUp], List[LinkAddress], List[LinkAddress], List[Unaddressed], List[str]]:
    """Links to bring up, addresses to add, addresses of ours to drop, links to wait for, and remarks.

    A link that carries no address of a family gets one when nobody else is coming to address it: when it was down,
    when it was we who addressed it before, or when nobody came for long enough.
    """
    ups: List[LinkUp] = []
    wanted: List[LinkAddress] = []
    dropped: List[LinkAddress] = []
    waiting: List[Unaddressed] = []
    remarks: List[str] = []
    up = {link.name for link in snapshot.links if link.up}
    for eni in secondaries:
        if eni.dev != eni.link.name:
            continue  # its master is somebody's deliberate set-up
        ups.append(LinkUp(eni.dev))
        ours = {address for address in made.addresses if address.dev == eni.dev}
        for subnet in eni.interface.subnets:
            held = [held for held in on_link.get(eni.dev, ()) if held.address.version == subnet.version]
            stale = [mine for mine in held if mine in ours and mine.address not in subnet.addresses
                     and not takes_others_along(mine, held, made)]
            dropped += stale
            wanted += [mine for mine in held if mine in ours and mine not in stale]
            if len(held) > len(stale) or not subnet.addresses:
                continue
            first = subnet.addresses[0]
            elsewhere = [held.dev for held in snapshot.addresses if held.address == first and held.dev != eni.dev]
            if elsewhere:
                remarks.append("{}: its address {} is on {}, and so is not put on its own link".format(
                    eni.label, first, elsewhere[0]))
                continue
            nobody_comes = eni.dev not in up or any(mine.address.version == subnet.version for mine in ours)
            if nobody_comes or (eni.dev, subnet.version) in patience_over:
                wanted.append(_link_address(eni, subnet))
            else:
                waiting.append(Unaddressed(eni, subnet.version))
    return ups, wanted, dropped, waiting, remarks


def takes_others_along(address: LinkAddress, held: Sequence[LinkAddress], made: Made) -> bool:
    """Whether somebody else's address would go with this one.

    The first IPv4 address of a subnet on a link takes the others of that subnet with it when it is deleted (unless
    promote_secondaries is set).
    """
    return address.address.version == 4 and any(
        other.dev == address.dev and other.prefix_length == address.prefix_length and other not in made.addresses
        and other.network == address.network for other in held)


def _link_address(eni: Eni, subnet: Subnet) -> LinkAddress:
    length = subnet.vswitch.prefixlen if subnet.version == 4 else 128
    return LinkAddress(eni.dev, subnet.addresses[0], length)

"""What should be of the ENIs' links: their group, up or not, an address. PURE."""

from collections import defaultdict
from typing import Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Set, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.matching import named
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.eni import Eni, Subnet, UnreadyEni
from eni_bootstrap.model.kernel import Address, LinkAddress, LinkGroup, LinkSetting, LinkUp, Snapshot


class Unaddressed(NamedTuple):
    """A link that is up and has no address of a family that its ENI has."""

    eni: Eni
    version: int


def link_groups(
    enis: Sequence[Eni], unready: Sequence[UnreadyEni], snapshot: Snapshot, config: Config
) -> Tuple[List[LinkGroup], str]:
    """Our interface group on every ENI's device; none at all, and why, where one belongs to somebody else's."""
    if not config.group:
        return [], ""
    devs = {eni.dev: eni.label for eni in enis}
    devs.update({member.dev: member.label for member in unready if member.dev})
    present = {link.name: link for link in snapshot.links if link.name in devs}
    for name, link in sorted(present.items()):
        if link.group not in (0, config.group):
            return [], ("{}: belongs to interface group {}, which is somebody else's; going without a group: routes in "
                        "main that overlap an ENI's are less exact".format(devs[name], link.group))
    return [LinkGroup(name, config.group) for name, link in sorted(present.items()) if not link.master], ""


def link_settings(enis: Sequence[Eni], config: Config) -> Tuple[List[LinkSetting], List[str]]:
    """What the configuration asks of the links, the first entry that names one, and what is wrong with that."""
    found: Dict[Tuple[str, str], LinkSetting] = {}
    problems = []
    for wish in config.links:
        fitting = named(wish.eni, enis)
        if not fitting:
            problems.append("links on line {}: no ENI is named {}".format(wish.line, wish.eni))
        for eni in fitting:
            for name, value in wish.settings:
                found.setdefault((eni.dev, name), LinkSetting(eni.dev, name, value))
    return list(found.values()), problems


def link_changes(
    enis: Sequence[Eni], on_link: Dict[str, List[LinkAddress]], snapshot: Snapshot, made: Record,
    address_wait_expired: FrozenSet[Tuple[str, int]], config: Config,
) -> Tuple[List[LinkUp], List[LinkAddress], List[LinkAddress], List[Unaddressed], List[str]]:
    """Links to bring up, addresses to add, addresses of ours to drop, links to wait for, and remarks.

    A secondary's link that carries no address of a family gets one when nobody else is coming to address it: when it
    was down, when it was we who addressed it before, or when nobody came for long enough. The ENI's other addresses
    (``assign: all``) come behind that one, the primary's too.
    """
    ups: List[LinkUp] = []
    wanted: List[LinkAddress] = []
    dropped: List[LinkAddress] = []
    waiting: List[Unaddressed] = []
    remarks: List[str] = []
    up = {link.name for link in snapshot.links if link.up}
    holders: Dict[Address, Set[str]] = defaultdict(set)
    for each in snapshot.addresses:
        holders[each.address].add(each.dev)
    for eni in enis:
        if not eni.primary and eni.dev == eni.link.name:  # a master is somebody's deliberate set-up
            ups.append(LinkUp(eni.dev))
        ours = {address for address in made.addresses if address.dev == eni.dev}
        for subnet in eni.interface.subnets:
            held = [held for held in on_link.get(eni.dev, ()) if held.address.version == subnet.version]
            stale = [mine for mine in held if mine in ours and not _stays(mine, subnet, held, config)
                     and not takes_others_along(mine, held, made)]
            left = [other for other in held if other not in stale]
            dropped += stale
            lead = _lead(subnet, left)
            if not subnet.addresses or config.assign == "none":
                continue
            if lead is None and LinkUp(eni.dev) in ups and (not left or config.assign == "all"):
                first = LinkAddress(eni.dev, subnet.addresses[0], _length(subnet, left))
                elsewhere = holders[first.address] - {eni.dev}
                nobody_comes = eni.dev not in up or any(
                    mine.address.version == subnet.version and not _is_extra(mine, subnet) for mine in ours)
                if first._replace(deprecated=True) in ours.intersection(left):
                    lead = first
                elif elsewhere:
                    remarks.append(_is_elsewhere(eni, first.address, elsewhere))
                elif not nobody_comes and (eni.dev, subnet.version) not in address_wait_expired:
                    waiting.append(Unaddressed(eni, subnet.version))
                elif subnet.version == 6 or ours.issuperset(left):
                    lead = first
                    if subnet.version == 4:  # what is there would stay in front of it
                        dropped += left
                        left = []
                else:
                    remarks.append("{}: its address {} is not on its link, which has others; no more are put there"
                                   .format(eni.label, first.address))
                if lead is not None:
                    wanted.append(lead)
            wanted += [mine for mine in left if mine in ours and (lead is None or mine.address != lead.address
                                                                  or mine == lead)]
            if lead is None or config.assign != "all":
                continue
            for address in subnet.addresses:
                elsewhere = holders[address] - {eni.dev}
                if elsewhere:
                    remarks.append(_is_elsewhere(eni, address, elsewhere))
                elif address != lead.address and all(other.address != address for other in left):
                    wanted.append(LinkAddress(eni.dev, address, _length(subnet, [lead]),
                                              deprecated=subnet.version == 6))
    return ups, list(dict.fromkeys(wanted)), dropped, waiting, remarks


def _stays(mine: LinkAddress, subnet: Subnet, held: Sequence[LinkAddress], config: Config) -> bool:
    """Whether an address that we put on a link still belongs there."""
    if config.assign == "none" or mine.address not in subnet.addresses:
        return False
    led = subnet.version == 6 or any(other.address == subnet.addresses[0] for other in held)
    return config.assign == "all" or not (led and _is_extra(mine, subnet))


def _is_extra(mine: LinkAddress, subnet: Subnet) -> bool:
    """Whether an address of ours is none that a link has to have."""
    return mine.deprecated if subnet.version == 6 else mine.address in subnet.addresses[1:]


def _lead(subnet: Subnet, held: Sequence[LinkAddress]) -> Optional[LinkAddress]:
    """The address that the kernel chooses as the ENI's source: it has to be there before others are put beside it.

    Of IPv4 that is the one that came first, and has to be the ENI's primary address; of IPv6, where no address of an
    ENI is more than others, one that is not deprecated.
    """
    if subnet.version == 4:
        return next((each for each in held if each.address in subnet.addresses[:1]), None)
    return next((each for each in held if each.address in subnet.addresses and not each.deprecated), None)


def _length(subnet: Subnet, beside: Sequence[LinkAddress]) -> int:
    """The prefix length of an address of ours: with the one that the first has, the kernel makes it ``secondary``."""
    if subnet.version == 6:
        return 128
    return next((other.prefix_length for other in beside if other.address in subnet.addresses[:1]),
                subnet.vswitch.prefixlen)


def _is_elsewhere(eni: Eni, address: Address, devs: Set[str]) -> str:
    return "{}: its address {} is on {}, and so is not put on its own link".format(eni.label, address, min(devs))


def takes_others_along(address: LinkAddress, held: Sequence[LinkAddress], made: Record) -> bool:
    """Whether somebody else's address would go with this one. ``held`` is in the kernel's order.

    The first IPv4 address of a subnet on a link takes the others of that subnet with it when it is deleted (unless
    promote_secondaries is set).
    """
    if address.address.version == 6:
        return False
    same = [other for other in held if other.dev == address.dev and other.prefix_length == address.prefix_length
            and other.network == address.network]
    return same[:1] == [address] and any(other not in made.addresses for other in same)

"""The ENIs' links as they should be: interface group, up or down, addresses, settings. PURE."""

from collections import defaultdict
from typing import AbstractSet, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.matching import named
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.eni import Eni, EniFamily, Subnet, UnreadyEni
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import Address, LinkAddress, LinkGroup, LinkSetting, LinkUp, Snapshot


def link_groups(
    enis: Sequence[Eni], unready: Sequence[UnreadyEni], snapshot: Snapshot, config: Config
) -> Tuple[List[LinkGroup], List[Finding]]:
    """Our interface group for every ENI's device; no groups and a remark where a device is in somebody else's group."""
    if not config.group:
        return [], []
    devs = {eni.dev: eni.label for eni in enis}
    devs.update({member.dev: member.label for member in unready if member.dev})
    present = {link.name: link for link in snapshot.links if link.name in devs}
    for name, link in sorted(present.items()):
        if link.group not in (0, config.group):
            return [], [Finding.remark(
                "group-taken", "it belongs to interface group {}, which is somebody else's, so that no ENI gets a "
                "group and routes in main that overlap an ENI's are less exact".format(link.group), eni=devs[name])]
    return [LinkGroup(name, config.group) for name, link in sorted(present.items()) if not link.master], []


def link_settings(enis: Sequence[Eni], config: Config) -> Tuple[List[LinkSetting], List[Finding]]:
    """The settings of links that the configuration asks for, and problems. The first entry that names a link counts."""
    found: Dict[Tuple[str, str], LinkSetting] = {}
    problems = []
    for wish in config.links:
        fitting = named(wish.eni, enis)
        if not fitting:
            problems.append(Finding.error("no-such-eni", "links on line {}: no ENI is named {}".format(
                wish.line, wish.eni)))
        for eni in fitting:
            for name, value in wish.settings:
                found.setdefault((eni.dev, name), LinkSetting(eni.dev, name, value))
    return list(found.values()), problems


class LinkChanges(NamedTuple):
    """Links and addresses as they should be."""

    ups: Tuple[LinkUp, ...] = ()
    """Links that should be up."""
    addresses: Tuple[LinkAddress, ...] = ()
    """Addresses that should be there and are ours, or become ours."""
    dropped: Tuple[LinkAddress, ...] = ()
    """Addresses of ours to remove."""
    unaddressed: Tuple[EniFamily, ...] = ()
    """Links still to be waited for: somebody else may address them."""
    findings: Tuple[Finding, ...] = ()


def link_changes(families: Sequence[EniFamily], snapshot: Snapshot, record: Record,
                 address_wait_expired: AbstractSet[Tuple[str, int]], config: Config) -> LinkChanges:
    """Decide which links should be up, and which addresses they should carry.

    A secondary's link without an address of a family gets one when nobody else will address it: when it was down, when
    we addressed it before, or when nobody did in time (``address_wait_expired``). With ``assign: all`` the ENI's other
    addresses follow behind that one; so do the primary's.
    """
    search = _AddressSearch(snapshot, record, address_wait_expired, config)
    parts = [search.changes(family) for family in families]
    # A master (a bond, a bridge) is somebody's deliberate set-up.
    ups = {LinkUp(family.dev): None for family in families if not family.primary and family.dev == family.eni.link.name}
    return LinkChanges(
        tuple(ups),
        tuple(dict.fromkeys(address for part in parts for address in part.addresses)),
        tuple(address for part in parts for address in part.dropped),
        tuple(family for part in parts for family in part.unaddressed),
        tuple(found for part in parts for found in part.findings))


class _AddressSearch:
    """Which addresses an ENI's device should carry, one address family at a time."""

    def __init__(self, snapshot: Snapshot, record: Record, address_wait_expired: AbstractSet[Tuple[str, int]],
                 config: Config) -> None:
        self._record, self._expired, self._config = record, address_wait_expired, config
        self._up = {link.name for link in snapshot.links if link.up}
        self._on_link: Dict[Tuple[str, int], List[LinkAddress]] = defaultdict(list)
        self._holders: Dict[Address, Set[str]] = defaultdict(set)
        for held in snapshot.addresses:
            self._on_link[held.dev, held.address.version].append(held)
            self._holders[held.address].add(held.dev)

    def changes(self, family: EniFamily) -> LinkChanges:
        """The family's addresses to add, to keep and to remove."""
        subnet, record, config = family.subnet, self._record, self._config
        held = self._on_link[family.key]
        ours = {address for address in record.addresses if address.dev == family.dev}
        stale = [mine for mine in held if mine in ours and not _stays(mine, subnet, held, config)
                 and not takes_others_along(mine, held, record)]
        rest = [other for other in held if other not in stale]
        if not family.addresses or config.assign == "none":
            return LinkChanges(dropped=tuple(stale))
        lead = _lead(subnet, rest)
        first = LinkChanges()
        is_plain = not family.primary and family.dev == family.eni.link.name
        if lead is None and is_plain and (not rest or config.assign == "all"):
            first = self._first_address(family, rest, ours)
            lead = next(iter(first.addresses), None)
            rest = [other for other in rest if other not in first.dropped]
        kept = [mine for mine in rest if mine in ours and (
            lead is None or mine.address != lead.address or mine == lead)]
        more, remarks = self._other_addresses(family, lead, rest) if lead and config.assign == "all" else ([], [])
        return LinkChanges(
            (), (*first.addresses, *kept, *more), (*stale, *first.dropped), first.unaddressed,
            (*first.findings, *remarks))

    def _first_address(self, family: EniFamily, rest: Sequence[LinkAddress], ours: AbstractSet[LinkAddress]
                       ) -> LinkChanges:
        """The address that a link without one gets; or a remark why not; or the family as one to wait for."""
        subnet = family.subnet
        first = LinkAddress(family.dev, family.addresses[0], _length(subnet, rest))
        elsewhere = self._holders[first.address] - {family.dev}
        nobody_comes = family.dev not in self._up or any(
            mine.address.version == family.version and not _is_extra(mine, subnet) for mine in ours)
        if first._replace(deprecated=True) in ours & set(rest):
            return LinkChanges(addresses=(first,))
        if elsewhere:
            return LinkChanges(findings=(_is_elsewhere(family, first.address, elsewhere),))
        if not nobody_comes and family.key not in self._expired:
            return LinkChanges(unaddressed=(family,))
        if family.version == 6:
            return LinkChanges(addresses=(first,))
        if ours >= set(rest):  # what is there would stay in front of it
            return LinkChanges(addresses=(first,), dropped=tuple(rest))
        return LinkChanges(findings=(Finding.remark(
            "address-left-off", "its address {} is not on its link, which has others: no more are put there".format(
                first.address), eni=family.label, family=family.version),))

    def _other_addresses(self, family: EniFamily, lead: LinkAddress, rest: Sequence[LinkAddress]
                         ) -> Tuple[List[LinkAddress], List[Finding]]:
        """The ENI's other addresses, behind the leading one."""
        wanted, remarks = [], []
        for address in family.addresses:
            elsewhere = self._holders[address] - {family.dev}
            if elsewhere:
                remarks.append(_is_elsewhere(family, address, elsewhere))
            elif address != lead.address and all(other.address != address for other in rest):
                wanted.append(LinkAddress(family.dev, address, _length(family.subnet, [lead]),
                                          deprecated=family.version == 6))
        return wanted, remarks


def _stays(mine: LinkAddress, subnet: Subnet, held: Sequence[LinkAddress], config: Config) -> bool:
    """Whether an address that we put on a link still belongs there."""
    if config.assign == "none" or mine.address not in subnet.addresses:
        return False
    led = subnet.version == 6 or any(other.address == subnet.addresses[0] for other in held)
    return config.assign == "all" or not (led and _is_extra(mine, subnet))


def _is_extra(mine: LinkAddress, subnet: Subnet) -> bool:
    """Whether an address of ours is only beside the one that a link needs."""
    return mine.deprecated if subnet.version == 6 else mine.address in subnet.addresses[1:]


def _lead(subnet: Subnet, held: Sequence[LinkAddress]) -> Optional[LinkAddress]:
    """The address that the kernel chooses as the ENI's source: it must be there before others are put beside it.

    For IPv4 that is the address that came first, and it must be the ENI's primary one. For IPv6, where no address of an
    ENI is more than others, it is one that is not deprecated.
    """
    if subnet.version == 4:
        return next((each for each in held if each.address in subnet.addresses[:1]), None)
    return next((each for each in held if each.address in subnet.addresses and not each.deprecated), None)


def _length(subnet: Subnet, beside: Sequence[LinkAddress]) -> int:
    """The prefix length for an address of ours: the leading address's, so that the kernel makes it ``secondary``."""
    if subnet.version == 6:
        return 128
    return next((other.prefix_length for other in beside if other.address in subnet.addresses[:1]),
                subnet.vswitch.prefixlen)


def _is_elsewhere(family: EniFamily, address: Address, devs: Set[str]) -> Finding:
    return Finding.remark("address-elsewhere", "its address {} is on {}, and so is not put on its own link".format(
        address, min(devs)), eni=family.label, family=family.version)


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

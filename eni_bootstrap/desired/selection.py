"""Which ENIs are set up and which are left alone: the configuration, IPv6 switched off, links taken down. PURE."""

from typing import AbstractSet, Dict, List, NamedTuple, Sequence, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.cni import leave_contained
from eni_bootstrap.desired.matching import named, names, pair, skip
from eni_bootstrap.desired.tables import Memory
from eni_bootstrap.desired.validation import refuse_stealing
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.eni import Eni, Listing, SkippedEni, UnreadyEni
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.host import ContainerNetwork
from eni_bootstrap.model.kernel import Link, Snapshot


class Selection(NamedTuple):
    """The listed ENIs, sorted by what becomes of them."""

    enis: Tuple[Eni, ...]
    """ENIs to set up, in natural order, the primary first; an address family that can't be set up is missing."""
    unready: Tuple[UnreadyEni, ...]
    """ENIs, or one of their address families, that can't be set up now: what they have stays."""
    skipped: Tuple[SkippedEni, ...]
    """ENIs that are left alone: what is ours of them goes."""
    secondaries: Dict[str, str]
    """Device -> link name of all listed secondaries that have a link, but the ignored ones."""
    findings: Tuple[Finding, ...]


def select(listing: Listing, snapshot: Snapshot, record: Record, memory: Memory, networks: Sequence[ContainerNetwork],
           config: Config) -> Selection:
    """Join the listing with the links, and sort out the ENIs that are not set up.

    ``networks``: the container networks that are configured on this host.
    """
    paired, unpaired = pair(listing, snapshot.links)
    honest, thieves = refuse_stealing(paired, unpaired, snapshot.addresses)
    able, unable, no_ipv6 = leave_out_ipv6(honest, unpaired + thieves, snapshot.links)
    allowed, unready, ignored = leave_ignored(able, unable, config.ignore, config.only)
    free, sick, contained = allowed, unready, []  # type: List[Eni], List[UnreadyEni], List[SkippedEni]
    if config.container_networks == "leave":
        free, sick, contained = leave_contained(
            allowed, unready, snapshot.links, snapshot.addresses, memory, networks)
    up, admin_down = free, []  # type: List[Eni], List[UnreadyEni]
    if config.unattended:
        up, admin_down = leave_admin_down(free, snapshot.links, record.seen_up)
    secondaries = {eni.dev: eni.link.name for eni in allowed if not eni.primary}
    secondaries.update((member.dev, member.link) for member in unready if member.link and not member.primary)
    skipped = ignored + contained
    return Selection(
        tuple(up), tuple(sick + admin_down), tuple(skipped), secondaries,
        (*left(up, skipped, config.ignore), *no_ipv6, *(member.finding for member in admin_down)))


def leave_out_ipv6(enis: Sequence[Eni], unready: Sequence[UnreadyEni], links: Sequence[Link]
                   ) -> Tuple[List[Eni], List[UnreadyEni], List[Finding]]:
    """Take IPv6 from the ENIs on whose device it is switched off: the kernel would refuse every route.

    Returns the ENIs that have something left, those that can't be set up, and remarks.
    """
    found = leave_out(enis, unready, {(link.name, 6) for link in links if not link.ipv6})
    bare = [eni.unready("metadata gives it IPv6 only, which is switched off on the device (sysctl disable_ipv6)",
                        "switch it on") for eni in found.bare]
    return found.enis, found.unready + bare, [
        Finding.remark("family-off", "IPv6 is switched off on the device (sysctl disable_ipv6) and left out", eni=label,
                       family=version) for label, version in found.left_out]


class SwitchedOff(NamedTuple):
    """ENIs without the address families that are switched off on their devices."""

    enis: List[Eni]
    bare: List[Eni]
    """ENIs that have nothing else, by metadata."""
    unready: List[UnreadyEni]
    """ENIs, or one of their address families, that can't be set up for another reason."""
    left_out: List[Tuple[str, int]]
    """ENI and IP version of each family that is left out."""


def leave_out(enis: Sequence[Eni], unready: Sequence[UnreadyEni], off: AbstractSet[Tuple[str, int]]) -> SwitchedOff:
    """Take from the ENIs the address families that are switched off on their devices.

    ``unready``: one address family of an ENI may be among them. Where it is switched off nobody misses it, whatever is
    wrong with it in the metadata. ``off``: (device, IP version) pairs.
    """
    found = SwitchedOff([], [], [], [])
    able = {eni.mac: eni for eni in enis}
    for member in unready:
        own = able.get(member.mac, member)  # a sick family has its own link for a device, not the bond over it
        if (own.dev, member.version) in off:
            found.left_out.append((own.label, member.version))
        else:
            found.unready.append(member)
    halves = {member.mac for member in found.unready if member.version}
    for eni in enis:
        rest = [subnet for subnet in eni.subnets if (eni.dev, subnet.version) not in off]
        if rest:
            found.enis.append(eni.of(rest))
        elif eni.mac not in halves:
            found.bare.append(eni)
            continue
        found.left_out.extend((eni.label, subnet.version) for subnet in eni.subnets if subnet not in rest)
    return found


def leave_admin_down(enis: Sequence[Eni], links: Sequence[Link], once_up: AbstractSet[str]
                     ) -> Tuple[List[Eni], List[UnreadyEni]]:
    """Split off the secondaries whose link somebody has taken down: it was up once (``once_up``), and is not now."""
    down = {link.name for link in links if not link.up}
    admin_down = [eni for eni in enis if not eni.primary and eni.dev in down and eni.dev in once_up]
    reason = "its link has been taken down and is left so"
    return ([eni for eni in enis if eni not in admin_down],
            [eni.unready(reason)._replace(admin_down=True) for eni in admin_down])


def leave_ignored(enis: Sequence[Eni], unready: Sequence[UnreadyEni], ignore: Sequence[str], only: Sequence[str]
                  ) -> Tuple[List[Eni], List[UnreadyEni], List[SkippedEni]]:
    """Split off the ENIs that the configuration leaves alone; never the primary.

    Metadata may lack the vSwitch of an unready ENI. Then ``only`` can't be decided, and what the ENI has stays.
    """
    def out(eni_id: str, mac: str, devs: Tuple[str, ...], vswitch_id: str, whole: bool = True) -> bool:
        return any(names(pattern, eni_id, mac, devs, vswitch_id) for pattern in ignore) or bool(only) and not any(
            names(pattern, eni_id, mac, devs, vswitch_id) or not whole and "vsw" in pattern for pattern in only)

    ignored = [eni for eni in enis if not eni.primary and out(
        eni.interface.eni_id, eni.mac, eni.devs, eni.interface.vswitch_id)]
    spared = [member for member in unready if not member.primary and out(
        member.eni_id, member.mac, member.devs, member.vswitch_id, bool(member.vswitch_id))]
    reason = "as the configuration says"
    return ([eni for eni in enis if eni not in ignored], [member for member in unready if member not in spared],
            [skip(eni, reason) for eni in ignored] + [skip(member, reason) for member in spared])


def left(enis: Sequence[Eni], left_ones: Sequence[SkippedEni], ignore: Sequence[str]) -> List[Finding]:
    """What to say of those that are left alone, and of a primary that somebody has named and that is not."""
    return list(dict.fromkeys(member.finding for member in left_ones)) + [
        Finding.remark("primary-named", "ignore names it, but it is the primary ENI, which is never left alone",
                       eni=eni.label)
        for eni in enis if eni.primary and any(
            named(word, [eni]) for word in ignore if not set("*?[").intersection(word))]


def unwanted(ignore: Sequence[str], only: Sequence[str]) -> List[Finding]:
    """What the configuration leaves alone, where it can't be told which ENIs these are."""
    return [Finding.remark("eni-left-alone", "left alone, as the configuration says", evidence=but + ", ".join(words))
            for but, words in (("", ignore), ("all but ", only)) if words]

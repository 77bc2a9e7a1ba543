"""Which tables and devices must stay as they are, because their ENI can't be looked after now. PURE."""

from typing import Dict, FrozenSet, List, NamedTuple, Sequence, Set, Tuple

from eni_bootstrap.desired.cni import at_parents
from eni_bootstrap.desired.matching import possible
from eni_bootstrap.desired.selection import Selection
from eni_bootstrap.desired.tables import Memory
from eni_bootstrap.model.eni import EniFamily
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import MAIN, Link, LinkAddress, Network, Snapshot, network_of


class Kept(NamedTuple):
    """Tables and devices whose routes, rules and addresses stay as they are."""

    tables: FrozenSet[Tuple[int, int]]
    """(table, IP version) pairs."""
    devs: FrozenSet[Tuple[str, int]]
    """(device, IP version) pairs."""
    tables_of: Dict[str, List[int]]
    """By MAC: the tables that an ENI has that can't be set up, whole or one address family."""
    findings: Tuple[Finding, ...]

    def others_tables(self, families: Sequence[EniFamily], memory: Memory) -> FrozenSet[int]:
        """The kept tables that belong to none of the ENIs that are set up."""
        return frozenset(table for table, _ in self.tables) - _tables_of(families, memory)


def kept(chosen: Selection, families: Sequence[EniFamily], snapshot: Snapshot, memory: Memory) -> Kept:
    """Tables and devices of ENIs that can't be set up now, or that metadata does not list any more.

    An ENI's things go only when a complete list lacks it *and* its link is gone. Where a listed ENI can't be found in
    the kernel at all, anything that nobody claims may be its own, so all of that stays.
    """
    tables: Set[Tuple[int, int]] = set()
    devs: Set[Tuple[str, int]] = set()
    tables_of: Dict[str, List[int]] = {}
    addresses = at_parents(snapshot.links, snapshot.addresses)
    for member in chosen.unready:
        own = [network_of(address) for subnet in member.subnets for address in subnet.addresses]
        found = tables_of[member.mac] = memory.tables_of(member.dev, own + _held(member.dev, addresses))
        if not (found or member.dev):
            found = sorted(memory.tables() - _tables_of(families, memory) - _tables_of_skipped(chosen, memory) - {MAIN})
        tables.update((table, version) for table in found for version in member.versions)
        devs.update((member.dev, version) for version in member.versions if member.dev)
    unlisted, remarks = _unlisted(chosen, snapshot.links, addresses, memory)
    for dev, found in unlisted:
        tables.update((table, version) for table in found for version in (4, 6))
        devs.update((dev, version) for version in (4, 6))
    claimed = {(table, family.version) for family in families
               for table in memory.tables_of(family.dev, _sources(family.dev, families))}
    return Kept(frozenset(tables - claimed), frozenset(devs), tables_of, tuple(remarks))


def _unlisted(chosen: Selection, links: Sequence[Link], addresses: Sequence[LinkAddress], memory: Memory
              ) -> Tuple[List[Tuple[str, List[int]]], List[Finding]]:
    """Devices of no listed ENI that have tables of ours, with these tables; and remarks on those that are not listed.

    Where several links have a listed ENI's MAC, none of them is known to be its device.
    """
    macs = {member.mac for group in (chosen.enis, chosen.unready) for member in group}
    listed = {dev for group in (chosen.enis, chosen.unready, chosen.skipped) for member in group for dev in member.devs}
    found = []
    remarks = []
    for link in possible(links):
        tables = [] if link.name in listed else memory.tables_of(
            link.name, _held(link.name, addresses), by_name=False)
        if tables:
            found.append((link.name, tables))
        if tables and link.mac not in macs:
            remarks.append(Finding.remark(
                "eni-not-listed", "metadata does not list it any more, and what was set up for it stays until the link "
                "goes", eni="{} ({})".format(link.name, link.mac)))
    return found, remarks


def _held(dev: str, addresses: Sequence[LinkAddress]) -> List[Network]:
    return [network_of(held.address) for held in addresses if held.dev == dev]


def _sources(dev: str, families: Sequence[EniFamily]) -> List[Network]:
    return [source for family in families if family.dev == dev for source in family.sources]


def _tables_of(families: Sequence[EniFamily], memory: Memory) -> Set[int]:
    return {table for dev in {family.dev for family in families}
            for table in memory.tables_of(dev, _sources(dev, families))}


def _tables_of_skipped(chosen: Selection, memory: Memory) -> Set[int]:
    return {table for member in chosen.skipped for dev in member.devs or ("",)
            for table in memory.tables_of(dev, member.sources)}

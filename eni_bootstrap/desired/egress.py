"""The egresses: each address family of each ENI, by which packets can be sent; also of unready ENIs. PURE."""

from typing import Dict, Iterable, List, Mapping, NamedTuple, Sequence, Tuple

from eni_bootstrap.desired.matching import names
from eni_bootstrap.desired.tables import Memory
from eni_bootstrap.model.eni import EniFamily, UnreadyEni


class Egress(NamedTuple):
    """One address family of an ENI as a way out."""

    label: str
    eni_id: str
    mac: str
    vswitch_id: str
    devs: Tuple[str, ...]
    """The device that carries its addresses and routes, then its own link, where that is another one."""
    primary: bool
    version: int
    table: int
    """The routing table that leads out by it; 0: none, it was never set up."""

    @property
    def dev(self) -> str:
        return self.devs[0] if self.devs else ""


def egresses(families: Sequence[EniFamily], unready: Iterable[UnreadyEni], tables_of: Mapping[str, Sequence[int]],
             memory: Memory) -> List[Egress]:
    """The egresses of all ENIs. An ENI that can't be set up now keeps the table that it has, and so its egress.

    ``tables_of``: by MAC. A table is the egress of one address family only if something of that family is in it or
    leads there: the other one may have been set up alone.
    """
    found = [Egress(family.label, family.eni.interface.eni_id, family.eni.mac, family.eni.interface.vswitch_id,
                    family.eni.devs, family.primary, family.version, family.table) for family in families]
    for member in unready:
        own = tables_of.get(member.mac, ())
        found += [Egress(member.label, member.eni_id, member.mac, member.vswitch_id, member.devs, member.primary,
                         version, next((table for table in own if (table, version) in memory.set_up), 0))
                  for version in member.versions]
    return found


def named_egresses(pattern: str, ways: Iterable[Egress]) -> Dict[str, List[Egress]]:
    """MAC -> egresses, of each ENI that a word of the configuration names."""
    found: Dict[str, List[Egress]] = {}
    for way in ways:
        if names(pattern, way.eni_id, way.mac, way.devs, way.vswitch_id):
            found.setdefault(way.mac, []).append(way)
    return found

"""The number ladder and every other setting, in one place, each with its reason."""

from typing import Any, Dict, NamedTuple, Optional, Tuple

from eni_bootstrap.model.changes import Numbering
from eni_bootstrap.model.kernel import Network

_BAND = 1000
"""Tables and priorities that are ours, from the first one on."""

BOUNDS = {
    "table": (256, (1 << 32) - _BAND),
    "priority": (1001, 32766 - _BAND),
    "protocol": (5, 255),
    "group": (1, (1 << 32) - 1),
}
"""The least and the most that each of ``Numbering`` may be. The kernel's own tables, 253 to 255, are not in our band,
nor are its priorities: 0, a VRF's 1000, main's 32766 and what is behind."""

TAKEN_PROTOCOLS = frozenset((*range(5), *range(8, 19), 42, 99, *range(186, 199)))
"""The kernel's, and those of routing daemons, DHCP clients and others (rt_protos of iproute2 and FRR)."""

ENTRIES = 80
"""Access entries at the most: as many as there are priorities for."""

Span = Tuple[int, int]
"""First and last number."""


class Entry(NamedTuple):
    """What of the traffic leaves by a certain ENI, or is refused. Of each selector one must hold; an empty one does."""

    line: int
    """In the file."""
    via: str
    """The ENI; empty: refused."""
    answer: str
    """``prohibit``, ``unreachable`` or ``blackhole``; empty: it is sent."""
    src: Tuple[Network, ...] = ()
    dst: Tuple[Network, ...] = ()
    iifs: Tuple[str, ...] = ()
    protocols: Tuple[int, ...] = ()
    sports: Tuple[Span, ...] = ()
    dports: Tuple[Span, ...] = ()
    users: Tuple[Span, ...] = ()
    mark: Optional[Span] = None
    """Mark and mask."""


class Spread(NamedTuple):
    """Over which ENIs connections that have chosen no source are spread."""

    line: int
    dst: Tuple[Network, ...]
    """Empty: everywhere."""
    over: Tuple[Tuple[str, int], ...]
    """ENIs and their weights."""


class Source(NamedTuple):
    """Sources of an ENI that metadata does not tell."""

    line: int
    eni: str
    networks: Tuple[Network, ...]


class LinkWish(NamedTuple):
    """Settings of ENIs' links."""

    line: int
    eni: str
    settings: Tuple[Tuple[str, int], ...]


class Config(NamedTuple):
    """Settings of one run; the defaults are what the documentation promises."""

    metadata_url: str = "http://100.100.100.200"
    """Alibaba Cloud's metadata service: the same address in every VPC."""

    metadata_url_ipv6: str = "http://[fd00:100::100:200]"
    """The same service for hosts without IPv4; empty where another URL was given."""

    timeout: float = 60.0
    """Seconds for a whole run: metadata is reachable once the primary ENI has its lease, which takes well under a
    minute, and a boot must not hang for longer."""

    interface_wait: float = 20.0
    """Seconds to wait for an ENI that metadata lists but that is incomplete or has no link: container network
    plug-ins wait 10 s and NetworkManager's cloud set-up 15 s for the same lag."""

    address_wait: float = 10.0
    """Seconds that a link which is up may stay without an address before it gets one from us: a DHCP client that is
    coming gets its lease sooner."""

    unattended: bool = False
    """No person started this run, so that it must not undo what a person or a network manager has just done: a link
    that was up and is down now stays down, and what ``remove`` has taken back stays away."""

    # Routing tables. The vendor's page numbers eth1's table 1001.
    table_primary: int = 1000
    table_displaced: int = 1100
    """First id for an ENI whose natural id (1000 + n, n up to 99) is in somebody else's use."""
    table_spread: int = 1999
    """The default routes over several ENIs; the last of our band, far from those that ENIs may get."""
    table_last: int = 1999
    """1000-1999 is the band in which a table can be ours."""

    # Rule priorities: after Tailscale's 5210-5270, so that a VPN in front stays in front; before 10000, where other
    # clouds' agents begin, and main's 32766. The gaps are for the operator's own rules.
    priority_first: int = 7000
    priority_without_ifgroup: int = 7000
    """Only without an interface group: the ENI's specific routes, before main's."""
    priority_refusal: int = 7010
    """Entries that refuse, one priority each, in front of everything else; up to 7089."""
    priority_main: int = 7100
    """Main's specific routes that don't go through an ENI: Docker, VPN."""
    priority_mark_inwards: int = 7140
    """With connection marks: what comes in by the ENI whose mark it bears goes on behind all of these."""
    priority_mark: int = 7150
    """Before the sources: a container may have an address that belongs to another ENI."""
    priority_mark_fence: int = 7151
    """The fence of IPv6; for the primary, main."""
    priority_mark_end: int = 7160
    priority_address: int = 7200
    priority_prefix: int = 7300
    """After the addresses: the more specific source wins."""
    priority_fence: int = 7400
    """IPv6 only; after every look-up of the same source."""
    priority_device: int = 7500
    priority_primary: int = 7600
    priority_rest: int = 7650
    """What the primary's table does not know: as without the entries and spreads behind it."""
    priority_services: int = 7690
    """The cloud's own services, likewise."""
    priority_entry: int = 7700
    """Entries that name an ENI, two each: the look-up, and for IPv6 the fence; up to 7859."""
    priority_foreign: int = 7890
    priority_near: int = 7895
    priority_spread: int = 7900
    """Last, for what has chosen no source; before it main's specific routes."""
    priority_last: int = 7999

    # Default routes in main.
    metric_step: int = 100
    metric_least: int = 100
    """A secondary's is the primary's (counted as 100 at least) and 100 for each n: eth1 gets 200 as on the vendor's
    page, eth2 300."""
    metric_missing: int = 1024
    """The primary's, where it has no default route yet: the worst that it may still get (router advertisements in the
    kernel, systemd-networkd)."""

    protocol: int = 235
    """Marks our routes and rules in the kernel. 0xEB; not in iproute2's rt_protos, FRR's or any agent's numbers."""

    protocol_networkd_safe: int = 235
    """Marks our rules and fences, which belong to no device. ``PROTOCOL_KERNEL`` where systemd-networkd would delete
    them with any other mark."""

    kernel_marks: bool = False
    """Whether what bears the kernel's mark and is just what we would make can be ours: such marks are in use now, or
    were, and not all that had them is gone."""

    group: int = 60235
    """The interface group of all ENI links. High, because people number groups from 1 upwards. 0: none,
    where links can't be told one."""

    # What the configuration file says; an ENI is named by device, MAC, ENI id or vSwitch id, with wildcards.
    ignore: Tuple[str, ...] = ()
    only: Tuple[str, ...] = ()
    container_networks: str = "leave"
    """What becomes of ENIs that a container network uses: ``leave`` (as if they were not there) or ``manage``."""
    assign: str = "primary"
    """Which addresses are put on a secondary's link: ``primary`` (where nobody else does), ``all``, ``none``."""
    primary: str = "main"
    """Where goes what comes from the primary's addresses: ``main``, as main says, or ``full``, by the primary."""
    prefixes: str = "route"
    """What a delegated prefix is: ``route``, a source of its ENI (a container's, for instance), or ``local``, addresses
    of this host's own as well."""
    extra: Tuple[Source, ...] = ()
    links: Tuple[LinkWish, ...] = ()
    entries: Tuple[Entry, ...] = ()
    spreads: Tuple[Spread, ...] = ()

    connection_marks: int = 0
    """The bits of the mark that are ours; 0: connections are not marked."""

    copies: int = 1000
    """At most so many of the user's own routes through one ENI are copied into its table: a routing daemon's full
    table does not belong there."""

    @property
    def numbering(self) -> Numbering:
        return Numbering(self.table_primary, self.priority_first, self.protocol, self.group)

    def renumbered(self, numbering: Numbering) -> "Config":
        """With other numbers: the bands move as a whole."""
        moved: Dict[str, Any] = {}
        for prefix, shift in (("table_", numbering.table - self.table_primary),
                              ("priority_", numbering.priority - self.priority_first)):
            moved.update({name: getattr(self, name) + shift for name in self._fields if name.startswith(prefix)})
        return self._replace(protocol=numbering.protocol, protocol_networkd_safe=numbering.protocol,
                             group=numbering.group, **moved)

    @property
    def names_enis(self) -> bool:
        """Whether ENIs are named somewhere, maybe by their vSwitch."""
        return bool(self.ignore or self.only or self.extra or self.entries or self.spreads or self.links)

    def owns_table(self, table: int) -> bool:
        return self.table_primary <= table <= self.table_last

    def owns_priority(self, priority: int) -> bool:
        return self.priority_first <= priority <= self.priority_last


def allowed(numbering: Numbering) -> bool:
    """Whether the configuration may ask for these numbers; nothing else is ever ours, whoever says so."""
    within = all(BOUNDS[name][0] <= number <= BOUNDS[name][1] for name, number in numbering._asdict().items())
    return within and numbering.protocol not in TAKEN_PROTOCOLS

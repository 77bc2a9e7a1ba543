"""The kernel's objects as values: they flow from the readers to the decision and on to the kernel. Standard library
only, no I/O.

Everything is an immutable tuple: equality *is* the comparison, and sets of them *are* the state.
The address family is never stored: it follows from the addresses (``network.version`` is 4 or 6).
"""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple, Union

Address = Union[IPv4Address, IPv6Address]
Network = Union[IPv4Network, IPv6Network]


# What the kernel holds. Devices are named, not numbered; ``kernel.Kernel`` translates.


def name_of(data: bytes) -> str:
    """A link's name as text; for the kernel it is bytes. ``bytes_of`` gives back the same bytes, UTF-8 or not."""
    return data.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """Text as bytes for the kernel, whatever the locale: a boot has none, and then Python 3.6 knows ASCII only."""
    return text.encode("utf-8", "surrogateescape")


def shell_word(word: str) -> str:
    """Text as one word for a shell, in ASCII: printf makes the characters that not every terminal shows."""
    import shlex  # for what is shown to people
    if _SHOWN.match(word):
        return shlex.quote(word)
    return "\"$(printf '{}')\"".format("".join(
        chr(byte) if chr(byte) in _SAFE else "\\{:03o}".format(byte) for byte in bytes_of(word)))


_SHOWN = re.compile(r"[ -~]*\Z")
_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:="
"""Characters that have no special meaning inside quotes, nor for printf."""

MAIN = 254
"""Id of the kernel's main table (rt_tables)."""

LOCAL = 255
"""Id of the kernel's table of this host's own addresses: only these can be bound to (rt_tables)."""

PROTOCOL_KERNEL = 2
"""Protocol of the routes that the kernel makes of an address (rt_protos)."""

IPV6_METRIC = 1024
"""The metric that the kernel gives an IPv6 route that is sent with metric 0 (IP6_RT_PRIO_USER)."""

EVERYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
"""IP version -> destination of default routes."""

CLOUD_SERVICES = IPv4Network("100.64.0.0/10")
"""The cloud's own services: metadata, DNS, NTP, mirrors; never in a vSwitch."""

SERVICES: Dict[int, Network] = {4: CLOUD_SERVICES, 6: IPv6Network("fd00:100::100:200/128")}
"""IP version -> the cloud's own services; for IPv6 only the metadata service is known (vendor's documentation)."""

UNREACHABLE_METRIC = 4294967295
"""The worst metric there is: a route that has it never wins against another."""


_TABLES = {MAIN: "main", LOCAL: "local"}
"""Names that iproute2 always knows."""


class Link(NamedTuple):
    """A network device."""

    ifindex: int
    name: str
    mac: str
    """The permanent address where the driver has one, because a bond gives its own to its ports."""
    kind: str = ""
    """Empty for hardware, else the kernel's kind: "veth", "bridge", "vlan", ...; "loopback" for lo, which has none."""
    master: int = 0
    """Index of the bond, bridge, team, VRF or Open vSwitch of which it is a port; 0 for none."""
    up: bool = True
    """Whether it is administratively up; the carrier is another thing."""
    group: int = 0
    ipv6: bool = True
    """Whether IPv6 is on; false with sysctl disable_ipv6."""
    carrier: bool = True
    parent: int = 0
    """Index of the device below it (VLAN, macvlan, ipvlan; of a veth its other end); 0 for none, or for one in another
    network namespace."""


class LinkAddress(NamedTuple):
    """An address on a link."""

    dev: str
    address: Address
    prefix_length: int
    leased: bool = False
    """Whether it has a lifetime, and goes unless somebody, such as a DHCP client, renews it; ours have none."""
    deprecated: bool = False
    """Whether the kernel never chooses it as a source by itself; sockets can bind to it, and it answers."""

    @property
    def network(self) -> Network:
        """The on-link prefix of the address."""
        return ip_network("{}/{}".format(self.address, self.prefix_length), strict=False)

    def __str__(self) -> str:
        return "{}/{} dev {}".format(self.address, self.prefix_length, self.dev)


class SeenAddress(NamedTuple):
    """An address as the kernel has it."""

    held: LinkAddress
    protocol: int
    """The protocol of whoever set it (IFA_PROTO); 0: none, or a kernel before 5.18."""
    set_at: int
    """Time when it was added, or last set anew, in hundredths of a second since the boot."""


class Hop(NamedTuple):
    """A next hop: a device, and the gateway unless the destination is on-link."""

    dev: str
    gateway: Optional[Address] = None
    weight: int = 1
    """Its share where there are several hops, 1 to 256."""
    other: Tuple[str, ...] = ()
    """Further attributes by name, such as an encapsulation. Only other people's routes have any; a copy without them
    would send packets another way, or bare."""

    def __str__(self) -> str:
        words = ["via", str(self.gateway)] if self.gateway is not None else []
        words += ["dev", self.dev] + (["weight", str(self.weight)] if self.weight != 1 else [])
        return " ".join(words + list(self.other))


class Route(NamedTuple):
    """A route, with the fields that we set only, so that equality is the comparison.

    The protocol, by which others know who installed it, is not part of it. Whether a gateway is set ``onlink`` follows
    from the other fields.
    """

    table: int
    dst: Network
    hops: Tuple[Hop, ...] = ()
    kind: str = "unicast"
    metric: int = 0
    options: Tuple[Tuple[str, int], ...] = ()
    """The route's own metrics by their iproute2 names: (("mtu", 1400),)."""
    tos: int = 0
    prefsrc: Optional[Address] = None
    """The source for sockets that have chosen none; only copies of the user's own routes have one."""

    @property
    def version(self) -> int:
        return self.dst.version

    @property
    def key(self) -> Tuple[int, Network, int, int]:
        """The route's identity for the kernel, which holds only one route of a key: table, destination, metric, TOS."""
        return self.table, self.dst, self.metric, self.tos

    @property
    def way(self) -> "Route":
        """The route without its hints to sockets: two routes with one way send packets alike."""
        return self._replace(options=(), prefsrc=None)

    @property
    def is_local_prefix(self) -> bool:
        """Whether all addresses of the destination are this host's own."""
        return self.kind == "local" and self.table == LOCAL and self.dst.prefixlen < self.dst.max_prefixlen

    @property
    def is_default(self) -> bool:
        return self.dst.prefixlen == 0

    @property
    def onlink(self) -> bool:
        """Whether the route says that its gateway is a neighbour; needed where its table does not say so."""
        return any(hop.gateway is not None for hop in self.hops) and (self.version == 4 or self.table == MAIN)

    def devs(self) -> Tuple[str, ...]:
        return tuple(hop.dev for hop in self.hops)

    def __str__(self) -> str:
        return self.text()

    def text(self, more: Sequence[str] = (), each: Sequence[str] = ()) -> str:
        """The route in iproute2's words. ``more``: further words; ``each``: further words for each hop
        with a gateway."""
        words = [] if self.kind == "unicast" else [self.kind]
        words.append("default" if self.is_default else str(self.dst))
        if len(self.hops) == 1:
            words.append(str(self.hops[0]))
        words.append("table {}".format(_TABLES.get(self.table, self.table)))
        if self.tos:
            words.append("tos {:#x}".format(self.tos))
        if self.prefsrc is not None:
            words.append("src {}".format(self.prefsrc))
        if self.metric:
            words.append("metric {}".format(self.metric))
        words += ["{} {}".format(name, value) for name, value in self.options]
        if len(self.hops) < 2:
            return " ".join(words + [*each, *more])
        ways = [" ".join(["nexthop", str(hop), *(each if hop.gateway is not None else ())]) for hop in self.hops]
        return " ".join(words + [*more, *ways])  # iproute2 wants them last


class Match(NamedTuple):
    """The selectors of a policy rule beside source and outgoing device; all of them must hold."""

    dst: Optional[Network] = None
    iif: str = ""
    """The device by which the packet came in; ``lo``: this host itself sent it."""
    mark: int = 0
    mask: int = 0
    """The bits of the mark that count; 0: any mark."""
    users: Optional[Tuple[int, int]] = None
    """First and last user id of the sending socket."""
    protocol: int = 0
    """IP protocol; 0: any."""
    sports: Optional[Tuple[int, int]] = None
    dports: Optional[Tuple[int, int]] = None
    """First and last port."""
    inverted: bool = False
    """The rule holds for all packets but those that match it."""

    def words(self) -> List[str]:
        """In iproute2's words."""
        words: List[str] = []
        if self.dst is not None:
            words += ["to", _plain(self.dst)]
        if self.mask:
            words += ["fwmark", "{:#x}/{:#x}".format(self.mark, self.mask)]
        if self.iif:
            words += ["iif", self.iif]
        if self.users is not None:
            words += ["uidrange", "{}-{}".format(*self.users)]
        if self.protocol:
            words += ["ipproto", str(self.protocol)]
        for word, ports in (("sport", self.sports), ("dport", self.dports)):
            if ports is not None:
                words += [word, "{}-{}".format(*ports)]
        return words


ANY = Match()
"""No selectors beside source and device."""

UPPER_HALF = IPv6Network("8000::/1")
SOURCELESS: Dict[int, Tuple[Network, Match]] = {
    4: (IPv4Network("0.0.0.0/32"), ANY), 6: (IPv6Network("::/1"), Match(inverted=True))}
"""IP version -> source and match of a rule for packets that have chosen no source yet (for the reason see
``desired.access``)."""


UNKNOWN = "unknown"
"""The word in a rule's ``other`` in front of selectors that we can't read."""


class Rule(NamedTuple):
    """A policy rule."""

    version: int
    """4 or 6: a rule without a source has no address from which it would follow."""
    priority: int
    src: Optional[Network] = None
    oif: str = ""
    action: str = "lookup"
    table: int = 0
    suppress_prefixlength: Optional[int] = None
    suppress_ifgroup: Optional[int] = None
    match: Match = ANY
    goto: int = 0
    """The priority at which to go on, with the action ``goto``."""
    other: Tuple[str, ...] = ()
    """Selectors that only other people's rules have, in iproute2's words."""

    def __str__(self) -> str:
        words = ["not"] if self.match.inverted else []
        words += ["from", "all" if self.src is None else _plain(self.src)]
        if self.oif:
            words += ["oif", self.oif]
        words += self.match.words()
        words += self.other
        if self.action == "lookup":
            words += ["lookup", "main" if self.table == MAIN else str(self.table)]
        elif self.action == "goto":
            words += ["goto", str(self.goto)]
        else:
            words.append(self.action)
        if self.suppress_prefixlength is not None:
            words += ["suppress_prefixlength", str(self.suppress_prefixlength)]
        if self.suppress_ifgroup is not None:
            words += ["suppress_ifgroup", str(self.suppress_ifgroup)]
        words += ["priority", str(self.priority)]
        return " ".join(words)


def _plain(network: Network) -> str:
    """10.0.0.1 rather than 10.0.0.1/32: what people write and iproute2 shows."""
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


class LinkUp(NamedTuple):
    """A link that is up."""

    dev: str

    def __str__(self) -> str:
        return "dev {} up".format(self.dev)


class LinkGroup(NamedTuple):
    """A link's interface group."""

    dev: str
    group: int

    def __str__(self) -> str:
        return "dev {} group {}".format(self.dev, self.group)


class LinkSetting(NamedTuple):
    """A setting of a link, as a number: its MTU, or one of IPv4's sysctls."""

    dev: str
    name: str
    """``mtu``, ``rp_filter``, ``arp_ignore`` or ``arp_announce``."""
    value: int


class SeenRoute(NamedTuple):
    """A route as the kernel has it."""

    route: Route
    protocol: int
    expires: bool = False
    """Whether it goes by itself: it was learned from a router advertisement."""


class SeenRule(NamedTuple):
    """A rule as the kernel has it."""

    rule: Rule
    protocol: int


class Snapshot(NamedTuple):
    """The kernel's state that the decision needs.

    ``routes`` holds every route of ours, main's default routes, main's routes through an ENI, and all routes of the
    tables that were asked for; a routing daemon's ten thousand others are not in it.
    """

    links: Tuple[Link, ...]
    addresses: Tuple[LinkAddress, ...]
    """Without IPv6 link-local ones."""
    rules: Tuple[SeenRule, ...]
    """In the kernel's order, IPv4 first."""
    routes: Tuple[SeenRoute, ...]
    settings: Tuple[LinkSetting, ...] = ()
    """The settings that the configuration asks for, or that we changed before. Empty while deciding: only the decision
    tells which these are, so that they are read after it, for the plan."""
    seen: Tuple[SeenAddress, ...] = ()
    """The addresses, with protocol and time, which tell whose they are."""

    @property
    def working(self) -> FrozenSet[str]:
        """Devices that are up and have a carrier."""
        return frozenset(link.name for link in self.links if link.up and link.carrier)


class Query(NamedTuple):
    """A packet whose route the kernel is asked for."""

    dst: Address
    src: Optional[Address] = None
    iif: str = ""
    """The device by which it came in (then the reverse path filter is asked, too); empty: this host sends it."""
    oif: str = ""
    """The device to which the sending socket is bound."""
    match: bool = False
    """Ask for the matching route's destination, too."""
    user: Optional[int] = None
    """The sending socket's user id."""
    mark: int = 0
    protocol: int = 0
    sport: int = 0
    dport: int = 0


class Answer(NamedTuple):
    """The kernel's answer to a query."""

    dev: str = ""
    gateway: Optional[Address] = None
    table: int = 0
    kind: str = ""
    error: int = 0
    """The errno where there is no route: ENETUNREACH, EXDEV (reverse path filter), ..."""
    dst: str = ""
    """The destination of the matching route, for a query with ``match``."""


def natural(name: str) -> Tuple[Tuple[int, str], ...]:
    """A sort key for names that puts eth2 before eth10."""
    parts = [part for part in re.split(r"([0-9]+)", name) if part]
    return tuple((int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts)


@lru_cache(maxsize=None)
def network_of(address: Address) -> Network:
    """The /32 or /128 of this address; cached, because a large host asks for 1,600 of them again and again."""
    return IPv4Network(int(address)) if address.version == 4 else IPv6Network(int(address))


GROUPS = 1 << 0 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18
"""The multicast groups of rtnetlink (linux/rtnetlink.h, RTNLGRP_*) that systemd's socket joins: links, and of IPv4 and
IPv6 addresses, routes and rules."""

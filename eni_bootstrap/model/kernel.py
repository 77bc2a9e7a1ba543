"""The values that flow from the readers to the decision and on to the kernel; no I/O, standard library only.

Everything is an immutable tuple: equality *is* the comparison, and sets of them *are* the state.
The address family is never stored: it follows from the addresses (``network.version`` is 4 or 6).
"""

import re
import shlex
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple, Union

Address = Union[IPv4Address, IPv6Address]
Network = Union[IPv4Network, IPv6Network]


# What the kernel holds. Devices are named, not numbered; ``netlink`` translates.


def name_of(data: bytes) -> str:
    """A link's name: bytes for the kernel. Those that are no UTF-8 come out of ``bytes_of`` as they went in."""
    return data.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """For the kernel, whatever the language of this process: a boot has none, and then Python 3.6 knows ASCII only."""
    return text.encode("utf-8", "surrogateescape")


def shell_word(word: str) -> str:
    """Text as one word of a shell's, all of it ASCII: what no terminal is sure to show comes from printf."""
    if _SHOWN.match(word):
        return shlex.quote(word)
    return "\"$(printf '{}')\"".format("".join(
        chr(byte) if chr(byte) in _SAFE else "\\{:03o}".format(byte) for byte in bytes_of(word)))


_SHOWN = re.compile(r"[ -~]*\Z")
_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:="
"""What means nothing inside quotes, nor to printf."""

MAIN = 254
"""Id of the kernel's main table (rt_tables)."""

LOCAL = 255
"""Id of the kernel's table of this host's own addresses, the only one that says what can be bound to (rt_tables)."""

PROTOCOL_KERNEL = 2
"""What marks the routes that the kernel makes of an address (rt_protos)."""

IPV6_METRIC = 1024
"""What the kernel makes of an IPv6 route that is sent with metric 0 (IP6_RT_PRIO_USER)."""

EVERYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
"""By IP version: the destination of default routes."""

CLOUD_SERVICES = IPv4Network("100.64.0.0/10")
"""Metadata, DNS, NTP, mirrors: never in a vSwitch."""

SERVICES: Dict[int, Network] = {4: CLOUD_SERVICES, 6: IPv6Network("fd00:100::100:200/128")}
"""By IP version, the cloud's own services; of IPv6 the metadata service alone is known (vendor's documentation)."""

UNREACHABLE_METRIC = 4294967295
"""The worst metric there is: a route that has it never wins against another."""


_TABLES = {MAIN: "main", LOCAL: "local"}
"""Names that iproute2 always knows."""


class Link(NamedTuple):
    """A network device."""

    ifindex: int
    name: str
    mac: str
    """The permanent address where the driver tells it, because a bond gives its own to its ports."""
    kind: str = ""
    """Empty for hardware, else the kernel's kind: "veth", "bridge", "vlan", ...; "loopback" for lo, which has none."""
    master: int = 0
    """Index of the bond, bridge, team, VRF or Open vSwitch that it is a port of; 0 for none."""
    up: bool = True
    """Administratively up; says nothing of the carrier."""
    group: int = 0
    ipv6: bool = True
    """False where somebody has switched IPv6 off (sysctl disable_ipv6)."""
    carrier: bool = True
    parent: int = 0
    """Index of the device that it is made of (VLAN, macvlan, ipvlan; a veth: its other end); 0 for none, or for one in
    another network namespace."""


class LinkAddress(NamedTuple):
    """An address on a link."""

    dev: str
    address: Address
    prefix_length: int
    leased: bool = False
    """It goes by itself unless somebody, a DHCP client, renews it; ours never do."""
    deprecated: bool = False
    """Never chosen as a source by itself; used by who binds to it, and answered from."""

    @property
    def network(self) -> Network:
        """The prefix that is on-link with it."""
        return ip_network("{}/{}".format(self.address, self.prefix_length), strict=False)

    def __str__(self) -> str:
        return "{}/{} dev {}".format(self.address, self.prefix_length, self.dev)


class SeenAddress(NamedTuple):
    """An address as the kernel has it."""

    held: LinkAddress
    protocol: int
    """Who says that it is his; 0: nobody, or the kernel does not remember (before 5.18)."""
    set_at: int
    """When it was added, or set anew: hundredths of a second since the boot."""


class Hop(NamedTuple):
    """One way out: a device, and the gateway unless the destination is on-link."""

    dev: str
    gateway: Optional[Address] = None
    weight: int = 1
    """Its share where there are several ways, 1 to 256."""
    other: Tuple[str, ...] = ()
    """What else the kernel is told of it, by name: only other people's routes have any, and without it a copy would
    send packets another way, or bare where they are to be encapsulated."""

    def __str__(self) -> str:
        words = ["via", str(self.gateway)] if self.gateway is not None else []
        words += ["dev", self.dev] + (["weight", str(self.weight)] if self.weight != 1 else [])
        return " ".join(words + list(self.other))


class Route(NamedTuple):
    """A route: only what we set, so that equality is the comparison.

    Who installed it (the protocol) is not what it is. Whether a gateway is set ``onlink`` follows from the rest.
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
    """The source that it suggests to sockets that have none; only copies of the user's own routes have one."""

    @property
    def version(self) -> int:
        return self.dst.version

    @property
    def key(self) -> Tuple[int, Network, int, int]:
        """What the kernel takes for the route's identity: two routes with one key can't both be there."""
        return self.table, self.dst, self.metric, self.tos

    @property
    def way(self) -> "Route":
        """Where it leads, without what it suggests to sockets on the way."""
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
        """Whether the kernel is told that the gateway is a neighbour: where the table does not tell it."""
        return any(hop.gateway is not None for hop in self.hops) and (self.version == 4 or self.table == MAIN)

    def devs(self) -> Tuple[str, ...]:
        return tuple(hop.dev for hop in self.hops)

    def __str__(self) -> str:
        return self.text()

    def text(self, more: Sequence[str] = (), each: Sequence[str] = ()) -> str:
        """In iproute2's words, and more of them; ``each``: for each way."""
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
        ways = [" ".join(["nexthop", str(hop), *each]) for hop in self.hops]
        return " ".join(words + [*more, *ways])  # iproute2 wants them last


class Match(NamedTuple):
    """What a policy rule asks of a packet beside its source and its device; all of it must hold."""

    dst: Optional[Network] = None
    iif: str = ""
    """Came in by this device; ``lo``: sent by this host itself."""
    mark: int = 0
    mask: int = 0
    """Of the mark, the bits that count; 0: any mark."""
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
"""No more than the source and the device."""

UPPER_HALF = IPv6Network("8000::/1")
SOURCELESS: Dict[int, Tuple[Network, Match]] = {
    4: (IPv4Network("0.0.0.0/32"), ANY), 6: (IPv6Network("::/1"), Match(inverted=True))}
"""By IP version, the source and the rest of a rule for packets that have chosen no source yet (why so: ``policy``)."""


UNKNOWN = "unknown"
"""The word in a rule's ``other`` before what we can't read."""


class Rule(NamedTuple):
    """A policy rule."""

    version: int
    """4 or 6: a rule without a source has no address that tells it."""
    priority: int
    src: Optional[Network] = None
    oif: str = ""
    action: str = "lookup"
    table: int = 0
    suppress_prefixlength: Optional[int] = None
    suppress_ifgroup: Optional[int] = None
    match: Match = ANY
    goto: int = 0
    """With that action: the priority at which to go on."""
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
    """A number that the kernel keeps for each link: its MTU, or one of IPv4's sysctls."""

    dev: str
    name: str
    """``mtu``, ``rp_filter``, ``arp_ignore`` or ``arp_announce``."""
    value: int


class SeenRoute(NamedTuple):
    """A route as the kernel has it."""

    route: Route
    protocol: int
    expires: bool = False
    """It goes by itself: learned from a router advertisement."""


class SeenRule(NamedTuple):
    """A rule as the kernel has it."""

    rule: Rule
    protocol: int


class Snapshot(NamedTuple):
    """All of the kernel's state that the decision looks at.

    ``routes`` holds every route of ours, main's default routes, main's routes through an ENI, and all routes of the
    tables that were asked for; of a routing daemon's ten thousand others it knows nothing.
    """

    links: Tuple[Link, ...]
    addresses: Tuple[LinkAddress, ...]
    """Without IPv6 link-local ones."""
    rules: Tuple[SeenRule, ...]
    """In the kernel's order, IPv4 first."""
    routes: Tuple[SeenRoute, ...]
    settings: Tuple[LinkSetting, ...] = ()
    """Those that are asked for, or were."""
    seen: Tuple[SeenAddress, ...] = ()
    """The addresses, with what tells whose they are."""

    @property
    def working(self) -> FrozenSet[str]:
        """Devices by which packets can leave now."""
        return frozenset(link.name for link in self.links if link.up and link.carrier)


class Query(NamedTuple):
    """A question: by which route would this packet go?"""

    dst: Address
    src: Optional[Address] = None
    iif: str = ""
    """Came in by this device (the reverse path filter is asked too); empty: sent by this host."""
    oif: str = ""
    """From a socket bound to this device."""
    match: bool = False
    """Ask for the route itself rather than for what it makes of this destination."""
    user: Optional[int] = None
    """The sending socket's user id."""
    mark: int = 0
    protocol: int = 0
    sport: int = 0
    dport: int = 0


class Answer(NamedTuple):
    """The kernel's answer."""

    dev: str = ""
    gateway: Optional[Address] = None
    table: int = 0
    kind: str = ""
    error: int = 0
    """errno when there is no way: ENETUNREACH, EXDEV (reverse path filter), ..."""
    dst: str = ""
    """With ``match``: the route's destination."""


def natural(name: str) -> Tuple[Tuple[int, str], ...]:
    """Sort key that puts eth2 before eth10."""
    parts = [part for part in re.split(r"([0-9]+)", name) if part]
    return tuple((int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts)


@lru_cache(maxsize=None)
def network_of(address: Address) -> Network:
    """The prefix that holds just this address; one object for all who ask, of a large host's 1,600."""
    return IPv4Network(int(address)) if address.version == 4 else IPv6Network(int(address))


GROUPS = 1 << 0 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18
"""The multicast groups of rtnetlink (linux/rtnetlink.h, RTNLGRP_*) that systemd's socket joins: links, and of IPv4 and
IPv6 addresses, routes and rules."""

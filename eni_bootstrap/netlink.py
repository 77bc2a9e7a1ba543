"""The kernel, by rtnetlink: read links, addresses, rules and routes; apply changes; ask for routes.

The only file that imports pyroute2, and of it only the message codecs: they are the same on both lines that we support
(0.7 on old Pythons, 0.9), while its own sockets differ in what they filter and in the cost of a call. The socket here
sends many messages at once and lets the kernel filter dumps, so that neither 1,600 rules of ours nor a routing daemon's
10,000 routes make a boot slow. Formats: linux/netlink.h, linux/rtnetlink.h; kernel 4.17 or newer.
"""

import errno
import ipaddress
import os
import socket
import struct
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from eni_bootstrap import fibrule
from eni_bootstrap.config import Config
from eni_bootstrap.errors import BootstrapError, NotPermitted
from eni_bootstrap.model import (
    MAIN, Address, Answer, Hop, Link, LinkAddress, LinkGroup, LinkUp, Query, Route, SeenRoute, SeenRule, Snapshot,
)
from eni_bootstrap.plan import Change

# linux/netlink.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP_INTERRUPTED, _DUMP = 0x1, 0x4, 0x10, 0x300
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 270, 10, 11, 12
_EMPTY_RULE = struct.Struct("=B11x")  # struct fib_rule_hdr, of which only the family counts
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_ERROR_TEXT = 1  # NLMSGERR_ATTR_MSG

# linux/rtnetlink.h
_NEWLINK, _GETLINK = 16, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_TYPES = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole", 7: "unreachable",
          8: "prohibit", 9: "throw", 10: "nat"}
_TYPE_NUMBERS = {name: number for number, name in _TYPES.items()}
_ONLINK = 4  # RTNH_F_ONLINK
_SCOPE_LINK = 253
_TELL_TABLE, _TELL_MATCH = 0x1000, 0x2000  # RTM_F_LOOKUP_TABLE, RTM_F_FIB_MATCH
_SKIP_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS: half of a link's message
_IFF_UP = 1
_NODAD = 2  # IFA_F_NODAD: the cloud gives an address to one ENI only, and a vSwitch has no multicast to ask by
_PROTOCOL_KERNEL = 2

_OPTIONS = {"RTAX_MTU": "mtu", "RTAX_WINDOW": "window", "RTAX_SSTHRESH": "ssthresh", "RTAX_CWND": "cwnd",
            "RTAX_ADVMSS": "advmss", "RTAX_REORDERING": "reordering", "RTAX_HOPLIMIT": "hoplimit",
            "RTAX_INITCWND": "initcwnd", "RTAX_INITRWND": "initrwnd", "RTAX_QUICKACK": "quickack"}
_OPTION_NAMES = {name: attribute for attribute, name in _OPTIONS.items()}

_IN_ONE_SEND = 400
"""Messages in one send: 40 KiB of the 208 KiB that a socket may buffer by default, and as many errors come back."""

_ANSWERS_AT_ONCE = 64
"""Look-ups in one send: the answers wait in the same buffer, at 1.4 KiB each (150 of them were too many)."""

_BUFFER = 1 << 20
"""Bytes: room for 400 refusals, where we may ask for it (SO_RCVBUFFORCE)."""
_RCVBUFFORCE = 33  # asm-generic/socket.h

_DUMP_TRIES = 5
"""A dump that is cut short by somebody's change is asked for again; a routing daemon may be busy at boot."""

_FAMILY = fibrule.FAMILY
_VERSION = {family: version for version, family in _FAMILY.items()}
_WHOLE = {4: 32, 6: 128}


class Failure(NamedTuple):
    """A change that the kernel refused."""

    change: Change
    reason: str


class Kernel:
    """One netlink socket into the network namespace of the calling thread."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        for level, option, value in (
            (_SOL_NETLINK, _CAP_ACK, 1), (_SOL_NETLINK, _EXT_ACK, 1), (_SOL_NETLINK, _STRICT_CHECK, 1),
            (socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER),
        ):
            try:
                self._socket.setsockopt(level, option, value)
            except OSError:
                pass  # strict checks came with 4.20 (without them dumps are filtered here); the buffer takes privileges
        self._sequence = 0
        self._names: Dict[int, str] = {}
        self._indexes: Dict[str, int] = {}

    def close(self) -> None:
        self._socket.close()

    # ---- reading

    def links(self) -> Tuple[Link, ...]:
        """All links of this namespace."""
        found = []
        body = _encode(ifinfmsg, {"family": 0}, [("IFLA_EXT_MASK", _SKIP_STATISTICS)])
        for payload in self._dump(_GETLINK, body):
            message = _decode(ifinfmsg, payload)
            info = message.get_attr("IFLA_LINKINFO")
            kind = info.get_attr("IFLA_INFO_KIND") if info is not None else None
            mac = message.get_attr("IFLA_PERM_ADDRESS") or message.get_attr("IFLA_ADDRESS") or ""
            found.append(Link(
                message["index"], message.get_attr("IFLA_IFNAME"), mac.lower(), kind or "",
                message.get_attr("IFLA_MASTER") or 0, bool(message["flags"] & _IFF_UP),
                message.get_attr("IFLA_GROUP") or 0))
        self._names = {link.ifindex: link.name for link in found}
        self._indexes = {link.name: link.ifindex for link in found}
        return tuple(found)

    def addresses(self) -> Tuple[LinkAddress, ...]:
        """All addresses but link-local IPv6 and loopback ones."""
        found = []
        for payload in self._dump(_GETADDR, _encode(ifaddrmsg, {"family": 0}, [])):
            message = _decode(ifaddrmsg, payload)
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            address = ipaddress.ip_address(text)
            if not (address.is_loopback or address.version == 6 and address.is_link_local):
                found.append(LinkAddress(self._names.get(message["index"], ""), address, message["prefixlen"]))
        return tuple(found)

    def rules(self) -> Tuple[SeenRule, ...]:
        """All policy rules in the order in which the kernel asks them, IPv4 first."""
        found = []
        for version in (4, 6):
            for payload in self._dump(_GETRULE, _EMPTY_RULE.pack(_FAMILY[version])):
                found.append(fibrule.unpack(payload[_HEADER.size:], version))
        return tuple(found)

    def snapshot(
        self, links: Tuple[Link, ...], rules: Tuple[SeenRule, ...], devs: Iterable[str], tables: Iterable[int],
        config: Config
    ) -> Snapshot:
        """What the decision looks at.

        Of ``devs``, main's routes: the kernel's own, and as many others as may be copied, and one more to tell that
        there are more. Of ``tables``, and of those that hold something of ours, everything.
        """
        routes: Dict[SeenRoute, None] = {}
        for version in (4, 6):
            own = dict(self._routes(version, lambda head: head.protocol == config.protocol, protocol=config.protocol))
            routes.update(own)
            for table in set(tables).union(seen.route.table for seen in own if config.owns_table(seen.route.table)):
                routes.update(self._routes(version, lambda head: True, table=table))
            routes.update(self._routes(version, lambda head: head.length == 0, table=MAIN))
            for dev in devs:
                others = _Quota(config.copies + 1)
                routes.update(self._routes(
                    version, lambda head: head.protocol == _PROTOCOL_KERNEL or others.take(), table=MAIN, dev=dev))
        return Snapshot(links, self.addresses(), rules, tuple(routes))

    def some_route(self, dev: str) -> Optional[Route]:
        """One of main's routes through a device, IPv4 or IPv6; none when it has no specific one."""
        for version in (4, 6):
            one = _Quota(1)
            for seen, _ in self._routes(version, lambda head: head.length > 0 and one.take(), table=MAIN, dev=dev):
                return seen.route
        return None

    def _routes(
        self, version: int, take: "Callable[[_RouteHead], bool]", table: int = 0, protocol: int = 0, dev: str = ""
    ) -> Iterator[Tuple[SeenRoute, None]]:
        """Routes, filtered by the kernel where it can (4.20), here where it can't; local ones left out.

        ``take`` sees the fixed part only, so that a route that nobody wants costs next to nothing.
        """
        fields = {"family": _FAMILY[version], "proto": protocol}
        attributes: List[Tuple[str, Any]] = []
        if table:
            attributes.append(("RTA_TABLE", table))
        if dev:
            attributes.append(("RTA_OIF", self._indexes[dev]))
        for payload in self._dump(_GETROUTE, _encode(rtmsg, fields, attributes), take):
            seen = self._route(_decode(rtmsg, payload), version)
            if seen is None or seen.route.kind in _UNROUTED or table and seen.route.table != table:
                continue
            if not dev or dev in seen.route.devs():
                yield seen, None

    def _route(self, message: Any, version: int) -> Optional[SeenRoute]:
        attributes = dict(message["attrs"])
        table = attributes.get("RTA_TABLE", message["table"])
        address, length = attributes.get("RTA_DST"), message["dst_len"]
        dst = ipaddress.ip_network("{}/{}".format(address or _ANY[version], length), strict=False)
        kind = _TYPES.get(message["type"], str(message["type"]))
        hops: Tuple[Hop, ...] = ()
        if kind == "unicast":
            parts = attributes.get("RTA_MULTIPATH")
            if parts:
                hops = tuple(Hop(self._names.get(part["oif"], ""), _gateway(dict(part["attrs"]))) for part in parts)
            elif "RTA_OIF" in attributes:
                hops = (Hop(self._names.get(attributes["RTA_OIF"], ""), _gateway(attributes)),)
        metrics = attributes.get("RTA_METRICS")
        options = sorted((_OPTIONS[name], value) for name, value in (metrics["attrs"] if metrics else ())
                         if name in _OPTIONS)
        cache = attributes.get("RTA_CACHEINFO")
        route = Route(table, dst, hops, kind, attributes.get("RTA_PRIORITY", 0), tuple(options), message["tos"])
        return SeenRoute(route, message["proto"], bool(cache and cache["rta_expires"]))

    # ---- asking

    def ask(self, queries: Sequence[Query]) -> List[Answer]:
        """The kernel's own look-ups (RTM_GETROUTE), all in one send; an answer for each query."""
        answers: List[Answer] = []
        for start in range(0, len(queries), _ANSWERS_AT_ONCE):
            part = queries[start:start + _ANSWERS_AT_ONCE]
            first = self._sequence + 1
            self._send([self._question(query) for query in part])
            replies: Dict[int, Answer] = {}
            while len(replies) < len(part):
                for header, payload in self._receive():
                    if first <= header.sequence < first + len(part):
                        replies[header.sequence] = self._answer(header, payload)
            answers += [replies[first + place] for place in range(len(part))]
        return answers

    def _question(self, query: Query) -> bytes:
        version = query.dst.version
        # IPv6 tells the table unasked and takes the request for a mistake.
        fields = {"family": _FAMILY[version], "dst_len": _WHOLE[version],
                  "flags": (_TELL_TABLE if version == 4 else 0) | (_TELL_MATCH if query.match else 0)}
        attributes: List[Tuple[str, Any]] = [("RTA_DST", str(query.dst))]
        if query.src is not None:
            fields["src_len"] = _WHOLE[version]
            attributes.append(("RTA_SRC", str(query.src)))
        if query.iif:
            attributes.append(("RTA_IIF", self._indexes[query.iif]))
        if query.oif:
            attributes.append(("RTA_OIF", self._indexes[query.oif]))
        return self._frame(_GETROUTE, _REQUEST, _encode(rtmsg, fields, attributes))

    def _answer(self, header: "_Header", payload: bytes) -> Answer:
        if header.type == _NLMSG_ERROR:
            return Answer(error=_error(payload)[0])
        message = _decode(rtmsg, payload)
        attributes = dict(message["attrs"])
        kind = _TYPES.get(message["type"], "")
        # IPv6 answers a refusal with a route of that type, IPv4 with the error alone.
        error = errno.EHOSTUNREACH if kind in ("unreachable", "blackhole", "prohibit") else 0
        return Answer(self._names.get(attributes.get("RTA_OIF", 0), ""), _gateway(attributes),
                      attributes.get("RTA_TABLE", message["table"]), kind, error,
                      "{}/{}".format(attributes.get("RTA_DST", _ANY[_VERSION[message["family"]]]), message["dst_len"]))

    # ---- changing

    def apply(self, changes: Sequence[Change]) -> List[Failure]:
        """Make the changes in this order, many in one send; those that the kernel refused come back.

        What is there already, or gone already, counts as done: somebody was faster.
        Raises ``NotPermitted`` without CAP_NET_ADMIN.
        """
        failures: List[Failure] = []
        for start in range(0, len(changes), _IN_ONE_SEND):
            part = changes[start:start + _IN_ONE_SEND]
            first = self._sequence + 1
            self._send([self._order(change, last=change is part[-1]) for change in part])
            ended = False
            while not ended:
                for header, payload in self._receive():
                    place = header.sequence - first
                    if header.type != _NLMSG_ERROR or not 0 <= place < len(part):
                        continue
                    ended = ended or place == len(part) - 1
                    number, text = _error(payload)
                    if number in (errno.EPERM, errno.EACCES):
                        raise NotPermitted("the kernel refuses «{}»: it takes CAP_NET_ADMIN".format(part[place]))
                    if number and not _done_already(part[place], number):
                        failures.append(Failure(part[place], text or os.strerror(number)))
        return failures

    def _order(self, change: Change, last: bool) -> bytes:
        flags = _REQUEST | (_ACK if last else 0)
        item, away = change.item, change.verb == "remove"
        if isinstance(item, LinkGroup):
            fields = {"index": self._indexes[item.dev]}
            return self._frame(_NEWLINK, flags, _encode(ifinfmsg, fields, [("IFLA_GROUP", item.group)]))
        if isinstance(item, LinkUp):
            fields = {"index": self._indexes[item.dev], "flags": 0 if away else _IFF_UP, "change": _IFF_UP}
            return self._frame(_NEWLINK, flags, _encode(ifinfmsg, fields, []))
        if not away:
            flags |= _CREATE | (_REPLACE if change.verb == "replace" else _EXCL)
        if isinstance(item, LinkAddress):
            fields = {"family": _FAMILY[item.address.version], "prefixlen": item.prefix_length,
                      "index": self._indexes[item.dev]}
            attributes = [("IFA_LOCAL", str(item.address)), ("IFA_ADDRESS", str(item.address)), ("IFA_FLAGS", _NODAD)]
            body = _encode(ifaddrmsg, fields, attributes)
            return self._frame(_DELADDR if away else _NEWADDR, flags, body)
        if isinstance(item, Route):
            return self._frame(_DELROUTE if away else _NEWROUTE, flags, self._route_body(item, change.protocol))
        return self._frame(_DELRULE if away else _NEWRULE, flags, fibrule.pack(item, change.protocol))

    def _route_body(self, route: Route, protocol: int) -> bytes:
        fields = {"family": _FAMILY[route.version], "dst_len": route.dst.prefixlen, "proto": protocol,
                  "type": _TYPE_NUMBERS[route.kind], "tos": route.tos,
                  "scope": _SCOPE_LINK if route.version == 4 and route.hops and not route.onlink else 0,
                  "flags": _ONLINK if route.onlink and len(route.hops) == 1 else 0}
        attributes: List[Tuple[str, Any]] = [("RTA_TABLE", route.table)]
        if route.dst.prefixlen:
            attributes.append(("RTA_DST", str(route.dst.network_address)))
        if route.metric:
            attributes.append(("RTA_PRIORITY", route.metric))
        if len(route.hops) == 1:
            attributes.append(("RTA_OIF", self._indexes[route.hops[0].dev]))
            attributes += _via(route.hops[0], route.version)
        elif route.hops:
            attributes.append(("RTA_MULTIPATH", [
                {"oif": self._indexes[hop.dev], "hops": 0, "flags": _ONLINK if route.onlink else 0,
                 "attrs": _via(hop, route.version)} for hop in route.hops]))
        if route.options:
            attributes.append(("RTA_METRICS", {
                "attrs": [(_OPTION_NAMES[name], value) for name, value in route.options]}))
        return _encode(rtmsg, fields, attributes)

    # ---- the socket

    def _frame(self, kind: int, flags: int, body: bytes) -> bytes:
        """A message with the next sequence number."""
        self._sequence += 1
        return _HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body

    def _send(self, messages: Sequence[bytes]) -> None:
        self._socket.send(b"".join(messages))

    def _receive(self) -> "Iterator[Tuple[_Header, bytes]]":
        """The messages of one datagram, each with its header in front."""
        data = self._socket.recv(_DATAGRAM)
        offset = 0
        while offset < len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            yield _Header(kind, flags, sequence), data[offset:offset + length]
            offset += (length + 3) & ~3

    def _dump(self, kind: int, body: bytes, take: "Optional[Callable[[_RouteHead], bool]]" = None) -> List[bytes]:
        for _ in range(_DUMP_TRIES):
            found, whole = self._dump_once(kind, body, take)
            if whole:
                return found
        raise BootstrapError("the kernel's routing state changes too fast to be read; try again")

    def _dump_once(
        self, kind: int, body: bytes, take: "Optional[Callable[[_RouteHead], bool]]"
    ) -> Tuple[List[bytes], bool]:
        self._send([self._frame(kind, _REQUEST | _DUMP, body)])
        expected = self._sequence
        found: List[bytes] = []
        whole = True
        while True:
            for header, payload in self._receive():
                if header.sequence != expected:
                    continue
                whole = whole and not header.flags & _DUMP_INTERRUPTED
                if header.type == _NLMSG_DONE:
                    return found, whole
                if header.type == _NLMSG_ERROR:
                    number, text = _error(payload)
                    if number in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                        return [], True  # no such table, or a kernel without IPv6
                    raise BootstrapError("the kernel does not tell its state: " + (text or os.strerror(number)))
                if take is None or take(_route_head(payload)):
                    found.append(payload)


def _encode(codec: Type[Any], fields: Dict[str, Any], attributes: List[Tuple[str, Any]]) -> bytes:
    """A message's body by one of pyroute2's codecs."""
    message = codec()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[_HEADER.size:])


def _decode(codec: Type[Any], payload: bytes) -> Any:
    message = codec(payload)
    message.decode()
    return message


class _Header(NamedTuple):
    type: int
    flags: int
    sequence: int


class _RouteHead(NamedTuple):
    """The fixed part of a route message (struct rtmsg) that is worth looking at before decoding the rest."""

    length: int
    protocol: int


class _Quota:
    """Says yes so many times."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self) -> bool:
        self._left -= 1
        return self._left >= 0


_DATAGRAM = 1 << 17
"""Bytes; the kernel's dumps come in at most 32 KiB, an answer to a full send in single messages."""

_ANY = {4: "0.0.0.0", 6: "::"}
_UNROUTED = ("local", "broadcast", "anycast", "multicast")


def _route_head(payload: bytes) -> _RouteHead:
    # struct rtmsg behind the 16 bytes of header: family, dst_len, src_len, tos, table, protocol, ...
    return _RouteHead(payload[17], payload[21])


def _gateway(attributes: Dict[str, Any]) -> Optional[Address]:
    text = attributes.get("RTA_GATEWAY")
    if text is None and "RTA_VIA" in attributes:
        via = attributes["RTA_VIA"]
        text = via.get("addr") if isinstance(via, dict) else None
    return ipaddress.ip_address(text) if text else None


def _via(hop: Hop, version: int) -> List[Tuple[str, Any]]:
    if hop.gateway is None:
        return []
    if hop.gateway.version == version:
        return [("RTA_GATEWAY", str(hop.gateway))]
    return [("RTA_VIA", {"family": _FAMILY[hop.gateway.version], "addr": str(hop.gateway)})]


def _error(payload: bytes) -> Tuple[int, str]:
    """The errno of an error message (0: an acknowledgement) and the kernel's own words, where it has some."""
    number = -struct.unpack_from("=i", payload, 16)[0]
    offset = 36  # behind the error and the header of the message that it answers (NETLINK_CAP_ACK)
    while offset + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, offset)
        if length < 4:
            break
        if kind & 0x3FFF == _ERROR_TEXT:
            return number, payload[offset + 4:offset + length].rstrip(b"\0").decode(errors="replace")
        offset += (length + 3) & ~3
    return number, ""


def _done_already(change: Change, number: int) -> bool:
    if change.verb == "remove":
        return number in (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)
    return number == errno.EEXIST and not isinstance(change.item, Route)

"""The kernel: read links, addresses, rules and routes; apply changes; ask for routes.

This is the only file that imports pyroute2, and it uses the message codecs only: they are the same on both lines that
we support (0.7 on old Pythons, 0.9), while pyroute2's sockets differ in what they filter and in the cost of a call. Our
socket (``kernel.socket``) sends many messages at once and lets the kernel filter dumps, so that neither 1,600 rules nor
a routing daemon's 10,000 routes make a boot slow. Formats: linux/rtnetlink.h; kernel 4.17 or newer.
"""

import errno
import ipaddress
import itertools
import os
import struct
import sys
from typing import Any, Callable, Dict, FrozenSet, Iterable, Iterator, List, Optional, Sequence, Tuple, Type

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from eni_bootstrap.config.settings import Config
from eni_bootstrap.kernel import rule_codec
from eni_bootstrap.kernel.socket import HEADER, Message, Socket
from eni_bootstrap.model.changes import Change, Failure
from eni_bootstrap.model.errors import NotPermitted
from eni_bootstrap.model.kernel import (
    LOCAL, MAIN, PROTOCOL_KERNEL, Address, Answer, Hop, Link, LinkAddress, LinkGroup, LinkSetting, LinkUp, Query,
    Route, Rule, SeenAddress, SeenRoute, SeenRule, Snapshot, bytes_of, name_of,
)

_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400  # linux/netlink.h

# linux/rtnetlink.h
_NEWLINK, _GETLINK = 16, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_TYPES = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole", 7: "unreachable",
          8: "prohibit", 9: "throw", 10: "nat"}
_TYPE_NUMBERS = {name: number for number, name in _TYPES.items()}
_FENCE, _LOCAL = _TYPE_NUMBERS["unreachable"], _TYPE_NUMBERS["local"]
_DST_LENGTH, _PROTOCOL, _TYPE = 1, 5, 7  # bytes of struct rtmsg
_ONLINK = 4  # RTNH_F_ONLINK
_SCOPE_LINK, _SCOPE_HOST = 253, 254
_RTA_UID, _RTA_IP_PROTO, _RTA_SPORT, _RTA_DPORT = 25, 27, 28, 29
_TELL_TABLE, _TELL_MATCH = 0x1000, 0x2000  # RTM_F_LOOKUP_TABLE, RTM_F_FIB_MATCH
_SKIP_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS: half of a link's message
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 1, 0x8, 0x40
_FOR_EVER = 0xFFFFFFFF  # of an address's life time
_DEPRECATED = 0x20  # IFA_F_DEPRECATED
_NODAD = 2  # IFA_F_NODAD: the cloud gives an address to one ENI only, and a vSwitch has no multicast to ask by

# linux/if_addr.h; a kernel before 5.18 and pyroute2 0.7 don't know IFA_PROTO
_ADDRESS, _ADDRESS_LOCAL, _ADDRESS_CACHEINFO, _ADDRESS_FLAGS, _ADDRESS_PROTOCOL = 1, 2, 6, 8, 11
_ADDRESS_HEADER = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix's length, flags, scope, index
_ADDRESS_TIMES = struct.Struct("=IIII")  # struct ifa_cacheinfo: preferred, valid, made, last set
_NUMBER = struct.Struct("=I")

_OPTIONS = {"RTAX_MTU": "mtu", "RTAX_WINDOW": "window", "RTAX_SSTHRESH": "ssthresh", "RTAX_CWND": "cwnd",
            "RTAX_ADVMSS": "advmss", "RTAX_REORDERING": "reordering", "RTAX_HOPLIMIT": "hoplimit",
            "RTAX_INITCWND": "initcwnd", "RTAX_INITRWND": "initrwnd", "RTAX_QUICKACK": "quickack"}
_OPTION_NAMES = {name: attribute for attribute, name in _OPTIONS.items()}

_FAMILY = rule_codec.FAMILY
_VERSION = {family: version for version, family in _FAMILY.items()}
_WHOLE = {4: 32, 6: 128}
_ANY_RULE = struct.Struct("=B11x")  # struct fib_rule_hdr, of which only the family counts


class Kernel:
    """The kernel's links, addresses, rules and routes, in the network namespace of the calling thread.

    ``links()`` comes first: it tells the other methods which device has which index.
    """

    def __init__(self) -> None:
        self._socket = Socket()
        self._names: Dict[int, str] = {}
        self._indexes: Dict[str, int] = {}
        self._mtus: Dict[str, int] = {}
        self._protocols: FrozenSet[int] = frozenset()
        """Our protocols. Attributes of a route with one of these that we did not send are the kernel's own additions.
        """

    def close(self) -> None:
        self._socket.close()

    @property
    def port(self) -> int:
        """The netlink port by which the kernel names us, when it tells others of our changes."""
        return self._socket.port

    def indexes(self, devs: Iterable[str]) -> List[int]:
        """The interface indexes of the devices that were there at the last look, sorted."""
        return sorted(self._indexes[dev] for dev in devs if dev in self._indexes)

    # ---- reading

    def links(self) -> Tuple[Link, ...]:
        """All links of this namespace."""
        found = []
        mtus: Dict[str, int] = {}
        request = Message(_GETLINK, 0, _encode(ifinfmsg, {"family": 0}, [("IFLA_EXT_MASK", _SKIP_STATISTICS)]))
        for body in self._socket.dump(request):
            message = _decode(ifinfmsg, body)
            info = message.get_attr("IFLA_LINKINFO")
            kind = info.get_attr("IFLA_INFO_KIND") if info is not None else None
            kind = kind or ("loopback" if message["flags"] & _IFF_LOOPBACK else "")
            mac = message.get_attr("IFLA_PERM_ADDRESS") or message.get_attr("IFLA_ADDRESS") or ""
            elsewhere = message.get_attr("IFLA_LINK_NETNSID") is not None  # then the parent's index is that one's
            name = message.get_attr("IFLA_IFNAME")
            if isinstance(name, bytes):  # no UTF-8: pyroute2 leaves it as it is
                name = name_of(name)
            mtus[name] = message.get_attr("IFLA_MTU") or 0
            found.append(Link(
                message["index"], name, mac.lower(), kind, message.get_attr("IFLA_MASTER") or 0,
                bool(message["flags"] & _IFF_UP), message.get_attr("IFLA_GROUP") or 0, _has_ipv6(name),
                bool(message["flags"] & _IFF_RUNNING), 0 if elsewhere else message.get_attr("IFLA_LINK") or 0))
        self._mtus = mtus
        self._names = {link.ifindex: link.name for link in found}
        self._indexes = {link.name: link.ifindex for link in found}
        return tuple(found)

    def addresses(self) -> Tuple[LinkAddress, ...]:
        """All addresses but link-local IPv6 and loopback ones."""
        return tuple(seen.held for seen in self.seen_addresses())

    def seen_addresses(self) -> Tuple[SeenAddress, ...]:
        """The same addresses, each with its protocol and the time when it was set: these tell whose it is."""
        found = []
        for body in self._socket.dump(Message(_GETADDR, 0, _encode(ifaddrmsg, {"family": 0}, []))):
            _, length, few_flags, _, index = _ADDRESS_HEADER.unpack_from(body)
            attributes = rule_codec.attributes_of(body, _ADDRESS_HEADER.size)
            address = ipaddress.ip_address(attributes.get(_ADDRESS_LOCAL) or attributes[_ADDRESS])
            if not (address.is_loopback or address.version == 6 and address.is_link_local):
                _, valid, _, set_at = _ADDRESS_TIMES.unpack(attributes[_ADDRESS_CACHEINFO])
                flags = _NUMBER.unpack(attributes[_ADDRESS_FLAGS])[0] if _ADDRESS_FLAGS in attributes else few_flags
                held = LinkAddress(self._names.get(index, ""), address, length, valid != _FOR_EVER,
                                   bool(flags & _DEPRECATED))
                found.append(SeenAddress(held, attributes.get(_ADDRESS_PROTOCOL, b"\0")[0], set_at))
        return tuple(found)

    def settings(self, asked: Iterable[Tuple[str, str]]) -> Tuple[LinkSetting, ...]:
        """The values of these (device, setting) pairs, of devices that were there at the last look."""
        found = []
        for dev, name in sorted(asked):
            value = self._mtus.get(dev) if name == "mtu" else _sysctl(dev, name)
            if value is not None:
                found.append(LinkSetting(dev, name, value))
        return tuple(found)

    def rules(self) -> Tuple[SeenRule, ...]:
        """All policy rules in the order in which the kernel asks them, IPv4 first."""
        found = []
        for version in (4, 6):
            for body in self._socket.dump(Message(_GETRULE, 0, _ANY_RULE.pack(_FAMILY[version]))):
                found.append(rule_codec.unpack(body, version))
        return tuple(found)

    def snapshot(
        self, links: Tuple[Link, ...], rules: Tuple[SeenRule, ...], devs: Iterable[str], tables: Iterable[int],
        config: Config, former: Sequence[Config] = ()
    ) -> Snapshot:
        """The kernel's state that the decision needs.

        Of ``devs`` it has main's routes: the kernel's own, as many others as may be copied, and one more, which shows
        that there are more. Of ``tables``, and of the tables that hold routes of ours, it has all routes; what is ours
        by ``former`` numbers counts, too. Addresses are read anew; ``links`` and ``rules`` are those of the caller.
        """
        numbered = [config, *former]
        self._protocols = frozenset(each.protocol for each in numbered)
        routes: Dict[SeenRoute, None] = {}
        for version in (4, 6):
            own: List[SeenRoute] = []
            for ours in sorted(self._protocols):
                own += self._routes(version, _marked(ours), protocol=ours)
            own += self._routes(version, lambda body: body[_PROTOCOL] == PROTOCOL_KERNEL and body[_TYPE] == _FENCE,
                                protocol=PROTOCOL_KERNEL, kind=_FENCE)
            found = [own, self._routes(version, lambda body: not body[_DST_LENGTH], table=MAIN)]
            if config.prefixes == "local":
                whole = _WHOLE[version]
                found.append(self._routes(
                    version, lambda body: body[_TYPE] == _LOCAL and body[_DST_LENGTH] < whole, table=LOCAL))
            for table in sorted(set(tables).union(seen.route.table for seen in own
                                                  if any(each.owns_table(seen.route.table) for each in numbered))):
                found.append(self._routes(version, lambda body: True, table=table))
            for dev in sorted(devs):  # a route by several of them is told with the first
                found.append(self._routes(version, self._worth(config.copies + 1), table=MAIN, dev=dev))
            routes.update(dict.fromkeys(itertools.chain.from_iterable(found)))
        seen = self.seen_addresses()
        return Snapshot(links, tuple(each.held for each in seen), rules, tuple(routes), seen=seen)

    def _worth(self, most: int) -> Callable[[bytes], bool]:
        """Accept all kernel-made routes of the device and at most ``most`` others."""
        others = self._quota(most)
        return lambda body: body[_PROTOCOL] == PROTOCOL_KERNEL or others.take()

    def specific_routes(self, dev: str, most: int) -> List[Route]:
        """At most ``most`` of main's specific unicast routes through a device, IPv4 first."""
        found: List[Route] = []
        for version in (4, 6):
            quota = self._quota(most)
            found += [seen.route for seen in self._routes(
                version, lambda body: body[_DST_LENGTH] > 0 and quota.take(), table=MAIN, dev=dev)]
        return [route for route in found if not (route.dst.is_link_local or route.dst.is_multicast)][:most]

    def carries_others(self, dev: str, protocols: Iterable[int]) -> bool:
        """Whether any table has a route through the device that neither we (``protocols``) nor the kernel made."""
        return any(seen.protocol not in (PROTOCOL_KERNEL, *protocols)
                   for version in (4, 6) for seen in self._routes(version, lambda body: True, dev=dev))

    def _quota(self, most: int) -> "_Quota":
        """A counter of routes to decode; without a limit where the kernel does not filter and sends those of other
        devices, too."""
        return _Quota(most if self._socket.filters else sys.maxsize)

    def _routes(
        self, version: int, take: Callable[[bytes], bool], table: int = 0, protocol: int = 0, dev: str = "",
        kind: int = 0,
    ) -> Iterator[SeenRoute]:
        """Routes, filtered by the kernel where it can (since 4.20), here where it can't. Of local ones, prefixes only.

        ``take`` sees the undecoded message, so that a route that nobody wants costs next to nothing.
        """
        fields = {"family": _FAMILY[version], "proto": protocol, "type": kind}
        attributes: List[Tuple[str, Any]] = []
        if table:
            attributes.append(("RTA_TABLE", table))
        if dev:
            attributes.append(("RTA_OIF", self._indexes[dev]))
        request = Message(_GETROUTE, 0, _encode(rtmsg, fields, attributes))
        for body in self._socket.dump(request, take):
            seen = self._route(_decode(rtmsg, body), version)
            if seen.route.kind in _UNROUTED and not seen.route.is_local_prefix or table and seen.route.table != table:
                continue
            if not dev or dev in seen.route.devs():
                yield seen

    def _route(self, message: Any, version: int) -> SeenRoute:
        attributes = dict(message["attrs"])
        table = attributes.get("RTA_TABLE", message["table"])
        address, length = attributes.get("RTA_DST"), message["dst_len"]
        dst = ipaddress.ip_network("{}/{}".format(address or _ANY[version], length), strict=False)
        kind = _TYPES.get(message["type"], str(message["type"]))
        hops: Tuple[Hop, ...] = ()
        if kind in ("unicast", "local"):
            parts = attributes.get("RTA_MULTIPATH")
            other = () if message["proto"] in self._protocols else _other(message["attrs"])
            if parts:
                hops = tuple(Hop(self._names.get(part["oif"], ""), _gateway(dict(part["attrs"])), part["hops"] + 1,
                                 other + _other(part["attrs"])) for part in parts)
            elif "RTA_OIF" in attributes:
                hops = (Hop(self._names.get(attributes["RTA_OIF"], ""), _gateway(attributes), other=other),)
        metrics = attributes.get("RTA_METRICS")
        options = sorted((_OPTIONS[name], value) for name, value in (metrics["attrs"] if metrics else ())
                         if name in _OPTIONS)
        cache = attributes.get("RTA_CACHEINFO")
        prefsrc = attributes.get("RTA_PREFSRC")
        route = Route(table, dst, hops, kind, attributes.get("RTA_PRIORITY", 0), tuple(options), message["tos"],
                      ipaddress.ip_address(prefsrc) if prefsrc else None)
        return SeenRoute(route, message["proto"], bool(cache and cache["rta_expires"]))

    # ---- asking

    def ask(self, queries: Sequence[Query]) -> List[Answer]:
        """Have the kernel look up routes (RTM_GETROUTE), many in one send. Returns an answer for each query."""
        replies = self._socket.ask([self._question(query) for query in queries])
        return [Answer(error=reply.error) if reply.error else self._answer(reply.body) for reply in replies]

    def _question(self, query: Query) -> Message:
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
        if query.mark:
            attributes.append(("RTA_MARK", query.mark))
        return Message(_GETROUTE, 0, _encode(rtmsg, fields, attributes) + _packed_selectors(query))

    def _answer(self, body: bytes) -> Answer:
        message = _decode(rtmsg, body)
        attributes = dict(message["attrs"])
        kind = _TYPES.get(message["type"], "")
        # IPv6 answers a refusal with a route of that type, IPv4 with the error alone.
        error = errno.EHOSTUNREACH if kind in ("unreachable", "blackhole", "prohibit") else 0
        return Answer(self._names.get(attributes.get("RTA_OIF", 0), ""), _gateway(attributes),
                      attributes.get("RTA_TABLE", message["table"]), kind, error,
                      "{}/{}".format(attributes.get("RTA_DST", _ANY[_VERSION[message["family"]]]), message["dst_len"]))

    # ---- changing

    def apply(self, changes: Sequence[Change]) -> List[Failure]:
        """Make the changes in this order, many in one send. Returns those that the kernel refused.

        All messages are built before the first is sent: a change that can't be encoded leaves everything as it is.
        What is there already, or gone already, counts as done: somebody was faster.
        Raises ``NotPermitted`` without CAP_NET_ADMIN.
        """
        failures: List[Failure] = []
        ordered = [change for change in changes if not _is_sysctl(change)]
        messages = [self._order(change) for change in ordered]
        for change in changes:
            if _is_sysctl(change):
                failures += _write(change)
        for change, reply in zip(ordered, self._socket.order(messages)):
            if reply.error == errno.EPERM:
                raise NotPermitted("the kernel refuses '{}': it takes CAP_NET_ADMIN".format(change))
            if reply.error and not _done_already(change, reply.error):
                overtaken = reply.error in (errno.EEXIST, errno.ENODEV, errno.ENETDOWN)
                failures.append(Failure(change, reply.text or os.strerror(reply.error), overtaken))
        return failures

    def _order(self, change: Change) -> Message:
        item, away = change.item, change.verb == "remove"
        if isinstance(item, LinkGroup):
            fields = {"index": self._indexes[item.dev]}
            return Message(_NEWLINK, 0, _encode(ifinfmsg, fields, [("IFLA_GROUP", item.group)]))
        if isinstance(item, LinkSetting):
            return Message(_NEWLINK, 0, _encode(ifinfmsg, {"index": self._indexes[item.dev]}, [
                ("IFLA_MTU", item.value)]))
        if isinstance(item, LinkUp):
            fields = {"index": self._indexes[item.dev], "flags": 0 if away else _IFF_UP, "change": _IFF_UP}
            return Message(_NEWLINK, 0, _encode(ifinfmsg, fields, []))
        flags = 0 if away else _CREATE | (_REPLACE if change.verb == "replace" else _EXCL)
        if isinstance(item, LinkAddress):
            fields = {"family": _FAMILY[item.address.version], "prefixlen": item.prefix_length,
                      "index": self._indexes[item.dev]}
            attributes: List[Tuple[str, Any]] = [
                ("IFA_LOCAL", str(item.address)), ("IFA_ADDRESS", str(item.address)), ("IFA_FLAGS", _NODAD)]
            if not away and item.address.version == 6:
                preferred = 0 if item.deprecated else _FOR_EVER
                attributes.append(("IFA_CACHEINFO", {"ifa_preferred": preferred, "ifa_valid": _FOR_EVER}))
            body = _encode(ifaddrmsg, fields, attributes)
            if not away:
                body += rule_codec.attribute(_ADDRESS_PROTOCOL, bytes([change.protocol]))
            return Message(_DELADDR if away else _NEWADDR, flags, body)
        if isinstance(item, Route):
            return Message(_DELROUTE if away else _NEWROUTE, flags, self._route_body(item, change.protocol))
        return Message(_DELRULE if away else _NEWRULE, flags, rule_codec.pack(item, change.protocol))

    def _route_body(self, route: Route, protocol: int) -> bytes:
        fields = {"family": _FAMILY[route.version], "dst_len": route.dst.prefixlen, "proto": protocol,
                  "type": _TYPE_NUMBERS[route.kind], "tos": route.tos,
                  "scope": _scope(route), "flags": _ONLINK if route.onlink and len(route.hops) == 1 else 0}
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
                {"oif": self._indexes[hop.dev], "hops": hop.weight - 1,
                 "flags": _ONLINK if route.onlink and hop.gateway is not None else 0,
                 "attrs": _via(hop, route.version)} for hop in route.hops]))
        if route.prefsrc is not None:
            attributes.append(("RTA_PREFSRC", str(route.prefsrc)))
        if route.options:
            attributes.append(("RTA_METRICS", {
                "attrs": [(_OPTION_NAMES[name], value) for name, value in route.options]}))
        return _encode(rtmsg, fields, attributes)


def _marked(protocol: int) -> Callable[[bytes], bool]:
    return lambda body: body[_PROTOCOL] == protocol


def _scope(route: Route) -> int:
    """The route's scope: how far away the destination is; IPv6 has none."""
    if route.version == 6:
        return 0
    if route.kind == "local":
        return _SCOPE_HOST
    return _SCOPE_LINK if route.hops and not route.onlink else 0


def _encode(codec: Type[Any], fields: Dict[str, Any], attributes: List[Tuple[str, Any]]) -> bytes:
    """Encode a message's body with one of pyroute2's codecs."""
    message = codec()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[HEADER.size:])


def _decode(codec: Type[Any], body: bytes) -> Any:
    message = codec(HEADER.pack(HEADER.size + len(body), 0, 0, 0, 0) + body)
    message.decode()
    return message


def _has_ipv6(name: str) -> bool:
    """Whether IPv6 is on for a device; true where a sandbox hides all sysctls."""
    try:
        with open(bytes_of("/proc/sys/net/ipv6/conf/{}/disable_ipv6".format(name))) as switch:
            return switch.read().strip() == "0"
    except OSError:
        return not os.path.exists("/proc/sys/net/core")


def _packed_selectors(query: Query) -> bytes:
    """The query's attributes that pyroute2's codecs don't have on both lines; ports are in network byte order."""
    parts = [] if query.user is None else [rule_codec.attribute(_RTA_UID, struct.pack("=I", query.user))]
    if query.protocol:
        parts.append(rule_codec.attribute(_RTA_IP_PROTO, bytes([query.protocol])))
    parts += [rule_codec.attribute(kind, struct.pack("!H", port))
              for kind, port in ((_RTA_SPORT, query.sport), (_RTA_DPORT, query.dport)) if port]
    return b"".join(parts)


_SYSCTL = "/proc/sys/net/ipv4/conf/{}/{}"


def _sysctl(dev: str, name: str) -> Optional[int]:
    """The value of one of IPv4's sysctls; None where the link has gone."""
    try:
        with open(bytes_of(_SYSCTL.format(dev, name))) as handle:
            return int(handle.read())
    except OSError:
        return None


def _is_sysctl(change: Change) -> bool:
    return isinstance(change.item, LinkSetting) and change.item.name != "mtu"


def _write(change: Change) -> List[Failure]:
    """Set a sysctl, which netlink can't. The service's sandbox allows it only where ``install`` knew of the setting."""
    item = change.item
    assert isinstance(item, LinkSetting)
    try:
        with open(bytes_of(_SYSCTL.format(item.dev, item.name)), "w") as handle:
            handle.write(str(item.value))
    except FileNotFoundError:
        return []  # with its link
    except OSError as error:
        return [Failure(change, "{}; for the service, run eni-bootstrap install again".format(error.strerror), False)]
    return []


class _Quota:
    """Counter: ``take()`` is true for the first ``left`` calls."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self) -> bool:
        self._left -= 1
        return self._left >= 0


_ANY = {4: "0.0.0.0", 6: "::"}
_UNROUTED = ("local", "broadcast", "anycast", "multicast")


_CARRIED = frozenset((
    "RTA_DST", "RTA_OIF", "RTA_GATEWAY", "RTA_VIA", "RTA_PRIORITY", "RTA_PREFSRC", "RTA_METRICS", "RTA_MULTIPATH",
    "RTA_TABLE", "RTA_CACHEINFO",
    "RTA_FLOW",  # a realm: counts packets and classifies them for tc
    "RTA_PREF",  # chooses among routers of one metric
    "RTA_ENCAP_TYPE",  # there is an RTA_ENCAP with it
))
"""Attributes of routes that a ``Route`` holds, and attributes without which a copy still sends packets the same way."""
_NEXTHOP_ID = 30  # RTA_NH_ID, which pyroute2 does not know; the ways of a nexthop object are told, too
_WORDS = {"RTA_ENCAP": "encap", "RTA_SRC": "from"}


def _other(attributes: List[Tuple[str, Any]]) -> Tuple[str, ...]:
    """The attributes that a ``Route`` does not hold, in iproute2's words where an operator may see them."""
    other = [(name, value) for name, value in attributes if name not in _CARRIED]
    numbers = [value["header"]["type"] & 0x3FFF for name, value in other if name == "UNKNOWN"]
    return tuple([_WORDS.get(name, name) for name, _ in other if name != "UNKNOWN"]
                 + ["attribute {}".format(number) for number in numbers if number != _NEXTHOP_ID])


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


def _done_already(change: Change, number: int) -> bool:
    if change.verb == "remove":
        return number in (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)
    return number == errno.EEXIST and isinstance(change.item, Rule)

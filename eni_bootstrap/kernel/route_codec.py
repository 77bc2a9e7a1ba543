"""Routes as the kernel's messages carry them (linux/rtnetlink.h), unpacked by hand; and the questions of look-ups.

What we don't know of a route is kept apart, so that it is never taken for a route without it.
"""

import errno
import ipaddress
import struct
from typing import AbstractSet, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from eni_bootstrap.kernel.attributes import attribute, attributes_of, network, number, number_attribute
from eni_bootstrap.kernel.rule_codec import FAMILY
from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.model.kernel import Address, Answer, Hop, Query, Route, SeenRoute

_ROUTE = struct.Struct("=8BI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
DST_LENGTH, PROTOCOL, TYPE = 1, 5, 7
"""Bytes of a route's message: its destination's length, its protocol, its type."""
TYPES = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole", 7: "unreachable",
         8: "prohibit", 9: "throw", 10: "nat"}
"""Types of routes by their numbers, as iproute2 calls them."""
_TELL_TABLE, _TELL_MATCH = 0x1000, 0x2000  # RTM_F_LOOKUP_TABLE, RTM_F_FIB_MATCH

_DST, _SRC, _IIF, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _METRICS, _MULTIPATH = 1, 2, 3, 4, 5, 6, 7, 8, 9
_FLOW, _CACHEINFO, _TABLE, _MARK, _VIA, _PREF, _ENCAP_TYPE, _ENCAP, _UID = 11, 12, 15, 16, 18, 20, 21, 22, 25
_IP_PROTO, _SPORT, _DPORT, _NEXTHOP_ID = 27, 28, 29, 30
_HOP = struct.Struct("=HBBi")  # struct rtnexthop: length with all of its attributes, flags, weight - 1, index
_EXPIRES = struct.Struct("=8xi")  # rta_expires of struct rta_cacheinfo

OPTIONS = {2: "mtu", 3: "window", 6: "ssthresh", 7: "cwnd", 8: "advmss", 9: "reordering", 10: "hoplimit",
           11: "initcwnd", 14: "initrwnd", 15: "quickack"}
"""Metrics of routes (RTAX_…) by their numbers, as iproute2 calls them."""

_CARRIED = frozenset((
    _DST, _OIF, _GATEWAY, _VIA, _PRIORITY, _PREFSRC, _METRICS, _MULTIPATH, _TABLE, _CACHEINFO,
    _FLOW,  # a realm: counts packets and classifies them for tc
    _PREF,  # chooses among routers of one metric
    _ENCAP_TYPE,  # there is an RTA_ENCAP with it
    _NEXTHOP_ID,  # the ways of a nexthop object are told, too
))
"""Attributes that a ``Route`` holds, and attributes without which a copy still sends packets the same way."""
_WORDS = {_ENCAP: "encap", _SRC: "from"}


def pack_filter(version: int, table: int = 0, protocol: int = 0, kind: int = 0, oif: int = 0) -> bytes:
    """The body of a request for all routes of an IP version of which this is true. 0: any; ``oif``: an index."""
    return b"".join((_ROUTE.pack(FAMILY[version], 0, 0, 0, 0, protocol, 0, kind, 0),
                     number_attribute(_TABLE, table) if table else b"",
                     number_attribute(_OIF, oif) if oif else b""))


def unpack(body: bytes, version: int, names: Mapping[int, str], ours: AbstractSet[int],
           nexthops: Callable[[], Mapping[int, Tuple[Hop, ...]]]) -> SeenRoute:
    """A route from the body of a message. ``names``: index -> link.

    What we did not send of a route with one of our protocols (``ours``) is the kernel's own addition. ``nexthops``: id
    -> hops, of nexthop objects: with the sysctl nexthop_compat_mode=0 a route tells nothing but the id of its own
    (findings/pyroute2-nexthop-id-unknown.sh).
    """
    _, length, _, tos, table, protocol, _, type_number, _ = _ROUTE.unpack_from(body)
    found = attributes_of(body, _ROUTE.size)
    kind = TYPES.get(type_number, str(type_number))
    hops: Tuple[Hop, ...] = ()
    if kind in ("unicast", "local"):
        other = () if protocol in ours else _other(found)
        if _MULTIPATH in found:
            hops = _hops(found[_MULTIPATH], names, other)
        elif _OIF in found:
            hops = (Hop(names.get(number(found[_OIF]), ""), _gateway(found), other=other),)
        elif _NEXTHOP_ID in found:
            hops = tuple(hop._replace(other=hop.other + other)
                         for hop in nexthops().get(number(found[_NEXTHOP_ID]), ()))
    metrics = attributes_of(found[_METRICS]) if _METRICS in found else {}
    options = sorted((OPTIONS[metric], number(value)) for metric, value in metrics.items() if metric in OPTIONS)
    route = Route(
        number(found[_TABLE]) if _TABLE in found else table,
        network(found.get(_DST, b""), length, version), hops, kind,
        number(found[_PRIORITY]) if _PRIORITY in found else 0, tuple(options), tos,
        ipaddress.ip_address(found[_PREFSRC]) if _PREFSRC in found else None)
    return SeenRoute(route, protocol, _CACHEINFO in found and bool(_EXPIRES.unpack_from(found[_CACHEINFO])[0]))


def _hops(data: bytes, names: Mapping[int, str], other: Tuple[str, ...]) -> Tuple[Hop, ...]:
    """The hops of a multipath route. ``other``: what holds for each of them."""
    hops: List[Hop] = []
    while data:
        length, _, weight, index = _HOP.unpack_from(data)
        if not _HOP.size <= length <= len(data):
            raise BootstrapError("the kernel's answer makes no sense: it has a hop of {} bytes".format(length))
        found = attributes_of(data[_HOP.size:length])
        hops.append(Hop(names.get(index, ""), _gateway(found), weight + 1, other + _other(found)))
        data = data[(length + 3) & ~3:]
    return tuple(hops)


def _other(found: Mapping[int, bytes]) -> Tuple[str, ...]:
    """The attributes that a ``Route`` does not hold, in iproute2's words where an operator may see them."""
    return tuple(_WORDS.get(kind, "attribute {}".format(kind)) for kind in found if kind not in _CARRIED)


def _gateway(found: Mapping[int, bytes]) -> Optional[Address]:
    """RTA_VIA, a gateway of the other IP version, has the family (16 bits) before the address."""
    packed = found.get(_GATEWAY) or found.get(_VIA, b"")[2:]
    return ipaddress.ip_address(packed) if packed else None


_NEXTHOP = struct.Struct("=BBBxI")  # struct nhmsg: family, scope, protocol, flags
_NEXTHOP_ITSELF, _GROUP, _NEXTHOP_OIF, _NEXTHOP_GATEWAY, _NEXTHOP_ENCAP = 1, 2, 5, 6, 8  # NHA_…, linux/nexthop.h
_MEMBER = struct.Struct("=IB3x")  # struct nexthop_grp: id, weight - 1
ALL_NEXTHOPS = _NEXTHOP.pack(0, 0, 0, 0)
"""The body of a request for all nexthop objects."""


def unpack_nexthops(bodies: Iterable[bytes], names: Mapping[int, str]) -> Dict[int, Tuple[Hop, ...]]:
    """Id -> hops, of all nexthop objects, from the bodies of their messages (linux/nexthop.h); of groups as well."""
    hops: Dict[int, Tuple[Hop, ...]] = {}
    groups: Dict[int, bytes] = {}
    for body in bodies:
        found = attributes_of(body, _NEXTHOP.size)
        own = number(found[_NEXTHOP_ITSELF])
        if _GROUP in found:
            groups[own] = found[_GROUP]
        elif _NEXTHOP_OIF in found:
            gateway = ipaddress.ip_address(found[_NEXTHOP_GATEWAY]) if _NEXTHOP_GATEWAY in found else None
            other = ("encap",) if _NEXTHOP_ENCAP in found else ()
            hops[own] = (Hop(names.get(number(found[_NEXTHOP_OIF]), ""), gateway, other=other),)
    for own, members in groups.items():
        hops[own] = tuple(hop._replace(weight=weight + 1) for member, weight in _MEMBER.iter_unpack(members)
                          for hop in hops.get(member, ()))
    return hops


def pack_question(query: Query, indexes: Mapping[str, int]) -> bytes:
    """The body of a request for the route of a packet. ``indexes``: link -> index."""
    version, whole = query.dst.version, query.dst.max_prefixlen
    # IPv6 tells the table unasked and takes the request for a mistake.
    flags = (_TELL_TABLE if version == 4 else 0) | (_TELL_MATCH if query.match else 0)
    parts = [_ROUTE.pack(FAMILY[version], whole, whole if query.src is not None else 0, 0, 0, 0, 0, 0, flags),
             attribute(_DST, query.dst.packed)]
    if query.src is not None:
        parts.append(attribute(_SRC, query.src.packed))
    parts += [number_attribute(kind, indexes[dev]) for kind, dev in ((_IIF, query.iif), (_OIF, query.oif)) if dev]
    if query.mark:
        parts.append(number_attribute(_MARK, query.mark))
    if query.user is not None:
        parts.append(number_attribute(_UID, query.user))
    if query.protocol:
        parts.append(attribute(_IP_PROTO, bytes([query.protocol])))
    parts += [attribute(kind, struct.pack("!H", port))  # in network byte order
              for kind, port in ((_SPORT, query.sport), (_DPORT, query.dport)) if port]
    return b"".join(parts)


def unpack_answer(body: bytes, names: Mapping[int, str], match: bool) -> Answer:
    """The kernel's answer to a question. ``match``: it asked for the matching route's destination, too."""
    family, length, _, _, table, _, _, type_number, _ = _ROUTE.unpack_from(body)
    found: Dict[int, bytes] = attributes_of(body, _ROUTE.size)
    kind = TYPES.get(type_number, "")
    # IPv6 answers a refusal with a route of that type, IPv4 with the error alone.
    error = errno.EHOSTUNREACH if kind in ("unreachable", "blackhole", "prohibit") else 0
    dst = str(network(found.get(_DST, b""), length, 4 if family == FAMILY[4] else 6)) if match else ""
    return Answer(
        names.get(number(found[_OIF]), "") if _OIF in found else "", _gateway(found),
        number(found[_TABLE]) if _TABLE in found else table, kind, error, dst)

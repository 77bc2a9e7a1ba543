"""Links and addresses as the kernel's messages carry them (linux/if_link.h, linux/if_addr.h), unpacked by hand.

A host may have 600 links and 5,000 addresses that are nobody's business of ours, and every run reads all of them.
"""

import ipaddress
import socket
import struct
from typing import Dict, Mapping, Optional, Tuple

from eni_bootstrap.kernel.attributes import attributes_of, number, number_attribute
from eni_bootstrap.model.kernel import Link, LinkAddress, SeenAddress, name_of

_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, hardware's type, index, flags, mask of changes
_MAC, _NAME, _MTU, _PARENT, _MASTER, _INFO, _AF_SPEC, _GROUP, _EXT_MASK = 1, 3, 4, 5, 10, 18, 26, 27, 29
_PARENTS_NETWORK_NAMESPACE, _PERMANENT_MAC = 37, 54
_INFO_KIND = 1  # in IFLA_LINKINFO
_INET6_CONF = 2  # in IFLA_AF_SPEC's AF_INET6
_DISABLE_IPV6 = struct.Struct("={}xi".format(26 * 4))  # DEVCONF_DISABLE_IPV6 (linux/ipv6.h)
_SKIP_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS: half of a link's message
_UP, _LOOPBACK, _RUNNING = 1, 0x8, 0x40

_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix's length, flags, scope, index
_ADDRESS_ADDRESS, _ADDRESS_LOCAL, _CACHEINFO, _FLAGS, ADDRESS_PROTOCOL = 1, 2, 6, 8, 11
_TIMES = struct.Struct("=IIII")  # struct ifa_cacheinfo: preferred, valid, made, last set
FOR_EVER = 0xFFFFFFFF
"""Seconds of an address's life time that never end (INFINITY_LIFE_TIME)."""
_DEPRECATED = 0x20  # IFA_F_DEPRECATED

ALL_LINKS = _LINK.pack(0, 0, 0, 0, 0) + number_attribute(_EXT_MASK, _SKIP_STATISTICS)
"""The body of a request for all links."""
ALL_ADDRESSES = _ADDRESS.pack(0, 0, 0, 0, 0)
"""The body of a request for all addresses of both IP versions."""


def unpack_link(body: bytes) -> Tuple[Link, int]:
    """A link and its MTU."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = attributes_of(body, _LINK.size)
    info = attributes_of(found[_INFO]) if _INFO in found else {}
    kind = info[_INFO_KIND].rstrip(b"\0").decode("ascii", "replace") if _INFO_KIND in info else ""
    kind = kind or ("loopback" if flags & _LOOPBACK else "")
    elsewhere = _PARENTS_NETWORK_NAMESPACE in found  # then the parent's index is one of that namespace
    mac = found.get(_PERMANENT_MAC) or found.get(_MAC, b"")
    link = Link(
        index, name_of(found[_NAME].rstrip(b"\0")), ":".join(map("{:02x}".format, mac)), kind,
        _number(found, _MASTER), bool(flags & _UP), _number(found, _GROUP), _has_ipv6(found.get(_AF_SPEC, b"")),
        bool(flags & _RUNNING), 0 if elsewhere else _number(found, _PARENT))
    return link, _number(found, _MTU)


def unpack_address(body: bytes, names: Mapping[int, str]) -> Optional[SeenAddress]:
    """An address with its protocol and the time when it was set; None for link-local IPv6 and loopback ones.

    ``names``: index -> link.
    """
    _, length, few_flags, _, index = _ADDRESS.unpack_from(body)
    found = attributes_of(body, _ADDRESS.size)
    address = ipaddress.ip_address(found.get(_ADDRESS_LOCAL) or found[_ADDRESS_ADDRESS])
    if address.is_loopback or address.version == 6 and address.is_link_local:
        return None
    _, valid, _, set_at = _TIMES.unpack(found[_CACHEINFO])
    flags = number(found[_FLAGS]) if _FLAGS in found else few_flags
    held = LinkAddress(names.get(index, ""), address, length, valid != FOR_EVER, bool(flags & _DEPRECATED))
    return SeenAddress(held, found.get(ADDRESS_PROTOCOL, b"\0")[0], set_at)


def _number(found: Dict[int, bytes], kind: int) -> int:
    return number(found[kind]) if kind in found else 0


def _has_ipv6(families: bytes) -> bool:
    """Whether IPv6 is on for a link: the kernel has it there, and nobody has switched it off (sysctl disable_ipv6).

    ``families``: the link's attributes of each address family. A sandbox may hide the sysctl; it can't hide these.
    """
    inet6 = attributes_of(families).get(socket.AF_INET6)
    conf = attributes_of(inet6).get(_INET6_CONF, b"") if inet6 is not None else b""
    return len(conf) >= _DISABLE_IPV6.size and not _DISABLE_IPV6.unpack_from(conf)[0]

"""Policy rules as the kernel's messages carry them (linux/fib_rules.h), packed and unpacked by hand.

A host may have 1,600 rules of ours and 1,000 of others, and each is written or read at every run: by hand that takes a
tenth of what a general codec takes, which is the difference between a third of a second and a whole one at boot.
"""

import ipaddress
import socket
import struct
from typing import Dict, List, Optional, Tuple

from eni_bootstrap.model import Network, Rule, SeenRule

FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}

_HEADER = struct.Struct("=8BI")  # family, dst_len, src_len, tos, table, two reserved, action, flags
_ATTRIBUTE = struct.Struct("=HH")  # length with this header, kind
_NUMBER = struct.Struct("=I")

_DST, _SRC, _IIF, _GOTO, _PRIORITY, _MARK, _TUNNEL = 1, 2, 3, 4, 6, 10, 12
_SUPPRESS_GROUP, _SUPPRESS_LENGTH, _TABLE, _MASK, _OIF = 13, 14, 15, 16, 17
_MASTER, _USERS, _PROTOCOL, _IP_PROTOCOL, _SOURCE_PORTS, _DESTINATION_PORTS = 19, 20, 21, 22, 23, 24

_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_ACTION_NUMBERS = {name: number for number, name in _ACTIONS.items()}
_INVERTED = 2  # FIB_RULE_INVERT
_NONE = 0xFFFFFFFF


def pack(rule: Rule, protocol: int) -> bytes:
    """The message's body, of a rule that has no selectors but ours (``rule.other`` is not written)."""
    parts = [b"", _number(_PRIORITY, rule.priority)]
    length = 0
    if rule.src is not None:
        length = rule.src.prefixlen
        parts.append(_attribute(_SRC, rule.src.network_address.packed))
    if rule.oif:
        parts.append(_attribute(_OIF, rule.oif.encode() + b"\0"))
    if rule.table:
        parts.append(_number(_TABLE, rule.table))
    if rule.suppress_prefixlength is not None:
        parts.append(_number(_SUPPRESS_LENGTH, rule.suppress_prefixlength))
    if rule.suppress_ifgroup is not None:
        parts.append(_number(_SUPPRESS_GROUP, rule.suppress_ifgroup))
    parts.append(_attribute(_PROTOCOL, bytes([protocol])))
    parts[0] = _HEADER.pack(FAMILY[rule.version], 0, length, 0, 0, 0, 0, _ACTION_NUMBERS[rule.action], 0)
    return b"".join(parts)


def unpack(body: bytes, version: int) -> SeenRule:
    """A rule of anybody's from a message's body."""
    _, dst_length, src_length, tos, table, _, _, action, flags = _HEADER.unpack_from(body)
    attributes: Dict[int, bytes] = {}
    offset, end = _HEADER.size, len(body)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4:
            break
        attributes[kind] = body[offset + 4:offset + length]
        offset += (length + 3) & ~3

    def number(kind: int, default: int) -> int:
        return _NUMBER.unpack(attributes[kind])[0] if kind in attributes else default

    def unless_none(kind: int) -> Optional[int]:
        value = number(kind, _NONE)
        return None if value == _NONE else value

    name = _ACTIONS.get(action, str(action))
    other: Tuple[str, ...] = ()
    if dst_length or tos or flags & _INVERTED or not _PLAIN.issuperset(attributes):
        other = _other(attributes, dst_length, tos, flags, version)
    rule = Rule(
        version, number(_PRIORITY, 0),
        _network(attributes[_SRC], src_length, version) if _SRC in attributes else None,
        _text(attributes[_OIF]) if _OIF in attributes else "",
        name, number(_TABLE, table) if name == "lookup" else 0,
        unless_none(_SUPPRESS_LENGTH), unless_none(_SUPPRESS_GROUP), other)
    return SeenRule(rule, attributes[_PROTOCOL][0] if _PROTOCOL in attributes else 0)


_PLAIN = frozenset((_SRC, _PRIORITY, _SUPPRESS_GROUP, _SUPPRESS_LENGTH, _TABLE, _OIF, _PROTOCOL))
"""What our own rules may carry."""


def _other(attributes: Dict[int, bytes], dst_length: int, tos: int, flags: int, version: int) -> Tuple[str, ...]:
    """Selectors that we never set, in iproute2's words."""
    words: List[str] = []
    if flags & _INVERTED:
        words.append("not")
    if _DST in attributes:
        words += ["to", str(_network(attributes[_DST], dst_length, version))]
    if tos:
        words += ["tos", hex(tos)]
    if _MARK in attributes or _MASK in attributes:
        mark, mask = (_NUMBER.unpack(attributes.get(kind, b"\0\0\0\0"))[0] for kind in (_MARK, _MASK))
        if mark or mask:
            words += ["fwmark", "{:#x}/{:#x}".format(mark, mask)]
    if _IIF in attributes:
        words += ["iif", _text(attributes[_IIF])]
    if _TUNNEL in attributes and any(attributes[_TUNNEL]):
        words += ["tun_id", str(int.from_bytes(attributes[_TUNNEL], "big"))]
    if _MASTER in attributes and any(attributes[_MASTER]):
        words.append("l3mdev")
    if _USERS in attributes:
        words += ["uidrange", "{}-{}".format(*struct.unpack("=II", attributes[_USERS]))]
    if _IP_PROTOCOL in attributes:
        words += ["ipproto", str(attributes[_IP_PROTOCOL][0])]
    for kind, word in ((_SOURCE_PORTS, "sport"), (_DESTINATION_PORTS, "dport")):
        if kind in attributes:
            words += [word, "{}-{}".format(*struct.unpack("=HH", attributes[kind]))]
    if _GOTO in attributes:
        words += ["goto", str(_NUMBER.unpack(attributes[_GOTO])[0])]
    return tuple(words)


def _attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + b"\0" * (-length % 4)


def _number(kind: int, value: int) -> bytes:
    return _ATTRIBUTE.pack(8, kind) + _NUMBER.pack(value)


def _network(packed: bytes, length: int, version: int) -> Network:
    # A tuple of number and length is the fastest way to a network that the ipaddress module has.
    number = int.from_bytes(packed, "big")
    if version == 4:
        return ipaddress.IPv4Network((number, length), strict=False)
    return ipaddress.IPv6Network((number, length), strict=False)


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")

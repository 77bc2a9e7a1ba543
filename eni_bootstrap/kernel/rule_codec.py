"""Policy rules as the kernel's messages carry them (linux/fib_rules.h), packed and unpacked by hand.

A host may have 1,600 rules of ours and 1,000 of others, and every run writes or reads each of them. By hand that takes
a tenth of the time of a general codec: the difference between a third of a second and a whole one at boot.
"""

import socket
import struct
from typing import Dict, List, Optional, Tuple

from eni_bootstrap.kernel.attributes import attribute, attributes_of, network, number, number_attribute
from eni_bootstrap.model.kernel import ANY, UNKNOWN, Match, Rule, SeenRule, bytes_of, name_of

FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}

_HEADER = struct.Struct("=8BI")  # family, dst_len, src_len, tos, table, two reserved, action, flags

_DST, _SRC, _IIF, _GOTO, _PRIORITY, _MARK, _TUNNEL = 1, 2, 3, 4, 6, 10, 12
_SUPPRESS_GROUP, _SUPPRESS_LENGTH, _TABLE, _MASK, _OIF = 13, 14, 15, 16, 17
_PADDING, _MASTER, _USERS, _PROTOCOL, _IP_PROTOCOL, _SOURCE_PORTS, _DESTINATION_PORTS = 18, 19, 20, 21, 22, 23, 24
_SOURCE_PORT_MASK, _DESTINATION_PORT_MASK = 28, 29

_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_ACTION_NUMBERS = {name: number for number, name in _ACTIONS.items()}
_INVERTED = 2  # FIB_RULE_INVERT
_STATUS = 0x1 | 0x4 | 0x8 | 0x10
"""Flags that only report a rule's state: it is permanent, the priority that it jumps to is empty, a device is away."""
_NONE = 0xFFFFFFFF


def pack(rule: Rule, protocol: int) -> bytes:
    """The body of a message with this rule. ``rule.other`` is not written: our rules have none."""
    parts = [b"", number_attribute(_PRIORITY, rule.priority)]
    length = dst_length = 0
    if rule.src is not None:
        length = rule.src.prefixlen
        parts.append(attribute(_SRC, rule.src.network_address.packed))
    if rule.oif:
        parts.append(attribute(_OIF, bytes_of(rule.oif) + b"\0"))
    if rule.table:
        parts.append(number_attribute(_TABLE, rule.table))
    if rule.goto:
        parts.append(number_attribute(_GOTO, rule.goto))
    if rule.suppress_prefixlength is not None:
        parts.append(number_attribute(_SUPPRESS_LENGTH, rule.suppress_prefixlength))
    if rule.suppress_ifgroup is not None:
        parts.append(number_attribute(_SUPPRESS_GROUP, rule.suppress_ifgroup))
    if rule.match is not ANY:
        dst_length = rule.match.dst.prefixlen if rule.match.dst is not None else 0
        parts += _selectors(rule.match)
    parts.append(attribute(_PROTOCOL, bytes([protocol])))
    parts[0] = _HEADER.pack(FAMILY[rule.version], dst_length, length, 0, 0, 0, 0, _ACTION_NUMBERS[rule.action],
                            _INVERTED if rule.match.inverted else 0)
    return b"".join(parts)


def _selectors(match: Match) -> List[bytes]:
    parts = []
    if match.dst is not None:
        parts.append(attribute(_DST, match.dst.network_address.packed))
    if match.iif:
        parts.append(attribute(_IIF, bytes_of(match.iif) + b"\0"))
    if match.mask:
        parts += [number_attribute(_MARK, match.mark), number_attribute(_MASK, match.mask)]
    if match.users is not None:
        parts.append(attribute(_USERS, struct.pack("=II", *match.users)))
    if match.protocol:
        parts.append(attribute(_IP_PROTOCOL, bytes([match.protocol])))
    for kind, ports in ((_SOURCE_PORTS, match.sports), (_DESTINATION_PORTS, match.dports)):
        if ports is not None:
            parts.append(attribute(kind, struct.pack("=HH", *ports)))
    return parts


def unpack(body: bytes, version: int) -> SeenRule:
    """Anybody's rule, from the body of a message; selectors that we don't know are in ``rule.other``."""
    _, dst_length, src_length, tos, table, _, _, action, flags = _HEADER.unpack_from(body)
    attributes = attributes_of(body, _HEADER.size)

    def number_of(kind: int, default: int) -> int:
        return number(attributes[kind]) if kind in attributes else default

    def unless_none(kind: int) -> Optional[int]:
        value = number_of(kind, _NONE)
        return None if value == _NONE else value

    name = _ACTIONS.get(action, str(action))
    match, other = ANY, ()  # type: Match, Tuple[str, ...]
    if dst_length or tos or flags & ~_STATUS or not _PLAIN.issuperset(attributes):
        match = _match(attributes, dst_length, flags, version)
        other = _other(attributes, tos, flags)
    rule = Rule(
        version, number_of(_PRIORITY, 0),
        network(attributes[_SRC], src_length, version) if _SRC in attributes else None,
        _text(attributes[_OIF]) if _OIF in attributes else "",
        name, number_of(_TABLE, table) if name == "lookup" else 0,
        unless_none(_SUPPRESS_LENGTH), unless_none(_SUPPRESS_GROUP), match, number_of(_GOTO, 0), other)
    return SeenRule(rule, attributes[_PROTOCOL][0] if _PROTOCOL in attributes else 0)


_PLAIN = frozenset((_SRC, _PRIORITY, _SUPPRESS_GROUP, _SUPPRESS_LENGTH, _TABLE, _OIF, _PROTOCOL))
"""Attributes of the plain rules for sources, of which there may be thousands: these are read on a short path."""

_KNOWN = _PLAIN.union((_DST, _IIF, _GOTO, _MARK, _MASK, _TUNNEL, _PADDING, _MASTER, _USERS, _IP_PROTOCOL,
                       _SOURCE_PORTS, _DESTINATION_PORTS))


def _match(attributes: Dict[int, bytes], dst_length: int, flags: int, version: int) -> Match:
    def pair(kind: int, form: str) -> Optional[Tuple[int, int]]:
        if kind not in attributes:
            return None
        first, last = struct.unpack(form, attributes[kind])
        return first, last

    mark, mask = (number(attributes.get(kind, b"\0\0\0\0")) for kind in (_MARK, _MASK))
    match = Match(
        network(attributes[_DST], dst_length, version) if _DST in attributes else None,
        _text(attributes[_IIF]) if _IIF in attributes else "",
        mark, mask, pair(_USERS, "=II"), attributes[_IP_PROTOCOL][0] if _IP_PROTOCOL in attributes else 0,
        pair(_SOURCE_PORTS, "=HH"), pair(_DESTINATION_PORTS, "=HH"), bool(flags & _INVERTED))
    return ANY if match == ANY else match


def _other(attributes: Dict[int, bytes], tos: int, flags: int) -> Tuple[str, ...]:
    """Selectors that we never set, in iproute2's words; selectors that we don't know, by their numbers.

    Each new kernel may bring more. A rule with an unknown selector must never be taken for a rule without it.
    """
    words: List[str] = []
    if tos:
        words += ["tos", hex(tos)]
    if _TUNNEL in attributes and any(attributes[_TUNNEL]):
        words += ["tun_id", str(int.from_bytes(attributes[_TUNNEL], "big"))]
    if _MASTER in attributes and any(attributes[_MASTER]):
        words.append("l3mdev")
    for kind in sorted(set(attributes) - _KNOWN):
        if (kind, attributes[kind]) not in _WHOLE_PORTS:
            words += [UNKNOWN, "attribute", "{}=0x{}".format(kind, attributes[kind].hex())]
    if flags & ~(_STATUS | _INVERTED):
        words += [UNKNOWN, "flags", hex(flags & ~(_STATUS | _INVERTED))]
    return tuple(words)


_WHOLE_PORTS = ((_SOURCE_PORT_MASK, b"\xff\xff"), (_DESTINATION_PORT_MASK, b"\xff\xff"))
"""Kernels that know masks of ports add the full mask to each single port by themselves (seen in 6.18)."""


def _text(data: bytes) -> str:
    return name_of(data.rstrip(b"\0"))

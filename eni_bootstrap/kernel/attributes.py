"""Attributes of rtnetlink messages (linux/netlink.h), packed and unpacked by hand."""

import ipaddress
import struct
from typing import Dict

from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.model.kernel import Network

_HEADER = struct.Struct("=HH")  # length with this header, kind
_NUMBER = struct.Struct("=I")
_KIND = 0x3FFF  # NLA_TYPE_MASK: the two bits above it tell of nesting and of byte order


def attributes_of(body: bytes, offset: int = 0) -> Dict[int, bytes]:
    """Number -> data of the attributes that begin at ``offset``, behind the header of the message's type.

    Raises ``BootstrapError`` for one that can't be: what stands behind it is unknown, and a rule or a route without
    that would be taken for another one.
    """
    found: Dict[int, bytes] = {}
    end = len(body)
    while offset + 4 <= end:
        length, kind = _HEADER.unpack_from(body, offset)
        if length < 4 or offset + length > end:
            raise BootstrapError("the kernel's answer makes no sense: it has an attribute of {} bytes".format(length))
        found[kind & _KIND] = body[offset + 4:offset + length]
        offset += (length + 3) & ~3
    return found


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = 4 + len(data)
    return _HEADER.pack(length, kind) + data + b"\0" * (-length % 4)


def number_attribute(kind: int, value: int) -> bytes:
    """One attribute of 32 bits, in this machine's byte order."""
    return _HEADER.pack(8, kind) + _NUMBER.pack(value)


def number(data: bytes) -> int:
    """The value of an attribute of 32 bits, in this machine's byte order."""
    value: int = _NUMBER.unpack(data)[0]
    return value


def network(packed: bytes, length: int, version: int) -> Network:
    """The network of an address of an attribute and a prefix length."""
    # A tuple of number and length is the fastest way to a network that the ipaddress module has.
    number = int.from_bytes(packed, "big")
    if version == 4:
        return ipaddress.IPv4Network((number, length), strict=False)
    return ipaddress.IPv6Network((number, length), strict=False)

"""A DHCP server for one client at one port: what it answers, as bytes. Pure.

Each ENI has its own, as in the cloud: whoever asks at its port gets its primary address, and nobody else does.
"""

import struct
from ipaddress import IPv4Address, IPv4Network
from typing import Dict, NamedTuple, Optional

from eni_bootstrap.lab import wire

SERVER, CLIENT = 67, 68
"""UDP ports."""

_BROADCAST = IPv4Address("255.255.255.255")
_COOKIE = b"\x63\x82\x53\x63"
_HEADER = 240
"""Bytes before the options, the cookie included (RFC 2131)."""
_REQUEST, _REPLY = 1, 2
_WANTS_BROADCAST = 0x8000
_DISCOVER, _OFFER, _REQUESTED, _ACK, _NAK, _INFORM = 1, 2, 3, 5, 6, 8
_MASK, _ROUTER, _WANTED, _SECONDS, _TYPE, _SERVER, _END = 1, 3, 50, 51, 53, 54, 255


class Lease(NamedTuple):
    """What a client is told."""

    address: IPv4Address
    vswitch: IPv4Network
    gateway: IPv4Address
    """The DHCP server answers under this address."""
    seconds: int


def is_request(packet: wire.Packet) -> bool:
    """Whether the packet goes to a DHCP server."""
    return packet.version == 4 and packet.proto == wire.UDP and packet.ports[1] == SERVER


def answer(packet: wire.Packet, mac: bytes, lease: Lease) -> Optional[bytes]:
    """The IP packet that goes back; None: nothing does, as to a request in another client's name."""
    request = packet.data[packet.payload + 8:]
    if len(request) < _HEADER or request[0] != _REQUEST or request[28:34] != mac or request[236:240] != _COOKIE:
        return None
    options = _options(request[_HEADER:])
    wanted = options.get(_WANTED, request[12:16])
    kind = options.get(_TYPE, b"")[:1]
    if options.get(_SERVER, lease.gateway.packed) != lease.gateway.packed:
        return None
    if kind == bytes([_DISCOVER]):
        return _message(request, lease, _OFFER)
    if kind == bytes([_REQUESTED]):
        return _message(request, lease, _ACK if wanted == lease.address.packed else _NAK)
    return _message(request, lease, _ACK) if kind == bytes([_INFORM]) else None


def _options(data: bytes) -> Dict[int, bytes]:
    found: Dict[int, bytes] = {}
    place = 0
    while place + 1 < len(data) and data[place] != _END:
        if data[place] == 0:
            place += 1
            continue
        length = data[place + 1]
        found[data[place]] = data[place + 2:place + 2 + length]
        place += 2 + length
    return found


def _message(request: bytes, lease: Lease, kind: int) -> bytes:
    flags = struct.unpack_from("!H", request, 10)[0]
    client = IPv4Address(request[12:16])
    given = lease.address if kind != _NAK else IPv4Address(0)
    if kind == _NAK or flags & _WANTS_BROADCAST:
        to = _BROADCAST
    else:
        to = lease.address if client.is_unspecified else client
    body = struct.pack("!BBBB4sHH", _REPLY, 1, 6, 0, request[4:8], 0, flags)
    body += client.packed + given.packed + lease.gateway.packed + bytes(4) + request[28:44] + bytes(192) + _COOKIE
    body += _option(_TYPE, bytes([kind])) + _option(_SERVER, lease.gateway.packed)
    if kind != _NAK:
        body += _option(_SECONDS, struct.pack("!I", lease.seconds))
        body += _option(_MASK, lease.vswitch.netmask.packed) + _option(_ROUTER, lease.gateway.packed)
    body += bytes([_END])
    body = body.ljust(300, b"\0")  # the smallest that BOOTP relays and some clients take
    udp = struct.pack("!HHHH", SERVER, CLIENT, 8 + len(body), 0) + body  # without a checksum, which is allowed
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, wire.UDP, 0, lease.gateway.packed,
                         to.packed)
    return header[:10] + struct.pack("!H", wire.checksum(header)) + header[12:] + udp


def _option(code: int, value: bytes) -> bytes:
    return bytes([code, len(value)]) + value

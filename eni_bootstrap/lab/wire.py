"""Bytes of the packets that the fabric handles: reading them, answering them, translating their addresses.

Pure; knows ARP, IPv4, IPv6, ICMP, ICMPv6, TCP and UDP as far as the lab needs them.
"""

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Optional, Tuple

from eni_bootstrap.model.kernel import Address

ETHERNET = 14
"""Length of the header."""
ARP = b"\x08\x06"
IPV4 = b"\x08\x00"
IPV6 = b"\x86\xdd"

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
_PORTS = (TCP, UDP)
_CHECKSUM_AT = {TCP: 16, UDP: 6}

_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_ICMP_ERRORS = (3, 11, 12)
"""They quote the packet they are about."""
_ECHO_REQUEST6, _ECHO_REPLY6 = 128, 129
_SOLICITATION, _ADVERTISEMENT = 135, 136
_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20
_DHCP_PORTS = {67, 68, 546, 547}


def mac(text: str) -> bytes:
    """The six bytes of ``ee:ff:…``."""
    return bytes.fromhex(text.replace(":", ""))


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class ArpRequest(NamedTuple):
    """Who has ``target``? Tell ``sender``."""

    target: IPv4Address
    sender: bytes
    """MAC and address."""


def parse_arp_request(frame: bytes) -> Optional[ArpRequest]:
    """None for what needs no answer: replies, and an address announced by its own holder."""
    arp = frame[ETHERNET:ETHERNET + 28]
    if len(arp) < 28 or arp[6:8] != b"\0\x01" or arp[14:18] == arp[24:28]:
        return None
    return ArpRequest(IPv4Address(arp[24:28]), arp[8:18])


def arp_reply(request: ArpRequest, own_mac: bytes) -> bytes:
    """``target`` is at ``own_mac``."""
    return b"\0\x01\x08\0\x06\x04\0\x02" + own_mac + request.target.packed + request.sender


class Packet(NamedTuple):
    """An IP packet: its bytes, and what the fabric wants to know of them."""

    version: int
    src: Address
    dst: Address
    proto: int
    payload: int
    """Where the transport header begins; the end of ``data`` when this is not the first fragment."""
    data: bytes

    @property
    def ethertype(self) -> bytes:
        return IPV4 if self.version == 4 else IPV6

    @property
    def ports(self) -> Tuple[int, int]:
        """Source and destination port; zeros where there are none."""
        if self.proto in _PORTS and len(self.data) >= self.payload + 4:
            sport, dport = struct.unpack_from("!HH", self.data, self.payload)
            return sport, dport
        return 0, 0

    @property
    def icmp_type(self) -> Optional[int]:
        if self.proto in (ICMP, ICMPV6) and len(self.data) >= self.payload + 8:
            return self.data[self.payload]
        return None

    @property
    def is_echo_request(self) -> bool:
        return self.icmp_type == (_ECHO_REQUEST if self.version == 4 else _ECHO_REQUEST6)

    @property
    def is_solicitation(self) -> bool:
        return self.version == 6 and self.icmp_type == _SOLICITATION and len(self.data) >= self.payload + 24

    @property
    def solicited(self) -> IPv6Address:
        return IPv6Address(self.data[self.payload + 8:self.payload + 24])

    @property
    def is_link_upkeep(self) -> bool:
        """Neighbour discovery, group membership, DHCP, broadcasts: nothing that a VPC forwards."""
        if self.dst.is_multicast or self.dst == IPv4Address("255.255.255.255"):
            return True
        if self.version == 6 and self.icmp_type in range(133, 138):
            return True
        return self.proto == UDP and set(self.ports) <= _DHCP_PORTS

    def with_src(self, address: Address) -> "Packet":
        """The packet from another IPv4 address, all checksums right."""
        return self._readdressed(12, self.src, address)._replace(src=address)

    def with_dst(self, address: Address) -> "Packet":
        """The packet to another IPv4 address, all checksums right."""
        return self._readdressed(16, self.dst, address)._replace(dst=address)

    def _readdressed(self, offset: int, old: Address, new: Address) -> "Packet":
        data = bytearray(self.data)
        data[offset:offset + 4] = new.packed
        _adjust(data, 10, old, new)
        at = self.payload + _CHECKSUM_AT.get(self.proto, len(data))
        if at + 2 <= len(data) and (self.proto == TCP or data[at:at + 2] != b"\0\0"):  # 0 in UDP: sent without one
            _adjust(data, at, old, new)
            if self.proto == UDP and data[at:at + 2] == b"\0\0":
                data[at:at + 2] = b"\xff\xff"
        if self.icmp_type in _ICMP_ERRORS:
            self._readdress_quote(data, old, new)
        return self._replace(data=bytes(data))

    def _readdress_quote(self, data: bytearray, old: Address, new: Address) -> None:
        """The packet that an ICMP error is about went the other way: its source is our destination and vice versa."""
        quote = self.payload + 8
        for offset in (quote + 12, quote + 16):
            if data[offset:offset + 4] == old.packed:
                data[offset:offset + 4] = new.packed
                _adjust(data, quote + 10, old, new)
        data[self.payload + 2:self.payload + 4] = b"\0\0"
        data[self.payload + 2:self.payload + 4] = struct.pack("!H", checksum(bytes(data[self.payload:])))


def parse(data: bytes) -> Optional[Packet]:
    """A packet's parts; None for what is no whole IP packet. Behind IPv6 extension headers nothing is seen."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        length, fragment = struct.unpack_from("!2xH2xH", data)
        header = (data[0] & 15) * 4
        if not 20 <= header <= length:
            return None
        data = data[:length]  # short frames are padded
        later_fragment = fragment & 0x1FFF
        payload = len(data) if later_fragment else header
        return Packet(4, IPv4Address(data[12:16]), IPv4Address(data[16:20]), data[9], payload, data)
    if len(data) >= 40 and data[0] >> 4 == 6:
        data = data[:40 + struct.unpack_from("!H", data, 4)[0]]
        return Packet(6, IPv6Address(data[8:24]), IPv6Address(data[24:40]), data[6], 40, data)
    return None


def echo_reply(request: Packet) -> Packet:
    """The answer to a ping."""
    header, message = bytearray(request.data[:request.payload]), bytearray(request.data[request.payload:])
    message[2:4] = b"\0\0"
    if request.version == 4:
        # Swapping the addresses leaves the header's checksum as it is.
        header[12:16], header[16:20] = request.dst.packed, request.src.packed
        message[0] = _ECHO_REPLY
        message[2:4] = struct.pack("!H", checksum(bytes(message)))
    else:
        header[8:24], header[24:40] = request.dst.packed, request.src.packed
        message[0] = _ECHO_REPLY6
        message[2:4] = _checksum6(request.dst, request.src, bytes(message))
    return request._replace(src=request.dst, dst=request.src, data=bytes(header + message))


def advertisement(solicitation: Packet, own_mac: bytes, router: bool) -> bytes:
    """The answer to a neighbour solicitation: the target is at ``own_mac``."""
    target = solicitation.solicited
    flags = _SOLICITED | _OVERRIDE | (_ROUTER if router else 0)
    option = b"\x02\x01" + own_mac
    message = bytearray(struct.pack("!BBHB3x", _ADVERTISEMENT, 0, 0, flags) + target.packed + option)
    message[2:4] = _checksum6(target, solicitation.src, bytes(message))
    header = struct.pack("!IHBB", 6 << 28, len(message), ICMPV6, 255) + target.packed + solicitation.src.packed
    return header + bytes(message)


def _checksum6(src: Address, dst: Address, message: bytes) -> bytes:
    pseudo_header = src.packed + dst.packed + struct.pack("!II", len(message), ICMPV6)
    return struct.pack("!H", checksum(pseudo_header + message))


def _adjust(data: bytearray, at: int, old: Address, new: Address) -> None:
    """Correct a checksum for a changed address (RFC 1624)."""
    total = ~struct.unpack_from("!H", data, at)[0] & 0xFFFF
    total += sum(~part & 0xFFFF for part in struct.unpack("!2H", old.packed)) + sum(struct.unpack("!2H", new.packed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", data, at, ~total & 0xFFFF)

"""The DHCP server's answers.

Requests are built by hand here, as RFC 2131 has them; real clients are served in the boot tests.
"""

import socket
import struct
from ipaddress import IPv4Address, IPv4Network

import pytest

from eni_bootstrap.lab import dhcp, wire

MAC = "00:16:3e:0e:00:02"
LEASE = dhcp.Lease(IPv4Address("172.16.20.10"), IPv4Network("172.16.20.0/24"), IPv4Address("172.16.20.253"), 3600)
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = 1, 2, 3, 4, 5, 6, 7, 8
ANY, ALL = "0.0.0.0", "255.255.255.255"


def request(kind, src=ANY, dst=ALL, mac=MAC, client=ANY, broadcast=False, **options):
    """An IP packet of a DHCP client's. ``options``: by number, ``o50="172.16.20.10"``."""
    body = struct.pack("!BBBBIHH", 1, 1, 6, 0, 0x1234, 3, 0x8000 if broadcast else 0) + socket.inet_aton(client)
    body += bytes(12) + wire.mac(mac) + bytes(10 + 192) + b"\x63\x82\x53\x63" + bytes([53, 1, kind, 0])
    for name, text in options.items():
        body += bytes([int(name[1:]), 4]) + socket.inet_aton(text)
    udp = struct.pack("!HHHH", 68, 67, len(body) + 9, 0) + body + b"\xff"
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    return wire.parse(header + socket.inet_aton(src) + socket.inet_aton(dst) + udp)


def read(data, mac=MAC):
    """What a client with this MAC sees of an answer."""
    packet = wire.parse(data)
    assert packet.ports == (67, 68) and wire.checksum(data[:20]) == 0 and len(packet.data) == len(data)
    body = data[28:]
    assert struct.unpack_from("!H", data, 24)[0] == len(body) + 8
    assert body[4:8] == struct.pack("!I", 0x1234) and body[28:34] == wire.mac(mac)
    assert body[236:240] == b"\x63\x82\x53\x63"
    options, place = {}, 240
    while body[place] != 255:
        options[body[place]] = body[place + 2:place + 2 + body[place + 1]]
        place += 2 + body[place + 1]
    return str(packet.src), str(packet.dst), socket.inet_ntoa(body[16:20]), options


def test_a_discovery_is_offered_the_lease():
    src, dst, given, options = read(dhcp.answer(request(DISCOVER), wire.mac(MAC), LEASE))
    assert (src, dst, given) == ("172.16.20.253", "172.16.20.10", "172.16.20.10")
    assert options == {53: bytes([OFFER]), 54: socket.inet_aton("172.16.20.253"), 51: struct.pack("!I", 3600),
                       1: socket.inet_aton("255.255.255.0"), 3: socket.inet_aton("172.16.20.253")}


@pytest.mark.parametrize("asked", [
    dict(o50="172.16.20.10", o54="172.16.20.253"),  # chosen among offers
    dict(o50="172.16.20.10"),  # remembered from an earlier boot
], ids=["selecting", "rebooting"])
def test_who_asks_for_his_address_gets_it(asked):
    src, dst, given, options = read(dhcp.answer(request(REQUEST, **asked), wire.mac(MAC), LEASE))
    assert (dst, given, options[53]) == ("172.16.20.10", "172.16.20.10", bytes([ACK]))


def test_a_renewal_is_answered_to_the_address_that_has_the_lease():
    renewal = request(REQUEST, src="172.16.20.10", dst="172.16.20.253", client="172.16.20.10")
    src, dst, given, options = read(dhcp.answer(renewal, wire.mac(MAC), LEASE))
    assert (dst, given, options[53], options[51]) == (
        "172.16.20.10", "172.16.20.10", bytes([ACK]), struct.pack("!I", 3600))


def test_who_asks_for_another_address_is_refused_aloud():
    src, dst, given, options = read(dhcp.answer(request(REQUEST, o50="172.16.20.66"), wire.mac(MAC), LEASE))
    assert (dst, given) == (ALL, ANY)
    assert options == {53: bytes([NAK]), 54: socket.inet_aton("172.16.20.253")}


def test_who_can_be_reached_by_broadcast_only_is():
    assert read(dhcp.answer(request(DISCOVER, broadcast=True), wire.mac(MAC), LEASE))[1] == ALL


def test_who_only_wants_to_know_is_told():
    asking = request(INFORM, src="172.16.20.10", client="172.16.20.10")
    assert read(dhcp.answer(asking, wire.mac(MAC), LEASE))[3][53] == bytes([ACK])


@pytest.mark.parametrize("silent", [
    request(DISCOVER, mac="00:16:3e:0e:00:03"),  # another ENI's client
    request(REQUEST, o50="172.16.20.10", o54="172.16.20.1"),  # has chosen another server
    request(RELEASE, src="172.16.20.10"),
    request(DECLINE),
    request(DISCOVER)._replace(data=request(DISCOVER).data[:200]),
], ids=["another's MAC", "another server", "release", "decline", "cut off"])
def test_to_the_others_nothing_is_said(silent):
    assert dhcp.answer(silent, wire.mac(MAC), LEASE) is None

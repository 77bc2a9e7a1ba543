"""The trees that the laboratory makes, and the checksums of its packets."""

from ipaddress import ip_address, ip_network

import pytest

from eni_bootstrap.lab import wire
from eni_bootstrap.lab.vpc import macs_of, make_tree
from eni_bootstrap.metadata.parser import parse_interfaces


# trees


@pytest.mark.parametrize("options", [
    {},
    {"enis": 1},
    {"enis": 32, "addresses": 50, "ipv6": True, "vswitches": "shared", "prefix": True},
    {"enis": 32, "addresses": 50, "ipv6": True, "vswitches": "own", "prefix": True},
    {"enis": 4, "vswitches": [0, 1, 1, 2], "ipv6": True},
], ids=str)
def test_a_made_tree_is_sound(options):
    listing = parse_interfaces(make_tree(**options))
    assert not listing.sick
    assert len(listing.interfaces) == options.get("enis", 3)
    assert [interface.primary for interface in listing.interfaces].count(True) == 1
    owned = []
    for interface in listing.interfaces:
        assert len(interface.subnets) == (2 if options.get("ipv6") else 1)
        for subnet in interface.subnets:
            assert len(subnet.addresses) == options.get("addresses", 1)
            assert len(subnet.prefixes) == (1 if options.get("prefix") else 0)
            for network in [ip_network(address) for address in subnet.addresses] + list(subnet.prefixes):
                assert network.network_address in subnet.vswitch and network.broadcast_address in subnet.vswitch
                assert subnet.gateway not in network
                owned.append(network)
    owned.sort(key=lambda network: (network.version, network))
    for one, other in zip(owned, owned[1:]):
        assert one.version != other.version or not one.overlaps(other)


def test_the_default_tree_has_two_enis_in_the_primarys_vswitch():
    enis = list(macs_of(make_tree()).values())
    assert [eni["vswitch-cidr-block"] for eni in enis] == ["172.16.10.0/24", "172.16.20.0/24", "172.16.10.0/24"]
    assert [eni["gateway"] for eni in enis] == ["172.16.10.253", "172.16.20.253", "172.16.10.253"]


# checksums


def _with_checksum(proto, at, src, dst, segment):
    segment = bytearray(segment)
    pseudo = ip_address(src).packed + ip_address(dst).packed + bytes([0, proto]) + len(segment).to_bytes(2, "big")
    segment[at:at + 2] = wire.checksum(pseudo + bytes(segment)).to_bytes(2, "big")
    return bytes(segment)


def _ipv4(proto, src, dst, payload):
    length = (20 + len(payload)).to_bytes(2, "big")
    header = bytearray(b"\x45\0" + length + b"\0\1\0\0\x40" + bytes([proto]) + b"\0\0")
    header += ip_address(src).packed + ip_address(dst).packed
    header[10:12] = wire.checksum(bytes(header)).to_bytes(2, "big")
    return bytes(header) + payload


@pytest.mark.parametrize("proto, at", [(wire.TCP, 16), (wire.UDP, 6)], ids=["tcp", "udp"])
@pytest.mark.parametrize("payload", [b"", b"odd", b"\xff" * 20])
def test_translated_packets_have_the_checksums_that_they_would_have_been_born_with(proto, at, payload):
    def packet(src):
        segment = _with_checksum(proto, at, src, "203.0.113.50", b"\0\7\x30\x39" + bytes(16) + payload)
        return _ipv4(proto, src, "203.0.113.50", segment)

    original = wire.parse(packet("172.16.20.10"))
    assert original is not None
    translated = original.with_src(ip_address("198.51.100.2"))
    assert translated.data == packet("198.51.100.2")
    assert translated.with_src(ip_address("172.16.20.10")).data == packet("172.16.20.10")


def test_udp_without_a_checksum_stays_without():
    packet = wire.parse(_ipv4(wire.UDP, "172.16.20.10", "203.0.113.50", b"\0\7\x30\x39\0\x08\0\0"))
    assert packet is not None and packet.with_src(ip_address("198.51.100.2")).data[-2:] == b"\0\0"

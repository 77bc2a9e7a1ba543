"""The hand-made reader of links and addresses against pyroute2's writer."""

import struct

import pytest
from hypothesis import given, strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from eni_bootstrap.kernel.link_codec import unpack_address, unpack_link
from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.model.kernel import Link, LinkAddress, SeenAddress

INDEXES = st.integers(1, 2 ** 31 - 1)
NUMBERS = st.integers(0, 2 ** 32 - 1)
MACS = st.binary(min_size=6, max_size=6).map(lambda raw: ":".join(map("{:02x}".format, raw)))


def encoded(codec, fields, attributes):
    message = codec()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[16:])


def af_spec(switched_off):
    """IFLA_AF_SPEC with IPv6's settings, of which the 27th is disable_ipv6 (linux/ipv6.h)."""
    conf = struct.pack("=27i", *([7] * 26 + [switched_off]))
    inet6 = struct.pack("=HH", 4 + len(conf), 2) + conf
    families = struct.pack("=HH", 4 + len(inet6), 10) + inet6
    return struct.pack("=HH", 4 + len(families), 26) + families


@given(INDEXES, st.sampled_from(["eth0", "enp0s5", "veth0123456789a"]), MACS, st.none() | MACS,
       st.sampled_from(["", "veth", "bond", "macvlan"]), st.integers(0, 9), st.integers(0, 9), NUMBERS,
       st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()))
def test_a_link(index, name, mac, permanent, kind, master, parent, group, is_it):
    up, running, elsewhere, ipv6 = is_it
    attributes = [("IFLA_IFNAME", name), ("IFLA_MTU", 1500), ("IFLA_ADDRESS", mac), ("IFLA_GROUP", group)]
    attributes += [("IFLA_MASTER", master)] if master else []
    attributes += [("IFLA_LINK", parent)] if parent else []
    attributes += [("IFLA_LINK_NETNSID", 3)] if elsewhere else []
    attributes += [("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]})] if kind else []
    body = encoded(ifinfmsg, {"index": index, "flags": up | running << 6}, attributes) + af_spec(not ipv6)
    if permanent:
        body += struct.pack("=HH6s2x", 10, 54, bytes.fromhex(permanent.replace(":", "")))
    assert unpack_link(body) == (
        Link(index, name, permanent or mac, kind, master, up, group, ipv6, running, 0 if elsewhere else parent), 1500)


def test_a_link_of_which_hardly_anything_is_told():
    """A tun device has no MAC; on one with an MTU below 1280 the kernel has no IPv6."""
    body = encoded(ifinfmsg, {"index": 7, "flags": 8}, [("IFLA_IFNAME", "lo")])
    assert unpack_link(body) == (Link(7, "lo", "", "loopback", up=False, ipv6=False, carrier=False), 0)


def test_a_name_that_is_no_utf_8():
    body = struct.pack("=BxHiIIHH4s", 0, 0, 7, 0, 0, 8, 3, b"\xff\xfe0\0")
    assert unpack_link(body)[0].name.encode("utf-8", "surrogateescape") == b"\xff\xfe0"


@given(st.ip_addresses(), st.integers(0, 32), NUMBERS, st.booleans(), st.booleans(), st.none() | st.integers(0, 255))
def test_an_address(address, length, set_at, leased, deprecated, protocol):
    times = {"ifa_preferred": 1, "ifa_valid": 77 if leased else 0xFFFFFFFF, "cstamp": 3, "tstamp": set_at}
    attributes = [("IFA_ADDRESS", str(address)), ("IFA_FLAGS", 0x20 if deprecated else 0x80), ("IFA_CACHEINFO", times)]
    attributes += [("IFA_LOCAL", str(address))] if address.version == 4 else []
    family = 2 if address.version == 4 else 10
    body = encoded(ifaddrmsg, {"family": family, "prefixlen": length, "index": 3}, attributes)
    if protocol is not None:
        body += struct.pack("=HHB3x", 5, 11, protocol)
    found = unpack_address(body, {3: "eth1"})
    if address.is_loopback or address.version == 6 and address.is_link_local:
        assert found is None
    else:
        assert found == SeenAddress(LinkAddress("eth1", address, length, leased, deprecated), protocol or 0, set_at)


def test_of_a_point_to_point_link_the_own_address_counts():
    body = encoded(ifaddrmsg, {"family": 2, "prefixlen": 32, "index": 3}, [
        ("IFA_ADDRESS", "192.0.2.2"), ("IFA_LOCAL", "192.0.2.1"), ("IFA_CACHEINFO", {"ifa_valid": 5})])
    assert str(unpack_address(body, {3: "ppp0"}).held.address) == "192.0.2.1"


@pytest.mark.parametrize("attribute", [b"\0\0\3\0", b"\3\0\3\0", b"\x09\0\3\0eth0"],
                         ids=["no length", "shorter than itself", "longer than the message"])
def test_an_attribute_that_can_t_be_is_an_error_not_a_loop(attribute):
    with pytest.raises(BootstrapError, match="makes no sense: it has an attribute of"):
        unpack_link(struct.pack("=BxHiII", 0, 0, 7, 0, 0) + attribute)

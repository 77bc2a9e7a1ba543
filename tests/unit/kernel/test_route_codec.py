"""The hand-made reader of routes, and the questions, against pyroute2's codecs."""

import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, strategies as st
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from eni_bootstrap.kernel import change_codec, route_codec
from eni_bootstrap.model.changes import Change
from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.model.kernel import Answer, Hop, Query, Route, SeenRoute
from tests.build import net

INDEXES = {"eth0": 2, "eth1": 3, "lo": 1}
NAMES = {index: name for name, index in INDEXES.items()}
OURS = frozenset((235,))


def unpacked(body, version, ours=OURS):
    return route_codec.unpack(body, version, NAMES, ours, dict)


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


@st.composite
def routes(draw):
    """What we write, and what we read of others as far as a copy has it."""
    version = draw(st.sampled_from([4, 6]))
    address, bits = st.ip_addresses(v=version), 32 if version == 4 else 128
    dst = ip_network("{}/{}".format(draw(address), draw(st.integers(0, bits))), strict=False)
    gateways = st.none() | address | st.ip_addresses(v=6)
    hops = draw(st.lists(st.builds(
        Hop, st.sampled_from(["eth0", "eth1"]), gateways, st.integers(1, 256), st.just(())), max_size=3))
    hops = [hop._replace(weight=1) for hop in hops] if len(hops) == 1 else hops
    options = draw(st.dictionaries(st.sampled_from(sorted(route_codec.OPTIONS.values())), st.integers(0, 9000)))
    return Route(
        draw(st.integers(1, 2 ** 32 - 1)), dst, tuple(hops), "unicast" if hops else "unreachable",
        draw(st.integers(0, 2 ** 32 - 1)), tuple(sorted(options.items())), draw(st.sampled_from([0, 16])),
        draw(st.none() | address))


@given(routes(), st.integers(0, 255))
def test_what_pyroute2_writes_is_read(route, protocol):
    message = change_codec.pack(Change("add", route, protocol), INDEXES)
    assert unpacked(message.body, route.version) == SeenRoute(route, protocol, False)


@pytest.mark.parametrize("attributes, words", [
    ([attribute(99, b"abcd")], ("attribute 99",)),
    ([attribute(21, b"\1\0"), attribute(0x8000 | 22, b"")], ("encap",)),
    ([attribute(2, bytes(16))], ("from",)),
    ([attribute(11, b"\5\0\4\0"), attribute(20, b"\1"), attribute(30, b"\5\0\0\0")], ()),
], ids=["what nobody knows", "encapsulation", "a source", "what sends no packet another way"])
def test_what_a_route_of_ours_does_not_hold_is_kept_apart(attributes, words):
    body = struct.pack("=8BI", 10, 32, 0, 0, 254, 4, 0, 1, 0) + attribute(1, ip_address("fd00::").packed)
    body += attribute(4, struct.pack("=I", 3)) + b"".join(attributes)
    route, protocol, expires = unpacked(body, 6)
    assert (route.hops, protocol, expires) == ((Hop("eth1", other=words),), 4, False)
    ours = body[:5] + bytes([235]) + body[6:]
    assert unpacked(ours, 6).route.hops == (Hop("eth1"),), "the kernel's own addition to one of ours"


def test_a_route_that_expires():
    body = struct.pack("=8BI", 10, 0, 0, 0, 254, 9, 0, 1, 0)
    assert unpacked(body + attribute(12, struct.pack("=8I", 0, 0, 60000, 0, 0, 0, 0, 0)), 6).expires
    assert not unpacked(body + attribute(12, bytes(32)), 6).expires


def test_hops_that_can_t_be_are_an_error_not_a_loop():
    body = struct.pack("=8BI", 2, 0, 0, 0, 254, 4, 0, 1, 0)
    with pytest.raises(BootstrapError, match="makes no sense"):
        unpacked(body + attribute(9, struct.pack("=HBBi", 0, 0, 0, 3)), 4)


addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6)


@given(st.sampled_from([4, 6]).flatmap(lambda version: st.builds(
    Query, st.ip_addresses(v=version), st.none() | st.ip_addresses(v=version), st.sampled_from(["", "eth0"]),
    st.sampled_from(["", "eth1"]), st.booleans(), st.none() | st.integers(0, 2 ** 32 - 1),
    st.integers(0, 2 ** 32 - 1), st.sampled_from([0, 6, 17]), st.integers(0, 65535), st.integers(0, 65535))))
def test_pyroute2_reads_what_we_ask(query):
    body = route_codec.pack_question(query, INDEXES)
    message = rtmsg(struct.pack("=IHHII", 16 + len(body), 26, 0, 0, 0) + body)
    message.decode()
    asked = {name: value for name, value in message["attrs"] if name != "UNKNOWN"}
    assert ip_address(asked["RTA_DST"]) == query.dst and message["dst_len"] == query.dst.max_prefixlen
    assert (ip_address(asked["RTA_SRC"]) if "RTA_SRC" in asked else None) == query.src
    assert message["src_len"] == (query.dst.max_prefixlen if query.src is not None else 0)
    assert (asked.get("RTA_IIF"), asked.get("RTA_OIF")) == (INDEXES.get(query.iif), INDEXES.get(query.oif))
    assert asked.get("RTA_MARK", 0) == query.mark
    assert bool(message["flags"] & 0x2000) == query.match
    assert bool(message["flags"] & 0x1000) == (query.dst.version == 4)
    rest = {25: query.user, 27: query.protocol or None, 28: query.sport or None, 29: query.dport or None}
    forms = {25: "=I", 27: "=B", 28: "!H", 29: "!H"}
    for kind, value in rest.items():
        packed = attribute(kind, struct.pack(forms[kind], value)) if value is not None else None
        assert packed is None or packed in body


def test_a_route_that_tells_the_id_of_its_nexthop_object_only():
    """As with nexthop_compat_mode=0."""
    nexthop = struct.Struct("=BBBxI").pack(2, 0, 4, 0)
    bodies = [nexthop + attribute(1, struct.pack("=I", 5)) + attribute(5, struct.pack("=I", 3)) + attribute(
                  6, ip_address("172.16.20.9").packed),
              nexthop + attribute(1, struct.pack("=I", 6)) + attribute(5, struct.pack("=I", 2)) + attribute(8, b""),
              nexthop + attribute(1, struct.pack("=I", 7)) + attribute(2, struct.pack("=IB3xIB3x", 5, 2, 6, 0))]
    found = route_codec.unpack_nexthops(bodies, NAMES)
    five, six = Hop("eth1", ip_address("172.16.20.9")), Hop("eth0", other=("encap",))
    assert found == {5: (five,), 6: (six,), 7: (five._replace(weight=3), six)}
    body = struct.pack("=8BI", 2, 0, 0, 0, 254, 4, 0, 1, 0) + attribute(30, struct.pack("=I", 7))
    assert route_codec.unpack(body, 4, NAMES, OURS, lambda: found).route.hops == found[7]
    assert route_codec.unpack(body, 4, NAMES, OURS, dict).route.hops == ()


def test_a_filter():
    body = route_codec.pack_filter(6, 1001, 235, 7, 3)
    message = rtmsg(struct.pack("=IHHII", 16 + len(body), 26, 0, 0, 0) + body)
    message.decode()
    assert (message["family"], message["proto"], message["type"]) == (10, 235, 7)
    assert dict(message["attrs"]) == {"RTA_TABLE": 1001, "RTA_OIF": 3}
    assert len(route_codec.pack_filter(4)) == 12


@pytest.mark.parametrize("version, kind, error", [(4, 1, 0), (6, 7, 113)])
def test_an_answer(version, kind, error):
    dst = net("172.16.0.0/12") if version == 4 else net("fd00::/8")
    body = struct.pack("=8BI", {4: 2, 6: 10}[version], dst.prefixlen, 0, 0, 252, 0, 0, kind, 0)
    body += attribute(1, dst.network_address.packed) + attribute(4, struct.pack("=I", 3))
    body += attribute(15, struct.pack("=I", 1001)) + attribute(5, dst[9].packed)
    assert route_codec.unpack_answer(body, NAMES, match=True) == Answer(
        "eth1", dst[9], 1001, {1: "unicast", 7: "unreachable"}[kind], error, str(dst))
    assert route_codec.unpack_answer(body, NAMES, match=False).dst == ""

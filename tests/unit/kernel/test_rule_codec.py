"""The hand-made codec against pyroute2's: the same bytes in, the same meaning out."""

import pytest
from pyroute2.netlink.rtnl.fibmsg import fibmsg

from eni_bootstrap.kernel.attributes import attribute
from eni_bootstrap.kernel.rule_codec import FAMILY, pack, unpack
from eni_bootstrap.model.kernel import Match, Rule, SeenRule
from tests.build import net

RULES = [
    Rule(4, 7200, net("172.16.20.193/32"), table=1001),
    Rule(4, 7300, net("172.16.20.16/28"), table=1001),
    Rule(6, 7200, net("2001:db8::1/128"), table=70000),
    Rule(6, 7400, net("2001:db8::1/128"), action="unreachable"),
    Rule(4, 7500, oif="enp0s5", table=1999),
    Rule(4, 7100, table=254, suppress_prefixlength=0, suppress_ifgroup=60235),
    Rule(6, 7000, net("2001:db8::/80"), table=1001, suppress_prefixlength=0),
    Rule(4, 7700, table=1002, match=Match(net("10.60.0.0/16"), protocol=6, dports=(443, 443))),
    Rule(6, 7701, action="unreachable", match=Match(net("2001:db8:1::/48"), protocol=17, sports=(1024, 65535))),
    Rule(4, 7702, net("172.30.0.0/16"), table=1001, match=Match(iif="br0", mark=0x10, mask=0xFF, users=(1001, 1002))),
    Rule(4, 7010, action="prohibit", match=Match(net("192.0.2.0/24"))),
    Rule(4, 7011, action="goto", goto=7100, match=Match(users=(0, 0))),
    Rule(6, 7900, net("::/1"), table=1900, match=Match(inverted=True)),
    Rule(4, 7900, net("0.0.0.0/32"), table=1900),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_what_is_packed_is_unpacked(rule):
    assert unpack(pack(rule, 235), rule.version) == SeenRule(rule, 235)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_pyroute2_reads_what_we_pack(rule):
    body = pack(rule, 235)
    message = fibmsg(_header(body) + body)
    message.decode()
    attributes = dict(message["attrs"])
    assert message["family"] == FAMILY[rule.version]
    assert attributes["FRA_PRIORITY"] == rule.priority
    assert attributes["FRA_PROTOCOL"] == 235
    assert attributes.get("FRA_TABLE", 0) == rule.table
    assert attributes.get("FRA_OIFNAME", "") == rule.oif
    assert attributes.get("FRA_SUPPRESS_IFGROUP") == rule.suppress_ifgroup
    assert attributes.get("FRA_SUPPRESS_PREFIXLEN") == rule.suppress_prefixlength
    if rule.src is not None:
        assert (attributes["FRA_SRC"], message["src_len"]) == (str(rule.src.network_address), rule.src.prefixlen)
    assert message["action"] == {"lookup": 1, "goto": 2, "unreachable": 7, "prohibit": 8}[rule.action]
    match = rule.match
    if match.dst is not None:
        assert (attributes["FRA_DST"], message["dst_len"]) == (str(match.dst.network_address), match.dst.prefixlen)
    assert (attributes.get("FRA_FWMARK", 0), attributes.get("FRA_FWMASK", 0)) == (match.mark, match.mask)
    assert attributes.get("FRA_IIFNAME", "") == match.iif
    assert attributes.get("FRA_IP_PROTO", 0) == match.protocol
    assert attributes.get("FRA_GOTO", 0) == rule.goto
    assert bool(message["flags"] & 2) == match.inverted


@pytest.mark.parametrize("attributes, fields, words", [
    ([("FRA_FWMARK", 0x10), ("FRA_FWMASK", 0xFF)], {}, "from all fwmark 0x10/0xff"),
    ([("FRA_IIFNAME", "docker0")], {}, "from all iif docker0"),
    ([("FRA_DST", "10.0.0.0")], {"dst_len": 8}, "from all to 10.0.0.0/8"),
    ([("FRA_IP_PROTO", 6), ("FRA_DPORT_RANGE", "443:443")], {}, "from all ipproto 6 dport 443-443"),
    ([("FRA_UID_RANGE", "1001:1002")], {}, "from all uidrange 1001-1002"),
    ([], {"flags": 2}, "not from all"),
    ([], {"tos": 16}, "from all tos 0x10"),
])
def test_other_peoples_selectors_are_told_in_iproute2s_words(attributes, fields, words):
    message = fibmsg()
    for name, value in dict(fields, family=FAMILY[4], action=1).items():
        message[name] = value
    message["attrs"] = [("FRA_TABLE", 52), ("FRA_PRIORITY", 5210)] + attributes
    message.encode()
    rule, protocol = unpack(bytes(message.data[16:]), 4)
    assert (str(rule), protocol) == (words + " lookup 52 priority 5210", 0)


PLAIN, PORT = RULES[0], Rule(4, 7704, table=1002, match=Match(protocol=6, sports=(9, 9), dports=(443, 443)))


def _flagged(rule, flags):
    """The message's body with more flags, in the last four bytes of the header."""
    body = pack(rule, 235)
    return body[:8] + (int.from_bytes(body[8:12], "little") | flags).to_bytes(4, "little") + body[12:]


@pytest.mark.parametrize("rule", [PLAIN, PORT], ids=str)
@pytest.mark.parametrize("kind, data, words", [
    (11, b"\7\0\0\0", "11=0x07000000"), (25, b"\x08", "25=0x08"), (25, b"\0", "25=0x00"),
    (26, b"\0\0\0\5", "26=0x00000005"), (28, b"\xff\xf0", "28=0xfff0"), (29, b"\0\0", "29=0x0000"),
    (31, b"", "31=0x"), (77, b"abc", "77=0x616263"),
])
def test_a_rule_with_an_unknown_attribute_equals_none_without_and_shows_it(rule, kind, data, words):
    seen = unpack(pack(rule, 235) + attribute(kind, data), 4)
    assert seen.rule != rule and seen.protocol == 235
    assert seen.rule._replace(other=()) == rule
    assert " unknown attribute {} lookup {} ".format(words, rule.table) in str(seen.rule)


@pytest.mark.parametrize("rule", [PLAIN, PORT, RULES[-2]], ids=str)
@pytest.mark.parametrize("flags", [0x20, 0x10000, 0x80000000])
def test_so_does_one_with_an_unknown_flag(rule, flags):
    seen = unpack(_flagged(rule, flags), rule.version).rule
    assert seen != rule and seen._replace(other=()) == rule
    assert " unknown flags {:#x} lookup ".format(flags) in str(seen)


@pytest.mark.parametrize("rule", [PLAIN, PORT, RULES[-2]], ids=str)
@pytest.mark.parametrize("flags", [0x1, 0x4, 0x8, 0x10, 0x1D])
def test_what_the_kernel_tells_of_a_rule_s_fate_makes_no_difference(rule, flags):
    assert unpack(_flagged(rule, flags), rule.version).rule == rule


def test_padding_and_all_bits_of_a_port_make_no_difference():
    more = attribute(18, b"") + attribute(28, b"\xff\xff") + attribute(29, b"\xff\xff")
    assert unpack(pack(PORT, 235) + more, 4).rule == PORT


def _header(body):
    return (16 + len(body)).to_bytes(4, "little") + b"\0" * 12

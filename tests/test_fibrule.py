"""The hand-made codec against pyroute2's: the same bytes in, the same meaning out."""

import pytest
from pyroute2.netlink.rtnl.fibmsg import fibmsg

from eni_bootstrap.fibrule import FAMILY, pack, unpack
from eni_bootstrap.model import Rule, SeenRule
from tests.build import net

RULES = [
    Rule(4, 7200, net("172.16.20.193/32"), table=1001),
    Rule(4, 7300, net("172.16.20.16/28"), table=1001),
    Rule(6, 7200, net("2001:db8::1/128"), table=70000),
    Rule(6, 7400, net("2001:db8::1/128"), action="unreachable"),
    Rule(4, 7500, oif="enp0s5", table=1999),
    Rule(4, 7100, table=254, suppress_prefixlength=0, suppress_ifgroup=60235),
    Rule(6, 7000, net("2001:db8::/80"), table=1001, suppress_prefixlength=0),
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
    assert message["action"] == {"lookup": 1, "unreachable": 7}[rule.action]


@pytest.mark.parametrize("attributes, fields, words", [
    ([("FRA_FWMARK", 0x10), ("FRA_FWMASK", 0xFF)], {}, ("fwmark", "0x10/0xff")),
    ([("FRA_IIFNAME", "docker0")], {}, ("iif", "docker0")),
    ([("FRA_DST", "10.0.0.0")], {"dst_len": 8}, ("to", "10.0.0.0/8")),
    ([("FRA_IP_PROTO", 6), ("FRA_DPORT_RANGE", "443:443")], {}, ("ipproto", "6", "dport", "443-443")),
    ([("FRA_UID_RANGE", "1001:1002")], {}, ("uidrange", "1001-1002")),
    ([], {"flags": 2}, ("not",)),
    ([], {"tos": 16}, ("tos", "0x10")),
])
def test_other_peoples_selectors_are_told_in_iproute2s_words(attributes, fields, words):
    message = fibmsg()
    for name, value in dict(fields, family=FAMILY[4], action=1).items():
        message[name] = value
    message["attrs"] = [("FRA_TABLE", 52), ("FRA_PRIORITY", 5210)] + attributes
    message.encode()
    rule, protocol = unpack(bytes(message.data[16:]), 4)
    assert (rule.table, rule.priority, rule.other, protocol) == (52, 5210, words, 0)


def _header(body):
    return (16 + len(body)).to_bytes(4, "little") + b"\0" * 12

"""What is ours by its form, and what is not, whatever its mark."""

from ipaddress import ip_network

import pytest

from eni_bootstrap.config import file as config_file
from eni_bootstrap.config.own_rules import fence, owns_route, owns_rule
from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.kernel import ANY, PROTOCOL_KERNEL, Match, Rule
from tests.build import ETH1, ETH2, OURS, PRIMARY, address, decision, interface, link, net, route, snapshot, subnet

MARKED = Config(kernel_marks=True)
USUAL = "# the usual ones\n"


ALL = """\
assign: all
prefixes: local
sources: [{eni: eth1, address: [172.16.20.99, "2001:db8:20:a201::/112"]}]
access:
  - {to: [10.60.0.0/16, "2001:db8:60::/48"], protocol: tcp, port: 443, via: eth2}
  - {user: 1001, via: eth1}
  - {to: [192.0.2.0/24, "2001:db8:bad::/48"], answer: prohibit}
  - {mark: 0x10/0xff, via: eth2}
  - {in: br0, from: 172.30.0.0/16, protocol: udp, source-port: 1024-2048, via: eth1}
  - {from: 172.31.0.0/16, via: eth7}
  - {from: 198.18.0.9, answer: blackhole}
balance: [{over: {eth0: 1, eth1: 2, eth2: 3}}]
connection-marks: {}
"""


def configured(text):
    config, problems = config_file.read(text.encode())
    assert not problems, problems
    return config


def worlds():
    """(rules that we make, by which settings): every kind that there is."""
    six = [interface(number, subnet("172.16.{}.0/24".format(block), *v4, prefixes=["172.16.{}.128/28".format(block)]),
                     subnet("2001:db8:{}::/64".format(number), "2001:db8:{}::5".format(number)), primary=not number)
           for number, block, v4 in ((0, 10, ["172.16.10.10"]), (1, 20, ["172.16.20.20", "172.16.20.21"]),
                                     (2, 30, ["172.16.30.30"]))]
    for text in (USUAL, ALL, ALL + "numbers: {table: 3000, priority: 9000, protocol: 240, group: 77}\n"):
        for group in (0, 5):  # in somebody else's group: then there are rules before main's
            world = snapshot([link(number, group=group) for number in range(3)],
                             [address("eth{}".format(number), "172.16.{}/24".format(held))
                              for number, held in enumerate(("10.10", "20.20", "30.30"))])
            config = configured(text)
            yield decision(world, *six, config=config).rules, config._replace(kernel_marks=True)


def test_all_that_we_make_is_known_by_its_form_too():
    priorities = set()
    for made, config in worlds():
        assert made
        for rule in made:
            assert owns_rule(rule, PROTOCOL_KERNEL, config), rule
            assert owns_rule(rule, config.protocol, config), rule
            assert not owns_rule(rule, PROTOCOL_KERNEL, config._replace(kernel_marks=False)), rule
            priorities.add(rule.priority - config.priority_first)
    ladder = {name: getattr(MARKED, name) - 7000 for name in Config._fields if name.startswith("priority_")}
    assert priorities.issuperset(value for name, value in ladder.items()
                                 if name not in ("priority_first", "priority_last"))


def test_with_anything_more_or_less_it_is_somebody_else_s():
    """Of access entries the selectors are whatever was asked for."""
    for made, config in worlds():
        for rule in made:
            entry = rule.priority - config.priority_first in {*range(10, 90), *range(700, 860)}
            others = [rule._replace(other=("l3mdev",)), rule._replace(table=77, goto=0),
                      rule._replace(oif="" if rule.oif else "tun9"),
                      rule._replace(action="9"), rule._replace(suppress_prefixlength=8), rule._replace(goto=32766),
                      rule._replace(suppress_ifgroup=4), rule._replace(priority=rule.priority + 2000),
                      rule._replace(match=rule.match._replace(inverted=not rule.match.inverted))]
            if not entry:
                others += [rule._replace(match=rule.match._replace(sports=(7, 7))), rule._replace(match=Match(mask=9)),
                           rule._replace(src=None if rule.src else net("198.18.0.0/16"))]
            for other in others:
                assert other == rule or not owns_rule(other, PROTOCOL_KERNEL, config), "{} ({})".format(other, rule)


@pytest.mark.parametrize("rule", [
    Rule(4, 7777, net("10.9.9.9/32"), table=77), Rule(4, 7777, net("10.9.9.9/32"), table=1001),
    Rule(4, 7200, net("10.9.9.9/32"), table=77), Rule(4, 7200, net("10.9.0.0/16"), table=1001),
    Rule(4, 7300, net("10.9.9.9/32"), table=1001), Rule(4, 7200, table=1001), Rule(4, 7100, table=254),
    Rule(4, 7400, net("10.9.9.9/32"), action="unreachable"), Rule(4, 7010, action="prohibit"),
    Rule(4, 7010, net("10.9.9.9/32"), table=1001), Rule(4, 7010, net("10.9.9.9/32"), action="goto", goto=7200),
    Rule(4, 7690, table=254, match=Match(net("10.0.0.0/8"))), Rule(4, 7500, table=1001), Rule(4, 7160, table=1001),
    Rule(4, 7700, net("10.9.9.9/32"), action="unreachable"), Rule(4, 7701, net("10.9.9.9/32"), table=1001),
    Rule(4, 7701, action="unreachable"), Rule(4, 7900, net("0.0.0.0/32"), table=1001),
    Rule(6, 7890, net("::/1"), table=254), Rule(4, 7150, table=1001, match=Match(mark=1, mask=255, iif="eth1")),
    Rule(4, 7140, action="goto", goto=7160, match=Match(iif="eth1")), Rule(4, 7151, action="unreachable", match=ANY),
    Rule(4, 7050, other=("l3mdev",)),
], ids=str)
def test_what_we_would_not_make_is_not_ours_by_the_kernels_mark(rule):
    assert not owns_rule(rule, PROTOCOL_KERNEL, MARKED)


def test_of_routes_the_fence_alone_may_bear_the_kernels_mark():
    assert owns_route(fence(1050), PROTOCOL_KERNEL, MARKED) and not owns_route(fence(1050), PROTOCOL_KERNEL, Config())
    for other in (fence(77), fence(1050)._replace(metric=7), fence(1050)._replace(tos=8),
                  fence(1050, net("198.18.77.0/24"))._replace(metric=0), fence(1050)._replace(kind="blackhole"),
                  fence(1050)._replace(dst=ip_network("::/0")), route(1050, "default", "eth1 172.16.20.253")):
        assert not owns_route(other, PROTOCOL_KERNEL, MARKED), other
    # What refuses a destination of which no copy can be had.
    for dst in ("198.51.100.0/24", "2001:db8::/64"):
        assert owns_route(fence(1050, net(dst)), PROTOCOL_KERNEL, MARKED)


def test_a_vrf_s_rule_is_not_ours_whatever_the_numbers_are():
    numbers = Config().numbering._replace(priority=500)
    assert not owns_rule(Rule(4, 1000, other=("l3mdev",)), PROTOCOL_KERNEL, MARKED.renumbered(numbers))


@pytest.mark.parametrize("other", [("tos", "0x10"), ("unknown", "attribute", "25=0x08")])
def test_with_a_selector_that_we_never_set_our_own_mark_does_not_make_it_ours(other):
    rule = Rule(4, 7200, net("10.9.9.9/32"), table=1001)
    assert owns_rule(rule, OURS, Config()) and not owns_rule(rule._replace(other=other), OURS, Config())


def test_what_is_not_ours_has_no_part_in_the_decision():
    """An ENI whose address such a rule leads to another table does not take that table for its own."""
    rule = Rule(4, 7200, net("172.16.20.20/32"), table=1007, other=("unknown", "attribute", "25=0x08"))
    world = snapshot([link(0), link(1)], [address("eth1", "172.16.20.20/24")], rules=[(rule, OURS)])
    assert decision(world, PRIMARY, ETH1, ETH2).table_of("eth1") == 1001

"""What is ours: only what we have made. A mark alone does not say so, and neither does a record."""

import json
import os
import socket
import struct
from ipaddress import ip_network

import pytest

from eni_bootstrap import linux
from eni_bootstrap.config import file as config_file
from eni_bootstrap.config.own_rules import fence, owns_route, owns_rule
from eni_bootstrap.config.settings import Config
from eni_bootstrap.host.network_managers import Managers, Networkd
from eni_bootstrap.lab.vpc import make_tree
from eni_bootstrap.model.kernel import ANY, PROTOCOL_KERNEL, Match, Rule
from tests.build import ETH1, ETH2, OURS, PRIMARY, address, decision, interface, link, net, route, snapshot, subnet
from tests.oracle import assert_every_eni_answers, difference, ip, kernel, lost, routes, rules, show
from tests.test_addresses import Configured

DELETES = Managers(("systemd-networkd",), Networkd(252, False, "ManageForeignRoutingPolicyRules is not set to no"),
                   False, False)
SPARES = DELETES._replace(networkd=Networkd(252, True, "both are off"))
MARKED = Config(kernel_marks=True)
USUAL = "# the usual ones\n"

REALM, DSCP = 11, 25
"""Attributes of rules that we can't read (linux/fib_rules.h)."""
_SRC, _PRIORITY, _TABLE, _PROTOCOL = 2, 6, 15, 21

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


# rules by their form


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


# on the kernel


@pytest.fixture
def under(monkeypatch):
    """``under(managers)``: from now on these manage the network."""
    return lambda managers: monkeypatch.setattr(linux, "look", lambda: managers)


@pytest.fixture
def host(make_vpc, make_agent, tmp_path, under):
    """``host(text)``: a VPC of three ENIs where nobody deletes rules, and an agent with this configuration."""
    def make(text=USUAL, **options):
        under(SPARES)
        vpc = make_vpc(make_tree(addresses=2, ipv6=True, prefix=True), **options)
        path = tmp_path / "eni-bootstrap.yaml"
        path.write_text(text)
        agent = make_agent(vpc)
        configured = Configured(agent, path)
        configured.record = os.path.join(agent.directory, "state.json")
        return vpc, configured
    return make


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def add_rule(vpc, source, table, priority, protocol, *more, flags=0):
    """By a raw message: what ``ip`` can't say depends on its version. ``more``: (attribute, content)."""
    body = struct.pack("=8BI", socket.AF_INET, 0, 32, 0, 0, 0, 0, 1, flags)
    body += attribute(_SRC, socket.inet_aton(source)) + attribute(_TABLE, struct.pack("=I", table))
    body += attribute(_PRIORITY, struct.pack("=I", priority)) + attribute(_PROTOCOL, bytes([protocol]))
    body += b"".join(attribute(*each) for each in more)
    with vpc.instance:
        talking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with talking:
        talking.send(struct.pack("=IHHII", 16 + len(body), 32, 0x605, 1, 0) + body)
        assert struct.unpack_from("=i", talking.recv(4096), 16)[0] == 0, "the kernel refuses it"


def at(vpc, priority, version=4):
    return [rule for rule in rules(vpc, version) if rule["priority"] == priority]


UNKNOWN = {
    "a selector of newer kernels": ([(DSCP, b"\x08")], 0, "unknown attribute 25=0x08 unknown attribute 30=0x3f"),
    "one that older versions left out": ([(REALM, struct.pack("=I", 7))], 0, "unknown attribute 11=0x07000000"),
    "a flag": ([], 0x10000, "unknown flags 0x10000"),
}
unknown = pytest.mark.parametrize("more, flags, words", UNKNOWN.values(), ids=list(UNKNOWN))


@pytest.mark.kernel
@pytest.mark.parametrize("protocol", [0, 3])
@unknown
def test_adopt_leaves_a_rule_that_it_can_t_read_whole(host, more, flags, words, protocol):
    """It has an ENI's own address and table, as those that people type."""
    vpc, agent = host()
    add_rule(vpc, "172.16.20.10", 1001, 32765, protocol, *more, flags=flags)
    assert agent().code == 0
    before = kernel(vpc)
    seen = agent("adopt")
    assert seen.code == 0 and "from 172.16.20.10 {} lookup 1001".format(words) in seen.out
    done = agent("adopt", "--yes")
    assert done.code == 0 and words in done.out
    assert difference(before, kernel(vpc)) == ([], []) and len(at(vpc, 32765)) == 1
    assert agent("remove").code == 0
    assert len(at(vpc, 32765)) == 1


@pytest.mark.kernel
@pytest.mark.parametrize("managers", [DELETES, SPARES], ids=["marked as the kernel's", "marked as ours"])
@unknown
def test_one_with_our_own_mark_beside_ours_stays_and_is_named(host, under, managers, more, flags, words):
    """The twin of one of ours, if the kernel sees a difference, and a stranger in a place of ours."""
    vpc, agent = host()
    under(managers)
    mark = PROTOCOL_KERNEL if managers is DELETES else OURS
    assert agent().code == 0
    there = kernel(vpc)
    sources = ["10.9.9.9", "172.16.20.10"] if more else ["10.9.9.9"]
    for source in sources:
        add_rule(vpc, source, 1001, 7200, mark, *more, flags=flags)
    theirs = difference(there, kernel(vpc))
    assert len(theirs[1]) == len(sources)
    assert "nothing to do" in agent("plan").out
    for command in ("plan", "apply", "verify", "status"):
        said = agent(command)
        assert said.code == 0, said
        for source in sources:
            assert "from {} {} lookup 1001".format(source, words) in said.out, command
    assert difference(there, kernel(vpc)) == theirs
    assert agent("remove").code == 0
    assert sorted(rule["src"] for rule in at(vpc, 7200)) == sources


@pytest.mark.kernel
def test_what_the_kernel_adds_to_our_own_rules_by_itself_makes_them_nobody_else_s(host):
    """A port's mask, an empty place to jump to, a device that is away."""
    vpc, agent = host(ALL)
    before = kernel(vpc)
    agent()
    assert "0 things changed" in agent().out and "among ours" not in agent("plan").out
    agent("remove")
    assert difference(before, kernel(vpc)) == ([], [])


@pytest.mark.kernel
def test_a_vrf_and_a_priority_in_front_of_its_rule(host):
    """The kernel makes the VRF's rule, with its own mark; a band around it is refused by its line."""
    vpc, agent = host("# numbers\nnumbers:\n  priority: 500\n")
    for version in (4, 6):
        ip(vpc, "-{} rule add l3mdev priority 1000 protocol kernel".format(version))
    before = kernel(vpc)
    refused = agent()
    assert refused.code == 2 and "eni-bootstrap.yaml:3: numbers.priority: '500' is given" in refused.err
    assert difference(before, kernel(vpc)) == ([], [])
    agent.config("numbers: {priority: 1001}\n")
    assert agent().code == agent("remove").code == 0
    assert difference(before, kernel(vpc)) == ([], [])


@pytest.mark.kernel
@pytest.mark.parametrize("managers", [DELETES, SPARES], ids=["networkd deletes", "networkd spares"])
def test_what_others_mark_as_the_kernels_stays_and_is_named(host, under, managers):
    vpc, agent = host()
    under(managers)
    for command in ("rule add from 10.9.9.9 lookup 77 priority 7777 protocol kernel",
                    "rule add from 10.9.9.9 lookup 77 priority 7200 protocol kernel",
                    "rule add l3mdev priority 7050 protocol kernel", "-6 rule add l3mdev priority 7500 protocol kernel",
                    "rule add from 10.9.9.9 to 10.8.8.8 lookup 1001 priority 7200 protocol kernel",
                    "route add unreachable 198.18.77.0/24 table 1050 proto kernel",
                    "route add unreachable default table 1050 metric 77 proto kernel"):
        ip(vpc, command)
    before = kernel(vpc)
    for command in ("plan", "apply", "apply", "verify", "status"):
        said = agent(command)
        assert said.code == 0, said
        for rule in ("from 10.9.9.9 lookup 77 priority 7777", "from 10.9.9.9 lookup 77 priority 7200",
                     "from all l3mdev lookup 0 priority 7050", "from 10.9.9.9 to 10.8.8.8 lookup 1001 priority 7200"):
            assert "among ours (priorities 7000 to 7999): " + rule in said.out or command == "verify" and (
                "comes before ours and catches a source" in said.out and rule in said.out), said.out
    assert lost(before, kernel(vpc)) == []
    assert_every_eni_answers(vpc)
    assert agent("remove").code == 0
    assert difference(before, kernel(vpc)) == ([], [])


@pytest.mark.kernel
def test_of_many_strangers_a_few_are_named(host):
    vpc, agent = host()
    for number in range(1, 21):
        ip(vpc, "rule add from 10.9.9.{} lookup 77 priority 7777 protocol kernel".format(number))
    said = agent().out
    assert said.count("is among ours") == 5 and "15 more of somebody else's rules are among ours" in said


EXACT = ["rule add from 10.9.9.9 lookup 1050 priority 7200 protocol kernel",
         "route add unreachable default table 1050 metric 4294967295 proto kernel"]
"""Just what we would make."""


def theirs(vpc):
    return len([rule for rule in at(vpc, 7200) if rule["src"] == "10.9.9.9"]), len(routes(vpc, 1050))


@pytest.mark.kernel
def test_what_looks_like_ours_stays_where_we_never_used_that_mark(host, under):
    vpc, agent = host()
    for command in EXACT:
        ip(vpc, command)
    assert agent().code == agent().code == 0 and theirs(vpc) == (1, 1)
    assert agent("remove").code == 0 and theirs(vpc) == (1, 1)


@pytest.mark.kernel
def test_what_was_marked_so_is_known_again_until_it_has_gone(host, under):
    """Also by a record of a version that did not note such marks."""
    vpc, agent = host()
    before = kernel(vpc)
    under(DELETES)
    assert agent().code == 0
    assert {rule["protocol"] for rule in rules(vpc) if 7000 <= rule["priority"] < 8000} == {"kernel"}
    with open(agent.record) as handle:
        record = json.load(handle)
    assert record.pop("kernel_marks") is True
    with open(agent.record, "w") as handle:
        json.dump(record, handle)
    under(SPARES)
    assert agent().code == 0
    assert {rule["protocol"] for rule in rules(vpc) if 7000 <= rule["priority"] < 8000} == {"235"}
    assert agent().code == 0
    for command in EXACT:
        ip(vpc, command)
    assert agent().code == 0 and theirs(vpc) == (1, 1)
    assert agent("remove").code == 0 and theirs(vpc) == (1, 1)
    for command in EXACT:
        ip(vpc, command.replace(" add ", " del "))
    assert difference(before, kernel(vpc)) == ([], [])


@pytest.mark.kernel
@pytest.mark.parametrize("later", [DELETES, SPARES], ids=["then deletes", "then spares"])
@pytest.mark.parametrize("group", ["default", "5"])
def test_every_kind_of_rule_is_taken_back_by_the_kernels_mark_too(host, under, later, group):
    vpc, agent = host(ALL + "numbers: {table: 3000, priority: 9000}\n")
    ip(vpc, "link set eth1 group " + group)
    before = kernel(vpc)
    under(DELETES)
    agent()
    made = {rule["protocol"] for version in (4, 6) for rule in rules(vpc, version) if 9000 <= rule["priority"] < 10000}
    assert made == {"kernel"}
    assert "0 things changed" in agent().out
    agent.config(USUAL)  # what was by other numbers goes, too
    under(later)
    agent()
    assert not [rule for version in (4, 6) for rule in rules(vpc, version) if 9000 <= rule["priority"] < 10000]
    assert agent("remove").code == 0
    assert not show(vpc, "route show table all type unreachable")
    assert difference(before, kernel(vpc)) == ([], [])


FORGED = {
    "the kernel's own rules": [[5000, 0, 98, 9]], "the kernel's own routes": [[0, 9000, 2, 9]],
    "a DHCP client's routes": [[100, 9000, 16, 9]], "negative ones": [[-1, -7000, -235, -9]],
    "too large ones": [[1 << 32, 7000, 235, 1]], "in front of a VRF's": [[1000, 500, 240, 60235]],
    "no numbers": [["a", None, {}, []], [1], 7, None, [1.5, 2.5, 235.0, 1.0], "abcd"],
}


@pytest.mark.kernel
@pytest.mark.parametrize("numbers", FORGED.values(), ids=list(FORGED))
def test_numbers_in_the_record_are_within_the_bounds_of_the_configuration(host, numbers):
    """Who may write there is less than root; and what is there may be broken."""
    vpc, agent = host(os="dhcp")
    ip(vpc, "rule add l3mdev priority 1000 protocol kernel")
    ip(vpc, "rule add from 10.9.9.9 lookup 77 priority 900 protocol 240")
    without = kernel(vpc)
    assert agent().code == 0
    before = kernel(vpc)
    for command in ("apply", "verify", "plan", "remove"):
        with open(agent.record) as handle:
            record = json.load(handle)
        with open(agent.record, "w") as handle:
            json.dump(dict(record, numbers=numbers), handle)
        done = agent(command)
        assert done.code == 0 and "out of bounds" in done.err and "unexpected" not in done.err, done
        assert difference(without if command == "remove" else before, kernel(vpc)) == ([], [])

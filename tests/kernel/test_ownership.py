"""What is ours: only what we have made. A mark alone does not say so, and neither does a record."""

import json
import os
import socket
import struct

import pytest

from eni_bootstrap import linux
from eni_bootstrap.host.network_managers import Managers, Networkd
from eni_bootstrap.lab.vpc import make_tree
from eni_bootstrap.model.kernel import PROTOCOL_KERNEL
from tests.build import OURS
from tests.kernel.test_addresses import Configured
from tests.oracle import assert_every_eni_answers, difference, ip, kernel, lost, routes, rules, show
from tests.unit.plan.test_ownership import ALL, USUAL

DELETES = Managers(("systemd-networkd",), Networkd(252, False, "ManageForeignRoutingPolicyRules is not set to no"),
                   False, False)
SPARES = DELETES._replace(networkd=Networkd(252, True, "both are off"))


REALM, DSCP = 11, 25
"""Attributes of rules that we can't read (linux/fib_rules.h)."""
_SRC, _PRIORITY, _TABLE, _PROTOCOL = 2, 6, 15, 21


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


def test_what_the_kernel_adds_to_our_own_rules_by_itself_makes_them_nobody_else_s(host):
    """A port's mask, an empty place to jump to, a device that is away."""
    vpc, agent = host(ALL)
    before = kernel(vpc)
    agent()
    assert "0 things changed" in agent().out and "among ours" not in agent("plan").out
    agent("remove")
    assert difference(before, kernel(vpc)) == ([], [])


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


def test_what_looks_like_ours_stays_where_we_never_used_that_mark(host, under):
    vpc, agent = host()
    for command in EXACT:
        ip(vpc, command)
    assert agent().code == agent().code == 0 and theirs(vpc) == (1, 1)
    assert agent("remove").code == 0 and theirs(vpc) == (1, 1)


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

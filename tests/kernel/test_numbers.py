"""Other numbers than the usual ones (``numbers``), and what becomes of things with former ones."""

import re

import pytest

from eni_bootstrap.lab.vpc import Vpc, macs_of, make_tree
from tests.agent import Agent
from tests.effort import one_in
from tests.kernel.test_addresses import Configured, run_step
from tests.kernel.test_crash import ETH1, Killed, assert_no_wrong_way, configuration, primary_default, ways
from tests.oracle import (
    assert_every_eni_answers, defaults, difference, ip, kernel, leaves_by, lookup, routes, rules, settle, show, watch,
)
from tests.unit.config.test_numbers import OTHER, USUAL

CHANGES = {
    "table": "numbers: {table: 3000}\n", "overlapping tables": "numbers: {table: 1001}\n",
    "priority": "numbers: {priority: 9000}\n", "overlapping priorities": "numbers: {priority: 7200}\n",
    "protocol": "numbers: {protocol: 240}\n", "group": "numbers: {group: 77}\n", "all": OTHER,
}


@pytest.fixture
def host(make_vpc, make_agent, tmp_path):
    """``host(text)``: a VPC of three ENIs, and an agent with this configuration."""
    def make(text, *tree, **options):
        vpc = make_vpc(*(tree or (make_tree(addresses=2, ipv6=True, prefix=True),)), **options)
        path = tmp_path / "eni-bootstrap.yaml"
        path.write_text(text)
        return vpc, Configured(make_agent(vpc), path)
    return make


def ours(vpc, protocol):
    """Number of rules and routes of this protocol."""
    return sum(rule.get("protocol") == str(protocol) for version in (4, 6) for rule in rules(vpc, version)) + sum(
        route["protocol"] == str(protocol) for version in (4, 6) for route in routes(vpc, "all", version))


@pytest.mark.parametrize("os", ["dhcp", "up", "down"])
def test_other_numbers_from_the_start(host, os):
    """Tables, priorities, metrics, protocol and group; remove takes all of it back, and knows the numbers."""
    vpc, agent = host(OTHER, os=os)
    before = kernel(vpc)
    result = agent()
    assert result.code == 0, result
    assert ours(vpc, 235) == 0 and ours(vpc, 240) > 20
    marked = [rule for version in (4, 6) for rule in rules(vpc, version) if rule.get("protocol") == "240"]
    assert all(9000 <= rule["priority"] <= 9999 for rule in marked)
    assert {rule["table"] for rule in marked if "table" in rule} == {"main", "3000", "3001", "3002"}
    assert {link["group"] for link in show(vpc, "link show") if link["ifname"].startswith("eth")} == {"77"}
    if os != "dhcp":
        assert [each for each in defaults(vpc) if each[2] == "240"] == [("eth1", 107, "240"), ("eth2", 114, "240")]
    assert_every_eni_answers(vpc)
    settle(vpc)
    with watch(vpc) as said:
        assert agent().code == agent("verify").code == agent("status").code == 0
    assert said == []
    assert agent("remove").code == 0
    settle(vpc)
    assert difference(before, kernel(vpc)) == ([], [])


@pytest.mark.parametrize("text", CHANGES.values(), ids=list(CHANGES))
def test_a_change_of_numbers_ends_as_if_they_had_always_been_so(host, text):
    """And back again; a second run has nothing to do."""
    vpc, agent = host(text, os={"eth2": "up"})
    before = kernel(vpc)
    assert agent().code == 0
    settle(vpc)
    other = kernel(vpc)
    assert agent("remove").code == 0
    assert kernel(vpc) == before
    agent.config(USUAL)
    assert agent().code == 0
    usual = kernel(vpc)
    for wanted, there in ((text, other), (USUAL, usual), (text, other)):
        agent.config(wanted)
        result = agent()
        assert result.code == 0, result
        assert difference(there, kernel(vpc)) == ([], [])
        assert "0 things changed" in agent().out
    assert_every_eni_answers(vpc)
    assert agent("remove").code == 0
    assert difference(before, kernel(vpc)) == ([], [])


@pytest.mark.parametrize("text", CHANGES.values(), ids=list(CHANGES))
def test_while_the_numbers_change_no_packet_leaves_by_a_wrong_way(make_agent, monkeypatch, text):
    """The new ones are complete before the first of the old ones goes: not even a moment without a way. Where a table
    changes hands there may be one."""
    with Vpc(make_tree(addresses=2, ipv6=True), assign=True, os={"eth2": "up"}) as vpc:
        monkeypatch.setenv("RUNTIME_DIRECTORY", make_agent(vpc).directory)
        run_step(vpc, USUAL, lambda change: None)
        old, seen = ways(vpc), []
        run_step(vpc, text, lambda change: seen.append((str(change), ways(vpc), primary_default(vpc))))
        assert seen and ways(vpc) == old
        for change, now, default in seen:
            assert_no_wrong_way(now, old, old, change)
            assert default == seen[0][2]
            if text != CHANGES["overlapping tables"]:
                assert now == old, "after {}".format(change)


@pytest.mark.parametrize("text", [CHANGES["all"], CHANGES["protocol"], CHANGES["overlapping tables"],
                                  CHANGES["group"]])
def test_whatever_message_was_the_last_the_next_run_ends_in_the_same_state(monkeypatch, tmp_path, text):
    def world_after(cut):
        with Vpc(make_tree(ipv6=True), os={"eth2": "up"}) as vpc:
            monkeypatch.setenv("RUNTIME_DIRECTORY", Agent(vpc, tmp_path / str(cut)).directory)
            sent = []
            run_step(vpc, USUAL, lambda change: None)

            def told_of(change):
                sent.append(change)
                if len(sent) == cut:
                    raise Killed()

            if cut:
                with pytest.raises(Killed):
                    run_step(vpc, text, told_of)
                run_step(vpc, text, lambda change: None)
            else:
                run_step(vpc, text, told_of)
            there = configuration(vpc)
            run_step(vpc, text, lambda change: None)
            assert configuration(vpc) == there
            return there, len(sent)

    reference, total = world_after(cut=0)
    for cut in range(1, total + 1, one_in(7)):
        assert world_after(cut)[0] == reference, "cut after message {} of {}".format(cut, total)


@pytest.mark.parametrize("text", [CHANGES["all"], CHANGES["overlapping tables"]])
def test_as_long_as_an_eni_is_sick_the_former_numbers_stay(host, text):
    """It must keep what it has; and all the others are still cared for."""
    vpc, agent = host(USUAL)
    assert agent().code == 0
    gateway = macs_of(vpc.tree)[ETH1].pop("gateway")
    agent("apply", "--timeout", "1")
    before = kernel(vpc)
    agent.config(text)
    result = agent("apply", "--timeout", "1")
    assert result.code == 1 and "other numbers" in result.out
    assert difference(before, kernel(vpc)) == ([], [])
    macs_of(vpc.tree)[ETH1]["gateway"] = gateway
    result = agent()
    assert result.code == 0 and "other numbers" not in result.out
    assert ours(vpc, 235) == 0 or text != OTHER
    assert_every_eni_answers(vpc)


@pytest.mark.parametrize("text", [CHANGES["all"], CHANGES["overlapping tables"], CHANGES["overlapping priorities"]])
def test_an_eni_that_falls_sick_afterwards_keeps_what_it_has(host, text):
    vpc, agent = host(USUAL)
    assert agent().code == 0
    agent.config(text)
    assert agent().code == agent().code == 0
    before = [rules(vpc, version) for version in (4, 6)] + [routes(vpc, "all", 4)]
    del macs_of(vpc.tree)[ETH1]["gateway"]
    result = agent("apply", "--timeout", "1")
    assert result.code == 1 and "other numbers" not in result.out
    assert [rules(vpc, version) for version in (4, 6)] + [routes(vpc, "all", 4)] == before


@pytest.mark.parametrize("text", [OTHER, CHANGES["group"]])
def test_remove_knows_the_former_numbers(host, text):
    """Also when the configuration has been changed, and no run has been since; and without a record the usual ones."""
    vpc, agent = host(text, os={"eth2": "down"})
    before = kernel(vpc)
    assert agent().code == 0
    agent.config(USUAL)
    assert agent("remove").code == 0
    settle(vpc)
    assert difference(before, kernel(vpc)) == ([], [])
    assert agent().code == 0
    agent.config(text)
    assert agent("remove").code == 0
    settle(vpc)
    assert difference(before, kernel(vpc)) == ([], [])


def test_what_others_have_with_such_numbers_stays(host):
    vpc, agent = host(OTHER)
    for command in ("rule add from 10.9.9.9 lookup 1050 priority 7250 protocol 99",
                    "route add default via 172.16.20.253 dev eth1 table 1050 proto 99",
                    "rule add from 10.9.9.8 lookup 3050 priority 9250"):
        ip(vpc, command)
    before = kernel(vpc)
    assert agent().code == 0
    agent.config(USUAL)
    assert agent().code == 0
    agent.config(OTHER)
    assert agent().code == agent("remove").code == 0
    assert difference(before, kernel(vpc)) == ([], [])


def test_a_link_that_udev_put_into_the_usual_group_is_taken_out_of_it(host):
    """Its rule knows no configuration."""
    vpc, agent = host(CHANGES["group"])
    ip(vpc, "link set eth1 group 60235")
    result = agent()
    assert result.code == 0 and "somebody else" not in result.out
    assert {link["group"] for link in show(vpc, "link show") if link["ifname"].startswith("eth")} == {"77"}


def test_a_named_line_and_exit_code_2(host):
    vpc, agent = host("numbers:\n  protocol: 16\n")
    result = agent()
    assert result.code == 2
    assert re.search(r"eni-bootstrap.yaml:2: numbers\.protocol: '16' is given; allowed is ", result.err)
    assert leaves_by(vpc, vpc.address("eth1"), "203.0.113.50") == "eth0" and lookup(vpc, None, "203.0.113.50")

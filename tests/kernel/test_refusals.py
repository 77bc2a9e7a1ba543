"""The kernel refuses single messages: what presupposes them waits, and the next run ends as if nothing had been."""

import errno
import os

import pytest

from eni_bootstrap.agent import commands
from eni_bootstrap.config import file as config_file
from eni_bootstrap.config.settings import Config
from eni_bootstrap.kernel.kernel import Kernel
from eni_bootstrap.kernel.socket import Message, Reply, Socket
from eni_bootstrap.model.errors import NotPermitted
from tests.agent import Agent
from tests.in_process import run_here
from tests.kernel.test_crash import NOWHERE, configuration, lab, step, ways
from tests.oracle import NO_WAY, OURS, OUTSIDE, ip, kernel, leaves_by, lookup, lost, routes, rules

BOTH = pytest.mark.parametrize("version", [4, 6])
USUAL = "# the usual ones\n"
PRIORITY = "numbers: {priority: 9000}\n"
ACCESS = """\
access:
  - {to: [10.60.0.0/16, "2001:db8:60::/48"], via: eth2}
  - {to: [10.60.0.0/15, "2001:db8:60::/47"], answer: prohibit}
  - {to: [10.70.0.0/16, "2001:db8:70::/48"], via: eth1}
"""
INSIDE = {4: "10.60.0.1", 6: "2001:db8:60::1"}
"""Of the second entry's destinations, what the first one sends."""
REFUSED = {4: "10.61.0.1", 6: "2001:db8:61::1"}


class Unheard(Message):
    """Never gets to the kernel."""


@pytest.fixture
def refuse(monkeypatch):
    """``refuse(condition, number)``: from now on the kernel refuses the changes, as commands, that fulfil it, with
    this errno. Tells which ones."""
    state = {"condition": lambda command: False, "number": 0}
    order, make = Socket.order, Kernel._order
    refused = []

    def said(self, messages):
        messages = list(messages)
        replies = iter(order(self, [each for each in messages if not isinstance(each, Unheard)]))
        return [Reply(error=state["number"]) if isinstance(each, Unheard) else next(replies) for each in messages]

    def made(self, change):
        message = make(self, change)
        if not state["condition"](str(change)):
            return message
        refused.append(str(change))
        return Unheard(*message)

    monkeypatch.setattr(Socket, "order", said)
    monkeypatch.setattr(Kernel, "_order", made)

    def from_now_on(condition=lambda command: False, number=errno.ENOMEM):
        state.update(condition=condition, number=number)
        del refused[:]
        return refused

    return from_now_on


def has(*words):
    return lambda command: all(word in command for word in words)


def run(vpc, text=USUAL, command=commands.apply):
    """One run of the agent that does not wait for long. ``text``: the configuration's, or the configuration."""
    config, problems = config_file.read(text.encode()) if isinstance(text, str) else (text, [])
    assert not problems
    config = config._replace(address_wait=0.2)
    return run_here(vpc, command, config)


@pytest.fixture
def host(make_agent, monkeypatch):
    """Three ENIs, both families, two addresses each, all on their links; eth2's link was left down."""
    with lab() as vpc:
        monkeypatch.setenv("RUNTIME_DIRECTORY", make_agent(vpc).directory)
        yield vpc


# a new rule


CHANGES = {
    "priorities": (USUAL, PRIORITY), "priorities, downwards": (PRIORITY, USUAL),
    "tables": (USUAL, "numbers: {table: 3000}\n"), "protocol": (USUAL, "numbers: {protocol: 240}\n"),
}


@BOTH
@pytest.mark.parametrize("before, after", CHANGES.values(), ids=list(CHANGES))
def test_a_source_s_old_rule_stays_until_the_new_one_stands(host, refuse, before, after, version):
    run(host, before)
    source, old = host.address("eth1", version), ways(host)
    refused = refuse(has("-{} rule add".format(version), "from {} lookup".format(source)))
    report = run(host, after)
    assert refused and [problem for problem in report.problems if refused[0] in problem]
    assert ways(host) == old
    assert leaves_by(host, source, OUTSIDE[version]) == "eth1"
    refuse()
    assert not run(host, after).problems
    ended = configuration(host)
    run(host, before)
    run(host, after)
    assert sorted(configuration(host)) == sorted(ended) and ways(host) == old


def test_an_eni_needs_no_copy_of_a_route_of_the_users(host, refuse):
    ip(host, "route add 10.99.0.0/16 via 172.16.20.9 dev eth1")
    refused = refuse(has("route add 10.99.0.0/16", "table 1001"))
    report = run(host)
    assert len(refused) == 1 and len(report.problems) == 1 and refused[0] in report.problems[0]
    assert leaves_by(host, host.address("eth1"), OUTSIDE[4]) == "eth1"
    refuse()
    assert not run(host).problems
    assert lookup(host, host.address("eth1"), "10.99.0.1")["gateway"] == "172.16.20.9"


@BOTH
def test_an_eni_does_need_its_own_routes(host, refuse, version):
    refused = refuse(lambda command: "-{} route".format(version) in command and "default" in command
                     and "table 1001" in command and "unreachable" not in command)
    assert run(host).problems and refused
    assert not [rule for rule in rules(host, version) if rule.get("table") == "1001"]


def test_a_link_that_the_kernel_would_not_bring_up_is_tried_again_by_the_timer(make_vpc, make_agent, refuse,
                                                                               monkeypatch):
    """A person has not taken it down."""
    vpc = make_vpc(os={"eth1": "down"})
    monkeypatch.setenv("RUNTIME_DIRECTORY", make_agent(vpc).directory)
    unattended = Config(unattended=True)
    refused = refuse(has("link set dev eth1 up"))
    for _ in range(2):
        del refused[:]
        assert [problem for problem in run(vpc, unattended).problems if refused[0] in problem]
    refuse()
    assert not run(vpc, unattended).problems
    assert leaves_by(vpc, vpc.address("eth1"), OUTSIDE[4]) == "eth1"


def test_where_the_kernel_refuses_a_new_table_s_rule_the_old_table_stays_whole(host, refuse):
    """Somebody else has begun to use it."""
    run(host)
    ip(host, "route add default via 172.16.10.253 dev eth0 metric 50 table 1001")
    before = routes(host, 1001)
    refused = refuse(has("rule add from 172.16.20.10 lookup 1100"))
    assert run(host).problems and refused
    assert routes(host, 1001) == before
    assert lookup(host, "172.16.20.10", OUTSIDE[4])["gateway"] == "172.16.20.253"
    refuse()
    assert not run(host).problems and leaves_by(host, "172.16.20.10", OUTSIDE[4]) == "eth1"
    assert [route for route in routes(host, 1001) if route["protocol"] == OURS] == []


@pytest.mark.parametrize("after", [USUAL, PRIORITY, "numbers: {protocol: 240}\n"])
def test_without_main_s_specific_routes_no_source_is_led_past_them(host, refuse, after):
    """Docker's bridge is reached as before: without the rule for everybody no other one is made, nor taken away."""
    for command in ("link add docker0 type veth peer name docker1", "link set docker0 up", "link set docker1 up",
                    "address add 172.17.0.1/16 dev docker0"):
        ip(host, command)
    if after != USUAL:
        run(host)
    before = leaves_by(host, "172.16.20.10", OUTSIDE[4])
    refused = refuse(has("-4 rule add from all lookup main suppress_prefixlength"))
    assert run(host, after).problems and refused
    assert leaves_by(host, "172.16.20.10", "172.17.0.5") == "docker0"
    assert leaves_by(host, "172.16.20.10", OUTSIDE[4]) == before
    assert leaves_by(host, host.address("eth1", 6), OUTSIDE[6]) == "eth1"
    refuse()
    assert not run(host, after).problems
    assert leaves_by(host, "172.16.20.10", "172.17.0.5") == "docker0"
    assert leaves_by(host, "172.16.20.10", OUTSIDE[4]) == "eth1"


@BOTH
def test_nothing_jumps_over_a_refusal_to_a_look_up_that_is_not_there(host, refuse, version):
    """It would leave by main instead."""
    run(host)
    refused = refuse(has("-{} rule add".format(version), "to {}".format(INSIDE[version].rpartition("1")[0]), "lookup"))
    assert run(host, ACCESS).problems and refused
    assert leaves_by(host, None, INSIDE[version]) == leaves_by(host, None, REFUSED[version]) == NO_WAY
    refuse()
    assert not run(host, ACCESS).problems
    assert leaves_by(host, None, INSIDE[version]) == "eth2" and leaves_by(host, None, REFUSED[version]) == NO_WAY


@pytest.mark.parametrize("missing", ["from 172.16.10.10 lookup main", "from 172.16.20.10 lookup 1001"])
def test_an_entry_catches_no_source_whose_own_rule_is_missing(host, refuse, missing):
    refused = refuse(has("rule add " + missing))
    assert run(host, ACCESS).problems and refused
    assert leaves_by(host, "172.16.10.10", "10.70.0.1") == "eth0"
    assert leaves_by(host, "172.16.20.10", "10.70.0.1") in ("eth0", "eth1")
    for source in ("172.16.10.10", "172.16.20.10", None):
        assert leaves_by(host, source, INSIDE[4]) == NO_WAY  # by the second entry, as the first one waits
    refuse()
    assert not run(host, ACCESS).problems
    assert leaves_by(host, "172.16.10.10", INSIDE[4]) == "eth0" and leaves_by(host, None, INSIDE[4]) == "eth2"


@BOTH
@pytest.mark.parametrize("kind", ["lookup", "unreachable"])
def test_an_address_is_put_on_its_link_when_its_rules_stand(host, refuse, version, kind):
    address = str(host.address("eth2", version))
    refused = refuse(has("rule add from {} {}".format(address, kind if version == 6 else "lookup")))
    report = run(host)
    assert refused and report.problems
    assert address not in ip(host, "address show dev eth2")
    assert address not in record()
    assert leaves_by(host, "172.16.20.10", OUTSIDE[4]) == "eth1"
    refuse()
    assert not run(host).problems
    assert address in ip(host, "address show dev eth2") and address in record()
    assert leaves_by(host, address, OUTSIDE[version]) == "eth2"


def record():
    """What is written down of links."""
    with open(os.path.join(os.environ["RUNTIME_DIRECTORY"], "state.json")) as written:
        return written.read()


# an old rule


REFUSALS = pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOBUFS, errno.EPERM], ids=errno.errorcode.get)


def permitted(number, *arguments):
    """Run; tells whether it went wrong, as it has to."""
    try:
        return bool(run(*arguments).problems)
    except NotPermitted:
        return number == errno.EPERM


@REFUSALS
@BOTH
def test_a_table_s_routes_go_when_the_rules_that_lead_there_have_gone(host, refuse, version, number):
    """A default of somebody else's there would take the source."""
    way = {4: "172.16.10.253 dev eth0", 6: "{} dev eth0".format(host.subnet("eth0", 6).gateway)}[version]
    run(host)
    ip(host, "-{} route add default via {} onlink metric 5000 table 1001".format(version, way))
    source, before = host.address("eth1", version), [routes(host, 1001, each) for each in (4, 6)]
    refused = refuse(has("rule del from {} lookup 1001".format(source)), number)
    assert permitted(number, host, USUAL, commands.remove) and refused
    assert routes(host, 1001, version) == before[version == 6]
    assert leaves_by(host, source, OUTSIDE[version]) == "eth1"
    assert lookup(host, source, OUTSIDE[version])["gateway"] == str(host.subnet("eth1", version).gateway)
    refuse()
    assert not run(host, USUAL, commands.remove).problems
    assert [route["protocol"] for each in (4, 6) for route in routes(host, 1001, each)] == ["boot"]
    assert not [rule for each in (4, 6) for rule in rules(host, each) if rule.get("protocol") == OURS]


@REFUSALS
def test_an_eni_s_things_stay_together_when_one_of_its_rules_won_t_go(host, refuse, number):
    """And what others have goes."""
    run(host)
    for dev in ("eth1", "eth2"):
        ip(host, "route add default via 172.16.10.253 dev eth0 metric 5000 table 100{}".format(dev[-1]))
    ignored = "ignore: [eth1, eth2]\n"
    refused = refuse(has("rule del from 172.16.20.10 lookup"), number)
    assert permitted(number, host, ignored) and refused
    assert leaves_by(host, "172.16.20.10", OUTSIDE[4]) == "eth1"
    refuse()
    assert not run(host, ignored).problems
    assert not [route for table in (1001, 1002) for route in routes(host, table) if route["protocol"] == OURS]


def test_a_rule_stays_as_long_as_its_address_is_on_the_link(host, refuse):
    run(host)
    refused = refuse(has("address del 172.16.10.12"))
    assert run(host, USUAL, commands.remove).problems and refused
    assert leaves_by(host, "172.16.10.12", OUTSIDE[4]) == "eth2"
    refuse()
    assert not run(host, USUAL, commands.remove).problems
    assert "172.16.10.12" not in ip(host, "address show dev eth2")
    assert not [rule for rule in rules(host) if rule.get("protocol") == OURS]


def test_the_links_group_stays_as_long_as_a_rule_asks_for_it(host, refuse):
    """Else main would lead each ENI's source to the others' vSwitches by these."""
    run(host)
    old = ways(host)
    refused = refuse(has("-4 rule del from all lookup main suppress_prefixlength 0 suppress_ifgroup 60235"))
    assert run(host, "numbers: {group: 77}\n").problems and refused
    assert ways(host) == old
    refuse()
    assert not run(host, "numbers: {group: 77}\n").problems and ways(host) == old


def test_without_permission_nothing_is_removed(host, refuse):
    run(host)
    before, old = kernel(host), ways(host)
    refused = refuse(has("-6 rule add from all oif eth2"), errno.EPERM)
    with pytest.raises(NotPermitted):
        run(host, "numbers: {priority: 9000, table: 3000}\n")
    assert refused and lost(before, kernel(host)) == [] and ways(host) == old


def test_that_is_exit_code_4(vpc, make_agent, refuse):
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    before = kernel(vpc)
    refuse(has("rule del from 172.16.20.10"), errno.EPERM)
    result = agent("remove")
    assert result.code == 4 and "CAP_NET_ADMIN" in result.err
    assert [line for line in lost(before, kernel(vpc)) if " table 100" in line] == []


# refusals of access entries come before the look-ups that would lead past them


@pytest.mark.parametrize("answer", ["prohibit", "unreachable", "blackhole"])
def test_what_is_to_be_refused_never_leaves_by_another_way_meanwhile(host, answer):
    config, _ = config_file.read(ACCESS.replace("prohibit", answer).encode())
    asked = [(host.address("eth1", version), REFUSED[version]) for version in (4, 6)] + [(None, REFUSED[4])]
    old, seen = [leaves_by(host, *question) for question in asked], []

    def told(change):
        seen.append([leaves_by(host, *question) for question in asked])

    step(host, told, config=config)
    assert seen[-1] == [NO_WAY] * 3
    astray = [now for now in seen if any(way not in (before, NO_WAY) for before, way in zip(old, now))]
    assert not astray
    del seen[:]
    step(host, told, commands.remove, config)
    assert not [now for now in seen if any(way not in (before, NO_WAY) for before, way in zip(old, now))]


# whichever message it is


SWEEPS = {
    "first run": (None, USUAL, commands.apply), "access": (None, ACCESS, commands.apply),
    "taken back": (ACCESS, ACCESS, commands.remove), "priorities": (USUAL, PRIORITY, commands.apply),
    "group": (USUAL, "numbers: {group: 77}\n", commands.apply),
}


@pytest.mark.parametrize("before, after, command", SWEEPS.values(), ids=list(SWEEPS))
def test_whatever_message_is_refused_no_packet_leaves_by_a_wrong_way(monkeypatch, tmp_path, refuse, before, after,
                                                                     command):
    """And the next run ends in the same state."""
    def world_after(place, number):
        with lab() as vpc:
            monkeypatch.setenv("RUNTIME_DIRECTORY", Agent(vpc, tmp_path / str(place)).directory)
            if before is not None:
                run(vpc, before)
            old, sent = ways(vpc), []

            def condition(command):
                sent.append(command)
                return len(sent) == place

            refuse(condition, number)
            permitted(number, vpc, after, command)
            now, total = ways(vpc), len(sent)
            refuse()
            assert not run(vpc, after, command).problems
            return old, now, sent[place - 1], total, sorted(configuration(vpc)), ways(vpc)

    old, _, _, total, reference, new = world_after(0, 0)
    for place in range(2, total + 1, 7):
        _, now, refused, _, ended, _ = world_after(place, (errno.ENOMEM, errno.EPERM)[place % 2])
        wrong = {question: way for question, way in now.items()
                 if question in old and question in new and way not in (NOWHERE, old[question], new[question])}
        assert not wrong, "refused: {}".format(refused)
        assert ended == reference, "refused: {}".format(refused)

"""Where systemd-networkd deletes rules that are not the kernel's, ours bear the kernel's mark, and are still ours."""

import pytest

from eni_bootstrap import linux
from eni_bootstrap.host.network_managers import Managers, Networkd
from eni_bootstrap.lab import probe
from eni_bootstrap.lab.vpc import make_tree
from tests.oracle import OUTSIDE, assert_every_eni_answers, ip, leaves_by, rules, show

DELETES = Managers(("systemd-networkd",), Networkd(252, False, "ManageForeignRoutingPolicyRules is not set to no"),
                   False, False)
SPARES = DELETES._replace(networkd=Networkd(252, True, "both are off"))


@pytest.fixture
def under(monkeypatch):
    """``under(managers)``: from now on these manage the network."""
    return lambda managers: monkeypatch.setattr(linux, "look", lambda: managers)


@pytest.fixture
def host(make_vpc, make_agent):
    vpc = make_vpc(make_tree(ipv6=True))
    return vpc, make_agent(vpc)


def marks(vpc):
    """The protocols of the rules in our band, and of the fences."""
    own = {rule["protocol"] for version in (4, 6) for rule in rules(vpc, version) if 7000 <= rule["priority"] < 8000}
    fences = {route["protocol"] for table in (1001, 1002) for route in show(vpc, "route show table {}".format(table))
              if route.get("type") == "unreachable"}
    return own, fences


def networkd_configures_a_link(vpc):
    """What it was seen to do, in 252 and 257: all rules and device-less routes go that are not the kernel's."""
    for version in (4, 6):
        for rule in rules(vpc, version):
            if rule["protocol"] != "kernel":
                ip(vpc, "-{} rule del priority {}".format(version, rule["priority"]))
    for table in (1001, 1002):
        for route in show(vpc, "route show table {}".format(table)):
            if route.get("type") == "unreachable" and route["protocol"] != "kernel":
                ip(vpc, "route del unreachable default table {} metric {}".format(table, route["metric"]))


def test_without_the_mark_all_rules_are_lost(host, under):
    """The symptom."""
    vpc, agent = host
    under(SPARES)
    assert agent("apply").code == 0
    assert marks(vpc) == ({"235"}, {"235"})
    networkd_configures_a_link(vpc)
    assert leaves_by(vpc, vpc.address("eth1"), OUTSIDE[4]) == "eth0"


def test_with_the_mark_nothing_is_lost(host, under):
    vpc, agent = host
    under(DELETES)
    assert agent("apply").code == 0
    assert marks(vpc) == ({"kernel"}, {"kernel"})
    networkd_configures_a_link(vpc)
    assert_every_eni_answers(vpc)
    assert agent("verify").code == 0
    assert '"changes": []' in agent("apply", "--json").out


@pytest.mark.parametrize("before, after, mark", [(SPARES, DELETES, "kernel"), (DELETES, SPARES, "235")],
                         ids=["begins to delete", "begins to spare"])
def test_when_that_changes_each_rule_gets_its_new_mark_before_it_loses_the_old_one(host, under, before, after, mark):
    vpc, agent = host
    under(before)
    assert agent("apply").code == 0
    under(after)
    commands = [change["command"] for change in agent("plan", "--json").json["changes"]]
    added = [command for command in commands if " rule add " in command]
    removed = [command for command in commands if " rule del " in command]
    assert len(added) == len(removed) > 0
    assert commands.index(removed[0]) > commands.index(added[-1])
    done = agent("apply")
    assert done.code == 0, done.err + done.out
    assert marks(vpc) == ({mark}, {mark})
    assert_every_eni_answers(vpc)
    assert '"changes": []' in agent("apply", "--json").out


def test_a_stream_does_not_notice_the_change_of_marks(host, under):
    vpc, agent = host
    under(SPARES)
    assert agent("apply").code == 0
    with vpc.fabric.capture() as seen:
        for managers in (DELETES, SPARES, DELETES):
            under(managers)
            assert agent("apply").code == 0
            assert probe.ping(vpc.client, vpc.eips["eth1"])
    assert not [packet for packet in seen if packet.verdict == "source check"]


@pytest.mark.parametrize("managers", [DELETES, SPARES], ids=["deletes", "spares"])
@pytest.mark.parametrize("later", [DELETES, SPARES], ids=["then deletes", "then spares"])
def test_all_is_taken_back_whoever_is_in_charge_by_then(host, under, managers, later):
    vpc, agent = host
    before = [sorted(ip(vpc, "-{} {} show".format(version, what)).splitlines())
              for version in (4, 6) for what in ("rule", "route")]
    under(managers)
    assert agent("apply").code == 0
    under(later)
    assert agent("remove").code == 0
    assert [sorted(ip(vpc, "-{} {} show".format(version, what)).splitlines())
            for version in (4, 6) for what in ("rule", "route")] == before
    assert not show(vpc, "route show table all type unreachable")


def test_what_refuses_a_single_destination_bears_the_mark_too_and_goes_with_its_reason(host, under):
    vpc, agent = host
    under(DELETES)
    assert agent("apply").code == 0
    there = {version: show(vpc, "-{} route show table 1001".format(version)) for version in (4, 6)}
    for network in ("10.60.0.0/16", "fd00:60::/32"):
        ip(vpc, "route add {} encap seg6 mode encap segs 2001:db8:99::1 dev eth1".format(network))
    assert agent("apply").code == 0
    for version, route in there.items():
        more = [each for each in show(vpc, "-{} route show table 1001".format(version)) if each not in route]
        assert [(each["type"], each["protocol"]) for each in more] == [("unreachable", "kernel")]
    for network in ("10.60.0.0/16", "fd00:60::/32"):
        ip(vpc, "route del {} dev eth1".format(network))
    assert agent("apply").code == 0
    assert {version: show(vpc, "-{} route show table 1001".format(version)) for version in (4, 6)} == there


def test_a_fence_alone_is_found_and_taken_back(host, under):
    """As a run leaves it that was killed between the rules' removal and the routes'."""
    vpc, agent = host
    ip(vpc, "route add unreachable default table 1001 metric 4294967295 proto kernel")
    under(DELETES)
    assert agent("remove").code == 0
    assert not show(vpc, "route show table all type unreachable")


def test_somebodys_rules_with_the_kernels_mark_outside_our_band_are_not_ours(host, under):
    vpc, agent = host
    ip(vpc, "rule add from 198.18.0.1 lookup 77 priority 5000 protocol kernel")
    ip(vpc, "route add unreachable default table 77 metric 4294967295 proto kernel")
    under(DELETES)
    assert agent("apply").code == 0 and agent("remove").code == 0
    assert [rule["priority"] for rule in rules(vpc) if rule["priority"] not in (0, 32766, 32767)] == [5000]
    assert show(vpc, "route show table 77")


def test_status_says_who_is_in_charge_and_what_protects_us(host, under):
    vpc, agent = host
    under(DELETES)
    agent("apply")
    said = agent("status").out
    assert "systemd-networkd 252 deletes other people's rules" in said and "marked as the kernel's" in said
    assert "eni-bootstrap install" in said
    under(SPARES._replace(listening=True))
    assert "leaves our rules and fences alone" in agent("status").out

"""What changes in the cloud or on the machine changes exactly that; what does not change sends nothing."""

import json
import subprocess

import pytest

from eni_bootstrap.lab import probe
from eni_bootstrap.lab.vpc import macs_of, make_tree
from tests.oracle import (
    OURS, OUTSIDE, assert_answers_by, assert_every_eni_answers, difference, ip, kernel, leaves_by, routes,
    rules, settle, sources_led_to, table_of, watch,
)

LAYOUTS = {
    "dhcp": {},
    "down": {"os": "down"},
    "up": {"os": "up"},
    "IPv6": {"tree": make_tree(ipv6=True, prefix=True), "ipv6_onlink": True},
    "IPv6 down": {"tree": make_tree(4, ipv6=True, addresses=3, vswitches=[0, 1, 1, 2]), "os": "down"},
    "ens": {"names": ["ens5", "ens6", "ens7"], "os": {"ens7": "down"}},
}


def tree_with_late_eni(**options):
    """A tree without its last ENI, and that ENI."""
    tree = make_tree(4, vswitches=[0, 1, 0, 2], **options)
    mac, leaves = list(macs_of(tree).items())[-1]
    del macs_of(tree)[mac]
    return tree, mac, leaves


@pytest.fixture(params=LAYOUTS)
def layout(request, make_vpc):
    return make_vpc(**json.loads(json.dumps(LAYOUTS[request.param])))


def changed_by(vpc, agent, *arguments):
    """The configuration's lines that went and came by one run of the agent."""
    before = kernel(vpc)
    result = agent(*(arguments or ("apply",)))
    assert result.code == 0, result
    return difference(before, kernel(vpc))


def not_about(subjects, lines):
    """The lines that are about none of these; what the kernel does by itself with a link left out."""
    return [line for line in lines if "lft forever" not in line and "inet6 fe80::" not in line
            and not any(subject in line for subject in subjects)]


# nothing


def test_a_second_run_changes_nothing(layout, make_agent):
    """Not even for a moment: ``ip monitor`` hears of nothing. The first run shows that it would."""
    agent = make_agent(layout)
    with watch(layout) as said:
        assert agent("apply").code == 0
    assert any("lookup 1001" in line for line in said)
    settle(layout)
    with watch(layout) as said:
        result = agent("apply")
    assert said == []
    assert result.code == 0 and "0 things changed" in result.out


def test_plan_verify_and_status_change_nothing(layout, make_agent):
    agent = make_agent(layout)
    for command in ("plan", "verify", "status"):
        with watch(layout) as said:
            agent(command)
        assert said == []
    assert agent("apply").code == 0
    settle(layout)
    for command in ("plan", "verify", "status"):
        with watch(layout) as said:
            assert agent(command).code == 0
        assert said == []


def test_with_a_single_eni_nothing_is_installed(make_vpc, make_agent):
    vpc = make_vpc(make_tree(1, addresses=5, ipv6=True, prefix=True))
    agent = make_agent(vpc)
    with watch(vpc) as said:
        for command in ("apply", "verify", "remove"):
            assert agent(command).code == 0
    assert said == []


def test_with_the_last_secondary_all_goes(make_vpc, make_agent):
    """What we had is removed when only the primary is left."""
    tree, mac, leaves = tree_with_late_eni(ipv6=True)
    for other in list(macs_of(tree))[1:]:
        del macs_of(tree)[other]
    vpc = make_vpc(tree)
    agent = make_agent(vpc)
    before = kernel(vpc)
    vpc.attach(mac, leaves, os="down")
    assert agent("apply").code == 0
    assert table_of(vpc, "eth1") == 1001
    vpc.detach("eth1")
    assert agent("apply").code == 0
    assert difference(before, kernel(vpc)) == ([], [])


# remove, plan


def test_remove_restores_what_was(layout, make_agent):
    agent = make_agent(layout)
    before = kernel(layout)
    assert agent("apply").code == 0
    assert kernel(layout) != before
    result = agent("remove")
    assert result.code == 0, result
    settle(layout)
    assert difference(before, kernel(layout)) == ([], [])
    assert kernel(layout) == before
    with watch(layout) as said:
        assert agent("remove").code == 0
    assert said == []


def test_remove_after_a_link_went_down_takes_all(layout, make_agent):
    agent = make_agent(layout)
    assert agent("apply").code == 0
    last = list(layout.nics)[-1]
    layout.set_link(last, False)
    assert agent("remove").code == 0
    assert not [rule for version in (4, 6) for rule in rules(layout, version) if rule.get("protocol") == OURS]
    assert not [route for version in (4, 6) for route in routes(layout, "all", version) if route["protocol"] == OURS]


def test_pasting_the_plan_is_as_good_as_apply(layout, make_agent):
    agent = make_agent(layout)
    planned = agent("plan")
    assert agent("apply").code == 0
    settle(layout)
    applied = kernel(layout)
    assert agent("remove").code == 0
    assert agent("plan").out == planned.out
    done = layout.instance.run(["sh", "-e"], input=planned.out, stderr=subprocess.STDOUT)
    assert done.stdout == ""
    settle(layout)
    assert difference(applied, kernel(layout)) == ([], [])
    assert "nothing to do" in agent("plan").out
    assert_every_eni_answers(layout, asks=[probe.ping])


def test_pasting_the_plan_of_a_change_is_as_good_as_apply(make_vpc, make_agent):
    """Removals and replacements as well as additions."""
    vpc = make_vpc(make_tree(addresses=2, ipv6=True))
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    vpc.detach("eth2")
    leaves = list(macs_of(vpc.tree).values())[1]
    leaves.update({"private-ipv4s": leaves["primary-ip-address"], "gateway": "172.16.20.252"})
    vpc.instance.run(["sh", "-e"], input=agent("plan").out)
    assert "nothing to do" in agent("plan").out
    assert agent("verify").code == 0
    pasted = kernel(vpc)
    assert changed_by(vpc, agent) == ([], [])
    assert kernel(vpc) == pasted and "172.16.20.252" in pasted and "1002" not in pasted


# addresses


def test_an_address_that_was_added(vpc, make_agent):
    agent = make_agent(vpc)
    agent("apply")
    leaves = list(macs_of(vpc.tree).values())[1]
    leaves["private-ipv4s"] = '["172.16.20.10","172.16.20.77"]'
    vpc.refresh()
    assert changed_by(vpc, agent) == ([], ["7200:\tfrom 172.16.20.77 lookup 1001 proto 235"])
    ip(vpc, "address add 172.16.20.77/32 dev eth1")
    assert_answers_by(vpc, "eth1", "172.16.20.77")


def test_an_address_that_was_taken_away(make_vpc, make_agent):
    vpc = make_vpc(make_tree(addresses=2, ipv6=True))
    agent = make_agent(vpc)
    agent("apply")
    leaves = list(macs_of(vpc.tree).values())[1]
    leaves["private-ipv4s"] = '["172.16.20.10"]'
    leaves["ipv6s"] = "[2001:db8:20:a201::1000]"
    gone = "2001:db8:20:a201::1001"
    assert changed_by(vpc, agent) == ([
        "7200:\tfrom 172.16.20.11 lookup 1001 proto 235", "7200:\tfrom {} lookup 1001 proto 235".format(gone),
        "7400:\tfrom {} unreachable proto 235".format(gone),
    ], [])


def test_an_address_that_is_still_on_the_link_keeps_its_rule(make_vpc, make_agent):
    """Even when the cloud took it away: it would otherwise leave by the primary, which is worse than nothing."""
    vpc = make_vpc(make_tree(addresses=2), assign=True)
    agent = make_agent(vpc)
    agent("apply")
    list(macs_of(vpc.tree).values())[1]["private-ipv4s"] = '["172.16.20.10"]'
    assert changed_by(vpc, agent) == ([], [])
    ip(vpc, "address del 172.16.20.11/24 dev eth1")
    assert changed_by(vpc, agent) == (["7200:\tfrom 172.16.20.11 lookup 1001 proto 235"], [])


def test_an_address_of_ours_goes_when_the_cloud_takes_it_away(make_vpc, make_agent):
    """The ENI's primary address was changed while we were not looking, on a link that we addressed."""
    vpc = make_vpc(make_tree(addresses=2, vswitches="own"), os="down")
    agent = make_agent(vpc)
    agent("apply")
    list(macs_of(vpc.tree).values())[1].update({"primary-ip-address": "172.16.20.44",
                                                "private-ipv4s": "172.16.20.44"})
    vpc.refresh()
    assert agent("apply").code == 0
    assert "172.16.20.44/24" in ip(vpc, "address show dev eth1")
    assert "172.16.20.10" not in ip(vpc, "address show") + ip(vpc, "rule") + ip(vpc, "route show table all")
    assert_answers_by(vpc, "eth1", "172.16.20.44")


def test_an_address_that_moves_to_another_eni(make_vpc, make_agent):
    vpc = make_vpc(make_tree(addresses=2, vswitches=[0, 1, 1]))
    agent = make_agent(vpc)
    agent("apply")
    one, other = list(macs_of(vpc.tree).values())[1:]
    one["private-ipv4s"], moved = '["172.16.20.10"]', "172.16.20.11"
    other["private-ipv4s"] = '["172.16.20.12","172.16.20.13","172.16.20.11"]'
    assert changed_by(vpc, agent) == (["7200:\tfrom {} lookup 1001 proto 235".format(moved)],
                                      ["7200:\tfrom {} lookup 1002 proto 235".format(moved)])


def test_a_prefix_that_was_delegated(vpc, make_agent):
    agent = make_agent(vpc)
    agent("apply")
    list(macs_of(vpc.tree).values())[1]["ipv4-prefixes"] = "172.16.20.128/28"
    rule = ["7300:\tfrom 172.16.20.128/28 lookup 1001 proto 235"]
    assert changed_by(vpc, agent) == ([], rule)
    del list(macs_of(vpc.tree).values())[1]["ipv4-prefixes"]
    assert changed_by(vpc, agent) == (rule, [])


def test_another_gateway(vpc, make_agent):
    agent = make_agent(vpc)
    agent("apply")
    list(macs_of(vpc.tree).values())[1]["gateway"] = "172.16.20.252"
    old = "unicast default via 172.16.20.253 dev eth1 table 1001 proto 235 scope global onlink"
    assert changed_by(vpc, agent) == ([old], [old.replace(".253", ".252")])


# ENIs


@pytest.mark.parametrize("os", ["dhcp", "up", "down"])
def test_an_eni_that_is_bound_and_unbound(make_vpc, make_agent, os):
    """What the others have does not change; afterwards all is as it was before."""
    tree, mac, leaves = tree_with_late_eni(ipv6=True)
    vpc = make_vpc(tree)
    agent = make_agent(vpc)
    agent("apply")
    before = kernel(vpc)
    assert vpc.attach(mac, leaves, os=os) == "eth3"
    gone, come = changed_by(vpc, agent)
    assert not not_about(["eth3"], gone)
    # The primary reaches the new vSwitch by itself, not by eth3; all else is eth3's own.
    about = ["eth3", "lookup 1003", "table 1003", "link/ether", "172.16.30.10", "2001:db8:20:a202::1000"]
    about += ["172.16.30.0/24 via 172.16.10.253 dev eth0 table 1000",
              "2001:db8:20:a202::/64 via 2001:db8:20:a200:ffff:ffff:ffff:fff7 dev eth0 table 1000"]
    assert not_about(about, come) == []
    assert table_of(vpc, "eth3") == 1003
    assert_every_eni_answers(vpc, asks=[probe.ping])
    vpc.detach("eth3")
    assert agent("apply").code == 0
    assert difference(before, kernel(vpc)) == ([], [])


def test_an_eni_that_metadata_no_longer_lists_keeps_its_routes_while_its_link_is_there(vpc, make_agent):
    agent = make_agent(vpc)
    agent("apply")
    before = kernel(vpc)
    del macs_of(vpc.tree)[vpc.nics["eth1"].mac]
    result = agent("apply")
    assert result.code == 0
    assert "eth1" in result.out and vpc.nics["eth1"].mac in result.out
    assert difference(before, kernel(vpc)) == ([], [])
    vpc.detach("eth1")
    assert agent("apply").code == 0
    assert "1001" not in ip(vpc, "rule") + ip(vpc, "route show table all")
    assert leaves_by(vpc, vpc.address("eth2"), OUTSIDE[4]) == "eth2"


def test_an_eni_without_its_link_keeps_what_it_has(vpc, make_agent):
    """Listed, but gone from here: all others are done, it is named, and no rule of its goes."""
    agent = make_agent(vpc)
    agent("apply")
    vpc.detach("eth1", listed=True)
    result = agent("apply", "--timeout", "2")
    assert result.code == 1
    assert "00:16:3e:0e:00:02" in result.out
    assert sources_led_to(vpc, 1001) == {"172.16.20.10"}


# table ids


def test_tables_stay_when_an_eni_comes_in_between(make_vpc, make_agent):
    """With ens names the number is the position, which changes; the table does not."""
    tree, mac, leaves = tree_with_late_eni()
    vpc = make_vpc(tree, names=["ens5", "ens7", "ens9"])
    agent = make_agent(vpc)
    agent("apply")
    assert (table_of(vpc, "ens7"), table_of(vpc, "ens9")) == (1001, 1002)
    vpc.attach(mac, leaves, name="ens8")
    gone, _ = changed_by(vpc, agent)
    assert not not_about(["ens8"], gone)
    assert [table_of(vpc, name) for name in ("ens7", "ens9", "ens8")] == [1001, 1002, 1100]
    assert changed_by(vpc, agent) == ([], [])
    for name in ("ens7", "ens8"):
        vpc.set_link(name, False)
        vpc.set_link(name, True)
    agent("apply")
    assert [table_of(vpc, name) for name in ("ens7", "ens9", "ens8")] == [1001, 1002, 1100]
    assert_every_eni_answers(vpc)
    vpc.detach("ens7")
    assert agent("apply").code == 0
    assert [table_of(vpc, name) for name in ("ens9", "ens8")] == [1002, 1100]
    assert "1001" not in ip(vpc, "rule")


@pytest.mark.parametrize("name", ["eth1", "eth7"])
def test_an_eni_that_is_bound_again(vpc, make_agent, name):
    """Under its old name or another one: it works, and nothing of the old link is left behind."""
    agent = make_agent(vpc)
    agent("apply")
    mac = vpc.nics["eth1"].mac
    leaves = macs_of(vpc.tree)[mac]
    vpc.detach("eth1")
    vpc.attach(mac, leaves, name=name, os="down")
    assert agent("apply").code == 0
    assert {rule["oif"] for rule in rules(vpc) if "oif" in rule} == {name, "eth2"}
    assert_every_eni_answers(vpc)
    assert sources_led_to(vpc, table_of(vpc, name)) == {"172.16.20.10"}


def test_a_link_that_got_another_name(make_vpc, make_agent):
    """The table stays, the rule for the old name goes, and remove still knows what we did to the link."""
    vpc = make_vpc(make_tree(ipv6=True), os={"eth1": "down"})
    agent = make_agent(vpc)
    before = kernel(vpc)
    agent("apply")
    ip(vpc, "link set eth1 down")
    ip(vpc, "link set eth1 name eni9")
    assert agent("apply").code == 0
    assert table_of(vpc, "eni9") == 1001
    assert {rule["oif"] for rule in rules(vpc) if "oif" in rule} == {"eni9", "eth2"}
    assert probe.ping(vpc.client, vpc.eips["eth1"])
    assert agent("remove").code == 0
    settle(vpc)
    assert kernel(vpc).replace("eni9", "eth1") == before


def test_a_dhcp_client_that_comes_later_owns_the_default(make_vpc, make_agent):
    """It makes its own beside ours; then ours is not missed any more."""
    vpc = make_vpc(os={"eth1": "up"})
    agent = make_agent(vpc)
    agent("apply")
    ip(vpc, "route add default via 172.16.20.253 dev eth1 proto dhcp metric 210")
    ours = "unicast default via 172.16.20.253 dev eth1 table main proto 235 scope global metric 200 onlink"
    assert changed_by(vpc, agent) == ([ours], [])
    assert changed_by(vpc, agent) == ([], [])

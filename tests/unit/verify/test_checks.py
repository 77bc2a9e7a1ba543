"""What is asked of the kernel, and what its answers mean."""

import errno
from ipaddress import ip_address

import pytest

from eni_bootstrap.model.kernel import Answer, Match, Rule, SeenRule
from eni_bootstrap.verify.checks import (
    VerifyInput, all_checks, judge, may_be_tentative, quick_checks, shadowing_rules, unprovable,
)
from tests.build import BOOT, CONFIG, ETH2, OURS, PRIMARY, address, decision, interface, link, net, subnet, two_enis

ETH1 = interface(1, subnet("172.16.20.0/24", "172.16.20.20", "172.16.20.21", prefixes=["172.16.20.32/28"]))


def facts(world=None, *interfaces, **more):
    world = world or two_enis()
    made = decision(world, *(interfaces or (PRIMARY, ETH1)))
    rules = tuple(SeenRule(rule, OURS) for rule in made.rules)
    return VerifyInput(made.families, world.addresses, more.pop("rules", rules), **more)


def asked(checks):
    return [(check.eni.dev, str(check.query.src), check.target, str(check.query.dst)) for check in checks]


def answers(checks, **wrong):
    """As they should be, but for the targets in ``wrong``."""
    good = []
    for check in checks:
        kind = "local" if check.query.iif else "unicast"
        good.append(Answer(check.dev, None, 1001, kind))
    return [wrong.get(check.target.replace(" ", "_"), answer) for check, answer in zip(checks, good)]


def test_the_small_proof_asks_one_source_of_each_eni_about_everything():
    assert asked(quick_checks(facts())) == [
        ("eth0", "172.16.10.10", "internet", "203.0.113.1"),
        ("eth0", "172.16.10.10", "own vSwitch", "172.16.10.1"),
        ("eth0", "172.16.10.10", "vSwitch of eth1", "172.16.20.1"),
        ("eth0", "203.0.113.1", "received", "172.16.10.10"),
        ("eth1", "172.16.20.20", "internet", "203.0.113.1"),
        ("eth1", "172.16.20.20", "own vSwitch", "172.16.20.1"),
        ("eth1", "172.16.20.20", "vSwitch of eth0", "172.16.10.1"),
        ("eth1", "203.0.113.1", "received", "172.16.20.20"),
    ]


def test_the_small_proof_asks_about_one_other_vswitch_only():
    eth3 = interface(3, subnet("172.16.30.0/24", "172.16.30.30"))
    world = two_enis(links=[link(0), link(1), link(2), link(3)])
    checks = quick_checks(facts(world, PRIMARY, ETH1, ETH2, eth3))
    about = [target for dev, _, target, _ in asked(checks) if dev == "eth1"]
    assert about == ["internet", "own vSwitch", "vSwitch of eth0", "received"]


def test_the_full_proof_adds_every_vswitch_every_device_and_the_other_sources():
    docker = ((ip_address("172.17.0.1"), "docker0"),)
    world = two_enis(addresses=[address("eth1", "172.16.20.21/24")])
    checks = all_checks(facts(world, local=docker))
    assert ("eth1", "172.16.20.20", "device docker0", "172.17.0.1") in asked(checks)
    assert ("eth1", "172.16.20.21", "internet", "203.0.113.1") in asked(checks)
    stands = [check.stands_for for check in checks if check.stands_for]
    assert stands == [(net("172.16.20.32/28"),)], "the prefix is on no link and is judged by an address that is"


def test_a_probe_never_goes_to_an_address_of_this_host():
    world = two_enis(addresses=[address("eth0", "172.16.10.1/24"), address("eth0", "172.16.10.2/24")])
    assert ("eth0", "172.16.10.10", "own vSwitch", "172.16.10.3") in asked(quick_checks(facts(world)))


def test_an_eni_without_an_address_on_its_link_is_not_proven_in_silence():
    bare = two_enis()._replace(addresses=two_enis().addresses[:1])
    assert [family.key for family in unprovable(facts(bare))] == [("eth1", 4)]
    assert not unprovable(facts())


class TestVerdicts:
    def wrong(self, known=None, **answer):
        known = known or facts()
        checks = all_checks(known)
        verdicts = judge(checks, answers(checks, **answer), known, CONFIG)
        return [verdict for verdict in verdicts if not verdict.ok]

    def test_all_as_it_should_be(self):
        assert self.wrong() == []

    def test_a_secondary_that_leaves_by_another_device_is_wrong(self):
        found = self.wrong(internet=Answer("eth0", ip_address("172.16.10.253"), 254, "unicast", dst="0.0.0.0/0"))
        assert {verdict.source for verdict in found} == {"172.16.20.20", "172.16.20.21", "172.16.20.32/28"}
        assert found[0].actual == "by eth0 via 172.16.10.253 (table main)" and found[0].expected == "by eth1"
        assert found[0].reason == "main sends 0.0.0.0/0 by eth0"

    def test_the_right_device_by_a_wrong_gateway_is_wrong(self):
        known = facts(gateways={"eth1": (ip_address("172.16.20.253"), ip_address("172.16.20.9"))})
        checks = [check for check in quick_checks(known) if check.eni.dev == "eth1" and check.target == "internet"]
        for gateway, ok in (("172.16.20.253", True), ("172.16.20.9", True), ("172.16.20.77", False)):
            verdict = judge(checks, [Answer("eth1", ip_address(gateway), 1001, "unicast")], known, CONFIG)[0]
            assert verdict.ok == ok and verdict.expected == "by eth1 via 172.16.20.253"

    def test_a_primary_may_follow_main_to_a_vpn_but_not_to_a_secondary(self):
        checks = [check for check in quick_checks(facts()) if check.eni.primary and check.target == "internet"]
        assert judge(checks, [Answer("tun0", None, 254, "unicast")], facts(), CONFIG)[0].ok
        assert not judge(checks, [Answer("eth1", None, 254, "unicast")], facts(), CONFIG)[0].ok
        assert not judge(checks, [Answer(error=errno.ENETUNREACH)], facts(), CONFIG)[0].ok

    def test_the_reverse_path_filter_is_named(self):
        found = self.wrong(received=Answer(error=errno.EXDEV))
        assert "reverse path filter" in found[0].reason and found[0].actual

    def test_a_rule_of_somebody_else_s_is_named(self):
        jumper = SeenRule(Rule(4, 100, net("172.16.20.20/32"), table=77), BOOT)
        known = facts(rules=(jumper,) + facts().rules)
        found = self.wrong(known, internet=Answer("tun0", None, 77, "unicast"))
        blamed = [verdict for verdict in found if verdict.source == "172.16.20.20"]
        assert blamed[0].why == "somebody else's rule comes first: from 172.16.20.20 lookup 77 priority 100"

    def test_a_source_that_can_t_be_asked_is_judged_by_the_rules_that_match_it(self):
        """Only the kernel's rules are compared, not what we would like them to be."""
        short = tuple(seen for seen in facts().rules if seen.rule.src != net("172.16.20.32/28"))
        found = self.wrong(facts(rules=short))
        assert [(verdict.source, verdict.derived) for verdict in found] == [("172.16.20.32/28", True)]
        assert "other rules match it" in found[0].reason


def test_only_ipv6_addresses_that_are_not_accepted_yet_may_be_tentative():
    known = facts()
    checks = quick_checks(known)
    assert may_be_tentative(judge(checks, answers(checks), known, CONFIG))
    assert not may_be_tentative(judge(checks, answers(checks, received=Answer(kind="unicast")), known, CONFIG))


@pytest.mark.parametrize("rule, protocol, caught", [
    (Rule(4, 7099, net("172.16.20.20/32"), table=1001), BOOT, True),
    (Rule(4, 600, net("172.16.0.0/12"), table=7), BOOT, True),
    (Rule(4, 600, net("172.16.20.33/32"), table=7), BOOT, True),
    (Rule(4, 600, table=7, other=("ipproto", "6")), BOOT, True),
    (Rule(4, 600, table=7, match=Match(iif="docker0")), BOOT, False),
    (Rule(6, 600, table=7), BOOT, False),
    (Rule(4, 9000, net("172.16.20.20/32"), table=7), BOOT, False),
    (Rule(4, 600, net("10.0.0.0/8"), table=7), BOOT, False),
    (Rule(4, 7200, net("172.16.20.20/32"), table=1001), OURS, False),
    (Rule(4, 0, table=255), 2, False),
], ids=str)
def test_foreign_rules_in_front_of_ours_that_catch_a_source(rule, protocol, caught):
    assert bool(shadowing_rules(facts(rules=(SeenRule(rule, protocol),)), CONFIG)) == caught

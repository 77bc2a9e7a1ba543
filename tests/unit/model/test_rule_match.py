"""What ``rule_matches`` says of rules that no kernel need be asked about."""

from ipaddress import ip_address

from eni_bootstrap.model.kernel import Match, Query, Rule
from eni_bootstrap.model.rule_match import rule_matches


def test_a_rule_with_selectors_that_are_not_known_matches_nothing():
    packet = Query(ip_address("203.0.113.1"))
    assert rule_matches(Rule(4, 100), packet) and not rule_matches(Rule(4, 100, other=("tos", "0x10")), packet)


def test_a_rule_of_the_other_family_matches_nothing():
    assert not rule_matches(Rule(6, 100), Query(ip_address("203.0.113.1")))


def test_what_comes_in_by_a_device_is_not_sent_by_this_host():
    packet = Query(ip_address("172.16.20.20"), ip_address("203.0.113.1"), iif="eth1")
    assert [rule_matches(Rule(4, 100, match=Match(iif=dev)), packet) for dev in ("eth1", "eth2", "lo", "")] == [
        True, False, False, True]

"""What metadata says badly of one address family costs that family only; and catches nobody's traffic all the same."""

import pytest

from eni_bootstrap.desired.matching import pair
from eni_bootstrap.desired.validation import refuse_stealing
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.eni import Listing, SickInterface
from eni_bootstrap.model.kernel import Link
from eni_bootstrap.plan.diff import plan
from tests.build import (
    CONFIG, ETH1, KERNEL, MAIN, OURS, PRIMARY, address, decision, interface, link, mac, net, route, subnet, two_enis,
)
from tests.fakes import FakeKernel

P6 = subnet("2001:db8:1:1::/64", "2001:db8:1:1::10")
ONE4, ONE6 = ETH1.subnets[0], subnet("2001:db8:1:2::/64", "2001:db8:1:2::20")
TWO4, TWO6 = subnet("172.16.30.0/24", "172.16.30.30"), subnet("2001:db8:1:3::/64", "2001:db8:1:3::30")
BOTH = interface(0, *PRIMARY.subnets, P6, primary=True)
LINKS = [link(0), link(1), link(2)]

BAD = [
    (6, subnet("2001:db8:1:2::/64", "2001:db8:1:9::20"), "outside its vSwitch"),
    (6, subnet("2000::/3", "2001:db8:1:2::20"), "too wide"),
    (6, subnet("2001:db8:1:2::/64", "2001:db8:1:2::20", prefixes=["2001:db8:1:9::/80"]), "outside its vSwitch"),
    (6, subnet("fe80::/64", "fe80::5"), "can't be an ENI's"),
    (6, subnet("2001:db8:1:1::/64", "2001:db8:1:1::10"), "the primary ENI's"),
    (6, subnet("2001:db8:1:3::/64", "2001:db8:1:3::30"), "another ENI too"),
    (4, subnet("172.16.20.0/24", "8.8.8.8"), "outside its vSwitch"),
    (4, subnet("128.0.0.0/1", "172.16.20.20"), "too wide"),
    (4, subnet("100.100.0.0/16", "100.100.7.7"), "the cloud's own services"),
    (4, subnet("172.16.20.0/24", "172.16.20.255"), "can't be an ENI's"),
    (4, subnet("172.16.10.0/24", "172.16.10.10"), "the primary ENI's"),
    (4, subnet("172.16.30.0/24", "172.16.30.30"), "another ENI too"),
]
CASES = pytest.mark.parametrize("version, bad, words", BAD, ids=["IPv{}, {}".format(*case[::2]) for case in BAD])


def refused(*interfaces, sick=(), held=(), links=LINKS):
    enis, others = pair(Listing(tuple(interfaces), tuple(sick)), links)
    fit, bad = refuse_stealing(enis, others, held)
    return {(eni.dev, each.version) for eni in fit for each in eni.subnets}, bad


def with_bad(eni, bad):
    """The ENI with this subnet in the place of its own one."""
    return eni._replace(subnets=tuple(bad if own.version == bad.version else own for own in eni.subnets))


def first(bad, words):
    """ENI 1, which has what ENI 2 claims, where that is the case."""
    return with_bad(interface(1, ONE4, ONE6), bad) if "another" in words else interface(1, ONE4, ONE6)


@CASES
def test_a_bad_family_of_a_secondary_costs_the_other_one_nothing(version, bad, words):
    fit, (member,) = refused(BOTH, first(bad, words), with_bad(interface(2, TWO4, TWO6), bad))
    assert fit == {("eth0", 4), ("eth0", 6), ("eth1", 4), ("eth1", 6), ("eth2", 10 - version)}
    assert words in member.reason and not member.transient
    assert (member.dev, member.link, member.version, member.subnets) == ("eth2", "eth2", version, (bad,))
    assert (member.finding.family, member.finding.eni) == (version, "eni-2 ({}, eth2)".format(mac(2)))


@CASES
def test_what_is_refused_of_one_family_is_refused_of_an_eni_that_has_no_other(version, bad, words):
    fit, (member,) = refused(BOTH, first(bad, words), interface(2, bad))
    assert not [key for key in fit if key[0] == "eth2"]
    assert words in member.reason and member.version == 0


@pytest.mark.parametrize("bad", [subnet("2000::/3", "2001:db8:1:1::10"), subnet("128.0.0.0/1", "172.16.10.10")])
def test_a_bad_family_of_the_primary_costs_the_other_one_nothing(bad):
    fit, (member,) = refused(with_bad(BOTH, bad), interface(1, ONE4, ONE6))
    assert fit == {("eth0", 10 - bad.version), ("eth1", 4), ("eth1", 6)}
    assert member.primary and member.version == bad.version and "too wide" in member.reason


def test_an_eni_that_is_bad_in_both_families_is_refused_once_with_both_reasons():
    fit, (member,) = refused(BOTH, interface(1, BAD[6][1], BAD[0][1]))
    assert fit == {("eth0", 4), ("eth0", 6)} and member.version == 0 and member.versions == (4, 6)
    assert "8.8.8.8, which is outside" in member.reason and "2001:db8:1:9::20, which is outside" in member.reason


def test_what_others_send_to_the_vswitch_depends_on_its_family_s_health_only_where_the_block_is_wrong():
    _, (member,) = refused(BOTH, interface(1, ONE4, BAD[0][1]))
    assert member.vswitches == (net("2001:db8:1:2::/64"),)
    _, (member,) = refused(BOTH, interface(1, ONE4, BAD[1][1]))
    assert member.vswitches == ()


# whose traffic it is


def test_a_refused_family_of_the_primary_still_has_its_addresses():
    fit, bad = refused(with_bad(BOTH, subnet("2000::/3", "2001:db8:1:2::20")), interface(1, ONE4, ONE6))
    assert fit == {("eth0", 4), ("eth1", 4)}
    assert [(member.dev, member.version) for member in bad] == [("eth0", 6), ("eth1", 6)]
    assert "2001:db8:1:2::20/128, which is the primary ENI's" in bad[1].reason


@pytest.mark.parametrize("sick", [0, 4, 6])
def test_the_addresses_on_its_link_are_the_primary_s_in_the_families_that_metadata_does_not_tell(sick):
    """A family that it tells counts as it is told, whatever the other one is like."""
    told = tuple(own for own in BOTH.subnets if sick and own.version != sick)
    primaries = [BOTH._replace(subnets=told)] if told else []
    held = [address("eth0", "172.16.20.20/24"), address("eth0", "2001:db8:1:2::20/64")]
    fit, bad = refused(*primaries, interface(1, ONE4, ONE6), held=held, sick=[
        SickInterface("eni-0", mac(0), True, "its gateway is missing", True, sick)])
    assert {version for dev, version in fit if dev == "eth1"} == {4, 6} - set([sick] if sick else [4, 6])
    assert all("the primary ENI's" in member.reason for member in bad) and bad


@pytest.mark.parametrize("absurd", [subnet("2000::/3", "2001:db8:1:7::7"), subnet("128.0.0.0/1", "172.16.77.7")])
def test_the_addresses_on_its_link_are_the_primary_s_in_the_families_that_are_refused(absurd):
    held = [address("eth0", "172.16.20.20/24"), address("eth0", "2001:db8:1:2::20/64")]
    fit, bad = refused(with_bad(BOTH, absurd), interface(1, ONE4, ONE6), held=held)
    assert fit == {("eth0", 10 - absurd.version), ("eth1", 10 - absurd.version)}
    assert [(member.dev, member.version) for member in bad] == [("eth0", absurd.version), ("eth1", absurd.version)]
    assert "the primary ENI's" in bad[1].reason


def test_what_is_refused_of_one_eni_is_free_for_another_and_what_is_not_is_taken():
    one = interface(1, ONE4, subnet("2001:db8:1:3::/64", "2001:db8:1:3::30", "2001:db8:1:9::20"))
    fit, (member,) = refused(BOTH, one, interface(2, subnet("172.16.20.0/24", "172.16.20.30"), TWO6))
    assert (member.dev, member.version) == ("eth1", 6) and ("eth2", 6) in fit
    fit, bad = refused(BOTH, one, interface(2, ONE4, TWO6))
    assert [(member.dev, member.version) for member in bad] == [("eth1", 6), ("eth2", 4)] and ("eth2", 6) in fit


def test_the_decision_has_rules_of_the_good_family_and_none_of_the_bad_one():
    for stolen in ("2001:db8:1:1::10", "2001:db8:1:9::20"):
        bad = subnet("2001:db8:1:2::/64", "2001:db8:1:2::20", stolen, vpc=["2001:db8:1:1::/64"])
        made = decision(two_enis(), BOTH, interface(1, ONE4, bad))
        assert [family.key for family in made.families] == [("eth0", 4), ("eth0", 6), ("eth1", 4)]
        assert [family.table for family in made.families] == [1000, 1000, 1001]
        assert net("172.16.20.20/32") in [rule.src for rule in made.rules if rule.table == 1001]
        assert not [rule for rule in made.rules if rule.version == 6 and rule.table == 1001]
        assert made.kept_families == {("eth1", 6)}


def test_what_the_bad_family_has_stays_as_it_is():
    """Rules, routes and the table; the good family gets what is new of it."""
    good = interface(1, ONE4, ONE6)
    world = two_enis([(route(MAIN, "2001:db8:1:2::/64", "eth1", metric=256), KERNEL)],
                     addresses=[address("eth0", "2001:db8:1:1::10/64"), address("eth1", "2001:db8:1:2::20/64")])
    world = FakeKernel(world).apply(plan(decision(world, BOTH, good), world, Record(), CONFIG).changes)
    assert [seen for seen in world.routes if seen.route.table == 1001 and seen.route.version == 6]
    bad = subnet("2001:db8:1:2::/64", "2001:db8:1:2::20", "2001:db8:1:9::20")
    more = subnet("172.16.20.0/24", "172.16.20.20", "172.16.20.21")
    made = decision(world, BOTH, interface(1, more, bad))
    assert made.kept_tables == {(1001, 6)}
    changes = plan(made, world, Record(), CONFIG).changes
    assert [str(change) for change in changes] == [
        "ip -4 rule add from 172.16.20.21 lookup 1001 priority 7200 protocol {}".format(OURS)]


def test_on_a_bond_the_family_is_the_bond_s():
    bond = Link(9, "bond0", mac(1), kind="bond")
    links = [link(0), link(1, master=9), bond]
    fit, (member,) = refused(BOTH, interface(1, ONE4, BAD[0][1]), links=links)
    assert ("bond0", 4) in fit and (member.dev, member.link) == ("bond0", "eth1")

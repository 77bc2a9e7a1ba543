"""ENIs that the configuration leaves alone."""

import pytest

from eni_bootstrap.agent.waiting import Patience
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.eni import SickInterface
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import Link, LinkGroup
from eni_bootstrap.plan.diff import Before, plan
from tests.build import CONFIG, ETH1, ETH2, PRIMARY, address, decision, interface, link, mac, subnet, two_enis
from tests.fakes import FakeKernel
from tests.unit.desired.test_cni import child, decided, devs, said_of

THREE = (PRIMARY, ETH1._replace(vswitch_id="vsw-one"), ETH2._replace(vswitch_id="vsw-two"))


def three():
    return two_enis(links=[link(0), link(1), link(2)])


@pytest.mark.parametrize("word", [
    "eth1", "ETH1", mac(1), mac(1).upper(), "eni-1", "vsw-one", "*1", "eth[1]", "vsw-o??"])
def test_an_eni_is_named_by_whatever_it_has(word):
    made = decided(three(), *THREE, config=CONFIG._replace(ignore=(word,)))
    assert devs(made) == ["eth0", "eth2"] and "eni-1" in said_of(made, "eth1")
    made = decided(three(), *THREE, config=CONFIG._replace(only=(word,)))
    assert devs(made) == ["eth0", "eth1"] and "as the configuration says" in said_of(made, "eth2")


@pytest.mark.parametrize("config", [
    CONFIG._replace(ignore=("*",)), CONFIG._replace(only=("eth7",)), CONFIG._replace(ignore=("eth1", "eth2")),
    CONFIG._replace(only=("eth1", "eth2"), ignore=("eni-*",)),
])
def test_the_primary_is_never_left_alone(config):
    """With no other ENI there is nothing to be set up, though."""
    made = decided(three(), *THREE, config=config)
    assert devs(made) == ["eth0"] and not made.rules and made.skipped == {"eth1", "eth2"}


def test_who_names_the_primary_is_told():
    made = decided(three(), *THREE, config=CONFIG._replace(ignore=("eth0", "eth2")))
    assert devs(made) == ["eth0", "eth1"]
    assert [remark for remark in made.remarks if "primary" in remark and "ignore" in remark]


def test_an_unfit_eni_is_left_alone_too():
    """Then it is no error, and nothing is waited for."""
    for config in (CONFIG._replace(ignore=("vsw-one",)), CONFIG._replace(only=("vsw-two",))):
        assert decided(two_enis(links=[link(0), link(2)]), *THREE, config=config).unready == ()


def test_an_eni_whose_vswitch_metadata_has_lost_keeps_what_it_has():
    config = CONFIG._replace(only=("vsw-one",))
    sick = SickInterface("eni-1", mac(1), False, "no gateway", True)
    assert decided(three(), PRIMARY, THREE[2], sick=[sick], config=config).unready
    assert not decided(three(), PRIMARY, THREE[2], sick=[sick], config=CONFIG._replace(only=("eth2",))).unready


@pytest.mark.parametrize("word", ["bond0", "eth1"])
@pytest.mark.parametrize("lacks", [6, 0, None], ids=["IPv6 is sick", "the ENI is sick", "well"])
def test_an_eni_behind_a_bond_has_both_names_well_or_not(word, lacks):
    links = [link(0), link(1, master=9), link(2), link(1, "bond0", kind="bond")._replace(ifindex=9)]
    sick = [SickInterface("eni-1", mac(1), False, "no gateway", True, lacks)] if lacks is not None else []
    others = THREE if lacks != 0 else (PRIMARY, THREE[2])
    made = decided(two_enis(links=links), *others, sick=sick, config=CONFIG._replace(ignore=(word,)))
    assert devs(made) == ["eth0", "eth2"] and made.skipped == {"bond0", "eth1"} and not made.unready
    made = decided(two_enis(links=links), *others, sick=sick, config=CONFIG._replace(only=(word,)))
    assert devs(made) == ["eth0"] + ["bond0"] * (lacks != 0) and made.skipped == {"eth2"}
    assert [member.dev for member in made.unready] == ["bond0"] * len(sick)


def test_an_eni_that_is_refused_has_both_names_too():
    absurd = interface(1, subnet("172.16.20.0/24", "8.8.8.8"))
    links = [link(0), link(1, master=9), link(1, "bond0", kind="bond")._replace(ifindex=9)]
    for word in ("bond0", "eth1"):
        made = decided(two_enis(links=links), PRIMARY, absurd, config=CONFIG._replace(ignore=(word,)))
        assert not made.unready and made.skipped == {"bond0", "eth1"}


class TestWhatWasSetUpBefore:
    """The ENI was one of ours until now."""

    def before(self):
        world = two_enis(links=[link(0), link(1), link(2)])
        return FakeKernel(world).apply(plan(decided(world, *THREE), world, Record(), CONFIG).changes)

    def changes(self, world, made=Record(), in_use=frozenset(), config=CONFIG._replace(ignore=("eth1",))):
        wanted = decided(world, *THREE, config=config, made=made)
        return plan(wanted, world, made, config, Before(in_use=in_use)).changes

    def test_rules_routes_and_group_go_and_the_others_stay(self):
        world = self.before()
        after = FakeKernel(world).apply(self.changes(world, Record(groups=(LinkGroup("eth1", 7),))))
        fresh = two_enis(links=[link(0), link(1), link(2)])
        whole = FakeKernel(fresh).apply(self.changes(fresh))
        assert set(after.rules) == set(whole.rules) and set(after.routes) == set(whole.routes)
        assert [each.group for each in after.links] == [CONFIG.group, 7, CONFIG.group]
        assert self.changes(after, Record(groups=(LinkGroup("eth0", 0), LinkGroup("eth2", 0)))) == ()

    def test_a_group_that_udev_gave_goes_too(self):
        fresh = two_enis(links=[link(0), link(1, group=CONFIG.group), link(2)])
        assert "ip link set dev eth1 group 0" in map(str, self.changes(fresh))

    def test_a_group_of_somebody_else_stays(self):
        fresh = two_enis(links=[link(0), link(1, group=9), link(2)])
        assert not [change for change in self.changes(fresh) if "dev eth1 group" in str(change)]

    def test_the_group_of_a_link_that_is_not_listed_yet_stays(self):
        """It may be one that is just being bound."""
        fresh = two_enis(links=[link(0), link(1), link(2), link(3, group=CONFIG.group)])
        assert not [change for change in self.changes(fresh) if "eth3" in str(change)]

    def test_the_address_and_the_link_go_back_unless_somebody_uses_them(self):
        made = Record(frozenset(["eth1", "eth2"]), (), frozenset([address("eth1", "172.16.20.20/24")]))
        world = self.before()
        back = {"ip -4 address del 172.16.20.20/24 dev eth1", "ip link set dev eth1 down"}
        assert back <= set(map(str, self.changes(world, made)))
        assert not back & set(map(str, self.changes(world, made, {"eth1"})))
        assert not back & set(map(str, self.changes(
            world._replace(links=world.links + (child("macvlan", 1),)), made, config=CONFIG)))

    def test_what_is_ours_goes_while_another_eni_is_lost(self):
        """What nobody claims may be the lost one's; what is led to by this one's sources is not."""
        world = self.before()._replace(links=[link(0), link(1)])
        config = CONFIG._replace(ignore=("eth1",))
        lost_one = interface(3, subnet("172.16.30.0/24", "172.16.30.30"))
        made = decided(world, PRIMARY, ETH1, lost_one, config=config)
        found = [str(change) for change in plan(made, world, Record(), config).changes]
        assert "ip -4 rule del from 172.16.20.20 lookup 1001 priority 7200 protocol 235" in found
        assert "ip -4 route del unreachable default table 1001 metric 4294967295 proto 235" in found
        assert not [change for change in found if "1002" in change]


# an address family that is switched off on the device


SIX = subnet("2001:db8:1:2::/64", "2001:db8:1:2::20")
NO_IPV6 = [link(0), link(1, ipv6=False)]
LEFT_OUT = Finding.remark(
    "family-off", "IPv6 is switched off on the device (sysctl disable_ipv6) and left out",
    eni="eni-1 ({}, eth1)".format(mac(1)), family=6)


def sick_in(version):
    return SickInterface("eni-1", mac(1), False, "a gateway is missing", True, version)


def is_waited_for(made):
    return Patience(Deadline(60), CONFIG).worth(made)


@pytest.mark.parametrize("eth1, sick", [
    (interface(1, *ETH1.subnets, SIX), []),
    (ETH1, [sick_in(6)]),
    (interface(1, *ETH1.subnets, subnet("2001:db8:1:2::/64", "2001:db8:1:9::20")), []),
    (interface(1, *ETH1.subnets, subnet("2000::/3", "2001:db8:1:2::20")), []),
], ids=["complete", "a leaf is missing", "an address is outside", "too wide"])
def test_nobody_misses_ipv6_where_it_is_switched_off_whatever_metadata_says_of_it(eth1, sick):
    made = decision(two_enis(links=NO_IPV6), PRIMARY, eth1, sick=sick)
    assert made.unready == () and made.findings == (LEFT_OUT,)
    assert made.kept_families == frozenset() and made.table_of("eth1") == 1001 and not is_waited_for(made)
    assert LEFT_OUT not in decision(two_enis(), PRIMARY, eth1, sick=sick).findings


def test_what_is_there_of_it_goes_as_with_a_complete_description():
    world = two_enis()
    both = interface(1, *ETH1.subnets, SIX)
    world = FakeKernel(world).apply(plan(decision(world, PRIMARY, both), world, Record(), CONFIG).changes)
    world = world._replace(links=tuple(NO_IPV6))
    complete, lacking = (plan(decision(world, PRIMARY, eth1, sick=sick), world, Record(), CONFIG).changes
                         for eth1, sick in ((both, []), (ETH1, [sick_in(6)])))
    assert complete == lacking and [change for change in complete if "-6 rule del" in str(change)]


@pytest.mark.parametrize("ipv4, sick, words", [
    ([], [sick_in(4)], "a gateway is missing"),
    ([subnet("172.16.20.0/24", "8.8.8.8")], [], "8.8.8.8, which is outside its vSwitch"),
])
def test_an_eni_whose_ipv4_is_sick_has_not_ipv6_only(ipv4, sick, words):
    made = decision(two_enis(links=NO_IPV6), PRIMARY, interface(1, *ipv4, SIX), sick=sick)
    (member,) = made.unready
    assert words in member.reason and member.version == 4 and is_waited_for(made) == bool(sick)
    assert made.findings == (LEFT_OUT,) and made.kept_families == {("eth1", 4)}


def test_of_an_eni_that_is_sick_as_a_whole_nothing_is_left_out():
    made = decision(two_enis(links=NO_IPV6), PRIMARY, sick=[sick_in(0)])
    assert [member.version for member in made.unready] == [0] and LEFT_OUT not in made.findings


def test_the_device_is_the_bond_where_there_is_one():
    """systemd-networkd switches IPv6 off on the ports of a bond, which have no addresses."""
    bond = Link(9, "bond0", mac(1), kind="bond")
    for link_off, version in ((link(1, master=9, ipv6=False), 6), (link(1, master=9), 0)):
        world = two_enis(links=[link(0), link_off, bond._replace(ipv6=bool(version))])
        made = decision(world, PRIMARY, ETH1, sick=[sick_in(6)])
        assert [member.version for member in made.unready] == ([6] if version else [])
        assert [(found.code, "bond0)" in found.eni) for found in made.findings] == (
            [] if version else [("family-off", True)])

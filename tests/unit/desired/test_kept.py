"""What stays as it is of an ENI that can't be set up now: here of one whose routes go by a master."""

import pytest

from eni_bootstrap.config.settings import Entry
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.eni import SickInterface
from eni_bootstrap.model.kernel import LinkGroup
from eni_bootstrap.plan.diff import plan
from tests.build import (
    CONFIG, DHCP, ETH1, KERNEL, MAIN, OURS, PRIMARY, RA, address, decision, interface, link, mac, net, route, snapshot,
    subnet, two_enis,
)
from tests.fakes import FakeKernel

SIX = {0: subnet("2001:db8:1:1::/64", "2001:db8:1:1::10"), 1: subnet("2001:db8:1:2::/64", "2001:db8:1:2::20")}
FOUR = {0: PRIMARY.subnets[0], 1: ETH1.subnets[0]}
KINDS = pytest.mark.parametrize("kind", ["bond", "bridge", "team"])
LACKS = pytest.mark.parametrize("lacks", [4, 6, 0], ids=["IPv4 is sick", "IPv6 is sick", "the ENI is sick"])


def listed(*sick):
    """The interfaces, but for what is sick, as (ENI's number, IP version or 0 for all); and these, with reasons."""
    whole = [interface(number, *(
        subnets[number] for version, subnets in ((4, FOUR), (6, SIX)) if (number, version) not in sick),
        primary=number == 0) for number in (0, 1) if (number, 0) not in sick]
    return whole, [SickInterface("eni-{}".format(number), mac(number), number == 0, "gateway is missing", True, version)
                   for number, version in sick]


def behind(number, kind="bond", port="", **more):
    """Two ENIs with both address families. The one of this number is a port of ``master0``."""
    devs = {number: "master0", 1 - number: link(1 - number).name}
    master = link(number, "master0", kind=kind)._replace(ifindex=50)
    links = [link(1 - number), link(number, port or link(number).name, master=50), master]
    held = [address(devs[0], "172.16.10.10/24"), address(devs[1], "172.16.20.20/24"),
            address(devs[0], "2001:db8:1:1::10/64"), address(devs[1], "2001:db8:1:2::20/64")]
    return snapshot(links, held, [
        (route(MAIN, "default", devs[0] + " 172.16.10.253", metric=100), DHCP),
        (route(MAIN, "172.16.10.0/24", devs[0]), KERNEL),
        (route(MAIN, "default", devs[1] + " 172.16.20.253", metric=200), DHCP),
        (route(MAIN, "172.16.20.0/24", devs[1]), KERNEL),
        (route(MAIN, "default", "{} {}".format(devs[0], SIX[0].gateway), metric=1024), RA),
        (route(MAIN, "2001:db8:1:2::/64", devs[1], metric=256), KERNEL)])


def decided(world, *sick, config=CONFIG):
    interfaces, reasons = listed(*sick)
    return decision(world, *interfaces, sick=reasons, config=config)


def set_up(world, config=CONFIG):
    return FakeKernel(world).apply(plan(decided(world, config=config), world, Record(), config).changes)


def changes(made, world, config=CONFIG):
    return [str(change) for change in plan(made, world, Record(), config).changes]


@KINDS
@LACKS
@pytest.mark.parametrize("number", [0, 1], ids=["the primary", "a secondary"])
def test_what_an_eni_behind_a_master_has_stays(kind, lacks, number):
    after = set_up(behind(number, kind))
    made = decided(after, (number, lacks))
    assert changes(made, after) == []
    assert made.kept_families == {("master0", version) for version in ((lacks,) if lacks else (4, 6))}
    assert made.remarks == () and [member.label for member in made.unready] == [
        "eni-{} ({}, master0)".format(number, mac(number))]


@KINDS
@LACKS
def test_on_a_first_run_the_master_gets_the_group(kind, lacks):
    made = decided(behind(1, kind), (1, lacks))
    assert set(made.groups) == ({LinkGroup("eth0", 60235), LinkGroup("master0", 60235)} if lacks else set())


@LACKS
@pytest.mark.parametrize("via", ["master0", "eth1", "eni-1", mac(1)])
@pytest.mark.parametrize("marks", [0, 0xFF00])
def test_an_entry_goes_by_it_whatever_it_is_called(lacks, via, marks):
    config = CONFIG._replace(connection_marks=marks, entries=(
        Entry(1, via, "", (net("10.99.0.0/16"), net("fd99::/64"))),))
    after = set_up(behind(1), config)
    made = decided(after, (1, lacks), config=config)
    assert changes(made, after, config) == [] and made.remarks == made.problems == ()
    assert made.marked == decided(after, config=config).marked


def test_no_number_depends_on_its_health():
    """Where the numbers come from the order of the names."""
    third = interface(2, subnet("172.16.30.0/24", "172.16.30.30"))
    links = [link(0), link(1, "ens5", master=50), link(1, "bond0", kind="bond")._replace(ifindex=50), link(2, "ens6")]
    for lacks in (4, 6, 0, None):
        interfaces, sick = listed(*([(1, lacks)] if lacks is not None else []))
        made = decision(two_enis(links=links), *interfaces, third, sick=sick)
        assert made.table_of("ens6") == 1002, lacks


@pytest.mark.parametrize("lacks", [(), (1,), (2,), (1, 2)], ids=["none", "the first", "the second", "both"])
def test_of_two_enis_in_one_bond_the_first_keeps_it_whoever_is_sick(lacks):
    second = interface(2, subnet("172.16.20.0/24", "172.16.20.30"))
    links = [link(0), link(1, master=50), link(2, master=50), link(1, "bond0", kind="bond")._replace(ifindex=50)]
    fresh = snapshot(links, [address("eth0", "172.16.10.10/24"), address("bond0", "172.16.20.20/24")], [
        (route(MAIN, "default", "eth0 172.16.10.253", metric=100), DHCP),
        (route(MAIN, "172.16.20.0/24", "bond0"), KERNEL)])
    after = FakeKernel(fresh).apply(plan(decision(fresh, PRIMARY, ETH1, second), fresh, Record(), CONFIG).changes)
    made = decision(
        after, PRIMARY, *(eni for number, eni in ((1, ETH1), (2, second)) if number not in lacks),
        sick=[SickInterface("eni-{}".format(number), mac(number), False, "gateway is missing", True)
              for number in lacks])
    assert changes(made, after) == [] and made.remarks == ()
    devs = {member.eni_id: member.dev for member in made.unready}
    assert devs.pop("eni-1", "bond0") == "bond0" and devs == {"eni-2": "eth2"}
    assert "bond0" not in made.kept_devs or 1 in lacks


def test_what_is_listed_is_not_said_to_be_gone():
    """Where two links have the ENI's MAC, it can't be told which one it is."""
    ours = [(route(1001, "172.16.20.0/24", "eth1"), OURS)]
    for interfaces, sick in (([PRIMARY, ETH1], []), ([PRIMARY], [SickInterface("eni-1", mac(1), False, "x", True)])):
        made = decision(two_enis(ours, links=[link(0), link(1), link(1, "eth7")._replace(ifindex=9)]), *interfaces,
                        sick=sick)
        assert (1001, 4) in made.kept_tables and "eth1" in made.kept_devs
        assert made.remarks == ()

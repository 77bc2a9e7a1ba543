"""A link or a gateway that fails takes its own traffic down and never moves it to another ENI; it comes back whole."""

import time

import pytest

from eni_bootstrap.lab import probe
from eni_bootstrap.lab.vpc import make_tree
from tests.oracle import (
    NO_WAY, OUTSIDE, ask_all, assert_answers_by, assert_every_eni_answers, difference, ip, kernel, leaves_by,
    routes, settle, show, table_of, wait_until,
)

VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


@pytest.fixture(params=["dhcp", "down"])
def installed(request, make_vpc, make_agent):
    """Three ENIs with both families, set up by the operating system or by us, and an apply that has run."""
    vpc = make_vpc(make_tree(ipv6=True), os=request.param)
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    settle(vpc)
    return vpc, agent


def wanderers(seen, address):
    """The ENIs by which packets of this source left."""
    return {packet.port for packet in seen if packet.direction == "from" and packet.src == address}


def take_down(vpc, dev):
    """The address stays usable, as a keepalived or a container would have it: IPv6 ones go with their link.

    Without ``nodad`` it is tentative on lo, too, till a worker of the kernel comes to it.
    """
    vpc.set_link(dev, False)
    ip(vpc, "address add {}/128 dev lo nodad".format(vpc.address(dev, 6)))


# links


@VERSIONS
def test_without_us_a_link_that_goes_down_moves_its_traffic_to_another_eni(make_vpc, version):
    """The symptom, with the vendor's recipe in place."""
    vpc = make_vpc(make_tree(ipv6=True))
    subnet = vpc.subnet("eth1", version)
    ip(vpc, "-{} route add default via {} dev eth1 onlink table 1001".format(version, subnet.gateway))
    ip(vpc, "-{} rule add from {} lookup 1001".format(version, subnet.addresses[0]))
    take_down(vpc, "eth1")
    with vpc.fabric.capture() as seen:
        ask_all(vpc, OUTSIDE[version], vpc.instance, src=subnet.addresses[0], timeout=0.1)
    assert wanderers(seen, subnet.addresses[0]) == {"eth0"}


@VERSIONS
def test_a_link_that_goes_down_fails_closed(installed, version):
    vpc, _ = installed
    source = vpc.address("eth1", version)
    assert leaves_by(vpc, source, OUTSIDE[version]) == "eth1"
    take_down(vpc, "eth1")
    targets = [OUTSIDE[version]] + [str(vpc.subnet(dev, version).vswitch[77]) for dev in vpc.nics]
    assert {leaves_by(vpc, source, target) for target in targets} == {NO_WAY}
    with vpc.fabric.capture() as seen:
        for target in targets:
            assert not any(ask_all(vpc, target, vpc.instance, src=source, timeout=0.1))
    assert not wanderers(seen, source)


def test_the_others_go_on_while_a_link_is_down(installed):
    vpc, _ = installed
    take_down(vpc, "eth1")
    for dev in ("eth0", "eth2"):
        for version in (4, 6):
            assert_answers_by(vpc, dev, vpc.address(dev, version))


def test_after_the_link_has_come_back_a_run_restores_both_families(installed):
    vpc, agent = installed
    before = kernel(vpc)
    addresses = show(vpc, "-6 address show dev eth1 scope global")
    by_dhcp = "proto dhcp" in ip(vpc, "route show default dev eth1")
    vpc.set_link("eth1", False)
    vpc.set_link("eth1", True)
    wait_until(lambda: "LOWER_UP" in ip(vpc, "link show eth1"))
    if by_dhcp:  # the client does its part again
        held = addresses[0]["addr_info"][0]
        ip(vpc, "address add {}/{} dev eth1".format(held["local"], held["prefixlen"]))
    with probe.echo_server(vpc.instance):
        assert not any(ask_all(vpc, vpc.eips["eth1"], timeout=0.1))
    assert agent("apply").code == 0
    assert_every_eni_answers(vpc)
    if not by_dhcp:
        settle(vpc)
        assert difference(before, kernel(vpc)) == ([], [])


def test_a_run_brings_up_a_link_that_was_taken_down(installed):
    vpc, agent = installed
    vpc.set_link("eth1", False)
    assert agent("apply").code in (0, 1)  # whether the address comes back by itself is the operating system's affair
    assert ",UP" in ip(vpc, "link show eth1")
    assert_answers_by(vpc, "eth1", vpc.address("eth1"))
    assert_answers_by(vpc, "eth1", vpc.address("eth1", 6))


def test_down_and_up_between_runs_keeps_the_table(vpc, make_agent):
    """A link that is down has lost its routes; its rules are the memory."""
    agent = make_agent(vpc)
    agent("apply")
    before = kernel(vpc)
    vpc.set_link("eth2", False)
    assert not [route for route in routes(vpc, 1002) if "dev" in route]
    assert agent("apply").code == 0
    assert table_of(vpc, "eth2") == 1002
    settle(vpc)
    assert [line for line in difference(before, kernel(vpc))[0] if "proto dhcp" not in line] == []


@VERSIONS
def test_without_a_carrier_nothing_leaves_by_another_eni(installed, version):
    vpc, _ = installed
    source = vpc.address("eth1", version)
    vpc.fabric.carrier("eth1", False)
    wait_until(lambda: "NO-CARRIER" in ip(vpc, "link show eth1"))
    assert leaves_by(vpc, source, OUTSIDE[version]) in ("eth1", NO_WAY)
    with vpc.fabric.capture() as seen:
        assert not any(ask_all(vpc, OUTSIDE[version], vpc.instance, src=source, timeout=0.1))
    assert not wanderers(seen, source)
    vpc.fabric.carrier("eth1", True)
    wait_until(lambda: "LOWER_UP" in ip(vpc, "link show eth1"))
    wait_until(lambda: probe.ping(vpc.client, vpc.eips["eth1"] if version == 4 else source, timeout=0.2), 4)


# gateways


def test_gateways_that_were_silent_are_found_again(make_vpc, make_agent):
    """Within 2 s of their return, after 4 s of silence under traffic, IPv4 and IPv6.

    This is why the IPv6 fence is a rule and not a route: with a worse route behind a gateway whose neighbour entry
    has failed, the kernel takes the worse route, never probes the gateway, and stays silent for 60 s.
    """
    vpc = make_vpc(make_tree(ipv6=True))
    assert make_agent(vpc)("apply").code == 0
    subnets = vpc.nics["eth1"].subnets

    def ping(subnet, timeout=0.1):
        return probe.ping(vpc.instance, OUTSIDE[subnet.version], src=subnet.addresses[0], timeout=timeout)

    assert all(map(ping, subnets))
    for subnet in subnets:
        vpc.fabric.silence(subnet.gateway)
        # Otherwise the kernel trusts what it knows for up to 30 s.
        ip(vpc, "-{} neigh flush dev eth1".format(subnet.version))
    end = time.monotonic() + 4
    with vpc.fabric.capture() as seen:
        while time.monotonic() < end:
            assert not any(map(ping, subnets))
    assert {packet.port for packet in seen if packet.direction == "from"} <= {"eth1"}
    for subnet in subnets:
        vpc.fabric.silence(subnet.gateway, False)
    returned = time.monotonic()
    for subnet in subnets:
        while not ping(subnet):
            assert time.monotonic() < returned + 2
        assert_answers_by(vpc, "eth1", subnet.addresses[0])

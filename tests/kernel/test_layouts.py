"""Every layout of ENIs that the cloud and the operating system know ends the same way: each ENI answers by itself."""

import itertools
import time

import pytest

from eni_bootstrap.lab import probe
from eni_bootstrap.lab.vpc import METADATA, macs_of, make_tree
from tests.oracle import (
    NO_WAY, OURS, OUTSIDE, ask_all, assert_answers_by, assert_asks_by, assert_every_eni_answers, container, defaults,
    ip, kernel, leaves_by, lookup, routes, sources_led_to, table_of,
)

IPV4_LEAVES = ("gateway", "netmask", "primary-ip-address", "private-ipv4s", "vswitch-cidr-block")


def applied(vpc, agent):
    result = agent("apply")
    assert result.code == 0, result
    return result


# vSwitches, addresses, names


@pytest.mark.parametrize("options", [
    {"vswitches": "own"}, {"vswitches": "shared"}, {"vswitches": [0, 1, 1]}, {"vswitches": [0, 1, 0, 2], "enis": 4},
], ids=["own", "shared", "secondaries together", "mixed"])
@pytest.mark.parametrize("os", ["dhcp", "up", "down"])
def test_every_eni_answers_by_itself(make_vpc, make_agent, options, os):
    """Ping, TCP and UDP to the EIP of each; first without us, which shows the symptom."""
    vpc = make_vpc(make_tree(**options), os=os)
    with probe.echo_server(vpc.instance):
        assert not any(ask_all(vpc, vpc.eips["eth1"], timeout=0.1))
    applied(vpc, make_agent(vpc))
    assert_every_eni_answers(vpc)


@pytest.mark.parametrize("os", ["dhcp", "down"])
@pytest.mark.parametrize("onlink", [True, False], ids=["/64", "/128"])
@pytest.mark.parametrize("vswitches", ["own", "shared", [0, 1, 1]], ids=["own", "shared", "secondaries together"])
def test_ipv6_beside_ipv4(make_vpc, make_agent, vswitches, onlink, os):
    vpc = make_vpc(make_tree(vswitches=vswitches, ipv6=True), ipv6_onlink=onlink, os=os)
    with probe.echo_server(vpc.instance):
        assert not any(ask_all(vpc, vpc.address("eth1", 6), timeout=0.1))
    applied(vpc, make_agent(vpc))
    assert_every_eni_answers(vpc)


@pytest.mark.parametrize("holder", ["eth0", "eth1", "eth2"])
def test_three_enis_in_one_64_that_only_one_has_on_link(make_vpc, make_agent, holder):
    """The kernel refuses a gateway on one link that main has on another."""
    vpc = make_vpc(make_tree(vswitches="shared", ipv6=True))
    ip(vpc, "-6 route add 2001:db8:20:a200::/64 dev {} metric 256".format(holder))
    applied(vpc, make_agent(vpc))
    assert_every_eni_answers(vpc)


@pytest.mark.parametrize("addresses, assign", [(2, True), (2, False), (50, True), (50, False)])
def test_all_addresses_of_every_eni(make_vpc, make_agent, addresses, assign):
    """Each has its rule; those that are on a link answer by their ENI."""
    vpc = make_vpc(make_tree(addresses=addresses, ipv6=True, vswitches=[0, 1, 1]), assign=assign)
    agent = make_agent(vpc)
    before = ip(vpc, "address show")
    applied(vpc, agent)
    assert ip(vpc, "address show").replace("group 60235", "group default") == before
    for (dev, table), version in itertools.product({"eth1": 1001, "eth2": 1002, "eth0": 1000}.items(), (4, 6)):
        subnet = vpc.subnet(dev, version)
        assert sources_led_to(vpc, table, version) == {str(address) for address in subnet.addresses}
        for address in {subnet.addresses[0], subnet.addresses[-1]} if assign else subnet.addresses[:1]:
            assert_answers_by(vpc, dev, address)
    assert agent("verify").code == 0


def test_thirty_two_enis_with_fifty_addresses(make_vpc, make_agent):
    vpc = make_vpc(make_tree(32, addresses=50, vswitches="own"), os={"eth30": "down"}, assign=True)
    agent = make_agent(vpc)
    applied(vpc, agent)
    for number in range(1, 32):
        subnet = vpc.subnet("eth{}".format(number))
        assert len(sources_led_to(vpc, 1000 + number)) == 50
        assert leaves_by(vpc, subnet.addresses[0], OUTSIDE[4]) == "eth{}".format(number)
        assert_answers_by(vpc, "eth{}".format(number), subnet.addresses[0 if number == 30 else 49], asks=[probe.ping])
    assert agent("verify").code == 0


def test_a_delegated_prefix_belongs_to_its_eni(make_vpc, make_agent):
    """A container with an address of the prefix, which no link of the host carries."""
    vpc = make_vpc(make_tree(prefix=True, ipv6=True))
    prefix = vpc.subnet("eth1").prefixes[0]
    with container(vpc, prefix[5], vpc.address("eth0")) as inside:
        assert not probe.ping(inside, OUTSIDE[4], timeout=0.2)
        agent = make_agent(vpc)
        applied(vpc, agent)
        with probe.echo_server(inside), vpc.fabric.capture() as seen:
            assert all(ask_all(vpc, vpc.eip(prefix[5])))
        assert {(packet.port, packet.verdict) for packet in seen} == {("client", "forwarded"), ("eth1", "forwarded")}
    for version in (4, 6):
        subnet = vpc.subnet("eth1", version)
        assert sources_led_to(vpc, 1001, version) == {str(subnet.prefixes[0]), str(subnet.addresses[0])}
    assert lookup(vpc, vpc.subnet("eth1", 6).prefixes[0][9], OUTSIDE[6])["dev"] == "eth1"
    assert agent("verify").code == 0


@pytest.mark.parametrize("names, tables", [
    (["eth0", "eth1", "eth2"], {"eth1": 1001, "eth2": 1002}),
    (["eth0", "eth4", "eth2"], {"eth4": 1004, "eth2": 1002}),
    (["ens5", "ens10", "ens9"], {"ens9": 1001, "ens10": 1002}),
    (["enp0s5", "enp0s6", "enp0s7"], {"enp0s6": 1001, "enp0s7": 1002}),
    (["eth0", "ens5", "enp0s7"], {"enp0s7": 1001, "ens5": 1002}),
    (["ens5", "ens6", "eth1"], {"eth1": 1001, "ens6": 1100}),
    (["eth1", "eth0", "eth2"], {"eth0": 1001, "eth2": 1002}),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_tables_follow_the_names(make_vpc, make_agent, names, tables):
    vpc = make_vpc(make_tree(vswitches="own"), names=names)
    applied(vpc, make_agent(vpc))
    assert {dev: table_of(vpc, dev) for dev in tables} == tables
    assert_every_eni_answers(vpc, asks=[probe.ping])


def test_a_secondary_that_is_called_eth0(make_vpc, make_agent):
    """The primary is who metadata says it is, whatever the links are called."""
    vpc = make_vpc(make_tree(vswitches="own"), names=["eth1", "eth0", "eth2"], os={"eth0": "down"})
    before = set(defaults(vpc))
    applied(vpc, make_agent(vpc))
    assert set(defaults(vpc)) - before == {("eth0", 200, OURS)} and not before - set(defaults(vpc))
    assert defaults(vpc)[0] == ("eth1", 100, "dhcp")
    assert_every_eni_answers(vpc)


def test_table_1001_is_eth1s_and_its_default_goes_by_its_gateway(vpc, make_agent):
    applied(vpc, make_agent(vpc))
    default, fence = [route for route in routes(vpc, 1001) if route["dst"] == "default"]
    assert (default["dev"], default["gateway"], default["protocol"]) == ("eth1", "172.16.20.253", OURS)
    assert (fence["type"], fence["metric"]) == ("unreachable", 4294967295)
    assert [route["dev"] for route in routes(vpc, 1001) if route["dst"] == "172.16.20.0/24"] == ["eth1"]


# families


@pytest.mark.parametrize("os", ["dhcp", "down"])
def test_an_eni_with_ipv6_only(make_vpc, make_agent, os):
    tree = make_tree(ipv6=True, vswitches="own")
    leaves = list(macs_of(tree).values())[1]
    for leaf in IPV4_LEAVES:
        del leaves[leaf]
    vpc = make_vpc(tree, os={"eth1": os})
    agent = make_agent(vpc)
    applied(vpc, agent)
    assert_every_eni_answers(vpc)
    assert not routes(vpc, 1001) and not sources_led_to(vpc, 1001)
    assert agent("verify").code == 0


@pytest.mark.parametrize("os", ["dhcp", "down"])
def test_a_host_without_ipv4_finds_the_metadata_service_by_ipv6(make_vpc, make_agent, os):
    """At once, and by nothing but its usual address."""
    tree = make_tree(ipv6=True, vswitches="own")
    for leaves, leaf in itertools.product(macs_of(tree).values(), IPV4_LEAVES):
        del leaves[leaf]
    vpc = make_vpc(tree, os=os, service6=True)
    agent = make_agent(vpc)
    started = time.monotonic()
    result = agent("apply", "--timeout", "5")
    assert result.code == 0, result
    assert time.monotonic() - started < 2
    assert_every_eni_answers(vpc)
    assert agent("verify").code == 0
    assert "0 things changed" in agent("apply").out
    assert agent("apply", "--metadata-url", "http://100.100.100.200", "--timeout", "1").code == 3


def test_a_host_with_ipv4_never_asks_by_ipv6(make_vpc, make_agent):
    """And a deadline stays what it is."""
    vpc = make_vpc(make_tree(ipv6=True), service6=True)
    started = time.monotonic()
    assert make_agent(vpc)("apply", "--timeout", "2").code == 3
    assert time.monotonic() - started < 3
    assert not vpc.service.requests


def test_a_secondary_without_ipv6_leaves_the_primarys_ipv6_alone(make_vpc, make_agent):
    """No secondary has IPv6, so that there is nothing to do for the primary's."""
    tree = make_tree(ipv6=True)
    for leaves in list(macs_of(tree).values())[1:]:
        for leaf in [leaf for leaf in leaves if "ipv6" in leaf]:
            del leaves[leaf]
    vpc = make_vpc(tree)
    before = ip(vpc, "-6 rule show"), ip(vpc, "-6 route show table all")
    applied(vpc, make_agent(vpc))
    assert (ip(vpc, "-6 rule show"), ip(vpc, "-6 route show table all")) == before
    assert_every_eni_answers(vpc, asks=[probe.ping])


@pytest.mark.parametrize("links", [["all", "eth0", "eth1", "eth2"], ["eth1"]], ids=["everywhere", "on one link"])
def test_ipv6_that_is_switched_off_does_no_harm_to_ipv4(make_vpc, make_agent, links):
    """By sysctl, while metadata gives IPv6 addresses; where it is on, it works too."""
    vpc = make_vpc(make_tree(ipv6=True))
    for name in links:
        vpc.instance.sysctl("net/ipv6/conf/{}/disable_ipv6".format(name), 1)
    result = make_agent(vpc)("apply")
    assert result.code in (0, 1)
    assert "IPv6" in result.out
    for dev, interface in vpc.nics.items():
        for subnet in interface.subnets:
            if subnet.version == 4 or not {"all", dev}.intersection(links):
                assert_answers_by(vpc, dev, subnet.addresses[0])


def test_an_eni_whose_only_ipv6_is_a_prefix(make_vpc, make_agent):
    tree = make_tree(ipv6=True, prefix=True)
    del list(macs_of(tree).values())[1]["ipv6s"]
    vpc = make_vpc(tree)
    agent = make_agent(vpc)
    applied(vpc, agent)
    prefix = vpc.subnet("eth1", 6).prefixes[0]
    assert sources_led_to(vpc, 1001, 6) == {str(prefix)}
    assert leaves_by(vpc, prefix[9], OUTSIDE[6]) == "eth1"
    assert agent("verify").code == 0


# the operating system's part


def test_an_operating_system_that_makes_no_defaults(make_vpc, make_agent):
    """Ubuntu 16: the secondaries get their address and nothing else. main gets the vendor's metrics."""
    vpc = make_vpc(make_tree(vswitches="own"), os="up")
    assert "gateway" not in lookup(vpc, None, OUTSIDE[4], oif="eth1")
    applied(vpc, make_agent(vpc))
    assert defaults(vpc) == [("eth0", 100, "dhcp"), ("eth1", 200, OURS), ("eth2", 300, OURS)]
    assert lookup(vpc, None, OUTSIDE[4], oif="eth1")["gateway"] == "172.16.20.253"
    assert_every_eni_answers(vpc)


@pytest.mark.parametrize("metric, expected", [(0, [200, 300]), (50, [200, 300]), (500, [600, 700])])
def test_a_default_of_ours_is_worse_than_the_primarys(make_vpc, make_agent, metric, expected):
    vpc = make_vpc(os="up")
    ip(vpc, "route del default dev eth0")
    ip(vpc, "route add default via 172.16.10.253 dev eth0 metric {}".format(metric))
    applied(vpc, make_agent(vpc))
    assert defaults(vpc) == [("eth0", metric, "boot"), ("eth1", expected[0], OURS), ("eth2", expected[1], OURS)]


ELSEWHERE = {"behind main": 32767, "in front of main": 9000}
"""Where the rule stands that leads to the table with the host's default route."""


def move_default(vpc, version, table):
    """Out of main, as link balancers and MAAS have it. IPv6 has no rule for table ``default`` of its own."""
    gateway = vpc.subnet("eth0", version).gateway
    ip(vpc, "-{} route del default dev eth0".format(version))
    ip(vpc, "-{} route add default via {} dev eth0 onlink table {}".format(version, gateway, table))


def hosts_own_ways(vpc, versions=(4, 6)):
    """Of packets that have chosen no source, and of the primary's to the metadata service."""
    asked = [(None, str(METADATA)), (str(vpc.address("eth0")), str(METADATA))]
    asked += [(None, OUTSIDE[version]) for version in versions]
    return {question: leaves_by(vpc, *question) for question in asked}


@pytest.mark.parametrize("where", list(ELSEWHERE))
@pytest.mark.parametrize("before", [True, False], ids=["before", "after a run"])
def test_a_host_whose_own_default_is_in_another_table_goes_by_it(make_vpc, make_agent, where, before):
    """A default in main by a secondary would come in front of it, or stand by to take its place."""
    vpc = make_vpc(make_tree(ipv6=True, vswitches="own"), os="up")
    agent = make_agent(vpc)
    if not before:
        applied(vpc, agent)
        assert len(defaults(vpc)) == len(defaults(vpc, 6)) == 3
    for version in (4, 6):
        ip(vpc, "-{} rule add lookup 77 priority {}".format(version, ELSEWHERE[where]))
        move_default(vpc, version, 77)
    if before:
        assert set(hosts_own_ways(vpc).values()) == {"eth0"}
    applied(vpc, agent)
    assert set(hosts_own_ways(vpc).values()) == {"eth0"}
    assert defaults(vpc) == defaults(vpc, 6) == []
    assert_every_eni_answers(vpc)
    state = kernel(vpc)
    assert agent("apply").code == agent("verify").code == agent("status").code == 0
    assert kernel(vpc) == state


def test_a_host_whose_own_default_is_in_the_table_of_that_name(make_vpc, make_agent):
    """The kernel has a rule for it, behind main's."""
    vpc = make_vpc(os="up")
    move_default(vpc, 4, "default")
    applied(vpc, make_agent(vpc))
    assert set(hosts_own_ways(vpc, [4]).values()) == {"eth0"} and defaults(vpc) == []
    assert_every_eni_answers(vpc)


def test_a_host_that_has_no_default_on_purpose_gets_none(make_vpc, make_agent):
    """Not by a secondary either; each family by itself."""
    vpc = make_vpc(make_tree(ipv6=True, vswitches="own"), os="up")
    ip(vpc, "route add 100.64.0.0/10 via 172.16.10.253 dev eth0")
    ip(vpc, "-4 route del default dev eth0")
    agent = make_agent(vpc)
    for _ in range(2):
        applied(vpc, agent)
        assert leaves_by(vpc, None, OUTSIDE[4]) == NO_WAY and defaults(vpc) == []
        assert leaves_by(vpc, None, OUTSIDE[6]) == leaves_by(vpc, None, str(METADATA)) == "eth0"
        assert [dev for dev, _, _ in defaults(vpc, 6)] == ["eth0", "eth1", "eth2"]
        for dev in ("eth1", "eth2"):
            assert_answers_by(vpc, dev, vpc.address(dev))
    ip(vpc, "route add default via 172.16.10.253 dev eth0 metric 100 proto dhcp")
    applied(vpc, agent)
    assert defaults(vpc) == [("eth0", 100, "dhcp"), ("eth1", 200, OURS), ("eth2", 300, OURS)]


def test_a_default_that_takes_the_hosts_own_way_is_taken_back_by_the_same_run(make_vpc, make_agent):
    """Main has a better one that the kernel passes by, because its link has no carrier."""
    vpc = make_vpc(os="up")
    move_default(vpc, 4, "default")
    ip(vpc, "link add dead0 type veth peer name dead1")
    ip(vpc, "link set dead0 up")
    vpc.instance.sysctl("net.ipv4.conf.dead0.ignore_routes_with_linkdown", 1)
    ip(vpc, "route add default dev dead0 metric 50")
    assert leaves_by(vpc, None, OUTSIDE[4]) == "eth0"
    agent = make_agent(vpc)
    result = agent("apply")
    assert set(hosts_own_ways(vpc, [4]).values()) == {"eth0"}
    assert defaults(vpc) == [("dead0", 50, "boot")]
    said = [line for line in result.out.splitlines() if line.startswith("PROBLEM")]
    assert result.code == 1 and [line.split("): ")[0].split(", ")[-1] for line in said] == ["eth1", "eth2"]
    assert all("eth0" in line and "taken back" in line for line in said)
    assert_every_eni_answers(vpc)


def test_an_ipv6_gateway_that_does_not_answer_costs_no_way(make_vpc, make_agent):
    """With a worse default beside it, the kernel passes it by and does not ask for it again."""
    vpc = make_vpc(make_tree(ipv6=True, vswitches="own"), os="up")
    gateway = vpc.subnet("eth0", 6).gateway
    ip(vpc, "-6 neighbour replace {} dev eth0 nud failed".format(gateway))
    agent = make_agent(vpc)
    result = agent("apply")
    assert leaves_by(vpc, None, OUTSIDE[6]) == "eth0" and [dev for dev, _, _ in defaults(vpc, 6)] == ["eth0"]
    assert result.code == 1 and result.out.count("PROBLEM: ") == result.out.count("taken back") == 2
    assert len(defaults(vpc)) == 3, "IPv4 has nothing to do with it"
    ip(vpc, "-6 neighbour del {} dev eth0".format(gateway))
    applied(vpc, agent)
    assert [dev for dev, _, _ in defaults(vpc, 6)] == ["eth0", "eth1", "eth2"]
    assert_every_eni_answers(vpc)


def test_a_default_that_is_there_is_enough(make_vpc, make_agent):
    vpc = make_vpc(make_tree(ipv6=True), os={"eth2": "up"})
    before = defaults(vpc), defaults(vpc, 6)
    applied(vpc, make_agent(vpc))
    assert defaults(vpc) == before[0] + [("eth2", 300, OURS)]
    added = [default for default in defaults(vpc, 6) if default not in before[1]]
    assert [(dev, protocol) for dev, _, protocol in added] == [("eth2", OURS)]
    assert added[0][1] > max(metric for dev, metric, _ in before[1] if dev == "eth0")


def test_strict_reverse_path_filter_on_every_link(make_vpc, make_agent):
    vpc = make_vpc(make_tree(4, vswitches=[0, 1, 0, 2]))
    for name in ("all", "default", "lo", *vpc.nics):
        vpc.instance.sysctl("net/ipv4/conf/{}/rp_filter".format(name), 1)
    with vpc.fabric.capture() as seen:
        assert not probe.ping(vpc.client, vpc.eips["eth1"], timeout=0.2)
    assert {packet.port for packet in seen if packet.direction == "from"} == {"client"}  # refused on arrival
    agent = make_agent(vpc)
    applied(vpc, agent)
    assert_every_eni_answers(vpc)
    for dev in vpc.nics:
        for where in vpc.nics:
            assert_answers_by(vpc, dev, vpc.address(dev), asker=vpc.neighbour(where), asks=[probe.ping])
    assert agent("verify").code == 0


# towards the vSwitches


@pytest.mark.parametrize("options", [{}, {"ipv6": True}], ids=["IPv4", "both"])
@pytest.mark.parametrize("onlink", [True, False], ids=["/64", "/128"])
def test_every_eni_answers_by_itself_towards_every_vswitch(make_vpc, make_agent, options, onlink):
    vpc = make_vpc(make_tree(4, vswitches=[0, 1, 0, 2], **options), ipv6_onlink=onlink)
    neighbours = [vpc.neighbour(dev) for dev in ("eth0", "eth1", "eth3")]
    with probe.echo_server(vpc.instance):
        assert not any(ask_all(vpc, vpc.address("eth0"), neighbours[1], timeout=0.1))  # the primary answers by eth1
    applied(vpc, make_agent(vpc))
    for dev, interface in vpc.nics.items():
        for neighbour, subnet in itertools.product(neighbours, interface.subnets):
            assert_answers_by(vpc, dev, subnet.addresses[0], asker=neighbour, asks=[probe.ping, probe.udp])


def test_every_source_reaches_every_vswitch_by_its_own_eni(make_vpc, make_agent):
    vpc = make_vpc(make_tree(4, vswitches=[0, 1, 0, 2], ipv6=True))
    applied(vpc, make_agent(vpc))
    for where in ("eth0", "eth1", "eth3"):
        neighbour = vpc.neighbour(where)
        with probe.echo_server(neighbour):
            for dev, version in itertools.product(vpc.nics, (4, 6)):
                assert_asks_by(vpc, dev, vpc.address(dev, version), neighbour.address(version))


# sockets


@pytest.mark.parametrize("version", [4, 6])
def test_sockets_bound_to_a_device_or_to_an_address(make_vpc, make_agent, version):
    vpc = make_vpc(make_tree(ipv6=True), os="up")
    applied(vpc, make_agent(vpc))
    with probe.echo_server(vpc.client):
        for dev in vpc.nics:
            assert leaves_by(vpc, None, OUTSIDE[version], oif=dev) == dev
            assert_asks_by(vpc, dev, vpc.address(dev, version), OUTSIDE[version])
            assert_asks_by(vpc, dev, vpc.address(dev, version), OUTSIDE[version], device=dev)
            with vpc.fabric.capture() as seen:
                assert all(ask_all(vpc, OUTSIDE[version], vpc.instance, device=dev))
            assert {(packet.port, packet.src) for packet in seen
                    if packet.direction == "from" and packet.port != "client"} == {(dev, vpc.address(dev, version))}


@pytest.mark.parametrize("bound", ["address", "device", "nothing"])
def test_servers_of_each_kind(make_vpc, make_agent, bound):
    """Bound to an address, to a device, and to nothing with packet info."""
    vpc = make_vpc(make_tree(ipv6=True))
    applied(vpc, make_agent(vpc))
    for dev, version in itertools.product(vpc.nics, (4, 6)):
        address = vpc.address(dev, version)
        options = {"address": {"address": address}, "device": {"device": dev}, "nothing": {}}[bound]
        dst = vpc.eips[dev] if version == 4 else address
        with probe.echo_server(vpc.instance, **options), vpc.fabric.capture() as seen:
            assert all(ask_all(vpc, dst, asks=[probe.tcp, probe.udp]))
        of_it = [packet for packet in seen if {packet.src, packet.dst} & {address, dst}]
        assert {(packet.port, packet.verdict) for packet in of_it} == {("client", "forwarded"), (dev, "forwarded")}


def test_who_chooses_no_source_is_answered_for_by_main(vpc, make_agent):
    """A limit that we state: UDP on 0.0.0.0 without packet info answers from the address that main chooses."""
    applied(vpc, make_agent(vpc))
    with probe.echo_server(vpc.instance, pktinfo=False):
        assert probe.udp(vpc.client, vpc.eips["eth0"])
        assert not probe.udp(vpc.client, vpc.eips["eth1"], timeout=0.3)
        assert probe.tcp(vpc.client, vpc.eips["eth1"])


def test_the_way_to_the_metadata_service_stays(make_vpc, make_agent):
    vpc = make_vpc(os="up")
    before = lookup(vpc, None, "100.100.100.200")
    applied(vpc, make_agent(vpc))
    assert lookup(vpc, None, "100.100.100.200") == before
    assert before["dev"] == "eth0"


# odd links


def test_a_child_with_its_parents_mac_is_not_the_eni(vpc, make_agent, tmp_path):
    """Where ENIs with such children are not left alone."""
    (tmp_path / "manage.yaml").write_text("container-networks: manage\n")
    ip(vpc, "link add link eth1 name mv0 address {} type macvlan mode private".format(vpc.nics["eth1"].mac))
    before = ip(vpc, "-d link show mv0")
    assert make_agent(vpc)("apply", "--config", tmp_path / "manage.yaml").code == 0
    assert table_of(vpc, "eth1") == 1001
    assert ip(vpc, "-d link show mv0") == before
    assert_every_eni_answers(vpc)


def test_a_bridge_that_took_its_ports_mac_carries_the_eni(make_vpc, make_agent):
    """The bridge has the address and the routes; the table is the one of the ENI's own link."""
    vpc = make_vpc(os={"eth1": "down"})
    for command in ("link add br0 type bridge", "link set eth1 master br0", "link set eth1 up", "link set br0 up",
                    "address add 172.16.20.10/24 dev br0",
                    "route add default via 172.16.20.253 dev br0 metric 200"):
        ip(vpc, command)
    assert vpc.nics["eth1"].mac in ip(vpc, "link show br0")
    before = kernel(vpc)
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    assert table_of(vpc, "br0") == 1001
    assert {route["dev"] for route in routes(vpc, 1001) if "dev" in route} == {"br0"}
    assert "group 60235" in ip(vpc, "link show br0") and "group default" in ip(vpc, "link show eth1")
    assert_every_eni_answers(vpc)
    assert_asks_by(vpc, "eth1", "172.16.20.10", vpc.neighbour("eth0").ipv4, asks=[probe.ping])
    assert agent("verify").code == 0
    assert agent("remove").code == 0
    assert kernel(vpc) == before


def test_addresses_that_metadata_does_not_know(make_vpc, make_agent):
    """A HAVIP on the ENI's link inside its vSwitch is the ENI's; what lies outside, or is another ENI's, is not."""
    vpc = make_vpc(make_tree(ipv6=True, vswitches=[0, 1, 1]), ipv6_onlink=True)
    for address in ("172.16.20.88/32", "10.99.0.1/24", "172.16.20.11/32", "2001:db8:20:a201::88/128", "fd00::1/64"):
        ip(vpc, "address add {} dev eth1".format(address))
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    assert sources_led_to(vpc, 1001) == {"172.16.20.10", "172.16.20.88"}
    assert sources_led_to(vpc, 1001, 6) == {"2001:db8:20:a201::1000", "2001:db8:20:a201::88"}
    assert sources_led_to(vpc, 1002) == {"172.16.20.11"}
    assert leaves_by(vpc, "172.16.20.88", OUTSIDE[4]) == "eth1"

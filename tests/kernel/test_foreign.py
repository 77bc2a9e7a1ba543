"""Other people's things: untouched by all that we do, still in force, and named where they defeat ours."""

import struct
from ipaddress import ip_network

import pytest

from eni_bootstrap.kernel import socket
from eni_bootstrap.lab import probe
from eni_bootstrap.lab.vpc import make_tree
from tests.oracle import (
    NO_WAY, OURS, OUTSIDE, assert_answers_by, assert_asks_by, assert_every_eni_answers, container, difference, ip,
    kernel, leaves_by, lookup, lost, routes, rules, table_of, watch,
)

VENDORS_PAGE = ["-4 route add default via 172.16.20.253 dev eth1 table 1001",
                "-4 rule add from 172.16.20.10 lookup 1001"]

UNTOUCHED = {
    "rules": [
        "rule add from 10.9.9.9 lookup 77", "rule add to 10.8.0.0/16 lookup 78", "rule add fwmark 0x7 lookup 79",
        "-6 rule add from fd00::9 lookup 77", "rule add from 10.7.0.0/16 unreachable", "rule add iif eth1 lookup main",
    ],
    "rules inside our band": [
        "rule add from 10.9.9.9 lookup 77 priority 7000", "rule add to 10.8.0.0/16 lookup main priority 7100",
        "rule add from 10.9.9.9 lookup 1500 priority 7200 protocol static",
        "rule add fwmark 0x7 lookup 78 priority 7999",
        "-6 rule add from fd00::9 unreachable priority 7400", "rule add oif eth1 lookup 77 priority 7500 fwmark 0x9",
    ],
    "twins of our rules": [
        "rule add from all lookup main suppress_prefixlength 0 suppress_ifgroup 60235 priority 7100 protocol 99",
        "rule add from 172.16.20.10 lookup 1001 priority 7200", "rule add oif eth1 lookup 1001 priority 7500",
        "rule add from 172.16.10.10 lookup 1000 priority 7600 protocol dhcp",
        "-6 rule add from 2001:db8:20:a201::1000 unreachable priority 7400",
    ],
    "our protocol outside our bands": [
        "rule add from 10.9.9.9 lookup 77 priority 9000 protocol 235",
        "rule add from 10.9.9.9 lookup 77 priority 6999 protocol 235",
        "route add 10.60.0.0/16 via 172.16.10.253 dev eth0 proto 235", "route add 10.62.0.0/16 dev eth1 proto 235",
        "route add default via 172.16.20.253 dev eth1 table 2000 proto 235",
        "route add 10.61.0.0/16 via 172.16.10.253 dev eth0 table 999 proto 235",
        "route add default dev veth9 metric 9999 proto 235", "-6 route add default dev veth9 metric 9999 proto 235",
    ],
    "routes through the ENI inside its table": [
        "route add 10.50.0.0/16 via 172.16.20.9 dev eth1 table 1001", "route add 10.51.0.0/16 dev eth1 table 1001",
        "route add default via 172.16.20.253 dev eth1 metric 50 table 1001 proto static",
        "-6 route add fd00:50::/32 dev eth1 table 1001 metric 77",
    ],
    "the vendor's page": VENDORS_PAGE,
    "the vendor's page, three times": VENDORS_PAGE + VENDORS_PAGE[1:] * 2,
    "tables of a container network": [
        "rule add from 10.77.0.0/16 lookup 1003 priority 2048", "route add default dev veth9 table 1003",
        "rule add from 10.78.0.0/16 lookup 1004 priority 2048", "route add default dev veth9 table 1100",
    ],
    "addresses": [
        "address add 10.99.0.1/24 dev eth1", "address add 192.168.5.5/32 dev lo",
        "address add 172.16.20.88/32 dev eth1",
        "address add fd00:5::5/64 dev eth1", "address add 172.16.20.89/32 dev veth9",
    ],
    "routes through the ENIs": [
        "route add 10.20.0.0/16 via 172.16.20.9 dev eth1", "route add 10.21.0.0/16 via 172.16.20.253 dev eth1 mtu 1400",
        "route add 10.22.0.0/16 via 172.16.10.9 dev eth0", "-6 route add fd00:20::/32 dev eth1 metric 7",
        "route add 10.23.0.0/16 nexthop via 172.16.20.9 dev eth1 nexthop via 172.16.10.9 dev eth0",
        "route add 10.24.0.0/16 via 172.16.20.9 dev eth1 tos 0x10", "route add blackhole 10.25.0.0/16",
    ],
}


def tap(vpc):
    """A VPN's device: a tun with its own networks and some behind it."""
    for command in ("tuntap add tun0 mode tun", "address add 10.8.0.1/24 dev tun0", "link set tun0 up",
                    "address add fd00:8::1/64 dev tun0", "route add 10.100.0.0/16 via 10.8.0.2 dev tun0",
                    "-6 route add fd00:100::/32 dev tun0"):
        ip(vpc, command)


@pytest.fixture
def docker(vpc):
    """A container on a bridge."""
    for command in ("link add docker0 type bridge", "address add 172.17.0.1/16 dev docker0", "link set docker0 up"):
        ip(vpc, command)
    with container(vpc, "172.17.0.2", "172.17.0.1", link="veth1", bridge="docker0") as inside:
        yield inside


@pytest.mark.parametrize("before_us", [True, False], ids=["there before us", "made after us"])
@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_others_made_is_untouched_by_apply_and_by_remove(make_vpc, make_agent, name, before_us):
    vpc = make_vpc(make_tree(ipv6=True))
    agent = make_agent(vpc)
    ip(vpc, "link add veth9 type veth peer name veth10")
    ip(vpc, "link set veth9 up")
    if not before_us:
        without = kernel(vpc)
        assert agent("apply").code == 0
        ours = kernel(vpc)
    for command in UNTOUCHED[name]:
        if before_us or command != VENDORS_PAGE[0]:  # the kernel refuses what is there already
            ip(vpc, command)
    before = kernel(vpc)
    result = agent("apply")
    assert result.code == 0, result
    if before_us:
        assert lost(before, kernel(vpc)) == []
        assert agent("verify").code == 0, agent("verify").out
    else:
        theirs = difference(ours, before)[1]
        assert not set(theirs).intersection(lost(before, kernel(vpc)))
    with watch(vpc) as said:
        agent("apply")
    assert said == []
    assert_every_eni_answers(vpc, asks=[probe.ping])
    assert agent("remove").code == 0
    if before_us:
        assert kernel(vpc) == before
    else:
        gone, come = difference(without, kernel(vpc))
        assert not gone and sorted(come) == theirs


def test_a_twin_of_ours_that_came_later_is_not_ours(vpc, make_agent):
    """Two rules that differ in nothing but the protocol: remove takes the right one."""
    agent = make_agent(vpc)
    agent("apply")
    ip(vpc, "rule add from 172.16.20.10 lookup 1001 priority 7200 protocol static")
    assert agent("remove").code == 0
    assert [rule["protocol"] for rule in rules(vpc) if rule["priority"] == 7200] == ["static"]


# tables


@pytest.mark.parametrize("theirs", [
    "route add default via 172.16.10.253 dev eth0 table 1001", "route add 10.5.0.0/16 dev eth0 table 1001",
    "route add default via 172.16.20.99 dev eth1 table 1001", "route add blackhole 10.5.0.0/16 table 1001",
    "rule add from 10.5.5.5 lookup 1001 priority 300",
])
def test_a_table_that_is_somebody_elses(vpc, make_agent, theirs):
    """eth1 moves to a free one, says so, and stays there however the other one fares."""
    agent = make_agent(vpc)
    ip(vpc, theirs)
    before = kernel(vpc)
    result = agent("apply")
    assert result.code == 0
    assert "1001" in result.out and "1100" in result.out and "eth1" in result.out
    assert lost(before, kernel(vpc)) == []
    assert (table_of(vpc, "eth1"), table_of(vpc, "eth2")) == (1100, 1002)
    assert not [route for route in routes(vpc, 1001) if route["protocol"] == OURS]
    assert_every_eni_answers(vpc)
    assert difference(kernel(vpc), agent("apply") and kernel(vpc)) == ([], [])
    for change in (theirs.replace(" add ", " del "), "link set eth1 down", "link set eth1 up"):
        ip(vpc, change)
        assert agent("apply").code == 0
        assert table_of(vpc, "eth1") == 1100
    assert agent("remove").code == 0
    assert "1100" not in ip(vpc, "rule") + ip(vpc, "route show table all")


def test_a_table_that_somebody_takes_from_us(vpc, make_agent):
    agent = make_agent(vpc)
    agent("apply")
    ip(vpc, "route add default via 172.16.10.253 dev eth0 table 1001 metric 5")
    result = agent("apply")
    assert result.code == 0 and "1100" in result.out
    assert table_of(vpc, "eth1") == 1100
    assert [(route["dev"], route["metric"]) for route in routes(vpc, 1001)] == [("eth0", 5)]
    assert_every_eni_answers(vpc)


def test_the_displaced_id_must_be_free_too(make_vpc, make_agent):
    """The tables of a container network, 1001 to 1003 and 1100: all ENIs move, none twice."""
    vpc = make_vpc(make_tree(4, vswitches=[0, 1, 0, 2]))
    for table in (1001, 1002, 1003, 1100):
        ip(vpc, "route add default via 172.16.10.253 dev eth0 table {}".format(table))
    before = kernel(vpc)
    assert make_agent(vpc)("apply").code == 0
    assert [table_of(vpc, dev) for dev in ("eth1", "eth2", "eth3")] == [1101, 1102, 1103]
    assert lost(before, kernel(vpc)) == []
    assert_every_eni_answers(vpc, asks=[probe.ping])


def test_the_table_of_the_vendors_page_is_shared(vpc, make_agent):
    agent = make_agent(vpc)
    for command in VENDORS_PAGE:
        ip(vpc, command)
    result = agent("apply")
    assert "1100" not in result.out
    assert table_of(vpc, "eth1") == 1001
    vpc.set_link("eth1", False)
    assert leaves_by(vpc, "172.16.20.10", OUTSIDE[4]) == NO_WAY  # the fence is ours


# local routes


def test_containers_are_reached_from_every_source(vpc, docker, make_agent):
    """And reach every address. With the vendor's page alone they would not."""
    for command in VENDORS_PAGE:
        ip(vpc, command)
    assert not probe.ping(vpc.instance, "172.17.0.2", src=vpc.address("eth1"), timeout=0.2)
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    with probe.echo_server(docker):
        for dev in vpc.nics:
            for ask in (probe.ping, probe.tcp, probe.udp):
                assert ask(vpc.instance, "172.17.0.2", src=vpc.address(dev))
                assert ask(vpc.instance, "172.17.0.2")
            assert probe.ping(docker, vpc.address(dev))
    assert "docker0" in agent("verify").out and agent("verify").code == 0


def test_vpn_routes_hold_for_every_source(make_vpc, make_agent):
    vpc = make_vpc(make_tree(ipv6=True))
    tap(vpc)
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    for version, dst in ((4, "10.100.3.4"), (4, "10.8.0.77"), (6, "fd00:8::77"), (6, "fd00:100::1")):
        assert {leaves_by(vpc, vpc.address(dev, version), dst) for dev in vpc.nics} == {"tun0"}
        assert leaves_by(vpc, None, dst) == "tun0"
    assert agent("verify").code == 0


# the user's routes through the ENIs


def test_the_users_own_routes_through_an_eni_hold_for_its_sources(vpc, make_agent):
    """With another gateway than the vSwitch's, with an mtu; not for the sources of the others."""
    agent = make_agent(vpc)
    ip(vpc, "route add 10.20.0.0/16 via 172.16.20.9 dev eth1")
    ip(vpc, "route add 10.21.0.0/16 via 172.16.20.253 dev eth1 mtu 1400")
    agent("apply")
    one, primary, two = (str(vpc.address(dev)) for dev in ("eth1", "eth0", "eth2"))
    assert lookup(vpc, one, "10.20.1.1")["gateway"] == "172.16.20.9"
    assert [route["metrics"] for route in routes(vpc, 1001) if route["dst"] == "10.21.0.0/16"] == [[{"mtu": 1400}]]
    for source, dev in ((primary, "eth0"), (two, "eth2")):
        assert (lookup(vpc, source, "10.20.1.1")["dev"], lookup(vpc, source, "10.20.1.1")["gateway"]) == (
            dev, "172.16.10.253")
    before = kernel(vpc)
    ip(vpc, "route del 10.20.0.0/16")
    agent("apply")
    gone, come = difference(before, kernel(vpc))
    assert not come and len(gone) == 3 and all("10.20.0.0/16" in line for line in gone)


@pytest.mark.parametrize("words, hops", [
    ("via 172.16.20.10 dev eth1", [None]),
    ("nexthop via 172.16.20.9 dev eth1 nexthop via 172.16.20.10 dev eth1", ["172.16.20.9", None]),
], ids=["alone", "one of two"])
def test_a_gateway_that_is_the_hosts_own_address_means_on_the_link(vpc, make_agent, words, hops):
    """The old way of saying it, which main takes and ``onlink`` does not."""
    agent = make_agent(vpc)
    ip(vpc, "route add 198.18.5.0/24 " + words)
    assert agent("apply").code == 0 and agent("verify").code == 0
    copy, = [route for route in routes(vpc, 1001) if route["dst"] == "198.18.5.0/24"]
    assert [hop.get("gateway") for hop in copy.get("nexthops", [copy])] == hops
    assert "nothing to do" in agent("plan").out
    assert_every_eni_answers(vpc, asks=[probe.ping])


def test_the_users_more_specific_routes_through_the_primary_hold_for_it(vpc, make_agent):
    """Inside another ENI's vSwitch, where the primary would otherwise go by its own gateway."""
    ip(vpc, "route add 172.16.20.64/26 via 172.16.10.9 dev eth0")
    ip(vpc, "route add 10.22.0.0/16 via 172.16.10.9 dev eth0")
    make_agent(vpc)("apply")
    answers = [lookup(vpc, vpc.address("eth0"), dst) for dst in ("172.16.20.70", "10.22.0.1", "172.16.20.7")]
    assert [answer["dev"] for answer in answers] == ["eth0"] * 3
    assert [answer["gateway"] for answer in answers] == ["172.16.10.9", "172.16.10.9", "172.16.10.253"]


def test_the_primary_leaves_by_itself_when_mains_best_default_does_not(make_vpc, make_agent):
    vpc = make_vpc(make_tree(ipv6=True))
    ip(vpc, "route add default via 172.16.20.253 dev eth1 metric 50")
    ip(vpc, "-6 route add default via {} dev eth1 onlink metric 50".format(vpc.subnet("eth1", 6).gateway))
    with probe.echo_server(vpc.instance):
        assert not probe.ping(vpc.client, vpc.eips["eth0"], timeout=0.2)
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    assert_every_eni_answers(vpc)
    assert leaves_by(vpc, None, OUTSIDE[4]) == "eth1"  # main is the user's
    assert agent("verify").code == 0


def test_the_primary_leaves_by_itself_when_mains_default_is_shared(make_vpc, make_agent):
    """Router advertisements on two links make one default of two hops, or two of one metric."""
    vpc = make_vpc(make_tree(ipv6=True))
    ip(vpc, "-6 route append default via {} dev eth1 onlink metric 1024".format(vpc.subnet("eth1", 6).gateway))
    far = ["2001:db8:c11e::{:x}".format(number) for number in range(40)]
    assert {leaves_by(vpc, vpc.address("eth0", 6), dst) for dst in far} == {"eth0", "eth1"}
    assert make_agent(vpc)("apply").code == 0
    for dev in vpc.nics:
        assert {leaves_by(vpc, vpc.address(dev, 6), dst) for dst in far} == {dev}


def test_routes_of_every_kind_are_copied(make_vpc, make_agent):
    """With a metric, by a nexthop object, by an IPv6 gateway; but none that goes by itself."""
    vpc = make_vpc(make_tree(ipv6=True))
    for command in (
        "nexthop add id 5 via 172.16.20.9 dev eth1", "nexthop add id 6 via fe80::9 dev eth1",
        "route add 10.20.0.0/16 nhid 5", "-6 route add fd00:20::/32 nhid 6",
        "-6 route add fd00:78::/32 via fe80::7 dev eth1 metric 77",
        "route add 10.40.0.0/16 via inet6 fe80::5 dev eth1", "route add 10.41.0.0/16 dev eth1 metric 9",
        "-6 route add fd00:77::/32 via fe80::1 dev eth1 expires 600",
    ):
        ip(vpc, command)
    assert make_agent(vpc)("apply").code == 0
    found = [route for version in (4, 6) for route in routes(vpc, 1001, version)]
    copied = {(route["dst"], route.get("gateway") or route.get("via", {}).get("host"), route.get("metric"))
              for route in found if route["dst"].startswith(("10.", "fd00:"))}
    assert copied == {
        ("10.20.0.0/16", "172.16.20.9", None), ("10.40.0.0/16", "fe80::5", None), ("10.41.0.0/16", None, 9),
        ("fd00:20::/32", "fe80::9", 1024), ("fd00:78::/32", "fe80::7", 77),
    }
    assert lookup(vpc, vpc.address("eth1", 6), "fd00:78::1")["gateway"] == "fe80::7"
    assert lookup(vpc, vpc.address("eth0", 6), "fd00:78::1")["dev"] == "eth0"
    assert lookup(vpc, vpc.address("eth2", 6), "fd00:78::1")["dev"] == "eth2"


@pytest.mark.parametrize("compatible", [1, 0])
def test_routes_by_nexthop_objects_are_seen_whatever_the_kernel_tells_of_them(make_vpc, make_agent, compatible):
    """nexthop_compat_mode=0: a route tells the id alone; and so does the default of a host that FRR has set up."""
    vpc = make_vpc(make_tree(ipv6=True))
    vpc.instance.sysctl("net/ipv4/nexthop_compat_mode", compatible)
    for command in ("nexthop add id 5 via 172.16.20.9 dev eth1", "nexthop add id 6 via 172.16.20.8 dev eth1",
                    "nexthop add id 7 group 5/6", "nexthop add id 8 via 172.16.10.253 dev eth0",
                    "route add 10.20.0.0/16 nhid 5", "route add 10.21.0.0/16 nhid 7",
                    "route del default dev eth0", "route add default nhid 8"):
        ip(vpc, command)
    assert make_agent(vpc)("apply").code == 0
    copied = {route["dst"]: {hop["gateway"] for hop in route.get("nexthops", [route])}
              for route in routes(vpc, 1001) if route["dst"].startswith("10.")}
    assert copied == {"10.20.0.0/16": {"172.16.20.9"}, "10.21.0.0/16": {"172.16.20.8", "172.16.20.9"}}
    assert lookup(vpc, None, OUTSIDE[4])["dev"] == "eth0"


SEG6 = "encap seg6 mode encap segs 2001:db8:99::1"
BEYOND_A_COPY = {
    "encap ip": ("10.60.0.0/16", ["route add {} encap ip id 7 dst 172.16.20.200 via 172.16.20.9 dev eth1"]),
    "encap ip, one of two ways": ("10.60.0.0/16", [
        "route add {} nexthop encap ip id 7 dst 172.16.20.200 via 172.16.20.9 dev eth1 "
        "nexthop via 172.16.20.8 dev eth1"]),
    "encap ip, and a worse one without": ("10.60.0.0/16", [
        "route add {} encap ip id 7 dst 172.16.20.200 via 172.16.20.9 dev eth1 metric 5",
        "route add {} via 172.16.20.8 dev eth1 metric 6"]),
    "encap seg6": ("fd00:60::/32", ["-6 route add {} " + SEG6 + " via fe80::9 dev eth1"]),
    "encap seg6 of IPv4": ("10.60.0.0/16", ["route add {} " + SEG6 + " dev eth1"]),
    "encap seg6 of a nexthop object": ("fd00:60::/32", [
        "nexthop add id 5 " + SEG6 + " via fe80::9 dev eth1", "-6 route add {} nhid 5"]),
    "from": ("fd00:60::/32", ["-6 route add {} from 2001:db8:20:a201::/64 via fe80::9 dev eth1"]),
}


def reaches(vpc, dev, network):
    """Whether the kernel knows a way for the ENI's address."""
    first = str(ip_network(network)[1])
    version = ip_network(network).version
    return leaves_by(vpc, vpc.address(dev, version), first) != NO_WAY


@pytest.mark.parametrize("network, commands", BEYOND_A_COPY.values(), ids=list(BEYOND_A_COPY))
def test_what_can_t_be_copied_whole_is_named_and_fails_closed_as_long_as_it_is_there(make_vpc, make_agent, network,
                                                                                     commands):
    """Not bare: what the user has encapsulated must not go out as it is."""
    vpc = make_vpc(make_tree(ipv6=True))
    agent, version = make_agent(vpc), ip_network(network).version
    assert agent("apply").code == 0
    without = kernel(vpc)
    for command in commands:
        ip(vpc, command.format(network))
    before = kernel(vpc)
    for _ in range(2):
        result = agent("apply")
        assert result.code == 0 and network in result.out and "eth1): table 1001 can't have a copy of" in result.out
        found = [route for route in routes(vpc, 1001, version) if route["dst"] == network]
        assert [(route["type"], route["protocol"]) for route in found] == [("unreachable", OURS)]
        assert not reaches(vpc, "eth1", network) and reaches(vpc, "eth2", network) and reaches(vpc, "eth0", network)
    assert "0 things changed" in result.out and lost(before, kernel(vpc)) == []
    assert network in agent("verify").out
    assert_every_eni_answers(vpc)
    ip(vpc, "nexthop flush")
    ip(vpc, "-{} route flush exact {}".format(version, network))
    result = agent("apply")
    assert result.code == 0 and network not in result.out
    assert difference(without, kernel(vpc)) == ([], []) and reaches(vpc, "eth1", network)


def test_a_destination_that_fails_closed_is_open_again_when_the_route_can_be_copied(vpc, make_agent):
    """And by another route of the user's in the table itself."""
    agent = make_agent(vpc)
    ip(vpc, "route add 10.60.0.0/16 encap ip id 7 dst 172.16.20.200 via 172.16.20.9 dev eth1")
    ip(vpc, "route add 10.61.0.0/16 encap ip id 7 dst 172.16.20.200 via 172.16.20.9 dev eth1")
    assert agent("apply").code == 0 and not reaches(vpc, "eth1", "10.60.0.0/16")
    ip(vpc, "route replace 10.60.0.0/16 via 172.16.20.9 dev eth1")
    ip(vpc, "route add 10.61.0.0/16 encap ip id 7 dst 172.16.20.200 via 172.16.20.9 dev eth1 table 1001")
    for _ in range(2):
        assert agent("apply").code == 0 and table_of(vpc, "eth1") == 1001
        for destination in ("10.60.0.1", "10.61.0.1"):
            assert lookup(vpc, vpc.address("eth1"), destination)["gateway"] == "172.16.20.9"
    assert agent("remove").code == 0
    assert ip(vpc, "route show table 1001").split()[0] == "10.61.0.0/16"


def test_a_better_route_that_can_be_copied_is(vpc, make_agent):
    """As in main, where the worse one is not asked either."""
    ip(vpc, "route add 10.60.0.0/16 via 172.16.20.8 dev eth1 metric 4")
    ip(vpc, "route add 10.60.0.0/16 encap ip id 7 dst 172.16.20.200 via 172.16.20.9 dev eth1 metric 5")
    assert make_agent(vpc)("apply").code == 0
    assert [(route["type"], route.get("gateway")) for route in routes(vpc, 1001) if route["dst"] == "10.60.0.0/16"] == [
        ("unicast", "172.16.20.8")]


def test_of_ways_by_several_enis_only_the_eni_s_own_counts(vpc, make_agent):
    ip(vpc, "route add 10.60.0.0/16 nexthop encap ip id 7 dst 172.16.20.200 via 172.16.20.9 dev eth1 "
            "nexthop via 172.16.10.9 dev eth2")
    assert make_agent(vpc)("apply").code == 0
    assert not reaches(vpc, "eth1", "10.60.0.0/16")
    assert lookup(vpc, vpc.address("eth2"), "10.60.0.1")["gateway"] == "172.16.10.9"


@pytest.mark.parametrize("metrics", [
    "mtu lock 1400", "congctl reno", "features ecn", "rto_min 50", "realm 4/5", "fastopen_no_cookie 1",
    "mtu lock 1400 congctl reno features ecn rto_min 50 realm 4/5 hoplimit 9 initcwnd 20 advmss 1000 quickack 1",
])
def test_no_metric_makes_a_destination_fail(make_vpc, make_agent, metrics):
    vpc = make_vpc(make_tree(ipv6=True))
    ip(vpc, "route add 10.60.0.0/16 via 172.16.20.9 dev eth1 " + metrics)
    if "realm" not in metrics:
        ip(vpc, "-6 route add fd00:60::/32 via fe80::9 dev eth1 " + metrics)
    result = make_agent(vpc)("apply")
    assert result.code == 0 and "10.60." not in result.out and "fd00:60:" not in result.out
    assert lookup(vpc, vpc.address("eth1"), "10.60.0.1")["gateway"] == "172.16.20.9"
    if "realm" not in metrics:
        assert lookup(vpc, vpc.address("eth1", 6), "fd00:60::1")["gateway"] == "fe80::9"


def test_a_route_with_an_attribute_that_nobody_knows_yet_is_not_copied(vpc, make_agent, monkeypatch):
    """As a later kernel may tell one; metrics that nobody knows do no harm."""
    ip(vpc, "route add 10.60.0.0/16 via 172.16.20.9 dev eth1 metric 60")
    ip(vpc, "route add 10.61.0.0/16 via 172.16.20.9 dev eth1 metric 61 mtu 1400")
    agent, dump = make_agent(vpc), socket.Socket.dump

    def told(self, message, take=None):
        for body in dump(self, message, take):
            if message.type == 26 and (struct.pack("=HHI", 8, 6, 60) in body or body[5] == int(OURS)):
                body += struct.pack("=HHI", 8, 99, 7)
            lists = struct.pack("=HHHHI", 12, 8, 8, 2, 1400)  # RTA_METRICS, of them the MTU
            yield body.replace(lists, struct.pack("=HHHHIHHI", 20, 8, 8, 2, 1400, 8, 99, 7))

    monkeypatch.setattr(socket.Socket, "dump", told)
    for _ in range(2):
        result = agent("apply")
        assert result.code == 0 and "10.60.0.0/16 via 172.16.20.9 dev eth1 attribute 99" in result.out
        assert not reaches(vpc, "eth1", "10.60.0.0/16") and reaches(vpc, "eth1", "10.61.0.0/16")
    assert "0 things changed" in result.out  # to those of ours it makes no difference


def test_a_thousand_routes_that_can_t_be_copied_make_one_remark(vpc, make_agent):
    lines = ["route add 10.{}.{}.0/24 encap ip id 7 dst 172.16.20.200 via 172.16.20.9 dev eth1".format(
        60 + n // 250, n % 250) for n in range(900)]
    vpc.instance.run(["ip", "-batch", "-"], input="\n".join(lines))
    result = make_agent(vpc)("apply")
    assert result.code == 0 and "and 897 more" in result.out and len(result.out) < 4000
    assert not reaches(vpc, "eth1", "10.60.0.0/24") and not reaches(vpc, "eth1", "10.63.149.0/24")


def test_a_copied_route_keeps_the_source_that_it_prefers(vpc, make_agent):
    ip(vpc, "address add 172.16.20.88/32 dev eth1")
    ip(vpc, "route add 10.41.0.0/16 via 172.16.20.253 dev eth1 src 172.16.20.88")
    assert lookup(vpc, None, "10.41.0.1", oif="eth1")["prefsrc"] == "172.16.20.88"
    assert make_agent(vpc)("apply").code == 0
    assert lookup(vpc, None, "10.41.0.1", oif="eth1")["prefsrc"] == "172.16.20.88"


# what defeats us is named


@pytest.mark.parametrize("theirs, named", [
    (["route add 0.0.0.0/1 dev tun0", "route add 128.0.0.0/1 dev tun0"], ["128.0.0.0/1", "tun0"]),
    (["route add unreachable default metric 1"], ["unreachable"]),
    (["rule add from 172.16.20.10 lookup 77", "route add default via 172.16.10.253 dev eth0 table 77"],
     ["from 172.16.20.10 lookup 77"]),
    (["rule add from 172.16.20.0/24 lookup main priority 50"], ["from 172.16.20.0/24 lookup main"]),
    (["rule add from all lookup main priority 60"], ["from all lookup main priority 60"]),
    (["rule add to 203.0.113.0/24 lookup main priority 60"], ["to 203.0.113.0/24 lookup main"]),
], ids=["VPN", "kill-switch", "without priority", "for the vSwitch", "for all", "by destination"])
def test_what_defeats_us_is_named(vpc, make_agent, theirs, named):
    tap(vpc)
    ip(vpc, "route add 100.100.100.200 via 172.16.10.253 dev eth0")  # otherwise the metadata service is lost too
    agent = make_agent(vpc)
    assert agent("apply").code == 0 and agent("verify").code == 0
    for command in theirs:
        ip(vpc, command)
    assert leaves_by(vpc, "172.16.20.10", OUTSIDE[4]) != "eth1"
    result = agent("verify")
    assert result.code == 1
    assert [word for word in named if word not in result.out] == []


def test_a_rule_that_jumps_the_queue_is_named_even_when_it_does_no_harm(vpc, make_agent):
    agent = make_agent(vpc)
    agent("apply")
    ip(vpc, "rule add from 172.16.20.10 lookup 77")
    result = agent("verify")
    assert result.code == 0
    assert "from 172.16.20.10 lookup 77" in result.out


# links


def test_an_interface_group_of_somebody_else(vpc, docker, make_agent):
    """We do without, and say so; the other vSwitches are still left by one's own ENI."""
    ip(vpc, "link set eth1 group 7")
    before = kernel(vpc)
    agent = make_agent(vpc)
    result = agent("apply")
    assert result.code == 0
    assert "group 7" in result.out
    assert not [line for line in kernel(vpc).splitlines() if " group 60235" in line or "ifgroup" in line]
    assert_every_eni_answers(vpc)
    for where in ("eth0", "eth1"):
        neighbour = vpc.neighbour(where)
        with probe.echo_server(neighbour):
            for dev in vpc.nics:
                assert_asks_by(vpc, dev, vpc.address(dev), neighbour.ipv4)
                assert_answers_by(vpc, dev, vpc.address(dev), asker=neighbour)
    assert all(probe.ping(vpc.instance, "172.17.0.2", src=vpc.address(dev)) for dev in vpc.nics)
    assert agent("remove").code == 0
    assert kernel(vpc) == before


def test_ten_thousand_routes_and_a_thousand_rules(vpc, make_agent):
    """Of a routing daemon: all still there, and ours among them."""
    ip(vpc, "link add veth9 type veth peer name veth10")
    ip(vpc, "link set veth9 up")
    batch = ["route add 10.{}.{}.0/24 dev veth9 proto bgp".format(i // 250, i % 250) for i in range(10000)]
    batch += ["rule add from 10.1.{}.{} lookup 77".format(i // 250, i % 250) for i in range(1000)]
    vpc.instance.run(["ip", "-batch", "-"], input="\n".join(batch))
    before = kernel(vpc)
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    assert table_of(vpc, "eth1") == 1001
    assert lost(before, kernel(vpc)) == []
    assert_every_eni_answers(vpc)
    assert agent("remove").code == 0
    assert kernel(vpc) == before

"""ENIs that a container network has."""

import pytest

from eni_bootstrap.config.file import EXAMPLE, read
from eni_bootstrap.desired.cni import BANDS, band_tables, parents
from eni_bootstrap.host.cni_config import container_networks
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.eni import SickInterface
from eni_bootstrap.model.host import ContainerNetwork
from eni_bootstrap.model.kernel import Match, Rule, SeenRule
from eni_bootstrap.plan.diff import plan
from tests.build import (
    BOOT, CONFIG, ETH1, ETH2, MAIN, OURS, PRIMARY, address, decision, interface, link, mac, net, route, subnet,
    two_enis,
)
from tests.fakes import FakeKernel
from tests.unit.host.test_cni_config import write

TERWAY = ContainerNetwork("terway", "/etc/cni/net.d/10-terway.conflist", True)
CILIUM = ContainerNetwork("Cilium", "/etc/cni/net.d/05-cilium.conflist")
AWS = ContainerNetwork("AWS VPC CNI", "/etc/cni/net.d/10-aws.conflist")
HOST_DEVICE = ContainerNetwork("host-device", "/etc/cni/net.d/30-fast.conf", True)
POD = net("172.16.20.21/32")
WITH_POD = interface(1, subnet("172.16.20.0/24", "172.16.20.20", "172.16.20.21", prefixes=["172.16.20.32/28"]))


def child(kind, of, **more):
    """A link made of ENI number ``of``."""
    return link(9, "child0", kind=kind, parent=of + 2, **more)._replace(ifindex=90)


def decided(world, *interfaces, networks=(), config=CONFIG, **options):
    return decision(world, *(interfaces or (PRIMARY, WITH_POD)), networks=networks, config=config, **options)


def devs(made):
    """The devices of the ENIs that are set up."""
    return [eni.dev for eni in made.enis]


def said_of(made, dev):
    return " ".join(remark for remark in made.remarks if dev in remark and "left alone" in remark)


# a container network's children


@pytest.mark.parametrize("kind", ["ipvlan", "ipvtap", "macvlan", "macvtap"])
def test_an_eni_with_a_child_as_containers_have_is_left_alone(kind):
    made = decided(two_enis(links=[link(0), link(1), child(kind, 1)]))
    assert devs(made) == ["eth0"] and not made.unready
    assert "child0" in said_of(made, "eth1") and kind in said_of(made, "eth1")
    assert "container-networks: manage" in said_of(made, "eth1")


@pytest.mark.parametrize("kind", ["ipvlan", "ipvtap", "macvlan", "macvtap"])
@pytest.mark.parametrize("held, found", [
    ("172.16.20.100/32", ["eth0", "eth1"]), ("10.9.9.9/32", ["eth0", "eth1"]), ("172.16.20.20/24", ["eth0", "eth1"]),
    ("172.16.10.10/32", ["eth0"])])
def test_a_child_with_an_address_of_this_host_s_own(kind, held, found):
    """Another link's, the primary's, is none: terway's child bears it, by which containers reach the node."""
    world = two_enis(links=[link(0), link(1), child(kind, 1)], addresses=[address("child0", held)])
    assert devs(decided(world)) == found
    world = two_enis(links=[link(0), link(1), child(kind, 1), child(kind, 1)._replace(ifindex=91, name="child1")],
                     addresses=[address("child0", held)])
    assert devs(decided(world)) == ["eth0"], "the other one is somebody's"


@pytest.mark.parametrize("other", [
    child("vlan", 1), child("veth", 1), child("macvlan", 0), child("macvlan", 1)._replace(parent=0), child("vxlan", 1),
], ids=["VLAN", "veth", "of the primary", "of another namespace's link", "VXLAN"])
def test_other_children_say_nothing(other):
    assert devs(decided(two_enis(links=[link(0), link(1), other]))) == ["eth0", "eth1"]


def test_a_child_of_the_bond_that_carries_the_eni():
    bond = link(1, "bond0", kind="bond")._replace(ifindex=50)
    links = [link(0), link(1, master=50), bond, child("macvlan", 48)]
    assert devs(decided(two_enis(links=links))) == ["eth0"]


def test_with_manage_it_is_set_up():
    config = CONFIG._replace(container_networks="manage")
    made = decided(two_enis(links=[link(0), link(1), child("macvlan", 1)]), config=config, networks=[TERWAY])
    assert devs(made) == ["eth0", "eth1"]


# a container network's rules and routes; eth1 has the interface index 3


DEFAULT = {number: (route(number, "default", "eth1 172.16.20.253"), BOOT) for number in (11, 1001, 1003, 1004, 2)}


def lookup(priority, table, src=None, dst=None):
    return Rule(4, priority, src, table=table, match=Match(dst=dst)), BOOT


@pytest.mark.parametrize("network, seen_routes, seen_rules", [
    (TERWAY, [DEFAULT[1003]], []),
    (TERWAY, [], [lookup(512, MAIN, dst=POD)]),
    (TERWAY, [], [lookup(2048, 1003, src=POD)]),
    (TERWAY, [], [lookup(512, MAIN, dst=net("172.16.20.33/32"))]),
    (CILIUM, [DEFAULT[11]], [lookup(111, 11, src=net("10.9.9.9/32"))]),
    (CILIUM, [], [lookup(110, 11, src=POD)]),
    (CILIUM, [], [lookup(20, MAIN, dst=POD)]),
    (AWS, [DEFAULT[2]], [lookup(1536, 2, src=net("10.9.9.9/32"))]),
    (AWS, [], [lookup(512, MAIN, dst=POD)]),
])
def test_where_a_network_has_its_own_somebody_uses_the_eni(network, seen_routes, seen_rules):
    world = two_enis(seen_routes, seen_rules)
    made = decided(world, networks=[network])
    assert devs(made) == ["eth0"] and not made.unready
    said = said_of(made, "eth1")
    assert network.name in said and network.path in said
    assert str((seen_rules or seen_routes)[0][0]) in said
    assert devs(decided(world)) == ["eth0", "eth1"], "no container network is configured"


@pytest.mark.parametrize("network, seen_routes, seen_rules", [
    (TERWAY, [], []),
    (TERWAY, [DEFAULT[1001]], [lookup(511, 1001, src=net("172.16.20.20/32"))]),
    (TERWAY, [DEFAULT[1001]], [lookup(2048, 1001, src=net("172.16.20.20/32"))]),
    (TERWAY, [DEFAULT[1001]], [lookup(6999, 1001, src=net("172.16.20.20/32"))]),
    (CILIUM, [DEFAULT[1001]], [lookup(110, 1001, src=net("172.16.20.20/32"))]),
    (AWS, [DEFAULT[1001]], [lookup(512, 1001, src=net("172.16.20.20/32"))]),
    (TERWAY, [DEFAULT[1004]], []),
    (TERWAY, [(route(1002, "default", "eth0 172.16.10.253"), BOOT)], [lookup(2048, 1002, src=net("172.16.10.11/32"))]),
    (TERWAY, [], [lookup(512, MAIN, dst=net("172.16.10.11/32")), lookup(512, MAIN, dst=net("10.1.0.0/16"))]),
    (CILIUM, [], [lookup(9, 2004), lookup(100, 255)]),
    (HOST_DEVICE, [DEFAULT[1003]], [lookup(2048, 1003, src=POD)]),
], ids=["nothing", "the vendor's page before terway's", "the vendor's page by chance", "the vendor's page before ours",
        "the vendor's page by chance, Cilium", "the vendor's page by chance, AWS", "another's table", "the primary's",
        "others' containers", "Cilium's proxy", "a plug-in that makes no rules"])
def test_what_others_have_elsewhere_says_nothing(network, seen_routes, seen_rules):
    assert devs(decided(two_enis(seen_routes, seen_rules), networks=[network])) == ["eth0", "eth1"]


def test_our_own_rules_and_routes_are_no_evidence():
    """Table 1003 is that of eth3, and would be terway's for the same link."""
    eth3 = interface(3, subnet("172.16.30.0/24", "172.16.30.30"))
    world = two_enis(links=[link(0), link(3)._replace(ifindex=3)])._replace(addresses=(), routes=())
    set_up = FakeKernel(world).apply(plan(decided(world, PRIMARY, eth3), world, Record(), CONFIG).changes)
    assert [seen for seen in set_up.routes if seen.route.table == 1003 and seen.protocol == OURS]
    assert devs(decided(set_up, PRIMARY, eth3, networks=[TERWAY, CILIUM, AWS])) == ["eth0", "eth3"]


def test_what_was_set_up_goes_when_a_container_network_takes_the_eni():
    world = two_enis()
    ours = FakeKernel(world).apply(plan(decided(world), world, Record(), CONFIG).changes)
    theirs = two_enis([DEFAULT[1003]], [lookup(2048, 1003, src=POD)])
    taken = ours._replace(routes=ours.routes + theirs.routes[4:], rules=ours.rules + theirs.rules)
    after = FakeKernel(taken).apply(plan(decided(taken, networks=[TERWAY]), taken, Record(), CONFIG).changes)
    assert set(after.routes) == set(theirs.routes) and after.rules == theirs.rules and after.links == theirs.links


def test_the_tables_that_are_looked_into():
    """Terway's by the interface indexes; of the others those that their rules lead to; none without any."""
    seen = [SeenRule(*rule) for rule in (
        lookup(111, 11), lookup(1536, 2), lookup(2048, 1003), lookup(2048, 1500), lookup(7200, 1009),
        lookup(512, MAIN))]
    links = [link(0), link(1), link(2)]

    def asked(*networks):
        return band_tables(links, {"eth1", "eth2"}, seen, networks, CONFIG)
    assert (asked(), asked(HOST_DEVICE), asked(TERWAY)) == (set(), set(), {1003, 1004})
    assert asked(CILIUM) == {11} and asked(AWS) == {2} and asked(TERWAY, CILIUM) == {11, 1003, 1004}


def test_what_else_a_device_carries():
    assert parents([link(0), child("vlan", 0), child("veth", 1), child("macvlan", 5)]) == {2, 7}


# moved into a container


def test_an_eni_that_a_network_may_have_moved_is_no_error():
    made = decided(two_enis(links=[link(0), link(2)]), PRIMARY, ETH1, ETH2, networks=[TERWAY])
    assert devs(made) == ["eth0", "eth2"] and not made.unready
    assert "no link has its MAC" in said_of(made, "eni-1") and "terway" in said_of(made, "eni-1")
    links = [link(0), link(2), link(1, "mv0", kind="macvlan")]
    assert not decided(two_enis(links=links), PRIMARY, ETH1, ETH2, networks=[TERWAY]).unready


@pytest.mark.parametrize("networks", [[], [CILIUM], [AWS], [ContainerNetwork("macvlan", "/x", False)]])
def test_without_such_a_network_it_is_waited_for(networks):
    made = decided(two_enis(links=[link(0)]), networks=networks)
    assert [member.transient for member in made.unready] == [True]


def test_one_that_is_here_and_not_whole_is_still_an_error():
    sick = SickInterface("eni-1", mac(1), False, "no gateway", True)
    assert decided(two_enis(), PRIMARY, sick=[sick], networks=[TERWAY]).unready
    assert not decided(two_enis(links=[link(0)]), PRIMARY, sick=[sick], networks=[TERWAY]).unready


def test_a_sick_one_behind_a_bond_whose_child_containers_have_is_left_alone():
    sick = SickInterface("eni-1", mac(1), False, "no gateway", True)
    bond = link(1, "bond0", kind="bond")._replace(ifindex=50)
    made = decided(two_enis(links=[link(0), link(1, master=50), bond, child("ipvlan", 48)]), PRIMARY, sick=[sick])
    assert not made.unready and "child0" in said_of(made, "bond0") and made.used == {"bond0", "eth1"}


def test_the_primary_without_a_link_is_an_error_everywhere():
    assert decided(two_enis(links=[link(1)]), networks=[TERWAY]).unready


@pytest.mark.parametrize("name", ["eth1", mac(1)])
def test_an_eni_that_the_configuration_of_a_network_names(name):
    """Its children are in other namespaces, where we don't see them."""
    network = ContainerNetwork("macvlan", "/etc/cni/net.d/20-lan.conf", False, frozenset([name]))
    made = decided(two_enis(), networks=[network])
    assert devs(made) == ["eth0"] and "/etc/cni/net.d/20-lan.conf" in said_of(made, "eth1")


def test_the_configuration_says_manage_or_leave():
    assert read(b"{}")[0].container_networks == CONFIG.container_networks == "leave"
    assert read(b"container-networks: manage")[0].container_networks == "manage"
    found, (problem,) = read(b"ignore: eth1\ncontainer-networks: yes\n")
    assert found is None and problem.line == 2 and "one of leave, manage" in str(problem)
    assert read(EXAMPLE.encode())[0].container_networks == "leave" and "container-networks" in EXAMPLE


def test_every_known_network_has_its_numbers(tmp_path):
    for kind in ("terway", "cilium-cni", "aws-cni"):
        write(tmp_path, kind + ".conf", {"type": kind})
    assert {network.name for network in container_networks(str(tmp_path))} == set(BANDS)

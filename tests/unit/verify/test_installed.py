"""What status tells from the kernel alone: which links are ENIs, and which gateway is theirs."""

import itertools

import pytest

from eni_bootstrap.model.kernel import Rule, SeenRoute
from eni_bootstrap.verify.installed import recall
from tests.build import CONFIG, ETH1, MAIN, OURS, PRIMARY, address, decision, link, net, route, snapshot, two_enis


def devs(world):
    return [eni.dev for eni in recall(world, CONFIG).enis]


# only a link that can be an ENI is one


def led(*sources, table=1001):
    return [(Rule(4, 7200, net(source), table=table), OURS) for source in sources]


@pytest.mark.parametrize("more", [
    link(3, "lo", kind="loopback"), link(3, "lvs", kind="dummy"), link(3, "vrrp.51", kind="macvlan", parent=3),
    link(3, "eth1.100", kind="vlan", parent=3), link(3, "docker0", kind="bridge"), link(3, "wg0", kind="wireguard"),
], ids=lambda link: link.kind)
@pytest.mark.parametrize("routed", [True, False], ids=["up", "down"])
def test_a_link_that_bears_an_eni_s_address_is_no_eni(more, routed):
    routes = [(route(1001, "default", "eth1 172.16.20.253"), OURS)] * routed
    world = two_enis(routes, led("172.16.20.20/32", "172.16.20.21/32"), links=[link(0), link(1), more],
                     addresses=[address(more.name, "172.16.20.21/32")])
    assert devs(world) == ["eth1"]


def test_a_table_is_the_one_s_whose_routes_are_in_it():
    """Another ENI may bear an address of this one, too."""
    world = two_enis([(route(1002, "default", "eth2 172.16.10.253"), OURS)], led("172.16.10.30/32", table=1002),
                     links=[link(0), link(1), link(2)], addresses=[address("eth1", "172.16.10.30/32")])
    assert devs(world) == ["eth2"]


@pytest.mark.parametrize("kind", ["bond", "bridge", "team"])
def test_a_master_is_an_eni_by_its_port(kind):
    links = [link(0), link(1)._replace(master=9), link(7, "master0", kind=kind)]
    routes = [(route(1001, "default", "master0 172.16.20.253"), OURS)]
    world = two_enis(routes, led("172.16.20.20/32"), links=links, addresses=[address("master0", "172.16.20.20/24")])
    assert devs(world) == ["master0"]


def test_who_bears_an_address_of_an_eni_is_none_that_metadata_has_dropped():
    """Nor would its things be kept as such a one's."""
    world = two_enis([], led("172.16.20.20/32", "172.16.20.21/32"),
                     links=[link(0), link(1), link(3, "lo", kind="loopback")],
                     addresses=[address("lo", "172.16.20.21/32")])
    made = decision(world, PRIMARY, ETH1)
    assert made.remarks == () and made.kept_devs == frozenset()


# whatever the order in which things are told


def gateways(world):
    return [str(subnet.gateway) for eni in recall(world, CONFIG).enis for subnet in eni.interface.subnets]


def primary_table(*ways):
    """The primary's table with routes by these gateways, and main without a default."""
    routes = [(route(1000, "172.16.10.0/24", "eth0"), OURS)]
    routes += [(route(1000, "172.16.{}.0/25".format(20 + place), "eth0 " + way), OURS)
               for place, way in enumerate(ways)]
    return snapshot([link(0), link(1)], [address("eth0", "172.16.10.10/24")], routes,
                    [(Rule(4, 7600, net("172.16.10.10/32"), table=1000), OURS)])


COPIES = ("172.16.10.77", "172.16.10.253", "172.16.10.253", "172.16.10.88")


@pytest.mark.parametrize("ways", sorted(set(itertools.permutations(COPIES))), ids=" ".join)
def test_the_primary_s_gateway_is_the_one_that_most_of_its_table_goes_by(ways):
    assert gateways(primary_table(*ways)) == ["172.16.10.253"]


@pytest.mark.parametrize("ways", list(itertools.permutations(COPIES[:2] + COPIES[3:])), ids=" ".join)
def test_of_gateways_that_are_used_alike_main_s_own_is_the_primary_s_or_the_lowest(ways):
    world = primary_table(*ways)
    assert gateways(world) == ["172.16.10.77"]
    main = route(MAIN, "default", "eth0 172.16.10.88", metric=100)
    assert gateways(world._replace(routes=world.routes + (SeenRoute(main, 16),))) == ["172.16.10.88"]
    table = route(1000, "default", "eth0 172.16.10.253")
    assert gateways(world._replace(routes=world.routes + (SeenRoute(main, 16), SeenRoute(table, OURS)))) == [
        "172.16.10.253"]


@pytest.mark.parametrize(
    "blocks", list(itertools.permutations(["172.16.0.0/16", "172.16.20.0/24", "172.16.20.16/28"])), ids=" ".join)
def test_the_vswitch_is_what_is_on_link_with_the_address(blocks):
    """Beside it there may be the user's own routes on the link."""
    routes = [(route(1001, block, "eth1"), OURS) for block in blocks]
    world = two_enis(routes, led("172.16.20.20/32"))
    (eth1,) = recall(world, CONFIG).enis
    assert str(eth1.interface.subnets[0].vswitch) == "172.16.20.0/24"

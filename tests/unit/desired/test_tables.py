"""Which table is whose."""

import pytest

from eni_bootstrap.model.kernel import Rule
from tests.build import (
    BOOT, CONFIG, DHCP_MAIN, ETH1, ETH2, OURS, PRIMARY, address, decision, interface, link, net, route, snapshot,
    subnet, two_enis,
)


def tables(made):
    return {eni.dev: made.table_of(eni.dev) for eni in made.enis}


def named(*names):
    """A world of a primary and secondaries with these names, each in a vSwitch of its own."""
    links = [link(0)] + [link(place, name) for place, name in enumerate(names, start=1)]
    interfaces = [PRIMARY]
    for place in range(1, len(names) + 1):
        here = "172.16.{}.".format(20 + place)
        interfaces.append(interface(place, subnet(here + "0/24", here + "9")))
    return links, interfaces


@pytest.mark.parametrize("names, expected", [
    (["eth1", "eth2"], {"eth1": 1001, "eth2": 1002}),
    (["eth7", "eth1"], {"eth7": 1007, "eth1": 1001}),
    (["ens7", "ens10"], {"ens7": 1001, "ens10": 1002}),
    (["enp0s10", "enp0s9"], {"enp0s9": 1001, "enp0s10": 1002}),
    (["eth1", "ens5"], {"eth1": 1001, "ens5": 1100}),
    (["eth99", "eth100"], {"eth99": 1099, "eth100": 1002}),
])
def test_natural_ids_come_from_the_names(names, expected):
    links, interfaces = named(*names)
    found = tables(decision(snapshot(links, routes=DHCP_MAIN[:2]), *interfaces))
    assert found == dict(expected, eth0=1000)


def test_a_secondary_called_eth0_counts_by_its_position():
    primary, secondary = interface(1, PRIMARY.subnets[0], primary=True), interface(0, ETH1.subnets[0])
    assert tables(decision(snapshot([link(0), link(1)]), primary, secondary)) == {"eth1": 1000, "eth0": 1001}


def test_an_eni_keeps_the_table_that_our_routes_through_its_device_are_in():
    world = two_enis(routes=[(route(1005, "172.16.20.0/24", "eth1"), OURS)])
    assert tables(decision(world))["eth1"] == 1005


@pytest.mark.parametrize("rule", [
    Rule(4, 7500, oif="eth1", table=1005), Rule(4, 7200, net("172.16.20.20/32"), table=1005)], ids=str)
def test_a_link_that_has_lost_its_routes_is_known_by_the_rules(rule):
    assert tables(decision(two_enis(rules=[(rule, OURS)])))["eth1"] == 1005


def test_routes_say_more_than_rules():
    """An address that moved from eth2 to eth1 leaves a rule to eth2's table."""
    world = two_enis(routes=[(route(1001, "172.16.20.0/24", "eth1"), OURS)],
                     rules=[(Rule(4, 7200, net("172.16.20.20/32"), table=1002), OURS)])
    assert tables(decision(world))["eth1"] == 1001


def test_of_two_that_claim_one_table_the_natural_owner_gets_it():
    links, interfaces = named("eth1", "eth2")
    world = snapshot(links, routes=[(route(1002, "172.16.21.0/24", "eth1"), OURS),
                                    (route(1002, "172.16.22.0/24", "eth2"), OURS)])
    assert tables(decision(world, *interfaces)) == {"eth0": 1000, "eth1": 1001, "eth2": 1002}


def test_a_new_eni_in_the_middle_renumbers_nobody():
    links, interfaces = named("ens5", "ens6", "ens7")
    world = snapshot(links, routes=[(route(1001, "172.16.21.0/24", "ens5"), OURS),
                                    (route(1002, "172.16.23.0/24", "ens7"), OURS)])
    found = tables(decision(world, *interfaces))
    assert (found["ens5"], found["ens7"]) == (1001, 1002) and found["ens6"] == 1100


@pytest.mark.parametrize("taken", [
    route(1001, "default", "tun0"),
    route(1001, "default", "eth1 172.16.20.9"),
    route(1001, "172.16.20.0/24", "eth1 172.16.20.9"),
    route(1001, "10.0.0.0/8", kind="blackhole"),
    route(1001, "10.0.0.0/8", "eth0 172.16.10.253"),
], ids=str)
def test_somebody_else_s_route_displaces(taken):
    made = decision(two_enis(routes=[(taken, BOOT)]))
    assert tables(made)["eth1"] == 1100 and made.displaced
    assert any("table 1001 is not free" in remark and "1100" in remark for remark in made.remarks)


@pytest.mark.parametrize("shared", [
    route(1001, "default", "eth1 172.16.20.253"),
    route(1001, "default", "eth1 172.16.20.253", metric=50),
    route(1001, "10.60.0.0/16", "eth1 172.16.20.9"),
    route(1001, "172.16.20.0/24", "eth1"),
], ids=str)
def test_what_goes_by_the_eni_itself_may_stay(shared):
    made = decision(two_enis(routes=[(shared, BOOT)]))
    assert tables(made)["eth1"] == 1001 and not made.displaced


@pytest.mark.parametrize("rule, table", [
    (Rule(4, 32765, net("172.16.20.20/32"), table=1001), 1001),
    (Rule(4, 32765, net("10.9.9.9/32"), table=1001), 1100),
    (Rule(4, 600, table=1001, other=("fwmark", "0x10/0x10")), 1100),
], ids=str)
def test_somebody_else_s_rule_displaces_unless_it_is_of_the_eni_s_own_source(rule, table):
    assert tables(decision(two_enis(rules=[(rule, BOOT)])))["eth1"] == table


def test_a_rule_that_was_led_to_our_table_later_does_not_displace():
    """Somebody who points a mark at a table that is ours wants just that."""
    world = two_enis(routes=[(route(1001, "172.16.20.0/24", "eth1"), OURS)],
                     rules=[(Rule(4, 600, table=1001, other=("fwmark", "0x10/0x10")), BOOT)])
    assert tables(decision(world))["eth1"] == 1001


def test_the_displaced_get_the_lowest_id_that_nobody_uses():
    world = two_enis(
        routes=[(route(1001, "default", "tun0"), BOOT), (route(1100, "default", "tun0"), BOOT)],
        rules=[(Rule(4, 100, table=1101), BOOT)])
    assert tables(decision(world))["eth1"] == 1102


def test_an_eni_without_a_free_table_is_named_and_the_others_are_done():
    full = [(route(table, "default", "tun0"), BOOT) for table in [1001] + list(range(1100, 1200))]
    world = two_enis(routes=full, links=[link(0), link(1), link(2)], addresses=[address("eth2", "172.16.10.30/24")])
    made = decision(world, PRIMARY, ETH1, ETH2)
    assert tables(made) == {"eth0": 1000, "eth2": 1002}
    assert [member.dev for member in made.unready] == ["eth1"] and "1001" in made.unready[0].reason


def test_no_two_enis_share_a_table_and_the_band_holds():
    links, interfaces = named(*["eth{}".format(n) for n in range(90, 110)])
    found = tables(decision(snapshot(links), *interfaces))
    assert len(set(found.values())) == len(found) == 21
    assert all(CONFIG.owns_table(table) for table in found.values())


def test_a_displaced_primary_stays_where_it_is():
    taken = [(Rule(4, 600, table=1000), BOOT)]
    assert tables(decision(two_enis(rules=taken)))["eth0"] == 1100
    world = two_enis(rules=taken, routes=[(route(1100, "172.16.10.0/24", "eth0"), OURS)])
    assert tables(decision(world)) == {"eth0": 1100, "eth1": 1001}

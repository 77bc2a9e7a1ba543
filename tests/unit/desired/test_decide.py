"""The decision: the rules and routes that should be."""

import pytest

from eni_bootstrap.desired.decide import Record
from eni_bootstrap.model.eni import SickInterface
from eni_bootstrap.model.kernel import LinkGroup, LinkUp, Rule
from tests.build import (
    BOOT, CONFIG, DHCP, DHCP_MAIN, ETH1, ETH2, KERNEL, MAIN, OURS, PRIMARY, RA, STATIC, address, decision, interface,
    link, mac, net, route, snapshot, subnet, texts, two_enis,
)

SIX = subnet("2001:db8:1::/64", "2001:db8:1::5")
SIX_PRIMARY = interface(0, PRIMARY.subnets[0], subnet("2001:db8:0::/64", "2001:db8::5"), primary=True)


def in_table(made, table, version=4):
    return sorted(str(item) for item in made.routes if item.table == table and item.version == version)


def test_the_whole_of_two_enis():
    made = decision(two_enis())
    assert texts(made.rules) == [
        "from all lookup main suppress_prefixlength 0 suppress_ifgroup 60235 priority 7100",
        "from 172.16.10.10 lookup 1000 priority 7600",
        "from 172.16.20.20 lookup 1001 priority 7200",
        "from all oif eth1 lookup 1001 priority 7500",
    ]
    assert in_table(made, 1000) == [
        "172.16.10.0/24 dev eth0 table 1000", "172.16.20.0/24 via 172.16.10.253 dev eth0 table 1000"]
    assert in_table(made, 1001) == [
        "172.16.20.0/24 dev eth1 table 1001", "default via 172.16.20.253 dev eth1 table 1001",
        "unreachable default table 1001 metric 4294967295"]
    assert in_table(made, MAIN) == []
    assert made.groups == (LinkGroup("eth0", 60235), LinkGroup("eth1", 60235))


def test_one_eni_needs_nothing():
    made = decision(two_enis(links=[link(0)]), PRIMARY)
    assert not (made.rules or made.routes or made.groups or made.ups)


def test_a_prefix_comes_after_all_addresses():
    eni = interface(1, subnet("172.16.20.0/24", "172.16.20.20", prefixes=["172.16.20.32/28"]))
    rules = texts(decision(two_enis(), PRIMARY, eni).rules)
    assert "from 172.16.20.32/28 lookup 1001 priority 7300" in rules


def test_the_ipv6_fence_is_a_rule_and_no_route():
    made = decision(two_enis(), SIX_PRIMARY, interface(1, SIX))
    assert texts(rule for rule in made.rules if rule.version == 6) == [
        "from all lookup main suppress_prefixlength 0 suppress_ifgroup 60235 priority 7100",
        "from 2001:db8::5 lookup 1000 priority 7600",
        "from 2001:db8:1::5 lookup 1001 priority 7200",
        "from 2001:db8:1::5 unreachable priority 7400",
        "from all oif eth1 lookup 1001 priority 7500",
    ]
    assert in_table(made, 1001, 6) == ["2001:db8:1:0:ffff:ffff:ffff:fff7/128 dev eth1 table 1001 metric 1024",
                                       "default via 2001:db8:1:0:ffff:ffff:ffff:fff7 dev eth1 table 1001 metric 1024",
                                       "fe80::/64 dev eth1 table 1001 metric 1024"]


def test_families_that_no_secondary_has_stay_as_they_are():
    made = decision(two_enis(), SIX_PRIMARY, ETH1)
    assert {rule.version for rule in made.rules} == {4} and {item.version for item in made.routes} == {4}


def test_the_ipv6_vswitch_is_on_link_only_where_main_has_it_so():
    connected = (route(MAIN, "2001:db8:1::/64", "eth1", metric=256), KERNEL)
    made = decision(two_enis(routes=[connected]), SIX_PRIMARY, interface(1, SIX))
    assert "2001:db8:1::/64 dev eth1 table 1001 metric 1024" in in_table(made, 1001, 6)


def test_two_enis_in_one_ipv6_vswitch():
    """The primary must not follow main to its own vSwitch by the secondary that has it on its link."""
    shared = (route(MAIN, "2001:db8::/64", "eth1", metric=256), KERNEL)
    made = decision(two_enis(routes=[shared]), SIX_PRIMARY, interface(1, subnet("2001:db8::/64", "2001:db8::6")))
    assert "2001:db8::/64 via 2001:db8::ffff:ffff:ffff:fff7 dev eth0 table 1000 metric 1024" in in_table(made, 1000, 6)


class TestDefaultsInMain:
    def defaults(self, routes, *interfaces):
        world = two_enis(links=[link(0), link(1), link(2)])._replace(routes=())
        world = world._replace(routes=snapshot([], routes=routes).routes)
        return in_table(decision(world, *(interfaces or (PRIMARY, ETH1, ETH2))), MAIN)

    def test_where_the_system_made_none_they_are_added_worse_than_the_primary_s(self):
        assert self.defaults(DHCP_MAIN[:2]) == ["default via 172.16.10.253 dev eth2 table main metric 300",
                                                "default via 172.16.20.253 dev eth1 table main metric 200"]

    def test_one_that_is_there_is_left_alone_whatever_its_metric(self):
        assert self.defaults(DHCP_MAIN[:2] + [(route(MAIN, "default", "eth1 172.16.20.253", metric=7), STATIC)]) == [
            "default via 172.16.10.253 dev eth2 table main metric 300"]

    def test_a_penalised_primary_pushes_them_further_back(self):
        """NetworkManager adds 20000 while it doubts the connectivity."""
        penalised = [(route(MAIN, "default", "eth0 172.16.10.253", metric=20100), DHCP)]
        assert self.defaults(penalised)[1].endswith("dev eth1 table main metric 20200")

    def test_a_primary_at_metric_0_does_not_make_two_equal_ones(self):
        found = self.defaults([(route(MAIN, "default", "eth0 172.16.10.253"), DHCP)])
        assert [text.split()[-1] for text in found] == ["300", "200"]

    def test_a_metric_that_somebody_else_has_is_stepped_over(self):
        found = self.defaults(DHCP_MAIN[:1] + [(route(MAIN, "default", "tun0", metric=200), STATIC)])
        assert found[1].endswith("dev eth1 table main metric 201")

    def test_ours_stays_and_goes_when_a_client_brings_its_own(self):
        ours = (route(MAIN, "default", "eth1 172.16.20.253", metric=200), OURS)
        assert str(ours[0]) in self.defaults(DHCP_MAIN[:1] + [ours])
        assert str(ours[0]) not in self.defaults(DHCP_MAIN[:1] + [
            ours, (route(MAIN, "default", "eth1 172.16.20.253", metric=101), DHCP)])

    @pytest.mark.parametrize("others, made", [
        ([], []),
        ([("eth1 172.16.20.253", {"metric": 200})], [1224]),
        ([("tun0", {"metric": 50})], [1124, 1224]),
        ([("", {"metric": 50, "kind": "unreachable"})], [1124, 1224]),
        ([("tun0", {"metric": 30000})], []),
        ([("tun0", {"metric": 1200})], [1224]),
        ([("tun0", {"metric": 50, "tos": 16})], []),
    ], ids=["none", "a secondary's", "a VPN's", "a refusal", "a bad one", "one in between", "one for some packets"])
    def test_none_is_the_one_that_the_host_would_go_by(self, others, made):
        """Main's look-up ends at what comes first, whosever it is. Ours of other ENIs are none."""
        routes = [(route(MAIN, "default", *filter(None, [hop]), **more), STATIC) for hop, more in others]
        ours = [(route(MAIN, "default", "eth2 172.16.10.253", metric=7), OURS)]
        for before in (routes, routes + ours):
            assert sorted(int(text.split()[-1]) for text in self.defaults(before)) == made


def test_no_ipv6_default_in_main_where_the_gateway_is_another_eni_s_neighbour():
    """The kernel would refuse it."""
    shared = (route(MAIN, "2001:db8::/64", "eth0", metric=256), KERNEL)
    best = (route(MAIN, "default", "eth0 2001:db8::ffff:ffff:ffff:fff7", metric=1024), RA)
    secondary = interface(1, subnet("2001:db8::/64", "2001:db8::6"))
    assert in_table(decision(two_enis(routes=[best, shared]), SIX_PRIMARY, secondary), MAIN, 6) == []
    assert len(in_table(decision(two_enis(routes=[best]), SIX_PRIMARY, secondary), MAIN, 6)) == 1


def test_main_s_best_default_by_a_secondary_gives_the_primary_its_own():
    stolen = [(route(MAIN, "default", "eth1 172.16.20.253", metric=50), DHCP)]
    assert "default via 172.16.10.253 dev eth0 table 1000" in in_table(decision(two_enis(routes=stolen)), 1000)


def test_main_s_best_default_by_a_vpn_is_followed():
    """The primary follows main on purpose."""
    vpn = [(route(MAIN, "default", "tun0", metric=10), STATIC),
           (route(MAIN, "default", "eth1 172.16.20.253", metric=50), DHCP)]
    assert not any(text.startswith("default") for text in in_table(decision(two_enis(routes=vpn)), 1000))


class TestTheUsersOwnRoutes:
    def test_those_through_a_secondary_are_copied_with_what_they_carry(self):
        own = route(MAIN, "10.60.0.0/16", "eth1 172.16.20.9", metric=5, options=(("mtu", 1400),))
        made = decision(two_enis(routes=[(own, STATIC)]))
        assert "10.60.0.0/16 via 172.16.20.9 dev eth1 table 1001 metric 5 mtu 1400" in in_table(made, 1001)
        assert "10.60.0.0/16 via 172.16.10.253 dev eth0 table 1000" in in_table(made, 1000)

    def test_kernel_made_and_expiring_ones_are_not(self):
        made = decision(two_enis(routes=[(route(MAIN, "10.1.0.0/16", "eth1"), KERNEL),
                                         (route(MAIN, "10.2.0.0/16", "eth1 172.16.20.9"), RA, True)]))
        assert not any("10." in text.split()[0] for text in in_table(made, 1001))

    def test_of_a_multipath_one_the_own_part_is_copied(self):
        own = route(MAIN, "10.60.0.0/16", "eth1 172.16.20.9", "eth0 172.16.10.9")
        made = decision(two_enis(routes=[(own, STATIC)]))
        assert "10.60.0.0/16 via 172.16.20.9 dev eth1 table 1001" in in_table(made, 1001)

    def test_the_primary_s_more_specific_one_is_not_hidden_by_a_detour(self):
        routes = [(route(MAIN, "10.0.0.0/8", "eth1 172.16.20.9"), STATIC),
                  (route(MAIN, "10.1.0.0/16", "eth0 172.16.10.77"), STATIC)]
        made = in_table(decision(two_enis(routes=routes)), 1000)
        assert "10.0.0.0/8 via 172.16.10.253 dev eth0 table 1000" in made
        assert "10.1.0.0/16 via 172.16.10.77 dev eth0 table 1000" in made

    @pytest.mark.parametrize("group", [0, 7], ids=["with a group", "without"])
    def test_one_that_can_t_be_copied_is_closed_wherever_else_its_destination_is_reached(self, group):
        own = route(MAIN, "10.60.0.0/16", "eth1 172.16.20.9", metric=9)
        own = own._replace(hops=(own.hops[0]._replace(other=("encap",)),))
        others = [(route(MAIN, "10.60.0.0/16", "eth2 172.16.10.9", metric=5), STATIC)]
        world = two_enis(routes=[(own, STATIC), *others], links=[link(0), link(1, group=group), link(2)])
        made = decision(world, PRIMARY, ETH1, ETH2)
        assert [text for text in in_table(made, 1001) if "10.60." in text] == [
            "unreachable 10.60.0.0/16 table 1001 metric 4294967295"]
        assert [remark for remark in made.remarks if str(own) in remark]

    def test_more_than_a_thousand_are_cut_and_named(self):
        many = [(route(MAIN, "10.{}.{}.0/24".format(n // 250, n % 250), "eth1 172.16.20.9"), STATIC)
                for n in range(1001)]
        made = decision(two_enis(routes=many))
        assert sum(item.table == 1001 for item in made.routes) == 1000 + 3
        assert any("more than 1000 routes" in remark for remark in made.remarks)


def test_an_address_that_only_the_link_knows_gets_a_rule():
    """HAVIP, keepalived: inside the vSwitch of the ENI whose link holds it."""
    held = [address("eth1", "172.16.20.99/32"), address("eth1", "10.9.9.9/32"), address("eth0", "172.16.10.99/24")]
    rules = texts(decision(two_enis(addresses=held)).rules)
    assert "from 172.16.20.99 lookup 1001 priority 7200" in rules
    assert "from 172.16.10.99 lookup 1000 priority 7600" in rules
    assert not any("10.9.9.9" in rule for rule in rules)


def test_an_address_of_another_eni_on_the_wrong_link_gets_no_second_rule():
    eth3 = interface(3, subnet("172.16.20.0/24", "172.16.20.40"))
    world = two_enis(links=[link(0), link(1), link(3)], addresses=[address("eth1", "172.16.20.40/32")])
    assert [rule for rule in texts(decision(world, PRIMARY, ETH1, eth3).rules) if "172.16.20.40 " in rule] == [
        "from 172.16.20.40 lookup 1003 priority 7200"]


class TestWithoutAGroup:
    def test_specific_routes_come_first_and_others_by_the_own_gateway(self):
        made = decision(two_enis(links=[link(0), link(1, group=7), link(2)]), PRIMARY, ETH1, ETH2)
        assert not made.groups and any("interface group 7" in remark for remark in made.remarks)
        assert "from all lookup main suppress_prefixlength 0 priority 7100" in texts(made.rules)
        assert "from 172.16.20.20 lookup 1001 suppress_prefixlength 0 priority 7000" in texts(made.rules)
        assert "172.16.10.0/24 via 172.16.20.253 dev eth1 table 1001" in in_table(made, 1001)


class TestLinks:
    def test_a_link_that_is_down_is_brought_up_and_addressed(self):
        world = two_enis(links=[link(0), link(1, up=False)])._replace(addresses=())
        made = decision(world, PRIMARY, interface(1, ETH1.subnets[0], SIX))
        assert made.ups == (LinkUp("eth1"),)
        assert texts(made.addresses) == ["172.16.20.20/24 dev eth1", "2001:db8:1::5/128 dev eth1"]
        assert not made.unaddressed

    def test_a_link_that_is_up_is_waited_for(self):
        world = two_enis()._replace(addresses=())
        made = decision(world)
        assert not made.addresses and [(wait.eni.dev, wait.version) for wait in made.unaddressed] == [("eth1", 4)]
        late = decision(world, address_wait_expired=frozenset([("eth1", 4)]))
        assert texts(late.addresses) == ["172.16.20.20/24 dev eth1"] and not late.unaddressed

    def test_a_link_that_we_addressed_before_is_addressed_again_at_once(self):
        """A link that went down and up has lost its IPv6 addresses, and nobody else is coming."""
        made = Record(addresses=frozenset([address("eth1", "2001:db8:1::5/128")]))
        found = decision(two_enis(), PRIMARY, interface(1, ETH1.subnets[0], SIX), made=made)
        assert texts(found.addresses) == ["2001:db8:1::5/128 dev eth1"]

    def test_an_address_of_ours_that_the_cloud_took_away_goes(self):
        old = address("eth1", "172.16.20.20/24")
        moved = interface(1, subnet("172.16.20.0/24", "172.16.20.21"))
        found = decision(two_enis(), PRIMARY, moved, made=Record(addresses=frozenset([old])))
        assert found.dropped_addresses == (old,) and texts(found.addresses) == ["172.16.20.21/24 dev eth1"]

    def test_the_port_of_a_master_is_nobody_s_to_bring_up(self):
        bond = link(1, "bond0", kind="bond", up=False)._replace(ifindex=9)
        found = decision(two_enis(links=[link(0), link(1, master=9, up=False), bond]))
        assert not found.ups and not found.addresses
        assert LinkGroup("bond0", 60235) in found.groups and LinkGroup("eth1", 60235) not in found.groups


class TestWhatStays:
    ours = [(route(1001, "172.16.20.0/24", "eth1"), OURS)]
    rule = Rule(4, 7200, net("172.16.20.20/32"), table=1001)

    def test_of_a_sick_eni(self):
        sick = SickInterface("eni-1", mac(1), False, "no gateway", True)
        made = decision(two_enis(routes=self.ours, rules=[(self.rule, OURS)]), PRIMARY, sick=[sick])
        assert (1001, 4) in made.kept_tables and "eth1" in made.kept_devs
        assert [rule.priority for rule in made.rules] == [7100, 7600], "the primary's part is needed as long"

    def test_of_a_link_that_metadata_no_longer_lists(self):
        made = decision(two_enis(routes=self.ours), PRIMARY)
        assert (1001, 4) in made.kept_tables and any("does not list it any more" in remark for remark in made.remarks)

    def test_of_an_eni_that_can_t_be_found_everything_that_nobody_claims(self):
        sick = SickInterface("eni-1", mac(1), False, "no gateway", True)
        world = two_enis(rules=[(self.rule, OURS)], links=[link(0)])
        assert (1001, 4) in decision(world, PRIMARY, sick=[sick]).kept_tables

    def test_not_of_an_eni_that_a_complete_list_lacks_and_whose_link_is_gone(self):
        assert not decision(two_enis(rules=[(self.rule, OURS)], links=[link(0)]), PRIMARY).kept_tables

    def test_a_stranger_is_not_even_mentioned(self):
        stranger = link(9, "ens9")
        theirs = [(route(MAIN, "10.0.0.0/8", "ens9"), BOOT)]
        made = decision(two_enis(links=[link(0), link(1), stranger], routes=theirs))
        assert not made.remarks and not any(group.dev == "ens9" for group in made.groups)


def test_order_in_the_metadata_changes_nothing():
    world = two_enis(links=[link(2), link(0), link(1)])
    one, other = decision(world, PRIMARY, ETH1, ETH2), decision(world, ETH2, ETH1, PRIMARY)
    assert (one.rules, one.routes, one.families) == (other.rules, other.routes, other.families)
    assert CONFIG.protocol == OURS


def test_a_default_that_main_shares_between_the_primary_and_a_secondary_gives_the_primary_its_own():
    shared = [(route(MAIN, "default", "eth0 172.16.10.253", "eth1 172.16.20.253", metric=50), DHCP)]
    assert "default via 172.16.10.253 dev eth0 table 1000" in in_table(decision(two_enis(routes=shared)), 1000)


def test_a_copy_suggests_the_same_source():
    own = route(MAIN, "10.60.0.0/16", "eth1", prefsrc=ETH1.subnets[0].addresses[0])
    made = decision(two_enis(routes=[(own, STATIC)]))
    assert "10.60.0.0/16 dev eth1 table 1001 src 172.16.20.20" in in_table(made, 1001)

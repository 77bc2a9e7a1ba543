"""``adopt``: which rules, routes and tables the vendor's page had people type, and which are somebody's own."""

from ipaddress import ip_address

import pytest

from eni_bootstrap.adopt.search import adoption
from eni_bootstrap.desired.decide import Record
from eni_bootstrap.model.host import Script
from eni_bootstrap.model.kernel import Rule, SeenRule
from eni_bootstrap.plan.diff import plan
from tests.build import (
    BOOT, CONFIG, DHCP, ETH1, MAIN, PRIMARY, STATIC, decision, interface, net, route, subnet, texts, two_enis,
)
from tests.fakes import FakeKernel

NOBODY = 0
"""The protocol of a rule that iproute2 6.1 makes; older ones say BOOT."""

GATEWAY = "eth1 172.16.20.253"


def rule(src, table, priority=32765, **more):
    src = net(src)
    return Rule(src.version, priority, src, table=table, **more)


def found(world, *lines, interfaces=(), sound=None):
    """What is found where the agent has run."""
    interfaces = interfaces or (PRIMARY, ETH1)
    todo = plan(decision(world, *interfaces), world, Record(), CONFIG)
    world = FakeKernel(world).apply(todo.changes)
    scripts = [Script("/etc/rc.local", lines)] if lines else []
    made = adoption(decision(world, *interfaces), world, scripts, CONFIG, sound)
    after = FakeKernel(world).apply(made.changes)
    again = plan(decision(after, *interfaces), after, Record(), CONFIG)
    assert again.changes == ()
    return made


# what is taken


@pytest.mark.parametrize("protocol", [NOBODY, BOOT])
@pytest.mark.parametrize("table", [1001, 77, 4000000000])
def test_all_copies_of_a_rule_go_and_then_their_table(table, protocol):
    made = found(two_enis(
        routes=[(route(table, "default", GATEWAY), BOOT)],
        rules=[(rule("172.16.20.20", table, priority), protocol) for priority in (32763, 32764, 32765)]))
    mark = " protocol {}".format(protocol)
    expected = ["ip -4 rule del from 172.16.20.20 lookup {} priority {}".format(table, priority) + mark
                for priority in (32763, 32764, 32765)]
    if table == 1001:  # ours is that very route: it changes hands
        expected.insert(0, "ip -4 route replace default via 172.16.20.253 dev eth1 table 1001 onlink proto 235")
    else:
        expected.append("ip -4 route del default via 172.16.20.253 dev eth1 table {} proto 3".format(table))
    assert texts(made.changes) == expected and made.left == ()


def test_a_priority_typed_by_hand_makes_no_difference():
    """The kernel can't tell it from one that it has chosen itself; also among ours."""
    table = [(route(77, "default", GATEWAY), BOOT)]
    made = found(two_enis(table, [(rule("172.16.20.20", 77, priority), BOOT) for priority in (5, 7200, 7999, 20000)]))
    assert len(made.changes) == 5 and made.left == ()


def test_what_the_page_does_with_more_than_one_address_and_with_the_vswitch():
    eni = interface(1, subnet("172.16.20.0/24", "172.16.20.20", "172.16.20.21", prefixes=["172.16.20.32/28"]))
    sources = ("172.16.20.20", "172.16.20.21", "172.16.20.32/28")
    table = [(route(77, "default", GATEWAY, metric=5), BOOT),
             (route(77, "172.16.20.0/24", "eth1", prefsrc=ip_address("172.16.20.20")), BOOT)]
    made = found(two_enis(table, [(rule(source, 77), NOBODY) for source in sources]), interfaces=(PRIMARY, eni))
    assert len(made.changes) == 5 and made.left == ()


def test_ipv6():
    primary = interface(0, PRIMARY.subnets[0], subnet("2001:db8:0::/64", "2001:db8::5"), primary=True)
    six = interface(1, ETH1.subnets[0], subnet("2001:db8:1::/64", "2001:db8:1::5"))
    gateway = str(six.subnets[1].gateway)
    table = [(route(77, "default", "eth1 " + gateway, metric=1024), BOOT),
             (route(77, gateway + "/128", "eth1", metric=1024), BOOT)]
    made = found(two_enis(table, [(rule("2001:db8:1::5", 77), NOBODY)]), interfaces=(primary, six))
    assert len(made.changes) == 3 and made.left == ()


def test_a_route_that_happens_to_be_a_copy_of_mains_stays_the_users():
    """Ours would go with the one in main."""
    copied = [(route(table, "10.50.0.0/16", "eth1 172.16.20.9"), BOOT) for table in (MAIN, 1001)]
    assert found(two_enis(copied)).changes == ()


def test_a_fence_of_somebody_s_own_stays():
    fence = route(1001, "default", kind="unreachable", metric=4294967295)
    assert found(two_enis([(fence, BOOT)])).changes == ()


def test_another_default_in_our_table_goes_and_the_users_own_routes_stay():
    extra = route(1001, "10.50.0.0/16", "eth1 172.16.20.9")
    made = found(two_enis([(route(1001, "default", GATEWAY, metric=50), BOOT), (extra, BOOT)],
                          [(rule("172.16.20.20", 1001), NOBODY)]))
    assert texts(made.changes) == [
        "ip -4 rule del from 172.16.20.20 lookup 1001 priority 32765 protocol 0",
        "ip -4 route del default via 172.16.20.253 dev eth1 table 1001 metric 50 proto 3"]


# what is left


def left(*arguments, **options):
    made = found(*arguments, **options)
    assert made.changes == () and made.lines == ()
    return made.left


@pytest.mark.parametrize("held, reason", [
    ([route(77, "default", "eth1 172.16.20.99")], "172.16.20.99"),
    ([route(77, "default", "eth0 172.16.10.253")], "eth0"),
    ([route(77, "default", GATEWAY), route(77, "10.5.0.0/16", "eth1 172.16.20.9")], "10.5.0.0/16"),
    ([route(77, "default", GATEWAY, options=(("mtu", 1400),))], "mtu"),
    ([route(77, "default", GATEWAY, "eth0 172.16.10.253")], "nexthop"),
    ([], "nothing is in table 77"),
], ids=["another gateway", "another device", "more", "with an option", "two ways", "empty"])
def test_a_table_that_is_not_just_the_enis_is_left_with_its_rules(held, reason):
    said = left(two_enis([(each, BOOT) for each in held], [(rule("172.16.20.20", 77), NOBODY)] * 1))
    assert len(said) == 1 and said[0].startswith("from 172.16.20.20 lookup 77") and reason in said[0]


@pytest.mark.parametrize("theirs", [
    Rule(4, 300, net("10.5.5.5/32"), table=77), Rule(4, 300, table=77, oif="eth1"),
    Rule(4, 300, net("172.16.20.20/32"), table=77, other=("tos", "0x10")),
    Rule(4, 300, net("172.16.20.0/24"), table=77),
])
@pytest.mark.parametrize("table", [77, 1001])
def test_a_table_that_somebody_else_uses_too_is_left(theirs, table):
    world = two_enis([(route(77, "default", GATEWAY), BOOT)],
                     [(rule("172.16.20.20", 77), NOBODY), (theirs, NOBODY)])
    said = left(world)
    assert len(said) == 1 and str(theirs) in said[0]


@pytest.mark.parametrize("theirs", [
    Rule(4, 32765, net("172.16.20.99/32"), table=77), Rule(4, 32765, net("172.16.10.10/32"), table=77),
    Rule(4, 32765, net("172.16.20.20/32"), action="unreachable"),
    Rule(4, 32765, net("172.16.20.20/32"), table=77, suppress_prefixlength=0),
])
def test_rules_of_another_form_or_of_other_addresses_are_none_of_our_business(theirs):
    assert left(two_enis([(route(77, "default", GATEWAY), BOOT)], [(theirs, NOBODY)])) == ()


def test_what_a_program_made_is_left():
    """NetworkManager and networkd would make it again."""
    table = [(route(77, "default", GATEWAY), BOOT)]
    said = left(two_enis(table, [(rule("172.16.20.20", 77), STATIC)]))
    assert len(said) == 1 and "protocol 4" in said[0]
    assert len(left(two_enis([(table[0][0], DHCP)], [(rule("172.16.20.20", 77), NOBODY)]))) == 1


def test_a_rule_to_main_is_left():
    assert len(left(two_enis(rules=[(rule("172.16.20.20", MAIN), NOBODY)]))) == 1


@pytest.mark.parametrize("protocol", [NOBODY, BOOT])
def test_a_rule_in_the_very_place_of_ours_makes_room_for_it(protocol):
    made = found(two_enis(rules=[(rule("172.16.20.20", 1001, 7200), protocol)]))
    assert texts(made.changes) == [
        "ip -4 rule add from 172.16.20.20 lookup 1001 priority 7200 protocol 235",
        "ip -4 rule del from 172.16.20.20 lookup 1001 priority 7200 protocol {}".format(protocol)]


def test_a_twin_of_ours_that_came_later_is_left():
    """Told no protocol, the kernel takes the first of the two away, which is ours."""
    world = two_enis()
    world = FakeKernel(world).apply(plan(decision(world), world, Record(), CONFIG).changes)
    world = world._replace(rules=world.rules + ((rule("172.16.20.20", 1001, 7200), NOBODY),))
    world = world._replace(rules=tuple(SeenRule(*each) for each in world.rules))
    assert len(left(world)) == 1


@pytest.mark.parametrize("between", [
    Rule(4, 6000, net("172.16.0.0/12"), table=MAIN), Rule(4, 6000, table=MAIN), Rule(4, 6000, action="unreachable"),
    Rule(4, 5000, net("172.16.20.20/32"), table=88),
])
def test_a_rule_that_covers_another_ones_is_left(between):
    """With the typed rule gone somebody else's would catch the packets before ours does."""
    table = [(route(77, "default", GATEWAY), BOOT), (route(78, "default", GATEWAY), BOOT)]
    typed_ones = [(rule("172.16.20.20", 77, 300), BOOT), (rule("172.16.20.20", 78, 301), BOOT)]
    said = left(two_enis(table, typed_ones + [(between, NOBODY)]))
    assert [text for text in said if text.endswith("stands " + str(between))] == list(said[:2])
    harmless = between._replace(priority=299), between._replace(priority=7300), between._replace(oif="tun0", src=None)
    for other in harmless:
        world = two_enis(table, sorted(typed_ones + [(other, NOBODY)], key=lambda each: each[0].priority))
        assert len(found(world).changes) == 4


def test_nothing_is_taken_from_an_eni_that_is_not_well():
    line = "ip rule add from 172.16.20.20 lookup 77"
    said = left(two_enis([(route(77, "default", GATEWAY), BOOT)], [(rule("172.16.20.20", 77), NOBODY)]), line,
                sound={"eth0"})
    assert [text.rpartition(": ")[2] for text in said] == ["the ENI's own way is not proven"] * 2


# main


class TestMain:
    def world(self, *more):
        """eth1 without a default by DHCP."""
        world = two_enis([(route(MAIN, "default", hop, metric=metric), BOOT) for hop, metric in more])
        return world._replace(routes=tuple(
            seen for seen in world.routes if (seen.route.devs(), seen.protocol) != (("eth1",), DHCP)))

    def test_the_default_of_the_page_changes_hands(self):
        made = found(self.world((GATEWAY, 200)))
        assert texts(made.changes) == [
            "ip -4 route replace default via 172.16.20.253 dev eth1 table main metric 200 onlink proto 235"]

    def test_one_of_another_metric_goes_when_ours_is_there(self):
        made = found(self.world((GATEWAY, 777), (GATEWAY, 888)))
        assert [text.split(" dev ")[0] + " " + text.split("metric ")[1] for text in texts(made.changes)] == [
            "ip -4 route add default via 172.16.20.253 200 onlink proto 235",
            "ip -4 route del default via 172.16.20.253 777 proto 3",
            "ip -4 route del default via 172.16.20.253 888 proto 3"]

    def test_beside_a_leased_one_it_goes(self):
        made = found(two_enis([(route(MAIN, "default", GATEWAY, metric=777), BOOT)]))
        assert texts(made.changes) == [
            "ip -4 route del default via 172.16.20.253 dev eth1 table main metric 777 proto 3"]

    @pytest.mark.parametrize("metric", [0, 50, 100])
    def test_one_that_the_host_goes_by_is_left(self, metric):
        assert "no worse than the primary's" in left(self.world((GATEWAY, metric)))[0]

    def test_the_only_one_is_left(self):
        """Ours is never the one that the host goes by."""
        world = self.world((GATEWAY, 2000))
        alone = world._replace(routes=tuple(seen for seen in world.routes if seen.route.devs() != ("eth0",)))
        assert found(alone).changes == () and "main goes by it" in left(alone)[0]

    def test_one_by_another_gateway_is_left(self):
        assert left(self.world(("eth1 172.16.20.9", 200))) == ()

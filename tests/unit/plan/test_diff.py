"""What has to be done, and in which order; the strict fake kernel takes every plan."""

import itertools

import pytest

from eni_bootstrap.desired.decide import Record
from eni_bootstrap.model.changes import Change
from eni_bootstrap.model.kernel import LinkGroup, LinkUp, Route, Rule, SeenRoute
from eni_bootstrap.plan.diff import plan, withdrawal
from tests.build import (
    BOOT, CONFIG, DHCP, ETH1, ETH2, MAIN, OURS, PRIMARY, STATIC, address, decision, interface, link, net, route,
    snapshot, subnet, two_enis,
)
from tests.fakes import FakeKernel

SIX = interface(1, ETH1.subnets[0], subnet("2001:db8:1::/64", "2001:db8:1::5"))
SIX_PRIMARY = interface(0, PRIMARY.subnets[0], subnet("2001:db8::/64", "2001:db8::5"), primary=True)


def planned(world, *interfaces, made=Record(), **options):
    return plan(decision(world, *interfaces, made=made, **options), world, made, CONFIG)


def applied(world, *interfaces, **options):
    """The world after the agent has run in it."""
    return FakeKernel(world).apply(planned(world, *interfaces, **options).changes)


def commands(todo):
    return [str(change) for change in todo.changes]


@pytest.mark.parametrize("interfaces", [(PRIMARY, ETH1), (SIX_PRIMARY, SIX), (PRIMARY, ETH1, ETH2)])
def test_a_second_run_changes_nothing(interfaces):
    world = two_enis(links=[link(0), link(1), link(2, up=False)])
    assert planned(world, *interfaces).changes
    after = applied(world, *interfaces)
    assert planned(after, *interfaces).changes == ()


def test_what_is_made_is_made_in_a_safe_order():
    """Routes before the rules that lead to them, a rule before the address that it is for."""
    world = two_enis(links=[link(0), link(1, up=False)])._replace(
        addresses=(), routes=(SeenRoute(route(MAIN, "default", "eth0 172.16.10.253", metric=100), DHCP),))
    kinds = []
    for change in planned(world, SIX_PRIMARY, SIX).changes:
        item = change.item
        if isinstance(item, Route):
            kind = ("fence" if not item.hops else "main" if item.table == MAIN else
                    "gateway" if item.hops[0].gateway is not None else "on-link")
        elif isinstance(item, Rule):
            kind = "main rule" if item.suppress_prefixlength == 0 else item.action
        else:
            kind = type(item).__name__
        kinds.append(kind)
    assert [kind for kind, _ in itertools.groupby(kinds)] == [
        "LinkGroup", "LinkUp", "on-link", "gateway", "main", "fence", "main rule", "lookup", "unreachable",
        "LinkAddress"]


def test_what_is_removed_is_removed_in_reverse():
    world = applied(two_enis(), SIX_PRIMARY, SIX)
    made = Record(groups=(LinkGroup("eth0", 0), LinkGroup("eth1", 0)))
    changes = withdrawal(world, made, set(), CONFIG).changes
    names = [type(change.item).__name__ for change in changes]
    assert [name for name, _ in itertools.groupby(names)] == ["Rule", "Route", "LinkGroup"]
    rules = [change.item for change in changes if isinstance(change.item, Rule)]
    assert rules[0].action == "unreachable" and rules[-1].suppress_prefixlength == 0


@pytest.mark.parametrize("stop", range(40))
def test_wherever_it_is_killed_the_next_run_ends_in_the_same_state(stop):
    world = two_enis(links=[link(0), link(1), link(2)])
    whole = applied(world, SIX_PRIMARY, SIX, ETH2)
    part = FakeKernel(world).apply(planned(world, SIX_PRIMARY, SIX, ETH2).changes[:stop])
    rerun = applied(part, SIX_PRIMARY, SIX, ETH2)
    assert set(rerun.routes) == set(whole.routes) and set(rerun.rules) == set(whole.rules)
    assert rerun.links == whole.links


def test_remove_leaves_what_was_there_before():
    foreign = [(Rule(4, 7200, net("172.16.20.20/32"), table=1001), STATIC),
               (Rule(4, 7300, net("10.9.9.9/32"), table=99), BOOT)]
    routes = [(route(1001, "10.60.0.0/16", "eth1 172.16.20.9"), BOOT), (route(500, "10.0.0.0/8", "eth0"), OURS)]
    world = two_enis(routes=routes, rules=foreign)
    after = FakeKernel(applied(world)).apply(withdrawal(
        applied(world), Record(groups=(LinkGroup("eth0", 0), LinkGroup("eth1", 0))), set(), CONFIG).changes)
    assert set(after.routes) == set(world.routes) and after.rules == world.rules and after.links == world.links


class TestWhatIsSomebodyElses:
    def test_an_equal_route_counts_as_present(self):
        world = two_enis(routes=[(route(1001, "default", "eth1 172.16.20.253"), BOOT)])
        assert [command for command in commands(planned(world)) if "default via 172.16.20.253" in command] == []

    def test_a_route_by_the_same_way_counts_as_present_whatever_it_suggests_to_sockets(self):
        source = ETH1.subnets[0].addresses[0]
        world = two_enis(routes=[(route(1001, "default", "eth1 172.16.20.253", prefsrc=source), BOOT)])
        todo = planned(world)
        assert [command for command in commands(todo) if "default via 172.16.20.253" in command] == []
        assert todo.conflicts == ()

    def test_a_twin_of_our_rule_counts_as_present(self):
        world = two_enis(rules=[(Rule(4, 7200, net("172.16.20.20/32"), table=1001), STATIC)])
        assert [command for command in commands(planned(world)) if "from 172.16.20.20 " in command] == []

    def test_our_protocol_outside_our_bands_is_not_ours(self):
        others = [(route(500, "10.0.0.0/8", "eth0"), OURS), (route(MAIN, "10.7.0.0/16", "eth1"), OURS),
                  (route(MAIN, "default", "docker0", metric=900), OURS)]
        rules = [(Rule(4, 6999, net("10.0.0.1/32"), table=1001), OURS),
                 (Rule(4, 8000, net("10.0.0.1/32"), table=7), OURS)]
        links = [link(0), link(1), link(7, "docker0", kind="bridge")]
        world = two_enis(routes=others, rules=rules, links=links)
        todo = withdrawal(applied(world), Record(), set(), CONFIG)
        assert not {change.item for change in todo.changes} & {seen[0] for seen in others + rules}

    def test_a_copy_whose_place_is_taken_is_named_and_not_forced(self):
        """In the ENI's own table the user's explicit route wins against the copy of the one in main."""
        taken = route(1001, "10.60.0.0/16", "eth1 172.16.20.7")
        world = two_enis(routes=[(route(MAIN, "10.60.0.0/16", "eth1 172.16.20.9"), STATIC), (taken, BOOT)])
        todo = planned(world)
        assert [conflict.present for conflict in todo.conflicts] == [taken]
        assert [command for command in commands(todo) if "10.60.0.0/16" in command and "1001" in command] == []


class TestExactlyThatChanges:
    def test_an_address_more(self):
        world = applied(two_enis())
        more = interface(1, subnet("172.16.20.0/24", "172.16.20.20", "172.16.20.21"))
        assert commands(planned(world, PRIMARY, more)) == [
            "ip -4 rule add from 172.16.20.21 lookup 1001 priority 7200 protocol 235"]

    def test_an_address_less(self):
        more = interface(1, subnet("172.16.20.0/24", "172.16.20.20", "172.16.20.21"))
        world = applied(two_enis(), PRIMARY, more)
        assert commands(planned(world)) == ["ip -4 rule del from 172.16.20.21 lookup 1001 priority 7200 protocol 235"]

    def test_another_gateway_is_put_in_place_of_the_old_one(self):
        world = applied(two_enis())
        moved = interface(1, subnet("172.16.20.0/24", "172.16.20.20", gateway="172.16.20.1"))
        assert commands(planned(world, PRIMARY, moved)) == [
            "ip -4 route replace default via 172.16.20.1 dev eth1 table 1001 onlink proto 235"]

    def test_an_eni_that_is_gone_with_its_link(self):
        world = applied(two_enis(links=[link(0), link(1), link(2)]), PRIMARY, ETH1, ETH2)
        gone = world._replace(links=world.links[:2], routes=tuple(
            seen for seen in world.routes if "eth2" not in seen.route.devs()))
        assert commands(planned(gone, PRIMARY, ETH1)) == [
            "ip -4 rule del from 172.16.10.30 lookup 1002 priority 7200 protocol 235",
            "ip -4 rule del from all oif eth2 lookup 1002 priority 7500 protocol 235",
            "ip -4 route del unreachable default table 1002 metric 4294967295 proto 235"]

    def test_a_displaced_eni_moves_before_its_old_table_is_emptied(self):
        world = applied(two_enis())
        theirs = snapshot([], routes=[(route(1001, "10.0.0.0/8", "tun0"), BOOT)])
        taken = world._replace(routes=world.routes + theirs.routes)
        found = commands(planned(taken))
        assert found.index("ip -4 rule add from 172.16.20.20 lookup 1100 priority 7200 protocol 235") < found.index(
            "ip -4 rule del from 172.16.20.20 lookup 1001 priority 7200 protocol 235") < found.index(
            "ip -4 route del default via 172.16.20.253 dev eth1 table 1001 proto 235")

    def test_groups_go_back_when_the_last_secondary_has_gone(self):
        world = applied(two_enis())
        gone = world._replace(links=world.links[:1], routes=tuple(
            seen for seen in world.routes if "eth1" not in seen.route.devs()))
        found = commands(planned(gone, PRIMARY, made=Record(groups=(LinkGroup("eth0", 3), LinkGroup("eth1", 0)))))
        assert found[-1] == "ip link set dev eth0 group 3"
        assert [command for command in found if " add " in command] == []


class TestWithdrawal:
    made = Record(frozenset(["eth1"]), (LinkGroup("eth1", 0),), frozenset([address("eth1", "172.16.20.20/24")]))

    def test_takes_back_addresses_and_links_that_we_brought_up(self):
        world = snapshot([link(0), link(1)], [address("eth1", "172.16.20.20/24")])
        assert commands(withdrawal(world, self.made, set(), CONFIG)) == [
            "ip -4 address del 172.16.20.20/24 dev eth1", "ip link set dev eth1 down"]

    def test_leaves_a_link_up_that_somebody_uses_by_now(self):
        world = snapshot([link(0), link(1)], [address("eth1", "172.16.20.20/24"), address("eth1", "10.0.0.1/24")])
        assert [each for each in commands(withdrawal(world, self.made, set(), CONFIG)) if "down" in each] == []

    def test_leaves_a_link_and_its_address_alone_by_which_somebody_routes(self):
        world = snapshot([link(0), link(1)], [address("eth1", "172.16.20.20/24")])
        assert commands(withdrawal(world, self.made, {"eth1"}, CONFIG)) == []

    def test_leaves_an_address_that_a_client_has_leased_since(self):
        world = snapshot([link(0), link(1)], [address("eth1", "172.16.20.20/24")._replace(leased=True)])
        assert commands(withdrawal(world, self.made, set(), CONFIG)) == []

    def test_leaves_an_address_that_is_no_longer_there_alone(self):
        assert commands(withdrawal(snapshot([link(0), link(1, up=False)]), self.made, set(), CONFIG)) == []


@pytest.mark.parametrize("verb, item, text", [
    ("add", LinkUp("eth1"), "ip link set dev eth1 up"),
    ("remove", LinkUp("eth1"), "ip link set dev eth1 down"),
    ("add", LinkUp("we;ird"), "ip link set dev 'we;ird' up"),
    ("add", LinkGroup("eth1", 60235), "ip link set dev eth1 group 60235"),
    ("add", address("eth1", "2001:db8::1/128"), "ip -6 address add 2001:db8::1/128 dev eth1 nodad"),
    ("add", route(1001, "10.0.0.0/8", "eth1 172.16.20.9", metric=5, options=(("mtu", 1400),)),
     "ip -4 route add 10.0.0.0/8 via 172.16.20.9 dev eth1 table 1001 metric 5 mtu 1400 onlink proto 235"),
    ("add", Rule(6, 7400, net("2001:db8::1/128"), action="unreachable"),
     "ip -6 rule add from 2001:db8::1 unreachable priority 7400 protocol 235"),
])
def test_a_change_is_told_as_the_command_that_makes_it(verb, item, text):
    assert str(Change(verb, item, 235)) == text

"""What of a plan can be done at once."""

import pytest

from eni_bootstrap.desired.tables import Memory
from eni_bootstrap.model.changes import Change, Plan
from eni_bootstrap.model.kernel import LinkUp, Rule
from eni_bootstrap.plan.stages import Refusals, families_of, sparing, staged
from tests.build import CONFIG, ETH1, ETH2, OURS, PRIMARY, address, decision, link, net, route, two_enis

A, B = net("172.16.20.20/32"), net("172.16.10.30/32")


def led(source, table, priority=7200):
    return Rule(4, priority, source, table=table)


def add(*items):
    return tuple(Change("add", item, OURS) for item in items)


def remove(*items):
    return tuple(Change("remove", item, OURS) for item in items)


FILLS = route(1001, "default", "eth1 172.16.20.253")


def test_a_plan_without_a_quarrel_is_done_at_once():
    plan = Plan(routes=add(FILLS), rules=add(led(A, 1001)), removals=remove(led(B, 1002)))
    assert staged(plan) == (plan, False)


def test_old_rules_leave_a_table_before_it_is_filled_for_another():
    plan = Plan(routes=add(FILLS), rules=add(led(A, 1001)), removals=remove(led(B, 1001)))
    now, more = staged(plan)
    assert more and now == Plan(removals=remove(led(B, 1001)))


def test_a_source_s_new_rule_comes_before_its_old_one_goes():
    plan = Plan(routes=add(FILLS), rules=add(led(A, 1001), led(B, 1002)), removals=remove(led(B, 1001)))
    assert staged(plan)[0] == Plan(rules=add(led(B, 1002)), removals=remove(led(B, 1001)))


def test_where_nobody_can_begin_all_is_done_at_once():
    """Two that change places, each waiting for the other: better now than never."""
    plan = Plan(routes=add(FILLS, route(1002, "default", "eth2 172.16.10.253")),
                rules=add(led(A, 1001), led(B, 1002)), removals=remove(led(B, 1001), led(A, 1002)))
    assert staged(plan) == (plan, False)


def test_what_an_eni_has_is_spared_and_what_others_have_is_not():
    world = two_enis(links=[link(0), link(1), link(2)], routes=[(route(1001, "172.16.20.0/24", "eth1"), OURS)])
    made = decision(world, PRIMARY, ETH1, ETH2)
    spared = families_of([FILLS], made)
    assert spared == {("eth1", 4)}
    gone = net("172.16.20.99/32")
    changes = add(led(A, 1001), led(B, 1002)) + remove(
        led(gone, 1001), led(B, 1001), Rule(4, 7500, oif="eth1", table=1001), route(1001, "10.0.0.0/8", "eth1"),
        Rule(6, 7200, net("2001:db8::1/128"), table=1001))
    assert [str(change.item) for change in sparing(changes, spared, made, Memory(world, CONFIG))] == [
        "from 172.16.10.30 lookup 1002 priority 7200", "from 172.16.10.30 lookup 1001 priority 7200",
        "from 2001:db8::1 lookup 1001 priority 7200"]


PREFIX = net("172.16.20.32/28")
POOL = route(255, str(PREFIX), "lo", kind="local")
FENCE = Rule(6, 7400, net("2001:db8::1/128"), action="unreachable")


@pytest.mark.parametrize("refused, later", [
    (add(led(PREFIX, 1001, 7300)), add(POOL)),
    (add(led(A, 1001)), add(address("eth1", "172.16.20.20/24"))),
    (remove(POOL), remove(led(PREFIX, 1001, 7300))),
    (remove(address("eth1", "172.16.20.20/24")), remove(led(A, 1001))),
    (remove(FENCE), remove(Rule(6, 7200, FENCE.src, table=1001))),
    (remove(led(A, 1001)), remove(FILLS)),
    (remove(FILLS), remove(LinkUp("eth1"))),
], ids=lambda changes: str(*changes))
def test_what_presupposes_a_refused_change_waits_and_nothing_else(refused, later):
    others = add(led(B, 1002), address("eth2", "172.16.10.30/24"), Rule(4, 7500, oif="eth1", table=1001)) + remove(
        led(B, 1002), route(1002, "default", "eth2 172.16.10.253"), LinkUp("eth2"))
    refusals = Refusals()
    for change in refused:
        refusals.note(change)
    assert [change for change in later + others if refusals.concern(change)] == list(later)

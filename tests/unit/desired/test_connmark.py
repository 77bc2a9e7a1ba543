"""Connection marks: who gets which, and the ruleset that sets them."""

import pytest

from eni_bootstrap.config import file as config_file
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.connmark import Marked, as_wanted, mark_rules, marked, ruleset, value
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.eni import SickInterface
from eni_bootstrap.plan.diff import plan, withdrawal
from tests.build import BOOT, ETH1, ETH2, PRIMARY, decision, interface, link, route, subnet, two_enis
from tests.fakes import FakeKernel

MASK = 0x7F000000
MARKING = Config(connection_marks=MASK)
DEVS = ("eth0", "eth1", "eth2")
TABLE = "inet eni_bootstrap"
ON = "connection-marks: {}\n"


# the configuration


def read(text):
    found, problems = config_file.read(text.encode())
    return found.connection_marks if found else [str(problem) for problem in problems]


@pytest.mark.parametrize("text, mask", [
    ("assign: all\n", 0), (ON, MASK), ("connection-marks: {mask: 0x00f00000}\n", 0xF00000),
    ("connection-marks:\n  mask: 0xff\n", 0xFF), ("connection-marks: {mask: 0xf0000000}\n", 0xF0000000),
])
def test_it_is_asked_for_and_its_bits_can_be_chosen(text, mask):
    assert read(text) == mask


@pytest.mark.parametrize("mask", ["0", "0x7", "0x70000000", "0xf0f0", "0x1ff000000", "-16", "many", "[1]"])
def test_a_mask_is_at_least_four_bits_side_by_side(mask):
    assert "at least four bits" in read("connection-marks: {{mask: {}}}\n".format(mask))[0]


def test_an_entry_s_mark_in_our_bits_is_a_contradiction():
    entry = "access:\n  - {{mark: {}, via: eth1}}\n"
    assert "lies in the bits" in read(ON + entry.format("0x01000000/0xff000000"))[0]
    assert read(ON + entry.format("0x10/0xff")) == MASK


def test_the_default_bits_are_nobody_s():
    others = {"kube-proxy": 0xC000, "CNI port mapping": 0x2000, "Tailscale": 0xFF0000, "Weave": 0x60000,
              "AWS": 0x80, "Antrea": 0x80000000, "people": 0xFF}
    assert not [name for name, bits in others.items() if bits & MASK]


# the decision


def decided(world, *interfaces, config=MARKING):
    return decision(world, *interfaces, config=config)


def texts(world, *interfaces, **options):
    return [str(rule) for rule in decided(world, *interfaces, **options).rules if rule.match.mask
            or rule.action == "nop"]


def test_the_rules_of_each_eni():
    six = interface(1, *ETH1.subnets, six_subnet("2001:db8:1::"))
    first = interface(0, *PRIMARY.subnets, six_subnet("2001:db8::"), primary=True)
    found = texts(two_enis(), first, six)
    assert found[:2] == ["from all nop priority 7160"] * 2
    assert set(found) == {
        "from all nop priority 7160",
        "from all fwmark 0x1000000/0x7f000000 iif eth0 goto 7160 priority 7140",
        "from all fwmark 0x1000000/0x7f000000 lookup 1000 priority 7150",
        "from all fwmark 0x1000000/0x7f000000 lookup main priority 7151",
        "from all fwmark 0x2000000/0x7f000000 iif eth1 goto 7160 priority 7140",
        "from all fwmark 0x2000000/0x7f000000 lookup 1001 priority 7150",
        "from all fwmark 0x2000000/0x7f000000 unreachable priority 7151"}
    assert found.count("from all fwmark 0x2000000/0x7f000000 unreachable priority 7151") == 1, "IPv4's is in the table"


def six_subnet(prefix):
    return subnet(prefix + "/64", prefix + "5")


def test_without_the_option_and_with_one_eni_there_is_nothing():
    assert decided(two_enis(), PRIMARY, ETH1, config=Config()).marked == ()
    assert texts(two_enis(), PRIMARY, ETH1, config=Config()) == []
    alone = decided(two_enis(links=[link(0)]), PRIMARY)
    assert alone.marked == () and alone.rules == ()


def test_a_displaced_eni_has_a_number_of_its_own():
    world = two_enis(routes=[(route(1001, "10.0.0.0/8", "tun0"), BOOT)])
    assert [(member.dev, member.number, member.table) for member in decided(world, PRIMARY, ETH1).marked] == [
        ("eth0", 1, 1000), ("eth1", 101, 1100)]


def test_an_eni_whose_number_has_no_room_is_named_and_the_others_are_done():
    world = two_enis(links=[link(0), link(1), link(20)])
    far = ETH2._replace(mac=link(20).mac)
    found = decided(world, PRIMARY, ETH1, far, config=Config(connection_marks=0xF0))
    assert [member.dev for member in found.marked] == ["eth0", "eth1"]
    assert any("table 1020 would be number 21" in problem and "room for 15" in problem for problem in found.problems)


def test_a_name_that_means_something_to_nft_is_refused():
    strange = decided(two_enis(links=[link(0), link(1, "eth*")]), PRIMARY, ETH1)
    assert [member.dev for member in strange.marked] == ["eth0"]
    assert any("can't be told" in problem for problem in strange.problems)


def test_what_is_planned_is_complete_and_taken_back():
    world = two_enis(links=[link(0), link(1), link(2)])
    wanted = decided(world, PRIMARY, ETH1, ETH2)
    after = FakeKernel(world).apply(plan(wanted, world, Record(), MARKING).changes)
    assert plan(decided(after, PRIMARY, ETH1, ETH2), after, Record(), MARKING).changes == ()
    less = FakeKernel(after).apply(plan(decided(after, PRIMARY, ETH1, ETH2, config=Config()), after, Record(),
                                        Config()).changes)
    assert not [seen for seen in less.rules if seen.rule.match.mask or seen.rule.action == "nop"]
    left = FakeKernel(after).apply(withdrawal(after, Record(), set(), Config()).changes)
    assert left.rules == world.rules


def test_an_eni_that_can_t_be_set_up_now_keeps_its_mark():
    world = two_enis(links=[link(0), link(1), link(2)])
    after = FakeKernel(world).apply(plan(decided(world, PRIMARY, ETH1, ETH2), world, Record(), MARKING).changes)
    sick = SickInterface("eni-2", ETH2.mac, False, "its gateway is missing", True)
    found = decision(after, PRIMARY, ETH1, sick=[sick], config=MARKING)
    assert [member.dev for member in found.marked] == list(DEVS)
    assert plan(found, after, Record(), MARKING).changes == ()


# the text


ONE = [Marked("eth0", 1, 1000, True, (4,)), Marked("eth1", 2, 1001, False, (4,))]


def test_rules_have_constants_only():
    text = ruleset(ONE, MARKING)
    assert '\t\tiifname "eth1" ct state new ct mark set ct mark & 0x80ffffff | 0x02000000\n' in text
    assert "\t\tct mark & 0x7f000000 == 0x02000000 meta mark set meta mark & 0x80ffffff | 0x02000000\n" in text
    assert text.startswith("add table {0}\ndelete table {0}\ntable {0} {{\n".format(TABLE))
    assert value(ONE[1], Config(connection_marks=0xF0)) == 0x20


def test_a_listing_is_as_wanted_or_it_is_not():
    text = ruleset(ONE, MARKING)
    lines = text.splitlines()
    assert as_wanted("\n".join(lines[2:]), text)
    assert not as_wanted("", text)
    assert not as_wanted("\n".join(lines[2:-3] + lines[-2:]), text), "a rule has gone"
    assert not as_wanted(text, ruleset(ONE, Config(connection_marks=0xF0)))
    assert not as_wanted(text, ruleset(ONE[:1], MARKING))


def test_numbers_are_the_tables():
    assert [rule.match.mark for rule in mark_rules(ONE, MARKING) if rule.priority == 7150] == [0x1000000, 0x2000000]
    assert marked((), {4}, MARKING) == ([], [])

"""ENIs and addresses that change places, and what must be noticed; on the real kernel."""

import time
from copy import deepcopy

import pytest

from eni_bootstrap.agent import commands as agent_commands
from eni_bootstrap.config.settings import Config
from eni_bootstrap.kernel.kernel import Kernel
from eni_bootstrap.lab.vpc import macs_of, make_tree
from eni_bootstrap.model.deadline import Deadline
from tests.fakes import Clock
from tests.oracle import NO_WAY, assert_answers_by, defaults, ip, leaves_by, rules, sources_led_to

OUTSIDE = "203.0.113.50"


def give(vpc, dev, *addresses):
    """Metadata and the cloud give an ENI just these addresses, the first of them its primary one."""
    leaves = macs_of(vpc.tree)[vpc.nics[dev].mac]
    leaves["private-ipv4s"] = "[{}]".format(",".join('"{}"'.format(address) for address in addresses))
    leaves["primary-ip-address"] = addresses[0]


def test_an_address_that_moves_from_a_sick_eni_to_the_primary_is_the_primary_s(make_vpc, make_agent):
    vpc = make_vpc(make_tree(3, addresses=2, vswitches="shared"), assign=True)
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    moved = str(vpc.subnet("eth1").addresses[1])
    assert leaves_by(vpc, moved, OUTSIDE) == "eth1"
    primary, kept = [str(address) for address in vpc.subnet("eth0").addresses], str(vpc.address("eth1"))
    give(vpc, "eth1", kept)
    give(vpc, "eth0", *primary, moved)
    del macs_of(vpc.tree)[vpc.nics["eth1"].mac]["gateway"]
    ip(vpc, "address del {}/24 dev eth1".format(moved))
    ip(vpc, "address add {}/24 dev eth0".format(moved))
    result = agent("apply", "--timeout", 4)
    assert result.code == 1 and "gateway" in result.out
    assert leaves_by(vpc, moved, OUTSIDE) == "eth0" and leaves_by(vpc, kept, OUTSIDE) == "eth1"


def test_an_address_that_moves_from_an_unlisted_eni_is_the_new_owner_s(make_vpc, make_agent):
    vpc = make_vpc(make_tree(3, addresses=2, vswitches="shared"), assign=True)
    agent = make_agent(vpc)
    agent("apply")
    moved = str(vpc.subnet("eth1").addresses[1])
    del macs_of(vpc.tree)[vpc.nics["eth1"].mac]
    give(vpc, "eth2", str(vpc.address("eth2")), moved)
    ip(vpc, "address del {}/24 dev eth1".format(moved))
    ip(vpc, "address add {}/24 dev eth2".format(moved))
    assert agent("apply").code == 0
    assert leaves_by(vpc, moved, OUTSIDE) == "eth2"
    assert str(vpc.address("eth1")) in sources_led_to(vpc, 1001), "the rest of it stays until its link goes"


def change_places(make_vpc, make_agent):
    """A host that is set up; then eth1 and eth2 have each other's name. Their MACs and addresses by the old names."""
    vpc = make_vpc(make_tree(3, vswitches="own"))
    agent = make_agent(vpc)
    agent("apply")
    macs = {name: vpc.nics[name].mac for name in ("eth1", "eth2")}
    addresses = {name: str(vpc.address(name)) for name in macs}
    for name in macs:
        vpc.detach(name, listed=True)
    vpc.attach(macs["eth1"], name="eth2", os="up")
    vpc.attach(macs["eth2"], name="eth1", os="up")
    return vpc, agent, macs, addresses


def test_a_refused_gateway_costs_its_eni_only_also_when_links_have_changed_places(make_vpc, make_agent):
    vpc, agent, macs, addresses = change_places(make_vpc, make_agent)
    macs_of(vpc.tree)[macs["eth1"]]["gateway"] = "172.16.20.255"  # the kernel takes no broadcast address
    result = agent("apply")
    assert result.code == 1 and macs["eth1"] in result.out
    assert leaves_by(vpc, addresses["eth2"], OUTSIDE) == "eth1", "the healthy one works under its new name"
    assert leaves_by(vpc, addresses["eth1"], OUTSIDE) not in ("eth0", "eth1"), "the sick one goes nowhere wrong"


def test_a_sick_eni_keeps_what_it_has_when_a_well_one_has_its_name(make_vpc, make_agent):
    vpc, agent, macs, addresses = change_places(make_vpc, make_agent)
    macs_of(vpc.tree)[macs["eth1"]]["gateway"] = "rubbish"
    result = agent("apply")
    assert result.code == 1 and macs["eth1"] in result.out
    assert leaves_by(vpc, addresses["eth2"], OUTSIDE) == "eth1"
    assert addresses["eth1"] in sources_led_to(vpc, 1001), "its rule stays, and with it the fence"
    assert [rule["table"] for rule in rules(vpc) if rule.get("oif") == "eth1"] == ["1002"], "the device is the other's"
    assert leaves_by(vpc, addresses["eth1"], OUTSIDE) not in ("eth0", "eth1")


class Meanwhile(Clock):
    """A clock of a run that pauses: on the way to a certain second something happens."""

    def __init__(self, second, event):
        super().__init__()
        self._second, self._event = second, event

    def sleep(self, seconds):
        super().sleep(seconds)
        if self._event and self.now >= self._second:
            event, self._event = self._event, None
            event()


def test_links_that_change_places_while_a_run_waits_are_all_done_by_that_run(make_vpc, monkeypatch, tmp_path):
    """Nine seconds of waiting are nine looks, and none of them was one without a pause."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    vpc = make_vpc(make_tree(4, vswitches="own"))
    late = vpc.nics["eth3"].mac
    vpc.detach("eth3", listed=True)

    def change_places():
        """The ENI that was waited for comes as eth1, which was another's name and table."""
        vpc.detach("eth1")
        vpc.attach(late, name="eth1", os="up")

    clock = Meanwhile(9, change_places)
    with vpc.instance:
        kernel = Kernel()
        try:
            report = agent_commands.apply(agent_commands.Context(
                lambda: deepcopy(vpc.tree), kernel, Deadline(60, clock), Config(), sleep=clock.sleep))
        finally:
            kernel.close()
    assert clock.slept.count(1.0) == 9, "it waited no longer than it had to"
    assert report.problems == () and report.exit_code == 0
    for dev in ("eth1", "eth2"):
        assert leaves_by(vpc, vpc.address(dev), OUTSIDE) == dev
        assert_answers_by(vpc, dev, vpc.address(dev))


def test_a_primary_whose_ipv6_default_comes_late_keeps_the_traffic(make_vpc, make_agent):
    """Router advertisements come when they come; metadata by IPv4 is there before."""
    vpc = make_vpc(make_tree(2, ipv6=True, vswitches="own"))
    ip(vpc, "-6 route flush default")
    agent = make_agent(vpc)
    assert agent("apply").code == agent("verify").code == 0
    assert leaves_by(vpc, None, "3fff::1") == NO_WAY, "nobody's traffic has a way that it did not have"
    ip(vpc, "-6 route add default via {} dev eth0 onlink metric 1024 proto ra".format(vpc.subnet("eth0", 6).gateway))
    for _ in range(2):
        assert leaves_by(vpc, None, "3fff::1") == "eth0"
        assert agent("apply").code == 0
    assert [default[:2] for default in defaults(vpc, 6)] == [("eth0", 1024), ("eth1", 1124)]


def test_status_notices_that_somebody_has_deleted_our_rules(make_vpc, make_agent):
    """As systemd-networkd does, which keeps the routes."""
    vpc = make_vpc(make_tree(3))
    agent = make_agent(vpc)
    agent("apply")
    assert agent("status").code == 0
    ip(vpc, "rule del from 172.16.20.10 priority 7200")
    result = agent("status")
    assert result.code == 1 and "172.16.20.10" in result.out
    for rule in [rule for rule in rules(vpc) if 7000 <= rule["priority"] < 8000]:
        ip(vpc, "rule del priority {}".format(rule["priority"]))
    assert agent("status").code == 1 and not agent("status", "--json").json["ok"]


def test_verify_notices_a_wrong_gateway_on_the_right_device(vpc, make_agent):
    agent = make_agent(vpc)
    agent("apply")
    assert agent("verify").code == 0
    ip(vpc, "route replace default via 172.16.20.77 dev eth1 onlink table 1001")
    result = agent("verify")
    assert result.code == 1 and "172.16.20.253" in result.out


def test_verify_names_foreign_rules_that_look_at_something_else_than_the_source(vpc, make_agent):
    agent = make_agent(vpc)
    agent("apply")
    ip(vpc, "rule add ipproto tcp sport 7 lookup 99")
    assert "ipproto" in agent("verify").out


@pytest.mark.parametrize("commands", [
    ["link add v0 type veth peer name v1", "link set v0 up", "link set v1 up"],
    ["link add br0 type bridge", "link set br0 up", "address add 10.0.0.1/24 dev br0", "tuntap add tun0 mode tun",
     "link set tun0 up", "route add 10.0.0.0/8 dev tun0"],
    ["tuntap add tun0 mode tun", "link set tun0 up", "route add 172.16.0.0/12 dev tun0"],
], ids=["link-local only", "nested prefixes", "a VPN over the VPC"])
def test_verify_does_not_cry_wolf_on_a_healthy_host(make_vpc, make_agent, commands):
    vpc = make_vpc(make_tree(3, ipv6=True))
    for command in commands:
        ip(vpc, command)
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    result = agent("verify")
    assert result.code == 0, result.out


class TestRemoveTakesWhatIsOurs:
    def test_not_the_lease_that_a_client_has_put_in_the_place_of_our_address(self, make_vpc, make_agent):
        vpc = make_vpc(make_tree(2), os="down")
        agent = make_agent(vpc)
        agent("apply")
        address = "{}/{}".format(vpc.address("eth1"), vpc.subnet("eth1").vswitch.prefixlen)
        ip(vpc, "address replace {} dev eth1 valid_lft 3600 preferred_lft 3600".format(address))
        assert agent("remove").code == 0
        assert address in ip(vpc, "address show dev eth1") and "UP" in ip(vpc, "link show dev eth1").split(">")[0]

    def test_not_the_link_by_which_somebody_routes(self, make_vpc, make_agent):
        vpc = make_vpc(make_tree(2), os="down")
        agent = make_agent(vpc)
        agent("apply")
        ip(vpc, "route add 10.9.0.0/16 via {} dev eth1 table 77".format(vpc.subnet("eth1").gateway))
        assert agent("remove").code == 0
        assert "10.9.0.0/16" in ip(vpc, "route show table 77")

    def test_without_waiting_for_a_run_that_waits_for_metadata(self, make_vpc, make_agent):
        vpc = make_vpc(make_tree(2))
        agent = make_agent(vpc)
        agent("apply")
        vpc.service.faults.always = 503
        with agent.start("apply", "--timeout", 8) as waiting:
            time.sleep(1)
            started = time.monotonic()
            assert agent("remove", "--timeout", 4).code == 0
            assert time.monotonic() - started < 2
            assert waiting.poll() is None, "the other run was to be still at it"
            waiting.communicate()
        assert waiting.returncode == 3

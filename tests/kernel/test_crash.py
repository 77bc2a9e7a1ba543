"""Killed at any moment: nothing leaves by a way that is neither the old nor the new one, and the next run ends it."""

import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from copy import deepcopy

import pytest

from eni_bootstrap.agent import commands
from eni_bootstrap.config import file as config_file
from eni_bootstrap.config.settings import Config
from eni_bootstrap.kernel import link_codec, record
from eni_bootstrap.kernel.kernel import Kernel
from eni_bootstrap.lab.vpc import METADATA, Vpc, macs_of, make_tree
from eni_bootstrap.model.kernel import LinkAddress, LinkGroup, LinkUp, Rule
from tests import oracle
from tests.agent import Agent
from tests.effort import one_in, times
from tests.in_process import run_here

ETH0, ETH1, ETH2, ETH3 = ("00:16:3e:0e:00:0{}".format(number) for number in range(1, 5))
NOWHERE = ""


def ways(vpc):
    """(source, destination) → "device gateway", by the kernel's own look-ups: every source on a link to everywhere."""
    targets = {4: ["203.0.113.1", str(METADATA)], 6: ["3fff::1"]}
    for interface in vpc.nics.values():
        for subnet in interface.subnets:
            targets[subnet.version].append(str(subnet.vswitch[120]))
    questions = [(None, str(METADATA))]
    for link in oracle.show(vpc, "address show"):
        for held in link["addr_info"]:
            if held["scope"] == "global":
                version = 4 if held["family"] == "inet" else 6
                questions += [(held["local"], target) for target in targets[version]]
    lines = ["route get {}{}".format(dst, " from " + src if src else "") for src, dst in questions]
    done = vpc.instance.run("ip -o -force -batch -".split(), input="\n".join(lines) + "\n", check=False,
                            stderr=subprocess.PIPE)
    failed = {int(number) - 1 for number in re.findall(r"Command failed -:(\d+)", done.stderr)}
    answers = iter(done.stdout.splitlines())
    found = {}
    for place, question in enumerate(questions):
        found[question] = NOWHERE if place in failed else _way(next(answers))
    assert next(answers, None) is None
    return found


def _way(line):
    """The device: by which gateway is the ENI's own affair."""
    refused = line.split()[0] in ("unreachable", "prohibit", "blackhole")
    return NOWHERE if refused else re.search(r" dev (\S+)", line).group(1)


def primary_default(vpc):
    return [route for route in oracle.show(vpc, "route show default") if route["dev"] == vpc.primary]


def assert_no_wrong_way(now, old, new, when):
    """Of sources that are there before and afterwards."""
    wrong = {question: (way, old[question], new[question]) for question, way in now.items()
             if question in old and question in new and way not in (NOWHERE, old[question], new[question])}
    assert not wrong, "after {}: {{(from, to): (way, before, afterwards)}} {}".format(when, wrong)


# the worlds, and the ways between them


def lab():
    """Three ENIs, both families, two addresses each, all on their links; eth2's link was left down."""
    return Vpc(make_tree(enis=3, addresses=2, ipv6=True, prefix=True), assign=True, os={"eth2": "down"})


def address_moved(vpc):
    """From eth1 to eth2: in the cloud and on the links."""
    macs = macs_of(vpc.tree)
    macs[ETH1]["private-ipv4s"] = '["172.16.20.10"]'
    macs[ETH2]["private-ipv4s"] = '["172.16.10.12","172.16.10.13","172.16.20.11"]'
    macs[ETH2]["vswitch-cidr-block"] = "172.16.0.0/16"
    vpc.instance.run("ip address del 172.16.20.11/24 dev eth1".split())
    vpc.instance.run("ip address add 172.16.20.11/16 dev eth2".split())


def nothing(vpc):
    """From nothing to everything."""


def gateway_changed(vpc):
    macs_of(vpc.tree)[ETH1].update({"gateway": "172.16.20.252", "ipv6-gateway": "2001:db8:20:a201:ffff:ffff:ffff:fff6"})


def primary_gateway_changed(vpc):
    macs_of(vpc.tree)[ETH0].update({"gateway": "172.16.10.252"})


def eni_attached(vpc):
    leaves = deepcopy(macs_of(make_tree(enis=4, addresses=2, ipv6=True, vswitches=[0, 1, 0, 3]))[ETH3])
    vpc.attach(ETH3, leaves=leaves, name="eth3", os="up")


def eni_detached(vpc):
    vpc.detach("eth2")


def links_swapped(vpc):
    """Both ENIs plugged in anew, and each under the other's name."""
    macs = {name: vpc.nics[name].mac for name in ("eth1", "eth2")}
    for name in macs:
        vpc.detach(name, listed=True)
    vpc.attach(macs["eth1"], name="eth2", os="up")
    vpc.attach(macs["eth2"], name="eth1", os="up")


def name_taken_and_address_moved(vpc):
    """Another ENI is eth1 now, and an address of the one that was it is eth2's."""
    gone = vpc.nics["eth1"].mac
    vpc.detach("eth1")
    macs = macs_of(vpc.tree)
    macs[ETH2]["private-ipv4s"] = '["172.16.10.12","172.16.10.13","172.16.20.11"]'
    macs[ETH2]["vswitch-cidr-block"] = "172.16.0.0/16"
    leaves = deepcopy(macs_of(make_tree(enis=4, addresses=2, vswitches=[0, 1, 0, 3]))[ETH3])
    vpc.attach(ETH3, leaves=leaves, name="eth1", os="up")
    vpc.instance.run("ip address add 172.16.20.11/16 dev eth2".split())
    assert gone == ETH1


def somebody_takes_the_table(vpc):
    vpc.instance.run("ip route add default via 172.16.10.253 dev eth0 metric 50 table 1001".split())


def somebody_takes_the_group(vpc):
    vpc.instance.run("ip link set eth2 group 5".split())


def routes_of_the_user(vpc):
    for command in ("route add 198.18.5.0/24 via 172.16.20.253 dev eth1", "route add 198.18.6.0/24 dev eth0",
                    "route add 172.16.20.64/26 dev eth0"):
        vpc.instance.run(["ip"] + command.split())


CHANGES = [nothing, address_moved, gateway_changed, primary_gateway_changed, eni_attached, eni_detached,
           links_swapped, name_taken_and_address_moved, somebody_takes_the_table, somebody_takes_the_group,
           routes_of_the_user]


class Killed(BaseException):
    """As SIGKILL: nothing of the agent catches it."""


class StepKernel(Kernel):
    """Sends one message at a time and tells of each."""

    def __init__(self, told):
        super().__init__()
        self._told = told

    def apply(self, changes):
        failures = []
        for change in changes:
            failures += super().apply([change])
            self._told(change)
        return failures


def step(vpc, told, command=commands.apply, config=Config()):
    """A run of the agent that tells of every single message to the kernel."""
    return run_here(vpc, command, config, kernel=lambda: StepKernel(told))


@pytest.fixture
def instance(make_agent, monkeypatch):
    """A lab in which one run has been; its agent."""
    with lab() as vpc:
        agent = make_agent(vpc)
        monkeypatch.setenv("RUNTIME_DIRECTORY", agent.directory)
        yield vpc, agent


@pytest.mark.parametrize("change", CHANGES)
def test_after_every_single_message_no_packet_leaves_by_a_wrong_way(change, instance):
    vpc, agent = instance
    if change is not nothing:
        assert agent("apply").code == 0
        change(vpc)
    old, seen = ways(vpc), []
    default = primary_default(vpc)

    def told(item):
        assert primary_default(vpc) == default
        seen.append((str(item), ways(vpc)))

    step(vpc, told)
    new = ways(vpc)
    assert seen
    assert old[(None, str(METADATA))] == new[(None, str(METADATA))]
    for item, now in seen:
        assert_no_wrong_way(now, old, new, item)


@pytest.mark.parametrize("change", [nothing, somebody_takes_the_group])
def test_while_it_is_taken_back_no_packet_leaves_by_a_wrong_way(change, instance):
    vpc, agent = instance
    assert agent("apply").code == 0
    if change is not nothing:
        change(vpc)
        agent("apply")
    old, seen = ways(vpc), []
    step(vpc, lambda item: seen.append((str(item), ways(vpc))), commands.remove)
    new = ways(vpc)
    for item, now in seen:
        assert_no_wrong_way(now, old, new, item)


def test_an_address_that_we_add_never_answers_by_another_eni(instance):
    """Neither when it is added nor when it is taken back: it has rules whenever it is on the link."""
    vpc, agent = instance
    old, seen = ways(vpc), []
    step(vpc, lambda item: seen.append((str(item), ways(vpc))))
    step(vpc, lambda item: seen.append((str(item), ways(vpc))), commands.remove)
    for item, now in seen:
        astray = {question: way for question, way in now.items()
                  if question not in old and way not in (NOWHERE, "eth2")}
        assert not astray, "after {}".format(item)


def test_a_group_that_is_given_back_makes_no_wrong_way(instance):
    vpc, agent = instance
    vpc.instance.run("ip link set eth2 group 5".split())
    assert agent("apply").code == 0
    vpc.instance.run("ip link set eth2 group 0".split())
    old, seen = ways(vpc), []
    step(vpc, lambda item: seen.append((str(item), ways(vpc))))
    new = ways(vpc)
    for item, now in seen:
        assert_no_wrong_way(now, old, new, item)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_message_was_the_last_the_next_run_ends_in_the_same_state(change, monkeypatch, tmp_path):
    """A run is cut after k messages, for k over the whole run, each in a fresh copy of the same world."""

    def world_after(cut):
        """What the kernel holds after a run cut so, and another; how many messages the first one sent."""
        with lab() as vpc:
            agent, sent = Agent(vpc, tmp_path / str(cut)), []
            monkeypatch.setenv("RUNTIME_DIRECTORY", agent.directory)
            if change is not nothing:
                assert agent("apply").code == 0
                change(vpc)

            def told(item):
                sent.append(item)
                if len(sent) == cut:
                    raise Killed()

            if cut:
                with pytest.raises(Killed):
                    step(vpc, told)
                assert agent("apply").code == 0
            else:
                step(vpc, told)
            return configuration(vpc), len(sent)

    reference, total = world_after(cut=0)
    for cut in range(1, total + 1, 1 if total < 12 else one_in(3)):
        assert world_after(cut)[0] == reference, "cut after message {} of {}".format(cut, total)


def configuration(vpc):
    """The dump, without what differs from lab to lab: indexes, random link-local addresses.

    Rules of one priority are sorted: ours are of other sources or devices each, so that their order, which is the one
    in which they came, sends no packet another way.
    """
    text = re.sub(r"(?m)^\d+: ", "", oracle.kernel(vpc))
    lines = [line.rstrip() for line in text.splitlines() if not re.search(r"fe80::[^/]|link-netnsid", line)]
    found = [re.sub(r"@if\d+|promiscuity.*|qlen \d+", "", line) for line in lines]
    by_priority = itertools.groupby(found, lambda line: re.match(r"\d+:\t|", line).group())
    return [line for priority, block in by_priority for line in (sorted(block) if priority else block)]


# SIGKILL at random moments


NOTICES = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000
"""Links, addresses, routes and rules of both families (linux/rtnetlink.h)."""


def killed(vpc, agent, command, chance):
    """Start a run and kill it: after a random time, or after the kernel has told of so many changes."""
    with vpc.instance:
        listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with listening:
        listening.bind((0, NOTICES))
        listening.settimeout(5)
        process = agent.start(command)
        by_time = chance.random() < 0.4
        if by_time:
            time.sleep(chance.uniform(0.05, 0.4))
        else:
            end = time.monotonic() + 5
            for _ in range(chance.randrange(1, 12)):
                listening.settimeout(0.05)
                while process.poll() is None and time.monotonic() < end:
                    try:
                        listening.recv(65536)
                        break
                    except socket.timeout:
                        pass
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return process.returncode


@pytest.mark.parametrize("seed", range(times(3)))
def test_killed_at_random_moments_and_run_again(seed, make_agent):
    chance = random.Random(seed)
    hits = 0
    with Vpc(make_tree(enis=3 + 2 * (seed % 3), addresses=4, ipv6=True), assign=True, os={"eth2": "down"}) as vpc:
        agent = make_agent(vpc)
        first = [oracle.kernel(vpc), ways(vpc)]
        assert agent("apply").code == 0 and agent("remove").code == 0
        assert oracle.kernel(vpc) == first[0]
        worlds = [("remove", None, first)]
        for gateway in ("172.16.20.253", "172.16.20.252"):
            macs_of(vpc.tree)[ETH1]["gateway"] = gateway
            assert agent("apply").code == 0
            worlds.append(("apply", gateway, [oracle.kernel(vpc), ways(vpc)]))
        assert agent("remove").code == 0
        default, at = primary_default(vpc), 0
        for _ in range(4):
            for there in (1, 2, 0):
                command, gateway, (state, new) = worlds[there]
                old = worlds[at][2][1]
                if gateway:
                    macs_of(vpc.tree)[ETH1]["gateway"] = gateway
                hits += killed(vpc, agent, command, chance) == -signal.SIGKILL
                assert_no_wrong_way(ways(vpc), old, new, "SIGKILL in " + command)
                assert primary_default(vpc) == default
                assert agent(command).code == 0
                assert oracle.kernel(vpc) == state
                at = there
    assert hits >= 4, "hardly a run was killed before its end"
    assert not [name for name in os.listdir(agent.directory) if name not in ("lock", "state.json", "taken-back")]


# whether a person has taken a link down


UNATTENDED = Config(unattended=True)


def test_a_link_that_a_killed_run_has_only_announced_is_brought_up_by_the_timer(left_down):
    class Deadly(Kernel):
        def apply(self, changes):
            if any(isinstance(change.item, LinkUp) for change in changes):
                raise Killed()
            return super().apply(changes)

    with pytest.raises(Killed):
        run_here(left_down, config=UNATTENDED, kernel=Deadly)
    run(left_down, config=UNATTENDED)
    assert oracle.table_of(left_down, "eth2") == 1002 and of_eth2(left_down)


def test_a_link_that_a_person_takes_down_right_after_our_run_stays_down(left_down):
    run(left_down, config=UNATTENDED)
    oracle.ip(left_down, "link set eth2 down")
    run(left_down, config=UNATTENDED)
    link, = oracle.show(left_down, "link show dev eth2")
    assert "UP" not in link["flags"]


# whose an address is


LONE = Config()
EVERY = Config(assign="all")


@pytest.fixture(params=["this kernel", "a kernel that does not remember who has set an address"])
def forgetful(request, monkeypatch):
    """Before 5.18 the attribute was unknown, and so ignored, as one with another number is now."""
    if request.param != "this kernel":
        monkeypatch.setattr(link_codec, "ADDRESS_PROTOCOL", 99)
    return request.param != "this kernel"


@pytest.fixture
def left_down(make_vpc, make_agent, monkeypatch):
    """A lab whose eth2 was left down, so that we address it."""
    vpc = make_vpc(make_tree(addresses=3, ipv6=True), os={"eth2": "down"})
    monkeypatch.setenv("RUNTIME_DIRECTORY", make_agent(vpc).directory)
    return vpc


def of_eth2(vpc):
    """Its addresses with their prefix lengths."""
    link, = oracle.show(vpc, "address show dev eth2")
    return sorted("{local}/{prefixlen}".format(**held) for held in link["addr_info"] if held["scope"] == "global")


def by_hand(vpc, addresses):
    """Somebody sets the link up and puts these addresses there."""
    oracle.ip(vpc, "link set eth2 up")
    for address in addresses:
        oracle.ip(vpc, "address add {} dev eth2{}".format(address, " nodad" if ":" in address else ""))


def run(vpc, command=commands.apply, config=LONE):
    step(vpc, lambda change: None, command, config)


def killed_after(vpc, place, command=commands.apply, config=LONE):
    """``place``: so many addresses are put there, or taken off, and nothing is done any more."""
    count = []

    def told(change):
        if isinstance(change.item, LinkAddress) and change.item.dev == "eth2":
            count.append(change)
        elif place == 0 and isinstance(change.item, Rule):
            raise Killed()  # of the rules' batch, which is the last one before the addresses
        if count and len(count) == place:
            raise Killed()

    with pytest.raises(Killed):
        step(vpc, told, command, config)


@pytest.mark.parametrize("again", [False, True], ids=["", "and again"])
def test_an_address_that_somebody_has_added_since_a_removal_was_killed_is_his(left_down, forgetful, again):
    run(left_down)
    ours = of_eth2(left_down)
    assert len(ours) == 2
    killed_after(left_down, len(ours), commands.remove)
    assert of_eth2(left_down) == []
    if again:
        run(left_down, commands.remove)
    by_hand(left_down, ours)
    run(left_down, commands.remove)
    assert of_eth2(left_down) == ours
    run(left_down)
    run(left_down, commands.remove)
    assert of_eth2(left_down) == ours


def test_an_address_that_somebody_has_added_since_all_were_given_up_is_his(left_down, forgetful):
    run(left_down, config=EVERY)
    ours = of_eth2(left_down)
    assert len(ours) == 6
    killed_after(left_down, 4)
    assert len(of_eth2(left_down)) == 2
    extra = sorted(set(ours) - set(of_eth2(left_down)))
    by_hand(left_down, extra)
    run(left_down)
    assert of_eth2(left_down) == ours
    run(left_down, commands.remove)
    first = "{}/24".format(left_down.address("eth2"))  # takes those behind it along when it goes
    assert of_eth2(left_down) == sorted([*extra, first])


@pytest.mark.parametrize("run_between", [False, True], ids=["at once", "a run later"])
def test_an_address_that_somebody_has_put_in_the_place_of_ours_is_his(left_down, forgetful, run_between):
    run(left_down, config=EVERY)
    ours = of_eth2(left_down)
    time.sleep(0.05 * forgetful)  # the kernel counts in hundredths
    oracle.ip(left_down, "address flush dev eth2 scope global")
    by_hand(left_down, ours)
    if run_between:
        run(left_down, config=EVERY)
    run(left_down, commands.remove)
    assert of_eth2(left_down) == ours


def test_an_address_of_ours_that_somebody_has_set_anew_is_his(left_down, forgetful):
    """As a network manager does with what stands in its own configuration."""
    run(left_down)
    time.sleep(0.05)  # the kernel counts in hundredths
    for address in of_eth2(left_down):
        oracle.ip(left_down, "address replace {} dev eth2".format(address))
    ours = of_eth2(left_down)
    run(left_down, commands.remove)
    assert of_eth2(left_down) == ours


def test_an_address_that_a_killed_run_has_only_announced_is_his_who_adds_it(left_down, forgetful):
    killed_after(left_down, 0)
    assert of_eth2(left_down) == []
    subnets = [left_down.subnet("eth2", version) for version in (4, 6)]
    his = sorted("{}/{}".format(subnet.addresses[0], 24 if subnet.version == 4 else 128) for subnet in subnets)
    by_hand(left_down, his)
    run(left_down)
    run(left_down, commands.remove)
    assert of_eth2(left_down) == his


def test_an_address_that_a_killed_run_has_still_added_is_ours_where_the_kernel_says_so(left_down, forgetful):
    """Where it does not, nobody can know, and it stays."""
    before = configuration(left_down)
    killed_after(left_down, 2)
    ours = of_eth2(left_down)
    assert len(ours) == 2
    run(left_down)
    run(left_down, commands.remove)
    oracle.settle(left_down)
    assert of_eth2(left_down) == (ours if forgetful else [])
    assert forgetful or configuration(left_down) == before


def test_what_a_killed_removal_has_taken_back_is_not_taken_back_from_who_does_it_himself(left_down):
    """The next removal sees that it is done, whatever is on record."""
    found, _ = config_file.read(b"links:\n  - {eni: eth2, mtu: 1400}\n")
    run(left_down, config=found)

    def told(change):
        if isinstance(change.item, LinkGroup) and change.item.dev == "eth2":
            raise Killed()  # the last of eth2's

    with pytest.raises(Killed):
        step(left_down, told, commands.remove, found)
    run(left_down, commands.remove, found)
    oracle.ip(left_down, "link set eth2 up mtu 1400")
    run(left_down, commands.remove, found)
    link, = oracle.show(left_down, "link show dev eth2")
    assert "UP" in link["flags"] and link["mtu"] == 1400


@pytest.mark.parametrize("config", [LONE, EVERY], ids=["primary", "all"])
def test_what_a_former_version_has_recorded_is_taken_back(left_down, forgetful, config):
    """Its record says nothing of how an address was set, and its addresses nothing of whose they are."""
    before = configuration(left_down)
    with pytest.MonkeyPatch().context() as patched:
        patched.setattr(link_codec, "ADDRESS_PROTOCOL", 99)
        run(left_down, config=config)
    forget_how_they_were_set()
    run(left_down, commands.remove)
    oracle.settle(left_down)
    assert configuration(left_down) == before


def test_what_a_former_version_has_recorded_is_known_better_from_the_next_run_on(left_down, forgetful):
    run(left_down)
    forget_how_they_were_set()
    run(left_down)
    ours = of_eth2(left_down)
    time.sleep(0.05 * forgetful)  # the kernel counts in hundredths
    oracle.ip(left_down, "address flush dev eth2 scope global")
    by_hand(left_down, ours)
    run(left_down, commands.remove)
    assert of_eth2(left_down) == ours


def forget_how_they_were_set():
    path = os.path.join(record.directory(), "state.json")
    with open(path) as written:
        content = json.load(written)
    assert [entry.pop("as_set") for entry in content["links"].values() if "addresses" in entry]
    with open(path, "w") as written:
        json.dump(content, written)

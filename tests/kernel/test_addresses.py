"""Which addresses are this host's own: on the links (``assign``), and those of prefixes; others' stay, and so do the
default sources. And the primary ENI's, which may leave by itself."""

import json
import socket
from contextlib import ExitStack
from itertools import product

import pytest

from eni_bootstrap.agent import commands
from eni_bootstrap.config import file as config_file
from eni_bootstrap.lab import probe
from eni_bootstrap.lab.vpc import Vpc, macs_of, make_tree
from tests.agent import Agent
from tests.kernel.test_crash import NOWHERE, Killed, configuration, step, ways
from tests.oracle import (
    ASKS, OUTSIDE, ask_all, assert_answers_by, difference, ip, kernel, leaves_by, lookup, routes, settle, show,
    sources_led_to, wait_until, watch,
)

ETH1 = "00:16:3e:0e:00:02"


FREEBIND = 78  # IPV6_FREEBIND, linux/in6.h
POOL_ASKS = {4: ASKS, 6: (probe.ping, probe.tcp)}
"""Of IPv6 the kernel takes a pool's address for a datagram's source only with IPV6_FREEBIND (ip6_datagram_send_ctl)."""


class Configured:
    """An agent with a configuration; ``config`` writes another one."""

    def __init__(self, agent, path):
        self._agent, self._path = agent, path
        self.config = path.write_text

    def __call__(self, command="apply", *more):
        return self._agent(command, "--config", self._path, "--timeout", "10", *more)


@pytest.fixture
def configured(make_vpc, make_agent, tmp_path):
    """``configured(text, …)``: a VPC, and an agent with this configuration."""
    def make(text, *tree, **options):
        vpc = make_vpc(*tree, **options)
        path = tmp_path / "eni-bootstrap.yaml"
        path.write_text(text)
        return vpc, Configured(make_agent(vpc), path)
    return make


def fifty(**options):
    """Three ENIs with fifty addresses of each family."""
    return make_tree(addresses=50, ipv6=True, vswitches=[0, 1, 1], **options)


def held(vpc, dev, version):
    """The addresses of a link that are not link-local, in the kernel's order."""
    return [each["local"] for link in show(vpc, "-{} address show dev {} scope global".format(version, dev))
            for each in link.get("addr_info", ()) if "local" in each]


def told(vpc, dev, version):
    return {str(address) for address in vpc.subnet(dev, version).addresses}


def default_sources(vpc):
    """By device and family: the source of a socket bound to the device; by "": of one that is bound to none."""
    found = {(dev, version): lookup(vpc, None, OUTSIDE[version], oif=dev)["prefsrc"]
             for dev, version in product(vpc.nics, (4, 6))}
    found.update({("", version): lookup(vpc, None, OUTSIDE[version])["prefsrc"] for version in (4, 6)})
    return found


def first_addresses(vpc):
    found = {(dev, version): str(vpc.address(dev, version)) for dev, version in product(vpc.nics, (4, 6))}
    found.update({("", version): str(vpc.address("eth0", version)) for version in (4, 6)})
    return found


def cloud_takes_away(vpc, places):
    """Of eth1's fifty addresses of each family those at these places."""
    leaves = macs_of(vpc.tree)[ETH1]
    for key, version in (("private-ipv4s", 4), ("ipv6s", 6)):
        kept = [str(address) for place, address in enumerate(vpc.subnet("eth1", version).addresses)
                if place not in places]
        leaves[key] = json.dumps(kept)
    vpc.refresh()


@pytest.mark.parametrize("os_", ["dhcp", "down"])
def test_fifty_addresses_are_put_on_every_link_and_the_default_sources_stay(configured, os_):
    """The primary ENI's too; a second run changes nothing."""
    vpc, agent = configured("assign: all\n", fifty(), os=os_)
    result = agent()
    assert result.code == 0, result
    for dev, version in product(vpc.nics, (4, 6)):
        assert set(held(vpc, dev, version)) == told(vpc, dev, version)
        assert held(vpc, dev, 4)[0] == str(vpc.address(dev))
    assert default_sources(vpc) == first_addresses(vpc)
    with watch(vpc) as said:
        assert "0 things changed" in agent().out
    assert said == []
    for dev, version, place in product(vpc.nics, (4, 6), (1, 49)):
        assert_answers_by(vpc, dev, vpc.subnet(dev, version).addresses[place])
    assert agent("verify").code == 0


def test_ipv4_addresses_are_secondary_and_ipv6_addresses_deprecated(configured):
    vpc, agent = configured("assign: all\n", make_tree(addresses=3, ipv6=True))
    agent()
    for dev in vpc.nics:
        link, = show(vpc, "address show dev " + dev)
        four = [each for each in link["addr_info"] if each["family"] == "inet"]
        six = [each for each in link["addr_info"] if each["family"] == "inet6" and each["scope"] == "global"]
        assert [each.get("secondary", False) for each in four] == [False, True, True]
        assert [each["prefixlen"] for each in four] == [24, 24, 24]
        assert {each["local"]: each.get("deprecated", False) for each in six} == {
            str(address): place > 0 for place, address in enumerate(vpc.subnet(dev, 6).addresses)}
        assert {each["valid_life_time"] for each in six} == {4294967295}


def test_exactly_the_cloud_s_addresses_are_ours(configured):
    """Some are taken away by the cloud, others were added by hand: these stay, also when all of ours goes."""
    vpc, agent = configured("assign: all\n", fifty())
    before = kernel(vpc)
    by_hand = ["172.16.20.211/24", "172.16.20.212/32", "10.9.9.9/24", "2001:db8:20:a201::beef/128",
               "2001:db8:9::1/64"]
    assert agent().code == 0
    for address in by_hand:
        ip(vpc, "address add {} dev eth1{}".format(address, " nodad" if ":" in address else ""))
    places = {3, 7, *range(20, 40)}
    cloud_takes_away(vpc, places)
    assert agent().code == 0
    for version in (4, 6):
        mine = {address.split("/")[0] for address in by_hand if (":" in address) == (version == 6)}
        assert set(held(vpc, "eth1", version)) == told(vpc, "eth1", version) | mine
        inside = {address for address in mine if address.startswith(("172.16.20.", "2001:db8:20:a201:"))}
        assert sources_led_to(vpc, 1001, version) == told(vpc, "eth1", version) | inside
    assert {key: value for key, value in default_sources(vpc).items() if key != ("eth1", 6)} == {
        key: value for key, value in first_addresses(vpc).items() if key != ("eth1", 6)}
    with watch(vpc) as said:
        assert agent().code == 0
    assert said == []
    assert agent("remove").code == 0
    left = [address.split("/")[0] for address in by_hand]
    gone, come = difference(before, kernel(vpc))
    assert gone == [] and not [line for line in come if "inet" in line and not any(one in line for one in left)]


def test_an_address_by_hand_that_the_cloud_gives_too_stays_when_the_cloud_takes_it_away(configured):
    vpc, agent = configured("assign: all\n", make_tree(addresses=3))
    ip(vpc, "address add 172.16.20.11/24 dev eth1")
    assert agent().code == 0
    macs_of(vpc.tree)[ETH1]["private-ipv4s"] = '["172.16.20.10"]'
    vpc.refresh()
    assert agent().code == 0
    assert held(vpc, "eth1", 4) == ["172.16.20.10", "172.16.20.11"]


@pytest.mark.parametrize("os_", ["dhcp", "down"])
@pytest.mark.parametrize("other", ["assign: primary\n", "# nothing\n"])
def test_back_to_the_primary_ones(configured, os_, other):
    """As if the others had never been there."""
    vpc, agent = configured(other, make_tree(addresses=5, ipv6=True), os=os_)
    assert agent().code == 0
    before = kernel(vpc)
    agent.config("assign: all\n")
    assert agent().code == 0
    assert kernel(vpc) != before
    agent.config(other)
    assert agent().code == 0
    assert difference(before, kernel(vpc)) == ([], [])
    assert "0 things changed" in agent().out


@pytest.mark.parametrize("before", ["assign: all\n", "assign: primary\n", ""])
def test_none_puts_no_address_there_and_takes_ours_off(configured, before):
    vpc, agent = configured("assign: none\n", make_tree(addresses=3, ipv6=True), os={"eth1": "down", "eth2": "dhcp"})
    dhcp = held(vpc, "eth2", 4) + held(vpc, "eth2", 6)
    if before:
        agent.config(before)
        assert agent().code == 0 and held(vpc, "eth1", 4)
        agent.config("assign: none\n")
    assert agent().code == 0
    assert held(vpc, "eth1", 4) + held(vpc, "eth1", 6) == []
    assert held(vpc, "eth2", 4) + held(vpc, "eth2", 6) == dhcp
    assert agent().code == agent("verify").code == 0
    assert len(sources_led_to(vpc, 1001)) == 3


def test_with_the_primary_eni_alone(configured):
    """Nothing but the addresses: there is no wrong way that a rule would have to prevent."""
    vpc, agent = configured("assign: all\n", make_tree(1, addresses=4, ipv6=True))
    before = kernel(vpc)
    assert agent().code == 0
    assert set(held(vpc, "eth0", 4) + held(vpc, "eth0", 6)) == told(vpc, "eth0", 4) | told(vpc, "eth0", 6)
    assert default_sources(vpc) == first_addresses(vpc)
    assert not [rule for rule in show(vpc, "rule show") if rule.get("protocol") == "235"]
    agent.config("assign: primary\n")
    assert agent().code == 0
    assert kernel(vpc) == before


def test_the_primary_address_changes_in_the_cloud(configured):
    """What stood behind the old one on a link of ours goes with it and comes back behind the new one."""
    vpc, agent = configured("assign: all\n", make_tree(addresses=3, ipv6=True), os="down")
    assert agent().code == 0
    leaves = macs_of(vpc.tree)[ETH1]
    leaves.update({"primary-ip-address": "172.16.20.44", "private-ipv4s": '["172.16.20.44","172.16.20.11"]',
                   "ipv6s": "[2001:db8:20:a201::1001, 2001:db8:20:a201::1002]"})
    vpc.refresh()
    assert agent().code == 0
    assert held(vpc, "eth1", 4) == ["172.16.20.44", "172.16.20.11"]
    assert set(held(vpc, "eth1", 6)) == told(vpc, "eth1", 6)
    assert default_sources(vpc) == first_addresses(vpc)
    assert "0 things changed" in agent().out
    assert agent("remove").code == 0
    assert held(vpc, "eth1", 4) == []


def test_an_address_that_moves_to_another_eni_moves_on_the_links(configured):
    vpc, agent = configured("assign: all\n", make_tree(addresses=2, vswitches=[0, 1, 1]))
    assert agent().code == 0
    one, other = list(macs_of(vpc.tree).values())[1:]
    one["private-ipv4s"] = '["172.16.20.10"]'
    other["private-ipv4s"] = '["172.16.20.12","172.16.20.13","172.16.20.11"]'
    vpc.refresh()
    assert agent().code == 0
    assert held(vpc, "eth1", 4) == ["172.16.20.10"]
    assert held(vpc, "eth2", 4) == ["172.16.20.12", "172.16.20.13", "172.16.20.11"]
    assert_answers_by(vpc, "eth2", "172.16.20.11")


def test_pasting_the_plan_is_as_good_as_apply(configured):
    vpc, agent = configured("assign: all\n", make_tree(addresses=4, ipv6=True), os={"eth2": "down"})
    planned = agent("plan").out
    assert agent().code == 0
    settle(vpc)
    applied = kernel(vpc)
    assert agent("remove").code == 0
    vpc.instance.run(["sh", "-e"], input=planned)
    settle(vpc)
    assert difference(applied, kernel(vpc)) == ([], [])
    assert "nothing to do" in agent("plan").out


# delegated prefixes


def any_of(prefix):
    """The first address, the last, and one in between: there is no network or broadcast address in it."""
    return [prefix[0], prefix[-1], prefix[prefix.num_addresses // 2 + 1]]


@pytest.mark.parametrize("os_", ["dhcp", "down"])
def test_every_address_of_a_prefix_answers_by_its_eni(configured, os_):
    """Bound to, of IPv6 with IP_FREEBIND, and by who listens at all addresses; without the option it does not."""
    vpc, agent = configured("# nothing\n", make_tree(prefix=True, ipv6=True), os=os_)
    assert agent().code == 0
    before = kernel(vpc)
    with probe.echo_server(vpc.instance):
        assert not any(ask_all(vpc, vpc.eip(vpc.subnet("eth1").prefixes[0][3]), timeout=0.1))
    agent.config("prefixes: local\n")
    result = agent()
    assert result.code == 0, result
    for dev, version in product(vpc.nics, (4, 6)):
        for address in any_of(vpc.subnet(dev, version).prefixes[0]):
            assert_answers_by(vpc, dev, address, asks=POOL_ASKS[version])
            with vpc.instance:
                talking = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
            with talking, vpc.fabric.capture() as seen:
                if version == 6:
                    talking.setsockopt(socket.IPPROTO_IPV6, FREEBIND, 1)
                talking.bind((str(address), 0))
                talking.sendto(b"?", (OUTSIDE[version], 9))
                wait_until(lambda: any(packet.src == address for packet in seen))
            assert {packet.port for packet in seen if packet.src == address and packet.direction == "from"} == {dev}
    with watch(vpc) as said:
        assert agent().code == agent("verify").code == 0
    assert said == []
    agent.config("prefixes: route\n")
    assert agent().code == 0
    assert difference(before, kernel(vpc)) == ([], [])


def test_a_prefix_that_goes_and_a_removal_take_the_pool_back(configured):
    vpc, agent = configured("prefixes: local\n", make_tree(prefix=True, ipv6=True))
    before = kernel(vpc)
    assert agent().code == 0
    gone = [str(vpc.subnet("eth1", version).prefixes[0]) for version in (4, 6)]
    for leaf in ("ipv4-prefixes", "ipv6-prefixes"):
        del macs_of(vpc.tree)[ETH1][leaf]
    assert agent().code == 0
    own_prefixes = "".join(ip(vpc, "-{} route show table local proto 235".format(version)) for version in (4, 6))
    assert len(own_prefixes.splitlines()) == 4 and not any(prefix in own_prefixes for prefix in gone)
    assert agent("status").code == 0
    assert agent("remove").code == 0
    assert difference(before, kernel(vpc)) == ([], [])


def test_somebody_else_s_pool_stays_and_counts(configured):
    vpc, agent = configured("prefixes: local\n", make_tree(prefix=True, ipv6=True))
    for version in (4, 6):
        ip(vpc, "-{} route add local {} dev lo table local".format(version, vpc.subnet("eth1", version).prefixes[0]))
    before = kernel(vpc)
    result = agent()
    assert result.code == 0 and "PROBLEM" not in result.out
    assert "0 things changed" in agent().out
    assert agent("remove").code == 0
    assert difference(before, kernel(vpc)) == ([], [])


def test_the_pool_of_an_eni_that_is_sick_for_a_while_stays(configured):
    vpc, agent = configured("prefixes: local\n", make_tree(prefix=True, ipv6=True))
    assert agent().code == 0
    before = routes(vpc, "local", 4), routes(vpc, "local", 6)
    del macs_of(vpc.tree)[ETH1]["gateway"]
    assert agent("apply", "--timeout", "2").code == 1
    assert (routes(vpc, "local", 4), routes(vpc, "local", 6)) == before


def test_the_pool_of_a_primary_eni_that_is_alone(configured):
    vpc, agent = configured("prefixes: local\n", make_tree(1, prefix=True, ipv6=True))
    assert agent().code == 0
    for version in (4, 6):
        assert_answers_by(vpc, "eth0", vpc.subnet("eth0", version).prefixes[0][5], asks=POOL_ASKS[version])
    assert "0 things changed" in agent().out


def test_pasting_the_plan_makes_pools_too(configured):
    vpc, agent = configured("prefixes: local\n", make_tree(prefix=True, ipv6=True))
    vpc.instance.run(["sh", "-e"], input=agent("plan").out)
    assert "nothing to do" in agent("plan").out


def test_at_no_moment_a_pool_answers_by_another_eni(make_agent, monkeypatch):
    """A pool comes after its rule, and goes before it."""
    with Vpc(make_tree(prefix=True, ipv6=True)) as vpc:
        monkeypatch.setenv("RUNTIME_DIRECTORY", make_agent(vpc).directory)
        asked = {(vpc.subnet(dev, version).prefixes[0][5], version): dev
                 for dev, version in product(("eth1", "eth2"), (4, 6))}

        def told_of(change):
            for (address, version), dev in asked.items():
                there = lookup(vpc, None, address).get("type") == "local"
                way = leaves_by(vpc, address, OUTSIDE[version]) if there else NOWHERE
                assert way in (NOWHERE, dev), "after {}".format(change)

        run_step(vpc, "prefixes: local", told_of)
        assert lookup(vpc, None, vpc.subnet("eth1").prefixes[0][5])["type"] == "local"
        run_step(vpc, "prefixes: local", told_of, commands.remove)


# the primary


@pytest.fixture
def with_vpn(configured):
    """``with_vpn(text)``: main's default goes by a VPN, the primary's by its gateway is the worse one."""
    def make(text):
        vpc, agent = configured(text, make_tree(ipv6=True), ipv6_onlink=True)
        ip(vpc, "route add 100.64.0.0/10 via 172.16.10.253 dev eth0")
        ip(vpc, "link add vpn0 type veth peer name vpn1")
        ip(vpc, "link set vpn0 up")
        ip(vpc, "link set vpn1 up")
        for version in (4, 6):
            ip(vpc, "-{} route add default dev vpn0 metric 10".format(version))
        ip(vpc, "route add 10.77.0.0/16 via 172.16.10.77 dev eth0")
        return vpc, agent
    return make


def test_a_full_primary_does_not_follow_main(with_vpn):
    vpc, agent = with_vpn("# nothing\n")
    assert agent().code == 0
    before = kernel(vpc)
    for version in (4, 6):
        assert leaves_by(vpc, vpc.address("eth0", version), OUTSIDE[version]) == "vpn0"
    agent.config("primary: full\n")
    result = agent()
    assert result.code == 0, result
    for version in (4, 6):
        way = lookup(vpc, vpc.address("eth0", version), OUTSIDE[version])
        assert (way["dev"], way["gateway"]) == ("eth0", str(vpc.subnet("eth0", version).gateway))
        assert leaves_by(vpc, None, OUTSIDE[version]) == "vpn0"
        assert_answers_by(vpc, "eth0", vpc.address("eth0", version))
    assert lookup(vpc, vpc.address("eth0"), "10.77.0.1")["gateway"] == "172.16.10.77"
    with watch(vpc) as said:
        assert agent().code == agent("verify").code == agent("status").code == 0
    assert said == []
    agent.config("primary: main\n")
    assert agent().code == 0
    assert difference(before, kernel(vpc)) == ([], [])


def test_a_full_primary_that_is_down_locks_nobody_out(with_vpn):
    """Its table has no fence: what its own way can't take follows main."""
    vpc, agent = with_vpn("primary: full\n")
    assert agent().code == 0
    ip(vpc, "route flush table 1000")
    assert leaves_by(vpc, vpc.address("eth0"), OUTSIDE[4]) == "vpn0"


# killed at any message


def run_step(vpc, text, told_of, command=commands.apply):
    config, problems = config_file.read(text.encode())
    assert not problems
    return step(vpc, told_of, command, config)


@pytest.mark.parametrize("texts", [("", "assign: all"), ("assign: all", "assign: primary"),
                                   ("assign: all", "assign: none")], ids=lambda texts: " to ".join(texts))
def test_after_every_message_each_address_on_a_link_leaves_by_its_eni(make_agent, monkeypatch, texts):
    with Vpc(make_tree(addresses=3, ipv6=True), os={"eth2": "down"}) as vpc:
        monkeypatch.setenv("RUNTIME_DIRECTORY", make_agent(vpc).directory)
        owner = {str(address): dev for dev, version in product(vpc.nics, (4, 6))
                 for address in vpc.subnet(dev, version).addresses}
        run_step(vpc, texts[0], lambda change: None)
        before, seen = ways(vpc), []
        run_step(vpc, texts[1], lambda change: seen.append((str(change), ways(vpc))))
        run_step(vpc, texts[1], lambda change: seen.append((str(change), ways(vpc))), commands.remove)
        assert len(seen) > 6
        for change, now in seen:
            wrong = {question: way for question, way in now.items()
                     if question[0] and question not in before and way not in (NOWHERE, owner[question[0]])}
            assert not wrong, "after {}".format(change)


@pytest.mark.parametrize("texts", [("", "assign: all"), ("assign: all", "assign: primary")],
                         ids=lambda texts: " to ".join(texts))
def test_whatever_message_was_the_last_the_next_run_ends_in_the_same_state(texts, monkeypatch, tmp_path):
    def world_after(cut):
        with Vpc(make_tree(addresses=3, ipv6=True), os={"eth2": "down"}) as vpc:
            monkeypatch.setenv("RUNTIME_DIRECTORY", Agent(vpc, tmp_path / str(cut)).directory)
            sent = []
            run_step(vpc, texts[0], lambda change: None)

            def told_of(change):
                sent.append(change)
                if len(sent) == cut:
                    raise Killed()

            with pytest.raises(Killed) if cut else ExitStack():
                run_step(vpc, texts[1], told_of)
            run_step(vpc, texts[1], lambda change: None)
            settle(vpc)
            there = configuration(vpc)
            run_step(vpc, texts[1], lambda change: None, commands.remove)
            settle(vpc)
            return there, configuration(vpc), len(sent)

    there, removed, total = world_after(cut=0)
    for cut in range(1, total + 1, 3):
        assert world_after(cut)[:2] == (there, removed), "cut after message {} of {}".format(cut, total)

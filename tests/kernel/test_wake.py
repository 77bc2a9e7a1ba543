"""What of the kernel's messages starts a run: on a real socket, with the real filter."""

import os
import select
import socket
import subprocess
import sys
import time
from ipaddress import ip_network

import pytest

from eni_bootstrap.config.settings import Config
from eni_bootstrap.kernel import rule_codec, wakeup_filter
from eni_bootstrap.kernel.socket import Message, Socket
from eni_bootstrap.lab.namespace import Namespace
from eni_bootstrap.model import kernel
from eni_bootstrap.model.kernel import Rule
from tests.agent import ROOT
from tests.oracle import OUTSIDE, ip, leaves_by, routes, rules, show


@pytest.fixture
def place():
    """A namespace with an ENI and another link, and a socket in it as systemd makes it for eni-bootstrap.socket."""
    namespace = Namespace()
    for name in ("eth1", "veth0"):
        namespace.run(["ip", "link", "add", name, "type", "veth", "peer", "name", name + "-peer"])
        namespace.run(["ip", "link", "set", name + "-peer", "up"])
        # Else the kernel adds an address when a link goes up, and tells of that when it likes.
        namespace.run(["ip", "link", "set", name, "addrgenmode", "none"])
    with namespace:
        listening = listen()
        yield Place(namespace, listening)
    listening.close()
    namespace.close()


def listen():
    listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    listening.bind((0, kernel.GROUPS))
    listening.setblocking(False)
    return listening


class Place:
    def __init__(self, namespace, listening):
        self.instance = namespace
        self.listening = listening

    def index(self, dev):
        return show(self, "link show dev " + dev)[0]["ifindex"]

    def hears(self, command, patience=2.0):
        """Whether an ``ip`` command leaves something to read; of IPv6 addresses the kernel tells a little later."""
        wakeup_filter.settle(self.listening, lambda seconds: None)
        ip(self, command)
        if not select.select([self.listening], [], [], patience)[0]:
            return False
        self.listening.recv(65536)
        return True

    def ignores(self, command):
        return not self.hears(command, 0.1)


PREPARED = ["link set eth1 up", "link set veth0 up", "address add 192.0.2.1/24 dev eth1",
            "address add 198.51.100.1/24 dev veth0", "rule add from 192.0.2.9 lookup 1001 priority 7200 protocol 235",
            "route add 203.0.113.0/24 dev eth1 table 1001 proto 235", "route add 203.0.114.0/24 dev eth1",
            "-6 rule add from 2001:db8::9 lookup 1001 priority 7200 protocol 235",
            "rule add from 192.0.2.8 lookup 7 priority 512", "rule add from 192.0.2.7 lookup 1001 protocol kernel"]


@pytest.mark.parametrize("command, passes", [
    ("link set eth1 down", True),
    ("link set veth0 down", False),
    ("address del 192.0.2.1/24 dev eth1", True),
    ("address add 192.0.2.2/24 dev eth1", True),
    ("address add 198.51.100.2/24 dev veth0", False),
    ("-6 address add 2001:db8::1/64 dev eth1 nodad", True),
    ("link set veth0 name veth9", False),
    ("link del eth1", True),
    ("rule del from 192.0.2.9 lookup 1001", True),
    ("-6 rule del from 2001:db8::9 lookup 1001", True),
    ("rule del from 192.0.2.7 lookup 1001", True),  # marked as the kernel's
    ("rule del from 192.0.2.8 lookup 7", False),  # somebody else's
    ("rule add from 192.0.2.10 lookup 1001", False),
    ("route del 203.0.113.0/24 dev eth1 table 1001", True),
    ("route add 203.0.113.128/25 dev eth1 table 1001 proto 235", False),
    ("route del 203.0.114.0/24 dev eth1", True),
    ("route add 203.0.115.0/24 dev eth1 proto static", True),
    ("route add 203.0.115.0/24 dev eth1 proto dhcp table 77", False),
    ("route add 203.0.115.0/24 dev eth1 proto bird", False),
    ("-6 route add 2001:db8:1::/64 dev eth1", True),
    ("route add 203.0.115.7/32 dev veth0", False),  # a container's
    ("route add default dev veth0 metric 7", True),  # by an ENI that is not known yet, maybe
    ("-6 route add default dev veth0 metric 7", True),
    ("-6 route add 2001:db8:1::7/128 dev veth0", False),
    ("route add 203.0.115.0/24 nexthop dev eth1 nexthop dev veth0", True),
    ("route add unreachable 203.0.115.0/24", True),
])
def test_what_passes_the_filter(place, command, passes):
    for prepare in PREPARED:
        ip(place, prepare)
    assert place.hears("route add 203.0.116.0/24 dev veth0 proto bird"), "without the filter all is heard"
    wakeup_filter.narrow(place.listening, Config(), indexes=[place.index("lo") + 100, place.index("eth1")])
    assert place.hears(command) if passes else place.ignores(command)


def test_before_the_enis_are_known_every_link_counts(place):
    wakeup_filter.narrow(place.listening, Config(), port=1)
    assert place.ignores("rule add from 192.0.2.10 lookup 1001")
    assert place.hears("link set veth0 up")


def test_a_great_many_enis_fit_into_the_filter(place):
    wakeup_filter.narrow(place.listening, Config(), indexes=list(range(1000, 1300)) + [place.index("eth1")])
    # In this order: of a link that has just come up the kernel tells more a while later (IPv6 addresses, DAD).
    assert place.ignores("link set veth0 address 02:00:00:00:00:01")
    assert place.hears("link set eth1 up")


def test_own_changes_do_not_pass(place):
    ip(place, "rule add from 192.0.2.9 lookup 1001 protocol boot")
    seen = next(rule for rule in show(place, "rule show") if rule.get("src") == "192.0.2.9")
    rule = Rule(4, seen["priority"], ip_network("192.0.2.9/32"), table=1001)
    own = Socket()
    wakeup_filter.narrow(place.listening, Config(), port=own.port)
    wakeup_filter.settle(place.listening, lambda seconds: None)
    assert not own.order([Message(33, 0, rule_codec.pack(rule, 3))])[0].error, seen  # RTM_DELRULE
    own.close()
    assert not [rule for rule in show(place, "rule show") if rule.get("src") == "192.0.2.9"]
    with pytest.raises(BlockingIOError):
        place.listening.recv(65536)


def test_a_burst_is_waited_for_and_no_longer_than_that(place):
    ip(place, "link set eth1 up")
    pauses = []

    def more(seconds):
        pauses.append(seconds)
        if len(pauses) < 3:
            ip(place, "link set eth1 {}".format("down" if len(pauses) % 2 else "up"))

    wakeup_filter.settle(place.listening, more)
    assert pauses == [wakeup_filter.QUIET] * 3
    pauses.clear()

    def always(seconds):
        pauses.append(seconds)
        ip(place, "link set eth1 {}".format("down" if len(pauses) % 2 else "up"))

    ip(place, "link set eth1 mtu 1400")
    wakeup_filter.settle(place.listening, always)
    assert pauses == [wakeup_filter.QUIET] * wakeup_filter.PATIENCE


def test_more_than_fits_is_a_burst_like_any_other(place):
    usual = place.listening.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    place.listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    for number in range(50):
        ip(place, "route add 203.0.{}.0/24 dev lo table 7".format(number))
    place.listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, usual)
    wakeup_filter.settle(place.listening, lambda seconds: None)
    assert place.hears("link set eth1 up")


# The agent with the socket in its hands, as systemd starts it


@pytest.fixture
def unit(vpc, make_agent):
    """``unit()``: a run as eni-bootstrap.service makes it."""
    with vpc.instance:
        listening = listen()
    agent = make_agent(vpc)

    def run(*arguments):
        def hand_over():
            os.dup2(listening.fileno(), 3)

        command = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" -m eni_bootstrap apply --unattended "$@"'
        done = vpc.instance.run(
            ["sh", "-c", command, sys.executable] + list(arguments), check=False, stderr=subprocess.PIPE,
            preexec_fn=hand_over, close_fds=False,
            env=dict(os.environ, PYTHONPATH=ROOT, RUNTIME_DIRECTORY=agent.directory))
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run, listening, vpc, agent
    listening.close()


def pending(listening):
    try:
        return bool(listening.recv(65536, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_a_run_reads_what_started_it_and_is_not_started_again_by_itself(unit):
    run, listening, vpc, _ = unit
    ip(vpc, "link set eth1 mtu 1400")
    assert pending(listening)
    run()
    while pending(listening):  # links that we brought into our group are told of without a name of who did it
        run()
    assert "nothing to change" in run()
    assert not pending(listening)


def test_what_an_eni_loses_starts_the_next_run_and_nothing_else_does(unit):
    run, listening, vpc, _ = unit
    run()
    run()
    ip(vpc, "link add veth8 type veth peer name veth9")
    ip(vpc, "link set veth8 up")
    assert not pending(listening)
    ip(vpc, "rule del priority 7200 from {}".format(vpc.address("eth1")))
    assert pending(listening)
    run()
    assert [rule for rule in rules(vpc) if rule.get("src") == str(vpc.address("eth1"))]
    assert not pending(listening)
    ip(vpc, "route flush table 1001")
    assert pending(listening)
    run()
    assert routes(vpc, 1001)


def test_a_virtual_router_that_becomes_the_master_starts_the_next_run(unit):
    """Its address comes to a macvlan that has been there without any."""
    run, listening, vpc, _ = unit
    ip(vpc, "link add vrrp.51 link eth1 type macvlan mode private")
    ip(vpc, "link set vrrp.51 address 00:00:5e:00:01:33 up")
    run()
    run()
    assert not pending(listening)
    ip(vpc, "address add 172.16.20.100/32 dev vrrp.51")
    assert pending(listening)
    run()
    assert leaves_by(vpc, "172.16.20.100", OUTSIDE[4]) == "eth1"


# What a run that nobody typed leaves alone


def test_a_link_that_was_taken_down_stays_down_until_somebody_says_otherwise(unit):
    run, _, vpc, agent = unit
    run()
    vpc.set_link("eth1", False)
    said = run()
    assert "UP" not in show(vpc, "link show dev eth1")[0]["flags"]
    assert "taken down" in said or "nothing to change" in said
    assert agent("verify").code == 1
    assert agent("apply").code == 0
    assert "UP" in show(vpc, "link show dev eth1")[0]["flags"]


def test_its_sources_are_refused_meanwhile_and_it_comes_back_whole(unit):
    run, _, vpc, agent = unit
    run()
    vpc.set_link("eth1", False)
    run()
    assert [rule for rule in rules(vpc) if rule.get("src") == str(vpc.address("eth1"))]
    assert [route["type"] for route in routes(vpc, 1001)] == ["unreachable"]
    vpc.set_link("eth1", True)
    run()
    assert agent("verify").code == 0


def test_a_link_that_was_never_up_is_brought_up(make_vpc, make_agent):
    vpc = make_vpc(os="down")
    assert make_agent(vpc)("apply", "--unattended").code == 0
    assert "UP" in show(vpc, "link show dev eth1")[0]["flags"]


def test_what_remove_took_back_stays_away_until_somebody_runs_apply(unit):
    run, _, vpc, agent = unit
    run()
    assert agent("remove").code == 0
    before = ip(vpc, "rule show") + ip(vpc, "route show table all")
    assert "remove has taken back" in run()
    assert ip(vpc, "rule show") + ip(vpc, "route show table all") == before
    assert agent("apply").code == 0
    assert "nothing to change" in run()


def test_a_run_that_was_under_way_does_not_undo_a_removal_either(vpc, make_agent):
    agent = make_agent(vpc)
    agent("apply")
    before = ip(vpc, "rule show")
    vpc.fabric.silence("metadata")
    with agent.start("apply", "--unattended") as process:
        time.sleep(1)
        assert process.poll() is None
        assert agent("remove").code == 0
        vpc.fabric.silence("metadata", False)
        out, err = process.communicate(timeout=30)
    assert "remove has taken back" in out and process.returncode == 0, out + err
    assert ip(vpc, "rule show") != before and "lookup 1001" not in ip(vpc, "rule show")


def test_metadata_that_is_dead_is_one_line_in_the_journal(vpc, make_agent):
    vpc.service.close()
    result = make_agent(vpc)("apply", "--unattended", "--timeout", 5)
    assert (result.code, result.out) == (3, "")
    assert result.err.count("\n") == 1 and "connection refused; gave up after 5 s" in result.err

"""Access control by path and balance, on the kernel: by which ENI a packet leaves, and with which source."""

import errno
import os
import socket
import time
from collections import Counter
from ipaddress import ip_address, ip_network

import pytest

from eni_bootstrap.lab import probe
from eni_bootstrap.lab.namespace import Namespace
from eni_bootstrap.lab.vpc import METADATA, make_tree
from tests.oracle import NO_WAY, kernel, leaves_by, settle

BOTH = pytest.mark.parametrize("version", [4, 6])
FAR = {4: "10.60.0.1", 6: "2001:db8:60::1"}
ELSEWHERE = {4: "10.61.0.1", 6: "2001:db8:61::1"}
REFUSED = {4: "192.0.2.1", 6: "2001:db8:bad::1"}
ACCESS = """\
access:
  - {to: [10.60.0.0/16, "2001:db8:60::/48"], protocol: tcp, port: 443, via: eth2}
  - {user: 1001, via: eth1}
  - {to: [192.0.2.0/24, "2001:db8:bad::/48"], answer: prohibit}
  - {mark: 0x10/0xff, via: eth2}
"""
SPREAD = "balance:\n  - over: {eth0: 1, eth1: 2, eth2: 3}\n"


class Host:
    """A VPC with three ENIs and both families, and the agent with a configuration."""

    def __init__(self, vpc, agent, path):
        self.vpc, self._agent, self._path = vpc, agent, path

    def configure(self, text):
        self._path.write_text(text)

    def __call__(self, command="apply", *more):
        return self._agent(command, "--config", self._path, *more)

    def own(self, name, version):
        return self.vpc.subnet(name, version).addresses[0]

    def by(self, name, version):
        """What ``sent`` tells of a packet that has left by this ENI with its own source."""
        return name, self.own(name, version)

    def sent(self, dst, kind=socket.SOCK_DGRAM, port=9, src=None, user=None, mark=None):
        """Send a packet: (ENI by which it left, source), or the number of the error."""
        with self.vpc.instance:
            talking = socket.socket(socket.AF_INET6 if ":" in dst else socket.AF_INET, kind)
        with talking, self.vpc.fabric.capture() as seen:
            talking.settimeout(0.2)
            if user is not None:
                os.fchown(talking.fileno(), user, user)  # rules match the socket's owner
            if mark is not None:
                talking.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            if src is not None:
                talking.bind((str(src), 0))
            try:
                talking.connect((dst, port))
                talking.send(b"?")
            except socket.timeout:
                pass  # nobody answers a SYN there
            except OSError as error:
                return error.errno
            end = time.monotonic() + 1
            while time.monotonic() < end:
                for packet in list(seen):
                    if packet.direction == "from" and str(packet.dst) == dst:
                        assert packet.verdict == "no route", "the cloud drops it: {}".format(packet)
                        return packet.port, packet.src
                time.sleep(0.005)
        return None


@pytest.fixture
def host(make_vpc, make_agent, tmp_path):
    vpc = make_vpc(make_tree(ipv6=True), ipv6_onlink=True)
    return Host(vpc, make_agent(vpc), tmp_path / "eni-bootstrap.yaml")


def refused(outcome):
    return outcome in (errno.EACCES, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)


# access control


@BOTH
def test_each_entry_does_what_it_says_and_the_rest_stays(host, version):
    host.configure(ACCESS)
    assert host().code == 0
    assert host("verify").code == 0, host("verify").out
    far = FAR[version]
    assert host.sent(far) == host.by("eth0", version)
    assert host.sent(far, socket.SOCK_STREAM, 443) == host.by("eth2", version)
    assert host.sent(far, socket.SOCK_STREAM, 80) == host.by("eth0", version)
    assert host.sent(ELSEWHERE[version], socket.SOCK_STREAM, 443) == host.by("eth0", version)
    assert host.sent(far, user=1001) == host.by("eth1", version)
    assert host.sent(far, user=1002) == host.by("eth0", version)
    assert host.sent(far, mark=0xF10) == host.by("eth2", version)
    assert host.sent(far, mark=0x11) == host.by("eth0", version)


@BOTH
def test_what_is_prohibited_is_so_for_every_source_and_what_an_earlier_entry_sends_is_not(host, version):
    host.configure(ACCESS)
    host()
    assert host.sent(REFUSED[version]) == errno.EACCES
    for name in ("eth0", "eth1", "eth2"):
        assert host.sent(REFUSED[version], src=host.own(name, version)) == errno.EACCES
    assert host.sent(REFUSED[version], mark=0x10) == errno.EACCES  # a later one
    assert host.sent(REFUSED[version], user=1001) == host.by("eth1", version)


@pytest.mark.parametrize("selectors, rule", [
    ("to: []", "from all"), ("from: 0.0.0.0/0", "from 0.0.0.0/0"), ("from: 0.0.0.0", "from 0.0.0.0"),
    ("user: [0-999, 1000-4294967294]", "uidrange 0-4294967294"), ("in: lo", "iif lo"),
    ("mark: 0", "fwmark 0/0xffffffff"),
])
def test_a_refusal_of_all_changes_nothing_however_it_is_spelled(host, selectors, rule):
    """Such a rule, made by hand, takes even the way to the metadata service."""
    host.configure(ACCESS)
    assert host().code == 0
    before = kernel(host.vpc)
    host.configure("access:\n  - {%s, answer: prohibit}\n" % selectors)
    said = host()
    assert said.code == 2 and "eni-bootstrap.yaml:2: access[1]" in said.err
    assert kernel(host.vpc) == before and leaves_by(host.vpc, None, METADATA) == "eth0"
    host.vpc.instance.run("ip rule add {} prohibit priority 7".format(rule).split())
    assert leaves_by(host.vpc, None, METADATA) == NO_WAY


@BOTH
def test_a_bound_socket_stays_with_its_eni_whatever_entry_it_fits(host, version):
    host.configure(ACCESS)
    host()
    for name in ("eth0", "eth1", "eth2"):
        for fits in (dict(user=1001), dict(mark=0x10)):
            assert host.sent(FAR[version], src=host.own(name, version), **fits) == host.by(name, version)


@BOTH
def test_replies_stay_with_the_eni_that_was_asked(host, version):
    """Also those of a server whose user's own connections go another way."""
    host.configure("access:\n  - {user: 0-65535, via: eth1}\n")
    host()
    with probe.echo_server(host.vpc.instance):
        for name in ("eth0", "eth1", "eth2"):
            where = host.vpc.eips[name] if version == 4 else host.own(name, 6)
            assert probe.tcp(host.vpc.client, where) and probe.udp(host.vpc.client, where)
    assert not [port.counters["source check"] for port in host.vpc.fabric.ports.values()
                if port.counters["source check"]]


@BOTH
def test_an_entry_fails_closed_while_its_eni_is_down(host, version):
    host.configure(ACCESS)
    host()
    host.vpc.set_link("eth2", False)
    if version == 4:  # of IPv6 the kernel tries another source until the agent has run
        assert refused(host.sent(FAR[4], mark=0x10))
    host("apply", "--unattended")
    assert refused(host.sent(FAR[version], mark=0x10))
    assert refused(host.sent(FAR[version], socket.SOCK_STREAM, 443))
    assert host.sent(FAR[version], user=1001) == host.by("eth1", version)
    host.vpc.set_link("eth2", True)
    host("apply", "--unattended")
    assert host.sent(FAR[version], mark=0x10) == host.by("eth2", version)


def test_an_entry_of_an_eni_that_is_not_there_is_named_and_its_traffic_refused(host):
    host.configure("access:\n  - {user: 1001, via: eth7}\n  - {user: 1002, via: 'eth*'}\n  - {user: 1003, via: eth1}\n")
    done = host()
    assert done.code == 1
    assert "access entry on line 2: no ENI is named eth7, and its traffic is refused" in done.out
    assert ("access entry on line 3: via eth* names several ENIs (eth0, eth1, eth2), and its traffic is refused; "
            "name one") in done.out
    for version in (4, 6):
        assert refused(host.sent(FAR[version], user=1001)) and refused(host.sent(FAR[version], user=1002))
        assert host.sent(FAR[version], user=1003) == host.by("eth1", version)


@pytest.mark.parametrize("name", [
    "00:16:3E:0e:00:02", "eni-bp1exampleeni00002", "*00002", "vsw-bp1examplevsw00002", "eth1"])
def test_an_eni_is_named_by_device_mac_id_or_vswitch(host, name):
    host.configure("access:\n  - {user: 1001, via: \"%s\"}\n" % name)
    assert host().code == 0
    assert host.sent(FAR[4], user=1001) == host.by("eth1", 4)


@BOTH
def test_forwarded_traffic_of_a_bridge_goes_by_the_eni_that_is_named(host, version):
    host.configure("access:\n  - {in: br0, from: [172.30.0.0/16, 'fd30::/64'], via: eth1}\n")
    vpc, inside = host.vpc, Namespace()
    block, near, far = {4: ("172.30.0.{}/16", "172.30.0.2", "203.0.113.50"),
                        6: ("fd30::{}/64", "fd30::2", "3fff::9")}[version]
    try:
        for command in ("link add br0 type bridge", "address add {} dev br0".format(block.format(1)), "link set br0 up",
                        "link add c0 type veth peer name c1", "link set c0 master br0", "link set c0 up"):
            vpc.instance.run(["ip"] + command.split() + ["nodad"] * (command.startswith("address") and version == 6))
        vpc.instance.run(["ip", "link", "set", "c1", "netns", inside.path])
        for command in ("address add {} dev c1".format(block.format(2)), "link set c1 up",
                        "-{} route add default via {}".format(version, block.format(1).split("/")[0])):
            inside.run(["ip"] + command.split() + ["nodad"] * (command.startswith("address") and version == 6))
        vpc.instance.sysctl("net.ipv4.ip_forward" if version == 4 else "net.ipv6.conf.all.forwarding", 1)
        assert host().code == 0
        assert host("verify").code == 0, host("verify").out
        end, ways = time.monotonic() + 5, set()
        while not ways and time.monotonic() < end:  # a bridge's new port is looked at before it forwards
            with vpc.fabric.capture() as seen:
                probe.ping(inside, far, timeout=0.3)
            # Nobody translates its source here, so that the cloud drops it: what counts is where it left.
            ways = {packet.port for packet in seen if str(packet.src) == near}
        assert ways == {"eth1"}
        assert probe.ping(vpc.instance, near)  # what is near stays near
    finally:
        inside.close()


@BOTH
def test_more_sources_of_an_eni_leave_by_it(host, version):
    """A HAVIP: the cloud knows whose it is, its metadata service does not tell."""
    vpc = host.vpc
    more = {4: "172.31.7.7", 6: "2001:db8:20:ffff::7"}[version]
    host.configure("sources:\n  - {eni: eth1, address: [172.31.7.7, '2001:db8:20:ffff::7']}\n")
    assert host().code == 0
    vpc.instance.run(["ip", "address", "add", more, "dev", "lo"])
    settle(vpc)
    port = vpc.fabric.ports["eth1"]
    vpc.fabric.own("eth1", [*port.owned, ip_network(more)])
    with probe.echo_server(vpc.instance):
        assert probe.tcp(vpc.client, more if version == 6 else vpc.eip(more))
    assert host.sent(FAR[version], src=more) == ("eth1", ip_address(more))
    assert host("verify").code == 0


def test_sources_that_are_somebody_else_s_are_named(host):
    host.configure("sources:\n  - {eni: eth1, address: 172.16.10.10}\n  - {eni: eth7, address: 172.31.7.7}\n")
    done = host()
    assert done.code == 1
    assert "sources on line 2: 172.16.10.10/32 is eth0's" in done.out
    assert "sources on line 3: eth7 names no ENI" in done.out


def test_the_cloud_s_own_services_stay_on_the_primary(host):
    host.configure("access:\n  - {user: 0-4294967294, via: eth1}\n" + SPREAD)
    assert host().code == 0
    for last in range(1, 30):
        assert host.sent("100.100.2.{}".format(last)) == host.by("eth0", 4)
    assert host("plan").code == 0


# balance


def spread(host, version, number=2000, kind=socket.SOCK_DGRAM):
    """Packets to so many destinations from sockets without a source: (ENI, source): how many."""
    count = Counter()
    with host.vpc.fabric.capture() as seen:
        for place in range(number):
            dst = "10.{}.{}.7".format(80 + place // 250, place % 250) if version == 4 else "2001:db8:80::{:x}".format(
                place + 1)
            with host.vpc.instance:
                talking = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, kind)
            with talking:
                talking.setblocking(False)
                talking.connect_ex((dst, 9))
                if kind == socket.SOCK_DGRAM:
                    for _ in range(2):
                        talking.send(b"?")
            if place % 50 == 49:
                _await(seen, place - 20, 1)  # a busy machine's fabric must not be flooded
        _await(seen, number, 5)
    ways = {}
    for packet in seen:
        if packet.direction == "from" and packet.dst not in host.vpc.fabric._gateways:
            assert packet.verdict == "no route", "the cloud drops it: {}".format(packet)
            assert ways.setdefault(packet.dst, (packet.port, packet.src)) == (packet.port, packet.src), "a flow changed"
    for port, src in ways.values():
        assert src == host.own(port, version)
        count[port] += 1
    return count


def _await(seen, number, seconds):
    """Until packets to so many destinations have been seen."""
    end = time.monotonic() + seconds
    while len({packet.dst for packet in list(seen)}) < number and time.monotonic() < end:
        time.sleep(0.02)


def chance(count, shares):
    """Whether these counts may come from these shares: chi squared, 13.8 is exceeded once in 1,000 by two degrees of
    freedom. The kernel's hash is no die, but deals 2,000 addresses as evenly as one."""
    total, weights = sum(count.values()), sum(shares.values())
    squared = sum((count[name] - total * share / weights) ** 2 / (total * share / weights)
                  for name, share in shares.items())
    return squared < 13.8 if len(shares) == 3 else squared < 10.8


@BOTH
def test_flows_without_a_source_are_spread_by_weight_and_each_stays_where_it_is(host, version):
    host.configure(SPREAD)
    assert host().code == 0
    assert host("verify").code == 0, host("verify").out
    count = spread(host, version)
    assert sum(count.values()) > 1900  # some are lost while gateways are looked for
    assert chance(count, {"eth0": 1, "eth1": 2, "eth2": 3}), count


def test_connections_are_spread_too(host):
    host.configure(SPREAD)
    host()
    count = spread(host, 4, 600, socket.SOCK_STREAM)
    assert chance(count, {"eth0": 1, "eth1": 2, "eth2": 3}), count


@BOTH
def test_bound_sockets_and_replies_are_not_spread(host, version):
    host.configure(SPREAD)
    host()
    for last in range(1, 20):
        for name in ("eth0", "eth1", "eth2"):
            dst = FAR[version][:-1] + str(last)
            assert host.sent(dst, src=host.own(name, version)) == host.by(name, version)
    with probe.echo_server(host.vpc.instance):
        for name in ("eth0", "eth1", "eth2"):
            assert probe.tcp(host.vpc.client, host.vpc.eips[name] if version == 4 else host.own(name, 6))


@BOTH
def test_an_eni_that_is_down_gets_no_share_after_a_run(host, version):
    host.configure(SPREAD)
    host()
    host.vpc.set_link("eth2", False)
    host("apply", "--unattended")
    count = spread(host, version, 1000)
    assert chance(count, {"eth0": 1, "eth1": 2}), count
    assert count["eth2"] == 0
    host.vpc.fabric.carrier("eth1", False)
    time.sleep(0.3)
    host("apply", "--unattended")
    assert set(spread(host, version, 100)) == {"eth0"}


def test_destinations_may_have_spreads_of_their_own(host):
    host.configure("balance:\n  - {to: [10.80.0.0/16, 10.81.0.0/16], over: {eth1: 1, eth2: 1}}\n  - over: {eth0: 1}\n")
    assert host().code == 0
    count = spread(host, 4, 500)
    assert chance(count, {"eth1": 1, "eth2": 1}), count
    assert host.sent("10.90.0.1") == host.by("eth0", 4)


def test_neighbours_stay_on_link(host):
    host.configure(SPREAD)
    host()
    neighbour = host.vpc.neighbour("eth1")
    with probe.echo_server(neighbour):
        for _ in range(10):
            assert probe.tcp(host.vpc.instance, neighbour.ipv4)


# all of it


def test_a_second_run_writes_nothing_and_without_the_file_all_is_as_it_was(host):
    host.configure("")
    host()
    before = host.vpc.dump()
    host.configure(ACCESS + SPREAD)
    assert host().code == 0
    with_policy = host.vpc.dump()
    assert with_policy != before
    assert host("plan").out == "# nothing to do\n"
    assert "0 things changed" in host().out and host.vpc.dump() == with_policy
    assert host("status").code == 0
    host.configure("")
    assert host().code == 0
    assert host.vpc.dump() == before
    host.configure(ACCESS + SPREAD)
    host()
    assert host("remove").code == 0
    assert "proto 235" not in host.vpc.instance.run(["ip", "rule"]).stdout


def test_the_plan_can_be_pasted(host):
    host.configure(ACCESS + SPREAD)
    commands = [line for line in host("plan").out.splitlines() if not line.startswith("#")]
    for command in commands:
        host.vpc.instance.run(command.split())
    assert host("plan").out == "# nothing to do\n"


def test_an_entry_that_an_earlier_one_shadows_is_named(host):
    host.configure("access:\n  - {to: 10.0.0.0/8, via: eth1}\n  - {to: 10.60.0.0/16, protocol: tcp, via: eth2}\n")
    assert "access entry on line 3 never counts: all that fits it fits the one on line 2 first" in host().out


def test_verify_finds_what_defeats_an_entry(host):
    host.configure(ACCESS)
    host()
    host.vpc.instance.run("ip rule add uidrange 1001-1001 lookup main priority 100".split())
    found = host("verify")
    assert found.code == 1 and "FAIL" in found.out
    assert [line for line in found.out.splitlines() if "user 1001" in line and "FAIL" in line and "by eth1" in line]


def test_status_asks_about_entries_without_metadata(host):
    host.configure(ACCESS + "  - {user: 1002, via: eni-bp1exampleeni00002}\n" + SPREAD)
    host()
    host.vpc.service.close()
    said = host("status")
    assert said.code == 0, said.out
    assert "access entry on line 6: which ENI it names can't be told without metadata" in said.out
    host.vpc.instance.run("ip rule add uidrange 1001-1001 lookup main priority 100".split())
    assert host("status").code == 1

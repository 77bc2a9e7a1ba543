"""Connection marks: a container's published port answers by the ENI that the question came in by."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest

from eni_bootstrap.lab import probe
from eni_bootstrap.lab.namespace import Namespace
from eni_bootstrap.lab.vpc import make_tree
from tests.agent import ROOT
from tests.oracle import OUTSIDE, ip, routes, rules, wait_until
from tests.unit.desired.test_connmark import DEVS, ON, TABLE

PUBLISHED = 8080

DOCKER = """
table inet docker {
  chain publish {
    type nat hook prerouting priority -100
    iifname "br0" return
    fib daddr type local meta nfproto ipv4 meta l4proto { tcp, udp } th dport 8080 dnat ip to 172.30.0.2:7
    fib daddr type local meta nfproto ipv6 meta l4proto { tcp, udp } th dport 8080 dnat ip6 to [fd30::2]:7
    fib daddr type local icmp type echo-request dnat ip to 172.30.0.2
    fib daddr type local icmpv6 type echo-request dnat ip6 to fd30::2
  }
  chain hide {
    type nat hook postrouting priority 100
    oifname != "br0" ip saddr 172.30.0.0/16 masquerade
    oifname != "br0" ip6 saddr fd30::/64 masquerade
  }
}
"""

OTHERS = """
table inet kube {
  chain first { type filter hook prerouting priority -160; meta mark set meta mark | 0x4000;
                ct mark set ct mark | 0x80000; }
  chain last { type filter hook forward priority 0;
               meta mark & 0x4000 == 0x4000 ct mark & 0x80000 == 0x80000 counter accept; counter drop; }
}
"""


def nft(vpc, *arguments, text=None):
    return vpc.instance.run(["nft"] + list(arguments), **({"input": text} if text else {})).stdout


def table(vpc):
    done = vpc.instance.run(["nft", "list", "table"] + TABLE.split(), check=False, stderr=subprocess.PIPE)
    return done.stdout


@contextmanager
def published(vpc, serving=True):
    """A container behind a bridge, as Docker has it: its port published on all of the host's addresses."""
    inside = Namespace()
    inside.sysctl("net.ipv6.conf.default.accept_dad", 0)
    try:
        ip(vpc, "link add br0 type bridge")
        vpc.instance.sysctl("net.ipv6.conf.br0.accept_dad", 0)
        for command in ("link add veth0 type veth peer name eth0 netns " + inside.path,
                        "address add 172.30.0.1/16 dev br0", "address add fd30::1/64 dev br0 nodad",
                        "link set veth0 up master br0", "link set br0 up"):
            ip(vpc, command)
        vpc.instance.sysctl("net.ipv4.ip_forward", 1)
        vpc.instance.sysctl("net.ipv6.conf.all.forwarding", 1)
        for command in ("link set eth0 up", "address add 172.30.0.2/16 dev eth0",
                        "address add fd30::2/64 dev eth0 nodad", "route add default via 172.30.0.1",
                        "-6 route add default via fd30::1"):
            inside.run(["ip"] + command.split())
        nft(vpc, "-f", "-", text=DOCKER)
        wait_until(lambda: probe.ping(inside, "172.30.0.1") and probe.ping(inside, "fd30::1"))
        with ExitStack() as server:
            if serving:
                server.enter_context(probe.echo_server(inside))
            yield inside
    finally:
        inside.close()


@pytest.fixture
def host(make_vpc, make_agent, tmp_path):
    """``host(text)``: a VPC of three ENIs, and the agent with that configuration, which can be replaced."""
    def make(text=ON, **options):
        vpc = make_vpc(make_tree(ipv6=True), ipv6_onlink=True, **options)
        path = tmp_path / "eni-bootstrap.yaml"
        agent = make_agent(vpc)

        def run(command="apply", *more, text=text):
            path.write_text(text)
            return agent(command, "--config", path, *more)
        return vpc, run
    return make


def answered(vpc, dev, version, asker=None, timeout=probe.TIMEOUT):
    """Which of TCP, UDP and ping to the published port is answered, and by which ports, with which verdict."""
    address = vpc.address(dev, version)
    dst = vpc.eip(address) if asker is None and version == 4 else address
    asker = asker or vpc.client
    with vpc.fabric.capture() as seen:
        found = [probe.tcp(asker, dst, PUBLISHED, timeout=timeout), probe.udp(asker, dst, PUBLISHED, timeout=timeout),
                 bool(probe.ping(asker, dst, timeout=timeout))]
    ways = {(packet.port, packet.verdict) for packet in seen if packet.direction == "from" and packet.src == address}
    return found, ways


def assert_each_answers(vpc, devs=DEVS, versions=(4, 6)):
    for dev in devs:
        for version in versions:
            assert (dev, version, answered(vpc, dev, version)) == (
                dev, version, ([True] * 3, {(dev, "forwarded")}))


class TestPublishedPorts:
    @pytest.mark.parametrize("others", ["", OTHERS], ids=["alone", "beside another tool's marks"])
    def test_answer_by_each_eni(self, host, others):
        vpc, agent = host()
        with published(vpc) as inside:
            if others:
                nft(vpc, "-f", "-", text=others)
            done = agent()
            assert done.code == 0, done
            assert_each_answers(vpc)
            for version in (4, 6):  # what begins inside goes as ever
                with probe.echo_server(vpc.client), vpc.fabric.capture() as seen:
                    assert probe.tcp(inside, OUTSIDE[version]) and probe.ping(inside, OUTSIDE[version])
                assert {packet.port for packet in seen if packet.direction == "from"
                        and packet.src == vpc.address("eth0", version)} == {"eth0"}
            if others:
                assert "counter packets 0 bytes 0 drop" in nft(vpc, "list", "chain", "inet", "kube", "last")

    def test_do_not_without_the_option(self, host):
        """So that the others can fail: the answers leave by the primary, and the cloud drops them."""
        vpc, agent = host("assign: primary\n")
        with published(vpc):
            assert agent().code == 0
            assert_each_answers(vpc, ["eth0"])
            for version in (4, 6):
                found, ways = answered(vpc, "eth1", version, timeout=0.7)
                assert found == [False] * 3
                assert ways and all(port == "eth0" and verdict != "forwarded" for port, verdict in ways)
            assert table(vpc) == ""

    def test_answer_neighbours_of_other_vswitches(self, host):
        """Main would answer them directly, by the ENI that is in their vSwitch."""
        vpc, agent = host()
        with published(vpc):
            assert agent().code == 0
            for dev, where in (("eth0", "eth1"), ("eth1", "eth0"), ("eth2", "eth1")):
                for version in (4, 6):
                    assert answered(vpc, dev, version, vpc.neighbour(where)) == ([True] * 3, {(dev, "forwarded")})

    def test_answer_past_a_strict_reverse_path_filter(self, host):
        vpc, agent = host()
        for name in ("all", "default") + DEVS:
            vpc.instance.sysctl("net/ipv4/conf/{}/rp_filter".format(name), 1)
        vpc.instance.sysctl("net/ipv4/conf/eth2/src_valid_mark", 1)  # the operator's own
        with published(vpc):
            done = agent()
            assert done.code == 0, done
            assert heeds(vpc) == {"eth0": "0", "eth1": "1", "eth2": "1"}
            assert_each_answers(vpc)
            assert "0 things" in agent().out
            assert agent("remove").code == 0
            assert heeds(vpc) == {"eth0": "0", "eth1": "0", "eth2": "1"}

    @pytest.mark.parametrize("version", [4, 6])
    def test_fail_closed_while_their_eni_is_down(self, host, version):
        vpc, agent = host()
        address = vpc.address("eth1", version)
        family, anywhere = (socket.AF_INET, "0.0.0.0") if version == 4 else (socket.AF_INET6, "::")
        with published(vpc, serving=False) as inside:
            assert agent().code == 0
            with inside:
                serving = socket.socket(family, socket.SOCK_DGRAM)
            with vpc.client:
                asking = socket.socket(family, socket.SOCK_DGRAM)
            with serving, asking:
                serving.bind((anywhere, probe.ECHO_PORT))
                for talking in (serving, asking):
                    talking.settimeout(2)
                asking.sendto(b"?", (str(vpc.eip(address) if version == 4 else address), PUBLISHED))
                client = serving.recvfrom(9)[1]
                serving.sendto(b"up", client)
                assert asking.recv(9) == b"up"
                vpc.set_link("eth1", False)
                for runs in ([], ["--unattended"]):
                    if runs:
                        assert agent("apply", *runs).code == 0
                    with vpc.fabric.capture() as seen:
                        with suppress(OSError):  # the host may tell the container, by ICMP
                            serving.sendto(b"down", client)
                        time.sleep(0.2)
                    assert not [packet for packet in seen if packet.direction == "from" and packet.dport == client[1]]

    def test_answer_by_their_eni_whatever_entries_say_of_what_begins_inside(self, host):
        vpc, agent = host(ON + "access:\n  - {in: br0, via: eth1}\n")
        with published(vpc) as inside:
            done = agent()
            assert done.code == 0, done
            assert_each_answers(vpc)
            with probe.echo_server(vpc.client), vpc.fabric.capture() as seen:
                for version in (4, 6):
                    assert probe.tcp(inside, OUTSIDE[version])
            # Both at once: the end of a connection may come when the next one has begun.
            assert {(packet.port, packet.src) for packet in seen if packet.direction == "from"
                    and packet.port in DEVS} == {("eth1", vpc.address("eth1", version)) for version in (4, 6)}

    @pytest.mark.parametrize("strict", [0, 1])
    def test_of_a_backend_on_another_host_are_relayed(self, host, strict):
        """What comes in goes where it went without marks; what comes back leaves by the ENI that was asked."""
        vpc, agent = host()
        vpc.instance.sysctl("net/ipv4/conf/all/rp_filter", strict)
        backend = vpc.neighbour("eth0")
        vpc.instance.sysctl("net.ipv4.ip_forward", 1)
        nft(vpc, "-f", "-", text="""
            table inet relay {
              chain publish { type nat hook prerouting priority -100;
                iifname "eth1" tcp dport 8080 meta nfproto ipv4 dnat ip to %s:7; }
              chain hide { type nat hook postrouting priority 100; oifname "eth0" ct status dnat masquerade; }
            }""" % backend.ipv4)
        assert agent().code == 0
        with probe.echo_server(backend), vpc.fabric.capture() as seen:
            assert probe.tcp(vpc.client, vpc.eip(vpc.address("eth1")), PUBLISHED)
        left = {(packet.port, packet.src, packet.dst, packet.verdict) for packet in seen if packet.direction == "from"
                and packet.port in DEVS}
        assert left == {("eth0", vpc.address("eth0"), backend.ipv4, "forwarded"),
                        ("eth1", vpc.address("eth1"), vpc.client.ipv4, "forwarded")}


def heeds(vpc):
    found = {}
    for dev in DEVS:
        with vpc.instance, open("/proc/sys/net/ipv4/conf/{}/src_valid_mark".format(dev)) as value_of:
            found[dev] = value_of.read().strip()
    return found


def test_locally_ended_connections_answer_as_ever(host):
    """Whatever this host's own sockets make of a packet's mark."""
    vpc, agent = host()
    assert agent().code == 0
    for reflect in (0, 1):
        vpc.instance.sysctl("net.ipv4.tcp_fwmark_accept", reflect)
        vpc.instance.sysctl("net.ipv4.fwmark_reflect", reflect)
        vpc.instance.sysctl("net.ipv6.fwmark_reflect", reflect)
        with probe.echo_server(vpc.instance, port=PUBLISHED):
            assert_each_answers(vpc)


def test_a_second_run_writes_nothing(host):
    vpc, agent = host()
    assert "nft -f - <<'END'\nadd table" in agent("plan").out and table(vpc) == ""
    assert agent().code == 0
    handle = nft(vpc, "-a", "list", "table", *TABLE.split())
    again = agent()
    assert again.code == 0 and "0 things changed" in again.out
    assert nft(vpc, "-a", "list", "table", *TABLE.split()) == handle, "not even the same anew"
    assert agent("plan").out.startswith("# nothing to do")


def test_the_plan_can_be_pasted(host):
    vpc, agent = host()
    script = agent("plan").out
    assert vpc.instance.run(["bash", "-e", "-c", script], stderr=subprocess.PIPE).returncode == 0
    assert agent("plan").out.startswith("# nothing to do")


def test_it_is_told_and_proven(host):
    vpc, agent = host()
    agent()
    for command in ("status", "verify"):
        told = agent(command)
        assert told.code == 0, told
        assert "table inet eni_bootstrap is as it should be, for eth0, eth1, eth2" in told.out
    asked = [row for row in agent("verify", "--json").json["verdicts"] if row["source"].startswith("mark ")]
    assert [(row["source"], row["ok"]) for row in asked] == [
        ("mark {:#x}".format(number << 24), True) for number in (1, 1, 2, 2, 3, 3)]
    nft(vpc, "flush", "chain", *TABLE.split(), "prerouting")
    for command in ("status", "verify"):
        told = agent(command)
        assert told.code == 1 and "inet eni_bootstrap is not as it should be" in told.out
    assert agent().code == 0 and agent("verify").code == 0


def test_remove_leaves_nothing_and_needs_no_configuration(host):
    vpc, agent = host()
    before = vpc.dump(), nft(vpc, "list", "ruleset")
    assert agent().code == 0
    assert [rule for rule in rules(vpc) if rule["priority"] == 7150] and table(vpc)
    assert agent("remove", text="").code == 0
    assert (vpc.dump(), nft(vpc, "list", "ruleset")) == before


def test_the_option_can_be_taken_back(host):
    vpc, agent = host()
    assert agent("apply", text="").code == 0
    before = vpc.dump()
    assert agent().code == 0
    assert agent("apply", text="").code == 0
    assert vpc.dump() == before and table(vpc) == ""
    assert agent("apply", text="").out.count("0 things changed") == 1


def test_the_mask_can_be_another(host):
    vpc, agent = host("connection-marks: {mask: 0xf0}\n")
    with published(vpc):
        assert agent().code == 0
        assert_each_answers(vpc, ["eth1", "eth2"])
        assert agent("apply", text=ON).code == 0
        assert_each_answers(vpc, ["eth1", "eth2"])
        assert agent("verify", text=ON).code == 0


def test_an_eni_that_goes_is_forgotten_and_one_that_comes_is_marked(host):
    vpc, agent = host()
    agent()
    vpc.detach("eth2")
    assert agent().code == 0
    assert '"eth2"' not in table(vpc) and '"eth1"' in table(vpc)
    assert not [rule for rule in rules(vpc) if rule.get("fwmark") == "0x3000000"]
    vpc.detach("eth1")
    assert agent().code == 0
    assert table(vpc) == "" and not routes(vpc, 1001)


class TestNftIsNotThere:
    """The rest is done, and the package is named."""

    @pytest.fixture
    def without(self, monkeypatch):
        """No directory of the PATH has it, as on a host without the package."""
        found = shutil.which
        monkeypatch.setattr(shutil, "which", lambda name, **options: None if name == "nft" else found(name, **options))

    def test_with_the_option(self, host, without):
        vpc, agent = host()
        done = agent()
        assert done.code == 1 and "install the package nftables" in done.out
        assert [rule for rule in rules(vpc) if rule["priority"] == 7200]

    def test_without_the_option(self, host, without):
        vpc, agent = host("")
        assert agent().code == 0 and agent("status").code == 0 and agent("remove").code == 0

    @pytest.mark.parametrize("command", ["apply", "remove"])
    def test_when_the_table_is_to_go(self, host, command):
        """It is not forgotten; the sysctls go back all the same."""
        vpc, agent = host()
        vpc.instance.sysctl("net/ipv4/conf/all/rp_filter", 1)
        assert agent().code == 0 and heeds(vpc)["eth1"] == "1"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "which", lambda name, **options: None)
            done = agent(command, text="")
        assert done.code == 1 and "install the package nftables" in done.out
        assert table(vpc) and heeds(vpc)["eth1"] == "0"
        assert not [rule for rule in rules(vpc) if rule["priority"] == 7150]
        assert agent(command, text="").code == 0 and table(vpc) == ""


def test_without_the_option_no_program_is_started(host, monkeypatch):
    vpc, agent = host("")

    def started(*arguments, **options):
        raise AssertionError(arguments)

    monkeypatch.setattr("subprocess.run", started)
    for command in ("apply", "plan", "verify", "status", "remove"):
        assert agent(command).code == 0


def test_where_sysctls_are_read_only_the_command_is_named(host, tmp_path):
    """As in the service's sandbox (ProtectKernelTunables=)."""
    vpc, agent = host()
    vpc.instance.sysctl("net/ipv4/conf/all/rp_filter", 1)
    (tmp_path / "eni-bootstrap.yaml").write_text(ON)
    ran = vpc.instance.run(
        ["unshare", "--mount", "sh", "-c",
         "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec \"$@\"", "sh",
         sys.executable, "-m", "eni_bootstrap",
         "--config", str(tmp_path / "eni-bootstrap.yaml"), "--json"],
        check=False, stderr=subprocess.PIPE,
        env=dict(os.environ, RUNTIME_DIRECTORY=str(tmp_path / "run"), PYTHONPATH=ROOT))
    assert ran.returncode == 1, ran
    problems = json.loads(ran.stdout)["problems"]
    assert [problem.split("run as root: ")[1] for problem in problems] == [
        "sysctl -w net/ipv4/conf/{}/src_valid_mark=1".format(dev) for dev in ("eth1", "eth2")]
    assert table(vpc)

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

from eni_bootstrap.config import file as config_file
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.connmark import Marked, as_wanted, mark_rules, marked, ruleset, value
from eni_bootstrap.lab import probe
from eni_bootstrap.lab.namespace import Namespace
from eni_bootstrap.lab.vpc import make_tree
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.eni import SickInterface
from eni_bootstrap.plan.diff import plan, withdrawal
from tests.agent import ROOT
from tests.build import BOOT, ETH1, ETH2, PRIMARY, decision, interface, link, route, subnet, two_enis
from tests.fakes import FakeKernel
from tests.oracle import OUTSIDE, ip, routes, rules, wait_until

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


# the kernel

kernel = pytest.mark.kernel
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


def answered(vpc, dev, version, asker=None):
    """Which of TCP, UDP and ping to the published port is answered, and by which ports, with which verdict."""
    address = vpc.address(dev, version)
    dst = vpc.eip(address) if asker is None and version == 4 else address
    asker = asker or vpc.client
    with vpc.fabric.capture() as seen:
        found = [probe.tcp(asker, dst, PUBLISHED), probe.udp(asker, dst, PUBLISHED), bool(probe.ping(asker, dst))]
    ways = {(packet.port, packet.verdict) for packet in seen if packet.direction == "from" and packet.src == address}
    return found, ways


def assert_each_answers(vpc, devs=DEVS, versions=(4, 6)):
    for dev in devs:
        for version in versions:
            assert (dev, version, answered(vpc, dev, version)) == (
                dev, version, ([True] * 3, {(dev, "forwarded")}))


@kernel
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
                found, ways = answered(vpc, "eth1", version)
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
            for version in (4, 6):
                with probe.echo_server(vpc.client), vpc.fabric.capture() as seen:
                    assert probe.tcp(inside, OUTSIDE[version])
                assert {(packet.port, packet.src) for packet in seen if packet.direction == "from"
                        and packet.port in DEVS} == {("eth1", vpc.address("eth1", version))}

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


@kernel
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


@kernel
def test_a_second_run_writes_nothing(host):
    vpc, agent = host()
    assert "nft -f - <<'END'\nadd table" in agent("plan").out and table(vpc) == ""
    assert agent().code == 0
    handle = nft(vpc, "-a", "list", "table", *TABLE.split())
    again = agent()
    assert again.code == 0 and "0 things changed" in again.out
    assert nft(vpc, "-a", "list", "table", *TABLE.split()) == handle, "not even the same anew"
    assert agent("plan").out.startswith("# nothing to do")


@kernel
def test_the_plan_can_be_pasted(host):
    vpc, agent = host()
    script = agent("plan").out
    assert vpc.instance.run(["bash", "-e", "-c", script], stderr=subprocess.PIPE).returncode == 0
    assert agent("plan").out.startswith("# nothing to do")


@kernel
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


@kernel
def test_remove_leaves_nothing_and_needs_no_configuration(host):
    vpc, agent = host()
    before = vpc.dump(), nft(vpc, "list", "ruleset")
    assert agent().code == 0
    assert [rule for rule in rules(vpc) if rule["priority"] == 7150] and table(vpc)
    assert agent("remove", text="").code == 0
    assert (vpc.dump(), nft(vpc, "list", "ruleset")) == before


@kernel
def test_the_option_can_be_taken_back(host):
    vpc, agent = host()
    assert agent("apply", text="").code == 0
    before = vpc.dump()
    assert agent().code == 0
    assert agent("apply", text="").code == 0
    assert vpc.dump() == before and table(vpc) == ""
    assert agent("apply", text="").out.count("0 things changed") == 1


@kernel
def test_the_mask_can_be_another(host):
    vpc, agent = host("connection-marks: {mask: 0xf0}\n")
    with published(vpc):
        assert agent().code == 0
        assert_each_answers(vpc, ["eth1", "eth2"])
        assert agent("apply", text=ON).code == 0
        assert_each_answers(vpc, ["eth1", "eth2"])
        assert agent("verify", text=ON).code == 0


@kernel
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


@kernel
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


@kernel
def test_without_the_option_no_program_is_started(host, monkeypatch):
    vpc, agent = host("")

    def started(*arguments, **options):
        raise AssertionError(arguments)

    monkeypatch.setattr("eni_bootstrap.kernel.nft.subprocess.run", started)
    for command in ("apply", "plan", "verify", "status", "remove"):
        assert agent(command).code == 0


@kernel
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

"""``adopt``: what the vendor's page had people type becomes ours without a gap; all else is left, and named."""

import os
import socket
import stat
import struct
import subprocess
import threading
import time
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from eni_bootstrap.lab import wire
from eni_bootstrap.lab.vpc import make_tree
from tests.build import OURS
from tests.oracle import assert_every_eni_answers, defaults, difference, ip, kernel, lost, routes, rules, table_of


class Stream:
    """Echo requests to one address at 100 per second, and which of them came back."""

    def __init__(self, namespace, dst):
        self._six = ip_address(str(dst)).version == 6
        self._to = (str(dst), 0)
        self.sent, self.answered = [], set()
        with namespace:
            self._socket = socket.socket(socket.AF_INET6 if self._six else socket.AF_INET, socket.SOCK_RAW,
                                         wire.ICMPV6 if self._six else wire.ICMP)
        self._mark = os.urandom(8)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._send, self._receive)]
        self._socket.settimeout(0.1)
        for thread in self._threads:
            thread.start()

    def close(self):
        """Ends once the last answers had their time."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    @property
    def lost(self):
        return sorted(set(self.sent) - self.answered)

    def _send(self):
        begin = time.monotonic()
        while not self._over.is_set():
            number = len(self.sent)
            rest = struct.pack("!HH", 4711, number & 0xFFFF) + self._mark + struct.pack("!I", number)
            head = b"\x80\0" if self._six else b"\x08\0"
            checksum = 0 if self._six else wire.checksum(head + b"\0\0" + rest)  # the kernel adds ICMPv6's
            self._socket.sendto(head + struct.pack("!H", checksum) + rest, self._to)
            self.sent.append(number)
            self._over.wait(max(0.0, begin + (number + 1) / 100 - time.monotonic()))

    def _receive(self):
        end = None
        while end is None or time.monotonic() < end and self.lost:
            if end is None and self._over.is_set():
                end = time.monotonic() + 2
            try:
                data = self._socket.recv(2048)
            except socket.timeout:
                continue
            message = data if self._six else data[(data[0] & 15) * 4:]
            if message[:1] == (b"\x81" if self._six else b"\0") and message[8:16] == self._mark:
                self.answered.add(struct.unpack("!I", message[16:20])[0])


@contextmanager
def stream(namespace, dst):
    made = Stream(namespace, dst)
    try:
        yield made
    finally:
        made.close()


def page(vpc, dev="eth1", version=4, table=1001):
    """The two commands of the page, for a link's first address."""
    subnet_ = vpc.subnet(dev, version)
    more = " onlink" if version == 6 else ""  # the lab's IPv6 addresses have no prefix on their links
    return ["ip -{} route add default via {} dev {} table {}{}".format(version, subnet_.gateway, dev, table, more),
            "ip -{} rule add from {} lookup {}".format(version, subnet_.addresses[0], table)]


def typed(vpc, commands, times=1):
    """As a person types it, who does not mind that a route is there already."""
    for _ in range(times):
        for command in commands:
            vpc.instance.run(command.split(), check=False, stderr=subprocess.PIPE)


@pytest.fixture
def host(tmp_path):
    """``host(*lines)``: a root file system with our timer, whose rc.local has these lines; tells adopt's options."""
    script = tmp_path / "root" / "etc" / "rc.local"
    wants = tmp_path / "root" / "etc" / "systemd" / "system" / "timers.target.wants"

    def make(*lines):
        wants.mkdir(parents=True)
        (wants / "eni-bootstrap.timer").symlink_to("/usr/lib/systemd/system/eni-bootstrap.timer")
        script.write_text("\n".join(("#!/bin/bash",) + lines + ("exit 0", "")))
        script.chmod(0o755)
        return ["--root", str(tmp_path / "root")]

    make.script = script
    return make


def assert_nothing_is_left_to_adopt(vpc, agent, where):
    before = kernel(vpc)
    for arguments in (["adopt"] + where, ["adopt", "--yes"] + where):
        result = agent(*arguments)
        assert result.code == 0 and "nothing to adopt" in result.out, result
    assert "0 things changed" in agent("apply").out
    assert kernel(vpc) == before


@pytest.mark.parametrize("version, table, again", [(4, 1001, True), (4, 77, True), (4, 77, False), (6, 1001, True),
                                                   (6, 77, False)])
def test_a_stream_loses_nothing_while_it_is_taken_over(make_vpc, make_agent, host, version, table, again):
    """The page's commands ran three times, once more after ours where ``again``, and are in rc.local."""
    vpc = make_vpc(make_tree(ipv6=version == 6))
    agent = make_agent(vpc)
    commands = page(vpc, version=version, table=table)
    where = host("touch /tmp/x", *commands)
    typed(vpc, commands, times=3)
    if again:
        assert agent("apply").code == 0
        typed(vpc, commands)
    address = vpc.address("eth1", version)
    with vpc.fabric.capture() as seen, stream(vpc.client, vpc.eip(address) if version == 4 else address) as pings:
        time.sleep(0.2)
        result = agent.run("adopt", "--yes", *where)
        time.sleep(0.2)
    assert result.code == 0, result
    assert len(pings.sent) > 50 and pings.lost == []
    assert {(packet.port, packet.verdict) for packet in seen
            if packet.direction == "from" and packet.src == address} == {("eth1", "forwarded")}
    assert "source check" not in {packet.verdict for packet in seen}
    copies = [each for each in rules(vpc, version) if each["src"] == str(address) and each["protocol"] != str(OURS)]
    assert [each for each in copies if each.get("action") != "unreachable"] == []
    assert {each["protocol"] for each in routes(vpc, table, version)} <= {str(OURS)}
    assert table_of(vpc, "eth1", version) == 1001
    assert host.script.read_text().splitlines() == ["#!/bin/bash", "touch /tmp/x"] + [
        "# taken over by eni-bootstrap: " + command for command in commands] + ["exit 0"]
    assert stat.S_IMODE(host.script.stat().st_mode) == 0o755
    assert_nothing_is_left_to_adopt(vpc, agent, where)
    assert_every_eni_answers(vpc)


def test_a_stream_would_tell_of_a_gap(vpc, make_agent):
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    with stream(vpc.client, vpc.eips["eth1"]) as pings:
        time.sleep(0.1)
        ip(vpc, "rule add from 172.16.20.10 unreachable priority 5")
        time.sleep(0.1)
        ip(vpc, "rule del from 172.16.20.10 unreachable priority 5")
        time.sleep(0.1)
    assert 3 < len(pings.lost) < len(pings.sent)


def test_enis_that_people_numbered_in_another_way(vpc, make_agent, host):
    """Each one's table is the other's natural one; they keep those that they got meanwhile."""
    agent = make_agent(vpc)
    commands = page(vpc, "eth1", table=1002) + page(vpc, "eth2", table=1001)
    where = host(*commands)
    typed(vpc, commands)
    result = agent("adopt", "--yes", *where)
    assert result.code == 0, result
    assert {each["protocol"] for each in rules(vpc) if each["priority"] not in (0, 32766, 32767)} == {str(OURS)}
    assert (table_of(vpc, "eth1"), table_of(vpc, "eth2")) == (1100, 1101)
    assert host.script.read_text().count("# taken over") == 4
    assert_nothing_is_left_to_adopt(vpc, agent, where)
    assert_every_eni_answers(vpc)


def test_what_turns_out_to_be_needed_is_put_back(vpc, make_agent, host):
    """Somebody's rule for all stood behind the typed one and takes over when that goes."""
    agent = make_agent(vpc)
    commands = page(vpc, table=77)
    where = host(*commands)
    for command in ("route add default via 172.16.10.253 dev eth0 table 52",
                    "rule add from all lookup 52 priority 5270"):
        ip(vpc, command)
    typed(vpc, commands)
    before = kernel(vpc)
    result = agent("adopt", "--yes", *where)
    assert result.code == 1 and "(00:16:3e:0e:00:02, eth1): what was typed for it is back" in result.out, result
    assert lost(before, kernel(vpc).replace(" onlink", "")) == []
    assert "taken over" not in host.script.read_text()


def test_addresses_that_are_on_no_link_and_that_nobody_typed_do_not_matter(make_vpc, make_agent, host):
    """As long as the typed rule is there other rules match them than the address that can be asked about."""
    vpc = make_vpc(make_tree(addresses=3))
    agent = make_agent(vpc)
    commands = page(vpc, table=77)
    where = host(*commands)
    typed(vpc, commands)
    assert agent("apply").code == 0
    typed(vpc, commands)
    assert agent("verify").code == 1
    result = agent("adopt", "--yes", *where)
    assert result.code == 0 and host.script.read_text().count("# taken over") == 2, result
    assert_nothing_is_left_to_adopt(vpc, agent, where)


def test_the_plan_changes_nothing_and_can_be_pasted(vpc, make_agent, host):
    """The commands lead to what --yes would lead to."""
    agent = make_agent(vpc)
    commands = page(vpc, table=77)
    where = host(*commands)
    typed(vpc, commands, times=2)
    before, script = kernel(vpc), host.script.read_text()
    result = agent("adopt", *where)
    assert result.code == 0 and kernel(vpc) == before and host.script.read_text() == script
    assert "# line 2 of /etc/rc.local would be commented out: " + commands[0] in result.out
    told = agent("adopt", "--json", *where).json
    assert [line["line"] for line in told["lines"]] == [2, 3] and len(told["adopted"]) == 3
    vpc.instance.run(["sh", "-e", "-c", result.out])
    assert "0 things changed" in agent("apply").out
    assert agent("adopt", "--json", *where).json["adopted"] == []


def test_remove_takes_back_what_was_taken_over(vpc, make_agent, host):
    """What it leaves is a host on which nobody ever typed anything."""
    agent, before = make_agent(vpc), kernel(vpc)
    where = host()
    typed(vpc, page(vpc), times=2)
    assert agent("adopt", "--yes", *where).code == 0
    assert agent("remove").code == 0
    assert kernel(vpc) == before


def test_the_default_of_old_systems(make_vpc, make_agent, host):
    """Ubuntu 16 makes none for a second interface; the page adds it to main."""
    vpc = make_vpc(os="up")
    agent = make_agent(vpc)
    command = "ip -4 route add default via 172.16.20.253 dev eth1 metric 200"
    where = host(command)
    typed(vpc, [command])
    assert agent("apply").code == 0
    assert ("eth1", 200, "boot") in defaults(vpc)
    result = agent("adopt", "--yes", *where)
    assert result.code == 0, result
    assert ("eth1", 200, str(OURS)) in defaults(vpc) and ("eth1", 200, "boot") not in defaults(vpc)
    assert "# taken over by eni-bootstrap: " + command in host.script.read_text()
    assert_nothing_is_left_to_adopt(vpc, agent, where)


def test_a_default_of_another_metric_by_ipv6(make_vpc, make_agent, host):
    """Ours comes first, then it goes."""
    vpc = make_vpc(make_tree(ipv6=True), ipv6_defaults=False)
    agent = make_agent(vpc)
    command = "ip -6 route add default via {} dev eth1 metric 2000 onlink".format(vpc.subnet("eth1", 6).gateway)
    where = host(command)
    typed(vpc, [command])
    assert agent("apply").code == 0
    assert ("eth1", 2000, "boot") in defaults(vpc, 6)
    result = agent("adopt", "--yes", *where)
    assert result.code == 0, result
    assert [each for each in defaults(vpc, 6) if each[0] == "eth1"] == [("eth1", 1124, str(OURS))]
    assert "# taken over by eni-bootstrap: " + command in host.script.read_text()
    assert_nothing_is_left_to_adopt(vpc, agent, where)


@pytest.mark.parametrize("theirs", [
    ["route add default via 172.16.20.99 dev eth1 table 77", "rule add from 172.16.20.10 lookup 77"],
    ["route add default via 172.16.20.253 dev eth1 table 77", "rule add from 172.16.20.10 lookup 77",
     "rule add from 10.5.5.5 lookup 77"],
    ["rule add from 172.16.20.10 lookup main"],
], ids=["another gateway", "shared", "main"])
def test_what_can_not_be_decided_is_untouched_and_named(vpc, make_agent, host, theirs):
    agent = make_agent(vpc)
    where = host(*("ip " + command for command in theirs))
    for command in theirs:
        ip(vpc, command)
    before, script = kernel(vpc), host.script.read_text()
    result = agent("adopt", "--yes", *where)
    assert lost(before, kernel(vpc)) == [] and host.script.read_text() == script
    assert "left as it is: from 172.16.20.10 lookup" in result.out and "nothing to adopt" in result.out


def test_an_eni_whose_proof_fails_keeps_what_was_typed_and_the_others_do_not(vpc, make_agent, host):
    agent = make_agent(vpc)
    commands = page(vpc, table=77) + page(vpc, "eth2", table=78)
    where = host(*commands)
    typed(vpc, commands)
    ip(vpc, "rule add from 172.16.20.10 to 203.0.113.0/24 unreachable priority 10")
    result = agent("adopt", "--yes", *where)
    assert result.code == 1, result
    tables = {each.get("table") for each in rules(vpc) if each["protocol"] != str(OURS)}
    assert "77" in tables and "78" not in tables
    marked = [line.startswith("# taken over") for line in host.script.read_text().splitlines()[1:-1]]
    assert marked == [False, False, True, True]


def test_a_script_that_can_not_be_written_is_named(vpc, make_agent, host):
    agent = make_agent(vpc)
    commands = page(vpc)
    where = host(*commands)
    typed(vpc, commands)
    (host.script.parent / "rc.local.eni-bootstrap").mkdir()
    result = agent("adopt", "--yes", *where)
    assert result.code == 1 and "/etc/rc.local can't be written (Is a directory)" in result.out, result
    assert difference(kernel(vpc), agent("apply") and kernel(vpc)) == ([], [])


def test_only_yes_takes_privileges(vpc, make_agent, host):
    agent = make_agent(vpc)
    where = host(*page(vpc))
    typed(vpc, page(vpc))
    drop = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
    assert agent.run("adopt", *where, prefix=drop).code == 0
    result = agent.run("adopt", "--yes", *where, prefix=drop)
    assert result.code == 4 and "CAP_NET_ADMIN" in result.err

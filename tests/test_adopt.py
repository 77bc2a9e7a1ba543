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

from eni_bootstrap.adopt import rc_local
from eni_bootstrap.adopt.search import adoption
from eni_bootstrap.desired.decide import Record
from eni_bootstrap.host.units import with_start
from eni_bootstrap.lab import wire
from eni_bootstrap.lab.vpc import make_tree
from eni_bootstrap.model.host import Script
from eni_bootstrap.model.kernel import Rule, SeenRule
from eni_bootstrap.plan.diff import plan
from tests.build import (
    BOOT, CONFIG, DHCP, ETH1, MAIN, OURS, PRIMARY, STATIC, decision, interface, net, route, subnet, texts, two_enis,
)
from tests.fakes import FakeKernel
from tests.oracle import assert_every_eni_answers, defaults, difference, ip, kernel, lost, routes, rules, table_of

NOBODY = 0
"""The protocol of a rule that iproute2 6.1 makes; older ones say BOOT."""

GATEWAY = "eth1 172.16.20.253"


def rule(src, table, priority=32765, **more):
    src = net(src)
    return Rule(src.version, priority, src, table=table, **more)


def found(world, *lines, interfaces=(), sound=None):
    """What is found where the agent has run."""
    interfaces = interfaces or (PRIMARY, ETH1)
    todo = plan(decision(world, *interfaces), world, Record(), CONFIG)
    world = FakeKernel(world).apply(todo.changes)
    scripts = [Script("/etc/rc.local", lines)] if lines else []
    made = adoption(decision(world, *interfaces), world, scripts, CONFIG, sound)
    after = FakeKernel(world).apply(made.changes)
    again = plan(decision(after, *interfaces), after, Record(), CONFIG)
    assert again.changes == ()
    return made


# what is taken


@pytest.mark.parametrize("protocol", [NOBODY, BOOT])
@pytest.mark.parametrize("table", [1001, 77, 4000000000])
def test_all_copies_of_a_rule_go_and_then_their_table(table, protocol):
    made = found(two_enis(
        routes=[(route(table, "default", GATEWAY), BOOT)],
        rules=[(rule("172.16.20.20", table, priority), protocol) for priority in (32763, 32764, 32765)]))
    mark = " protocol {}".format(protocol)
    expected = ["ip -4 rule del from 172.16.20.20 lookup {} priority {}".format(table, priority) + mark
                for priority in (32763, 32764, 32765)]
    if table == 1001:  # ours is that very route: it changes hands
        expected.insert(0, "ip -4 route replace default via 172.16.20.253 dev eth1 table 1001 onlink proto 235")
    else:
        expected.append("ip -4 route del default via 172.16.20.253 dev eth1 table {} proto 3".format(table))
    assert texts(made.changes) == expected and made.left == ()


def test_a_priority_typed_by_hand_makes_no_difference():
    """The kernel can't tell it from one that it has chosen itself; also among ours."""
    table = [(route(77, "default", GATEWAY), BOOT)]
    made = found(two_enis(table, [(rule("172.16.20.20", 77, priority), BOOT) for priority in (5, 7200, 7999, 20000)]))
    assert len(made.changes) == 5 and made.left == ()


def test_what_the_page_does_with_more_than_one_address_and_with_the_vswitch():
    eni = interface(1, subnet("172.16.20.0/24", "172.16.20.20", "172.16.20.21", prefixes=["172.16.20.32/28"]))
    sources = ("172.16.20.20", "172.16.20.21", "172.16.20.32/28")
    table = [(route(77, "default", GATEWAY, metric=5), BOOT),
             (route(77, "172.16.20.0/24", "eth1", prefsrc=ip_address("172.16.20.20")), BOOT)]
    made = found(two_enis(table, [(rule(source, 77), NOBODY) for source in sources]), interfaces=(PRIMARY, eni))
    assert len(made.changes) == 5 and made.left == ()


def test_ipv6():
    primary = interface(0, PRIMARY.subnets[0], subnet("2001:db8:0::/64", "2001:db8::5"), primary=True)
    six = interface(1, ETH1.subnets[0], subnet("2001:db8:1::/64", "2001:db8:1::5"))
    gateway = str(six.subnets[1].gateway)
    table = [(route(77, "default", "eth1 " + gateway, metric=1024), BOOT),
             (route(77, gateway + "/128", "eth1", metric=1024), BOOT)]
    made = found(two_enis(table, [(rule("2001:db8:1::5", 77), NOBODY)]), interfaces=(primary, six))
    assert len(made.changes) == 3 and made.left == ()


def test_a_route_that_happens_to_be_a_copy_of_mains_stays_the_users():
    """Ours would go with the one in main."""
    copied = [(route(table, "10.50.0.0/16", "eth1 172.16.20.9"), BOOT) for table in (MAIN, 1001)]
    assert found(two_enis(copied)).changes == ()


def test_a_fence_of_somebody_s_own_stays():
    fence = route(1001, "default", kind="unreachable", metric=4294967295)
    assert found(two_enis([(fence, BOOT)])).changes == ()


def test_another_default_in_our_table_goes_and_the_users_own_routes_stay():
    extra = route(1001, "10.50.0.0/16", "eth1 172.16.20.9")
    made = found(two_enis([(route(1001, "default", GATEWAY, metric=50), BOOT), (extra, BOOT)],
                          [(rule("172.16.20.20", 1001), NOBODY)]))
    assert texts(made.changes) == [
        "ip -4 rule del from 172.16.20.20 lookup 1001 priority 32765 protocol 0",
        "ip -4 route del default via 172.16.20.253 dev eth1 table 1001 metric 50 proto 3"]


# what is left


def left(*arguments, **options):
    made = found(*arguments, **options)
    assert made.changes == () and made.lines == ()
    return made.left


@pytest.mark.parametrize("held, reason", [
    ([route(77, "default", "eth1 172.16.20.99")], "172.16.20.99"),
    ([route(77, "default", "eth0 172.16.10.253")], "eth0"),
    ([route(77, "default", GATEWAY), route(77, "10.5.0.0/16", "eth1 172.16.20.9")], "10.5.0.0/16"),
    ([route(77, "default", GATEWAY, options=(("mtu", 1400),))], "mtu"),
    ([route(77, "default", GATEWAY, "eth0 172.16.10.253")], "nexthop"),
    ([], "nothing is in table 77"),
], ids=["another gateway", "another device", "more", "with an option", "two ways", "empty"])
def test_a_table_that_is_not_just_the_enis_is_left_with_its_rules(held, reason):
    said = left(two_enis([(each, BOOT) for each in held], [(rule("172.16.20.20", 77), NOBODY)] * 1))
    assert len(said) == 1 and said[0].startswith("from 172.16.20.20 lookup 77") and reason in said[0]


@pytest.mark.parametrize("theirs", [
    Rule(4, 300, net("10.5.5.5/32"), table=77), Rule(4, 300, table=77, oif="eth1"),
    Rule(4, 300, net("172.16.20.20/32"), table=77, other=("tos", "0x10")),
    Rule(4, 300, net("172.16.20.0/24"), table=77),
])
@pytest.mark.parametrize("table", [77, 1001])
def test_a_table_that_somebody_else_uses_too_is_left(theirs, table):
    world = two_enis([(route(77, "default", GATEWAY), BOOT)],
                     [(rule("172.16.20.20", 77), NOBODY), (theirs, NOBODY)])
    said = left(world)
    assert len(said) == 1 and str(theirs) in said[0]


@pytest.mark.parametrize("theirs", [
    Rule(4, 32765, net("172.16.20.99/32"), table=77), Rule(4, 32765, net("172.16.10.10/32"), table=77),
    Rule(4, 32765, net("172.16.20.20/32"), action="unreachable"),
    Rule(4, 32765, net("172.16.20.20/32"), table=77, suppress_prefixlength=0),
])
def test_rules_of_another_form_or_of_other_addresses_are_none_of_our_business(theirs):
    assert left(two_enis([(route(77, "default", GATEWAY), BOOT)], [(theirs, NOBODY)])) == ()


def test_what_a_program_made_is_left():
    """NetworkManager and networkd would make it again."""
    table = [(route(77, "default", GATEWAY), BOOT)]
    said = left(two_enis(table, [(rule("172.16.20.20", 77), STATIC)]))
    assert len(said) == 1 and "protocol 4" in said[0]
    assert len(left(two_enis([(table[0][0], DHCP)], [(rule("172.16.20.20", 77), NOBODY)]))) == 1


def test_a_rule_to_main_is_left():
    assert len(left(two_enis(rules=[(rule("172.16.20.20", MAIN), NOBODY)]))) == 1


@pytest.mark.parametrize("protocol", [NOBODY, BOOT])
def test_a_rule_in_the_very_place_of_ours_makes_room_for_it(protocol):
    made = found(two_enis(rules=[(rule("172.16.20.20", 1001, 7200), protocol)]))
    assert texts(made.changes) == [
        "ip -4 rule add from 172.16.20.20 lookup 1001 priority 7200 protocol 235",
        "ip -4 rule del from 172.16.20.20 lookup 1001 priority 7200 protocol {}".format(protocol)]


def test_a_twin_of_ours_that_came_later_is_left():
    """Told no protocol, the kernel takes the first of the two away, which is ours."""
    world = two_enis()
    world = FakeKernel(world).apply(plan(decision(world), world, Record(), CONFIG).changes)
    world = world._replace(rules=world.rules + ((rule("172.16.20.20", 1001, 7200), NOBODY),))
    world = world._replace(rules=tuple(SeenRule(*each) for each in world.rules))
    assert len(left(world)) == 1


@pytest.mark.parametrize("between", [
    Rule(4, 6000, net("172.16.0.0/12"), table=MAIN), Rule(4, 6000, table=MAIN), Rule(4, 6000, action="unreachable"),
    Rule(4, 5000, net("172.16.20.20/32"), table=88),
])
def test_a_rule_that_covers_another_ones_is_left(between):
    """With the typed rule gone somebody else's would catch the packets before ours does."""
    table = [(route(77, "default", GATEWAY), BOOT), (route(78, "default", GATEWAY), BOOT)]
    typed_ones = [(rule("172.16.20.20", 77, 300), BOOT), (rule("172.16.20.20", 78, 301), BOOT)]
    said = left(two_enis(table, typed_ones + [(between, NOBODY)]))
    assert [text for text in said if text.endswith("stands " + str(between))] == list(said[:2])
    harmless = between._replace(priority=299), between._replace(priority=7300), between._replace(oif="tun0", src=None)
    for other in harmless:
        world = two_enis(table, sorted(typed_ones + [(other, NOBODY)], key=lambda each: each[0].priority))
        assert len(found(world).changes) == 4


def test_nothing_is_taken_from_an_eni_that_is_not_well():
    line = "ip rule add from 172.16.20.20 lookup 77"
    said = left(two_enis([(route(77, "default", GATEWAY), BOOT)], [(rule("172.16.20.20", 77), NOBODY)]), line,
                sound={"eth0"})
    assert [text.rpartition(": ")[2] for text in said] == ["the ENI's own way is not proven"] * 2


# main


class TestMain:
    def world(self, *more):
        """eth1 without a default by DHCP."""
        world = two_enis([(route(MAIN, "default", hop, metric=metric), BOOT) for hop, metric in more])
        return world._replace(routes=tuple(
            seen for seen in world.routes if (seen.route.devs(), seen.protocol) != (("eth1",), DHCP)))

    def test_the_default_of_the_page_changes_hands(self):
        made = found(self.world((GATEWAY, 200)))
        assert texts(made.changes) == [
            "ip -4 route replace default via 172.16.20.253 dev eth1 table main metric 200 onlink proto 235"]

    def test_one_of_another_metric_goes_when_ours_is_there(self):
        made = found(self.world((GATEWAY, 777), (GATEWAY, 888)))
        assert [text.split(" dev ")[0] + " " + text.split("metric ")[1] for text in texts(made.changes)] == [
            "ip -4 route add default via 172.16.20.253 200 onlink proto 235",
            "ip -4 route del default via 172.16.20.253 777 proto 3",
            "ip -4 route del default via 172.16.20.253 888 proto 3"]

    def test_beside_a_leased_one_it_goes(self):
        made = found(two_enis([(route(MAIN, "default", GATEWAY, metric=777), BOOT)]))
        assert texts(made.changes) == [
            "ip -4 route del default via 172.16.20.253 dev eth1 table main metric 777 proto 3"]

    @pytest.mark.parametrize("metric", [0, 50, 100])
    def test_one_that_the_host_goes_by_is_left(self, metric):
        assert "no worse than the primary's" in left(self.world((GATEWAY, metric)))[0]

    def test_the_only_one_is_left(self):
        """Ours is never the one that the host goes by."""
        world = self.world((GATEWAY, 2000))
        alone = world._replace(routes=tuple(seen for seen in world.routes if seen.route.devs() != ("eth0",)))
        assert found(alone).changes == () and "main goes by it" in left(alone)[0]

    def test_one_by_another_gateway_is_left(self):
        assert left(self.world(("eth1 172.16.20.9", 200))) == ()


# rc.local

TYPED = [
    "ip -4 route add default via 172.16.20.253 dev eth1 table 77",
    "ip -4 rule add from 172.16.20.20 lookup 77",
    "  sudo /sbin/ip ru a from 172.16.20.20/32 table 1001 pref 100 2>/dev/null || true  # eth1",
    "ip r replace default via 172.16.20.253 dev eth1 table 77 >/dev/null 2>&1 && ip rule a from 172.16.20.20 table 77;",
    "ip route add 172.16.20.0/24 dev eth1 src 172.16.20.20 table 77",
    "ip -4 route add default via 172.16.20.253 dev eth1 metric 200 &\r",
    "ip route add default table 77 dev eth1 via 172.16.20.253 onlink",
]

OTHERS = [
    "ip -4 route add default via 172.16.20.99 dev eth1 table 77", "ip -4 route add default dev eth1 table 77",
    "ip -6 rule add from 172.16.20.20 lookup 77", "ip -4 rule add from 172.16.20.20 to 10.0.0.0/8 lookup 77",
    "ip -4 rule del from 172.16.20.20", "sleep 10; ip rule add from 172.16.20.20 lookup 77",
    "ip rule add from 172.16.20.20 lookup eth1", "ip rule add from $(hostname -I) dev eth1 lookup 77",
    "ip rule add from 172.16.20.20 lookup 77 &&", "ip rule add from 172.16.20.20 lookup 77 \\",
    "ip -4 route add default via 172.16.20.253 dev eth1", "ip -4 route add default via 172.16.20.253 dev eth1 metric 5",
    "route add default gw 172.16.20.253 dev eth1", "ip route add 10.0.0.0/8 via 172.16.20.253 dev eth1",
    "ip rule add from 172.16.20.20 lookup main", "ip rule add from 172.16.20.20 lookup 77 | logger",
    "ip -4 rule add from 172.16.20.20 lookup 99999999999", "ip -4 rule add from 172.16.20.20 lookup -5",
    "ip '' '' default via 172.16.20.253 dev eth1 table 77", "ip -4 route add to ; ip addr add 172.16.20.20 dev eth1",
    "ip rule add from 172.16.20.20 lookup 'x", "ip rule add from 172.16.20.20 table 77 lookup 78",
]

UNRELATED = [
    "", "#!/bin/sh", "# ip rule add from 172.16.20.20 lookup 77", "exit 0", "touch /var/lock/subsys/local",
    "ip route add 10.0.0.0/8 via 172.16.10.9 dev eth0", "ip rule add from 10.9.9.9 lookup 88",
    "ethtool -K eth1 tso off", "ip rule add from 172.16.20.200 lookup 77",
]


@pytest.mark.parametrize("text", TYPED)
def test_a_line_that_does_what_we_do_is_taken(text):
    made = found(two_enis(), "#!/bin/sh", text, "exit 0")
    assert [(line.number, line.text, line.devs) for line in made.lines] == [(2, text, {"eth1"})]
    assert made.left == ()


@pytest.mark.parametrize("text", OTHERS)
def test_a_line_that_does_more_or_something_else_is_left_and_named(text):
    said = left(two_enis(), "#!/bin/sh", text, "exit 0")
    assert len(said) == 1 and said[0].startswith("line 2 of /etc/rc.local (")


@pytest.mark.parametrize("text", UNRELATED)
def test_a_line_about_something_else_is_not_even_named(text):
    assert left(two_enis(), "#!/bin/sh", text) == ()


@pytest.mark.parametrize("around", [
    ["if true; then", "{}", "fi"], ["up() {{", "{}", "}}"], ["for i in 1 2 3; do", "{}", "done"], ["sleep 1 &&", "{}"],
    ["sleep 1 \\", "{}"], ["cat > /tmp/x <<END", "{}", "END"], ["[ -e /sys/class/net/eth1 ] ||", "{}"],
    ["(", "  {}", ") &"], ["case x in", "  x)", "{}", "esac"], ["if true; then {}; fi"],
])
def test_a_line_whose_neighbours_say_when_it_is_done_is_left(around):
    said = left(two_enis(), *(text.format(TYPED[1]) for text in around))
    assert len(said) == 1
    made = found(two_enis(), "if true; then", "  true", "fi", "while false; do true; done", "f() {", "}", TYPED[1])
    assert [line.number for line in made.lines] == [7]


def test_a_line_tells_what_an_emptied_table_is_for():
    """A link that was down for a moment has emptied the table, and the rules are still there."""
    rules = [(rule("172.16.20.20", 77), NOBODY)]
    assert len(found(two_enis(rules=rules), TYPED[0]).changes) == 1
    assert len(left(two_enis(rules=rules))) == 1


def test_lines_stay_until_something_starts_us_at_boot():
    """Else the next boot would have neither them nor us."""
    world, script = two_enis(), ("#!/bin/sh", TYPED[1])
    made = adoption(decision(world), world, [Script("/etc/rc.local", script)], CONFIG, started=False)
    assert made.lines == () and "eni-bootstrap install" in made.left[0]
    script = with_start("\n".join(script), ["/usr/local/sbin/eni-bootstrap"]).split("\n")
    made = adoption(decision(world), world, [Script("/etc/rc.local", tuple(script))], CONFIG, started=False)
    assert len(made.lines) == 1 and made.left == ()


def test_the_line_of_a_table_that_is_left_is_left():
    theirs = (Rule(4, 300, net("10.5.5.5/32"), table=77), NOBODY)
    said = left(two_enis([(route(77, "default", GATEWAY), BOOT)], [theirs]), *TYPED[:2])
    assert len(said) == 3 and all("10.5.5.5" in text for text in said)


TEXT = b"#!/bin/bash\r\n# caf\xe9\n\nip -4 rule add from 172.16.20.20 lookup 77\r\n\texit 0"


def test_the_file_keeps_all_but_the_lines_of_interest(tmp_path):
    """Bytes, mode, and the link by which Red Hat's descendants have it."""
    (tmp_path / "etc" / "rc.d").mkdir(parents=True)
    real = tmp_path / "etc" / "rc.d" / "rc.local"
    real.write_bytes(TEXT)
    real.chmod(0o750)
    (tmp_path / "etc" / "rc.local").symlink_to("rc.d/rc.local")
    scripts, problems = rc_local.read(str(tmp_path))
    assert [script.path for script in scripts] == ["/etc/rc.d/rc.local"] and problems == []
    lines = adoption(decision(two_enis()), two_enis(), scripts, CONFIG).lines
    assert [line.number for line in lines] == [4]
    assert rc_local.comment_out(str(tmp_path), lines) == (list(lines), [])
    assert real.read_bytes() == TEXT.replace(b"ip -4", b"# taken over by eni-bootstrap: ip -4")
    assert stat.S_IMODE(real.stat().st_mode) == 0o750 and (tmp_path / "etc" / "rc.local").is_symlink()
    assert os.listdir(str(real.parent)) == ["rc.local"]
    scripts, _ = rc_local.read(str(tmp_path))
    assert adoption(decision(two_enis()), two_enis(), scripts, CONFIG).lines == ()


def test_a_file_that_was_edited_meanwhile_is_left(tmp_path):
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "rc.local"
    path.write_bytes(TEXT)
    lines = adoption(decision(two_enis()), two_enis(), rc_local.read(str(tmp_path))[0], CONFIG).lines
    path.write_bytes(b"#!/bin/bash\n" + TEXT)
    done, problems = rc_local.comment_out(str(tmp_path), lines)
    assert done == [] and len(problems) == 1 and path.read_bytes() == b"#!/bin/bash\n" + TEXT


# on a kernel


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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
def test_remove_takes_back_what_was_taken_over(vpc, make_agent, host):
    """What it leaves is a host on which nobody ever typed anything."""
    agent, before = make_agent(vpc), kernel(vpc)
    where = host()
    typed(vpc, page(vpc), times=2)
    assert agent("adopt", "--yes", *where).code == 0
    assert agent("remove").code == 0
    assert kernel(vpc) == before


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
def test_a_script_that_can_not_be_written_is_named(vpc, make_agent, host):
    agent = make_agent(vpc)
    commands = page(vpc)
    where = host(*commands)
    typed(vpc, commands)
    (host.script.parent / "rc.local.eni-bootstrap").mkdir()
    result = agent("adopt", "--yes", *where)
    assert result.code == 1 and "/etc/rc.local can't be written (Is a directory)" in result.out, result
    assert difference(kernel(vpc), agent("apply") and kernel(vpc)) == ([], [])


@pytest.mark.kernel
def test_only_yes_takes_privileges(vpc, make_agent, host):
    agent = make_agent(vpc)
    where = host(*page(vpc))
    typed(vpc, page(vpc))
    drop = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
    assert agent.run("adopt", *where, prefix=drop).code == 0
    result = agent.run("adopt", "--yes", *where, prefix=drop)
    assert result.code == 4 and "CAP_NET_ADMIN" in result.err

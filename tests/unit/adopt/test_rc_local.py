"""Lines of rc.local that do what we do."""

import os
import stat

import pytest

from eni_bootstrap.adopt import rc_local
from eni_bootstrap.adopt.search import adoption
from eni_bootstrap.host.units import with_start
from eni_bootstrap.model.host import Script
from eni_bootstrap.model.kernel import Rule
from tests.build import BOOT, CONFIG, decision, net, route, two_enis
from tests.unit.adopt.test_search import GATEWAY, NOBODY, found, left, rule

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

"""Who manages the network, read off a root file system."""

import os
import time

import pytest

from eni_bootstrap.host.network_managers import advice, look

NETLINK = """\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 0   0          00000000 0        0        0     2        0        4
0000000000000000 {}   1          {}        0        0        0     2        0        4
"""
SWITCHES = "[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n"


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


class Host:
    def __init__(self, root):
        self.root = root

    def write(self, path, text=""):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def start(self, unit, later=0.0):
        """As systemd notes it."""
        link = self.root / "run/systemd/units" / ("invocation:" + unit)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("0123456789abcdef")
        moment = time.time() + later
        os.utime(str(link), (moment, moment), follow_symlinks=False)

    def networkd(self, version=252, later=60.0):
        self.write("usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-{}.so".format(version))
        self.start("systemd-networkd.service", later)

    def look(self):
        return look(str(self.root))


def test_nobody(host):
    found = host.look()
    assert found.names == () and not found.deletes_rules and not found.listening and not found.timed
    assert "eni-bootstrap install" in " ".join(each.text for each in advice(found))


@pytest.mark.parametrize("version", [247, 249, 252, "257.13-1~deb13u1", 262])
def test_networkd_deletes_rules_by_default(host, version):
    host.networkd(version)
    found = host.look()
    assert found.names == ("systemd-networkd",) and found.deletes_rules
    assert "marked as the kernel's" in " ".join(each.text for each in advice(found))


@pytest.mark.parametrize("version", [239, 246])
def test_old_networkd_does_not(host, version):
    host.networkd(version)
    assert not host.look().deletes_rules


def test_where_the_version_is_unknown_it_is_taken_for_one_that_deletes(host):
    host.start("systemd-networkd.service")
    assert host.look().deletes_rules


@pytest.mark.parametrize("path", [
    "etc/systemd/networkd.conf", "etc/systemd/networkd.conf.d/50-eni-bootstrap.conf",
    "usr/lib/systemd/networkd.conf.d/50-eni-bootstrap.conf", "run/systemd/networkd.conf.d/a.conf",
])
def test_its_switches_are_found_wherever_it_reads_them(host, path):
    host.write(path, SWITCHES)
    host.networkd()
    found = host.look()
    assert not found.deletes_rules
    assert "leaves our rules and fences alone" in " ".join(each.text for each in advice(found))


def test_switches_that_came_after_its_start_are_not_in_force(host):
    host.write("etc/systemd/networkd.conf.d/50-eni-bootstrap.conf", SWITCHES)
    os.utime(str(host.root / "etc/systemd/networkd.conf.d/50-eni-bootstrap.conf"), (0, 0))  # as a package brings it
    host.networkd(later=-60)
    found = host.look()
    assert found.deletes_rules
    assert "not in force" in found.networkd.why


@pytest.mark.parametrize("other, spares", [
    (("etc/systemd/networkd.conf.d/99-admin.conf", "[Network]\nManageForeignRoutes=yes\n"), False),
    (("etc/systemd/networkd.conf.d/10-admin.conf", "[Network]\nManageForeignRoutes=yes\n"), True),
    (("etc/systemd/networkd.conf.d/50-eni-bootstrap.conf", "# masked by the operator\n"), False),
    (("etc/systemd/networkd.conf.d/99-admin.conf", "[DHCPv4]\nManageForeignRoutes=yes\n"), True),
    (("etc/systemd/networkd.conf.d/99-admin.conf", "[Network]\nManageForeignRoutingPolicyRules = TRUE\n"), False),
], ids=["later file", "earlier file", "same name in a stronger place", "other section", "spaces"])
def test_the_last_word_is_as_networkd_has_it(host, other, spares):
    host.write("usr/lib/systemd/networkd.conf.d/50-eni-bootstrap.conf", SWITCHES)
    host.write(*other)
    host.networkd()
    assert host.look().deletes_rules is not spares


@pytest.mark.parametrize("unit, name", [
    ("NetworkManager.service", "NetworkManager"), ("networking.service", "ifupdown"), ("wickedd.service", "wicked")])
def test_others_delete_no_rules(host, unit, name):
    host.start(unit)
    found = host.look()
    assert found.names == (name,) and not found.deletes_rules


@pytest.mark.parametrize("protocol, groups, listening", [
    (0, "000405d1", True), (0, "ffffffff", False), (15, "000405d1", False), (0, "000405d0", False)])
def test_that_systemd_listens_for_us_is_seen_in_the_kernels_list(host, protocol, groups, listening):
    host.write("proc/net/netlink", NETLINK.format(protocol, groups))
    assert host.look().listening is listening


def test_the_timer_alone_is_named_as_the_last_resort(host):
    host.write("etc/systemd/system/timers.target.wants/eni-bootstrap.timer")
    found = host.look()
    assert found.timed
    assert "the timer notices it" in " ".join(each.text for each in advice(found))

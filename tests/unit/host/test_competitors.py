"""Other programs that set ENIs up, found by their files."""

import pytest

from eni_bootstrap.host.competitors import competing_agents
from tests.unit.host.test_installer import put, write


class TestRivals:
    def test_an_empty_host_has_none(self, root):
        put(root)
        assert competing_agents(str(root)) == []

    def test_nm_cloud_setup(self, root):
        timer = root / "etc/systemd/system/timers.target.wants/nm-cloud-setup.timer"
        timer.parent.mkdir(parents=True)
        timer.symlink_to("/usr/lib/systemd/system/nm-cloud-setup.timer")
        unit = write(root, "usr/lib/systemd/system/nm-cloud-setup.service",
                     "[Service]\n#Environment=NM_CLOUD_SETUP_ALIYUN=yes\n")
        assert competing_agents(str(root)) == []
        write(root, "etc/systemd/system/nm-cloud-setup.service.d/10.conf",
              "[Service]\nEnvironment=NM_CLOUD_SETUP_ALIYUN=yes\n")
        (said,) = competing_agents(str(root))
        assert "/etc/systemd/system/nm-cloud-setup.service.d/10.conf" in said.cause and "systemctl disable" in said.cure
        timer.unlink()
        assert unit.exists() and competing_agents(str(root)) == []

    def test_multi_nic_util(self, root):
        write(root, "etc/systemd/system/eni.service", "[Service]\n")
        (said,) = competing_agents(str(root))
        assert "multi-nic-util" in said.cause and "/etc/systemd/system/eni.service" in said.cause

    @pytest.mark.parametrize("line, found", [
        ("ip -4 route add default via 172.16.20.253 dev eth1 table 1001", True),
        ("ip -4 rule add from 172.16.20.193 lookup 1001", True),
        ("  /sbin/ip -6 rule add from 2001:db8::1 lookup 1001 &", True),
        ("sudo ip route replace default via 172.16.20.253 dev eth1 metric 200", True),
        ("route add default gw 172.16.20.253 dev eth1", True),
        ("# ip -4 rule add from 172.16.20.193 lookup 1001", False),
        ("ip link set eth1 up", False),
        ("echo ip route add", False),
    ])
    def test_lines_of_the_vendor_s_page(self, root, line, found):
        write(root, "etc/rc.d/rc.local", "#!/bin/sh\n" + line + "\n")
        (root / "etc/rc.local").symlink_to("/etc/rc.d/rc.local")
        said = competing_agents(str(root))
        assert len(said) == found
        assert not found or "(line 2)" in said[0].cause

    def test_terway(self, root):
        write(root, "etc/cni/net.d/10-terway.conflist", "{}")
        assert "terway" in competing_agents(str(root))[0].cause

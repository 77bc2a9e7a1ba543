"""Units and hooks: what systemd and the network's managers are given."""

import os
import subprocess

import pytest

from eni_bootstrap.config.settings import Config
from eni_bootstrap.host import install, installer, units
from eni_bootstrap.model.errors import UsageError
from eni_bootstrap.model.kernel import GROUPS
from tests.unit.host.test_installer import COMMAND, tree, write


class TestUnits:
    def test_the_command_comes_through_systemd_unharmed(self):
        service = units.installed(["/opt/a b/100%/$x", "-m"])[0].content
        assert "ExecStart=/opt/a\\x20b/100%%/$$x -m apply --unattended" in service

    def test_one_set_of_numbers(self):
        every = {file.path: file.content for file in units.installed(COMMAND)}
        assert "ListenNetlink=route {}\n".format(GROUPS) in every["/etc/systemd/system/eni-bootstrap.socket"]
        assert '"{}"'.format(Config().group) in every["/etc/udev/rules.d/70-eni-bootstrap.rules"]
        assert every["/etc/iproute2/rt_protos.d/eni-bootstrap.conf"] == "{} eni-bootstrap\n".format(Config().protocol)

    def test_packages_and_install_bring_the_same(self):
        """But for the place, and for what enables the units, which is a package's own script's work."""
        def contents(listed):
            return sorted((os.path.basename(file.path), file.data, file.mode) for file in listed if not file.target)
        assert contents(units.packaged(COMMAND)) == contents(units.installed(COMMAND))

    def test_nothing_waits_for_the_service(self):
        for file in units.installed(COMMAND):
            if file.path.endswith(".service"):
                assert "Before=" not in file.content and "[Install]" not in file.content

    def test_scripts_are_scripts(self, tmp_path):
        for number, file in enumerate(units.installed(COMMAND)):
            if file.mode == 0o755 or "dhcp" in file.path:
                script = write(tmp_path, str(number), file.content)
                assert subprocess.run(["sh", "-n", str(script)]).returncode == 0, file.path

    @pytest.mark.parametrize("place, environment, runs", [
        ("/etc/NetworkManager/dispatcher.d/50-eni-bootstrap eth1 up", {}, True),
        ("/etc/NetworkManager/dispatcher.d/50-eni-bootstrap eth1 dhcp4-change", {}, True),
        ("/etc/NetworkManager/dispatcher.d/50-eni-bootstrap eth1 hostname", {}, False),
        ("/etc/network/if-up.d/eni-bootstrap", {"IFACE": "eth1"}, True),
        ("/etc/network/if-up.d/eni-bootstrap", {"IFACE": "lo"}, False),
        ("/etc/dhcp/dhclient-exit-hooks.d/eni-bootstrap", {"reason": "RENEW"}, True),
        ("/etc/dhcp/dhclient-exit-hooks.d/eni-bootstrap", {"reason": "PREINIT"}, False),
        ("/etc/networkd-dispatcher/routable.d/50-eni-bootstrap", {}, True),
    ])
    @pytest.mark.parametrize("enabled, works", [(True, True), (True, False), (False, True)])
    def test_hooks_start_the_service_and_never_fail(self, tmp_path, place, environment, runs, enabled, works):
        """Nor do they start what somebody has switched off by disabling the timer."""
        path, *arguments = place.split()
        content = next(file.content for file in units.installed(COMMAND) if file.path == path)
        hook = write(tmp_path, "hook", content.replace("/run/systemd/system", str(tmp_path)))
        write(tmp_path, "bin/systemctl",
              '#!/bin/sh\n[ "$*" != "--quiet is-active eni-bootstrap.timer" ] || exit {}\necho "$@" >>{}/said\n'
              'exit {}\n'.format(int(not enabled), tmp_path, int(not works)), 0o755)
        run = subprocess.run(
            ["sh", "-e", "-c", '. "$0"; echo went on', str(hook)] if "dhclient" in path
            else ["sh", "-e", str(hook)] + arguments, stdout=subprocess.PIPE, env=dict(
                os.environ, PATH="{}:{}".format(tmp_path / "bin", os.environ["PATH"]), **environment))
        assert run.returncode == 0
        assert run.stdout == (b"went on\n" if "dhclient" in path else b"")
        said = tmp_path / "said"
        assert (said.read_text() if said.exists() else "") == \
            ("--no-block start eni-bootstrap.service\n" if runs and enabled else "")


ASKED = """\
links:
  - {eni: eth1, mtu: 8500, rp-filter: 2}
  - {eni: "eth*", rp-filter: 0, arp-ignore: 1, arp-announce: 2}
"""


DROP_IN = "etc/systemd/system/eni-bootstrap.service.d/links.conf"


def test_the_unit_may_write_sysctls_only_where_they_are_asked_for(root):
    config = root / "etc/eni-bootstrap.yaml"
    config.write_text("")
    before = tree(root)
    for text, there in (("links: [{eni: eth1, mtu: 8500}]\n", False), (ASKED, True), ("# nothing\n", False)):
        config.write_text(text)
        installer.install(str(root), install.units(str(root), COMMAND))
        assert (root / DROP_IN).exists() == there
        if there:
            assert (root / DROP_IN).read_text() == "[Service]\nProtectKernelTunables=no\n"
    config.write_text(ASKED)
    installer.install(str(root), install.units(str(root), COMMAND))
    installer.uninstall(str(root))
    config.write_text("")
    assert tree(root) == before


def test_a_broken_configuration_is_named_before_anything_is_installed(root):
    (root / "etc/eni-bootstrap.yaml").write_text("links: 5\n")
    with pytest.raises(UsageError, match="yaml:1: links: "):
        install.units(str(root), COMMAND)

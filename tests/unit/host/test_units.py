"""Units and hooks: what systemd and the network's managers are given."""

import os
import subprocess

import pytest

from eni_bootstrap.config.settings import Config
from eni_bootstrap.host import units
from eni_bootstrap.model.kernel import GROUPS
from tests.unit.host.test_installer import COMMAND, write


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

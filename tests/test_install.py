"""``install`` and ``uninstall``: what is put on a root file system, and that all of it is taken back.

The oracle is a listing of the whole tree: path, kind, mode, content.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile

import pytest

import eni_bootstrap
from eni_bootstrap.config.settings import Config
from eni_bootstrap.host import installer, units
from eni_bootstrap.host.competitors import competing_agents
from eni_bootstrap.host.rootfs import inside, place
from eni_bootstrap.host.units import File
from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.model.kernel import GROUPS

COMMAND = ["/usr/bin/python3", "/usr/local/sbin/eni-bootstrap"]
MARK = "# put here by eni-bootstrap install"
LINE = "{ %s apply --unattended 2>&1 | logger -t eni-bootstrap; } & %s\n" % (" ".join(COMMAND), MARK)


def tree(root):
    """Everything below a folder."""
    found = {}
    for folder, folders, names in os.walk(str(root)):
        for name in folders + names:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            content = os.readlink(path) if stat.S_ISLNK(mode) else None
            if stat.S_ISREG(mode):
                with open(path, "rb") as handle:
                    content = handle.read()
            found[os.path.relpath(path, str(root))] = (oct(mode), content)
    return found


@pytest.fixture
def root(tmp_path):
    """A root file system run by systemd, with all the managers' folders."""
    for folder in ("usr/lib/systemd/system", "usr/bin", "etc/NetworkManager/dispatcher.d", "etc/dhcp", "etc/network",
                   "var/lib", "usr/local"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    (tmp_path / "root/usr/lib/systemd/libsystemd-shared-239.so").write_text("")
    (tmp_path / "root/usr/bin/python3").write_text("")
    (tmp_path / "root/lib").symlink_to("usr/lib")
    return tmp_path / "root"


def write(root, path, text, mode=0o644):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    file.chmod(mode)
    return file


def put(root, **options):
    return installer.install(str(root), units.installed(COMMAND), **options)


def verbs(steps):
    return {step.path: step.verb for step in steps}


class TestFiles:
    def test_all_that_is_listed_is_put_there_and_taken_back(self, root):
        before = tree(root)
        steps = put(root)
        after = tree(root)
        for file in units.installed(COMMAND):
            if file.only_beside == "/etc/networkd-dispatcher":  # which is not there
                assert file.path[1:] not in after
                continue
            mode, content = after[file.path[1:]]
            assert content == (file.target or file.data)
            assert file.target or mode == oct(stat.S_IFREG | file.mode)
            assert verbs(steps)[file.path] == "write"
        assert set(before.items()) <= set(after.items())
        removed = installer.uninstall(str(root))
        assert {step.verb for step in removed} == {"remove"}
        assert tree(root) == before

    def test_twice_is_once(self, root):
        put(root)
        before = tree(root)
        assert set(verbs(put(root)).values()) == {"keep"}
        assert tree(root) == before

    def test_dry_run_writes_nothing(self, root):
        before = tree(root)
        assert "write" in verbs(put(root, dry=True)).values()
        assert tree(root) == before
        put(root)
        before = tree(root)
        assert set(verbs(installer.uninstall(str(root), dry=True)).values()) == {"remove"}
        assert tree(root) == before

    def test_a_file_that_somebody_edited_is_left_alone_and_named(self, root):
        put(root)
        unit = write(root, "etc/systemd/system/eni-bootstrap.service", "[Service]\nExecStart=/mine\n")
        for steps in (put(root), installer.uninstall(str(root))):
            step = next(step for step in steps if step.path == "/etc/systemd/system/eni-bootstrap.service")
            assert (step.verb, step.why) == ("leave", "it was edited since it was installed")
        assert unit.read_text() == "[Service]\nExecStart=/mine\n"
        assert [path for path in tree(root) if "eni-bootstrap" in path] == ["etc/systemd/system/eni-bootstrap.service"]

    @pytest.mark.parametrize("theirs", ["235 mine\n", "235 eni-bootstrap\n"], ids=["another", "the same"])
    def test_a_file_that_was_there_before_stays(self, root, theirs):
        write(root, "etc/iproute2/rt_protos.d/eni-bootstrap.conf", theirs)
        before = tree(root)
        step = next(step for step in put(root) if step.path.endswith("rt_protos.d/eni-bootstrap.conf"))
        assert step.verb == ("leave" if theirs == "235 mine\n" else "keep")
        installer.uninstall(str(root))
        assert tree(root) == before

    def test_a_new_version_replaces_and_removes_what_the_old_one_put_there(self, root):
        before = tree(root)
        old = [File("/etc/systemd/system/eni-bootstrap.service", "old\n"), File("/etc/old/thing", "old\n", 0o755)]
        installer.install(str(root), old)
        steps = verbs(put(root))
        assert steps["/etc/systemd/system/eni-bootstrap.service"] == "write"
        assert steps["/etc/old/thing"] == "remove"
        assert "old" not in (root / "etc/systemd/system/eni-bootstrap.service").read_text()
        installer.uninstall(str(root))
        assert tree(root) == before

    def test_folders_that_others_have_used_since_stay(self, root):
        put(root)
        write(root, "etc/iproute2/rt_protos.d/other.conf", "99 other\n")
        installer.uninstall(str(root))
        assert (root / "etc/iproute2/rt_protos.d/other.conf").exists()
        assert not (root / "var/lib/eni-bootstrap").exists()

    @pytest.mark.parametrize("upgrade", [False, True])
    def test_cut_off_anywhere_it_can_be_finished_or_taken_back(self, tmp_path, root, monkeypatch, upgrade):
        """Cut off before each replacement of a file in turn, as by a power cut."""
        if upgrade:
            installer.install(str(root), [file._replace(content="old\n") for file in units.installed(COMMAND)
                                          if not file.target])
            installer.install(str(root), [file for file in units.installed(COMMAND) if file.target])
        whole = tmp_path / "whole"
        shutil.copytree(str(root), str(whole), symlinks=True)
        put(whole)
        wanted, replace = tree(whole), os.replace
        for moment in range(30):
            broken = tmp_path / "broken-{}".format(moment)
            shutil.copytree(str(root), str(broken), symlinks=True)
            left = [moment]

            def cut(source, target):
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                replace(source, target)

            monkeypatch.setattr(os, "replace", cut)
            try:
                put(broken)
                finished = True
            except KeyboardInterrupt:
                finished = False
            monkeypatch.setattr(os, "replace", replace)
            put(broken)
            assert {path: entry for path, entry in tree(broken).items() if "installed.json" not in path} == \
                {path: entry for path, entry in wanted.items() if "installed.json" not in path}
            installer.uninstall(str(broken))
            assert not [path for path in tree(broken) if "eni-bootstrap" in path]
            if finished:
                break
        assert finished and moment > 10

    def test_cut_off_and_given_up(self, root, monkeypatch):
        before, replace, done = tree(root), os.replace, []

        def cut(source, target):
            if len(done) == 5:
                raise KeyboardInterrupt
            done.append(target)
            replace(source, target)

        monkeypatch.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            put(root)
        monkeypatch.undo()
        (left,) = [path for path in tree(root) if path.endswith(".eni-bootstrap")]  # what was being written
        os.unlink(str(root / left))
        installer.uninstall(str(root))
        assert tree(root) == before

    def test_an_unreadable_record_is_no_reason_to_guess(self, root):
        put(root)
        write(root, "var/lib/eni-bootstrap/installed.json", "{")
        before = tree(root)
        for work in (put, lambda where: installer.uninstall(str(where))):
            with pytest.raises(BootstrapError, match="installed.json can't be read"):
                work(root)
        assert tree(root) == before

    def test_what_can_t_be_written_is_an_error_with_a_name(self, root):
        write(root, "etc/systemd/system", "a file where a folder should be")
        with pytest.raises(BootstrapError, match="etc/systemd/system"):
            put(root)

    def test_a_strange_umask_hides_nothing(self, root):
        former = os.umask(0o077)
        try:
            put(root)
        finally:
            os.umask(former)
        modes = {path: mode for path, (mode, _) in tree(root).items()}
        assert modes["etc/iproute2"] == modes["etc/iproute2/rt_protos.d"] == oct(stat.S_IFDIR | 0o755)
        assert modes["etc/iproute2/rt_protos.d/eni-bootstrap.conf"] == oct(stat.S_IFREG | 0o644)


class TestRoot:
    def test_links_are_followed_as_on_that_host(self, root):
        (root / "etc/abs").symlink_to("/usr/lib")
        (root / "etc/up").symlink_to("../../../../usr/bin")
        assert inside(str(root), "/etc/abs/systemd/x") == str(root / "usr/lib/systemd/x")
        assert inside(str(root), "/etc/up/python3") == str(root / "usr/bin/python3")
        assert place(str(root), "/etc/abs") == str(root / "etc/abs")

    def test_a_circle_is_an_error(self, root):
        (root / "a").symlink_to("/b")
        (root / "b").symlink_to("/a")
        with pytest.raises(BootstrapError, match="circle"):
            inside(str(root), "/a/x")

    def test_nothing_is_written_outside(self, root, tmp_path):
        """/etc/systemd/system is an absolute link in the image."""
        (root / "etc/systemd").mkdir()
        (root / "srv").mkdir()
        (root / "etc/systemd/system").symlink_to("/srv")
        put(root)
        assert (root / "srv/eni-bootstrap.service").is_file()
        assert os.listdir(str(tmp_path)) == ["root"]


RC_LOCALS = {
    "none": (None, "#!/bin/sh\n" + LINE),
    "empty": ("", "#!/bin/sh\n" + LINE),
    "no interpreter": ("touch /run/x\n", "#!/bin/sh\ntouch /run/x\n" + LINE),
    "Debian's": ("#!/bin/sh -e\n# rc.local\n\nexit 0\n", "#!/bin/sh -e\n# rc.local\n\n" + LINE + "exit 0\n"),
    "blank lines at its end": ("#!/bin/bash\nexit 0\n\n\n", "#!/bin/bash\n" + LINE + "exit 0\n\n\n"),
    "no end of line": ("#!/bin/sh\ntrue", "#!/bin/sh\ntrue\n" + LINE),
    "an early exit": ("#!/bin/sh\nif false; then\nexit 0\nfi\n", "#!/bin/sh\nif false; then\nexit 0\nfi\n" + LINE),
    "strange bytes": ("#!/bin/sh\n: \udcff \x0c\r\nexit\n", "#!/bin/sh\n: \udcff \x0c\r\n" + LINE + "exit\n"),
}


class TestRcLocal:
    """Hosts without systemd."""

    @pytest.mark.parametrize("name", sorted(RC_LOCALS))
    @pytest.mark.parametrize("mode", [0o644, 0o750])
    def test_one_line_and_nothing_else(self, root, name, mode):
        text, wanted = RC_LOCALS[name]
        if text is not None:
            write(root, "etc/rc.local", text, mode)
        before = tree(root)
        installer.install(str(root), [], rc_local=COMMAND)
        assert tree(root)["etc/rc.local"] == (
            oct(stat.S_IFREG | (0o755 if text is None else mode | 0o111)), wanted.encode("utf-8", "surrogateescape"))
        steps = installer.install(str(root), [], rc_local=COMMAND)
        assert verbs(steps)["/etc/rc.local"] == "keep"
        installer.uninstall(str(root))
        assert tree(root) == before

    def test_red_hat_s_place(self, root):
        write(root, "etc/rc.d/rc.local", "#!/bin/bash\n")
        (root / "etc/rc.local").symlink_to("rc.d/rc.local")
        before = tree(root)
        installer.install(str(root), [], rc_local=COMMAND)
        assert (root / "etc/rc.d/rc.local").read_text() == "#!/bin/bash\n" + LINE
        assert (root / "etc/rc.local").is_symlink()
        installer.uninstall(str(root))
        assert tree(root) == before

    def test_what_was_edited_since_keeps_the_edit(self, root):
        write(root, "etc/rc.local", "#!/bin/sh\nexit 0\n")
        installer.install(str(root), [], rc_local=COMMAND)
        write(root, "etc/rc.local", "#!/bin/sh\nmine\n" + LINE + "exit 0\n", 0o755)
        installer.uninstall(str(root))
        assert (root / "etc/rc.local").read_text() == "#!/bin/sh\nmine\nexit 0\n"

    def test_another_command_replaces_the_line(self, root):
        write(root, "etc/rc.local", "#!/bin/sh\nexit 0\n")
        before = tree(root)
        installer.install(str(root), [], rc_local=["/opt/old place/eni-bootstrap"])
        assert "'/opt/old place/eni-bootstrap' apply" in (root / "etc/rc.local").read_text()
        installer.install(str(root), [], rc_local=COMMAND)
        assert (root / "etc/rc.local").read_text() == "#!/bin/sh\n" + LINE + "exit 0\n"
        installer.uninstall(str(root))
        assert tree(root) == before

    def test_the_script_runs_the_agent_and_does_not_wait_for_it(self, root, tmp_path):
        slow = write(tmp_path, "slow", "#!/bin/sh\nsleep 30\n", 0o755)
        said = tmp_path / "said"
        write(tmp_path, "bin/logger", "#!/bin/sh\ncat >/dev/null\n", 0o755)
        write(root, "etc/rc.local", "#!/bin/sh -e\necho before\nexit 0\n")
        installer.install(str(root), [], rc_local=[str(slow)])
        with open(str(said), "w") as output:
            script = subprocess.Popen(["setsid", str(root / "etc/rc.local")], stdout=output,
                                      env=dict(os.environ, PATH="{}:{}".format(tmp_path / "bin", os.environ["PATH"])))
            try:
                assert script.wait(timeout=10) == 0
            finally:
                os.killpg(script.pid, 9)  # setsid makes it the leader
        assert said.read_text() == "before\n"


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


@pytest.mark.packaging
class TestCommand:
    """The single file, in a process of its own."""

    @pytest.fixture
    def program(self, tmp_path):
        path = tmp_path / "eni-bootstrap.pyz"
        with zipfile.ZipFile(str(path), "w") as archive:
            package = os.path.dirname(eni_bootstrap.__file__)
            for folder, _, names in os.walk(package):
                for name in names:
                    if name.endswith(".py"):
                        inner = os.path.join("eni_bootstrap", os.path.relpath(os.path.join(folder, name), package))
                        archive.write(os.path.join(folder, name), inner)
            archive.writestr("__main__.py", "from eni_bootstrap.__main__ import run\nrun()\n")
        return path

    def run(self, *arguments):
        done = subprocess.run([sys.executable] + list(map(str, arguments)), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60, cwd="/")
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def test_it_puts_itself_there_too(self, program, root):
        before = tree(root)
        code, _, err = self.run(program, "install", "--root", root)
        assert code == 0 and err.count("\n") == 1 and "/usr/bin/python3 can't be run" in err  # it is empty here
        assert (root / "usr/local/sbin/eni-bootstrap").read_bytes() == program.read_bytes()
        assert os.access(str(root / "usr/local/sbin/eni-bootstrap"), os.X_OK)
        assert "ExecStart=/usr/bin/python3 /usr/local/sbin/eni-bootstrap apply" in \
            (root / "etc/systemd/system/eni-bootstrap.service").read_text()
        assert self.run(program, "install", "--root", root)[:2] == (0, "nothing to change\n")
        # Run from its own place, as at the end of a first boot, it knows itself again.
        assert self.run(root / "usr/local/sbin/eni-bootstrap", "install", "--root", root)[0] == 0
        assert self.run(program, "uninstall", "--root", root)[0] == 0
        assert tree(root) == before

    def test_a_system_with_its_python_elsewhere(self, program, root):
        (root / "usr/bin/python3").unlink()
        write(root, "usr/libexec/platform-python", "")
        assert self.run(program, "install", "--root", root)[0] == 0
        assert "ExecStart=/usr/libexec/platform-python /usr/local/sbin/eni-bootstrap apply" in \
            (root / "etc/systemd/system/eni-bootstrap.service").read_text()

    def test_dry_run_shows_every_file_whole(self, program, root):
        before = tree(root)
        code, out, _ = self.run(program, "install", "--root", root, "--dry-run")
        assert code == 0 and tree(root) == before
        for file in units.installed(COMMAND):
            if file.only_beside != "/etc/networkd-dispatcher":
                assert file.path in out and (file.content or file.target) in out

    @pytest.mark.parametrize("shared", ["", "libsystemd-shared-234.so"])
    def test_without_systemd_or_with_one_too_old(self, program, root, shared):
        os.unlink(str(root / "usr/lib/systemd/libsystemd-shared-239.so"))
        if shared:
            write(root, "usr/lib/systemd/" + shared, "")
        before = tree(root)
        assert self.run(program, "install", "--root", root)[0] == 0
        assert (root / "etc/rc.local").read_text() == "#!/bin/sh\n" + LINE
        assert self.run(program, "uninstall", "--root", root)[0] == 0
        assert tree(root) == before

    def test_who_reads_a_part_only_gets_all_of_it_done(self, program, root):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run([sys.executable, str(program), "install", "--root", str(root)], stdout=writing,
                              stderr=subprocess.PIPE)
        os.close(writing)
        assert done.returncode == 1 and b"unexpected" not in done.stderr
        assert self.run(program, "install", "--root", root)[1] == "nothing to change\n"

    def test_rivals_are_named(self, program, root):
        write(root, "etc/systemd/system/eni.service", "[Service]\n")
        code, out, _ = self.run(program, "install", "--root", root)
        assert code == 0 and "remark: multi-nic-util is installed" in out

    def test_what_is_left_alone_is_named_and_counts(self, program, root):
        write(root, "etc/systemd/system/eni-bootstrap.service", "mine\n")
        code, out, _ = self.run(program, "install", "--root", root)
        assert code == 1
        assert "left alone /etc/systemd/system/eni-bootstrap.service: it was there before, and is not ours" in out

    @pytest.mark.parametrize("change, words", [
        (lambda root: shutil.rmtree(str(root)), "there is no such directory"),
        (lambda root: (root / "usr/bin/python3").unlink(), "install Python first"),
        (lambda root: write(root, "usr/lib/systemd/system/eni-bootstrap.service", ""), "a package has put"),
    ], ids=["no root", "no Python", "packaged"])
    def test_where_it_can_t_be_done(self, program, root, change, words):
        change(root)
        code, out, err = self.run(program, "install", "--root", root)
        assert code in (1, 2) and words in err and out == ""

    def test_what_pip_installed_elsewhere_can_t_be_put_into_an_image(self, root):
        code, _, err = self.run("-m", "eni_bootstrap", "install", "--root", root)
        assert code == 2 and "is not below {}".format(root) in err

    def test_the_record_is_plain(self, program, root):
        self.run(program, "install", "--root", root)
        record = json.loads((root / "var/lib/eni-bootstrap/installed.json").read_text())
        assert set(record) == {"files", "folders", "rc_local"}

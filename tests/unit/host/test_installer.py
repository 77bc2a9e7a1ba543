"""``install`` and ``uninstall``: what is put on a root file system, and that all of it is taken back.

The oracle is a listing of the whole tree: path, kind, mode, content.
"""

import os
import shutil
import stat
import subprocess

import pytest

from eni_bootstrap.host import installer, units
from eni_bootstrap.host.units import File
from eni_bootstrap.model.errors import BootstrapError

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

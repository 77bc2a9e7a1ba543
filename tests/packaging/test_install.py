"""``install`` and ``uninstall`` as commands, from the single file that was built."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

import eni_bootstrap
from eni_bootstrap.host import units
from tests.unit.host.test_installer import COMMAND, LINE, tree, write


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

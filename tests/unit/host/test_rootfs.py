"""Paths within a root file system that is not this one."""

import os

import pytest

from eni_bootstrap.host.rootfs import inside, place
from eni_bootstrap.model.errors import BootstrapError
from tests.unit.host.test_installer import put


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

"""Root file systems: a Debian from the machine's own mirror, built once, and for each machine a layer above it."""

import glob
import os
import shutil
import subprocess
import time
import uuid
from typing import Dict, List, Sequence

VERSION = "2"
"""Of what follows here: another one is built anew."""

SUITES: Dict[str, List[str]] = {
    "bullseye": ["ifupdown", "isc-dhcp-client", "network-manager", "cloud-init"],
    "bookworm": ["ifupdown", "isc-dhcp-client", "network-manager", "netplan.io", "cloud-init"],
    "trixie": ["cloud-init", "isc-dhcp-client"],
    "sid": [],
}
"""What manages the network there, beside systemd-networkd."""

_COMMON = ["systemd-sysv", "udev", "dbus", "iproute2", "iputils-ping", "procps", "kmod", "python3",
           "linux-image-cloud-amd64", "initramfs-tools"]

_MIRROR = "http://deb.debian.org/debian"

# A small initrd, with what the virtual machine's disk takes, and no more.
_SETUP = """\
set -e
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/etc/initramfs-tools/hooks"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/lab"
cat >"$1/etc/initramfs-tools/hooks/lab" <<'END'
#!/bin/sh
[ "$1" != prereqs ] || exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk ext4
END
chmod +x "$1/etc/initramfs-tools/hooks/lab"
"""

# Who manages the network is chosen for each machine; and nobody fetches packages while we measure.
_CUSTOMIZE = """\
set -e
for unit in networking NetworkManager NetworkManager-wait-online NetworkManager-dispatcher systemd-networkd \\
        systemd-networkd-wait-online; do
    chroot "$1" systemctl disable "$unit" 2>/dev/null || :
done
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \\
        fstrim.timer; do
    chroot "$1" systemctl mask "$unit" 2>/dev/null
done
if [ -d "$1/etc/cloud" ]; then touch "$1/etc/cloud/cloud-init.disabled"; fi
rm -f "$1/etc/resolv.conf" "$1/etc/machine-id"
printf 'auto lo\\niface lo inet loopback\\n' >"$1/etc/network/interfaces" 2>/dev/null || :
echo lab >"$1/etc/hostname"
"""


class Image:
    """A Debian suite as a directory tree, from the cache if it is there."""

    def __init__(self, suite: str, cache: str) -> None:
        self.suite = suite
        self.tree = os.path.join(cache, "{}-{}".format(suite, VERSION))
        self.seconds = 0.0
        """What building it took; 0: it was there."""

    def build(self) -> None:
        if os.path.isdir(self.tree):
            return
        os.makedirs(os.path.dirname(self.tree), exist_ok=True)
        started = time.monotonic()
        temporary = self.tree + ".new"
        shutil.rmtree(temporary, ignore_errors=True)
        command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet",
                   "--include=" + ",".join(_COMMON + SUITES[self.suite]), "--dpkgopt=force-unsafe-io"]
        command += ["--dpkgopt=path-exclude=/usr/share/{}/*".format(left) for left in ("doc", "man", "locale")]
        command += ["--aptopt=Acquire::Languages \"none\"", "--aptopt=Acquire::Check-Valid-Until \"false\"",
                    "--setup-hook=" + _SETUP, "--customize-hook=" + _CUSTOMIZE, self.suite, temporary, _MIRROR]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=900)
        if done.returncode:
            shutil.rmtree(temporary, ignore_errors=True)
            raise RuntimeError("mmdebstrap {}: {}".format(self.suite, done.stdout.decode(errors="replace")[-2000:]))
        os.rename(temporary, self.tree)
        self.seconds = time.monotonic() - started


class Root:
    """A machine's own root file system: a writable layer above an image; ``close()`` throws it away."""

    def __init__(self, image: Image, folder: str) -> None:
        self.suite = image.suite
        self.folder = folder
        self.path = os.path.join(folder, "root")
        parts = [os.path.join(folder, part) for part in ("upper", "work")]
        for part in parts + [self.path]:
            os.makedirs(part)
        options = "lowerdir={},upperdir={},workdir={}".format(image.tree, *parts)
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, self.path], check=True)
        self._mounted = True
        self.write("/etc/machine-id", uuid.uuid4().hex + "\n")

    def close(self) -> None:
        if self._mounted:
            subprocess.run(["umount", "--lazy", self.path], check=False)
            self._mounted = False
        shutil.rmtree(self.folder, ignore_errors=True)

    def inside(self, path: str) -> str:
        return os.path.join(self.path, path.lstrip("/"))

    def write(self, path: str, content: str, mode: int = 0o644) -> None:
        here = self.inside(path)
        os.makedirs(os.path.dirname(here), exist_ok=True)
        with open(here, "w") as file:
            file.write(content)
        os.chmod(here, mode)

    def call(self, *command: str) -> str:
        """A program of the root file system itself."""
        done = subprocess.run(["chroot", self.path] + list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=120, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        if done.returncode:
            raise RuntimeError("{}: {}".format(" ".join(command), done.stdout.decode(errors="replace")))
        return done.stdout.decode(errors="replace")

    def enable(self, units: Sequence[str]) -> None:
        self.call("systemctl", "enable", *units)

    def kernel(self) -> str:
        return self._boot_file("vmlinuz")

    def initrd(self) -> str:
        return self._boot_file("initrd.img")

    def disk(self, path: str, size: str = "1500M") -> str:
        """All of it as a disk image."""
        subprocess.run(["mkfs.ext4", "-q", "-d", self.path, "-L", "root", path, size], check=True, timeout=120,
                       stdout=subprocess.DEVNULL)
        return path

    def _boot_file(self, name: str) -> str:
        return sorted(glob.glob(self.inside("/boot/" + name + "-*")))[-1]

"""The network managers of this host, and whether they spare our rules and routes. Reads files only, as any user may.

What each of them does to other people's rules and routes was measured (systemd-networkd 247 to 262, NetworkManager 1.30
to 1.58, ifupdown 0.8): networkd from 249 on, and some builds of 247 and 248, deletes all rules and routes that belong
to no device, unless they carry protocol ``kernel``, whenever it configures any link; no other manager does. A link's
own routes go with its last address or when it goes down, in every table and under every manager: the kernel does that.
"""

import glob
import os
import re
from typing import Dict, List, NamedTuple, Optional, Tuple

from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import GROUPS

_SWITCHES = ("ManageForeignRoutingPolicyRules", "ManageForeignRoutes")
_SETTINGS = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd")
"""Directories of networkd.conf and networkd.conf.d, the strongest first (systemd.directives(7), networkd.conf(5))."""
_FALSE = ("no", "n", "false", "f", "off", "0")
_FIRST_THAT_DELETES = 247


class Networkd(NamedTuple):
    """systemd-networkd as it is running."""

    version: int
    """The version of systemd; 0: unknown."""
    spares: bool
    """Whether it leaves other people's rules and device-less routes alone."""
    why: str


class Managers(NamedTuple):
    """The network managers that run on this host, and what starts us."""

    names: Tuple[str, ...]
    networkd: Optional[Networkd]
    listening: bool
    """Whether systemd listens to the kernel for us (eni-bootstrap.socket)."""
    timed: bool
    """Whether the timer is enabled."""

    @property
    def deletes_rules(self) -> bool:
        return self.networkd is not None and not self.networkd.spares


_UNITS = {
    "systemd-networkd": "systemd-networkd.service",
    "NetworkManager": "NetworkManager.service",
    "ifupdown": "networking.service",
    "wicked": "wickedd.service",
    "initscripts": "network.service",
    "dhcpcd": "dhcpcd.service",
}


def look(root: str = "/") -> Managers:
    """The network managers that run now."""
    running = [name for name, unit in sorted(_UNITS.items()) if _started(root, unit) is not None]
    started = _started(root, _UNITS["systemd-networkd"])
    networkd = None if started is None else _networkd(root, started)
    return Managers(tuple(running), networkd, _listening(root), timed(root))


def timed(root: str = "/") -> bool:
    """Whether systemd starts the agent at boot and by its timer."""
    wants = "{}/*/timers.target.wants/eni-bootstrap.timer"
    return any(glob.glob(wants.format(os.path.join(root, place.lstrip("/")))) for place in _SETTINGS)


def advice(managers: Managers) -> List[Finding]:
    """Remarks on what protects our routes and rules here, and what does not."""
    said = []
    if managers.names:
        said.append(Finding.remark("network-manager", "the network is managed by " + ", ".join(managers.names)))
    networkd = managers.networkd
    if networkd is not None:
        version = "systemd-networkd {}".format(networkd.version or "(of unknown version)")
        if networkd.spares:
            said.append(Finding.remark("networkd", "{} leaves our rules and fences alone: {}".format(
                version, networkd.why)))
        else:
            said.append(Finding.remark("networkd", "{} deletes other people's rules ({}): ours are marked as the "
                                       "kernel's, which it leaves alone".format(version, networkd.why)))
    loss = "a link that goes down or loses its address loses its routes: "
    if managers.listening:
        said.append(Finding.remark("runs-at-changes", loss + "its traffic is refused until systemd has started the "
                                   "agent again, at the kernel's word (eni-bootstrap.socket)"))
    elif managers.timed:
        said.append(Finding.remark("runs-by-timer", loss + "nobody listens for that (eni-bootstrap.socket is not "
                                   "active), and the timer notices it within 5 minutes"))
    else:
        said.append(Finding.remark("runs-by-hand", loss + "nothing runs the agent again by itself, nor after a "
                                   "reboot", "run eni-bootstrap install"))
    return said


def _networkd(root: str, started: float) -> Networkd:
    version = systemd_version(root)
    if 0 < version < _FIRST_THAT_DELETES:
        return Networkd(version, True, "this version knows nothing of foreign rules")
    values = {name: _setting(root, name) for name in _SWITCHES}
    for name, (value, path, changed) in values.items():
        if value not in _FALSE:
            return Networkd(version, False, "{} is not set to no".format(name))
        if changed > started:
            return Networkd(version, False, "{} was changed after its start and is not in force before its next "
                                            "one".format(path))
    if version and version < 249:
        return Networkd(version, False, "whether this version heeds {} is not certain".format(_SWITCHES[0]))
    return Networkd(version, True, "{} and {} are off".format(*_SWITCHES))


def _started(root: str, unit: str) -> Optional[float]:
    """The time (seconds) when an active unit was started; None where it is not active. systemd makes this link at each
    start and removes it at the end."""
    try:
        return os.lstat(os.path.join(root, "run/systemd/units", "invocation:" + unit)).st_mtime
    except OSError:
        return None


def systemd_version(root: str) -> int:
    """The version of systemd, from the name of the library that its programs share since 231; 0: older, or none."""
    versions = [int(found.group(1)) for place in ("usr/lib", "usr/lib64", "usr/lib/*", "lib")
                for path in glob.glob(os.path.join(root, place, "systemd/libsystemd-shared-*.so"))
                for found in [re.search(r"-(\d+)[^/]*\.so$", path)] if found]
    return max(versions, default=0)


def _setting(root: str, name: str) -> Tuple[str, str, float]:
    """The value of a switch in networkd's files, the file's path, and the time (seconds) of that file's last change.

    It is the time of the inode's change, not of the content's: a package or an image brings a file with an old date.
    """
    found = ("", "", 0.0)
    for path in _files(root):
        try:
            changed = os.stat(path).st_ctime
            with open(path, errors="replace") as lines:
                section = ""
                for line in map(str.strip, lines):
                    if line.startswith("["):
                        section = line
                    key, _, value = line.partition("=")
                    if section == "[Network]" and key.strip() == name:
                        found = (value.strip().lower(), path, changed)
        except OSError:
            continue
    return found


def _files(root: str) -> List[str]:
    """networkd's files, the weakest first; of files with one name only the one in the strongest directory."""
    whole: List[str] = []
    parts: Dict[str, str] = {}
    for place in _SETTINGS:
        base = os.path.join(root, place.lstrip("/"), "networkd.conf")
        if os.path.exists(base) and not whole:
            whole.append(base)
        for path in glob.glob(base + ".d/*.conf"):
            parts.setdefault(os.path.basename(path), path)
    return whole + [parts[name] for name in sorted(parts)]


def _listening(root: str) -> bool:
    """Whether a netlink socket listens to exactly our groups: the kernel lists all of them (protocol 0: routing)."""
    try:
        with open(os.path.join(root, "proc/net/netlink")) as lines:
            sockets = [line.split() for line in lines]
    except OSError:
        return False
    return any(columns[1] == "0" and int(columns[3], 16) == GROUPS for columns in sockets[1:])

"""``install`` and ``uninstall``: they have the agent run at each boot and at each change, on this host or in an image.
"""

import argparse
import logging
import os
import subprocess
import sys
from typing import Callable, List, NamedTuple, Sequence

import eni_bootstrap
from eni_bootstrap.config import loader
from eni_bootstrap.host import installer, units as unit_files, zipapp
from eni_bootstrap.host.competitors import competing_agents
from eni_bootstrap.host.installer import Step
from eni_bootstrap.host.network_managers import systemd_version
from eni_bootstrap.host.rootfs import inside, outside
from eni_bootstrap.host.units import File
from eni_bootstrap.model import output
from eni_bootstrap.model.errors import BootstrapError, UsageError

LOG = logging.getLogger(__name__)

PROGRAM = "/usr/local/sbin/eni-bootstrap"
"""The place of the single file: the operator's own programs for root (hier(7))."""

_PYTHONS = ("/usr/bin/python3", "/usr/libexec/platform-python")
"""The second is the system's own on Red Hat Enterprise Linux 8 and its descendants, which may lack the first."""

_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""Directories that the unit's sandbox hides (systemd.exec(5), ProtectHome= and PrivateTmp=)."""

_OLDEST_SYSTEMD = 239
"""The oldest systemd that gets units: that of Red Hat Enterprise Linux 8 and Alibaba Cloud Linux 3. Below 235 there are
no sandboxed users, and what a oneshot writes to /run is deleted after each run: such a host gets the line in rc.local,
as one without systemd."""

_PATIENCE = 30
"""Seconds for systemctl, which only queues our requests; a systemd that is busier than that has other troubles."""


class Start(NamedTuple):
    """The command by which the host starts the agent."""

    command: List[str]
    files: List[File]
    """The files that this command needs."""


def install(parsed: argparse.Namespace, clear_removed_flag: Callable[[], None]) -> int:
    """Have the agent run at each boot and at each change of an ENI. Returns the exit code.

    ``clear_removed_flag``: from the record. Raises ``BootstrapError``.
    """
    root = _root(parsed)
    if os.path.exists(inside(root, unit_files.packaged([])[0].path)):
        raise BootstrapError("a package has put the agent's units there; it takes care of them")
    start = _start(root)
    fresh = not installer.load(root).files
    if systemd_version(root) >= _OLDEST_SYSTEMD:
        steps = installer.install(root, start.files + units(root, start.command), dry=parsed.dry_run)
    else:
        steps = installer.install(root, start.files, rc_local=start.command, dry=parsed.dry_run)
    live = not parsed.dry_run and _runs_systemd(root)
    if live and fresh:
        clear_removed_flag()  # whoever installs it wants it, whatever was removed before
    started = not live or _begin(steps)
    said = _text(steps, parsed.dry_run) + ["remark: " + rival.text for rival in competing_agents(root)]
    left = [step for step in steps if step.verb == "leave"]
    return 0 if _write(said) and started and not left else 1


def units(root: str, command: Sequence[str]) -> List[File]:
    """All files of a host with systemd; with the drop-in for sysctls where its configuration asks for any."""
    path = inside(root, loader.PATH)
    links = loader.load(path).links if os.path.exists(path) else ()
    sysctls = any(name != "mtu" for wish in links for name, _ in wish.settings)
    return unit_files.installed(command) + ([unit_files.sysctls()] if sysctls else [])


def uninstall(parsed: argparse.Namespace, clear_removed_flag: Callable[[], None]) -> int:
    """Remove the files that ``install`` has put there. Returns the exit code."""
    root = _root(parsed)
    live = not parsed.dry_run and _runs_systemd(root)
    here = live and installer.load(root).files
    if here:
        _end()
        clear_removed_flag()  # nothing is left that would have to heed a removal
    steps = installer.uninstall(root, dry=parsed.dry_run)
    if here:
        _call("systemctl", "reset-failed", unit_files.SERVICE, quiet=True)
        _call("systemctl", "daemon-reload")
        if os.path.exists(unit_files.packaged([])[0].path):
            # A package's own units come into force; their enablement was the same link as ours.
            _call("systemctl", "enable", "--now", unit_files.TIMER)
    left = [step for step in steps if step.verb == "leave"]
    return 0 if _write(_text(steps, parsed.dry_run)) and not left else 1


def _root(parsed: argparse.Namespace) -> str:
    root: str = parsed.root
    if not os.path.isdir(root):
        raise UsageError("--root {}: there is no such directory".format(root))
    return os.path.abspath(root)


def _start(root: str) -> Start:
    """The start command: the single file is copied to the host's programs; what pip has installed runs where it is.

    Raises ``UsageError`` where the host, or the sandbox, would not find it.
    """
    if zipapp.path():
        python = _python(root)
        with open(zipapp.path(), "rb") as handle:
            program = _with_byte_code(handle.read(), python, root)
        # Not by its first line, which finds what is first on the path: a Python of the operator's own, maybe.
        return Start([python, PROGRAM], [File(PROGRAM, program, 0o755)])
    script = os.path.realpath(sys.argv[0])
    command = [script] if os.access(script, os.X_OK) else [sys.executable, "-m", "eni_bootstrap"]
    for path in (command[0], os.path.realpath(sys.executable), sys.prefix, os.path.dirname(eni_bootstrap.__file__)):
        if not (path + "/").startswith(os.path.join(root, "")):
            raise UsageError("{} is not below {}: install the agent inside (chroot), or use the single file".format(
                path, root))
        if outside(root, path).startswith(tuple(folder + "/" for folder in _HIDDEN)):
            raise UsageError("the agent can't be run from {}, which services are not shown: install it in /opt, for "
                             "instance, or use the single file".format(path))
    if not _runs(command):
        raise UsageError("{} does not run where services do, outside of this folder; install the agent with pip, or "
                         "use the single file".format(" ".join(command)))
    return Start([outside(root, command[0])] + command[1:], [])


def _runs(command: Sequence[str]) -> bool:
    """Whether the command runs in a service's surroundings: a unit that can't start is started again at every change.
    """
    try:
        return subprocess.run(list(command) + ["--version"], cwd="/", env={"PATH": os.defpath}, timeout=_PATIENCE,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _python(root: str) -> str:
    """The path of the host's own Python. Raises ``UsageError`` where there is none."""
    for path in _PYTHONS:
        if os.path.exists(inside(root, path)):
            return path
    raise UsageError("neither {} nor {} is there: install Python first".format(*_PYTHONS))


def _with_byte_code(program: bytes, python: str, root: str) -> bytes:
    """The single file with byte code for the host's Python, so that it starts fast."""
    try:
        return zipapp.with_byte_code(program, python, root)
    except BootstrapError as error:
        LOG.warning("%s; so each run compiles the program anew, which takes four times as long and does no other harm",
                    error)
        return program


def _runs_systemd(root: str) -> bool:
    """Whether the root is this very host's, and systemd runs it (sd_booted(3))."""
    return root == "/" and os.path.isdir("/run/systemd/system")


def _begin(steps: Sequence[Step]) -> bool:
    """Start the timer now, not only at the next boot; changed units are stopped first. Returns whether that went well.

    udev finds its new rules by itself (udev(7)).
    """
    if any(step.verb in ("write", "remove") for step in steps):
        _end()
    return _call("systemctl", "daemon-reload") and _call("systemctl", "start", unit_files.TIMER)


def _end() -> None:
    """Stop all units. A service that is stopped at work has failed, and so starts the retry timer: that comes last."""
    _call("systemctl", "stop", unit_files.TIMER, unit_files.SETTLE, unit_files.SOCKET, unit_files.SERVICE, quiet=True)
    _call("systemctl", "stop", unit_files.RETRY, quiet=True)


def _call(*command: str, quiet: bool = False) -> bool:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=_PATIENCE)
        problem = done.stdout.decode(errors="replace").strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        done, problem = None, str(error)
    if done is not None and done.returncode == 0:
        return True
    if not quiet:
        LOG.error("%s: %s", " ".join(command), problem)
    return False


_DONE = {"write": "wrote", "remove": "removed", "leave": "left alone"}


def _write(lines: Sequence[str]) -> bool:
    return output.write("".join(line + "\n" for line in lines))


def _text(steps: Sequence[Step], dry: bool) -> List[str]:
    """Lines for the operator: what was done; with ``dry`` the whole content of each file that would be written."""
    if dry:
        return [line for step in steps for line in _file_text(step)]
    said = ["{} {}{}".format(_DONE[step.verb], step.path, ": " + step.why if step.why else "")
            for step in steps if step.verb in _DONE]
    changed = any(step.verb in ("write", "remove") for step in steps)
    return said + ([] if changed else ["nothing to change"])


def _file_text(step: Step) -> List[str]:
    file = step.file
    said = ["# {} {}{}{}".format(
        step.verb, step.path, " (mode {:04o})".format(file.mode) if file and not file.target else "",
        ": " + step.why if step.why else "")]
    if file is None:
        return said
    if file.target:
        return said + ["link to " + file.target]
    if isinstance(file.content, bytes):
        return said + ["{} bytes, this program itself".format(len(file.content))]
    return said + [file.content]

"""One machine of a certain suite, kind and manager, and what the cases ask of it."""

import functools
import http.server
import json
import os
import shutil
import tempfile
import threading
import time
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from tests.boot.delivery import PROGRAM, REPOSITORY, Built, deliver, put
from tests.boot.image import Image, Root
from tests.boot.machine import KINDS, Machine, VirtualMachine
from tests.boot.managers import MANAGERS
from tests.boot.watch import Watch

LIMIT = 5.0
"""Seconds within which each ENI has to answer again. Counted from the end of what was done."""
NATIVE_RUN = 0.4
"""Seconds that a run of the agent as a service takes on a processor that is not emulated (container: 0.4 to 0.6)."""
_STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"
_ENDED = ("39f53479d3a045ac8e11786248231fbf", "be02cf6855d2428ba40df7e9d022f03d")
"""What systemd says of a unit that starts, has started, has failed to (systemd/sd-messages.h)."""
PATIENCE = 60.0
"""Seconds for which the recovery is watched, to be able to tell how late it was."""


class Failed(AssertionError):
    """What was promised did not happen."""


class NotHere(Exception):
    """It can't be tried there, whatever we do; the message says why."""


class Where(NamedTuple):
    """On what a case runs."""

    kind: str
    suite: str
    manager: str

    def __str__(self) -> str:
        return "/".join(self)


class Lab:
    """A machine, booted; ``close()`` ends it."""

    def __init__(
        self, where: Where, image: Image, built: Built, agent: bool = True,
        prepare: Optional[Callable[["Lab"], None]] = None
    ) -> None:
        """``agent``: install it."""
        self.where = where
        self.folder = tempfile.mkdtemp(prefix="lab-{}-".format(os.getpid()), dir=os.path.dirname(image.tree))
        self.root = Root(image, os.path.join(self.folder, "run"))
        self.machine: Optional[Machine] = None
        self._server: Optional[http.server.ThreadingHTTPServer] = None
        self.slower = 0.0
        """Seconds that a run of the agent takes longer here than on a processor that is not emulated."""
        try:
            MANAGERS[where.manager](self.root)
            (deliver if agent else put)(self.root, built)
            self.machine = KINDS[where.kind](self.root)
            if prepare:
                prepare(self)
            self.machine.boot()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        if self.machine is not None:
            self.machine.stop()
            self.machine = None
        self.root.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def serve(self, folder: str, address: Tuple[str, int]) -> None:
        """A web server in the VPC, on the metadata service's machine."""
        with self.vpc.cloud:
            self._server = http.server.ThreadingHTTPServer(address, functools.partial(_Quiet, directory=folder))
        threading.Thread(target=self._server.serve_forever, name="files", daemon=True).start()

    def bake(self) -> None:
        """Make the running machine an image, and boot another instance from that."""
        machine = self._there
        assert isinstance(machine, VirtualMachine)
        self.run("mkdir /opt/cloud-init-files")
        for name in ("bake", "clean", "per-boot", "99-eni-bootstrap.cfg"):
            with open(os.path.join(REPOSITORY, "cloud-init", name)) as file:
                self.run("cat >/opt/cloud-init-files/{} <<'END OF IT'\n{}END OF IT\n".format(name, file.read()))
        self.run("chmod 755 /opt/cloud-init-files/bake /opt/cloud-init-files/clean")
        self.run("/opt/cloud-init-files/bake {} / && sync".format(PROGRAM), 120)
        disk = machine.power_off()
        self.machine = VirtualMachine(self.root, disk=disk, number=7)
        self.machine.boot()

    # asking

    @property
    def _there(self) -> Machine:
        assert self.machine is not None
        return self.machine

    @property
    def vpc(self) -> Any:
        return self._there.vpc

    def run(self, command: str, timeout: float = 60, check: bool = True) -> str:
        """What a command in the machine prints."""
        result = self._there.run(command, timeout, check)
        return result.out

    def watch(self) -> Watch:
        return Watch(self.vpc)

    @property
    def limit(self) -> float:
        """``LIMIT`` on a processor that is not emulated; otherwise what a run takes longer there is added."""
        return LIMIT + self.slower

    def calibrate(self) -> None:
        """How much slower than a real machine this one is: a run of the agent that changes nothing."""
        if self.where.kind == "vm":
            started = time.monotonic()
            self.run("systemctl start eni-bootstrap.service")
            self.slower = max(0.0, time.monotonic() - started - NATIVE_RUN)

    def emulated(self, since: float, until: float) -> float:
        """Of these seconds: for how many a run of the agent was at work that would have ended on a processor that is
        neither emulated nor shared with other machines. Told by systemd in the machine's journal."""
        here, now = time.monotonic(), float(self.run("cut -d ' ' -f 1 /proc/uptime"))
        lines = self.run("journalctl -b -n 400 -o json UNIT=eni-bootstrap.service _PID=1").splitlines()
        began, longer = None, 0.0
        for entry in map(json.loads, lines):
            at = here - now + int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6
            if entry.get("MESSAGE_ID") == _STARTING:
                began = at
            elif entry.get("MESSAGE_ID") in _ENDED and began is not None:
                first, last = max(began + NATIVE_RUN, since), min(at, until)
                longer += max(0.0, last - first)
                began = None
        return longer

    # the promises

    def symmetric(
        self, within: float, names: Optional[Sequence[str]] = None, spared: Optional[Sequence[str]] = None
    ) -> str:
        """Each ENI (or those of ``names``) answers, by itself."""
        with self.watch() as watch:
            return self.judge(watch, time.monotonic(), within, names, spared)

    def disturb(
        self, action: Union[str, Callable[[], Any]], timeout: float = 90, spared: Optional[Sequence[str]] = None
    ) -> str:
        """Do it while the client watches: afterwards each ENI answers again soon, and nothing went a wrong way."""
        with self.watch() as watch:
            before = watch.settle(time.monotonic(), 20)
            if None in before.values():
                raise Failed("before it began: " + _broken(before))
            if callable(action):
                action()
            else:
                self.run(action, timeout)
            return self.judge(watch, time.monotonic(), LIMIT, None, spared)

    def judge(
        self, watch: Watch, since: float, within: float, names: Optional[Sequence[str]] = None,
        spared: Optional[Sequence[str]] = None
    ) -> str:
        """What was seen, or ``Failed``. ``within``: seconds after ``since``, without what only emulation adds.
        ``spared``: only these ENIs' packets must not have gone a wrong way, else no secondary's. The primary's follow
        main, which has no way by it while its manager configures it anew."""
        took = watch.settle(since, max(within, PATIENCE), names)
        strays = watch.strays()
        wrong = [str(stray) for stray in strays if stray.owner in (
            [name for name, eni in self.vpc.nics.items() if not eni.primary] if spared is None else spared)]
        problems = []
        if None in took.values():
            problems.append(_broken(took))
        slowest = max(filter(None, took.values()), default=0.0)
        emulated = self.emulated(since, since + slowest) if slowest > within else 0.0
        if slowest - emulated > within:
            problems.append("{}, of which emulation took {:.1f} s (promised: {:.1f} s)".format(
                _after(took), emulated, within))
        if wrong:
            problems.append("left by a wrong ENI: " + ", ".join(wrong))
        if problems:
            raise Failed("; ".join(problems))
        return _after(took) + (" ({:.1f} s of that are emulation's)".format(emulated) if emulated else "") + (
            "; till then by a wrong ENI: " + ", ".join(map(str, strays)) if strays else "")

    def wait(self, what: str, holds: Callable[[], bool], within: float) -> float:
        """Ask again and again; seconds until it held. ``within``: without what only emulation adds."""
        started = time.monotonic()
        while not holds():
            if time.monotonic() - started > within + (PATIENCE if self.where.kind == "vm" else 0):
                raise Failed("not within {:.0f} s: {}".format(within, what))
            time.sleep(0.3)
        took = time.monotonic() - started
        emulated = self.emulated(started, started + took) if took > within else 0.0
        if took - emulated > within:
            raise Failed("after {:.1f} s, of which emulation took {:.1f} s (promised: {:.0f} s): {}".format(
                took, emulated, within, what))
        return took

    def journal(self, more: str = "") -> str:
        return self.run("journalctl -b --no-pager -o short-monotonic -u 'eni-bootstrap*' " + more, check=False)

    def diagnosis(self) -> str:
        """What one wants to see when something failed."""
        commands = ["ip -d rule", "ip route show table all", "ip -br address", "ip -d link", "systemctl --failed",
                    "systemctl list-timers --all --no-pager 'eni-*'",
                    "journalctl -b --no-pager -o short-precise | tail -n 250"]
        parts = []
        for command in commands:
            try:
                parts.append("# {}\n{}".format(command, self.run(command, check=False)))
            except Exception as error:
                parts.append("# {}\n{}".format(command, error))
        return "\n".join(parts)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def _after(took: Mapping[str, Optional[float]]) -> str:
    slowest = max(took, key=lambda name: took[name] or 0.0)
    worst = took[slowest] or 0.0
    return "all answer after {:.1f} s{}".format(worst, " (the last: {})".format(slowest) if worst > 0.3 else "")


def _broken(took: Mapping[str, Optional[float]]) -> str:
    return ", ".join(name for name, at in took.items() if at is None) + " did not answer"

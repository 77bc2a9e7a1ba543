"""The program: plans, runs and counts. See ``tests/boot/run --help``."""

import argparse
import glob
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from concurrent import futures
from typing import Container, Dict, List, NamedTuple, Optional, Sequence

from tests.boot.cases import CASES, Case
from tests.boot.delivery import Built, build
from tests.boot.image import SUITES, Image
from tests.boot.lab import Lab, NotHere, Where
from tests.boot.machine import EmulatorDied
from tests.boot.managers import MANAGERS

QUICK = [Where("container", "bookworm", "networkd"), Where("container", "bookworm", "NetworkManager"),
         Where("container", "bookworm", "ifupdown"), Where("vm", "bookworm", "networkd")]
EVERYTHING = QUICK + [
    Where("vm", "bookworm", "NetworkManager"), Where("vm", "bookworm", "ifupdown"), Where("vm", "bookworm", "netplan"),
    Where("vm", "trixie", "networkd"), Where("vm", "sid", "networkd"), Where("vm", "bullseye", "networkd"),
    Where("vm", "bookworm", "cloud-init"), Where("vm", "trixie", "cloud-init")]

LANES = 3
"""So many virtual machines at once, each with 1 GiB: two processors are busy with that, as most of the time is spent
waiting for timers and time-outs. With four, a run of the agent took half a minute."""

TOOLS = {
    "container": {"mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container", "ip": "iproute2"},
    "vm": {"mmdebstrap": "mmdebstrap", "qemu-system-x86_64": "qemu-system-x86", "mkfs.ext4": "e2fsprogs"},
}
"""Programs, and the Debian packages that have them."""


class Outcome(NamedTuple):
    verdict: str
    """``ok``, ``FAILED`` or ``not run``."""
    where: Where
    case: str
    text: str


class Program:
    """One run of the whole. Machines side by side, for they mostly wait."""

    def __init__(self, parsed: argparse.Namespace) -> None:
        self.parsed = parsed
        self.outcomes: List[Outcome] = []
        self.remarks: List[str] = []
        self.lacking = False
        """This machine has not all that it takes."""
        self.built: Optional[Built] = None
        self.images: Dict[str, Image] = {}
        self._slower: Dict[str, float] = {}
        """Suite → seconds that its virtual machines take longer for a run of the agent."""
        self._lock = threading.Lock()

    def run(self) -> int:
        wheres = [where for where in self._wheres() if self._possible(where)]
        self._build({where.suite for where in wheres})
        if self.parsed.images:
            return int(any(where.suite not in self.images for where in wheres))
        wheres = [where for where in wheres if where.suite in self.images]
        folder = tempfile.mkdtemp(prefix="lab-{}-".format(os.getpid()), dir=self.parsed.cache)
        try:
            self.built = build(folder)
            self._run_everywhere(wheres)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return self._close()

    def _run_everywhere(self, wheres: Sequence[Where]) -> None:
        """The longest first; containers are light."""
        machines = [where for where in wheres if where.kind == "vm"]
        machines.sort(key=lambda where: ["cloud-init", "networkd"].index(where.manager)
                      if where.manager in ("cloud-init", "networkd") else 2)
        containers = [(where, group) for where in wheres if where.kind != "vm" for group in self._groups(where)]
        with futures.ThreadPoolExecutor(max(1, len(containers))) as light, futures.ThreadPoolExecutor(LANES) as lanes:
            done = [light.submit(self._run_some, *group) for group in containers]
            done += [lanes.submit(self._run_all, where) for where in machines]
        for each in done:
            each.result()

    def _chosen(self) -> bool:
        return bool(self.parsed.all or self.parsed.suite or self.parsed.kind or self.parsed.manager)

    def _wheres(self) -> List[Where]:
        parsed = self.parsed
        return [where for where in (EVERYTHING if self._chosen() else QUICK)
                if (not parsed.suite or where.suite in parsed.suite) and (not parsed.kind or where.kind in parsed.kind)
                and (not parsed.manager or where.manager in parsed.manager)]

    def _cases(self, where: Where) -> List[Case]:
        fitting = [case for case in CASES if case.fits(where)]
        if self.parsed.case:
            return [case for case in fitting if case.name in self.parsed.case]
        if self._chosen():
            return fitting
        return [case for case in fitting if case.quick or where.kind == "container" and (
            not case.slow or where.manager == "networkd")]

    def _possible(self, where: Where) -> bool:
        lacking = sorted(package for tool, package in TOOLS[where.kind].items() if not shutil.which(tool))
        if where.kind == "vm" and not os.path.exists("/dev/net/tun"):
            lacking.append("/dev/net/tun")
        if lacking:
            self.lacking = True
            for case in self._cases(where):
                self._tell(Outcome("not run", where, case.name, "not here: " + ", ".join(lacking)))
        return not lacking

    def _build(self, suites: Container[str]) -> None:
        images = [Image(suite, self.parsed.cache) for suite in SUITES if suite in suites]
        with futures.ThreadPoolExecutor(os.cpu_count()) as at_once:
            for image, failure in zip(images, at_once.map(_failure, images)):
                if failure is None:
                    self.images[image.suite] = image
                    if image.seconds:
                        print("image of {} built in {:.0f} s".format(image.suite, image.seconds), flush=True)
                else:
                    for where in self._wheres():
                        if where.suite == image.suite:
                            for case in self._cases(where):
                                self._tell(Outcome("FAILED", where, case.name, "no image: {}".format(failure)))

    def _groups(self, where: Where) -> List[List[Case]]:
        """Cases that may share a machine do."""
        cases = self._cases(where)
        groups = [[case for case in cases if not case.own and case.agent == agent] for agent in (True, False)]
        return [group for group in groups if group] + [[case] for case in cases if case.own]

    def _run_all(self, where: Where) -> None:
        for group in self._groups(where):
            self._run_some(where, group)

    def _run_some(self, where: Where, cases: Sequence[Case]) -> None:
        """On one machine as long as all goes well; after a failure on a new one."""
        lab: Optional[Lab] = None
        todo = list(cases)
        died = False
        try:
            while todo:
                case = todo[0]
                started = time.monotonic()
                try:
                    if lab is None:
                        assert self.built is not None
                        lab = Lab(where, self.images[where.suite], self.built, case.agent, case.prepare)
                        if case.agent and not case.own:
                            lab.calibrate()
                        elif where.kind == "vm":
                            lab.slower = self._slower.get(where.suite, 5.0)
                        if where.kind == "vm":
                            self._slower[where.suite] = max(lab.slower, self._slower.get(where.suite, 0.0))
                    text = case.check(lab)
                    self._tell(Outcome("ok", where, case.name, text), time.monotonic() - started)
                except NotHere as reason:
                    self._tell(Outcome("not run", where, case.name, str(reason)))
                except EmulatorDied as error:
                    lab = _bury(lab)
                    if not died:
                        died = True
                        self.remarks.append("{}: the emulator died during {}, which was tried once more: {}".format(
                            where, case.name, str(error)[-300:]))
                        continue
                    self._tell(Outcome("FAILED", where, case.name, "the emulator died again: {}".format(error)))
                except Exception as error:
                    kept = self._keep(lab, where, case, error)
                    self._tell(Outcome("FAILED", where, case.name, "{}{} (see {})".format(
                        "" if isinstance(error, AssertionError) else type(error).__name__ + ": ", error, kept)),
                        time.monotonic() - started)
                    lab = _bury(lab)
                todo.pop(0)
        finally:
            _bury(lab)

    def _keep(self, lab: Optional[Lab], where: Where, case: Case, error: Exception) -> str:
        """What is needed to understand a failure, in a file."""
        path = os.path.join(self.parsed.cache, "failed", "{}-{}.txt".format("-".join(where), case.name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("{}\n\n".format("".join(traceback.format_exception(type(error), error, error.__traceback__))))
            if lab is not None and lab.machine is not None:
                file.write(lab.diagnosis())
        return path

    def _tell(self, outcome: Outcome, seconds: float = 0) -> None:
        with self._lock:
            self.outcomes.append(outcome)
            print("{:7} {:34} {:28} {}{}".format(
                outcome.verdict, str(outcome.where), outcome.case, outcome.text,
                " [{:.0f} s]".format(seconds) if seconds else ""), flush=True)

    def _close(self) -> int:
        count = {verdict: sum(outcome.verdict == verdict for outcome in self.outcomes)
                 for verdict in ("ok", "FAILED", "not run")}
        reasons = sorted({outcome.text for outcome in self.outcomes if outcome.verdict == "not run"})
        here = {(where, case.name) for where in self._wheres() for case in self._cases(where)}
        left = sum((where, case.name) not in here for where in EVERYTHING for case in CASES
                   if case.fits(where))
        if left:
            reasons.append("{} not asked for: --all".format(left))
        for suite, slower in sorted(self._slower.items()):
            self.remarks.append("virtual machines of {}: a run of the agent took up to {:.1f} s more, being emulated, "
                                "which is not counted".format(suite, slower))
        for remark in self.remarks:
            print("remark: " + remark)
        print("{} passed, {} failed, {} not run{}".format(
            count["ok"], count["FAILED"], count["not run"] + left,
            " ({})".format("; ".join(reasons)) if reasons else ""), flush=True)
        return 1 if count["FAILED"] or not count["ok"] or (self.lacking and os.environ.get("CI")) else 0


def _failure(image: Image) -> Optional[Exception]:
    """What happened when it was built."""
    try:
        image.build()
    except Exception as error:
        return error
    return None


def _bury(lab: Optional[Lab]) -> Optional[Lab]:
    if lab is not None:
        lab.close()
    return None


def main(arguments: Optional[List[str]] = None) -> int:
    names = sorted(case.name for case in CASES)
    parser = argparse.ArgumentParser(prog="tests/boot/run", description="Boots real systems in a simulated VPC.")
    parser.add_argument("--all", action="store_true", help="everything; otherwise containers and one virtual machine")
    parser.add_argument("--suite", action="append", choices=list(SUITES), help="only this one, of everything")
    parser.add_argument("--kind", action="append", choices=list(TOOLS), help="only this one, of everything")
    parser.add_argument("--manager", action="append", choices=list(MANAGERS), help="only this one, of everything")
    parser.add_argument("--cache", default=_cache(), metavar="DIR", help="images are kept there (%(default)s)")
    parser.add_argument("--images", action="store_true", help="only build the images that are not there yet")
    parser.add_argument("--list", action="store_true", help="what is promised, and where it is tried")
    parser.add_argument("case", nargs="*", metavar="CASE", help="only these: " + ", ".join(names))
    parsed = parser.parse_args(arguments)
    unknown = set(parsed.case) - set(names)
    if unknown:
        parser.error("no such case: " + ", ".join(sorted(unknown)))
    if parsed.list:
        for case in CASES:
            print("{} ({}; {}): {}".format(case.name, ", ".join(case.kinds), ", ".join(case.managers), case.promise))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.makedirs(parsed.cache, exist_ok=True)
    _tidy(parsed.cache)
    return Program(parsed).run()


def _tidy(cache: str) -> None:
    """Take away what a run that was killed has left."""
    for folder in glob.glob(os.path.join(cache, "lab-*")):
        if not os.path.exists("/proc/" + os.path.basename(folder).split("-")[1]):
            shutil.rmtree(folder, ignore_errors=True)


def _cache() -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or "/var/cache", "eni-bootstrap-boot")


if __name__ == "__main__":
    status = 1
    try:
        status = main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)  # machines that are still there die with us

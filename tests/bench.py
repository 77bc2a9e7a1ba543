"""How fast, as ratios on this machine: ``python -m tests.bench`` (root, or an ordinary user by user namespaces).

The yardstick is a Python that imports the three libraries and does nothing. Yardstick and run take turns; what is
shown is the median of the ratios of all pairs. Nothing is asserted here: a shared machine is too noisy for that.
"""

import argparse
import functools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import pyroute2

from eni_bootstrap.lab.namespace import isolate
from eni_bootstrap.lab.service import MetadataService
from eni_bootstrap.lab.vpc import METADATA, Vpc, make_tree
from tests.agent import ROOT, Agent

YARDSTICK = [sys.executable, "-c", "import requests, tenacity; from pyroute2 import IPRoute"]
RUN = [sys.executable, "-m", "eni_bootstrap", "apply"]

LATENCY = 0.001
SIZES = ((2, 1), (32, 50))
"""Secondary ENIs, and addresses of each."""

OLD = sys.version_info < (3, 11)
GOALS = {
    "first run": {SIZES[0]: 0.85 if OLD else 0.65, SIZES[1]: 1.3 if OLD else 0.9},
    "without changes": {SIZES[0]: None if OLD else 0.55, SIZES[1]: None if OLD else 0.75},
    "verify": {SIZES[1]: 1.1}, "status": {SIZES[1]: 1.1},
    "peak memory": {SIZES[0]: 0.85, SIZES[1]: 0.9},
}
"""What a run may cost, as a ratio to the yardstick."""

BESIDE_FOREIGN = 1.15
"""What a run may cost beside things that are nobody's business of ours, as a ratio to the same run without them."""


def _network(number: int) -> str:
    return "10.{}.{}".format(number >> 8, number & 255)


FOREIGN = {
    "600 links": ["link add l{0} type veth peer name m{0}".format(number) for number in range(300)],
    "5,000 addresses": ["address add {}.1/32 dev daemon0".format(_network(number)) for number in range(5000)],
    "10,000 routes": ["route add {}.0/24 dev daemon0 proto bgp table {}".format(_network(number), table)
                      for table in ("main", "500") for number in range(5000)],
    "3,000 rules": ["rule add priority {} from {}.0/24 lookup 500".format(20000 + number, _network(number))
                    for number in range(3000)],
}
"""What another program may have on a host, not through one of the ENIs: a container network, a routing daemon."""

# A child's peak memory counts from its fork, at which it is as large as its parent: so the parent must be small.
_LAUNCHER = """
import os, sys, time
begin = time.perf_counter()
child = os.fork()
if not child:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execv(sys.argv[1], sys.argv[1:])
status, used = os.wait4(child, 0)[1:]
print(time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss, status)
"""


class Sample(NamedTuple):
    """What one process took."""

    seconds: float
    cpu: float
    kib: float


class Row(NamedTuple):
    """One line of the result."""

    what: str
    value: float
    goal: Optional[float]
    spread: str = ""
    seconds: Optional[float] = None
    """The same ratio by the clock: others at work on the machine disturb it more than processor time."""


Run = Callable[[], Sample]


class Service(MetadataService):
    """Without what costs more than the agent's whole work: a copy of the tree for each request."""

    def _visible(self, still_listed: bool) -> Dict[str, Any]:
        return self.tree


class Machine:
    """An instance in its VPC, with a metadata service that takes a millisecond for each answer.

    The service is on the instance's own ``lo``, as the way through the lab's fabric takes longer than it should.
    """

    def __init__(self, opened: ExitStack, secondaries: int, addresses: int) -> None:
        tree = make_tree(secondaries + 1, addresses, vswitches="own")
        directory = opened.enter_context(tempfile.TemporaryDirectory())
        self.vpc = vpc = opened.enter_context(Vpc(tree, service=False))
        vpc.instance.run(["ip", "address", "add", str(METADATA), "dev", "lo"])
        with vpc.instance:
            self.service = Service(tree, (str(METADATA), 80), delay=LATENCY, keep_alive=True)
        opened.enter_context(self.service)
        self.environment = dict(os.environ, PYTHONPATH=ROOT, RUNTIME_DIRECTORY=directory)
        self._agent = Agent(vpc, directory)

    def measure(self, program: Sequence[str]) -> Sample:
        """A program inside the instance, from fork to end."""
        done = self.vpc.instance.run([sys.executable, "-I", "-S", "-c", _LAUNCHER] + list(program),
                                     env=self.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        seconds, cpu, kib, status = done.stdout.split()
        assert status == "0", "{} ended with status {}: {}".format(" ".join(program), status, done.stderr)
        return Sample(float(seconds), float(cpu), float(kib))

    def yardstick(self) -> Sample:
        return self.measure(YARDSTICK)

    def first_run(self) -> Sample:
        assert self._agent("remove").code == 0
        return self.measure(RUN)

    def second_run(self) -> Sample:
        return self.measure(RUN)

    def requests(self) -> Tuple[int, int]:
        """Of one run: how many, and over how many connections at a time."""
        self.service.max_open, before = 0, len(self.service.requests)
        self.measure(RUN)
        return len(self.service.requests) - before, self.service.max_open

    def command(self, *words: str) -> Sample:
        """Another command, behind a run of ``apply``."""
        return self.measure(RUN[:-1] + list(words))

    def add_foreign(self, what: str) -> None:
        """By one program, as thousands of them would take minutes."""
        lines = ["link add daemon0 type veth peer name daemon1", "link set daemon0 up", "link set daemon1 up"]
        self.vpc.instance.run(["ip", "-batch", "-"], input="\n".join(lines + FOREIGN[what]) + "\n")


def compare(pairs: int, yardstick: Run, run: Run) -> List[Sample]:
    """What is measured as ratios, pair by pair; one turn of both comes before, for the caches and the byte code."""
    yardstick(), run()
    turns = [(yardstick(), run()) for _ in range(pairs)]
    return [Sample(*(ours / theirs for ours, theirs in zip(b, a))) for a, b in turns]


def cpu_row(what: str, ratios: Sequence[Sample], goal: Optional[float] = None) -> Row:
    row = ratio_row(what, [ratio.cpu for ratio in ratios], goal)
    return row._replace(seconds=statistics.median(ratio.seconds for ratio in ratios))


def memory_row(what: str, ratios: Sequence[Sample], goal: Optional[float] = None) -> Row:
    return ratio_row(what, [ratio.kib for ratio in ratios], goal)


def ratio_row(what: str, ratios: Sequence[float], goal: Optional[float]) -> Row:
    return Row(what, statistics.median(ratios), goal, "{:.2f} to {:.2f}".format(min(ratios), max(ratios)))


def bench_size(machine: Machine, secondaries: int, addresses: int, pairs: int) -> List[Row]:
    """Runs from nothing, runs without changes, verify and status; asked for metadata the long way, too."""
    size = (secondaries, addresses)
    named = "{} x {}".format(*size)

    def against_yardstick(what: str, run: Run) -> Tuple[List[Sample], Row]:
        ratios = compare(pairs, machine.yardstick, run)
        return ratios, cpu_row("{}, {}".format(what, named), ratios, GOALS.get(what, {}).get(size))

    first, first_row = against_yardstick("first run", machine.first_run)
    rows = [first_row, against_yardstick("without changes", machine.second_run)[1]]
    rows += [against_yardstick(command, functools.partial(machine.command, command))[1]
             for command in ("verify", "status")]
    rows.append(memory_row("peak memory, " + named, first, GOALS["peak memory"][size]))
    requests, _ = machine.requests()
    machine.service.faults.all_answer = 404
    rows.append(against_yardstick("first run in the tree", machine.first_run)[1])
    requests_in_tree, at_once = machine.requests()
    machine.service.faults.all_answer = None
    return rows + [
        Row("HTTP requests, " + named, requests, 2),
        Row("HTTP requests in the tree, " + named, requests_in_tree, 4 + 14 * (secondaries + 1)),
        Row("connections at a time in the tree, " + named, at_once, 8),
    ]


def bench_foreign(what: str, pairs: int) -> Row:
    """The yardstick is the same run on a host without these things."""
    with ExitStack() as opened:
        plain, beside = Machine(opened, *SIZES[0]), Machine(opened, *SIZES[0])
        beside.add_foreign(what)
        return cpu_row("without changes, beside {}".format(what), compare(pairs, plain.second_run, beside.second_run),
                       BESIDE_FOREIGN)


def show(rows: Sequence[Row]) -> str:
    width = max(len(row.what) for row in rows)
    form = "{:{}}  {:>8}  {:>6}  {:>6}  {:>14}  {}"
    lines = [form.format("", width, "measured", "goal", "clock", "all pairs", "")]
    for row in rows:
        value = ("{:.2f}" if row.spread else "{:.0f}").format(row.value)
        goal = "-" if row.goal is None else "{:g}".format(row.goal)
        seconds = "" if row.seconds is None else "{:.2f}".format(row.seconds)
        missed = "MISSED" if row.goal is not None and row.value > row.goal else ""
        lines.append(form.format(row.what, width, value, goal, seconds, row.spread, missed))
    return "".join(line.rstrip() + "\n" for line in lines)


def versions() -> str:
    return "Python {}, pyroute2 {}, Linux {}".format(
        platform.python_version(), pyroute2.__version__, platform.release())


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=21, metavar="N", help="of each comparison (default 21)")
    parser.add_argument("--quick", action="store_true", help="the small size only")
    parsed = parser.parse_args(arguments)
    isolate()
    rows: List[Row] = []
    with ExitStack() as opened:
        for size in SIZES[:1] if parsed.quick else SIZES:
            rows += bench_size(Machine(opened, *size), *size, parsed.pairs)
    if not parsed.quick:
        rows += [bench_foreign(what, parsed.pairs) for what in FOREIGN]
    print(versions())
    print("CPU as ratios to «{}», beside others to the same run without them;\n"
          "medians of {} pairs; {:g} ms latency; secondary ENIs x addresses\n".format(
              " ".join(["python"] + YARDSTICK[1:]), parsed.pairs, LATENCY * 1000))
    sys.stdout.write(show(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

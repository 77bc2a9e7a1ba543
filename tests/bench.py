"""How fast, as ratios on this machine: ``python -m tests.bench`` (root, or an ordinary user by user namespaces).

The yardstick is a Python that imports the three libraries and does nothing. Yardstick and run take turns; what is
shown is the median of the ratios of all pairs. Nothing is asserted here: a shared machine is too noisy for that.
"""

import argparse
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
FOREIGN = 10000
"""Routes of somebody's routing daemon: half of them in main, half in a table of its own, none through an ENI."""

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
    cpu: Optional[float] = None
    """The same ratio of processor time: quieter than the clock when others are at work on the machine."""


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

    def add_foreign_routes(self) -> None:
        """Not by one program each, and not through one of the ENIs."""
        half = FOREIGN // 2
        lines = ["link add daemon0 type veth peer name daemon1", "link set daemon0 up", "link set daemon1 up"]
        for place in ("main", "500"):
            lines += ["route add 10.{}.{}.0/24 dev daemon0 proto bgp table {}".format(number >> 8, number & 255, place)
                      for number in range(half)]
        self.vpc.instance.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n")


def compare(pairs: int, yardstick: Run, run: Run) -> List[Sample]:
    """What is measured as ratios, pair by pair; one turn of both comes before, for the caches and the byte code."""
    yardstick(), run()
    turns = [(yardstick(), run()) for _ in range(pairs)]
    return [Sample(*(ours / theirs for ours, theirs in zip(b, a))) for a, b in turns]


def time_row(what: str, ratios: Sequence[Sample], goal: Optional[float] = None) -> Row:
    row = ratio_row(what, [ratio.seconds for ratio in ratios], goal)
    return row._replace(cpu=statistics.median(ratio.cpu for ratio in ratios))


def memory_row(what: str, ratios: Sequence[Sample], goal: Optional[float] = None) -> Row:
    return ratio_row(what, [ratio.kib for ratio in ratios], goal)


def ratio_row(what: str, ratios: Sequence[float], goal: Optional[float]) -> Row:
    return Row(what, statistics.median(ratios), goal, "{:.2f} to {:.2f}".format(min(ratios), max(ratios)))


def bench_size(machine: Machine, secondaries: int, addresses: int, pairs: int) -> List[Row]:
    """Runs from nothing and second runs, with the short and with the long way of asking for metadata."""
    size = "{} x {}".format(secondaries, addresses)
    goal, goal_in_tree = {SIZES[0]: (1.15, None), SIZES[1]: (1.9, 2.6)}[secondaries, addresses]
    first = compare(pairs, machine.yardstick, machine.first_run)
    second = compare(pairs, machine.yardstick, machine.second_run)
    requests, _ = machine.requests()
    machine.service.faults.all_answer = 404
    tree = compare(pairs, machine.yardstick, machine.first_run)
    requests_in_tree, at_once = machine.requests()
    return [
        time_row("whole run, " + size, first, goal),
        time_row("whole run in the tree, " + size, tree, goal_in_tree),
        time_row("second run, " + size, second),
        memory_row("peak memory, " + size, first, 1.15),
        Row("HTTP requests, " + size, requests, 2),
        Row("HTTP requests in the tree, " + size, requests_in_tree, 4 + 14 * (secondaries + 1)),
        Row("connections at a time in the tree, " + size, at_once, 8),
    ]


def bench_foreign(plain: Machine, with_spare_tables: Machine, pairs: int) -> List[Row]:
    """Does a routing daemon's table cost us anything? The yardstick is the same run without it."""
    with_spare_tables.add_foreign_routes()
    ratios = compare(pairs, plain.second_run, with_spare_tables.second_run)
    return [time_row("second run beside {} foreign routes / without".format(FOREIGN), ratios, 1.1),
            memory_row("peak memory of that / without", ratios)]


def show(rows: Sequence[Row]) -> str:
    width = max(len(row.what) for row in rows)
    form = "{:{}}  {:>8}  {:>6}  {:>6}  {:>14}  {}"
    lines = [form.format("", width, "measured", "goal", "CPU", "all pairs", "")]
    for row in rows:
        value = ("{:.2f}" if row.spread else "{:.0f}").format(row.value)
        goal = "-" if row.goal is None else "{:g}".format(row.goal)
        cpu = "" if row.cpu is None else "{:.2f}".format(row.cpu)
        missed = "MISSED" if row.goal is not None and row.value > row.goal else ""
        lines.append(form.format(row.what, width, value, goal, cpu, row.spread, missed))
    return "".join(line.rstrip() + "\n" for line in lines)


def versions() -> str:
    return "Python {}, pyroute2 {}, Linux {}".format(
        platform.python_version(), pyroute2.__version__, platform.release())


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=7, metavar="N", help="of each comparison (default 7)")
    parser.add_argument("--quick", action="store_true", help="the small size only")
    parsed = parser.parse_args(arguments)
    isolate()
    rows: List[Row] = []
    with ExitStack() as opened:
        for size in SIZES[:1] if parsed.quick else SIZES:
            rows += bench_size(Machine(opened, *size), *size, parsed.pairs)
        if not parsed.quick:
            rows += bench_foreign(Machine(opened, *SIZES[0]), Machine(opened, *SIZES[0]), parsed.pairs)
    print(versions())
    print("ratios to «{}» unless said otherwise, medians of {} pairs; {:g} ms latency; secondary ENIs x addresses\n"
          .format(" ".join(["python"] + YARDSTICK[1:]), parsed.pairs, LATENCY * 1000))
    sys.stdout.write(show(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

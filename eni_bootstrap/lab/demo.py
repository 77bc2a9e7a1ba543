"""``eni-bootstrap demo``: a VPC on this machine, the symptom in it, the agent, the cure, the proof.

What is measured comes back as values; ``story`` makes text of them. Nothing is shown that was not seen.
"""

import argparse
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Dict, Iterable, Iterator, List, Sequence, Tuple

from pyroute2.netlink.exceptions import NetlinkError

import eni_bootstrap
from eni_bootstrap.config import loader
from eni_bootstrap.host import zipapp
from eni_bootstrap.lab import probe, story
from eni_bootstrap.lab.fabric import FORWARDED, Packet
from eni_bootstrap.lab.namespace import isolate
from eni_bootstrap.lab.story import Question, Run, Trace
from eni_bootstrap.lab.tree import Tree, read
from eni_bootstrap.lab.vpc import METADATA, Vpc, make_tree
from eni_bootstrap.metadata import dump
from eni_bootstrap.model.errors import BootstrapError, UsageError
from eni_bootstrap.model.kernel import Address

AGENT = (sys.executable,) + ((zipapp.path(),) if zipapp.path() else ("-m", "eni_bootstrap"))
"""The agent as a program; out of the single file, where that is what runs."""

MOST_ENIS = 32
MOST_ADDRESSES = 50
"""What the largest instances of the cloud have."""

ADDRESSES = 2
"""At most so many of each ENI and family are asked."""

_KINDS = (probe.ping, probe.tcp, probe.udp)  # as in story.KINDS
_SYMPTOM_TIMEOUT = 0.5
"""Seconds for an answer that does not come."""
_CURE_TIMEOUT = 3.0
"""Seconds for one that does."""
_AT_ONCE = 32
FLOWS = 600
"""Enough to see the weights of a spread."""


def run(parsed: argparse.Namespace) -> int:
    """The command; 0 when the symptom was seen and is cured."""
    gc.enable()  # the program does without, a lab lives for longer
    isolate()
    tree = _read_tree(parsed.metadata) if parsed.metadata else _make_tree(parsed)
    options = ["--verbose"] if parsed.verbose else []
    if parsed.config:
        loader.load(parsed.config)  # what is wrong with it is said before anything is built
        options += ["--config", os.path.abspath(parsed.config)]
    return demonstrate(tree, keep=parsed.keep, options=options)


def demonstrate(tree: Tree, keep: bool = False, options: Sequence[str] = (), agent: Sequence[str] = AGENT) -> int:
    """Tell the whole story of one VPC; with a configuration among the options, that of connections without a source."""
    started = time.monotonic()
    try:
        with _tidy(), tempfile.TemporaryDirectory(prefix="eni-bootstrap-demo-") as directory:
            # More than one address is put on a link by hand, as the cloud's own page tells; DHCP brings the first.
            with Vpc(tree, assign=True) as vpc, probe.echo_server(vpc.instance):
                lab = Lab(vpc, directory, agent, options)
                failures = _tell(lab)
                if keep:
                    _play(lab)
    except BrokenPipeError:
        raise
    except (OSError, NetlinkError) as error:
        raise BootstrapError("the simulated VPC does not work on this machine: {}; it takes network namespaces, veth "
                             "links and a writable /proc/sys".format(_reason(error))) from error
    _say(f"All of it is gone again, after {time.monotonic() - started:.1f} s.\n")
    return 1 if failures else 0


class Lab:
    """A VPC and the agent of its instance."""

    def __init__(self, vpc: Vpc, directory: str, agent: Sequence[str], options: Sequence[str]) -> None:
        self.vpc = vpc
        self.questions = questions(vpc)
        root = os.path.dirname(os.path.dirname(os.path.abspath(eni_bootstrap.__file__)))
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self.environment = dict(os.environ, RUNTIME_DIRECTORY=directory, PYTHONPATH=path, CLIENT=vpc.client.path)
        self.configured = "--config" in options
        self._agent = agent
        self._options = options

    def run(self, command: str) -> Run:
        """The agent as a program inside the instance, as it runs on a real one."""
        started = time.monotonic()
        done = self.vpc.instance.run(list(self._agent) + [command] + list(self._options), check=False,
                                     env=self.environment, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT,
                                     encoding="utf-8", errors="backslashreplace")
        return Run("eni-bootstrap " + command, done.returncode, done.stdout, time.monotonic() - started)

    def ask(self, timeout: float) -> List[Trace]:
        """All questions at once, with an eye on the links."""
        jobs = [(kind, question.target) for question in self.questions for kind in _KINDS]
        with self.vpc.fabric.capture() as seen, ThreadPoolExecutor(_AT_ONCE) as asking:
            answers = list(asking.map(lambda job: bool(job[0](self.vpc.client, job[1], timeout=timeout)), jobs))
        packets = list(seen)
        width = len(_KINDS)
        return [trace(question, answers[width * place:width * (place + 1)], packets)
                for place, question in enumerate(self.questions)]


def questions(vpc: Vpc) -> List[Question]:
    """What the client asks: some addresses of some ENIs."""
    main: Dict[int, str] = {}  # DHCP gives the first link of each family the best default route
    for dev, eni in vpc.nics.items():
        for subnet in eni.subnets:
            main.setdefault(subnet.version, dev)
    return [
        Question(dev, address, vpc.eip(address) if address.version == 4 else address, main[address.version])
        for dev in story.sample(list(vpc.nics), story.ENIS)
        for subnet in vpc.nics[dev].subnets
        for address in story.sample(subnet.addresses, ADDRESSES)
    ]


def trace(question: Question, answered: Sequence[bool], packets: Sequence[Packet]) -> Trace:
    """What the packets of one address tell."""
    arrived = [packet for packet in packets if packet.direction == "to" and packet.dst == question.address]
    left = [packet for packet in packets if packet.direction == "from" and packet.src == question.address]
    return Trace(question, tuple(answered), _distinct(packet.port for packet in arrived),
                 _distinct(packet.port for packet in left),
                 _distinct(packet.verdict for packet in left if packet.verdict != FORWARDED))


_BURST, _PAUSE = 50, 0.02
"""Packets at once, and seconds between: the kernel holds about 101 packets for a gateway whose MAC it does not know yet
(unres_qlen in its ip-sysctl.rst)."""


def flows(vpc: Vpc) -> Dict[Tuple[str, str], int]:
    """How many flows without a source of their own left by which ENI, with which source."""
    with vpc.instance:
        talking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ways: Dict[Address, Tuple[str, str]] = {}
    with talking, vpc.fabric.capture() as seen:
        for number in range(FLOWS):
            talking.sendto(b"?", (f"10.{200 + number // 250}.{number % 250}.1", 9))
            if number % _BURST == 0:
                time.sleep(_PAUSE)
        time.sleep(_SYMPTOM_TIMEOUT)
    for packet in seen:
        if packet.direction == "from":
            ways[packet.dst] = packet.port, str(packet.src)
    return dict(Counter(ways.values()))


def _tell(lab: Lab) -> List[str]:
    """Symptom, agent, cure, proof; the sentences about what is not as it should be."""
    vpc = lab.vpc
    _say(story.heading("The VPC"))
    _say(story.picture(vpc.nics, vpc.eips, vpc.client.ipv4, METADATA))

    _say(story.heading("The symptom: the client asks each ENI, nothing is set up yet"))
    before = lab.ask(_SYMPTOM_TIMEOUT)
    _say(story.table(before) + story.extent(lab.questions, vpc.nics) + story.diagnosis(before))
    failures = story.missing_symptom(before)

    _say(story.heading("The agent, inside the instance"))
    _say(story.quote(lab.run("plan")) + "\n")
    applied = lab.run("apply")
    _say(story.quote(applied))
    if applied.code:
        failures.append(f"The agent ended with exit code {applied.code}.")

    _say(story.heading("The cure: the client asks the same again"))
    after = lab.ask(_CURE_TIMEOUT)
    _say(story.table(after))
    failures += story.missing_cure(after)

    _say(story.heading("The proof: the kernel's own look-ups"))
    verified = lab.run("verify")
    _say(story.quote(verified))
    if verified.code:
        failures.append(f"verify ended with exit code {verified.code}.")

    if lab.configured:
        _say(story.heading(f"The configuration: {FLOWS} flows that have chosen no source, to as many destinations"))
        _say(story.shares(flows(vpc)))

    nothing = not any(question.misled for question in lab.questions)
    _say("\n" + story.conclusion(failures, nothing))
    return failures


def _play(lab: Lab) -> None:
    """A shell inside the instance; the lab lasts as long as it."""
    program = "eni-bootstrap" if shutil.which("eni-bootstrap") else " ".join(AGENT)
    _say(story.invitation(program, lab.questions[-1]))
    # As system(3): what is typed to interrupt a program in there is not meant for us. A handler does not outlive exec.
    before = [(number, signal.signal(number, lambda *_: None)) for number in (signal.SIGINT, signal.SIGQUIT)]
    try:
        shell = shutil.which(os.environ.get("SHELL", "")) or "/bin/sh"
        lab.vpc.instance.run([shell], check=False, stdout=None, env=lab.environment)
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def _tidy() -> Iterator[None]:
    """Have the lab cleared away also when the process is told to end."""
    before = [(number, signal.signal(number, signal.default_int_handler))
              for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _make_tree(parsed: argparse.Namespace) -> Tree:
    for name, number, most in (("--enis", parsed.enis, MOST_ENIS), ("--addresses", parsed.addresses, MOST_ADDRESSES)):
        if not 1 <= number <= most:
            raise UsageError(f"{name} {number}: a number from 1 to {most} is wanted")
    return make_tree(parsed.enis, parsed.addresses, parsed.ipv6)


def _read_tree(path: str) -> Tree:
    """A metadata tree out of a file, checked for what the lab can build."""
    tree, _ = dump.load(path)
    try:
        instance = read(tree)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    if instance.primary in instance.broken:
        raise UsageError(f"{path}: the primary ENI can't be used: {instance.broken[instance.primary]}")
    if len(instance.enis) > MOST_ENIS:
        raise UsageError(f"{path}: {len(instance.enis)} ENIs, at most {MOST_ENIS} can be shown")
    return tree


def _reason(error: Exception) -> str:
    """An error's sentence. NetlinkError is no OSError and has the number and the sentence as its arguments."""
    return str(error) if isinstance(error, OSError) else str(error.args[-1] if error.args else error)


def _distinct(names: Iterable[str]) -> Tuple[str, ...]:
    return tuple(sorted(set(names)))


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

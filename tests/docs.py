"""The documentation's samples: what a page shows is what its commands say in a simulated VPC.

    python -m tests.docs            # names the samples that say something else by now; exit code 1
    python -m tests.docs --write    # puts into the pages what the commands say now: make docs

It takes network namespaces, as the kernel tests do. A sample is a fenced block behind a comment that names its world
(``WORLDS``), and what has happened there before, as a shell command that the page does not show:

    <!-- sample: two-enis, after: eni-bootstrap -->

Each line of the block that begins with ``$ `` is a command, the lines below it are what it writes to both streams.
``<!-- file: NAME -->`` before a fenced block makes the block a file for the samples of the same section.
"""

import glob
import os
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from pytest import MonkeyPatch

from eni_bootstrap.lab.namespace import isolate
from eni_bootstrap.lab.vpc import Vpc, make_tree
from tests.agent import ROOT
from tests.build import interface, subnet
from tests.windows.host import Instance


class Context(NamedTuple):
    """Where a sample's commands run; ``options`` are those of ``Vpc``, without its tree."""

    tree: Dict[str, Any]
    options: Dict[str, Any] = {}
    prefix: str = ""
    """In front of the agent."""
    before: str = ""
    """What has happened there, as a shell command."""


# What the vendor's page has people type, and what install puts there. New versions of ip give a rule no protocol.
_TYPED = """\
ip -4 route add default via 172.16.20.253 dev eth1 table 1001
ip -4 rule add from 172.16.20.10 lookup 1001 protocol boot
mkdir -p /etc/systemd/system/timers.target.wants
touch /etc/systemd/system/timers.target.wants/eni-bootstrap.timer"""

WORLDS = {
    "two-enis": Context({"enis": 2}),
    "three-enis": Context({}),
    "ipv6": Context({"enis": 2, "ipv6": True}),
    "ordinary-user": Context({"enis": 2}, prefix="setpriv --bounding-set=-all"),
    "no-metadata": Context({"enis": 2}, {"service": False}),
    "typed": Context({"enis": 2}, before=_TYPED),
}
WINDOWS = "windows"
"""The vendor's example on a Windows that is a fake."""

_MARKED = re.compile(r"^(#+ )|^<!-- (sample|file): (.*) -->\n```\w*\n((?:(?!```).*\n)*)```$", re.MULTILINE)
_BLOCKS = re.compile(r"^```\w*\n((?:(?!```).*\n)*)```$|((?:^ {4}.*\n)+)", re.MULTILINE)
_LINKS = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SECONDS = re.compile(r"\b\d+\.\d+ s\b")
"""How long something took is all that differs from run to run."""

# A host with nothing on it that could matter: of /etc what programs need to start, and an empty /run. A command's end
# is a NUL byte; the next one finds its exit code in $?.
_HOST = """\
set -eu
mkdir host
mount --rbind /etc host
mount -t tmpfs etc /etc
for name in alternatives group ld.so.cache ld.so.conf ld.so.conf.d passwd; do
    [ ! -e "host/$name" ] || ln -s "$PWD/host/$name" "/etc/$name"
done
mount -t tmpfs run /run
"""
_COMMAND = "\n{{ {}\n}} 2>&1; code=$?; printf '\\0'; (exit $code)\n"


class Sample(NamedTuple):
    """A block of a page."""

    page: str
    number: int
    """Among the samples of its page, from 1."""
    world: str
    before: str
    text: str
    span: Tuple[int, int]
    """Where its text is in the page."""
    files: Tuple[Tuple[str, str], ...]
    """Name and content."""

    @property
    def label(self) -> str:
        return "{}:{}".format(self.page, self.number)

    @property
    def commands(self) -> List[str]:
        return [line[2:] for line in self.text.splitlines() if line.startswith("$ ")]


def pages() -> List[str]:
    """All that people read, relative to the top."""
    found = glob.glob(os.path.join(ROOT, "*.md")) + glob.glob(os.path.join(ROOT, "docs", "*.md"))
    return sorted(os.path.relpath(path, ROOT) for path in found)


def read(page: str) -> str:
    with open(os.path.join(ROOT, page), encoding="utf-8") as file:
        return file.read()


def links(text: str) -> List[str]:
    """Where a page leads to."""
    return _LINKS.findall(text)


def blocks(text: str) -> List[str]:
    """The fenced and the indented blocks of a page."""
    return ["".join(found) for found in _BLOCKS.findall(text)]


def samples(page: str) -> List[Sample]:
    """The samples of a page, in order."""
    found: List[Sample] = []
    files: Dict[str, str] = {}
    for match in _MARKED.finditer(read(page)):
        heading, kind, name, text = match.groups()
        if heading:
            files = {}
        elif kind == "file":
            files[name] = text
        else:
            world, _, before = name.partition(", after: ")
            found.append(Sample(page, len(found) + 1, world, before, text, match.span(4), tuple(files.items())))
    return found


def normal(text: str) -> str:
    """What two runs have in common."""
    return _SECONDS.sub("... s", text)


def written(sample: Sample) -> str:
    """The block as its commands write it now."""
    outputs = _on_windows(sample) if sample.world == WINDOWS else _on_linux(sample)
    parts = ["$ {}\n{}".format(command, "".join(line.rstrip() + "\n" for line in output.splitlines()))
             for command, output in zip(sample.commands, outputs)]
    return "\n".join(parts)


def _on_linux(sample: Sample) -> List[str]:
    world = WORLDS[sample.world]
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory())
        vpc = opened.enter_context(Vpc(make_tree(**world.tree), **world.options))
        script = _HOST
        for number, (name, content) in enumerate(sample.files):
            _put(folder, "file{}".format(number), content)
            script += "cp file{} {}\n".format(number, os.path.join("work", name))
        _put(folder, "eni-bootstrap", '#!/bin/sh\nexec {} {} -m eni_bootstrap "$@"\n'.format(
            world.prefix, sys.executable))
        os.mkdir(os.path.join(folder, "work"))
        script += "cd work\n{{ {}\n{}\n}} >&2\nset +eu\n".format(world.before or ":", sample.before)
        script += "".join(map(_COMMAND.format, sample.commands))
        done = vpc.instance.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], cwd=folder, check=False,
            env={"PATH": folder + os.pathsep + os.environ["PATH"], "PYTHONPATH": ROOT, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
        *outputs, rest = done.stdout.split("\0")
        assert len(outputs) == len(sample.commands) and not rest, (done.stdout, done.stderr)
        return outputs


def _on_windows(sample: Sample) -> List[str]:
    primary = interface(0, subnet("172.16.10.0/24", "172.16.10.10"), primary=True)
    secondary = interface(1, subnet("172.16.12.0/24", "172.16.12.76"))
    patch = MonkeyPatch()
    with tempfile.TemporaryDirectory() as folder:
        try:
            from pathlib import Path
            instance = Instance(Path(folder), patch)
            instance.windows.plug(0, "172.16.10.10/24", gateway="172.16.10.253")
            instance.windows.plug(1, "172.16.12.76/24", index=6)
            instance.list(primary, secondary)
            results = [instance(*command.split()[2:]) for command in sample.commands]
        finally:
            patch.undo()
    return [result.out + result.err for result in results]


def _put(folder: str, name: str, content: str) -> None:
    with open(os.path.join(folder, name), "w") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o755)


def _rewrite(page: str, found: Sequence[Tuple[Sample, str]]) -> None:
    text = read(page)
    for sample, now in reversed(found):
        text = text[:sample.span[0]] + now + text[sample.span[1]:]
    with open(os.path.join(ROOT, page), "w", encoding="utf-8") as file:
        file.write(text)


def main(arguments: Sequence[str]) -> int:
    isolate()
    stale = 0
    for page in pages():
        changed = [(sample, now) for sample in samples(page) for now in [written(sample)]
                   if normal(now) != normal(sample.text)]
        for sample, _ in changed:
            print(sample.label, "written" if "--write" in arguments else "says something else by now")
        if "--write" in arguments:
            _rewrite(page, changed)
        stale += len(changed)
    return 0 if "--write" in arguments or not stale else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The agent, as the repository builds it, and its way into a root file system: ``install --root``."""

import glob
import os
import shutil
import subprocess
import sys
from typing import List, NamedTuple

from tests.boot.image import Root

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

PROGRAM, PACKAGE = "/opt/eni-bootstrap.pyz", "/opt/eni-bootstrap.deb"
"""Where ``put`` puts them."""


class Built(NamedTuple):
    """Of what the working copy holds now."""

    program: str
    """The single file."""
    package: str


def build(folder: str) -> Built:
    """With byte code for this Python only: the machines' own are for ``install`` to add."""
    command = [os.path.join(REPOSITORY, "packaging", "build"), "--output", folder, "--python", sys.executable]
    _run(command + ["pyz", "deb"], 600)
    (package,) = glob.glob(os.path.join(folder, "*.deb"))
    return Built(os.path.join(folder, "eni-bootstrap.pyz"), package)


def deliver(root: Root, built: Built) -> None:
    """Install the agent."""
    _run([sys.executable, built.program, "install", "--root", root.path], 120)


def put(root: Root, built: Built) -> None:
    """Leave it there, not installed."""
    shutil.copyfile(built.program, root.inside(PROGRAM))
    shutil.copyfile(built.package, root.inside(PACKAGE))


def _run(command: List[str], timeout: float) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout)
    if done.returncode:
        raise RuntimeError("{}: exit code {}: {}".format(" ".join(command), done.returncode,
                                                         done.stdout.decode(errors="replace")))

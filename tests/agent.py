"""Runs the agent inside a lab's instance: within this process (fast), or as the user does."""

import contextlib
import io
import json
import os
import subprocess
import sys
from typing import NamedTuple

from eni_bootstrap import cli

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


class Agent:
    """One instance's agent; ``directory`` is its /run/eni-bootstrap."""

    def __init__(self, vpc, directory):
        self.vpc = vpc
        self.directory = str(directory)

    def __call__(self, *arguments):
        """In this process and thread."""
        out, err = io.StringIO(), io.StringIO()
        before = os.environ.get("RUNTIME_DIRECTORY")
        os.environ["RUNTIME_DIRECTORY"] = self.directory
        try:
            with self.vpc.instance, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = cli.main([str(argument) for argument in arguments])
        finally:
            if before is None:
                del os.environ["RUNTIME_DIRECTORY"]
            else:
                os.environ["RUNTIME_DIRECTORY"] = before
        return Result(code, out.getvalue(), err.getvalue())

    def start(self, *arguments, prefix=(), **environment):
        """As a program of its own; the caller waits for it."""
        return self.vpc.instance.popen(
            list(prefix) + [sys.executable, "-m", "eni_bootstrap"] + [str(argument) for argument in arguments],
            env=dict(os.environ, PYTHONPATH=ROOT, RUNTIME_DIRECTORY=self.directory, **environment),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)

    def run(self, *arguments, **options):
        """As a program of its own, waited for."""
        with self.start(*arguments, **options) as process:
            out, err = process.communicate(timeout=120)
        return Result(process.returncode, out, err)

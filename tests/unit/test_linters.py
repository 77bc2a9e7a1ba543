"""mypy and flake8 are tests like the others; their newest versions want a new Python."""

import os
import subprocess
import sys

import pytest

from tests.agent import ROOT

pytestmark = [pytest.mark.once,
              pytest.mark.skipif(sys.version_info < (3, 10), reason="the linters want Python 3.10")]


def run(*command):
    return subprocess.run([sys.executable, "-m"] + list(command), cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, universal_newlines=True)


def test_types():
    checked = run("mypy", "--cache-dir", os.devnull, "eni_bootstrap")
    assert checked.returncode == 0, checked.stdout


def test_style():
    checked = run("flake8", "eni_bootstrap", "tests", "setup.py")
    assert checked.returncode == 0, checked.stdout

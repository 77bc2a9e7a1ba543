"""The contributor's door: tests/venv, tests/run and make, with stand-ins for Python and for what a machine may lack."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.agent import ROOT
from tests.boot.__main__ import EVERYTHING
from tests.boot.image import SUITES
from tests.boot.machine import KINDS
from tests.boot.managers import MANAGERS

TEST = "tests/lab/test_dhcp.py::test_each_eni_is_leased_its_primary_address"
"""One that wants a kernel."""

PYTHON = """\
#!/bin/sh
case "$*" in
    *ensurepip*) [ -z "$NO_ENSUREPIP" ] ;;
    *"-m venv"*)
        mkdir -p "$3/bin"
        printf '#!/bin/sh\\necho "$@" >>"$ASKED"\\nexit $PIP_FAILS\\n' >"$3/bin/pip"
        printf '#!/bin/sh\\necho "$@"\\n' >"$3/bin/python"
        chmod +x "$3/bin/pip" "$3/bin/python" ;;
    *) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def copy(tmp_path):
    """A working copy, as far as tests/venv and tests/run look: ``copy(**environment)`` runs the former with a stand-in
    for Python. That is also the first ``python3`` on the path."""
    shutil.copy(os.path.join(ROOT, "setup.cfg"), str(tmp_path))
    (tmp_path / "tests").mkdir()
    for name in ("venv", "run"):
        shutil.copy(os.path.join(ROOT, "tests", name), str(tmp_path / "tests"))
    python = tmp_path / "python3"
    python.write_text(PYTHON.format(python=sys.executable))
    python.chmod(0o755)

    def run(*arguments, name="venv", **environment):
        environment = dict({"ASKED": str(tmp_path / "asked"), "PIP_FAILS": "0", "NO_ENSUREPIP": "",
                            "PATH": str(tmp_path) + os.pathsep + os.environ["PATH"]}, **environment)
        return subprocess.run([str(tmp_path / "tests" / name)] + list(arguments), env=dict(os.environ, **environment),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)

    run.installed = lambda: (tmp_path / "asked").read_text().count("--editable") if (tmp_path / "asked").exists() else 0
    run.folder = tmp_path
    return run


def test_an_environment_is_made_once(copy):
    """And again when what it is made of has changed."""
    version = "{}.{}".format(*sys.version_info)
    for _ in range(2):
        done = copy()
        assert (done.returncode, done.stdout) == (0, ".venv-tests/{}\n".format(version)), done.stderr
    assert copy.installed() == 1
    with open(str(copy.folder / "setup.cfg"), "a") as file:
        file.write("# more\n")
    assert copy().returncode == 0 and copy.installed() == 2
    assert copy().returncode == 0 and copy.installed() == 2


def test_an_environment_that_could_not_be_finished_is_made_again(copy):
    assert copy(PIP_FAILS="1").returncode != 0
    assert copy().returncode == 0 and copy.installed() == 2 - (sys.version_info < (3, 7))
    assert copy().returncode == 0 and copy.installed() == 2 - (sys.version_info < (3, 7))


def test_nothing_is_compiled(copy):
    assert copy().returncode == 0
    asked = (copy.folder / "asked").read_text().splitlines()
    assert asked and all("--only-binary :all:" in line for line in asked)


@pytest.mark.parametrize("python", [None, "", "python3"])
@pytest.mark.parametrize("arguments", [[], ["-q"], ["-q", "tests/unit", "-k", "a b"]], ids=len)
def test_what_begins_with_a_dash_is_for_pytest(copy, python, arguments):
    """And not the name of a Python."""
    done = copy(*[python] * (python is not None) + arguments, name="run")
    assert (done.returncode, done.stderr) == (0, "") and copy.installed() == 1
    assert done.stdout == " ".join(["-m", "pytest"] + arguments) + "\n"


@pytest.mark.parametrize("python, environment, words", [
    (None, {"NO_ENSUREPIP": "1"}, "can't make virtual environments; on Debian and Ubuntu: apt install python3-venv"),
    ("no-python", {}, "there is no no-python; on Debian and Ubuntu: apt install python3 python3-venv")])
def test_what_python_lacks_is_said_in_words(copy, python, environment, words):
    done = copy(*[python] if python else [], **environment)
    assert done.returncode == 1 and words in done.stderr and copy.installed() == 0


def run_with_ip_only(tmp_path, *options, **environment):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ip").symlink_to(shutil.which("ip") or "/sbin/ip")
    without_ci = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", TEST] + list(options), cwd=ROOT,
        env=dict(without_ci, PATH=str(tmp_path / "bin"), **environment), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, universal_newlines=True)


@pytest.mark.once
@pytest.mark.parametrize("options", [[], ["-n", "1"]], ids=["here", "in a worker"])
@pytest.mark.parametrize("environment, outcome, code", [({}, "are skipped", 0), ({"CI": "1"}, "FAIL, as CI is set", 1)])
def test_what_the_machine_lacks_is_said_before_the_first_test(tmp_path, options, environment, outcome, code):
    done = run_with_ip_only(tmp_path, *options, **environment)
    said = re.search("Tests with network namespaces {}: not on the PATH: nft .*apt install nftables;".format(outcome),
                     done.stdout)
    assert said and done.returncode == code, done.stdout
    assert not re.search("(?m)^[.sEF]+ ", done.stdout[:said.start()])
    assert "passed" not in done.stdout


@pytest.mark.once
def test_it_is_not_said_to_those_who_do_not_want_these_tests(tmp_path):
    done = run_with_ip_only(tmp_path, "-m", "not kernel")
    assert done.returncode == 5 and "namespaces" not in done.stdout


def make(*arguments, **environment):
    """What make prints."""
    if shutil.which("make") is None:
        assert not os.environ.get("CI"), "make is not installed, although CI is set"
        pytest.skip("make is not installed")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # make lint runs this
    return subprocess.run(["make", "-s"] + list(arguments), cwd=ROOT, env=dict(ours, **environment),
                          stdout=subprocess.PIPE, check=True, universal_newlines=True).stdout


@pytest.mark.once
def test_make_tells_what_it_can_do():
    """By default; each target with its line."""
    said = make()
    with open(os.path.join(ROOT, "Makefile")) as file:
        targets = re.search(r"^\.PHONY: (.*)$", file.read(), re.M).group(1).split()
    assert [line.split()[0] for line in said.splitlines()] == targets
    assert all(len(line.split()) > 2 for line in said.splitlines())


@pytest.mark.once
@pytest.mark.parametrize("folder", ["tests/unit", "tests/windows"])
def test_each_test_without_a_kernel_is_in_make_unit_or_in_make_lint(folder):
    """Who has run both finds nothing of it broken in CI."""
    commands = [shlex.split(line) for line in make("-n", "unit", "lint").splitlines()]
    assert len(commands) == 2
    chosen = ["({})".format(words[words.index("-m") + 1]) for words in commands if folder in words]
    assert chosen
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--collect-only", folder,
         "-m", "not ({})".format(" or ".join(chosen))],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    assert done.returncode == 5, done.stdout  # it has collected none


@pytest.mark.once
@pytest.mark.parametrize("name, found", [
    ("TestWithdrawal", ["tests/unit/plan/test_diff.py", "-k", "TestWithdrawal"]),
    ("test_make_tells_what_it_can_do", ["tests/unit/test_door.py", "-k", "test_make_tells_what_it_can_do"]),
    ("tests/unit/test_door.py::test_x", ["tests/unit/test_door.py::test_x"]),
], ids=["class", "test", "path"])
def test_make_one_finds_it(name, found):
    assert make("one", "T=" + name, "RUN=echo").split() == found


@pytest.mark.once
def test_make_takes_another_python():
    for said in (make("-n", "unit", PYTHON="python3.9"), make("-n", "unit", "PYTHON=python3.9")):
        assert "tests/run python3.9 " in said


def test_every_suite_is_booted():
    """One that only has an image would be tried by nobody."""
    assert {where.suite for where in EVERYTHING} == set(SUITES)
    assert {where.kind for where in EVERYTHING} == set(KINDS)
    assert {where.manager for where in EVERYTHING} == set(MANAGERS)

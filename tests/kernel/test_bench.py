"""What can be said of speed without a clock: exact counts. And that the benchmark itself runs."""

import ctypes
import os
import platform
import re
import signal
import struct
import subprocess
import sys

import pytest

from eni_bootstrap.lab.vpc import make_tree
from tests.agent import ROOT


def test_the_benchmark_runs():
    out = subprocess.run([sys.executable, "-m", "tests.bench", "--quick", "--pairs", "1"], cwd=ROOT, check=True,
                         stdout=subprocess.PIPE, universal_newlines=True, timeout=60,
                         env=dict(os.environ, PYTHONIOENCODING="utf-8")).stdout
    assert platform.python_version() in out and re.search(r"pyroute2 \d", out)
    for what in ("first run, 2 x 1", "without changes, 2 x 1", "verify, 2 x 1", "status, 2 x 1",
                 "first run in the tree, 2 x 1", "peak memory, 2 x 1"):
        assert re.search(re.escape(what) + r" +\d+\.\d\d ", out), out
    assert re.search(r"HTTP requests, 2 x 1 +2 +2$", out, re.M)


@pytest.mark.parametrize("enis", [1, 3, 33])
def test_two_requests_whatever_the_number_of_enis(make_vpc, make_agent, enis):
    vpc = make_vpc(make_tree(enis, addresses=2, ipv6=True))
    assert make_agent(vpc)("apply").code == 0
    assert [(request.method, request.path) for request in vpc.service.requests] == [
        ("PUT", "/latest/api/token"), ("GET", "/2016-01-01/meta-data/all")]


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("enis", [3, 33])
def test_requests_in_the_tree(make_vpc, make_agent, enis, keep_alive):
    vpc = make_vpc(make_tree(enis, addresses=2, ipv6=True, prefix=True), all_answer=404, keep_alive=keep_alive)
    assert make_agent(vpc)("apply").code == 0
    assert len(vpc.service.requests) <= 4 + 14 * enis
    assert vpc.service.max_open <= 8


# What a run does not call it does not import.

UNUSED = {"apply": {"pyroute2.ndb", "asyncio", "unittest", "tenacity", "dataclasses", "subprocess", "ctypes",
                    "argparse", "yaml", "eni_bootstrap.config.file", "eni_bootstrap.config.schema",
                    "eni_bootstrap.host.install"}}
UNUSED["plan"] = UNUSED["verify"] = UNUSED["apply"] | {"pyroute2.netlink"}
UNUSED["status"] = UNUSED["remove"] = UNUSED["apply"] | {"requests", "urllib3", "ssl"}
"""Command -> what it must not import when nothing fails."""

AT_MOST = {"status": 380, "apply": 430}
"""Command -> maximum modules, on Python 3.13."""

_TELLING = """
import sys
from eni_bootstrap.cli import main
code = main(sys.argv[1:])
print("MODULES", *sys.modules)
sys.exit(code)
"""


@pytest.mark.parametrize("command", ["apply", "plan", "verify", "status", "remove"])
def test_a_run_imports_what_it_calls(vpc, make_agent, command):
    agent = make_agent(vpc)
    assert command == "apply" or agent("apply").code == 0
    done = vpc.instance.run([sys.executable, "-c", _TELLING, command], cwd=ROOT,
                            env=dict(os.environ, PYTHONPATH=ROOT, RUNTIME_DIRECTORY=agent.directory))
    modules = set(done.stdout.split("MODULES ")[1].split())
    # pyroute2 0.7 asks for the platform, for which the Python of its time starts programs.
    unused = UNUSED[command] - {"subprocess" if sys.version_info < (3, 8) and "pyroute2.config" in modules else ""}
    assert not {name for name in modules for other in unused if (name + ".").startswith(other + ".")}
    if sys.version_info >= (3, 13):
        assert len(modules) <= AT_MOST.get(command, 430), len(modules)


# Kills the process that starts another one; threads are fine. seccomp(2): load, compare, jump, return.

SYSTEM_CALLS = {
    "x86_64": {"clone": 56, "others": (57, 58, 59, 322)},  # fork vfork execve execveat
    "aarch64": {"clone": 220, "others": (221, 281)},  # execve execveat
}
CLONE3 = 435

# The libraries come first: pyroute2 0.7 asks ``uname`` and ``file`` for the platform when it is imported.
_CONFINED = """
import ctypes, requests, tenacity, pyroute2
code = ctypes.create_string_buffer(bytes.fromhex({code!r}))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
program = Program(len(code.raw) // 8, ctypes.addressof(code))
prctl = ctypes.CDLL(None, use_errno=True).prctl
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
assert prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
{then}
"""


def filter_code(calls):
    """The instructions, in hexadecimal."""
    LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
    ALLOW, KILL, NO_SUCH_CALL = 0x7FFF0000, 0x80000000, 0x00050000 | 38  # ENOSYS: then the C library uses clone
    NUMBER, FIRST_ARGUMENT, CLONE_THREAD = 0, 16, 0x10000
    checks = [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, NO_SUCH_CALL)]
    for number in calls["others"]:
        checks += [(EQUAL, 0, 1, number), (RETURN, 0, 0, KILL)]
    checks += [(EQUAL, 1, 0, calls["clone"]), (RETURN, 0, 0, ALLOW), (LOAD, 0, 0, FIRST_ARGUMENT),
               (ANY_BIT, 0, 1, CLONE_THREAD), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, KILL)]
    return b"".join(struct.pack("HBBI", *check) for check in [(LOAD, 0, 0, NUMBER)] + checks).hex()


def confined(vpc, directory, then):
    """Run Python in the instance so that the kernel kills it when it starts a process."""
    calls = SYSTEM_CALLS.get(platform.machine())
    if calls is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        pytest.skip("the system calls of this machine are not known here")
    return vpc.instance.run(
        [sys.executable, "-c", _CONFINED.format(code=filter_code(calls), then=then)], check=False,
        env=dict(os.environ, PYTHONPATH=ROOT, RUNTIME_DIRECTORY=str(directory)), stderr=subprocess.STDOUT)


@pytest.mark.parametrize("faults", [{}, {"all_answer": 404}], ids=["all", "tree"])
def test_apply_starts_no_process(make_vpc, tmp_path, faults):
    vpc = make_vpc(**faults)
    done = confined(vpc, tmp_path, "from eni_bootstrap.__main__ import run; run()")
    assert done.returncode == 0, done.stdout
    assert "as they should be" in done.stdout


@pytest.mark.parametrize("then", ["import os; os.fork()", "import subprocess; subprocess.call('true')",
                                  "import os; os.execv('/bin/true', ['true'])"], ids=["fork", "subprocess", "exec"])
def test_starting_a_process_would_be_noticed(vpc, tmp_path, then):
    assert confined(vpc, tmp_path, then).returncode == -signal.SIGSYS

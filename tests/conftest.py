"""Shared fixtures: a simulated VPC, and whether this machine can have one."""

import logging
import os
import shutil
from contextlib import ExitStack

import pytest

from eni_bootstrap.lab.namespace import Namespace, isolate
from eni_bootstrap.lab.vpc import Vpc, make_tree
from eni_bootstrap.model.errors import NotPermitted
from tests.agent import Agent


TOOLS = {"ip": "iproute2", "nft": "nftables"}
"""What the tests run beside the agent, and the Debian packages that have it."""


def why_no_kernel_tests():
    """Empty when they can run here: the tools, and namespaces. An ordinary user becomes root of a user namespace."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return "not on the PATH: {} (on Debian and Ubuntu: apt install {}; their place is /usr/sbin)".format(
            ", ".join(missing), " ".join(TOOLS[tool] for tool in missing))
    try:
        isolate()
        Namespace().close()
    except (NotPermitted, OSError) as error:
        return "no network namespaces: {}".format(error)
    return ""


def find_out(config):
    """Before any test: isolate() wants a process without threads, and tests leave some."""
    config.why_no_kernel_tests = why_no_kernel_tests()
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if config.why_no_kernel_tests and reporter:
        reporter.write_line("Tests with network namespaces {}: {}".format(
            "FAIL, as CI is set" if os.environ.get("CI") else "are skipped", config.why_no_kernel_tests))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config):
    """With -n: what this process is allowed its workers are, which have threads from their first moment."""
    if "not kernel" not in config.option.markexpr:
        find_out(config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """What -m leaves out has gone."""
    if any(item.get_closest_marker("kernel") for item in items):
        find_out(config)


def pytest_runtest_setup(item):
    if item.get_closest_marker("kernel") and item.config.why_no_kernel_tests:
        if os.environ.get("CI"):
            pytest.fail(item.config.why_no_kernel_tests)
        pytest.skip(item.config.why_no_kernel_tests)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """Where CI is set a kernel test that skips itself has failed, too."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and item.get_closest_marker("kernel") and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = "skipped, although CI is set: {}".format(report.longrepr)


@pytest.fixture(autouse=True)
def untouched_log():
    """The command line sets the log up, also in threads of other tests; each test finds it as a library leaves it."""
    log = logging.getLogger("eni_bootstrap")
    log.setLevel(logging.NOTSET)
    log.handlers[:], log.propagate = [], True


@pytest.fixture
def make_vpc():
    """``make_vpc(tree=None, **options)``: a simulated VPC (see ``Vpc``) that lives as long as the test."""
    with ExitStack() as opened:

        def make(tree=None, **options):
            return opened.enter_context(Vpc(make_tree() if tree is None else tree, **options))

        yield make


@pytest.fixture
def vpc(make_vpc):
    """Three ENIs with IPv4, eth0 and eth2 in one vSwitch, all configured by DHCP."""
    return make_vpc()


@pytest.fixture
def make_agent(tmp_path):
    """``make_agent(vpc)``: the agent of that instance, with a run directory of its own."""

    def make(vpc):
        return Agent(vpc, tmp_path / "run")

    return make

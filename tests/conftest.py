"""Shared fixtures: a simulated VPC, and whether this machine can have one."""

import logging
import os
from contextlib import ExitStack

import pytest

from eni_bootstrap.errors import NotPermitted
from eni_bootstrap.lab.namespace import Namespace, isolate
from eni_bootstrap.lab.vpc import Vpc, make_tree
from tests.agent import Agent


def why_no_namespaces():
    """Empty when network namespaces can be made here; an ordinary user becomes root of a user namespace."""
    try:
        isolate()
        Namespace().close()
    except (NotPermitted, OSError) as error:
        return str(error)
    return ""


def pytest_collection_modifyitems(config, items):
    # Before any test: isolate() wants a process without threads, and tests leave some.
    needed = any(item.get_closest_marker("kernel") for item in items)
    config.why_no_namespaces = why_no_namespaces() if needed else ""


def pytest_runtest_setup(item):
    reason = item.config.why_no_namespaces
    if item.get_closest_marker("kernel") and reason:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


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

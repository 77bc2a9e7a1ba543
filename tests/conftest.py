"""Shared fixtures: a simulated VPC, and whether this machine can have one."""

import logging
import os
import shutil
import stat
from contextlib import ExitStack

import pytest

from eni_bootstrap.lab.namespace import Namespace, isolate
from eni_bootstrap.lab.vpc import Vpc, make_tree
from eni_bootstrap.model.errors import NotPermitted
from tests.agent import Agent


TOOLS = {"ip": "iproute2", "nft": "nftables"}
"""What the tests run beside the agent, and the Debian packages that have it."""

MARKERS = {"kernel": "kernel", "lab": "kernel", "packaging": "packaging"}
"""Of each test in these folders of tests/."""


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """By its folder, before -m chooses."""
    for item in items:
        marker = MARKERS.get(item.nodeid.split("/")[1])
        if marker:
            item.add_marker(marker)


def pytest_collection_finish(session):
    """What -m leaves out has gone."""
    if any(item.get_closest_marker("kernel") for item in session.items):
        find_out(session.config)


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


@pytest.fixture
def root(tmp_path):
    """A root file system run by systemd, with all the managers' folders."""
    for folder in ("usr/lib/systemd/system", "usr/bin", "etc/NetworkManager/dispatcher.d", "etc/dhcp", "etc/network",
                   "var/lib", "usr/local"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    (tmp_path / "root/usr/lib/systemd/libsystemd-shared-239.so").write_text("")
    (tmp_path / "root/usr/bin/python3").write_text("")
    (tmp_path / "root/lib").symlink_to("usr/lib")
    return tmp_path / "root"


@pytest.fixture
def secret(tmp_path):
    """A file that must be neither read, written nor replaced; nor may ``nothing`` beside it be made."""
    path = tmp_path / "secret"
    path.write_text("nobody's business")
    path.chmod(0o600)
    yield path
    assert path.read_text() == "nobody's business" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (tmp_path / "nothing").exists()

"""Several runs at once, runs that are interrupted, runs that may not, runs in odd surroundings."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from copy import deepcopy

import pytest

from eni_bootstrap.agent.report import REMOVED
from eni_bootstrap.lab import probe
from eni_bootstrap.lab.vpc import macs_of, make_tree
from eni_bootstrap.model.errors import MetadataError
from tests import oracle
from tests.in_process import run_here

pytestmark = pytest.mark.clock

NOBODY = [sys.executable, "-c", """
import argparse, encodings.idna, gettext, locale, os, shlex, shutil, subprocess, sys, tenacity, textwrap, unicodedata
from eni_bootstrap import cli, linux
from eni_bootstrap.metadata import client
del sys.argv[1:4]  # the interpreter, -m, and the module
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(cli.main())
"""]
"""In front of the agent's command line: an ordinary user. All is imported first, as the interpreter may lie where only
root may look."""


@pytest.fixture
def agent(vpc, make_agent):
    return make_agent(vpc)


def works(vpc):
    return all(probe.ping(vpc.client, vpc.eip(vpc.address(name))) for name in ("eth0", "eth1", "eth2"))


def the_only_line(text):
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


# several at once


def all_of(processes):
    ends = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        ends.append((process.returncode, out, err))
    return ends


def test_six_runs_at_once_do_what_one_does(make_vpc, make_agent, tmp_path):
    vpc = make_vpc(make_tree(enis=4, addresses=5, ipv6=True), os={"eth2": "down"})
    agent = make_agent(vpc)
    before = oracle.kernel(vpc)
    assert agent("apply").code == 0
    once = oracle.kernel(vpc)
    assert agent("remove").code == 0
    assert oracle.kernel(vpc) == before
    ends = all_of([agent.start("apply") for _ in range(6)])
    assert [code for code, _, _ in ends] == [0] * 6, ends
    assert oracle.kernel(vpc) == once
    changed = [" 0 things changed" in " " + out.splitlines()[-1] for _, out, _ in ends]
    assert changed.count(False) == 1, "more than one run changed something: {}".format(ends)


def test_apply_and_remove_at_once_leave_all_or_nothing(vpc, agent):
    nothing = oracle.kernel(vpc)
    assert agent("apply").code == 0
    everything = oracle.kernel(vpc)
    for _ in range(3):
        ends = all_of([agent.start("apply"), agent.start("remove"), agent.start("apply"), agent.start("remove")])
        assert [code for code, _, _ in ends] == [0] * 4, ends
        assert oracle.kernel(vpc) in (nothing, everything)


@pytest.fixture
def held(agent):
    """Another process that has the lock."""
    os.makedirs(agent.directory, exist_ok=True)
    program = "import fcntl,time; f=open({!r},'w'); fcntl.flock(f, 2); print(1, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", program.format(os.path.join(agent.directory, "lock"))],
                              stdout=subprocess.PIPE, universal_newlines=True)
    holder.stdout.readline()
    yield holder
    holder.kill()
    holder.communicate()


def test_a_run_waits_for_another_and_says_so_and_goes_on_when_that_is_killed(vpc, agent, held):
    process = agent.start("apply")
    try:
        time.sleep(2.5)
        assert process.poll() is None
    finally:
        held.kill()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and works(vpc)
    assert "waiting for another run" in the_only_line(err)


@pytest.mark.parametrize("command", ["apply", "remove"])
def test_a_run_that_never_gets_its_turn_says_so_and_changes_nothing(command, vpc, agent, held):
    before = vpc.dump()
    started = time.monotonic()
    result = agent(command, "--timeout", 2)
    assert result.code == 1 and time.monotonic() - started < 4
    assert "another run" in result.err.splitlines()[-1] and vpc.dump() == before


def test_while_the_service_is_asked_again_others_can_work(vpc, agent, monkeypatch):
    """Something is to be removed, and the service hangs when it is asked whether that is so."""
    assert agent("apply").code == 0
    monkeypatch.setenv("RUNTIME_DIRECTORY", agent.directory)
    vpc.detach("eth2")
    ends = []

    def fetch():
        ends.append(agent("remove", "--timeout", 2) if len(ends) == 1 else None)
        return deepcopy(vpc.tree)

    assert run_here(vpc, fetch=fetch).findings == (REMOVED,)
    assert ends[1].code == 0
    assert [rule for rule in oracle.rules(vpc) if rule.get("protocol") == oracle.OURS] == []


def test_a_removal_while_apply_waits_is_the_last_word(make_vpc, make_agent, monkeypatch):
    vpc = make_vpc()
    agent = make_agent(vpc)
    vpc.detach("eth2", listed=True)
    nothing, ends = oracle.kernel(vpc), []
    monkeypatch.setenv("RUNTIME_DIRECTORY", agent.directory)

    def sleep(seconds):
        ends.append(agent("remove"))

    assert run_here(vpc, sleep=sleep).findings == (REMOVED,)
    assert [end.code for end in ends] == [0] and oracle.kernel(vpc) == nothing
    assert agent("apply", "--unattended").code == 0 and oracle.kernel(vpc) == nothing


def test_what_another_run_records_while_this_one_waits_is_not_forgotten(make_vpc, make_agent, monkeypatch):
    """An ENI is plugged in meanwhile, and the other run brings up its link."""
    vpc = make_vpc(os={"eth2": "down"})
    agent = make_agent(vpc)
    mac = vpc.nics["eth2"].mac
    leaves = deepcopy(macs_of(vpc.tree)[mac])
    vpc.detach("eth2", listed=True)
    monkeypatch.setenv("RUNTIME_DIRECTORY", agent.directory)
    asked = []

    def fetch():
        if asked:
            raise MetadataError("no metadata")
        asked.append(True)
        return deepcopy(vpc.tree)

    def sleep(seconds):
        vpc.attach(mac, leaves, name="eth2", os="down")
        before.append(oracle.show(vpc, "address show dev eth2"))
        assert agent("apply").code == 0 and oracle.table_of(vpc, "eth2")

    before = []
    run_here(vpc, fetch=fetch, sleep=sleep)
    assert agent("remove").code == 0
    for key in ("operstate", "addr_info", "group"):
        assert oracle.show(vpc, "address show dev eth2")[0][key] == before[0][0][key]


def test_a_run_that_can_t_write_down_whom_it_has_missed_tells_of_its_work(vpc, agent, monkeypatch):
    vpc.detach("eth2", listed=True)
    monkeypatch.setenv("RUNTIME_DIRECTORY", agent.directory)
    asked, locks = [], []

    def fetch():
        asked.append(True)
        if len(asked) > 1:
            locks.append(open(os.path.join(agent.directory, "lock")))
            fcntl.flock(locks[0], fcntl.LOCK_EX)
            raise MetadataError("no metadata")
        return deepcopy(vpc.tree)

    report = run_here(vpc, fetch=fetch, seconds=2)
    locks[0].close()
    assert report.changes and [verdict.ok for verdict in report.verdicts].count(True) >= 2


@pytest.mark.parametrize("command", ["plan", "verify", "status"])
def test_looking_takes_no_lock(command, vpc, agent, held):
    started = time.monotonic()
    agent(command)
    assert time.monotonic() - started < 1.5


# who may not


@pytest.fixture
def common_directory(agent):
    """What systemd makes: root's, readable by all. Not below pytest's own, which are for nobody else."""
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        agent.directory = os.path.join(parent, "run")
        yield agent.directory


@pytest.mark.parametrize("command", ["apply", "remove"])
def test_without_privileges_nothing_can_be_changed_and_that_is_said_plainly(command, vpc, agent):
    assert agent("apply").code == 0
    before = vpc.dump()
    result = agent.run(command, prefix=NOBODY)
    assert result.code == 4, result
    assert "root" in the_only_line(result.err) and not result.out
    assert vpc.dump() == before


@pytest.mark.parametrize("command", ["plan", "verify", "status"])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_looking_takes_no_privileges(command, options, vpc, agent, common_directory):
    assert agent("apply").code == 0
    as_root = agent.run(command, *options)
    as_nobody = agent.run(command, *options, prefix=NOBODY)
    assert as_nobody == as_root
    assert as_nobody.code == 0 and as_nobody.out and not as_nobody.err
    assert not options or as_nobody.json["ok"]


@pytest.mark.parametrize("command", ["plan", "verify", "status"])
def test_looking_before_anything_was_set_up_takes_no_privileges(command, vpc, agent):
    result = agent.run(command, prefix=NOBODY)
    assert result.code in (0, 1) and result.out and "Traceback" not in result.err
    assert not os.path.exists(agent.directory)


@pytest.mark.parametrize("command", ["plan", "verify", "status"])
def test_looking_at_a_record_that_only_root_may_read_is_no_error(command, vpc, agent, common_directory):
    assert agent("apply").code == 0
    os.chmod(agent.directory, 0o700)
    result = agent.run(command, prefix=NOBODY)
    assert result.code == 0 and "Traceback" not in result.err


# files


def test_a_run_directory_that_can_not_be_made_is_said_plainly(vpc, agent, tmp_path):
    (tmp_path / "file").write_text("")
    agent.directory = str(tmp_path / "file" / "run")
    before = vpc.dump()
    result = agent.run("apply")
    assert result.code in (1, 4) and "file/run" in the_only_line(result.err)
    assert vpc.dump() == before


def test_a_run_directory_that_can_not_be_written_is_said_plainly(vpc, agent):
    """An immutable directory, a full or a read-only file system: /proc is one that even root can't write to."""
    agent.directory = "/proc/sys/run"
    before = vpc.dump()
    result = agent.run("apply")
    assert result.code in (1, 4) and "/proc/sys/run" in the_only_line(result.err)
    assert vpc.dump() == before


CORRUPT = ["", "{", "[]", "null", '{"links": []}', '{"links": {"x": {}}}', '{"links": {"2": 7}}', "\udcff\udcfe",
           '{"links": {"2": {"addresses": ["garbage"]}}}', '{"links": {"2": {"group": "many"}}}', "[" * 100000]


@pytest.mark.parametrize("text", CORRUPT, ids=range(len(CORRUPT)))
def test_a_corrupt_record_stops_nothing(text, make_vpc, make_agent):
    vpc = make_vpc(os={"eth1": "down"})
    agent = make_agent(vpc)
    index = oracle.show(vpc, "link show eth1")[0]["ifindex"]
    assert agent("apply").code == 0
    path = os.path.join(agent.directory, "state.json")
    with open(path, "wb") as file:
        file.write(text.replace('"2"', '"{}"'.format(index)).encode("utf-8", "surrogateescape"))
    done = vpc.dump()
    for command in ("plan", "apply", "verify", "apply"):
        result = agent(command)
        assert result.code == 0 and "Traceback" not in result.err, result
    assert vpc.dump() == done and works(vpc)
    result = agent("remove")
    assert result.code == 0 and not [rule for rule in oracle.rules(vpc) if rule.get("protocol") == oracle.OURS]


def test_a_record_of_an_earlier_link_of_the_same_name_means_nothing(make_vpc, make_agent):
    vpc = make_vpc(os={"eth1": "down"})
    agent = make_agent(vpc)
    leaves = deepcopy(vpc.tree["network"]["interfaces"]["macs"]["00:16:3e:0e:00:02"])
    assert agent("apply").code == 0
    vpc.detach("eth1")
    vpc.attach("00:16:3e:0e:00:02", leaves=leaves, name="eth1", os="up")
    assert agent("apply").code == 0
    assert agent("remove").code == 0
    shown = oracle.show(vpc, "address show eth1")[0]
    assert "UP" in shown["flags"] and [held["local"] for held in shown["addr_info"] if held["family"] == "inet"]


# odd surroundings


@pytest.mark.parametrize("command", ["apply", "plan", "verify", "status", "remove"])
def test_with_one_eni_there_is_nothing_to_do(command, make_vpc, make_agent):
    vpc = make_vpc(make_tree(enis=1, ipv6=True))
    before = vpc.dump()
    result = make_agent(vpc)(command)
    assert result.code == 0 and vpc.dump() == before


def test_when_the_last_secondary_goes_all_of_ours_goes(make_vpc, make_agent):
    vpc = make_vpc(make_tree(enis=2, ipv6=True), os={"eth1": "down"})
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    vpc.detach("eth1")
    assert agent("apply").code == 0
    assert oracle.OURS not in [thing.get("protocol") for version in (4, 6) for thing in
                               oracle.rules(vpc, version) + oracle.routes(vpc, "all", version)]
    assert oracle.show(vpc, "link show eth0")[0].get("group") == "default"


def test_ctrl_c_is_one_line_and_130(make_vpc, make_agent):
    vpc = make_vpc(stall=True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins without it
    try:
        process = make_agent(vpc).start("apply")
    finally:
        signal.signal(signal.SIGINT, before)
    oracle.wait_until(lambda: vpc.service.requests, 10)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130 and "interrupted" in the_only_line(err) and not out


@pytest.mark.parametrize("command", ["apply", "plan", "verify", "status", "remove"])
def test_a_reader_that_goes_away_causes_no_traceback(command, vpc, agent):
    assert agent("apply").code == 0
    process = agent.start(command, "--json")
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(20)
    assert "Traceback" not in err and "Exception" not in err and process.returncode in (0, 1)


def test_without_standard_streams_it_works_too(vpc, agent):
    """Some init systems start programs with descriptors 0 to 2 closed."""
    process = agent.start("apply", prefix=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"])
    process.communicate(timeout=20)
    assert process.returncode == 0 and works(vpc)


@pytest.mark.parametrize("release", ["3.10.0-1160.el7.x86_64", "4.16.18", "4.9.0"])
@pytest.mark.parametrize("command", ["apply", "plan", "remove"])
def test_an_old_kernel_is_told_in_a_plain_sentence(release, command, vpc, agent, monkeypatch):
    names = namedtuple("uname", "sysname nodename release version machine")
    monkeypatch.setattr(os, "uname", lambda: names("Linux", "host", release, "#1 SMP", "x86_64"))
    before = vpc.dump()
    result = agent(command)
    assert result.code == 1 and "4.17" in the_only_line(result.err) and release in result.err
    assert vpc.dump() == before


@pytest.mark.parametrize("release", ["4.17.0", "4.19.91-26.al7.x86_64", "5.10.134-16.al8.x86_64", "10.0"])
def test_a_new_enough_kernel_will_do(release, vpc, agent, monkeypatch):
    names = namedtuple("uname", "sysname nodename release version machine")
    monkeypatch.setattr(os, "uname", lambda: names("Linux", "host", release, "#1 SMP", "x86_64"))
    assert agent("apply").code == 0


@pytest.mark.parametrize("arguments", [
    ["--timeout", "0"], ["--timeout", "nan"], ["--timeout", "inf"], ["--timeout", "-1"], ["--timeout", "x"],
    ["--timeout"], ["--timeout", "1e9"], ["--frobnicate"], ["frobnicate"], ["apply", "plan"],
    ["--metadata-url", "100.100.100.200"], ["--metadata-url", "ftp://100.100.100.200"], ["--metadata-url", "http://"],
    ["--metadata-url", "http://[::1"], ["--metadata-url", "http://host:99999"], ["--metadata-url", "http://a b/"],
    ["--metadata-url", ""],
], ids=" ".join)
def test_a_wrong_command_line_is_2_and_changes_nothing(arguments, vpc, agent, capfd):
    before = vpc.dump()
    result = agent(*arguments)
    told = result.err + capfd.readouterr().err
    assert result.code == 2, result
    assert told and "Traceback" not in told and vpc.dump() == before


def test_the_lock_is_free_after_every_run(vpc, agent):
    assert agent("apply").code == 0
    with open(os.path.join(agent.directory, "lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(os.path.join(agent.directory, "state.json")) as record:
        assert json.load(record)["links"]

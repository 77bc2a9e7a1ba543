"""The demo: it shows what happens on the wire, calls nothing cured that is not, and leaves nothing behind."""

import ctypes
import glob
import io
import json
import os
import subprocess
import sys
import tempfile
from copy import deepcopy

import pytest

from eni_bootstrap import cli
from eni_bootstrap.config import file as config_file
from eni_bootstrap.lab import demo, story
from eni_bootstrap.lab.vpc import macs_of, make_tree
from tests.agent import ROOT
from tests.unit.lab.test_demo import CLIENT


@pytest.fixture(autouse=True)
def own_directory_for_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def shown(capfd, *arguments):
    """What ``eni-bootstrap demo`` says; it must be content, and fit a terminal."""
    before = resources()
    code = cli.main(["demo"] + [str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert code == 0, out + err
    assert not err
    assert max(map(len, out.split("\n"))) <= story.WIDTH
    assert all(ord(character) < 128 for character in out)
    assert resources() == before
    return out


def resources():
    """What a demo could leave behind."""
    return sorted(os.listdir("/proc/self/fd")), glob.glob(os.path.join(tempfile.gettempdir(), "eni-bootstrap-demo-*"))


def rows(out):
    """The lines of the two tables: symptom and cure."""
    parts = out.split("  ENI")[1:]
    return [[line.split() for line in part.split("\n\n")[0].split("\n")[1:] if not line.startswith("  (")]
            for part in parts]


def test_three_enis_by_default(capfd):
    out = shown(capfd)
    assert out.count("vSwitch 172.16.10.0/24") == 1
    symptom, cure = rows(out)
    assert symptom == [
        ["eth0", "198.51.100.1", "ok", "ok", "ok", "eth0", "eth0", "-"],
        ["eth1", "198.51.100.2", "-", "-", "-", "eth1", "eth0", "source", "check"],
        ["eth2", "198.51.100.3", "-", "-", "-", "eth2", "eth0", "source", "check"],
    ]
    assert cure == [[dev, eip, "ok", "ok", "ok", dev, dev, "-"] for dev, eip, *_ in symptom]
    assert "ip -4 rule add from 172.16.20.10 lookup 1001" in out  # plan
    assert "17 things changed" in out  # apply
    assert "12 look-ups, none wrong" in out  # verify
    assert "Cured" in out


def test_ipv6_too(capfd):
    symptom, cure = rows(shown(capfd, "--ipv6"))
    assert len(symptom) == len(cure) == 6
    assert ["eth1", "2001:db8:20:a201::1000", "-", "-", "-", "eth1", "eth0", "source", "check"] in symptom
    assert ["eth1", "2001:db8:20:a201::1000", "ok", "ok", "ok", "eth1", "eth1", "-"] in cure


def test_more_enis_and_addresses(capfd):
    """Each ENI's first and last address, and it says so."""
    out = shown(capfd, "--enis", 5, "--addresses", 3)
    assert "(asked 10 of 15 addresses, of 5 of 5 ENIs)" in out
    symptom, cure = rows(out)
    assert [row[0] for row in symptom] == [row[0] for row in cure] == sorted(2 * ["eth%d" % n for n in range(5)])


def test_nothing_to_cure(capfd):
    out = shown(capfd, "--enis", 1)
    assert "nothing to cure" in out and "Cured" not in out


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_tree_of_your_own(capfd, tmp_path, wrapped):
    """In the sample's shape, or what is inside; here with a third vSwitch and a prefix."""
    tree = make_tree(4, vswitches=[0, 1, 2, 2], prefix=True)
    file = tmp_path / "tree.json"
    file.write_text(json.dumps({"latest": {"meta-data": tree}} if wrapped else tree))
    out = shown(capfd, "--metadata", file)
    assert all(block in out for block in ("172.16.10.0/24", "172.16.20.0/24", "172.16.30.0/24"))
    assert [row[0] for row in rows(out)[1]] == ["eth0", "eth1", "eth2", "eth3"]


def with_lists(tree):
    """The same as some tools save it: lists as JSON, not as text that holds one; and what else JSON has."""
    for leaves in macs_of(tree).values():
        for name in ("private-ipv4s", "ipv6s", "ipv4-prefixes", "vswitch-cidr-block"):
            leaves[name] = leaves[name].strip("[]").replace('"', "").replace(" ", "").split(",")
    return dict(tree, **{"owner-account-id": 1000000000000001, "spot": {"termination-time": None},
                         "tags": [{"a": [1.5]}], "dns-conf": {"nameservers": tree["dns-conf"]["nameservers"].split()}})


def test_a_tree_with_json_lists(capfd, tmp_path):
    """``render`` takes the same file."""
    file = tmp_path / "tree.json"
    tree = make_tree(3, addresses=2, ipv6=True, prefix=True)
    file.write_text(json.dumps(with_lists(deepcopy(tree))))
    out = shown(capfd, "--metadata", file)
    assert "172.16.20.10 and 1 more" in out
    assert [row[0] for row in rows(out)[1]] == [dev for dev in ("eth0", "eth1", "eth2") for _ in range(4)]
    assert cli.main(["render", "ip", "--metadata", str(file)]) == 0
    rendered = capfd.readouterr().out
    file.write_text(json.dumps(tree))
    assert cli.main(["render", "ip", "--metadata", str(file)]) == 0
    assert capfd.readouterr().out == rendered


def test_one_reader_of_the_file(capfd, tmp_path, monkeypatch):
    """Whatever it comes in, ``demo`` and ``render`` take the same: as Windows writes it, with a host, from stdin."""
    content = json.dumps({"meta-data": make_tree(2), "host": {"links": {}}})
    (tmp_path / "marked").write_bytes(content.encode("utf-8-sig"))
    (tmp_path / "wide").write_bytes(content.encode("utf-16"))
    for file in (tmp_path / "marked", tmp_path / "wide", "-"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(content))
        assert cli.main(["render", "ip", "--metadata", str(file)]) == 0
        capfd.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO(content))
        assert "Cured" in shown(capfd, "--metadata", file)


def test_a_shell_inside_the_instance(monkeypatch, capfd, tmp_path):
    """It sees the agent's rules, its directory and a way into the client's namespace."""
    shell = tmp_path / "shell"
    shell.write_text("#!/bin/sh\nip rule; ls $RUNTIME_DIRECTORY; nsenter --net=$CLIENT ip -brief address\n")
    shell.chmod(0o755)
    monkeypatch.setenv("SHELL", str(shell))
    out = shown(capfd, "--keep").split("This shell")[1]
    assert "from 172.16.20.10 lookup 1001" in out and "state.json" in out and str(CLIENT) in out


def give_up_capabilities():
    """As little as an ordinary user may, and still read an interpreter that is root's alone."""
    PR_CAPBSET_DROP, CAP_NET_ADMIN, CAP_SYS_ADMIN = 24, 12, 21
    for capability in (CAP_NET_ADMIN, CAP_SYS_ADMIN):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def test_an_ordinary_user_without_a_terminal():
    """The whole program; its shell finds no input and ends, and the lab with it."""
    done = subprocess.run(
        [sys.executable, "-m", "eni_bootstrap", "demo", "--keep"], preexec_fn=give_up_capabilities, cwd="/",
        env={"PYTHONPATH": ROOT, "PATH": os.environ["PATH"]}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    if done.returncode == 4 and not os.environ.get("CI"):
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout
    assert "Cured" in done.stdout and "This shell is inside the instance" in done.stdout


# it does not say what it has not seen


def test_an_agent_that_does_nothing_cures_nothing(capfd):
    assert demo.demonstrate(make_tree(), agent=["true"]) == 1
    out = capfd.readouterr().out
    symptom, cure = rows(out)
    assert cure == symptom
    assert ("Not cured: eth1 at 198.51.100.2 answered nothing; "
            "in by eth1, out by eth0, dropped at the source check.") in out
    assert "Cured" not in out


def test_an_agent_that_fails(capfd):
    assert demo.demonstrate(make_tree(2), agent=["false"]) == 1
    assert "The agent ended with exit code 1." in capfd.readouterr().out


# mistakes of the user


@pytest.mark.parametrize("arguments", [
    ["--enis", "0"], ["--enis", "33"], ["--addresses", "0"], ["--addresses", "51"], ["--enis", "many"],
    ["--metadata", "/nonexistent"],
], ids=" ".join)
def test_bad_arguments(capfd, arguments):
    assert cli.main(["demo"] + arguments) == 2
    out, err = capfd.readouterr()
    assert not out and arguments[-1] in err


@pytest.mark.parametrize("content, reason", [
    ("{", "not JSON"),
    ("[" * 100000, "not JSON"),
    ("[]", "meta-data is no JSON object"),
    ('{"latest": 5}', "meta-data is no JSON object"),
    ('{"latest": {"meta-data": {}}}', "names no primary ENI"),
    (json.dumps(make_tree(1)).replace('"172.16.10.253"', "5"),
     "the primary ENI can't be used: gateway is neither text nor a list of texts"),
    ('{"mac": "00:16:3e:0e:00:01", "network": {"interfaces": {"macs": {"00:16:3e:0e:00:01": {}}}}}',
     "the primary ENI can't be used"),
    (json.dumps(make_tree(33)), "33 ENIs, at most 32 can be shown"),
], ids=["broken", "deep", "a list", "a number", "empty", "no text", "a sick primary", "too many"])
def test_a_bad_file(capfd, tmp_path, content, reason):
    file = tmp_path / "tree.json"
    file.write_text(content)
    assert cli.main(["demo", "--metadata", str(file)]) == 2
    out, err = capfd.readouterr()
    assert not out
    assert str(file) in err and reason in err


def test_a_machine_that_can_not_have_a_lab(capfd, monkeypatch):
    def fail(*_, **__):
        raise OSError(30, "Read-only file system", "/proc/sys/net/ipv6/conf/default/disable_ipv6")

    monkeypatch.setattr(demo, "Vpc", fail)
    assert cli.main(["demo"]) == 1
    assert "the simulated VPC does not work on this machine: [Errno 30] Read-only file system" in capfd.readouterr().err


@pytest.mark.clock
def test_the_example_of_a_configuration_is_shown_with_all_that_is_in_it(capfd, tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text(config_file.EXAMPLE)
    out = shown(capfd, "--config", path)
    assert "The configuration: 600 flows" in out and "none wrong" in out
    flows = [line.split() for line in out.split("as many destinations")[1].split("\n") if line.startswith("  eth")]
    assert [(dev, source) for dev, source, _ in flows] == [
        ("eth0", "172.16.10.10"), ("eth1", "172.16.20.10"), ("eth2", "172.16.10.11")]
    assert sum(int(number) for _, _, number in flows) > 550

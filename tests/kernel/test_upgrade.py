"""From an earlier version to this one, on a host that runs: nothing is lost, nothing is there twice."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from eni_bootstrap.lab.vpc import make_tree
from tests.agent import ROOT
from tests.oracle import assert_every_eni_answers, ip, kernel, rules, show, steady_pings


OLD = os.path.join(ROOT, "tests", "kernel", "earlier.zip")
"""The last package before it moved into folders, when records had no version. It was made by
``git archive -9 --format zip 744711f eni_bootstrap``; the commit itself is not in a shallow clone, nor in an sdist."""


@pytest.fixture(scope="module")
def old_root(tmp_path_factory):
    """Where the old package is."""
    path = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(OLD) as packed:
        packed.extractall(str(path))
    return str(path)


def run_old(root, agent, *arguments):
    """The old program; its folder is the working one, which comes before PYTHONPATH."""
    done = agent.vpc.instance.run(
        [sys.executable, "-m", "eni_bootstrap"] + [str(argument) for argument in arguments], check=False, cwd=root,
        env=dict(os.environ, PYTHONPATH=root, RUNTIME_DIRECTORY=agent.directory),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stdout + done.stderr


def configured(vpc):
    """Rules, routes and addresses as the kernel lists them, in an order of their own: what is there twice is twice."""
    found = [rules(vpc, version) for version in (4, 6)]
    found += [show(vpc, "-{} route show table all".format(version)) for version in (4, 6)]
    found += [[dict(address, dev=link["ifname"], group=link.get("group")) for link in show(vpc, "address show")
               for address in link["addr_info"]]]
    return [sorted(json.dumps(each, sort_keys=True) for each in kind) for kind in found]


def nftables(vpc):
    return vpc.instance.run(["nft", "list", "ruleset"]).stdout


@pytest.mark.parametrize("config", ["", "assign: all\n", "connection-marks: {}\n"], ids=repr)
@pytest.mark.parametrize("os, names", [("dhcp", None), ("down", None), ("up", ["ens5", "ens6", "ens7"])],
                         ids=["DHCP", "links down", "other names"])
def test_on_a_host_that_runs(make_vpc, make_agent, old_root, tmp_path, config, os, names):
    vpc = make_vpc(make_tree(ipv6=True, addresses=2, prefix=True), os=os, names=names)
    agent = make_agent(vpc)
    path = tmp_path / "eni-bootstrap.yaml"
    path.write_text(config)
    before, table = kernel(vpc), nftables(vpc)
    run_old(old_root, agent, "apply", "--config", path)
    record = tmp_path / "run" / "state.json"
    assert "version" not in json.loads(record.read_text())
    assert_every_eni_answers(vpc)
    targets = list(vpc.eips.values()) + [vpc.address(dev, 6) for dev in vpc.nics]
    with steady_pings(vpc, targets) as told:
        for command in ("apply", "verify", "apply"):
            done = agent.run(command, "--config", path)
            assert done.code == 0, done
    assert len(told) == 6 and all(sent > 20 for sent, _ in told.values())
    assert {target: lost for target, (_, lost) in told.items() if lost} == {}
    assert json.loads(record.read_text())["version"] == 1
    upgraded, marks = configured(vpc), nftables(vpc)
    assert agent.run("remove", "--config", path).code == 0
    assert (kernel(vpc), nftables(vpc)) == (before, table)
    assert agent.run("apply", "--config", path).code == 0
    assert configured(vpc) == upgraded
    assert nftables(vpc) == marks and ("eni_bootstrap" in marks) == ("marks" in config)


def test_what_the_old_one_has_set_up_is_taken_back_at_once(make_vpc, make_agent, old_root):
    """Without a run in between."""
    vpc = make_vpc(make_tree(ipv6=True, addresses=2), os="down")
    agent = make_agent(vpc)
    before = kernel(vpc)
    run_old(old_root, agent, "apply")
    assert agent.run("remove").code == 0
    assert kernel(vpc) == before


def test_the_pings_would_notice(make_vpc, make_agent):
    """Somebody takes an ENI's rules away for a moment."""
    vpc = make_vpc(make_tree(ipv6=True))
    assert make_agent(vpc)("apply").code == 0
    targets = [vpc.eips["eth1"], vpc.address("eth1", 6), vpc.eips["eth2"]]
    with steady_pings(vpc, targets) as told:
        for version in (4, 6):
            priority = "7200 from {}".format(vpc.address("eth1", version))
            ip(vpc, "-{} rule del priority {}".format(version, priority))
            vpc.instance.run(["sleep", "0.1"])
            ip(vpc, "-{} rule add priority {} lookup 1001 protocol 235".format(version, priority))
    lost = [told[str(target)][1] for target in targets]
    assert lost[0] > 1 and lost[1] > 1 and lost[2] == 0

"""The whole program where links have odd names: any bytes but a slash, a colon and white space."""

import json
import os
import re

import pytest

from eni_bootstrap.kernel.kernel import Kernel
from eni_bootstrap.lab.vpc import make_tree
from eni_bootstrap.model import output
from eni_bootstrap.model.changes import Change
from eni_bootstrap.model.kernel import LinkSetting, LinkUp, Rule, bytes_of, name_of
from tests.build import net
from tests.oracle import assert_answers_by
from tests.unit.test_link_names import IDS, NAMES

each_kind = pytest.mark.parametrize("name", [b"\xff\xfe", b"q\xc2\x85\xc3\xa9'$\x1c"], ids=["no UTF-8", "UTF-8"])
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""As at boot, where nobody has set a language, on Python 3.6; since 3.7 it takes all three."""


def test_what_can_not_be_built_sends_nothing(vpc):
    """All messages of a batch are built before the first is sent.

    More than go into one send, a sysctl, and at the end a device that is not there.
    """
    with vpc.instance:
        kernel = Kernel()
        kernel.links()
    good = [Change("add", Rule(4, 7200, net("10.9.{}.{}/32".format(*divmod(number, 250))), table=1001), 235)
            for number in range(500)]
    sysctl = Change("add", LinkSetting("eth1", "rp_filter", 2), 235)
    before = vpc.dump()
    with vpc.instance, pytest.raises(KeyError):
        kernel.apply([sysctl, *good, Change("add", LinkUp("eth7"), 235)])
    assert vpc.dump() == before
    assert vpc.instance.run(["cat", "/proc/sys/net/ipv4/conf/eth1/rp_filter"]).stdout == "0\n"
    with vpc.instance:
        assert kernel.apply([sysctl, *good]) == []
        kernel.close()
    assert vpc.dump().count("lookup 1001") == 500
    assert vpc.instance.run(["cat", "/proc/sys/net/ipv4/conf/eth1/rp_filter"]).stdout == "2\n"


def ip(vpc, *words):
    """What ``ip`` says, as bytes; a word may be bytes, the others are split."""
    command = [word for part in words for word in ([part] if isinstance(part, bytes) else part.split())]
    return vpc.instance.run(["ip"] + command, universal_newlines=False).stdout


def state(vpc):
    links = re.sub(b" (qdisc|state) [a-zA-Z]+", b"", ip(vpc, "link"))
    return ip(vpc, "-d rule"), ip(vpc, "-6 -d rule"), ip(vpc, "-d route show table all"), links


def all_well(agent):
    """Whatever is asked: it works, and a second run has nothing to do."""
    assert agent("plan").out.splitlines()[0] == "# nothing to do"
    for result in (agent("apply"), agent("status"), agent("verify"), agent.run("verify", **ASCII)):
        assert result.code == 0 and not result.err, result
        assert all(line.isprintable() for line in result.out.split("\n"))
    assert agent.run("verify", "--json", **ASCII).json["ok"]


@each_kind
def test_as_somebody_s_link(vpc, make_agent, name):
    agent = make_agent(vpc)
    ip(vpc, "link add name", name, "type bridge")
    ip(vpc, "link set dev", name, "up alias", b"\xfe\xff")
    ip(vpc, "link property add dev", name, "altname", b"other-" + name)
    ip(vpc, "address add 172.17.0.1/16 dev", name)
    before = ip(vpc, "link show dev", name)
    assert agent.run("apply", **ASCII).code == 0
    all_well(agent)
    for dev in ("eth1", "eth2"):
        assert_answers_by(vpc, dev, vpc.address(dev))
    assert agent("remove").code == 0
    assert ip(vpc, "link show dev", name) == before


@each_kind
def test_as_a_child_of_an_eni_s_link_and_as_a_parent(vpc, make_agent, name):
    """Of an ENI that has a macvlan as containers have; that one is left alone."""
    agent = make_agent(vpc)
    ip(vpc, "link add link eth1 name", name, "type macvlan mode private")
    ip(vpc, "link add link", name, "name", name[:-1] + b"0", "type macvlan mode private")
    assert "because {} is made of it".format(output.shown(name_of(name), "ascii")) in agent.run("apply", **ASCII).out
    assert b"from 172.16.20.10 " not in ip(vpc, "rule")
    all_well(agent)
    assert_answers_by(vpc, "eth2", vpc.address("eth2"))


@each_kind
def test_as_an_eni_s_master(vpc, make_agent, name):
    """A bridge with eth1 as its port carries eth1's address, routes and group."""
    agent = make_agent(vpc)
    ip(vpc, "link add name", name, "address " + vpc.nics["eth1"].mac + " type bridge")
    ip(vpc, "link set eth1 master", name)
    ip(vpc, "address flush dev eth1")
    ip(vpc, "link set dev", name, "up")
    ip(vpc, "address add 172.16.20.10/24 dev", name)
    assert agent.run("apply", **ASCII).code == 0
    assert b"oif " + name + b" lookup 1001" in ip(vpc, "rule")
    all_well(agent)
    assert_answers_by(vpc, "eth1", vpc.address("eth1"))
    assert agent("remove").code == 0
    assert b"lookup 100" not in ip(vpc, "rule") and not ip(vpc, "route show table all proto 235")


@each_kind
@pytest.mark.parametrize("done", ["dhcp", "down"])
def test_as_an_eni_s_link(make_vpc, make_agent, name, done):
    """IPv6 too, of which a sysctl tells whether it is on; and a secondary, a sysctl of whose link is asked for."""
    vpc = make_vpc(make_tree(2, ipv6=True), os=done)
    agent = make_agent(vpc)
    if done == "dhcp":
        vpc.instance.run("ip link set eth1 down".split())
    ip(vpc, "link set dev eth1 name", name)
    if done == "dhcp":
        ip(vpc, "link set dev", name, "up")
        ip(vpc, "-6 address add {}/128 dev".format(vpc.address("eth1", 6)), name)
    first = state(vpc)
    planned = agent.run("plan", **ASCII)
    assert planned.code == 0
    for shell in ("sh", "bash"):
        vpc.instance.run([shell, "-ec", planned.out])
        assert b"oif " + name + b" lookup 1001" in ip(vpc, "rule")
        assert agent.run("plan", **ASCII).out.splitlines()[0] == "# nothing to do"
        assert agent.run("remove", **ASCII).code == 0
        if done == "down":  # who has typed a plan has left no record
            ip(vpc, "address flush dev", name)
            ip(vpc, "link set dev", name, "down")
    assert agent.run("apply", **ASCII).code == 0
    all_well(agent)
    for version in (4, 6):
        assert_answers_by(vpc, "eth1", vpc.address("eth1", version))
    shown = agent.run("status", "--json", **ASCII).json["enis"]
    assert [bytes_of(eni["device"]) for eni in shown] == [b"eth0", name]
    assert bytes_of(json.loads(agent.run("metadata", **ASCII).out)["host"]["links"][vpc.nics["eth1"].mac]) == name
    rendered = agent.run("render", "ip", **ASCII)
    assert rendered.code == 2 and "is no name of an ENI's link that can be written into files" in rendered.err
    assert agent.run("remove", **ASCII).code == 0
    assert state(vpc) == first


@each_kind
def test_a_sysctl_and_the_mtu_of_such_a_link(make_vpc, make_agent, tmp_path, name):
    (tmp_path / "config").write_text("links: [{eni: '%s', rp-filter: 2, mtu: 1400}]\n" % "00:16:3e:0e:00:02")
    vpc = make_vpc(os="down")
    agent = make_agent(vpc)
    ip(vpc, "link set dev eth1 name", name)
    assert agent.run("apply", "--config", tmp_path / "config", **ASCII).code == 0
    assert vpc.instance.run([b"cat", b"/proc/sys/net/ipv4/conf/" + name + b"/rp_filter"]).stdout == "2\n"
    assert b" mtu 1400 " in ip(vpc, "link show dev", name)
    assert agent.run("remove", **ASCII).code == 0
    assert vpc.instance.run([b"cat", b"/proc/sys/net/ipv4/conf/" + name + b"/rp_filter"]).stdout == "0\n"
    assert b" mtu 1500 " in ip(vpc, "link show dev", name)


@each_kind
@pytest.mark.parametrize("word", ["iif", "oif"])
def test_as_the_device_of_somebody_s_rule(vpc, make_agent, name, word):
    """It is shown by its name, with its link and without; and stays."""
    agent = make_agent(vpc)
    ip(vpc, "link add name", name, "type bridge")
    ip(vpc, "rule add " + word, name, "lookup 1001 priority 9000")
    ip(vpc, "rule add " + word, name, "lookup 77 priority 7555 protocol 9")
    theirs = [line for line in ip(vpc, "rule").splitlines() if name in line]
    result = agent.run("apply", **ASCII)
    assert result.code == 0
    assert "somebody else's rule leads to it: from all {} {} lookup 1001".format(
        word, output.shown(name_of(name), "ascii")) in result.out
    all_well(agent)
    ip(vpc, "link del dev", name)
    all_well(agent)
    assert agent("remove").code == 0
    assert [line.replace(b" [detached]", b"") for line in ip(vpc, "rule").splitlines() if name in line] == theirs


@pytest.mark.parametrize("name", NAMES[:3], ids=IDS[:3])
def test_nft_is_told_such_a_name(make_vpc, make_agent, tmp_path, name):
    """One that is not made of letters means something to nft: its ENI is named instead."""
    (tmp_path / "config").write_text("connection-marks: {}\n")
    vpc = make_vpc(os="down")
    agent = make_agent(vpc)
    ip(vpc, "link set dev eth1 name", name)
    planned = agent.run("plan", "--config", tmp_path / "config", **ASCII)
    vpc.instance.run(["sh", "-ec", planned.out])
    listed = vpc.instance.run(["nft", "list", "ruleset"], universal_newlines=False).stdout
    assert b'iifname "' + name + b'" ct state new' in listed
    for command in ("apply", "verify", "status", "plan"):
        result = agent.run(command, "--config", tmp_path / "config", **ASCII)
        assert result.code == 0, result
    assert result.out.splitlines()[0] == "# nothing to do"
    assert vpc.instance.run(["nft", "list", "ruleset"], universal_newlines=False).stdout == listed
    assert agent.run("remove", "--config", tmp_path / "config", **ASCII).code == 0
    assert vpc.instance.run(["nft", "list", "ruleset"], universal_newlines=False).stdout == b""


def test_a_name_that_nft_can_not_be_told(make_vpc, make_agent, tmp_path):
    (tmp_path / "config").write_text("connection-marks: {}\n")
    vpc = make_vpc(os="down")
    agent = make_agent(vpc)
    ip(vpc, "link set dev eth1 name", b"\xff*")
    result = agent.run("apply", "--config", tmp_path / "config", **ASCII)
    assert result.code == 1
    assert "nft can't be told a name like \\xff*" in result.out
    assert os.path.exists(str(tmp_path / "run" / "state.json"))

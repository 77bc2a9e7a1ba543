"""What metadata lacks or tells badly of one ENI, or of one of its address families, costs that family only; on the real
kernel."""

import itertools
import time

import pytest

from eni_bootstrap.lab import probe
from eni_bootstrap.lab.vpc import macs_of, make_tree
from tests.oracle import (
    NO_WAY, OURS, OUTSIDE, assert_answers_by, defaults, ip, kernel, leaves_by, routes, rules, show, sources_led_to,
    table_of,
)


GATEWAY = {4: "gateway", 6: "ipv6-gateway"}
FAMILIES = pytest.mark.parametrize("sick, well", [(6, 4), (4, 6)], ids=["IPv6 is sick", "IPv4 is sick"])
SHORT = ("--timeout", 2)
"""Seconds: a leaf that is missing is waited for, and none comes here."""


def lacks(vpc, dev, *leaves):
    """The metadata service does not tell these leaves of the ENI; none: it tells all."""
    vpc.service.faults.missing = {vpc.nics[dev].mac: leaves} if leaves else {}


def configured(vpc, version):
    """All rules and routes of one family, as the kernel lists them."""
    return rules(vpc, version), show(vpc, "-{} route show table all".format(version))


def names(result, dev, leaf):
    """Whether the sick ENI is named, with what it lacks."""
    return any("eni-bp1exampleeni0000" in line and ", {})".format(dev) in line and leaf + " is missing" in line
               for line in result.out.splitlines())


def assert_works(vpc, dev, version):
    assert_answers_by(vpc, dev, vpc.address(dev, version), asks=[probe.ping, probe.tcp])


def ours_of(vpc, dev, table, version):
    """Our rules and routes of an ENI."""
    return ([rule for rule in rules(vpc, version) if rule.get("protocol") == OURS and (
        rule.get("table") == str(table) or rule.get("oif") == dev)], routes(vpc, table, version))


# one address family


@FAMILIES
@pytest.mark.parametrize("os", ["dhcp", "down"])
def test_on_a_first_run_the_other_family_is_set_up(make_vpc, make_agent, sick, well, os):
    vpc = make_vpc(make_tree(ipv6=True), os=os)
    agent = make_agent(vpc)
    before = kernel(vpc)
    lacks(vpc, "eth1", GATEWAY[sick])
    result = agent("apply", *SHORT)
    assert result.code == 1 and names(result, "eth1", GATEWAY[sick]), result
    assert table_of(vpc, "eth1", well) == 1001
    assert sources_led_to(vpc, 1001, well) == {str(vpc.address("eth1", well))}
    assert_works(vpc, "eth1", well)
    assert table_of(vpc, "eth1", sick) is None and routes(vpc, 1001, sick) == []
    for version in (4, 6):
        assert table_of(vpc, "eth2", version) == 1002
        assert_works(vpc, "eth2", version)
    state = kernel(vpc)
    assert agent("apply", *SHORT).code == 1 and kernel(vpc) == state
    lacks(vpc, "eth1")
    result = agent("apply", "--timeout", 20)
    assert result.code == 0, result
    for dev, version in itertools.product(vpc.nics, (4, 6)):
        assert_works(vpc, dev, version)
    assert agent("verify").code == 0
    assert agent("remove").code == 0
    assert kernel(vpc) == before


@FAMILIES
@pytest.mark.parametrize("os, assign", [("dhcp", ""), ("down", ""), ("down", "assign: all\n")],
                         ids=["dhcp", "down", "all assigned"])
def test_what_the_sick_family_has_stays_and_the_other_one_follows(make_vpc, make_agent, tmp_path, sick, well, os,
                                                                  assign):
    """A new address of the ENI comes in both; the sick one gets it when it is well again."""
    vpc = make_vpc(make_tree(ipv6=True, addresses=2, vswitches="own"), os=os)
    agent = make_agent(vpc)
    before = kernel(vpc)
    path = tmp_path / "eni-bootstrap.yaml"
    path.write_text(assign)
    config = ("--config", path, "--timeout", 20)
    assert agent("apply", *config).code == 0
    there = configured(vpc, sick)
    held = show(vpc, "-{} address show".format(sick))
    lacks(vpc, "eth1", GATEWAY[sick])
    leaves = macs_of(vpc.tree)[vpc.nics["eth1"].mac]
    leaves["private-ipv4s"] = leaves["private-ipv4s"].replace("]", ',"172.16.20.77"]')
    leaves["ipv6s"] = leaves["ipv6s"].replace("]", ", 2001:db8:20:a201::77]")
    vpc.refresh()
    new = {4: "172.16.20.77", 6: "2001:db8:20:a201::77"}
    result = agent("apply", *config, *SHORT)
    assert result.code == 1 and names(result, "eth1", GATEWAY[sick]), result
    assert configured(vpc, sick) == there
    assert [(link["ifname"], link["addr_info"]) for link in show(vpc, "-{} address show".format(sick))] == [
        (link["ifname"], link["addr_info"]) for link in held]
    assert new[well] in sources_led_to(vpc, 1001, well) and new[sick] not in sources_led_to(vpc, 1001, sick)
    for version in (4, 6):
        assert_works(vpc, "eth1", version)
    assert (new[well] in ip(vpc, "address show dev eth1")) == bool(assign)
    lacks(vpc, "eth1")
    assert agent("apply", *config).code == 0
    assert all(new[version] in sources_led_to(vpc, 1001, version) for version in (4, 6))
    assert agent("remove").code == 0
    assert kernel(vpc) == before


@FAMILIES
def test_what_is_there_of_a_sick_family_is_taken_back_as_exactly(make_vpc, make_agent, sick, well):
    """While the leaf is missing, too."""
    vpc = make_vpc(make_tree(ipv6=True), os="down")
    before = kernel(vpc)
    agent = make_agent(vpc)
    assert agent("apply", "--timeout", 20).code == 0
    lacks(vpc, "eth1", GATEWAY[sick])
    assert agent("apply", *SHORT).code == 1
    assert agent("remove").code == 0
    assert kernel(vpc) == before


@FAMILIES
@pytest.mark.parametrize("installed", [False, True], ids=["first run", "later run"])
def test_the_primary_is_sick_in_one_family(make_vpc, make_agent, sick, well, installed):
    vpc = make_vpc(make_tree(ipv6=True))
    agent = make_agent(vpc)
    before = kernel(vpc)
    assert not installed or agent("apply").code == 0
    there = configured(vpc, sick)
    lacks(vpc, "eth0", GATEWAY[sick])
    result = agent("apply", *SHORT)
    assert result.code == 1 and names(result, "eth0", GATEWAY[sick]), result
    assert not installed or configured(vpc, sick) == there
    for dev, version in itertools.product(vpc.nics, (4, 6)):
        if installed or (dev, version) != ("eth0", sick):
            assert_works(vpc, dev, version)
    lacks(vpc, "eth0")
    assert agent("apply").code == 0 and agent("verify").code == 0
    assert agent("remove").code == 0 and kernel(vpc) == before


# an ENI behind a master


@pytest.fixture
def bridged(make_vpc):
    """Three ENIs with both address families; eth1 is a port of br0, which has its addresses and default routes."""
    vpc = make_vpc(make_tree(ipv6=True, vswitches="own"), os={"eth1": "down"})
    vpc.instance.sysctl("net/ipv6/conf/default/accept_dad", 0)
    for command in ("link add br0 type bridge", "link set eth1 master br0", "link set eth1 up", "link set br0 up"):
        ip(vpc, command)
    for version, length, metric in ((4, 24, 200), (6, 128, 1200)):
        ip(vpc, "address add {}/{} dev br0".format(vpc.address("eth1", version), length))
        ip(vpc, "-{} route add default via {} dev br0 onlink metric {}".format(
            version, vpc.subnet("eth1", version).gateway, metric))
    return vpc


@pytest.mark.parametrize("leaves", [["ipv6-gateway"], ["gateway"], ["gateway", "ipv6-gateway"]],
                         ids=["IPv6", "IPv4", "the ENI"])
@pytest.mark.parametrize("config", ["", "access:\n  - {from: [10.99.0.0/16, 'fd99::/64'], via: eth1}\n"],
                         ids=["", "with an entry"])
def test_what_a_sick_eni_behind_a_bridge_has_stays(bridged, make_agent, tmp_path, leaves, config):
    vpc, agent, path = bridged, make_agent(bridged), tmp_path / "eni-bootstrap.yaml"
    path.write_text(config)
    before = kernel(vpc)
    assert agent("apply", "--config", path).code == 0
    assert {table_of(vpc, "br0", version) for version in (4, 6)} == {1001}
    there = kernel(vpc)
    lacks(vpc, "eth1", *leaves)
    for _ in range(2):
        result = agent("apply", "--config", path, *SHORT)
        assert "0 things changed" in result.out and kernel(vpc) == there, result.out
        assert result.code == 1 and names(result, "br0", leaves[0]), result.out
        assert "does not list it" not in result.out and "no ENI is named" not in result.out
    for version in (4, 6):
        assert_works(vpc, "eth1", version)
    lacks(vpc, "eth1")
    assert "0 things changed" in agent("apply", "--config", path).out and agent("verify", "--config", path).code == 0
    assert agent("remove", "--config", path).code == 0 and kernel(vpc) == before


@FAMILIES
def test_on_a_first_run_the_other_family_behind_a_bridge_is_set_up(bridged, make_agent, sick, well):
    vpc, agent = bridged, make_agent(bridged)
    lacks(vpc, "eth1", GATEWAY[sick])
    result = agent("apply", *SHORT)
    assert result.code == 1 and names(result, "br0", GATEWAY[sick]), result.out
    assert (table_of(vpc, "br0", well), table_of(vpc, "br0", sick)) == (1001, None)
    assert_works(vpc, "eth1", well)
    assert "group 60235" in ip(vpc, "link show br0") and "group default" in ip(vpc, "link show eth1")
    lacks(vpc, "eth1")
    assert agent("apply").code == 0 and agent("verify").code == 0
    assert_works(vpc, "eth1", sick)


BAD = {4: "198.51.100.77", 6: "2001:db9::77"}
"""Addresses outside the vSwitch and the VPC: no secondary can have them."""
NOBODY_S = {4: "127.0.0.7", 6: "fe80::7:7"}
"""Addresses that no ENI can have, the primary neither."""
LIST = {4: "private-ipv4s", 6: "ipv6s"}


def tells(vpc, dev, version, address):
    """The metadata service gives the ENI one more address, which the cloud does not know."""
    leaves = macs_of(vpc.tree)[vpc.nics[dev].mac]
    quote = '"' if version == 4 else ""
    leaves[LIST[version]] = leaves[LIST[version]].replace("]", ",{0}{1}{0}]".format(quote, address))


@FAMILIES
@pytest.mark.parametrize("dev", ["eth0", "eth1"])
@pytest.mark.parametrize("os, installed", [("dhcp", False), ("down", False), ("dhcp", True), ("down", True)],
                         ids=["dhcp, first run", "down, first run", "dhcp, later run", "down, later run"])
def test_one_bad_address_costs_its_family_only(make_vpc, make_agent, sick, well, dev, os, installed):
    """The address gets no rule, and what is there of its family stays."""
    vpc = make_vpc(make_tree(ipv6=True, vswitches="own"), os=os)
    agent = make_agent(vpc)
    before = kernel(vpc)
    assert not installed or agent("apply", "--timeout", 20).code == 0
    there = configured(vpc, sick)
    good = macs_of(vpc.tree)[vpc.nics[dev].mac][LIST[sick]]
    tells(vpc, dev, sick, (BAD if dev != "eth0" else NOBODY_S)[sick])
    result = agent("apply", "--timeout", 20)
    assert result.code == 1 and ", {}): metadata gives it ".format(dev) in result.out, result
    assert not installed or configured(vpc, sick) == there
    for version in (4, 6):
        assert BAD[version] not in str(configured(vpc, version))
        assert NOBODY_S[version] not in str(rules(vpc, version))
    assert sources_led_to(vpc, {"eth0": 1000, "eth1": 1001}[dev], well) == {str(vpc.address(dev, well))}
    for own in ("eth1", "eth2"):
        for version in (4, 6):
            expected = {"eth1": 1001, "eth2": 1002}[own] if installed or (own, version) != (dev, sick) else None
            assert table_of(vpc, own, version) == expected
    for own, version in itertools.product(vpc.nics, (4, 6)):
        if installed or (own, version) != (dev, sick):
            assert_works(vpc, own, version)
    state = kernel(vpc)
    assert agent("apply", "--timeout", 20).code == 1 and kernel(vpc) == state
    macs_of(vpc.tree)[vpc.nics[dev].mac][LIST[sick]] = good
    assert agent("apply", "--timeout", 20).code == 0 and agent("verify").code == 0
    for own, version in itertools.product(vpc.nics, (4, 6)):
        assert_works(vpc, own, version)
    assert agent("remove").code == 0 and kernel(vpc) == before


@pytest.mark.parametrize("installed", [False, True], ids=["first run", "later run"])
@pytest.mark.parametrize("is_bad", [lambda vpc: lacks(vpc, "eth1", "ipv6-gateway"),
                                    lambda vpc: tells(vpc, "eth1", 6, BAD[6])],
                         ids=["a leaf is missing", "an address is bad"])
def test_nobody_misses_ipv6_that_is_switched_off(make_vpc, make_agent, is_bad, installed):
    """A remark and exit code 0, at once, and the same rules and routes as with a complete description."""
    vpc = make_vpc(make_tree(ipv6=True))
    agent = make_agent(vpc)
    assert not installed or agent("apply").code == 0
    vpc.instance.sysctl("net/ipv6/conf/eth1/disable_ipv6", 1)
    leaves = macs_of(vpc.tree)[vpc.nics["eth1"].mac]
    good = dict(leaves)
    is_bad(vpc)
    started = time.monotonic()
    result = agent("apply")
    assert result.code == 0 and "IPv6 is switched off on the device" in result.out, result
    assert time.monotonic() - started < 15, "a leaf that is missing is waited for 20 s"
    assert table_of(vpc, "eth1", 6) is None and routes(vpc, 1001, 6) == []
    assert_works(vpc, "eth1", 4)
    for version in (4, 6):
        assert_works(vpc, "eth2", version)
    state = kernel(vpc)
    lacks(vpc, "eth1")
    leaves.update(good)
    assert agent("apply").code == 0 and kernel(vpc) == state


# numbers


def metrics(vpc, version=4):
    """Of our default routes in main."""
    return {dev: metric for dev, metric, protocol in defaults(vpc, version) if protocol == OURS}


def tables(vpc, *devs):
    return [table_of(vpc, dev) for dev in devs]


@pytest.mark.parametrize("leaves", [["gateway"], ["gateway", "ipv6-gateway"]], ids=["IPv4", "both"])
def test_nobody_s_number_depends_on_another_one_s_health(make_vpc, make_agent, leaves):
    vpc = make_vpc(make_tree(4, ipv6=True), names=["eth0", "ens5", "ens6", "ens7"], os="up")
    agent = make_agent(vpc)
    lacks(vpc, "ens6", *leaves)
    assert agent("apply", *SHORT).code == 1
    assert tables(vpc, "ens5", "ens6", "ens7") == [1001, None, 1003]
    assert metrics(vpc) == {"ens5": 200, "ens7": 400}
    lacks(vpc, "ens6")
    assert agent("apply").code == 0
    assert tables(vpc, "ens5", "ens6", "ens7") == [1001, 1002, 1003]
    assert metrics(vpc) == {"ens5": 200, "ens6": 300, "ens7": 400}
    ens6 = metrics(vpc, 6)
    assert sorted(ens6, key=ens6.get) == ["ens5", "ens6", "ens7"]


def test_with_a_primary_of_that_kind_of_name(make_vpc, make_agent):
    vpc = make_vpc(make_tree(3, vswitches="own"), names=["ens5", "ens6", "ens7"], os="up")
    agent = make_agent(vpc)
    lacks(vpc, "ens6", "gateway")
    assert agent("apply", *SHORT).code == 1
    assert tables(vpc, "ens6", "ens7") == [None, 1002] and metrics(vpc) == {"ens7": 300}
    there = ours_of(vpc, "ens7", 1002, 4)
    lacks(vpc, "ens6")
    assert agent("apply").code == 0
    assert tables(vpc, "ens6", "ens7") == [1001, 1002] and metrics(vpc) == {"ens6": 200, "ens7": 300}
    assert ours_of(vpc, "ens7", 1002, 4) == there
    for dev in vpc.nics:
        assert_works(vpc, dev, 4)


def test_a_link_that_comes_later_moves_nobody(make_vpc, make_agent):
    """Also where it stands before the others in natural order, and with a number that it would give them."""
    tree = make_tree(4, vswitches="own")
    vpc = make_vpc(tree, names=["ens5", "ens7", "ens8", "ens9"], os="up")
    agent = make_agent(vpc)
    late = vpc.nics["ens9"].mac
    leaves = macs_of(tree)[late]
    vpc.detach("ens9")
    assert agent("apply").code == 0
    there = {dev: ours_of(vpc, dev, table, 4) for dev, table in (("ens7", 1001), ("ens8", 1002))}
    assert metrics(vpc) == {"ens7": 200, "ens8": 300}
    vpc.attach(late, leaves, name="ens6", os="up")
    assert agent("apply").code == 0
    assert {dev: ours_of(vpc, dev, table, 4) for dev, table in (("ens7", 1001), ("ens8", 1002))} == there
    found = table_of(vpc, "ens6")
    assert found not in (None, 1001, 1002)
    assert {dev: metric for dev, metric in metrics(vpc).items() if dev != "ens6"} == {"ens7": 200, "ens8": 300}
    for dev in vpc.nics:
        assert_works(vpc, dev, 4)
    state = kernel(vpc)
    assert agent("apply").code == 0 and kernel(vpc) == state


# names


VIA = ["eth1", "eni-bp1exampleeni00002", "00:16:3e:0e:00:02", "vsw-bp1examplevsw00002"]


@pytest.mark.parametrize("leaves", [["gateway"], ["ipv6-gateway"], ["gateway", "ipv6-gateway"]],
                         ids=["IPv4", "IPv6", "both"])
@pytest.mark.parametrize("installed", [True, False], ids=["later run", "first run"])
def test_a_sick_eni_is_the_same_by_every_name(make_vpc, make_agent, tmp_path, leaves, installed):
    """What was set up goes by it; where nothing is, what should is refused."""
    vpc = make_vpc(make_tree(ipv6=True, vswitches="own"))
    agent = make_agent(vpc)
    path = tmp_path / "eni-bootstrap.yaml"
    found = {}
    for via in VIA:
        path.write_text("access:\n  - {{from: [10.99.0.0/16, 'fd99::/64'], via: \"{}\"}}\n".format(via))
        lacks(vpc, "eth1")
        if installed:
            assert agent("apply", "--config", path).code == 0
        there = configured(vpc, 4), configured(vpc, 6)
        lacks(vpc, "eth1", *leaves)
        for command in ("apply", "apply"):
            result = agent(command, "--config", path, *SHORT)
            assert result.code == 1 and all(names(result, "eth1", leaf) for leaf in leaves[:1]), result
            assert "no ENI is named" not in result.out
            found.setdefault(command, []).append((configured(vpc, 4), configured(vpc, 6)))
        if installed:
            assert (configured(vpc, 4), configured(vpc, 6)) == there
        sick = [version for version in (4, 6) if GATEWAY[version] in leaves]
        for version, src in ((4, "10.99.0.9"), (6, "fd99::9")):
            ip(vpc, "address add {} dev lo".format(src))
            expected = "eth1" if installed or version not in sick else NO_WAY
            assert leaves_by(vpc, src, OUTSIDE[version]) == expected, (via, version)
            ip(vpc, "address del {} dev lo".format(src))
        assert not installed or agent("verify", "--config", path).out.count("FAIL") == 0
        agent("remove")
    assert all(each == found["apply"][0] for each in found["apply"])


def swap_names(vpc, one, other):
    """While both are up, with a third name in between, as udev does it. Tells who is what now."""
    for old, new in ((one, "spare"), (other, one), ("spare", other)):
        ip(vpc, "link set {} name {}".format(old, new))
    return {one: other, other: one}


@pytest.mark.parametrize("leaf", [None, "gateway", "ipv6-gateway"])
def test_one_run_is_enough_for_two_that_have_changed_names_while_up(make_vpc, make_agent, leaf):
    """Each keeps its table, and its metric in main; also where one of them is sick in a family."""
    vpc = make_vpc(make_tree(ipv6=True, vswitches="own"), os="up")
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    assert metrics(vpc) == {"eth1": 200, "eth2": 300}
    swap_names(vpc, "eth1", "eth2")
    lacks(vpc, "eth1", *([leaf] if leaf else []))
    result = agent("apply", *(SHORT if leaf else ()))
    assert result.code == (1 if leaf else 0), result
    assert metrics(vpc) == {"eth2": 200, "eth1": 300}
    for version in (4, 6):
        assert GATEWAY[version] == leaf or table_of(vpc, "eth2", version) == 1001
        assert table_of(vpc, "eth1", version) == 1002
        assert leaves_by(vpc, vpc.address("eth1", version), OUTSIDE[version]) == "eth2"
        assert leaves_by(vpc, vpc.address("eth2", version), OUTSIDE[version]) == "eth1"
    state = kernel(vpc)
    again = agent("apply", *(SHORT if leaf else ()))
    assert "0 things changed" in again.out, again.out
    assert kernel(vpc) == state


# what is shown


@FAMILIES
@pytest.mark.parametrize("installed", [False, True], ids=["first run", "later run"])
def test_every_command_tells_it(make_vpc, make_agent, tmp_path, sick, well, installed):
    """With marks on connections, entries and a spread as well."""
    vpc = make_vpc(make_tree(ipv6=True, vswitches="own"))
    agent = make_agent(vpc)
    before = kernel(vpc)
    path = tmp_path / "eni-bootstrap.yaml"
    path.write_text("connection-marks: {}\nassign: all\naccess:\n  - {from: [10.99.0.0/16, 'fd99::/64'], via: eth1}\n"
                    "balance:\n  - over: {eth0: 1, eth1: 1}\n")
    if installed:
        assert agent("apply", "--config", path).code == 0
    lacks(vpc, "eth1", GATEWAY[sick])
    for command in (["plan"], ["apply", *SHORT], ["plan"], ["verify"], ["status"], ["render", "ip"], ["adopt"]):
        result = agent(*command, "--config", path)
        assert "Traceback" not in result.err
        if command[0] == "status":  # asks the kernel alone
            assert result.code == 0, result.out
        else:
            assert result.code == 1 and GATEWAY[sick] + " is missing" in result.out + result.err, (command, result)
    shown = agent("status", "--config", path, "--json").json
    (eni,) = [each for each in shown["enis"] if "eth1" in each.values()]
    assert str(vpc.address("eth1", well)) in " ".join(eni["sources"])
    assert (str(vpc.address("eth1", sick)) in " ".join(eni["sources"])) == installed
    marks = [rule for rule in rules(vpc, sick) if "fwmark" in rule and rule.get("table") == "1001"]
    assert bool(marks) == installed
    assert [rule for rule in rules(vpc, well) if "fwmark" in rule and rule.get("table") == "1001"]
    state = kernel(vpc)
    assert agent("apply", "--config", path, *SHORT).code == 1 and kernel(vpc) == state
    assert agent("remove", "--config", path).code == 0 and kernel(vpc) == before


def test_status_takes_what_an_entry_sends_by_an_eni_for_no_source_of_its(make_vpc, make_agent, tmp_path):
    vpc = make_vpc(make_tree(ipv6=True))
    agent = make_agent(vpc)
    path = tmp_path / "eni-bootstrap.yaml"
    path.write_text("access:\n  - {from: [10.99.0.0/16, 'fd99::/64'], via: eth1}\n")
    assert agent("apply", "--config", path).code == 0
    result = agent("status", "--config", path)
    assert result.code == 0 and "10.99.0.0" not in result.out, result.out

"""The rendered shell script, run by a real shell on the real kernel: the same state as the agent makes."""

import re
import subprocess
from ipaddress import ip_network

import pytest

from eni_bootstrap.config import file as config_file, loader
from eni_bootstrap.config.settings import Config, Entry, LinkWish
from eni_bootstrap.lab.vpc import macs_of, make_tree
from eni_bootstrap.metadata.parser import parse_interfaces
from eni_bootstrap.render import shell
from tests import oracle
from tests.oracle import assert_every_eni_answers, kernel, settle

WORLDS = {
    "dhcp": ({}, {}),
    "down": ({}, {"os": "down"}),
    "no default": ({}, {"os": "up"}),
    "one vSwitch": ({"vswitches": "shared"}, {}),
    "three vSwitches": ({"vswitches": "own"}, {"os": "down"}),
    "IPv6": ({"ipv6": True}, {}),
    "IPv6, down": ({"ipv6": True}, {"os": "down"}),
    "IPv6, on-link": ({"ipv6": True}, {"ipv6_onlink": True}),
    "IPv6, one vSwitch, no default": ({"ipv6": True, "vswitches": "shared"}, {"ipv6_defaults": False}),
    "addresses and prefixes": ({"ipv6": True, "addresses": 3, "prefix": True}, {"assign": True}),
    "other names": ({}, {"names": ["ens5", "ens6", "ens12"], "os": "down"}),
    "as many as there can be": ({"enis": 32}, {}),
}


@pytest.fixture
def run(tmp_path):
    """``run(vpc, *arguments, config)``: renders from the VPC's metadata, and runs it; what it says."""

    def render_and_run(vpc, *arguments, config=Config(), networkd=False, nft="nft"):
        names = {eni.mac: name for name, eni in vpc.nics.items()}
        (file,) = shell.render(parse_interfaces(vpc.tree), names, config)
        path = tmp_path / "script"
        asked = "systemctl -q is-active systemd-networkd"
        assert asked in file.text
        path.write_text(file.text.replace(asked, "true" if networkd else "false").replace("nft -f", nft + " -f"))
        return vpc.instance.run(["sh", str(path), *arguments], check=False, stderr=subprocess.PIPE)

    return render_and_run


def comparable(vpc):
    """Without what differs between any two machines: links' numbers, and the time for which leases last."""
    text = re.sub(r"@if\d+|link-netnsid \d+|iif \S+|valid_lft \S+|preferred_lft \S+", "", kernel(vpc))
    return re.sub(r"(?m)^\d+: ", "", re.sub(r"numtxqueues.*", "", text))


@pytest.mark.parametrize("name", list(WORLDS))
def test_it_makes_the_kernel_as_apply_does(make_vpc, make_agent, run, name):
    shape, options = WORLDS[name]
    by_agent, by_script = (make_vpc(make_tree(**shape), **options) for _ in range(2))
    assert make_agent(by_agent)("apply").code == 0
    done = run(by_script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for vpc in (by_agent, by_script):
        settle(vpc)
    assert comparable(by_script) == comparable(by_agent)
    before = kernel(by_script)
    assert run(by_script).returncode == 0
    assert kernel(by_script) == before
    assert_every_eni_answers(by_script)


@pytest.mark.parametrize("name", ["dhcp", "IPv6, down"])
def test_remove_takes_back_all_but_links_that_are_up_and_addresses(make_vpc, run, name):
    shape, options = WORLDS[name]
    vpc = make_vpc(make_tree(**shape), **options)
    before = kernel(vpc)
    assert run(vpc).returncode == 0
    done = run(vpc, "remove")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    if name == "dhcp":
        assert kernel(vpc) == before
    for version in (4, 6):
        assert not [rule for rule in oracle.rules(vpc, version) if 7000 <= rule["priority"] < 8000]
        assert not any(oracle.routes(vpc, table, version) for table in (1000, 1001, 1002))
    assert "235" not in oracle.ip(vpc, "-d route show table all")


def test_the_agents_own_remove_takes_it_back_too(vpc, make_agent, run):
    before = kernel(vpc)
    assert run(vpc).returncode == 0
    agent = make_agent(vpc)
    assert agent("verify").code == 0
    assert agent("plan").out.startswith("# nothing to do")
    assert agent("remove").code == 0
    assert kernel(vpc) == before


def test_somebody_elses_things_stay(vpc, run):
    for command in ("route add default via 172.16.20.77 dev eth1 onlink table 1001 proto static",
                    "route add 10.9.0.0/16 via 172.16.20.253 dev eth1 table 1001 proto static",
                    "rule add from 10.1.1.1 lookup 1001 priority 7200"):
        oracle.ip(vpc, command)
    before = kernel(vpc)
    done = run(vpc)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "eth1: table 1001 has somebody else's default" in done.stderr
    assert oracle.lost(before, kernel(vpc)) == []
    assert run(vpc, "remove").returncode == 0
    assert kernel(vpc) == before


def test_somebody_elses_equal_will_do(vpc, run):
    oracle.ip(vpc, "route add default via 172.16.20.253 dev eth1 table 1001 proto static")
    oracle.ip(vpc, "route add 172.16.20.0/24 dev eth1 table 1001 proto static")
    done = run(vpc)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_ours_is_made_anew_when_the_gateway_has_changed(vpc, run):
    assert run(vpc).returncode == 0
    macs_of(vpc.tree)["00:16:3e:0e:00:02"]["gateway"] = "172.16.20.252"
    assert run(vpc).returncode == 0
    assert [route.get("gateway") for route in oracle.routes(vpc, 1001) if route["dst"] == "default"] == [
        "172.16.20.252", None]


def test_an_eni_that_is_not_here_is_named_and_the_others_are_done(make_vpc, run):
    vpc = make_vpc(make_tree(4))
    names = dict(vpc.nics)
    vpc.detach("eth2", listed=True)
    vpc.nics.update(names)
    done = run(vpc)
    assert done.returncode == 1 and "eth2: there is no such link with the MAC 00:16:3e:0e:00:03" in done.stderr
    assert not oracle.routes(vpc, 1002) and "eth2" not in oracle.ip(vpc, "rule")
    del vpc.nics["eth2"]
    assert_every_eni_answers(vpc)


@pytest.mark.parametrize("sick", ["00:16:3e:0e:00:01", "00:16:3e:0e:00:02"])
def test_with_one_that_is_sick_it_does_as_apply_does(make_vpc, make_agent, run, sick):
    by_agent, by_script = (make_vpc(make_tree(4)) for _ in range(2))
    for vpc in (by_agent, by_script):
        macs_of(vpc.tree)[sick]["gateway"] = "nonsense"
        vpc.refresh()
    assert make_agent(by_agent)("apply").code == 1
    assert run(by_script).returncode == 0
    assert comparable(by_script) == comparable(by_agent)
    assert run(by_script, "remove").returncode == 0
    assert "60235" not in oracle.ip(by_script, "link")


def test_another_links_group_and_routes_stay(vpc, run):
    assert run(vpc).returncode == 0
    oracle.ip(vpc, "link set eth2 down")
    oracle.ip(vpc, "link set eth2 address 02:00:00:00:00:01 group 7")
    oracle.ip(vpc, "route add 10.9.0.0/16 dev eth1 proto 235")
    assert run(vpc, "remove").returncode == 0
    assert "group 7 " in oracle.ip(vpc, "link show eth2") and "60235" not in oracle.ip(vpc, "link")
    assert "10.9.0.0/16" in oracle.ip(vpc, "route") and "proto 235" not in oracle.ip(vpc, "route show default")


def test_somebody_elses_group_stays_and_that_is_said(vpc, run):
    oracle.ip(vpc, "link set eth1 group 7")
    done = run(vpc)
    assert done.returncode == 1 and "eth1: somebody else's interface group" in done.stderr
    assert "group 7 " in oracle.ip(vpc, "link show eth1") and "group 60235 " in oracle.ip(vpc, "link show eth2")
    assert_every_eni_answers(vpc)
    assert run(vpc, "remove").returncode == 0
    assert "group 7 " in oracle.ip(vpc, "link show eth1")


@pytest.mark.parametrize("before", [False, True])
def test_it_may_be_removed_or_run_again_whether_networkd_runs_or_not(make_vpc, run, before):
    vpc = make_vpc(make_tree(3, ipv6=True), ipv6_defaults=False)
    untouched = kernel(vpc)
    assert run(vpc, networkd=not before).returncode == 0
    unlike = kernel(vpc)
    assert run(vpc, networkd=before).returncode == 0
    assert kernel(vpc) != unlike
    again = kernel(vpc)
    assert len(oracle.rules(vpc)) == len({str(dict(rule, protocol="")) for rule in oracle.rules(vpc)})
    assert run(vpc, networkd=before).returncode == 0
    assert kernel(vpc) == again
    done = run(vpc, "remove", networkd=not before)
    assert (done.returncode, done.stderr) == (0, "")
    assert kernel(vpc) == untouched


def test_a_second_run_with_all_addresses_changes_nothing(make_vpc, run):
    config = Config(assign="all")
    vpc = make_vpc(make_tree(3, addresses=3, ipv6=True))
    assert run(vpc, config=config).returncode == 0
    before = kernel(vpc)
    done = run(vpc, config=config)
    assert (done.returncode, done.stderr) == (0, "") and kernel(vpc) == before


def test_a_spread_default_of_the_primarys_counts_with_its_metric(make_vpc, run):
    vpc = make_vpc(os="up")
    oracle.ip(vpc, "route del default dev eth0")
    oracle.ip(vpc, "route add default metric 700 nexthop via 172.16.10.253 dev eth0 nexthop via 172.16.10.1 dev eth0")
    assert run(vpc).returncode == 0
    metrics = re.findall(r"default .*proto 235 metric ([0-9]+)", oracle.ip(vpc, "route show default"))
    assert metrics == ["800", "900"]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after a run"])
def test_main_s_only_default_is_never_ours(make_vpc, run, before):
    """The host's own is in the table ``default``, and comes back."""
    vpc = make_vpc(make_tree(ipv6=True), os="up")
    if not before:
        assert run(vpc).returncode == 0 and len(oracle.defaults(vpc)) == len(oracle.defaults(vpc, 6)) == 3
    gateways = [(version, vpc.subnet("eth0", version).gateway) for version in (4, 6)]
    oracle.ip(vpc, "-6 rule add lookup default priority 32767")
    for version, gateway in gateways:
        oracle.ip(vpc, "-{} route del default dev eth0".format(version))
        oracle.ip(vpc, "-{} route add default via {} dev eth0 onlink table default".format(version, gateway))
    done = run(vpc)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for version, gateway in gateways:
        assert oracle.leaves_by(vpc, None, oracle.OUTSIDE[version]) == "eth0" and oracle.defaults(vpc, version) == []
        oracle.ip(vpc, "-{} route add default via {} dev eth0 onlink metric 50".format(version, gateway))
    assert run(vpc).returncode == 0
    for version, _ in gateways:
        assert [dev for dev, _, _ in oracle.defaults(vpc, version)] == ["eth0", "eth1", "eth2"]


def test_a_default_of_ours_in_main_follows_the_gateway_too(make_vpc, run):
    vpc = make_vpc(os="up")
    assert run(vpc).returncode == 0
    before = oracle.defaults(vpc)
    macs_of(vpc.tree)["00:16:3e:0e:00:02"]["gateway"] = "172.16.20.252"
    assert run(vpc).returncode == 0
    assert oracle.defaults(vpc) == before
    assert "via 172.16.20.252" in oracle.ip(vpc, "route show default dev eth1")


def test_what_can_not_be_done_is_said(vpc, run):
    done = run(vpc, config=Config(links=(LinkWish(1, "eth1", (("none_such", 1),)),)))
    assert done.returncode == 1 and "none_such" in done.stderr
    done = run(vpc, config=Config(connection_marks=0x7F000000), nft="not-installed")
    assert done.returncode == 1 and "connections are not marked" in done.stderr
    assert_every_eni_answers(vpc)


def test_a_strict_reverse_path_filter_heeds_the_marks(make_vpc, make_agent, run):
    config = Config(connection_marks=0x7F000000)
    vpc = make_vpc()
    vpc.instance.sysctl("net.ipv4.conf.eth1.rp_filter", 1)
    assert run(vpc, config=config).returncode == 0
    heeds = [vpc.instance.run(["cat", "/proc/sys/net/ipv4/conf/{}/src_valid_mark".format(dev)]).stdout.strip()
             for dev in ("eth0", "eth1", "eth2")]
    assert heeds == ["0", "1", "0"]


def test_another_link_of_that_name_is_none_of_ours(vpc, run):
    oracle.ip(vpc, "link set eth2 down")
    oracle.ip(vpc, "link set eth2 address 02:00:00:00:00:01")
    before = oracle.ip(vpc, "-d link show eth2")
    assert run(vpc).returncode == 1
    assert oracle.ip(vpc, "-d link show eth2") == before and not oracle.routes(vpc, 1002)


def test_the_primarys_addresses_keep_the_primary_where_mains_best_default_is_anothers(vpc, run):
    oracle.ip(vpc, "route add default via 172.16.20.253 dev eth1 metric 1")
    assert run(vpc).returncode == 0
    assert oracle.leaves_by(vpc, vpc.address("eth0"), oracle.OUTSIDE[4]) == "eth0"
    assert run(vpc).returncode == 0
    assert oracle.leaves_by(vpc, vpc.address("eth0"), oracle.OUTSIDE[4]) == "eth0"


def test_the_metric_in_main_is_worse_than_the_primarys(make_vpc, run):
    vpc = make_vpc(os="up")
    oracle.ip(vpc, "route del default dev eth0")
    oracle.ip(vpc, "route add default via 172.16.10.253 dev eth0 metric 700")
    oracle.ip(vpc, "route add default via 172.16.10.253 dev eth0 metric 800")
    assert run(vpc).returncode == 0
    assert [(dev, metric) for dev, metric, protocol in oracle.defaults(vpc) if protocol == "235"] == [
        ("eth1", 801), ("eth2", 900)]


def test_what_an_entry_sends_by_an_eni_that_is_not_here_is_refused(make_vpc, run):
    config = Config(entries=(Entry(1, "eth2", "", dst=(ip_network("10.60.0.0/16"), ip_network("3fff::/32"))),))
    vpc = make_vpc(make_tree(3, ipv6=True))
    names = dict(vpc.nics)
    before = kernel(vpc)
    oracle.ip(vpc, "link set eth2 name away")
    done = run(vpc, config=config)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert [oracle.leaves_by(vpc, None, dst) for dst in ("10.60.0.1", "3fff::1")] == [oracle.NO_WAY] * 2
    oracle.ip(vpc, "link set away name eth2")
    oracle.ip(vpc, "link set eth2 up")
    done = run(vpc, config=config)
    assert (done.returncode, done.stderr) == (0, "")
    assert [oracle.leaves_by(vpc, None, dst) for dst in ("10.60.0.1", "3fff::1")] == ["eth2"] * 2
    assert vpc.nics == names and run(vpc, "remove", config=config).returncode == 0
    assert kernel(vpc) == before


def test_removed_after_an_eni_has_gone_and_once_more(vpc, run):
    assert run(vpc).returncode == 0
    names = dict(vpc.nics)
    vpc.detach("eth2", listed=True)
    vpc.nics.update(names)
    for _ in range(2):
        done = run(vpc, "remove")
        assert (done.returncode, done.stderr) == (0, "")
    assert "235" not in oracle.ip(vpc, "rule") + oracle.ip(vpc, "-d route show table all")
    del vpc.nics["eth2"]


def test_without_secondaries_nothing_is_made(make_vpc, run):
    vpc = make_vpc(make_tree(1))
    before = kernel(vpc)
    assert run(vpc).returncode == 0
    assert kernel(vpc) == before


def test_all_that_a_configuration_may_ask_for_is_in_it(make_vpc, make_agent, run, tmp_path):
    example = tmp_path / "eni-bootstrap.yaml"
    example.write_text(config_file.EXAMPLE)
    config = loader.load(str(example))
    by_agent, by_script = (make_vpc(make_tree(4, addresses=2, ipv6=True, prefix=True)) for _ in range(2))
    agent = make_agent(by_agent)
    assert agent("apply", "--config", example).code in (0, 1)
    done = run(by_script, config=config)
    assert (done.returncode, done.stderr) == (0, "")
    for vpc in (by_agent, by_script):
        settle(vpc)
    assert comparable(by_script) == comparable(by_agent)
    tables = [vpc.instance.run(["nft", "list", "ruleset"]).stdout for vpc in (by_agent, by_script)]
    assert tables[0] and tables[0] == tables[1]
    assert run(by_script, "remove", config=config).returncode == 0
    assert not by_script.instance.run(["nft", "list", "ruleset"]).stdout

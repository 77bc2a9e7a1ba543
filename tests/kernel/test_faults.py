"""The whole agent against a service, a network or an ENI that misbehaves."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy

import pytest

from eni_bootstrap.lab import probe
from eni_bootstrap.lab.service import Answer
from eni_bootstrap.lab.vpc import Vpc, macs_of, make_tree
from tests.agent import Agent
from tests.oracle import difference, kernel, sources_led_to, watch

pytestmark = pytest.mark.clock

ETH1, ETH2 = "00:16:3e:0e:00:02", "00:16:3e:0e:00:03"


def works(vpc, name, timeout=probe.TIMEOUT):
    """Somebody on the internet pings the ENI's EIP and hears of it."""
    return probe.ping(vpc.client, vpc.eip(vpc.address(name)), timeout=timeout) is not None


def works_by_now(vpc, name):
    return works(vpc, name, timeout=0.7)


def patiently(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in {} s".format(seconds)
        time.sleep(0.05)


def names(text, number, dev):
    """Whether the ENI is named with its id, its MAC and (where it has one) its device."""
    return "eni-bp1exampleeni{:05d} (00:16:3e:0e:00:{:02x}{})".format(number, number, dev and ", " + dev) in text


# the service is odd, and yet all is well


@pytest.fixture(scope="module")
def as_it_should_be(tmp_path_factory):
    """What the kernel holds after a run against a service in good health."""
    with Vpc(make_tree()) as vpc:
        assert Agent(vpc, tmp_path_factory.mktemp("run"))("apply", "--timeout", 5).code == 0
        return _comparable(vpc)


def _comparable(vpc):
    """Rules, routes and groups, without what differs from lab to lab (link-local addresses are random)."""
    commands = ("ip -4 rule", "ip -6 rule", "ip -4 route show table all", "ip -6 route show table all",
                "ip -br link show group 60235")
    lines = "\n".join(vpc.instance.run(command.split()).stdout for command in commands).splitlines()
    return [line.split("@")[0] for line in lines if "fe80" not in line]


@pytest.mark.parametrize("faults", [
    {"hardened": True},
    {"token_status": 404}, {"token_status": 405}, {"token_status": 403},
    {"token_uses": 4, "all_answer": 404}, {"token_uses": 1, "hardened": True, "all_answer": 404},
    {"all_answer": 404}, {"all_answer": "<html>"}, {"all_answer": '{"mac": "00:16:3e:0e:00'}, {"all_answer": "[]"},
    {"all_answer": "{}"}, {"all_answer": '{"mac": null, "network": null}'},
    {"fail_first": 3, "fail_status": 429}, {"fail_first": 3}, {"fail_first": 3, "fail_status": 500},
    {"drop_first": 3},
    {"macs_reversed": True, "crlf": True, "trailing_newline": True, "listing_slash": False, "all_answer": 404},
], ids=str)
def test_an_odd_service_serves_all_the_same(faults, make_vpc, make_agent, as_it_should_be):
    vpc = make_vpc(**faults)
    result = make_agent(vpc)("apply", "--timeout", 10)
    assert (result.code, "PROBLEM" in result.out) == (0, False), result
    assert works(vpc, "eth1") and works(vpc, "eth2")
    assert _comparable(vpc) == as_it_should_be


def test_a_proxy_in_the_environment_is_never_used(vpc, make_agent, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert make_agent(vpc)("apply", "--timeout", 3).code == 0
    assert works(vpc, "eth1")
    assert all("x-forwarded-for" not in request.headers for request in vpc.service.requests)


# the service is of no use


def refused(vpc):
    vpc.service.close()


def unreachable(vpc):
    for link in ("eth1", "eth2", "eth0"):
        vpc.instance.run(["ip", "route", "flush", "default", "dev", link])


def faults(**faulty):
    def break_it(vpc):
        for name, value in faulty.items():
            setattr(vpc.service.faults, name, value)
    break_it.__name__ = str(faulty)[:60]
    return break_it


def lost(vpc):
    vpc.fabric.silence("metadata")


BAD = [
    (refused, "connection refused"),
    (unreachable, "network is unreachable"),
    (lost, "timed out"),
    (faults(stall=True), "timed out"),
    (faults(drip=1.0), "timed out"),
    (faults(drip=1.0, drip_headers=True), "timed out"),
    (faults(disabled=True), "403"),
    (faults(always=403), "403"),
    (faults(hardened=True, token_status=404), "403"),
    (faults(token_uses=0), "401"),
    (faults(always=503), "503"),
    (faults(always=429), "429"),
    (faults(redirect="http://203.0.113.50/"), "redirected"),
    (faults(huge=5 << 20), "too large"),
    (faults(endless=True), "too large"),
    (faults(garbage=b"SSH-2.0-OpenSSH_9.9\r\n"), "not proper HTTP"),
]


@pytest.mark.parametrize("installed", [False, True], ids=["first run", "later run"])
@pytest.mark.parametrize("break_it, reason", BAD, ids=[case[0].__name__ for case in BAD])
def test_an_unusable_service_is_told_in_time_and_nothing_is_changed(break_it, reason, installed, vpc, make_agent):
    agent = make_agent(vpc)
    if installed:
        assert agent("apply").code == 0
    break_it(vpc)
    before = vpc.dump()
    started = time.monotonic()
    result = agent("apply", "--timeout", 1.5)
    lasted = time.monotonic() - started
    assert result.code == 3, result
    assert lasted < 3.5
    assert reason in result.err.splitlines()[-1] and "Traceback" not in result.err
    assert vpc.dump() == before


def no_mac(tree):
    del tree["mac"]


def empty_mac(tree):
    tree["mac"] = ""


def no_macs(tree):
    macs_of(tree).clear()


def primary_not_listed(tree):
    del macs_of(tree)[tree["mac"]]


def no_network(tree):
    del tree["network"]


@pytest.mark.parametrize("change", [no_mac, empty_mac, no_macs, primary_not_listed, no_network])
def test_an_answer_that_contradicts_itself_removes_nothing(change, vpc, make_agent):
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    before = vpc.dump()
    change(vpc.tree)
    result = agent("apply", "--timeout", 1)
    assert result.code == 3, result
    assert vpc.dump() == before and works(vpc, "eth1")


def test_an_answer_that_contradicts_itself_for_a_while_is_asked_for_again(vpc, make_agent):
    macs = macs_of(vpc.tree)
    primary = vpc.tree["mac"]
    vpc.service.faults.late = {primary: 1.5 + time.monotonic() - vpc.service._started}
    assert primary in macs
    assert make_agent(vpc)("apply", "--timeout", 8).code == 0
    assert works(vpc, "eth1")


# leaf by leaf


LISTS = ["private-ipv4s", "ipv4-prefixes", "ipv6s", "ipv6-prefixes"]
CUT = Answer(200, "network-interface-id\nprimary-ip-address\nprivate-ipv4s\nnetmask\ngateway\nvswitch-cidr-block\n")
"""A listing that ends early."""


@pytest.fixture
def walked(make_vpc, make_agent, tmp_path):
    """A VPC whose service is read leaf by leaf, and its agent, which has put all addresses on the links."""
    vpc = make_vpc(make_tree(addresses=3, prefix=True, ipv6=True))
    vpc.service.faults.all_answer = 404
    (tmp_path / "all.yaml").write_text("assign: all\nprefixes: local\n")

    def agent(command="apply", *more):
        return make_agent(vpc)(command, "--config", tmp_path / "all.yaml", "--timeout", 4, *more)
    assert agent().code == 0
    return vpc, agent


@pytest.mark.parametrize("end, answer", [
    *((ETH1 + "/" + leaf, answer) for leaf in LISTS for answer in (Answer(200), Answer(404))),
    (ETH1 + "/gateway", Answer(404)), (ETH1 + "/vswitch-cidr-block", Answer(404)), (ETH1 + "/", CUT),
    (ETH1 + "/", Answer(200)), (ETH1 + "/", Answer(404)), ("/macs/", Answer(200, "00:16:3e:0e:00:01/\n")),
], ids=lambda value: str(value)[-40:])
def test_one_bad_answer_to_a_walk_removes_nothing(walked, end, answer):
    vpc, agent = walked
    before = vpc.dump()
    vpc.service.faults.instead = {end: [answer]}
    with watch(vpc) as said:
        result = agent()
    assert result.code == 0, result
    assert vpc.service.faults.instead == {end: []}
    assert said == [] and vpc.dump() == before


@pytest.mark.parametrize("leaf", LISTS)
def test_what_is_listed_and_stays_away_makes_its_eni_sick_which_keeps_what_it_has(walked, leaf):
    def own():
        """All but the primary's detours to its vSwitch."""
        return [line for line in kernel(vpc).splitlines() if "table 1000" not in line]
    vpc, agent = walked
    before, whole = own(), kernel(vpc)
    vpc.service.faults.missing, vpc.service.faults.still_listed = {ETH1: [leaf]}, True
    result = agent()
    assert result.code == 1 and "{} is listed and not there".format(leaf) in result.out, result
    assert own() == before and works(vpc, "eth1")
    vpc.service.faults.missing = {}
    assert agent().code == 0 and difference(whole, kernel(vpc)) == ([], [])


def test_an_eni_that_is_told_to_have_no_more_of_a_list_has_none(walked):
    """Empty, and so for good: some sites may say it so. Only an ENI without any IPv4 address is none."""
    vpc, agent = walked
    vpc.service.faults.empty = {ETH1: LISTS[1:]}
    assert agent().code == 0
    assert {src for version in (4, 6) for src in sources_led_to(vpc, 1001, version)} == {
        "172.16.20.10", "172.16.20.11", "172.16.20.12"}
    vpc.service.faults.empty = {ETH1: LISTS}
    assert agent().code == 1
    assert {"172.16.20.10", "172.16.20.11", "172.16.20.12"} <= sources_led_to(vpc, 1001) and works(vpc, "eth1")


# one ENI is sick


def leaf(**leaves):
    def change(tree):
        for name, value in leaves.items():
            macs_of(tree)[ETH1][name.replace("_", "-")] = value
    change.__name__ = str(leaves)
    return change


def stolen(tree):
    macs_of(tree)[ETH1]["private-ipv4s"] = '["172.16.20.10","172.16.10.10"]'


def prefix_over_the_primary(tree):
    macs_of(tree)[ETH1].update({"vswitch-cidr-block": "172.16.0.0/16", "ipv4-prefixes": "172.16.10.0/28"})


def no_address_at_all(tree):
    for name in ("primary-ip-address", "private-ipv4s"):
        del macs_of(tree)[ETH1][name]


def leaf_gone(name):
    def change(tree):
        del macs_of(tree)[ETH1][name]
    change.__name__ = "no " + name
    return change


SICK = [
    leaf(gateway="garbage"), leaf(gateway="0.0.0.0"), leaf(gateway="127.0.0.1"), leaf(gateway="172.16.20.10"),
    leaf(gateway="172.16.20.255"),  # the kernel refuses this one
    leaf_gone("gateway"), no_address_at_all, leaf(vswitch_cidr_block="172.16.20.0"),
    stolen, prefix_over_the_primary,
    leaf(private_ipv4s='["172.16.20.10","127.0.0.1"]'), leaf(private_ipv4s='["172.16.20.10","224.0.0.5"]'),
    leaf(private_ipv4s='["172.16.20.10","0.0.0.0"]'), leaf(private_ipv4s='["172.16.20.10","169.254.1.1"]'),
    leaf(private_ipv4s='["172.16.20.10","8.8.8.8"]'), leaf(private_ipv4s='["172.16.20.10","172.16.20.300"]'),
    leaf(private_ipv4s='["172.16.20.10","255.255.255.255"]'),
    leaf(ipv4_prefixes="0.0.0.0/0"), leaf(ipv4_prefixes="10.0.0.0/8"), leaf(ipv4_prefixes="172.16.0.0/12"),
    leaf(vswitch_cidr_block="128.0.0.0/1", ipv4_prefixes="128.0.0.0/1"),
    leaf(vswitch_cidr_block="0.0.0.0/0"),
]


@pytest.mark.parametrize("installed", [False, True], ids=["never worked", "worked before"])
@pytest.mark.parametrize("change", SICK, ids=[change.__name__ for change in SICK])
def test_one_sick_eni_is_named_and_keeps_what_it_has_while_all_others_are_done(change, installed, vpc, make_agent):
    agent = make_agent(vpc)
    before = None
    if installed:
        assert agent("apply").code == 0
        vpc.instance.run("ip rule del oif eth2".split())  # so that there is something to do for another one
        before = _of_eth1(vpc)
    change(vpc.tree)
    result = agent("apply", "--timeout", 1.5)
    assert result.code == 1, result
    assert names(result.out, 2, "eth1"), result.out
    assert works(vpc, "eth2") and works(vpc, "eth0")
    assert any("oif eth2" in line for line in vpc.instance.run(["ip", "rule"]).stdout.splitlines())
    if installed:
        assert _of_eth1(vpc) == before
        assert works(vpc, "eth1")


def _of_eth1(vpc):
    rules = vpc.instance.run(["ip", "rule"]).stdout.splitlines()
    table = vpc.instance.run("ip route show table 1001".split()).stdout
    return [rule for rule in rules if "1001" in rule], table


def test_an_address_of_two_enis_is_the_first_ones(vpc, make_agent):
    macs_of(vpc.tree)[ETH2]["private-ipv4s"] = '["172.16.10.11","172.16.20.10"]'
    macs_of(vpc.tree)[ETH2]["vswitch-cidr-block"] = "172.16.0.0/16"
    result = make_agent(vpc)("apply", "--timeout", 3)
    assert result.code == 1 and names(result.out, 3, "eth2")
    assert works(vpc, "eth1")


def test_a_sick_primary_is_named_and_the_secondaries_are_done(vpc, make_agent):
    macs_of(vpc.tree)[vpc.tree["mac"]]["gateway"] = "garbage"
    result = make_agent(vpc)("apply", "--timeout", 3)
    assert result.code == 1 and names(result.out, 1, "eth0"), result
    assert works(vpc, "eth0") and works(vpc, "eth1") and works(vpc, "eth2")


def test_the_address_of_a_sick_primary_is_not_to_be_stolen_either(vpc, make_agent):
    macs_of(vpc.tree)[vpc.tree["mac"]]["gateway"] = "garbage"
    stolen(vpc.tree)
    make_agent(vpc)("apply", "--timeout", 3)
    assert works(vpc, "eth0") and works(vpc, "eth2")


def test_a_link_that_metadata_does_not_list_never_delays(vpc, make_agent):
    name = vpc.attach("00:16:3e:0e:00:09", leaves=deepcopy(make_tree(4)["network"]["interfaces"]["macs"][
        "00:16:3e:0e:00:04"]), os="up")
    macs_of(vpc.tree).pop("00:16:3e:0e:00:09")
    before = vpc.instance.run(["ip", "-d", "address", "show", name]).stdout
    started = time.monotonic()
    result = make_agent(vpc)("apply")
    assert result.code == 0 and time.monotonic() - started < 2
    assert vpc.instance.run(["ip", "-d", "address", "show", name]).stdout == before


def test_an_ipv6_address_that_we_add_works_with_duplicate_address_detection_on(make_vpc, make_agent):
    """As it is everywhere but in this lab: the address is tentative for a second or two."""
    vpc = make_vpc(make_tree(ipv6=True), os={"eth1": "down"})
    for which in ("all", "default", "eth1"):
        vpc.instance.sysctl("net.ipv6.conf.{}.accept_dad".format(which), 1)
    result = make_agent(vpc)("apply", "--timeout", 10)
    assert result.code == 0, result
    patiently(lambda: probe.ping(vpc.client, vpc.address("eth1", 6)), 4)


# what comes late: each story in a thread and a lab of its own, the agent as a program


@contextmanager
def _running(agent, *arguments):
    process = agent.start("apply", *arguments)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def _end(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@contextmanager
def _lab(tmp, name, **options):
    with Vpc(make_tree(), **options) as vpc:
        agent = Agent(vpc, tmp / name)
        yield vpc, agent


def a_service_that_is_6_s_late(tmp):
    with _lab(tmp, "service", not_before=6) as (vpc, agent), _running(agent) as process:
        code, _, err = _end(process)
        assert code == 0 and works(vpc, "eth1")
        assert "waiting for the metadata service" in err and "connection refused" in err


def a_network_that_is_6_s_late(tmp):
    links = {"eth0": "down", "eth1": "up", "eth2": "up"}
    with _lab(tmp, "network", os=links) as (vpc, agent), _running(agent) as process:
        time.sleep(6)
        assert process.poll() is None
        for command in ("link set eth0 up", "address add 172.16.10.10/24 dev eth0",
                        "route add default via 172.16.10.253 metric 100"):
            vpc.instance.run(["ip"] + command.split())
        code, _, err = _end(process)
        assert code == 0 and "unreachable" in err
        assert works(vpc, "eth0") and works(vpc, "eth1") and works(vpc, "eth2")


def a_link_that_is_6_s_late(tmp):
    with _lab(tmp, "link") as (vpc, agent):
        vpc.detach("eth1", listed=True)
        with _running(agent) as process:
            patiently(lambda: works_by_now(vpc, "eth2"))
            time.sleep(6)
            assert process.poll() is None, "it did not wait"
            vpc.attach(ETH1, name="eth1", os="up")
            code, out, err = _end(process)
        assert (code, works(vpc, "eth1")) == (0, True), (code, out, err)
        assert names(err, 2, "") and "waiting" in err


def a_link_that_never_comes(tmp):
    """Waited for as long as ``interface_wait`` says, then named; by runs that nobody typed, once."""
    with _lab(tmp, "never") as (vpc, agent):
        vpc.detach("eth1", listed=True)
        with _running(agent) as process:
            patiently(lambda: works_by_now(vpc, "eth2"))
            started = time.monotonic()
            code, out, err = _end(process)
        assert 17 < time.monotonic() - started < 23
        assert code == 1 and names(out, 2, "") and works(vpc, "eth2")
        started = time.monotonic()
        result = agent.run("apply", "--unattended")
        assert result.code == 1 and names(result.out, 2, "") and time.monotonic() - started < 8


def leaves_that_come_after_4_s(tmp):
    missing = {ETH1: ["gateway", "private-ipv4s"]}
    with _lab(tmp, "leaves", missing=missing) as (vpc, agent), _running(agent) as process:
        patiently(lambda: works_by_now(vpc, "eth2"))
        time.sleep(4)
        assert process.poll() is None and not works_by_now(vpc, "eth1")
        vpc.service.faults.missing = {}
        code, out, err = _end(process)
        assert code == 0 and works(vpc, "eth1"), (code, out, err)


def leaves_that_never_come(tmp):
    with _lab(tmp, "noleaves", detaching=[ETH1]) as (vpc, agent):
        started = time.monotonic()
        with _running(agent, "--timeout", 6) as process:
            patiently(lambda: works_by_now(vpc, "eth2"))
            assert process.poll() is None, "it did not wait"
            code, out, _ = _end(process)
        assert code == 1 and time.monotonic() - started < 9 and ETH1 in out


def a_link_that_nobody_addresses(tmp):
    """It gets its address, but not before a DHCP client has had its chance."""
    with _lab(tmp, "dhcp") as (vpc, agent):
        vpc.instance.run("ip address flush dev eth1".split())
        with _running(agent) as process:
            patiently(lambda: works_by_now(vpc, "eth2"))
            started = time.monotonic()
            patiently(lambda: works_by_now(vpc, "eth1"), 20)
            assert 7 < time.monotonic() - started
            code, out, err = _end(process)
        assert code == 0, (code, out, err)
        assert "172.16.20.10/24" in vpc.instance.run("ip -br address show eth1".split()).stdout


def a_link_that_somebody_addresses_meanwhile(tmp):
    with _lab(tmp, "lease") as (vpc, agent):
        vpc.instance.run("ip address flush dev eth1".split())
        with _running(agent) as process:
            patiently(lambda: works_by_now(vpc, "eth2"))
            vpc.instance.run("ip address add 172.16.20.10/24 dev eth1 valid_lft 3600 preferred_lft 3600".split())
            code, out, err = _end(process)
        assert code == 0 and works(vpc, "eth1"), (code, out, err)
        assert agent.run("remove").code == 0
        shown = vpc.instance.run("ip -4 address show dev eth1".split()).stdout
        assert shown.count("inet ") == 1 and "dynamic" in shown


STORIES = [
    a_link_that_never_comes, a_link_that_nobody_addresses, a_service_that_is_6_s_late, a_network_that_is_6_s_late,
    a_link_that_is_6_s_late, leaves_that_come_after_4_s, leaves_that_never_come,
    a_link_that_somebody_addresses_meanwhile,
]


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("stories")
    with ThreadPoolExecutor(len(STORIES)) as local_prefix:
        yield {story: local_prefix.submit(story, tmp) for story in STORIES}


@pytest.mark.parametrize("story", STORIES, ids=[story.__name__ for story in STORIES])
def test_what_comes_late_is_waited_for(story, stories):
    stories[story].result()

"""ENIs that are left alone: because the configuration says so, or because a container network has them."""

import re
import time
from contextlib import ExitStack, contextmanager

import pytest

from eni_bootstrap.lab import probe
from eni_bootstrap.lab.namespace import Namespace
from eni_bootstrap.lab.vpc import make_tree
from tests.build import net
from tests.oracle import (
    OURS as OUR_NUMBER, OUTSIDE, assert_answers_by, assert_every_eni_answers, container, difference, ip, kernel,
    leaves_by, lost, rules, show, sources_led_to, table_of,
)
from tests.unit.host.test_cni_config import TERWAY_FILE, write


class Host:
    """A simulated instance, what is in its /etc, and its agent."""

    def __init__(self, vpc, agent, root):
        self.vpc = vpc
        self._agent = agent
        self._root = root

    def configure(self, text):
        (self._root / "etc/eni-bootstrap.yaml").write_text(text)

    def network(self, name, content):
        write(self._root, name, content)

    def __call__(self, command="apply"):
        """The agent as a program of its own, for which the instance's /etc is the machine's."""
        inside = 'mount --bind "$0" /etc && exec "$@"'
        return self._agent.run(command, prefix=["unshare", "-m", "sh", "-c", inside, str(self._root / "etc")])


@pytest.fixture
def host(make_vpc, make_agent, tmp_path):
    """``host(tree=None, **options)``."""
    def make(*arguments, **options):
        vpc = make_vpc(*arguments, **options)
        (tmp_path / "etc").mkdir()
        return Host(vpc, make_agent(vpc), tmp_path)
    return make


def index(vpc, dev):
    return show(vpc, "link show dev " + dev)[0]["ifindex"]


def like_terway(vpc, dev, pod, veth):
    """What terway does for a container with an address of its own: two rules, and the table of the ENI."""
    table = 1000 + index(vpc, dev)
    for command in ("link set {dev} up", "route replace default via {gateway} dev {dev} onlink table {table}",
                    "rule add to {pod} lookup main priority 512",
                    "rule add from {pod} iif {veth} lookup {table} priority 2048"):
        ip(vpc, command.format(dev=dev, gateway=vpc.subnet(dev).gateway, table=table, pod=pod, veth=veth))


@contextmanager
def pods(vpc, *devs):
    """A container for each of the ENIs, with that ENI's second address."""
    with ExitStack() as opened:
        for number, dev in enumerate(devs):
            pod, veth = vpc.subnet(dev).addresses[1], "cali{}".format(number)
            opened.enter_context(container(vpc, pod, "169.254.1.1", link=veth))
            ip(vpc, "address replace 169.254.1.1/32 dev " + veth)
            like_terway(vpc, dev, pod, veth)
        yield


def answers(vpc, dev):
    """Whether the container with the ENI's second address does."""
    return bool(probe.ping(vpc.client, vpc.eip(vpc.subnet(dev).addresses[1])))


def about(vpc, lines, dev):
    """The lines that have to do with this device's ENI."""
    words = [dev] + [str(address) for subnet in vpc.nics[dev].subnets for address in subnet.addresses]
    return [line for line in lines if any(re.search(r"\b{}\b".format(word), line) for word in words)]


def test_a_node_whose_secondaries_are_all_terway_s(host):
    """Nothing at all changes, and why is said by each command."""
    node = host(make_tree(addresses=2), os={"eth1": "down", "eth2": "down"})
    node.network("10-terway.conflist", TERWAY_FILE)
    with pods(node.vpc, "eth1", "eth2"):
        assert answers(node.vpc, "eth1") and answers(node.vpc, "eth2")
        before = kernel(node.vpc)
        for command in ("plan", "apply", "verify", "status"):
            done = node(command)
            assert done.code == 0, done
            for dev in ("eth1", "eth2"):
                (said,) = [line for line in done.out.splitlines() if "{}): left alone".format(dev) in line]
                assert "/etc/cni/net.d/10-terway.conflist" in said and "table {}".format(
                    1000 + index(node.vpc, dev)) in said
        assert kernel(node.vpc) == before
        assert answers(node.vpc, "eth1") and answers(node.vpc, "eth2")


def test_a_node_with_an_eni_of_terway_s_and_one_of_its_own(host):
    node = host(make_tree(addresses=2), os={"eth1": "down"})
    node.network("10-terway.conflist", TERWAY_FILE)
    vpc = node.vpc
    with pods(vpc, "eth1"):
        before = kernel(vpc)
        done = node()
        assert done.code == 0 and "eth1): left alone, because terway" in done.out, done
        gone, come = difference(before, kernel(vpc))
        assert lost(before, kernel(vpc)) == [] and not about(vpc, gone + come, "eth1")
        assert table_of(vpc, "eth2") == 1002
        assert answers(vpc, "eth1") and node("verify").code == 0
        for dev in ("eth0", "eth2"):
            assert_answers_by(vpc, dev, vpc.address(dev))


def test_an_eni_that_terway_takes_over_loses_what_is_ours(host):
    """And is set up again when its last container has gone, with the rules and the table."""
    node = host(make_tree(addresses=2, ipv6=True))
    vpc = node.vpc
    fresh = kernel(vpc)
    node.network("10-terway.conflist", TERWAY_FILE)
    assert node().code == 0 and table_of(vpc, "eth1") == 1001
    ours = kernel(vpc)
    with pods(vpc, "eth1"):
        theirs = kernel(vpc)
        assert node().code == 0
        assert about(vpc, difference(ours, theirs)[1], "eth1")
        assert not set(difference(ours, theirs)[1]) & set(lost(theirs, kernel(vpc)))
        assert table_of(vpc, "eth1") is None and table_of(vpc, "eth2") == 1002
        came = about(vpc, difference(fresh, kernel(vpc))[1], "eth1")
        assert not [line for line in came if "proto " + OUR_NUMBER in line or "group" in line or "1001" in line]
        assert answers(vpc, "eth1")
        for rule in [rule for rule in rules(vpc) if rule["priority"] in (512, 2048)]:
            ip(vpc, "rule del priority {}".format(rule["priority"]))
        ip(vpc, "route flush table {}".format(1000 + index(vpc, "eth1")))
    assert node().code == 0
    assert difference(ours, kernel(vpc)) == ([], [])


def test_with_manage_terway_s_enis_are_set_up_beside_it(host):
    node = host(make_tree(addresses=2))
    node.network("10-terway.conflist", TERWAY_FILE)
    node.configure("container-networks: manage\n")
    vpc = node.vpc
    with pods(vpc, "eth1"):
        before = kernel(vpc)
        done = node()
        assert done.code == 0 and "left alone" not in done.out, done
        assert table_of(vpc, "eth1") == 1001 and lost(before, kernel(vpc)) == []
        assert answers(vpc, "eth1")
    assert_answers_by(vpc, "eth1", vpc.address("eth1"))


def test_the_vendor_s_page_is_no_container_network(host):
    """Beside terway's rule for a container of the primary, its own lands where terway's might be."""
    node = host(make_tree(addresses=2))
    node.network("10-terway.conflist", TERWAY_FILE)
    vpc = node.vpc
    ip(vpc, "rule add to {} lookup main priority 512".format(vpc.subnet("eth0").addresses[1]))
    ip(vpc, "route add default via 172.16.20.253 dev eth1 table 1001")
    ip(vpc, "rule add from {} lookup 1001".format(vpc.address("eth1")))
    assert [rule["table"] for rule in rules(vpc) if rule["priority"] == 511] == ["1001"]
    done = node()
    assert done.code == 0 and "left alone" not in done.out
    assert table_of(vpc, "eth1") == 1001
    assert_every_eni_answers(vpc, asks=[probe.ping])


def test_an_eni_with_a_macvlan_child(host):
    """Whoever has made it; until it goes."""
    node = host()
    vpc = node.vpc
    ip(vpc, "link add link eth1 name mv0 type macvlan mode bridge")
    before = kernel(vpc)
    for command in ("apply", "status"):
        done = node(command)
        assert done.code == 0 and "eth1): left alone, because mv0 is made of it, a macvlan" in done.out, done
    gone, come = difference(before, kernel(vpc))
    assert table_of(vpc, "eth1") is None and table_of(vpc, "eth2") == 1002
    assert not about(vpc, gone + come, "eth1")
    ip(vpc, "link del mv0")
    assert "left alone" not in node().out and table_of(vpc, "eth1") == 1001


VRRP_MAC = "00:00:5e:00:01:33"
VIP = "172.16.20.100"


def keepalived(vpc):
    """Its ``use_vmac``: the link is there from the start, the address while this host is the master."""
    vpc.fabric.own("eth1", [*vpc.fabric.ports["eth1"].owned, net(VIP + "/32")])
    for command in ("link add vrrp.51 link eth1 type macvlan mode private",
                    "link set vrrp.51 address {} up".format(VRRP_MAC)):
        ip(vpc, command)


def assert_nothing_is_left_alone(node, *commands):
    for command in commands:
        done = node(*command.split())
        assert done.code == 0 and "left alone" not in done.out, done


@pytest.mark.parametrize("before", [True, False], ids=["set up before", "set up after"])
def test_a_virtual_router_s_address_on_a_macvlan_is_the_eni_s(make_vpc, make_agent, before):
    """Whichever of the two comes first; without the address it is as it was."""
    vpc = make_vpc(make_tree(vswitches="own"))
    agent = make_agent(vpc)
    fresh = kernel(vpc)
    if before:
        assert agent("apply").code == 0
    keepalived(vpc)
    assert_nothing_is_left_alone(agent, "apply --unattended", "verify", "status")
    assert table_of(vpc, "eth1") == 1001 and leaves_by(vpc, vpc.address("eth1"), OUTSIDE[4]) == "eth1"
    backup = kernel(vpc)
    ip(vpc, "address add {}/32 dev vrrp.51".format(VIP))
    assert leaves_by(vpc, VIP, OUTSIDE[4]) == "eth0" and agent("status").code == 1, "a run is due, and that is said"
    assert_nothing_is_left_alone(agent, "apply --unattended", "verify", "status")
    assert VIP in sources_led_to(vpc, 1001)
    assert_answers_by(vpc, "eth1", VIP)
    assert_every_eni_answers(vpc)
    master = kernel(vpc)
    assert_nothing_is_left_alone(agent, "apply --unattended")
    assert kernel(vpc) == master
    ip(vpc, "address del {}/32 dev vrrp.51".format(VIP))
    assert_nothing_is_left_alone(agent, "apply --unattended")
    assert kernel(vpc) == backup
    ip(vpc, "link del vrrp.51")
    assert agent("remove").code == 0 and kernel(vpc) == fresh


@pytest.mark.parametrize("moved", [False, True], ids=["too", "only"])
def test_a_macvlan_that_holds_the_eni_s_own_address(make_vpc, make_agent, moved):
    """So that the host reaches the containers which are macvlans of the same ENI, elsewhere."""
    vpc = make_vpc(make_tree(vswitches="own", ipv6=True))
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    ip(vpc, "link add shim link eth1 type macvlan mode bridge")
    ip(vpc, "link set shim up")
    for version in (4, 6):
        address = "{}/{}".format(vpc.address("eth1", version), 32 if version == 4 else 128)
        if moved:
            length = 24 if version == 4 else 128
            ip(vpc, "address del {}/{} dev eth1".format(vpc.address("eth1", version), length))
        if moved or version == 4:
            ip(vpc, "address add {} dev shim nodad".format(address) if version == 6 else
               "address add {} dev shim".format(address))
    assert_nothing_is_left_alone(agent, "apply --unattended", "verify", "status")
    for version in (4, 6):
        address = vpc.address("eth1", version)
        assert str(address) in sources_led_to(vpc, 1001, version)
        assert leaves_by(vpc, address, OUTSIDE[version]) == "eth1"
    assert_every_eni_answers(vpc)


def test_terway_s_own_child_bears_an_address_of_the_primary_s(make_vpc, make_agent):
    """By which containers are reached: it says that the ENI is theirs, as any other child does."""
    vpc = make_vpc(make_tree(vswitches="shared"))
    agent = make_agent(vpc)
    ip(vpc, "link add ipvl_3 link eth1 type macvlan mode private")  # not every kernel has ipvlan
    ip(vpc, "address add {}/32 dev ipvl_3 scope host".format(vpc.address("eth0")))
    for command in ("apply", "status"):
        assert "eth1): left alone, because ipvl_3 is made of it" in agent(command).out
    assert table_of(vpc, "eth1") is None and table_of(vpc, "eth2") == 1002


def test_a_child_of_another_namespace_s_link(host):
    """Its parent has the interface index of our ENI, there."""
    node = host()
    vpc = node.vpc
    elsewhere = Namespace()
    try:
        for command in ("link add p0 index {} type veth peer name p1".format(index(vpc, "eth1")),
                        "link add link p0 name mv0 type macvlan mode bridge",
                        "link set mv0 netns " + vpc.instance.path):
            elsewhere.run(["ip"] + command.split())
        (child_link,) = show(vpc, "link show dev mv0")
        assert child_link["link_index"] == index(vpc, "eth1") and "link_netnsid" in child_link
        assert "left alone" not in node().out and table_of(vpc, "eth1") == 1001
    finally:
        elsewhere.close()


def test_an_eni_that_is_in_a_container_s_namespace(host):
    """It is no error where terway may have moved it, and nothing is waited for."""
    node = host(make_tree(ipv6=True))
    vpc = node.vpc
    fresh = kernel(vpc)
    assert node().code == 0
    pod = Namespace()
    try:
        ip(vpc, "link set eth1 netns " + pod.path)
        alone = node("plan")
        assert alone.code == 1 and "another network namespace" in alone.out
        node.network("10-terway.conflist", TERWAY_FILE)
        started = time.monotonic()
        done = node()
        assert time.monotonic() - started < 10
        assert done.code == 0 and "left alone, because no link has its MAC, and terway" in done.out, done
        assert not about(vpc, difference(fresh, kernel(vpc))[1], "eth1")
        assert [line for line in kernel(vpc).splitlines() if "lookup 1002" in line]
        assert node("verify").code == 0
    finally:
        pod.close()


WAYS = {"device": "eth1", "MAC": "00:16:3E:0E:00:02", "ENI id": "eni-bp1exampleeni00002",
        "vSwitch id": "vsw-bp1examplevsw00002", "wildcards": "eni-*02", "only": None}


@pytest.mark.parametrize("way", WAYS)
def test_an_eni_that_was_set_up_and_is_ignored_loses_all_that_is_ours(host, way):
    """The others have what they had. We had brought it up and given it its address."""
    node = host(make_tree(ipv6=True), os={"eth1": "down"})
    vpc = node.vpc
    fresh = kernel(vpc)
    assert node().code == 0
    ours = kernel(vpc)
    word = WAYS[way]
    node.configure("ignore: ['{}']\n".format(word) if word else "only: [eth2]\n")
    for command in ("plan", "apply", "apply", "verify", "status"):
        done = node(command)
        assert done.code == 0 and "left alone, as the configuration says" in done.out, done
    gone, come = difference(fresh, kernel(vpc))
    assert not about(vpc, gone + come, "eth1")
    assert show(vpc, "address show dev eth1")[0]["addr_info"] == []
    assert [table_of(vpc, dev) for dev in ("eth1", "eth2")] == [None, 1002]
    for dev in ("eth0", "eth2"):
        assert_answers_by(vpc, dev, vpc.address(dev), asks=[probe.ping])
    node.configure("{}\n")
    assert node().code == 0
    assert difference(ours, kernel(vpc)) == ([], [])


def test_an_ignored_eni_that_others_use_stays_up_and_keeps_its_address(host):
    node = host(os={"eth1": "down"})
    vpc = node.vpc
    assert node().code == 0
    ip(vpc, "route add 10.20.0.0/16 via 172.16.20.9 dev eth1")
    node.configure("ignore: eth1\n")
    assert node().code == 0
    assert table_of(vpc, "eth1") is None and "10.20.0.0/16 via 172.16.20.9" in ip(vpc, "route")
    assert [held["local"] for held in show(vpc, "address show dev eth1")[0]["addr_info"]
            if held["family"] == "inet"] == ["172.16.20.10"]


def test_everything_ignored_is_nothing_set_up(host):
    """The primary as well has then what it had before."""
    node = host(make_tree(ipv6=True))
    fresh = kernel(node.vpc)
    assert node().code == 0 and kernel(node.vpc) != fresh
    node.configure("ignore: ['*']\n")
    assert node().code == 0
    assert kernel(node.vpc) == fresh

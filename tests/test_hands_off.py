"""ENIs that are left alone: because the configuration says so, or because a container network has them."""

import json
import re
import time
from contextlib import ExitStack, contextmanager

import pytest

from eni_bootstrap.config.file import EXAMPLE, read
from eni_bootstrap.desired.cni import BANDS, band_tables, parents
from eni_bootstrap.host.cni_config import container_networks
from eni_bootstrap.lab import probe
from eni_bootstrap.lab.namespace import Namespace
from eni_bootstrap.lab.vpc import make_tree
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.eni import SickInterface
from eni_bootstrap.model.host import ContainerNetwork
from eni_bootstrap.model.kernel import LinkGroup, Match, Rule, SeenRule
from eni_bootstrap.plan.diff import Before, plan
from tests.build import (
    BOOT, CONFIG, ETH1, ETH2, MAIN, OURS, PRIMARY, address, decision, interface, link, mac, net, route, subnet,
    two_enis,
)
from tests.fakes import FakeKernel
from tests.oracle import (
    OURS as OUR_NUMBER, OUTSIDE, assert_answers_by, assert_every_eni_answers, container, difference, ip, kernel,
    leaves_by, lost, rules, show, sources_led_to, table_of,
)

TERWAY = ContainerNetwork("terway", "/etc/cni/net.d/10-terway.conflist", True)
CILIUM = ContainerNetwork("Cilium", "/etc/cni/net.d/05-cilium.conflist")
AWS = ContainerNetwork("AWS VPC CNI", "/etc/cni/net.d/10-aws.conflist")
HOST_DEVICE = ContainerNetwork("host-device", "/etc/cni/net.d/30-fast.conf", True)
POD = net("172.16.20.21/32")
WITH_POD = interface(1, subnet("172.16.20.0/24", "172.16.20.20", "172.16.20.21", prefixes=["172.16.20.32/28"]))


def child(kind, of, **more):
    """A link made of ENI number ``of``."""
    return link(9, "child0", kind=kind, parent=of + 2, **more)._replace(ifindex=90)


def decided(world, *interfaces, networks=(), config=CONFIG, **options):
    return decision(world, *(interfaces or (PRIMARY, WITH_POD)), networks=networks, config=config, **options)


def devs(made):
    """The devices of the ENIs that are set up."""
    return [eni.dev for eni in made.enis]


def said_of(made, dev):
    return " ".join(remark for remark in made.remarks if dev in remark and "left alone" in remark)


# what the configuration says

THREE = (PRIMARY, ETH1._replace(vswitch_id="vsw-one"), ETH2._replace(vswitch_id="vsw-two"))


def three():
    return two_enis(links=[link(0), link(1), link(2)])


@pytest.mark.parametrize("word", [
    "eth1", "ETH1", mac(1), mac(1).upper(), "eni-1", "vsw-one", "*1", "eth[1]", "vsw-o??"])
def test_an_eni_is_named_by_whatever_it_has(word):
    made = decided(three(), *THREE, config=CONFIG._replace(ignore=(word,)))
    assert devs(made) == ["eth0", "eth2"] and "eni-1" in said_of(made, "eth1")
    made = decided(three(), *THREE, config=CONFIG._replace(only=(word,)))
    assert devs(made) == ["eth0", "eth1"] and "as the configuration says" in said_of(made, "eth2")


@pytest.mark.parametrize("config", [
    CONFIG._replace(ignore=("*",)), CONFIG._replace(only=("eth7",)), CONFIG._replace(ignore=("eth1", "eth2")),
    CONFIG._replace(only=("eth1", "eth2"), ignore=("eni-*",)),
])
def test_the_primary_is_never_left_alone(config):
    """With no other ENI there is nothing to be set up, though."""
    made = decided(three(), *THREE, config=config)
    assert devs(made) == ["eth0"] and not made.rules and made.skipped == {"eth1", "eth2"}


def test_who_names_the_primary_is_told():
    made = decided(three(), *THREE, config=CONFIG._replace(ignore=("eth0", "eth2")))
    assert devs(made) == ["eth0", "eth1"]
    assert [remark for remark in made.remarks if "primary" in remark and "ignore" in remark]


def test_an_unfit_eni_is_left_alone_too():
    """Then it is no error, and nothing is waited for."""
    for config in (CONFIG._replace(ignore=("vsw-one",)), CONFIG._replace(only=("vsw-two",))):
        assert decided(two_enis(links=[link(0), link(2)]), *THREE, config=config).unready == ()


def test_an_eni_whose_vswitch_metadata_has_lost_keeps_what_it_has():
    config = CONFIG._replace(only=("vsw-one",))
    sick = SickInterface("eni-1", mac(1), False, "no gateway", True)
    assert decided(three(), PRIMARY, THREE[2], sick=[sick], config=config).unready
    assert not decided(three(), PRIMARY, THREE[2], sick=[sick], config=CONFIG._replace(only=("eth2",))).unready


class TestWhatWasSetUpBefore:
    """The ENI was one of ours until now."""

    def before(self):
        world = two_enis(links=[link(0), link(1), link(2)])
        return FakeKernel(world).apply(plan(decided(world, *THREE), world, Record(), CONFIG).changes)

    def changes(self, world, made=Record(), in_use=frozenset(), config=CONFIG._replace(ignore=("eth1",))):
        wanted = decided(world, *THREE, config=config, made=made)
        return plan(wanted, world, made, config, Before(in_use=in_use)).changes

    def test_rules_routes_and_group_go_and_the_others_stay(self):
        world = self.before()
        after = FakeKernel(world).apply(self.changes(world, Record(groups=(LinkGroup("eth1", 7),))))
        fresh = two_enis(links=[link(0), link(1), link(2)])
        whole = FakeKernel(fresh).apply(self.changes(fresh))
        assert set(after.rules) == set(whole.rules) and set(after.routes) == set(whole.routes)
        assert [each.group for each in after.links] == [CONFIG.group, 7, CONFIG.group]
        assert self.changes(after, Record(groups=(LinkGroup("eth0", 0), LinkGroup("eth2", 0)))) == ()

    def test_a_group_that_udev_gave_goes_too(self):
        fresh = two_enis(links=[link(0), link(1, group=CONFIG.group), link(2)])
        assert "ip link set dev eth1 group 0" in map(str, self.changes(fresh))

    def test_a_group_of_somebody_else_stays(self):
        fresh = two_enis(links=[link(0), link(1, group=9), link(2)])
        assert not [change for change in self.changes(fresh) if "dev eth1 group" in str(change)]

    def test_the_group_of_a_link_that_is_not_listed_yet_stays(self):
        """It may be one that is just being bound."""
        fresh = two_enis(links=[link(0), link(1), link(2), link(3, group=CONFIG.group)])
        assert not [change for change in self.changes(fresh) if "eth3" in str(change)]

    def test_the_address_and_the_link_go_back_unless_somebody_uses_them(self):
        made = Record(frozenset(["eth1", "eth2"]), (), frozenset([address("eth1", "172.16.20.20/24")]))
        world = self.before()
        back = {"ip -4 address del 172.16.20.20/24 dev eth1", "ip link set dev eth1 down"}
        assert back <= set(map(str, self.changes(world, made)))
        assert not back & set(map(str, self.changes(world, made, {"eth1"})))
        assert not back & set(map(str, self.changes(
            world._replace(links=world.links + (child("macvlan", 1),)), made, config=CONFIG)))

    def test_what_is_ours_goes_while_another_eni_is_lost(self):
        """What nobody claims may be the lost one's; what is led to by this one's sources is not."""
        world = self.before()._replace(links=[link(0), link(1)])
        config = CONFIG._replace(ignore=("eth1",))
        lost_one = interface(3, subnet("172.16.30.0/24", "172.16.30.30"))
        made = decided(world, PRIMARY, ETH1, lost_one, config=config)
        found = [str(change) for change in plan(made, world, Record(), config).changes]
        assert "ip -4 rule del from 172.16.20.20 lookup 1001 priority 7200 protocol 235" in found
        assert "ip -4 route del unreachable default table 1001 metric 4294967295 proto 235" in found
        assert not [change for change in found if "1002" in change]


# a container network's children


@pytest.mark.parametrize("kind", ["ipvlan", "ipvtap", "macvlan", "macvtap"])
def test_an_eni_with_a_child_as_containers_have_is_left_alone(kind):
    made = decided(two_enis(links=[link(0), link(1), child(kind, 1)]))
    assert devs(made) == ["eth0"] and not made.unready
    assert "child0" in said_of(made, "eth1") and kind in said_of(made, "eth1")
    assert "container-networks: manage" in said_of(made, "eth1")


@pytest.mark.parametrize("kind", ["ipvlan", "ipvtap", "macvlan", "macvtap"])
@pytest.mark.parametrize("held, found", [
    ("172.16.20.100/32", ["eth0", "eth1"]), ("10.9.9.9/32", ["eth0", "eth1"]), ("172.16.20.20/24", ["eth0", "eth1"]),
    ("172.16.10.10/32", ["eth0"])])
def test_a_child_with_an_address_of_this_host_s_own(kind, held, found):
    """Another link's, the primary's, is none: terway's child bears it, by which containers reach the node."""
    world = two_enis(links=[link(0), link(1), child(kind, 1)], addresses=[address("child0", held)])
    assert devs(decided(world)) == found
    world = two_enis(links=[link(0), link(1), child(kind, 1), child(kind, 1)._replace(ifindex=91, name="child1")],
                     addresses=[address("child0", held)])
    assert devs(decided(world)) == ["eth0"], "the other one is somebody's"


@pytest.mark.parametrize("other", [
    child("vlan", 1), child("veth", 1), child("macvlan", 0), child("macvlan", 1)._replace(parent=0), child("vxlan", 1),
], ids=["VLAN", "veth", "of the primary", "of another namespace's link", "VXLAN"])
def test_other_children_say_nothing(other):
    assert devs(decided(two_enis(links=[link(0), link(1), other]))) == ["eth0", "eth1"]


def test_a_child_of_the_bond_that_carries_the_eni():
    bond = link(1, "bond0", kind="bond")._replace(ifindex=50)
    links = [link(0), link(1, master=50), bond, child("macvlan", 48)]
    assert devs(decided(two_enis(links=links))) == ["eth0"]


def test_with_manage_it_is_set_up():
    config = CONFIG._replace(container_networks="manage")
    made = decided(two_enis(links=[link(0), link(1), child("macvlan", 1)]), config=config, networks=[TERWAY])
    assert devs(made) == ["eth0", "eth1"]


# a container network's rules and routes; eth1 has the interface index 3

DEFAULT = {number: (route(number, "default", "eth1 172.16.20.253"), BOOT) for number in (11, 1001, 1003, 1004, 2)}


def lookup(priority, table, src=None, dst=None):
    return Rule(4, priority, src, table=table, match=Match(dst=dst)), BOOT


@pytest.mark.parametrize("network, seen_routes, seen_rules", [
    (TERWAY, [DEFAULT[1003]], []),
    (TERWAY, [], [lookup(512, MAIN, dst=POD)]),
    (TERWAY, [], [lookup(2048, 1003, src=POD)]),
    (TERWAY, [], [lookup(512, MAIN, dst=net("172.16.20.33/32"))]),
    (CILIUM, [DEFAULT[11]], [lookup(111, 11, src=net("10.9.9.9/32"))]),
    (CILIUM, [], [lookup(110, 11, src=POD)]),
    (CILIUM, [], [lookup(20, MAIN, dst=POD)]),
    (AWS, [DEFAULT[2]], [lookup(1536, 2, src=net("10.9.9.9/32"))]),
    (AWS, [], [lookup(512, MAIN, dst=POD)]),
])
def test_where_a_network_has_its_own_somebody_uses_the_eni(network, seen_routes, seen_rules):
    world = two_enis(seen_routes, seen_rules)
    made = decided(world, networks=[network])
    assert devs(made) == ["eth0"] and not made.unready
    said = said_of(made, "eth1")
    assert network.name in said and network.path in said
    assert str((seen_rules or seen_routes)[0][0]) in said
    assert devs(decided(world)) == ["eth0", "eth1"], "no container network is configured"


@pytest.mark.parametrize("network, seen_routes, seen_rules", [
    (TERWAY, [], []),
    (TERWAY, [DEFAULT[1001]], [lookup(511, 1001, src=net("172.16.20.20/32"))]),
    (TERWAY, [DEFAULT[1001]], [lookup(2048, 1001, src=net("172.16.20.20/32"))]),
    (TERWAY, [DEFAULT[1001]], [lookup(6999, 1001, src=net("172.16.20.20/32"))]),
    (CILIUM, [DEFAULT[1001]], [lookup(110, 1001, src=net("172.16.20.20/32"))]),
    (AWS, [DEFAULT[1001]], [lookup(512, 1001, src=net("172.16.20.20/32"))]),
    (TERWAY, [DEFAULT[1004]], []),
    (TERWAY, [(route(1002, "default", "eth0 172.16.10.253"), BOOT)], [lookup(2048, 1002, src=net("172.16.10.11/32"))]),
    (TERWAY, [], [lookup(512, MAIN, dst=net("172.16.10.11/32")), lookup(512, MAIN, dst=net("10.1.0.0/16"))]),
    (CILIUM, [], [lookup(9, 2004), lookup(100, 255)]),
    (HOST_DEVICE, [DEFAULT[1003]], [lookup(2048, 1003, src=POD)]),
], ids=["nothing", "the vendor's page before terway's", "the vendor's page by chance", "the vendor's page before ours",
        "the vendor's page by chance, Cilium", "the vendor's page by chance, AWS", "another's table", "the primary's",
        "others' containers", "Cilium's proxy", "a plug-in that makes no rules"])
def test_what_others_have_elsewhere_says_nothing(network, seen_routes, seen_rules):
    assert devs(decided(two_enis(seen_routes, seen_rules), networks=[network])) == ["eth0", "eth1"]


def test_our_own_rules_and_routes_are_no_evidence():
    """Table 1003 is that of eth3, and would be terway's for the same link."""
    eth3 = interface(3, subnet("172.16.30.0/24", "172.16.30.30"))
    world = two_enis(links=[link(0), link(3)._replace(ifindex=3)])._replace(addresses=(), routes=())
    set_up = FakeKernel(world).apply(plan(decided(world, PRIMARY, eth3), world, Record(), CONFIG).changes)
    assert [seen for seen in set_up.routes if seen.route.table == 1003 and seen.protocol == OURS]
    assert devs(decided(set_up, PRIMARY, eth3, networks=[TERWAY, CILIUM, AWS])) == ["eth0", "eth3"]


def test_what_was_set_up_goes_when_a_container_network_takes_the_eni():
    world = two_enis()
    ours = FakeKernel(world).apply(plan(decided(world), world, Record(), CONFIG).changes)
    theirs = two_enis([DEFAULT[1003]], [lookup(2048, 1003, src=POD)])
    taken = ours._replace(routes=ours.routes + theirs.routes[4:], rules=ours.rules + theirs.rules)
    after = FakeKernel(taken).apply(plan(decided(taken, networks=[TERWAY]), taken, Record(), CONFIG).changes)
    assert set(after.routes) == set(theirs.routes) and after.rules == theirs.rules and after.links == theirs.links


def test_the_tables_that_are_looked_into():
    """Terway's by the interface indexes; of the others those that their rules lead to; none without any."""
    seen = [SeenRule(*rule) for rule in (
        lookup(111, 11), lookup(1536, 2), lookup(2048, 1003), lookup(2048, 1500), lookup(7200, 1009),
        lookup(512, MAIN))]
    links = [link(0), link(1), link(2)]

    def asked(*networks):
        return band_tables(links, {"eth1", "eth2"}, seen, networks, CONFIG)
    assert (asked(), asked(HOST_DEVICE), asked(TERWAY)) == (set(), set(), {1003, 1004})
    assert asked(CILIUM) == {11} and asked(AWS) == {2} and asked(TERWAY, CILIUM) == {11, 1003, 1004}


def test_what_else_a_device_carries():
    assert parents([link(0), child("vlan", 0), child("veth", 1), child("macvlan", 5)]) == {2, 7}


# moved into a container


def test_an_eni_that_a_network_may_have_moved_is_no_error():
    made = decided(two_enis(links=[link(0), link(2)]), PRIMARY, ETH1, ETH2, networks=[TERWAY])
    assert devs(made) == ["eth0", "eth2"] and not made.unready
    assert "no link has its MAC" in said_of(made, "eni-1") and "terway" in said_of(made, "eni-1")
    links = [link(0), link(2), link(1, "mv0", kind="macvlan")]
    assert not decided(two_enis(links=links), PRIMARY, ETH1, ETH2, networks=[TERWAY]).unready


@pytest.mark.parametrize("networks", [[], [CILIUM], [AWS], [ContainerNetwork("macvlan", "/x", False)]])
def test_without_such_a_network_it_is_waited_for(networks):
    made = decided(two_enis(links=[link(0)]), networks=networks)
    assert [member.transient for member in made.unready] == [True]


def test_one_that_is_here_and_not_whole_is_still_an_error():
    sick = SickInterface("eni-1", mac(1), False, "no gateway", True)
    assert decided(two_enis(), PRIMARY, sick=[sick], networks=[TERWAY]).unready
    assert not decided(two_enis(links=[link(0)]), PRIMARY, sick=[sick], networks=[TERWAY]).unready


def test_the_primary_without_a_link_is_an_error_everywhere():
    assert decided(two_enis(links=[link(1)]), networks=[TERWAY]).unready


@pytest.mark.parametrize("name", ["eth1", mac(1)])
def test_an_eni_that_the_configuration_of_a_network_names(name):
    """Its children are in other namespaces, where we don't see them."""
    network = ContainerNetwork("macvlan", "/etc/cni/net.d/20-lan.conf", False, frozenset([name]))
    made = decided(two_enis(), networks=[network])
    assert devs(made) == ["eth0"] and "/etc/cni/net.d/20-lan.conf" in said_of(made, "eth1")


# files


def write(root, name, content, folder="etc/cni/net.d"):
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


TERWAY_FILE = {"cniVersion": "0.4.0", "name": "terway", "plugins": [
    {"type": "terway", "eniip_virtual_type": "IPVlan"}, {"type": "portmap", "capabilities": {"portMappings": True}}]}


@pytest.mark.parametrize("content, found", [
    (TERWAY_FILE, [("terway", True, [])]),
    ({"type": "terway", "eniip_virtual_type": "Veth"}, [("terway", True, [])]),
    ({"plugins": [{"type": "cilium-cni", "enable-debug": False}]}, [("Cilium", False, [])]),
    ({"type": "cilium-cni", "alibaba-cloud": {"vswitches": ["vsw-1"]}}, [("Cilium", True, [])]),
    ({"plugins": [{"type": "aws-cni"}, {"type": "egress-cni"}, {"type": "portmap"}]}, [("AWS VPC CNI", False, [])]),
    ({"type": "macvlan", "master": "eth1", "ipam": {"type": "dhcp"}}, [("macvlan", False, ["eth1"])]),
    ({"type": "host-device", "hwaddr": "00:16:3E:00:00:01"}, [("host-device", True, ["00:16:3e:00:00:01"])]),
    ({"type": "multus", "delegates": [TERWAY_FILE, {"type": "ipvlan", "master": "eth2"}]},
     [("terway", True, []), ("ipvlan", False, ["eth2"])]),
    ({"plugins": [{"type": "bridge", "bridge": "cni0"}, {"type": "portmap"}, {"type": "firewall"}]}, []),
    ({"type": "flannel", "delegate": {"isDefaultGateway": True}}, []),
    ({"type": "vlan", "master": "eth1"}, []),
    ({"type": "loopback"}, []), ([], []), ("{", []), ("[" * 100000, []), ("", []),
    ('{"plugins": [' * 20000 + "]}" * 20000, []), ({"type": 7, "plugins": 5}, []),
])
def test_what_a_file_says(tmp_path, content, found):
    write(tmp_path, "20-net.conflist", content)
    path = "/etc/cni/net.d/20-net.conflist"
    assert container_networks(str(tmp_path)) == [
        ContainerNetwork(name, path, takes, frozenset(devices)) for name, takes, devices in found]


@pytest.mark.parametrize("name, found", [
    ("10-terway.conf", ("terway", True)), ("05-cilium.conflist", ("Cilium", False)),
    ("10-aws.conflist", ("AWS VPC CNI", False)), ("87-podman-bridge.conflist", None),
])
@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_file_that_can_t_be_read_counts_by_its_name(tmp_path, name, content, found):
    path = write(tmp_path, name, content)
    assert [network[:3] for network in container_networks(str(tmp_path))] == (
        [(found[0], "/etc/cni/net.d/" + name, found[1])] if found else [])
    path.write_text('{"type": "bridge"}')
    assert container_networks(str(tmp_path)) == []


def test_where_files_are_looked_for(tmp_path):
    assert container_networks(str(tmp_path)) == []
    write(tmp_path, "10-terway.conflist.bak", TERWAY_FILE)
    write(tmp_path, "README", TERWAY_FILE)
    (tmp_path / "etc/cni/net.d/loop.conf").symlink_to("loop.conf")
    (tmp_path / "etc/cni/net.d/gone.conf").symlink_to("/nowhere")
    (tmp_path / "etc/cni/net.d/folder.conf").mkdir()
    assert container_networks(str(tmp_path)) == []
    write(tmp_path, "real.json", TERWAY_FILE, "opt")
    (tmp_path / "etc/cni/net.d/10-terway.conf").symlink_to("/opt/real.json")
    write(tmp_path, "10-terway.conflist", "", "var/lib/rancher/k3s/agent/etc/cni/net.d")
    assert [(network.name, network.path) for network in container_networks(str(tmp_path))] == [
        ("terway", "/etc/cni/net.d/10-terway.conf"),
        ("terway", "/var/lib/rancher/k3s/agent/etc/cni/net.d/10-terway.conflist")]


def test_the_configuration_says_manage_or_leave():
    assert read(b"{}")[0].container_networks == CONFIG.container_networks == "leave"
    assert read(b"container-networks: manage")[0].container_networks == "manage"
    found, (problem,) = read(b"ignore: eth1\ncontainer-networks: yes\n")
    assert found is None and problem.line == 2 and "one of leave, manage" in str(problem)
    assert read(EXAMPLE.encode())[0].container_networks == "leave" and "container-networks" in EXAMPLE


def test_every_known_network_has_its_numbers(tmp_path):
    for kind in ("terway", "cilium-cni", "aws-cni"):
        write(tmp_path, kind + ".conf", {"type": kind})
    assert {network.name for network in container_networks(str(tmp_path))} == set(BANDS)


# on the kernel


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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
def test_terway_s_own_child_bears_an_address_of_the_primary_s(make_vpc, make_agent):
    """By which containers are reached: it says that the ENI is theirs, as any other child does."""
    vpc = make_vpc(make_tree(vswitches="shared"))
    agent = make_agent(vpc)
    ip(vpc, "link add ipvl_3 link eth1 type macvlan mode private")  # not every kernel has ipvlan
    ip(vpc, "address add {}/32 dev ipvl_3 scope host".format(vpc.address("eth0")))
    for command in ("apply", "status"):
        assert "eth1): left alone, because ipvl_3 is made of it" in agent(command).out
    assert table_of(vpc, "eth1") is None and table_of(vpc, "eth2") == 1002


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
def test_everything_ignored_is_nothing_set_up(host):
    """The primary as well has then what it had before."""
    node = host(make_tree(ipv6=True))
    fresh = kernel(node.vpc)
    assert node().code == 0 and kernel(node.vpc) != fresh
    node.configure("ignore: ['*']\n")
    assert node().code == 0
    assert kernel(node.vpc) == fresh

"""The lab reads a metadata tree by itself: its world is what the tree says, whatever the agent makes of it."""

import http.client
import json
from copy import deepcopy
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, strategies as st

from eni_bootstrap.lab.service import MetadataService
from eni_bootstrap.lab.tree import Eni, Subnet, read
from eni_bootstrap.lab.vpc import macs_of, make_tree
from eni_bootstrap.metadata.parser import parse_interfaces
from tests.unit.test_properties import PURE, trees

MAC, SECOND = "00:16:3e:0e:00:01", "00:16:3e:0e:00:02"
LISTS = ("private-ipv4s", "ipv6s", "ipv4-prefixes", "ipv6-prefixes")


def eth1(**leaves):
    """The second ENI of a tree with these leaves; None: without the leaf."""
    found, reason = eth1_and_reason(**leaves)
    assert not reason
    return found


def eth1_and_reason(**leaves):
    """And why it can't be plugged in, or not with both of its IP versions; then the ENI is None, or has one."""
    tree = make_tree(2, addresses=2, ipv6=True, prefix=True)
    own = macs_of(tree)[SECOND]
    for name, value in leaves.items():
        own[name.replace("_", "-")] = value
    macs_of(tree)[SECOND] = {name: value for name, value in own.items() if value is not None}
    found = read(tree)
    assert found.primary == MAC and found.enis[0].mac == MAC
    return (found.enis[1] if len(found.enis) > 1 else None), found.broken.get(SECOND, "")


def test_a_whole_one():
    assert eth1() == Eni(SECOND, False, (
        Subnet(ip_network("172.16.20.0/24"), ip_address("172.16.20.253"),
               (ip_address("172.16.20.10"), ip_address("172.16.20.11")), (ip_network("172.16.20.128/28"),)),
        Subnet(ip_network("2001:db8:20:a201::/64"), ip_address("2001:db8:20:a201:ffff:ffff:ffff:fff7"),
               (ip_address("2001:db8:20:a201::1000"), ip_address("2001:db8:20:a201::1001")),
               (ip_network("2001:db8:20:a201:a000::/80"),))))


WORDS = ["172.16.20.10", "172.16.20.11"]


@pytest.mark.parametrize("spelling", [
    WORDS, json.dumps(WORDS), "[172.16.20.10,172.16.20.11]", "[172.16.20.10, 172.16.20.11]",
    "172.16.20.10,172.16.20.11", "172.16.20.10\r\n172.16.20.11\r\n", "172.16.20.10\n172.16.20.11",
], ids=repr)
def test_every_spelling_of_a_list(spelling):
    assert eth1(**{"private-ipv4s": spelling}) == eth1()


def test_the_primary_address_is_the_first_and_counts_where_the_list_lacks_it():
    found = eth1(primary_ip_address="172.16.20.11").subnets[0].addresses
    assert list(map(str, found)) == ["172.16.20.11", "172.16.20.10"]
    found = eth1(primary_ip_address="172.16.20.11", private_ipv4s=None).subnets[0].addresses
    assert list(map(str, found)) == ["172.16.20.11"]


def test_a_vswitch_that_is_not_told_is_the_netmask_s_or_a_64():
    assert eth1(vswitch_cidr_block=None, vswitch_ipv6_cidr_block="") == eth1()


@pytest.mark.parametrize("gone, left", [
    (("private_ipv4s", "primary_ip_address", "ipv4_prefixes", "gateway", "vswitch_cidr_block"), [6]),
    (("ipv6s", "ipv6_prefixes", "ipv6_gateway"), [4]),
    (("ipv6s",), [4, 6]),
])
def test_an_ip_version_is_there_by_its_addresses_or_prefixes(gone, left):
    assert [subnet.version for subnet in eth1(**dict.fromkeys(gone)).subnets] == left


@pytest.mark.parametrize("leaves, reason", [
    ({"gateway": None}, "gateway is missing"),
    ({"ipv6_gateway": None}, "ipv6-gateway is missing"),
    ({"gateway": ""}, "gateway is missing"),
    ({"gateway": 5}, "gateway is neither text nor a list of texts"),
    ({"gateway": [["172.16.20.253"]]}, "gateway is neither text nor a list of texts"),
    ({"gateway": "172.16.20.253 172.16.20.252"}, "gateway has 2 values"),
    ({"gateway": "172.16.20.10"}, "its gateway is 172.16.20.10"),
    ({"gateway": "0.0.0.0"}, "its gateway is 0.0.0.0"),
    ({"gateway": "2001:db8::1"}, "gateway has 2001:db8::1"),
    ({"ipv6_gateway": "fe80::1%eth0"}, "ipv6-gateway has 'fe80::1%eth0'"),
    ({"private_ipv4s": "<html>"}, "private-ipv4s has '<html>'"),
    ({"private_ipv4s": "172.16.20.0/24"}, "private-ipv4s has 172.16.20.0/24"),
    ({"private_ipv4s": {}}, "private-ipv4s is neither text nor a list of texts"),
    ({"vswitch_cidr_block": "172.16.20.0"}, "vswitch-cidr-block has 172.16.20.0"),
    ({"vswitch_cidr_block": "172.16.20.1/24"}, "vswitch-cidr-block has 172.16.20.1/24"),
    ({"vswitch_cidr_block": "0.0.0.0/0"}, "its vSwitch is 0.0.0.0/0"),
    ({"vswitch_cidr_block": None, "netmask": None}, "netmask is missing"),
    ({"ipv6s": None, "vswitch_ipv6_cidr_block": None}, "vswitch-ipv6-cidr-block is missing"),
    (dict.fromkeys(("private_ipv4s", "primary_ip_address")), "primary-ip-address is missing"),
], ids=str)
def test_what_one_ip_version_lacks_costs_that_one_only(leaves, reason):
    spoilt = 6 if "ipv6" in next(iter(leaves)) else 4
    (other,) = [subnet for subnet in eth1().subnets if subnet.version != spoilt]
    found, why = eth1_and_reason(**leaves)
    assert found.subnets == (other,) and why == reason


@pytest.mark.parametrize("leaves, reason", [
    ({"gateway": None, "ipv6_gateway": "::"}, "gateway is missing; its gateway is ::"),
    ({"gateway": None, "ipv6s": None, "ipv6_prefixes": ""}, "gateway is missing"),
    (dict.fromkeys(("private_ipv4s", "primary_ip_address", "ipv4_prefixes", "ipv6s", "ipv6_prefixes")),
     "private-ipv4s and ipv6s are missing"),
], ids=str)
def test_one_that_can_not_be_plugged_in(leaves, reason):
    assert eth1_and_reason(**leaves) == (None, reason)


@pytest.mark.parametrize("change, reason", [
    (lambda tree: tree.pop("mac"), "mac names no primary ENI"),
    (lambda tree: tree.update(mac=5), "mac names no primary ENI"),
    (lambda tree: tree.update(mac=SECOND[:-1]), "mac names no primary ENI"),
    (lambda tree: tree.update(mac="00:16:3e:0e:00:99"), "does not list the primary ENI, 00:16:3e:0e:00:99"),
    (lambda tree: tree.pop("network"), "network/interfaces/macs is no object"),
    (lambda tree: tree["network"]["interfaces"].update(macs=[]), "network/interfaces/macs is no object"),
    (lambda tree: tree.update(network="x"), "network/interfaces/macs is no object"),
    (lambda tree: tree["network"]["interfaces"].update(macs={}), "does not list the primary ENI"),
])
def test_what_is_no_tree(change, reason):
    tree = make_tree(2)
    change(tree)
    with pytest.raises(ValueError) as error:
        read(tree)
    assert reason in str(error.value)


def test_how_macs_are_written():
    tree = make_tree(4)
    macs = macs_of(tree)
    macs["00-16-3E-0E-00-02/"] = macs.pop(SECOND)
    macs["00:16:3E:0E:00:03"] = macs["00:16:3e:0e:00:03"]
    macs["nonsense"] = macs.pop("00:16:3e:0e:00:04")
    tree["mac"] = MAC.upper() + "\n"
    found = read(tree)
    assert [eni.mac for eni in found.enis] == [MAC, SECOND]
    assert found.broken == {"00:16:3e:0e:00:03": "its MAC is listed twice", "nonsense": "that is no MAC"}


def test_the_primary_comes_first_and_the_others_as_they_are_listed():
    tree = make_tree(4)
    items = list(macs_of(tree).items())
    macs_of(tree).clear()
    macs_of(tree).update(items[2:3] + items[1:2] + items[3:] + items[:1])
    assert [eni.mac[-2:] for eni in read(tree).enis] == ["01", "03", "02", "04"]


# two readers, one meaning


def meaning(enis):
    """Of the agent's values and of the lab's: what does not depend on an order that the tree leaves open."""
    return {(eni.mac, eni.primary, tuple((subnet.vswitch, subnet.gateway, frozenset(subnet.addresses),
                                          frozenset(subnet.prefixes)) for subnet in eni.subnets)) for eni in enis}


@PURE
@given(trees(), st.data())
def test_the_agent_reads_the_same(tree, data):
    """In every spelling, and with leaves that are missing or another's. What the lab can build, the agent must read."""
    for leaves in macs_of(tree).values():
        for name in sorted(set(LISTS).intersection(leaves)):
            words = leaves[name].replace(" ", "").strip("[]").split(",")
            leaves[name] = data.draw(st.sampled_from([
                words, json.dumps(words), "[{}]".format(", ".join(words)), ",".join(words), "\r\n".join(words)]))
        for name in data.draw(st.lists(st.sampled_from(sorted(leaves)), max_size=2)):
            leaves.pop(name, None)
    try:
        ours = read(tree)
    except ValueError:
        return
    listing = parse_interfaces(tree)
    assert meaning(ours.enis) == meaning(listing.interfaces)
    assert set(ours.broken) == {member.mac for member in listing.sick}
    for eni, member in ((eni, member) for eni in ours.enis for member in listing.interfaces if member.mac == eni.mac):
        if eni.subnets[0].version == 4 and "primary-ip-address" in macs_of(tree)[eni.mac]:
            assert eni.subnets[0].addresses[0] == member.subnets[0].addresses[0]


# it serves what it reads


def spelled_as_json(tree):
    tree = deepcopy(tree)
    for leaves in macs_of(tree).values():
        for name in set(LISTS).intersection(leaves):
            leaves[name] = leaves[name].replace(" ", "").replace('"', "").strip("[]").split(",")
    tree["owner-account-id"], tree["nothing"], tree["spot"] = 1000, None, [{"at": 1.5}]
    return tree


def test_a_leaf_that_is_no_text_is_served_as_its_json():
    tree = spelled_as_json(make_tree(2, addresses=2))
    with MetadataService(tree) as service:
        def get(path):
            connection = http.client.HTTPConnection(*service.url[7:].split(":"), timeout=5)
            connection.request("GET", "/latest/meta-data/" + path)
            answer = connection.getresponse()
            body = answer.read().decode()
            connection.close()
            return body if answer.status == 200 else answer.status

        assert get("network/interfaces/macs/{}/private-ipv4s".format(SECOND)) == '["172.16.20.10","172.16.20.11"]'
        assert get("owner-account-id") == "1000" and get("spot") == '[{"at":1.5}]' and get("nothing") == 404
        assert json.loads(get("all")) == tree
        assert "private-ipv4s" in get("network/interfaces/macs/{}/".format(SECOND)).split("\n")

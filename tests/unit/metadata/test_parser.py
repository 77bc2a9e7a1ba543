"""Every odd spelling of the metadata service, and what is made of it."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eni_bootstrap.metadata.parser import LEAVES, VSWITCH_ID, parse_interfaces
from eni_bootstrap.model.eni import Listing, NetworkInterface, SickInterface, Subnet
from eni_bootstrap.model.errors import NotReady

PRIMARY = "00:16:3e:12:e7:27"
SECOND = "00:16:3e:0b:4d:91"

PRIMARY_LEAVES = {
    "network-interface-id": "eni-1",
    "gateway": "10.20.31.253",
    "netmask": "255.255.240.0",
    "primary-ip-address": "10.20.16.11",
    "private-ipv4s": '["10.20.16.11"]',
    "vpc-cidr-block": "10.20.0.0/16",
    "vpc-id": "vpc-1",
    "vswitch-cidr-block": "10.20.16.0/20",
    "vswitch-id": "vsw-1",
}
SECOND_LEAVES = dict(
    PRIMARY_LEAVES,
    **{
        "network-interface-id": "eni-2",
        "ipv4-prefixes": "10.20.18.16/28",
        "ipv6-gateway": "2001:db8:20:a204:ffff:ffff:ffff:fff7",
        "ipv6-prefixes": "2001:db8:20:a204:a1b2::/80",
        "ipv6s": "[2001:db8:20:a204::2, 2001:db8:20:a204::1]",
        "primary-ip-address": "10.20.17.40",
        "private-ipv4s": '["10.20.17.42","10.20.17.40","10.20.17.41"]',
        "vpc-ipv6-cidr-blocks": "[2001:db8:20:a200::/56]",
        "vswitch-ipv6-cidr-block": "2001:db8:20:a204::/64",
    }
)
IPV4 = Subnet(
    ip_network("10.20.16.0/20"),
    ip_address("10.20.31.253"),
    tuple(map(ip_address, ("10.20.17.40", "10.20.17.41", "10.20.17.42"))),
    (ip_network("10.20.18.16/28"),),
    (ip_network("10.20.0.0/16"),),
)
IPV6 = Subnet(
    ip_network("2001:db8:20:a204::/64"),
    ip_address("2001:db8:20:a204:ffff:ffff:ffff:fff7"),
    (ip_address("2001:db8:20:a204::1"), ip_address("2001:db8:20:a204::2")),
    (ip_network("2001:db8:20:a204:a1b2::/80"),),
    (ip_network("2001:db8:20:a200::/56"),),
)


def tree(macs=None, mac=PRIMARY):
    macs = {SECOND: SECOND_LEAVES, PRIMARY: PRIMARY_LEAVES} if macs is None else macs
    return {"mac": mac, "network": {"interfaces": {"macs": macs}}}


def second(leaves=(), without=(), **changes):
    """What becomes of the second ENI when its leaves are changed so (``_`` for ``-``): what is sick of it, or it."""
    return of_second(leaves, without, **changes)[-1]


def of_second(leaves=(), without=(), **changes):
    """The same: the ENI as far as it is whole, and what is sick of it."""
    changed = dict(SECOND_LEAVES, **dict(leaves))
    changed.update({name.replace("_", "-"): value for name, value in changes.items()})
    for name in without:
        del changed[name]
    listing = parse_interfaces(tree({PRIMARY: PRIMARY_LEAVES, SECOND: changed}))
    assert listing.interfaces[0].mac == PRIMARY
    return [eni for eni in listing.interfaces + listing.sick if eni.mac == SECOND]


def test_a_whole_answer():
    assert parse_interfaces(tree()) == Listing(
        interfaces=(
            NetworkInterface(
                "eni-1",
                PRIMARY,
                True,
                (IPV4._replace(addresses=(ip_address("10.20.16.11"),), prefixes=()),),
                "vsw-1",
            ),
            NetworkInterface("eni-2", SECOND, False, (IPV4, IPV6), "vsw-1"),
        ),
        sick=(),
    )


def test_the_order_of_the_answer_means_nothing():
    macs = [("00:16:3e:00:00:0{}".format(n), SECOND_LEAVES) for n in range(5)] + [(PRIMARY, PRIMARY_LEAVES)]
    listing = parse_interfaces(tree(dict(macs)))
    assert listing == parse_interfaces(tree(dict(reversed(macs))))
    assert [interface.mac[-2:] for interface in listing.interfaces] == ["27", "00", "01", "02", "03", "04"]


@pytest.mark.parametrize(
    "spelling",
    [
        '["10.20.17.42","10.20.17.40","10.20.17.41"]',
        '["10.20.17.41", "10.20.17.42"]',
        "[10.20.17.42,10.20.17.41]",
        "['10.20.17.42', '10.20.17.41']",
        "10.20.17.42\n10.20.17.41\n",
        "10.20.17.42\r\n10.20.17.41\r\n",
        "10.20.17.42 10.20.17.41",
        " 10.20.17.41,10.20.17.42,10.20.17.41,",
        ["10.20.17.42", "10.20.17.41"],
    ],
)
def test_every_spelling_of_a_list(spelling):
    """The primary address is the first, the others sorted and each once."""
    assert second(private_ipv4s=spelling).subnets == (IPV4, IPV6)


@pytest.mark.parametrize(
    "spelling", ['["2001:db8:20:a204::1","2001:DB8:20:A204::2"]', "2001:db8:20:a204::2,2001:db8:20:a204:0::1"]
)
def test_every_spelling_of_ipv6_addresses(spelling):
    assert second(ipv6s=spelling).subnets == (IPV4, IPV6)


def test_lists_of_prefixes_and_vpc_blocks():
    eni = second(ipv4_prefixes='["10.20.18.32/28","10.20.18.16/28"]', vpc_cidr_block="10.20.0.0/16, 172.16.0.0/12")
    assert eni.subnets[0].prefixes == (ip_network("10.20.18.16/28"), ip_network("10.20.18.32/28"))
    assert eni.subnets[0].vpc == (ip_network("10.20.0.0/16"), ip_network("172.16.0.0/12"))


@pytest.mark.parametrize("spelling", [SECOND.upper(), SECOND + "/", SECOND.replace(":", "-"), " " + SECOND + "\n"])
def test_every_spelling_of_a_mac(spelling):
    listing = parse_interfaces(tree({spelling: SECOND_LEAVES, PRIMARY: PRIMARY_LEAVES}, mac=PRIMARY.upper() + "\n"))
    assert [(eni.mac, eni.primary) for eni in listing.interfaces] == [(PRIMARY, True), (SECOND, False)]


def test_quoted_and_padded_values():
    assert second(gateway='"10.20.31.253"\r\n', vswitch_cidr_block=" 10.20.16.0/20\n").subnets == (IPV4, IPV6)


def test_host_bits_in_a_cidr_block_are_no_mistake():
    assert second(vswitch_cidr_block="10.20.17.40/20").subnets[0] == IPV4


def test_the_primary_address_counts_even_where_the_list_lacks_it():
    eni = second(private_ipv4s="")
    assert eni.subnets[0].addresses == (ip_address("10.20.17.40"),)


def test_without_a_primary_address_the_list_alone_counts():
    eni = second(without=["primary-ip-address"])
    assert eni.subnets[0].addresses == IPV4.addresses


def test_netmask_stands_in_for_the_vswitch():
    assert second(without=["vswitch-cidr-block"]).subnets == (IPV4, IPV6)


def test_an_ipv6_vswitch_is_a_64_if_not_told():
    assert second(without=["vswitch-ipv6-cidr-block"]).subnets == (IPV4, IPV6)


def test_a_gateway_outside_the_vswitch_is_allowed():
    assert second(gateway="100.64.0.1", ipv6_gateway="fe80::1").subnets == (
        IPV4._replace(gateway=ip_address("100.64.0.1")),
        IPV6._replace(gateway=ip_address("fe80::1")),
    )


@pytest.mark.parametrize("absent", ["", "[]", None])
def test_no_ipv6_subnet_without_ipv6_addresses(absent):
    """An ENI without IPv6 may sit in a vSwitch with IPv6."""
    assert second(ipv6s=absent, ipv6_prefixes=absent).subnets == (IPV4,)


def test_an_ipv6_prefix_alone_makes_a_subnet():
    assert second(without=["ipv6s"]).subnets == (IPV4, IPV6._replace(addresses=()))


def test_an_eni_with_ipv6_only():
    names = ["primary-ip-address", "private-ipv4s", "ipv4-prefixes", "vswitch-cidr-block", "gateway", "netmask"]
    assert second(without=names).subnets == (IPV6,)


@pytest.mark.parametrize("eni_id", ["", "eni 1", "eni\n<1>", None, ["eni-1"], "e" * 65])
def test_an_unusable_eni_id_is_left_out(eni_id):
    eni = second(network_interface_id=eni_id)
    assert isinstance(eni, NetworkInterface) and eni.eni_id == ""


@pytest.mark.parametrize(
    "without, named",
    [
        (["gateway"], "gateway"),
        (["ipv6-gateway"], "ipv6-gateway"),
        (["vswitch-cidr-block", "netmask"], "vswitch-cidr-block"),
        (["vswitch-ipv6-cidr-block", "ipv6s"], "vswitch-ipv6-cidr-block"),
        (["primary-ip-address", "private-ipv4s"], "primary-ip-address"),
        (["primary-ip-address", "private-ipv4s", "ipv4-prefixes", "ipv6s", "ipv6-prefixes"], "private-ipv4s and ipv6s"),
        (list(SECOND_LEAVES), "private-ipv4s and ipv6s"),
    ],
)
def test_a_missing_leaf_is_named_and_may_come(without, named):
    eni = second(without=without)
    assert isinstance(eni, SickInterface) and eni.transient and not eni.primary
    assert eni.reason.startswith(named + (" are" if " and " in named else " is") + " missing")


@pytest.mark.parametrize("leaf, sick", [("gateway", 4), ("vswitch-cidr-block", 4), ("ipv6-gateway", 6), ("ipv6s", 6)])
@pytest.mark.parametrize("value", ["", "<html>"])
def test_what_is_wrong_with_one_family_costs_the_other_nothing(leaf, sick, value):
    """A missing ipv6-gateway is no reason to leave an ENI without IPv4."""
    without = [leaf, "netmask"] if leaf == "vswitch-cidr-block" else [leaf, "ipv6-prefixes"] if leaf == "ipv6s" else []
    found = of_second({leaf: value} if value or not without else {}, () if value else without)
    if leaf == "ipv6s" and not value:
        assert [[each.version for each in eni.subnets] for eni in found] == [[4]]  # it has no IPv6
        return
    whole, ill = found
    assert [each.version for each in whole.subnets] == [10 - sick] and whole.subnets == tuple(
        each for each in of_second()[0].subnets if each.version == 10 - sick)
    assert (ill.version, ill.eni_id, ill.vswitch_id) == (sick, "eni-2", "vsw-1") and leaf in ill.reason


@pytest.mark.parametrize("node", ["", None, [], 7])
def test_a_mac_without_a_directory_may_get_one(node):
    listing = parse_interfaces(tree({PRIMARY: PRIMARY_LEAVES, SECOND: node}))
    assert [(eni.mac, eni.eni_id, eni.transient) for eni in listing.sick] == [(SECOND, "", True)]


@pytest.mark.parametrize(
    "leaf, value",
    [
        ("primary-ip-address", "10.20.17.400"),
        ("primary-ip-address", "10.20.17.40 10.20.17.41"),
        ("primary-ip-address", "2001:db8::1"),
        ("private-ipv4s", '["10.20.17.40","<html>"]'),
        ("private-ipv4s", "[2001:db8::1]"),
        ("private-ipv4s", {"a": "b"}),
        ("private-ipv4s", 7),
        ("private-ipv4s", [7]),
        ("private-ipv4s", True),
        ("ipv4-prefixes", "10.20.18.16"),
        ("ipv4-prefixes", "10.20.18.16/33"),
        ("ipv4-prefixes", "2001:db8::/80"),
        ("ipv4-prefixes", "0.0.0.0/0"),
        ("vswitch-cidr-block", "vsw-1"),
        ("vswitch-cidr-block", "10.20.16.0"),
        ("vswitch-cidr-block", "10.20.16.0/20/20"),
        ("vswitch-cidr-block", "0.0.0.0/0"),
        ("vswitch-cidr-block", "2001:db8::/64"),
        ("vswitch-cidr-block", "10.20.16.0/20,10.20.32.0/20"),
        ("vpc-cidr-block", "10.20.0.0/x"),
        ("gateway", "none"),
        ("gateway", "10.20.31.253/20"),
        ("gateway", "0.0.0.0"),
        ("gateway", "127.0.0.1"),
        ("gateway", "224.0.0.1"),
        ("gateway", "2001:db8::1"),
        ("ipv6-gateway", "10.20.31.253"),
        ("ipv6-gateway", "::"),
        ("ipv6-gateway", "::1"),
        ("ipv6-gateway", "ff02::2"),
        ("ipv6-gateway", "fe80::1%eth0"),
        ("ipv6s", "[::ffff:10.20.17.40]"),
        ("ipv6s", "[fe80::1%eth0]"),
        ("ipv6s", "[10.20.17.40]"),
        ("ipv6-prefixes", "::ffff:0:0/96"),
        ("ipv6-prefixes", "::/0"),
        ("vswitch-ipv6-cidr-block", "fe80::%eth0/64"),
        ("vpc-ipv6-cidr-blocks", "[10.20.0.0/16]"),
    ],
)
def test_garbage_is_named_and_stays(leaf, value):
    eni = second({leaf: value})
    assert isinstance(eni, SickInterface) and not eni.transient
    assert (eni.eni_id, eni.mac) == ("eni-2", SECOND)
    assert eni.reason.startswith(leaf + " is ")


def test_a_garbage_value_is_quoted_but_not_at_length():
    assert second(gateway="<html>").reason == "gateway is '<html>'"
    assert len(second(gateway="x" * 5000).reason) < 120


def test_a_garbage_netmask_is_named():
    eni = second(without=["vswitch-cidr-block"], netmask="255.0.255.0")
    assert not eni.transient and eni.reason == "netmask is '10.20.17.40/255.0.255.0'"


@pytest.mark.parametrize("leaf, value", [("gateway", "10.20.17.41"), ("ipv6-gateway", "2001:db8:20:a204::2")])
def test_a_gateway_that_is_the_eni_itself(leaf, value):
    eni = second({leaf: value})
    assert not eni.transient
    assert eni.reason == "{} is {}, an address of the ENI itself".format(leaf, value)


def test_one_sick_eni_leaves_the_others_alone():
    listing = parse_interfaces(tree({PRIMARY: PRIMARY_LEAVES, SECOND: {}, "00:16:3e:00:00:01": SECOND_LEAVES}))
    assert [eni.mac for eni in listing.interfaces] == [PRIMARY, "00:16:3e:00:00:01"]
    assert [eni.mac for eni in listing.sick] == [SECOND]


def test_the_primary_can_be_sick():
    listing = parse_interfaces(tree({PRIMARY: {}, SECOND: SECOND_LEAVES}))
    assert [eni.primary for eni in listing.sick] == [True]
    assert [eni.mac for eni in listing.interfaces] == [SECOND]


@pytest.mark.parametrize("key", ["eth1", "", "00:16:3e:12:e7", "00:16:3e:12:e7:27:00", "zz:16:3e:12:e7:27", "<html>"])
def test_a_key_that_is_no_mac_is_a_sick_eni(key):
    listing = parse_interfaces(tree({PRIMARY: PRIMARY_LEAVES, key: SECOND_LEAVES}))
    assert [(eni.eni_id, eni.mac, eni.primary, eni.transient) for eni in listing.sick] == [
        ("eni-2", repr(key), False, False)
    ]
    assert listing.sick[0].reason == "its MAC is {!r}".format(key)


def test_a_mac_listed_twice_is_sick_twice():
    listing = parse_interfaces(tree({PRIMARY: PRIMARY_LEAVES, SECOND: SECOND_LEAVES, SECOND.upper(): {}}))
    assert [(eni.mac, eni.reason) for eni in listing.sick] == [(SECOND, "its MAC is listed twice")] * 2


@pytest.mark.parametrize(
    "answer, reason",
    [
        (None, "names no primary ENI: mac is missing"),
        ("<html>", "names no primary"),
        ({}, "names no primary"),
        (tree(mac=""), "names no primary ENI: mac is ''"),
        (tree(mac=7), "names no primary ENI: mac is no text but int"),
        (tree({}), "lists no ENI"),
        ({"mac": PRIMARY}, "lists no ENI"),
        ({"mac": PRIMARY, "network": {"interfaces": {"macs": PRIMARY}}}, "lists no ENI"),
        (tree({SECOND: SECOND_LEAVES}), "does not list the primary ENI, mac " + PRIMARY),
    ],
)
def test_an_answer_that_contradicts_itself_is_not_ready(answer, reason):
    with pytest.raises(NotReady) as caught:
        parse_interfaces(answer)
    assert reason in str(caught.value)


class Asked(dict):
    """An ENI's leaves that write down what they are asked for: by its name, nothing else tells what is read."""

    names = set()

    def get(self, name, default=None):
        self.names.add(name)
        return super().get(name, default)

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name):
        self.names.add(name)
        return super().__contains__(name)

    def __iter__(self):
        pytest.fail("the parser goes through all leaves of an ENI, and so reads what the client does not fetch")

    keys = values = items = __iter__


def test_every_leaf_that_is_read_is_fetched(monkeypatch):
    """Where the service is asked leaf by leaf the client fetches ``LEAVES``, and a saved tree has no others.

    With a name that is missing there no ENI has that leaf, and nobody is told. A name that is not read is fetched in
    vain.
    """
    monkeypatch.setattr(Asked, "names", set())
    for leaves in [SECOND_LEAVES, {}] + [dict(SECOND_LEAVES, **{leaf: value}) for leaf in SECOND_LEAVES
                                         for value in (None, "<html>")]:
        parse_interfaces(tree({PRIMARY: PRIMARY_LEAVES, SECOND: Asked(leaves)}))
    assert Asked.names == LEAVES | {VSWITCH_ID}


TOKENS = st.sampled_from(
    sorted({value for value in SECOND_LEAVES.values()})
    + ["", "[]", "[", "0.0.0.0", "0.0.0.0/0", "::", "::/0", "fe80::1%1", "fe80::%1/64", "1/2/3", "010.0.0.1", "/", "%"]
    + ["٣.1.1.1", "10.0.0.0/٣", "9" * 5000, "10.0.0.0/" + "9" * 5000, "\ud800", "\x00"]
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | TOKENS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NODE = st.dictionaries(st.sampled_from(sorted(LEAVES)), TOKENS | JUNK) | JUNK
KEYS = st.sampled_from([PRIMARY, SECOND, SECOND.upper(), SECOND + "/", "", "x"]) | st.text(max_size=17) | st.integers()
TREES = st.builds(
    lambda mac, macs: {"mac": mac, "network": {"interfaces": {"macs": macs}}},
    st.just(PRIMARY) | JUNK,
    st.builds(lambda macs, node: dict(macs, **{PRIMARY: node}), st.dictionaries(KEYS, NODE, max_size=4), NODE) | JUNK,
)


@settings(deadline=None, database=None)
@given(TREES | JUNK)
def test_nothing_but_not_ready_is_ever_raised(answer):
    """And whatever is listed is either an ENI or a sick one."""
    try:
        listing = parse_interfaces(answer)
    except NotReady:
        return
    assert len(listing.interfaces) + len(listing.sick) == len(answer["network"]["interfaces"]["macs"])


@settings(deadline=None, database=None)
@given(NODE)
def test_a_broken_secondary_never_harms_the_primary(node):
    listing = parse_interfaces(tree({PRIMARY: PRIMARY_LEAVES, SECOND: node}))
    assert listing.interfaces[0] == parse_interfaces(tree({PRIMARY: PRIMARY_LEAVES})).interfaces[0]
    for eni in listing.interfaces:
        for subnet in eni.subnets:
            members = subnet.addresses + (subnet.gateway,) + subnet.prefixes + subnet.vpc
            assert {member.version for member in members} == {subnet.version}
            assert subnet.gateway not in subnet.addresses


def test_a_deep_answer_does_not_exhaust_the_stack():
    deep = []
    for _ in range(100000):
        deep = [deep]
    assert second(gateway=deep).reason == "gateway is no text but list"
    while deep:  # taken apart by hand: Python's own way of freeing it recurses on some versions
        deep = deep[0]

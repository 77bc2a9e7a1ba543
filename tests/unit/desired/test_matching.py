"""Which link is which ENI; what a secondary may not claim."""

from ipaddress import ip_address

import pytest

from eni_bootstrap.desired.matching import pair
from eni_bootstrap.desired.selection import leave_out_ipv6
from eni_bootstrap.desired.validation import refuse_stealing
from eni_bootstrap.model.eni import Listing, SickInterface
from eni_bootstrap.model.kernel import natural
from tests.build import ETH1, ETH2, PRIMARY, address, interface, link, mac, subnet


def paired(interfaces, links, sick=()):
    return pair(Listing(tuple(interfaces), tuple(sick)), links)


def test_names_and_order_don_t_matter_the_mac_does():
    enis, unready = paired([ETH2, ETH1, PRIMARY], [link(2, "ens7"), link(1, "ens10"), link(0, "enp0s5")])
    assert [(eni.interface.eni_id, eni.dev) for eni in enis] == [
        ("eni-0", "enp0s5"), ("eni-2", "ens7"), ("eni-1", "ens10")]
    assert not unready


def test_an_eni_without_a_link_may_still_come():
    enis, unready = paired([PRIMARY, ETH1], [link(0)])
    assert [eni.dev for eni in enis] == ["eth0"]
    assert unready[0].transient and "no link has this MAC" in unready[0].reason
    assert "eni-1 (" + mac(1) in unready[0].label


def test_two_links_with_one_mac_are_named_and_left():
    enis, unready = paired([PRIMARY, ETH1], [link(0), link(1), link(1, "eth7")._replace(ifindex=9)])
    assert [eni.dev for eni in enis] == ["eth0"]
    assert not unready[0].transient and "eth1, eth7" in unready[0].reason


@pytest.mark.parametrize("kind", ["vlan", "macvlan", "ipvlan", "bridge", "bond", "tun", "dummy"])
def test_a_child_or_a_bridge_with_the_mac_is_not_the_eni(kind):
    enis, _ = paired([PRIMARY, ETH1], [link(0), link(1, "other", kind=kind)._replace(ifindex=9), link(1)])
    assert [eni.dev for eni in enis] == ["eth0", "eth1"]


@pytest.mark.parametrize("kind", ["bond", "bridge", "team"])
def test_the_master_carries_what_its_port_would(kind):
    master = link(1, "master0", kind=kind)._replace(ifindex=9)
    enis, _ = paired([PRIMARY, ETH1], [link(0), link(1, master=9), master])
    assert [(eni.link.name, eni.dev) for eni in enis] == [("eth0", "eth0"), ("eth1", "master0")]


def test_a_bond_in_a_bridge_is_carried_by_the_bridge():
    bond = link(1, "bond0", kind="bond", master=10)._replace(ifindex=9)
    bridge = link(1, "br0", kind="bridge")._replace(ifindex=10)
    enis, _ = paired([PRIMARY, ETH1], [link(0), link(1, master=9), bond, bridge])
    assert enis[1].dev == "br0"


def test_of_two_enis_in_one_bond_only_the_first_is_set_up():
    """Both MACs are the bond's while they are its ports; the permanent ones tell them apart."""
    bond = link(1, "bond0", kind="bond")._replace(ifindex=9)
    enis, unready = paired([PRIMARY, ETH1, ETH2], [link(0), link(1, master=9), link(2, master=9), bond])
    assert [eni.dev for eni in enis] == ["eth0", "bond0"]
    assert "bond0 already carries eni-1" in unready[0].reason and not unready[0].transient


@pytest.mark.parametrize("kind", ["vrf", "openvswitch", "something new"])
def test_a_port_of_a_vrf_or_switch_is_left_alone(kind):
    master = link(9, "master0", kind=kind)._replace(ifindex=9)
    enis, unready = paired([PRIMARY, ETH1], [link(0), link(1, master=9), master])
    assert [eni.dev for eni in enis] == ["eth0"]
    assert kind in unready[0].reason and "left alone" in unready[0].reason and unready[0].dev == "eth1"


def test_a_sick_eni_is_found_by_its_mac():
    _, unready = paired([PRIMARY], [link(0), link(1)], [SickInterface("eni-1", mac(1), False, "no gateway", True)])
    assert (unready[0].dev, unready[0].reason, unready[0].transient) == ("eth1", "no gateway", True)


def a_sick(number, primary=False):
    return SickInterface("eni-{}".format(number), mac(number), primary, "no gateway", True)


@pytest.mark.parametrize("kind", ["bond", "bridge", "team"])
def test_a_sick_eni_s_device_is_the_master_as_a_well_one_s(kind):
    links = [link(0), link(1, master=9), link(1, "master0", kind=kind)._replace(ifindex=9)]
    _, (sick,) = paired([PRIMARY], links, [a_sick(1)])
    (_, well), _ = paired([PRIMARY, ETH1], links)
    assert (sick.dev, sick.link, sick.devs, sick.label) == (well.dev, well.link.name, well.devs, well.label)
    assert sick.devs == ("master0", "eth1") == well.unready("refused").devs


def test_a_sick_eni_s_device_is_the_outermost_master():
    bond = link(1, "bond0", kind="bond", master=10)._replace(ifindex=9)
    bridge = link(1, "br0", kind="bridge")._replace(ifindex=10)
    _, (sick,) = paired([PRIMARY], [link(0), link(1, master=9), bond, bridge], [a_sick(1)])
    assert sick.devs == ("br0", "eth1")


@pytest.mark.parametrize("kind", ["vrf", "openvswitch", "something new"])
def test_a_sick_eni_s_device_is_its_link_below_a_vrf_or_switch(kind):
    master = link(9, "master0", kind=kind)._replace(ifindex=9)
    _, (sick,) = paired([PRIMARY], [link(0), link(1, master=9), master], [a_sick(1)])
    assert (sick.dev, sick.link, sick.devs) == ("eth1", "eth1", ("eth1",))


@pytest.mark.parametrize("sick", [[], [1], [2], [1, 2]], ids=str)
def test_which_of_two_enis_in_one_bond_is_set_up_does_not_depend_on_their_health(sick):
    links = [link(0), link(1, master=9), link(2, master=9), link(1, "bond0", kind="bond")._replace(ifindex=9)]
    enis, unready = paired(
        [PRIMARY] + [eni for number, eni in ((1, ETH1), (2, ETH2)) if number not in sick], links, map(a_sick, sick))
    devs = {eni.interface.eni_id: eni.dev for eni in enis}
    devs.update((member.eni_id, member.dev) for member in unready)
    assert devs == {"eni-0": "eth0", "eni-1": "bond0", "eni-2": "eth2"}
    if 2 not in sick:
        assert "bond0 already carries eni-1" in unready[-1].reason


@pytest.mark.parametrize("claim, words", [
    (subnet("172.16.20.0/24", "172.16.20.20", "172.16.10.10", vpc=["172.16.0.0/12"]),
     "172.16.10.10/32, which is the primary ENI's"),
    (subnet("127.0.0.0/8", "127.0.0.1"), "can't be an ENI's"),
    (subnet("128.0.0.0/1", "172.16.20.20"), "too wide"),
    (subnet("100.100.0.0/16", "100.100.7.7"), "the cloud's own services"),
    (subnet("172.16.20.0/24", "172.16.20.255"), "can't be an ENI's"),
    (subnet("224.0.0.0/8", "224.0.0.5"), "can't be an ENI's"),
    (subnet("0.0.0.0/8", "0.0.0.0", gateway="0.0.0.9"), "can't be an ENI's"),
    (subnet("fe80::/64", "fe80::5"), "can't be an ENI's"),
    (subnet("172.16.20.0/24", "8.8.8.8"), "outside its vSwitch"),
    (subnet("172.16.20.0/24", "172.16.20.20", prefixes=["0.0.0.0/0"]), "outside its vSwitch"),
    (subnet("172.16.20.0/24", "172.16.20.20", prefixes=["172.16.30.0/28"], vpc=["172.16.0.0/12"]),
     "outside its vSwitch"),
    (subnet("172.16.10.0/24", "172.16.10.40", prefixes=["172.16.10.0/28"]),
     "172.16.10.0/28, which is the primary ENI's"),
])
def test_a_secondary_that_claims_what_can_t_be_its_own_is_refused(claim, words):
    enis, _ = paired([PRIMARY, interface(1, claim), ETH2], [link(0), link(1), link(2)])
    fit, refused = refuse_stealing(enis, [], [])
    assert [eni.dev for eni in fit] == ["eth0", "eth2"]
    assert words in refused[0].reason and not refused[0].transient and refused[0].dev == "eth1"


def test_of_two_that_claim_one_address_the_first_keeps_it():
    twin = interface(2, subnet("172.16.20.0/24", "172.16.20.21", "172.16.20.20"))
    enis, _ = paired([PRIMARY, ETH1, twin], [link(0), link(1), link(2)])
    fit, refused = refuse_stealing(enis, [], [])
    assert [eni.dev for eni in fit] == ["eth0", "eth1"] and "another ENI too" in refused[0].reason


def test_what_the_link_of_a_badly_described_primary_holds_is_the_primary_s():
    thief = interface(1, subnet("172.16.20.0/24", "172.16.20.20", "172.16.10.10", vpc=["172.16.0.0/12"]))
    enis, unready = paired([thief], [link(0), link(1)], [SickInterface("eni-0", mac(0), True, "no gateway", True)])
    fit, refused = refuse_stealing(enis, unready, [address("eth0", "172.16.10.10/24")])
    assert not fit and "172.16.10.10" in refused[0].reason
    assert refuse_stealing(enis, unready, [])[0] == enis


def test_what_the_master_of_a_badly_described_primary_holds_is_the_primary_s():
    thief = interface(1, subnet("172.16.20.0/24", "172.16.20.20", "172.16.10.10", vpc=["172.16.0.0/12"]))
    links = [link(0, master=9), link(0, "bond0", kind="bond")._replace(ifindex=9), link(1)]
    enis, unready = paired([thief], links, [a_sick(0, primary=True)])
    fit, refused = refuse_stealing(enis, unready, [address("bond0", "172.16.10.10/24")])
    assert not fit and "172.16.10.10" in refused[0].reason


def test_the_primary_s_prefix_is_the_primary_s():
    primary = interface(0, subnet("172.16.10.0/24", "172.16.10.10", prefixes=["172.16.10.128/28"]), primary=True)
    for claim in (subnet("172.16.10.0/24", "172.16.10.30", prefixes=["172.16.10.128/28"]),
                  subnet("172.16.10.0/24", "172.16.10.30", "172.16.10.130"),
                  subnet("172.16.10.0/24", "172.16.10.30", prefixes=["172.16.10.128/29"])):
        enis, _ = paired([primary, interface(1, claim)], [link(0), link(1)])
        assert [eni.dev for eni in refuse_stealing(enis, [], [])[0]] == ["eth0"]


def test_prefixes_of_two_secondaries_may_not_overlap_but_hold_the_other_s_address():
    """The rule of an address comes before the rule of a prefix."""
    for inner, refused in ((subnet("172.16.20.0/24", "172.16.20.90", prefixes=["172.16.20.40/29"]), True),
                           (subnet("172.16.20.0/24", "172.16.20.40"), False)):
        wide = interface(1, subnet("172.16.20.0/24", "172.16.20.20", prefixes=["172.16.20.32/28"]))
        enis, _ = paired([PRIMARY, wide, interface(2, inner)], [link(0), link(1), link(2)])
        assert bool(refuse_stealing(enis, [], [])[1]) == refused


def test_a_primary_that_is_described_absurdly_is_left_as_it_is():
    """Half of the world taken for on-link would cut the instance off."""
    absurd = interface(0, subnet("128.0.0.0/1", "172.16.10.10"), primary=True)
    enis, _ = paired([absurd, ETH1], [link(0), link(1)])
    fit, refused = refuse_stealing(enis, [], [])
    assert [eni.dev for eni in fit] == ["eth1"] and refused[0].primary and "too wide" in refused[0].reason


def test_an_address_elsewhere_in_the_vpc_is_allowed():
    far = interface(1, subnet("172.16.20.0/24", "172.16.20.20", "172.16.99.1", vpc=["172.16.0.0/12"]))
    enis, _ = paired([PRIMARY, far], [link(0), link(1)])
    assert refuse_stealing(enis, [], [])[0] == enis
    assert ip_address("172.16.99.1") in enis[1].interface.subnets[0].addresses


def test_ipv6_that_is_switched_off_on_a_device_is_left_out_there():
    both = interface(1, ETH1.subnets[0], subnet("2001:db8::/64", "2001:db8::5"))
    only = interface(2, subnet("2001:db8:1::/64", "2001:db8:1::5"))
    links = [link(0, ipv6=False), link(1, ipv6=False), link(2, ipv6=False)]
    fit, unready, remarks = leave_out_ipv6(paired([PRIMARY, both, only], links)[0], [], links)
    assert [(eni.dev, [of.version for of in eni.interface.subnets]) for eni in fit] == [("eth0", [4]), ("eth1", [4])]
    assert [member.dev for member in unready] == ["eth2"] and "switched off" in unready[0].reason
    assert [(remark.eni, remark.family) for remark in remarks] == [(fit[1].label, 6)], \
        "a device that has no IPv6 anyway is not worth a word"
    links = [link(0), link(1), link(2)]
    assert leave_out_ipv6(paired([PRIMARY, both, only], links)[0], [], links)[1:] == ([], [])


def test_eth2_comes_before_eth10():
    assert sorted(["eth10", "eth2", "ens5", "eth1"], key=natural) == ["ens5", "eth1", "eth2", "eth10"]

"""Which addresses are put on the links (``assign``)."""

import os

import pytest

from eni_bootstrap.config.settings import Config
from eni_bootstrap.kernel import record
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.kernel import LinkAddress
from tests import build

ALL = Config(assign="all")


def on_link(*texts, **more):
    return [build.address("eth1", text)._replace(**more) for text in texts]


def decided(held_there, addresses, made=(), config=ALL, **options):
    """The decision about an ENI of these addresses whose link holds those."""
    world = build.two_enis()
    world = world._replace(addresses=world.addresses[:1] + tuple(held_there))
    interface = build.interface(1, *(build.subnet(vswitch, *own) for vswitch, own in addresses.items()))
    return build.decision(world, build.PRIMARY, interface, made=Record(addresses=frozenset(made)), config=config,
                          **options)


FOUR = {"172.16.20.0/24": ("172.16.20.20", "172.16.20.21", "172.16.20.22")}
SIX = {"2001:db8:1::/64": ("2001:db8:1::5", "2001:db8:1::6")}


@pytest.mark.parametrize("addresses", [FOUR, SIX])
def test_no_address_comes_before_the_first(addresses):
    """A DHCP client that is still to come would find its own behind others."""
    made = decided([], addresses)
    assert not made.addresses and len(made.unaddressed) == 1
    late = decided([], addresses, address_wait_expired=frozenset([("eth1", 4), ("eth1", 6)]))
    first = next(iter(addresses.values()))[0]
    assert str(late.addresses[0].address) == first and not late.addresses[0].deprecated
    assert len(late.addresses) == len(next(iter(addresses.values())))


def test_the_others_have_the_prefix_length_that_the_first_has():
    """Only then the kernel takes them for secondary ones."""
    made = decided(on_link("172.16.20.20/20"), FOUR)
    assert build.texts(made.addresses) == ["172.16.20.21/20 dev eth1", "172.16.20.22/20 dev eth1"]


def test_behind_somebody_else_s_address_no_more_are_put():
    late = decided(on_link("172.16.20.22/24"), FOUR, address_wait_expired=frozenset([("eth1", 4)]))
    assert not late.addresses and any("no more are put there" in remark for remark in late.remarks)


def test_an_address_that_a_container_has_is_not_put_on_the_link():
    elsewhere = [LinkAddress("eth0", build.address("eth0", "172.16.20.21/32").address, 32)]
    made = decided(on_link("172.16.20.20/24") + elsewhere, FOUR)
    assert build.texts(made.addresses) == ["172.16.20.22/24 dev eth1"]
    assert any("172.16.20.21 is on eth0" in remark for remark in made.remarks)


def test_of_ipv6_one_address_is_preferred():
    """Our deprecated one becomes that when the one that was has gone."""
    mine = on_link("2001:db8:1::5/128", deprecated=True)
    made = decided(mine, SIX, mine, address_wait_expired=frozenset([("eth1", 6)]))
    assert [(str(each.address), each.deprecated) for each in made.addresses] == [
        ("2001:db8:1::5", False), ("2001:db8:1::6", True)]


def test_what_is_deprecated_is_recorded_as_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    made = Record(addresses=frozenset(on_link("2001:db8:1::5/128", deprecated=True) + on_link("172.16.20.21/24")))
    record.save(made, (build.link(1),))
    assert record.load((build.link(1),)) == made and os.listdir(str(tmp_path)) == ["state.json"]

"""What status tells from the kernel alone, where others bear an ENI's address, too."""

import pytest

from eni_bootstrap.lab.vpc import make_tree
from tests.oracle import ip


@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
def test_an_address_that_a_load_balancer_has_put_on_lo(make_vpc, make_agent, down):
    vpc = make_vpc(make_tree(3, addresses=2))
    agent = make_agent(vpc)
    assert agent().code == 0
    ip(vpc, "address add 172.16.20.11/32 dev lo")
    for command in ("plan", "apply", "verify"):
        result = agent(command)
        assert result.code == 0 and "lo (" not in result.out
    if down:
        vpc.set_link("eth1", False)
    status = agent("status", "--json")
    assert [eni["device"] for eni in status.json["enis"]] == ["eth0", "eth1", "eth2"]
    assert status.code == down


def test_an_address_that_a_bridge_bears(make_vpc, make_agent):
    vpc = make_vpc(make_tree(3, addresses=2))
    agent = make_agent(vpc)
    assert agent().code == 0
    for command in ("link add br0 type bridge", "link add one type veth peer name two", "link set one master br0",
                    "link set br0 up", "address add 172.16.20.11/32 dev br0"):
        ip(vpc, command)
    status = agent("status", "--json")
    assert [eni["device"] for eni in status.json["enis"]] == ["eth0", "eth1", "eth2"]
    assert status.code == 0

"""One answer of the whole program: nothing that it decides or shows may tell the order of sets."""

from eni_bootstrap.lab.vpc import macs_of, make_tree
from tests.oracle import ip
from tests.unit.test_hash_seed import SEEDS


def answers(agent, *commands):
    """What each command says, by the hash seed; it must be one text."""
    for command in commands:
        told = {agent.run(*command.split(), PYTHONHASHSEED=seed) for seed in SEEDS}
        assert len(told) == 1, told
        yield told.pop().out


def test_by_the_whole_program(make_vpc, make_agent):
    """With routes of the user's by several gateways and several ENIs, rules of somebody's, and ENIs that go."""
    vpc = make_vpc(make_tree(4, addresses=2, ipv6=True, prefix=True), ipv6_onlink=True)
    agent = make_agent(vpc)
    for command in ("route add 172.16.20.0/26 via 172.16.10.77 dev eth0", "route add 172.16.20.64/26 via 172.16.10.78 "
                    "dev eth0", "route add 172.16.20.128/26 via 172.16.10.79 dev eth0",
                    "route add 198.18.0.0/16 nexthop via 172.16.20.77 dev eth1 nexthop via 172.16.10.78 dev eth2",
                    "route add 198.18.4.0/24 via 172.16.20.78 dev eth1",
                    "route add 198.17.0.0/16 via 172.16.10.78 dev eth2",
                    "rule add from 172.16.20.10 lookup 1001", "rule add from 172.16.20.11 lookup 1001",
                    "-6 rule add iif eth1 lookup 77"):
        ip(vpc, command)
    (planned,) = answers(agent, "plan")
    assert "198.18.0.0/16 via 172.16.20.77 dev eth1 table 1001" in planned
    assert "198.18.0.0/16 via 172.16.10.78 dev eth2 table 1002" in planned
    assert agent().code == 0
    assert all(answers(agent, "status", "verify --json", "adopt", "render ip"))
    for dev in ("eth2", "eth3"):
        del macs_of(vpc.tree)[vpc.nics[dev].mac]
    vpc.detach("eth3")
    (planned, _) = answers(agent, "plan", "status --json")
    assert planned.count("rule del") > 10

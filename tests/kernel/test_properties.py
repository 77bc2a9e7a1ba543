"""For random ENIs among random things of other people, on a real kernel: what must hold whatever they are."""

import subprocess
import tempfile
from copy import deepcopy

from hypothesis import Phase, example, given, settings, strategies as st

from eni_bootstrap.lab.vpc import Vpc, macs_of, make_tree
from tests import oracle
from tests.agent import Agent
from tests.build import CONFIG
from tests.effort import times
from tests.unit.test_properties import OUTSIDE, SLOW, trees

REAL = settings(max_examples=times(25), deadline=None, derandomize=True, database=None, suppress_health_check=SLOW,
                phases=[Phase.explicit, Phase.generate])
"""Without shrinking: an example takes a second."""


COMMANDS = st.lists(st.sampled_from(
    ["rule add from {} lookup {} priority {} protocol {}".format(src, table, priority, protocol)
     for src in ("all", "172.16.20.10", "172.16.10.0/24", "10.9.0.0/16") for table in (52, 1001, 1002, 1100)
     for priority in (100, 7100, 7200, 7777, 8000) for protocol in ("static", "boot")]
    + ["rule add from {} lookup 52 priority {} protocol 235".format(src, priority)
       for src in ("all", "172.16.20.10") for priority in OUTSIDE]
    + ["-6 rule add from all lookup {} priority 7400 protocol static".format(table) for table in (52, 1001)]
    + ["rule add oif eth1 lookup {} priority 7500".format(table) for table in (52, 1001)]
    + ["route add {} table {} metric {} proto {}".format(dst, table, metric, protocol)
       for dst in ("198.18.7.0/24 via 172.16.10.253 dev eth0", "198.18.8.0/24 dev eth1",
                   "default via 172.16.20.253 dev eth1 onlink", "unreachable 198.18.9.0/24", "172.16.20.0/24 dev eth1",
                   "default via 172.16.10.253 dev eth0")
       for table in (254, 1001, 1002, 1100) for metric in (0, 50, 777) for protocol in ("static", "boot", "186")
       if not (dst.startswith("default") and table == 254 and metric < 777)]
    + ["route add {} table 52 proto 235".format(dst) for dst in ("blackhole 198.18.3.0/24", "198.18.4.0/24 dev eth0")]
    + ["-6 route add fd07::/64 dev eth1 table {} proto static".format(table) for table in (254, 1001)]
    + ["address add 172.16.20.99/32 dev eth1", "link set eth1 group 7"]), max_size=7, unique=True)

SYSTEMS = st.lists(st.sampled_from(["dhcp", "up", "down"]), min_size=6, max_size=6)


def real(tree, systems):
    names = ["eth{}".format(number) for number in range(len(macs_of(tree)))]
    return Vpc(tree, names=names, os=dict(zip(names[1:], systems)))


@REAL
@given(trees(ipv6_only=False), SYSTEMS, COMMANDS)
@example(make_tree(3, ipv6=True), ["down", "dhcp"] * 3, [])
@example(make_tree(3), ["dhcp"] * 6, ["route add default via 172.16.10.253 dev eth0 table 1001 metric 50 proto static"])
def test_others_are_left_alone_and_all_of_ours_goes_again(tree, systems, commands):
    with tempfile.TemporaryDirectory() as directory, real(tree, systems) as vpc:
        agent = Agent(vpc, directory)
        for command in commands:
            vpc.instance.run(["ip"] + command.split(), check=False, stderr=subprocess.DEVNULL)
        first, others = oracle.kernel(vpc), of_others(vpc)
        result = agent("apply", "--timeout", 5)
        if result.code == 3:  # somebody's rules have cut off the metadata service, as they may
            assert commands and oracle.kernel(vpc) == first
            return
        assert result.code == 0 or "WRONG" in result.out or "PROBLEM" in result.out
        assert commands or result.code == 0, result
        done = vpc.dump()
        assert agent("plan").out.splitlines()[0] == "# nothing to do"
        again = agent("apply", "--timeout", 5)
        assert vpc.dump() == done and again.code == result.code
        if not commands:
            for name, interface in list(vpc.nics.items())[1:]:
                for subnet in interface.subnets:
                    outside = "203.0.113.1" if subnet.version == 4 else "3fff::1"
                    assert oracle.leaves_by(vpc, subnet.addresses[0], outside) == name
        if "down" not in systems[:len(vpc.nics) - 1]:
            assert of_others(vpc) == others
        assert agent("remove").code == 0
        assert oracle.kernel(vpc) == first


def of_others(vpc):
    """Rules and routes that are not ours by protocol and place, and addresses."""
    found = []
    for version in (4, 6):
        found += [rule for rule in oracle.rules(vpc, version)
                  if rule.get("protocol") != oracle.OURS or not CONFIG.owns_priority(rule["priority"])]
        found += [route for route in oracle.routes(vpc, "all", version)
                  if route["protocol"] != oracle.OURS or route.get("table") in ("52", "local")]
    return found + [link["addr_info"] for link in oracle.show(vpc, "address show")]


STEPS = st.lists(st.tuples(st.sampled_from(["attach", "detach", "address", "no address", "flap", "prefix", "noise"]),
                           st.integers(0, 99)), min_size=1, max_size=8)


@REAL
@given(STEPS)
def test_a_walk_over_worlds_ends_where_a_fresh_run_would(steps):
    spare = deepcopy(macs_of(make_tree(8, addresses=3, vswitches=[0, 1, 0, 1, 2, 2, 1, 0])))
    with tempfile.TemporaryDirectory() as directory, Vpc(make_tree(3, addresses=3, vswitches=[0, 1, 0])) as vpc:
        agent = Agent(vpc, directory)
        for action, number in steps:
            wander(vpc, spare, action, number)
            assert agent("apply", "--timeout", 5).code == 0
            assert agent("plan").out.splitlines()[0] == "# nothing to do"
        walked = sorted(vpc.dump().splitlines())
        assert agent("remove").code == 0
        assert agent("apply", "--timeout", 5).code == 0
        assert sorted(vpc.dump().splitlines()) == walked


def wander(vpc, spare, action, number):
    macs, secondaries = macs_of(vpc.tree), [name for name, nic in vpc.nics.items() if not nic.primary]
    if action == "attach":
        free = [mac for mac in spare if mac not in macs]
        if free:
            vpc.attach(free[number % len(free)], leaves=deepcopy(spare[free[number % len(free)]]),
                       os=["up", "down"][number % 2])
    elif action == "noise":
        vpc.instance.run("ip route replace 198.18.{0}.0/24 dev eth0 table {0}".format(number + 1).split())
    elif secondaries:
        name = secondaries[number % len(secondaries)]
        leaves = macs[vpc.nics[name].mac]
        own = leaves["private-ipv4s"].strip("[]").replace('"', "").split(",")
        if action == "detach":
            vpc.detach(name)
        elif action == "address":
            free = str(vpc.subnet(name).vswitch[150 + (7 * len(name) + int(name[3:]) * 13 + number) % 100])
            leaves["private-ipv4s"] = ",".join(own + [free] * (free not in own))
        elif action == "no address" and len(own) > 1:
            leaves["private-ipv4s"] = ",".join(own[:-1])
        elif action == "prefix":
            taken = {leaves.get("ipv4-prefixes") for leaves in macs.values()}
            prefix = "{}/28".format(vpc.subnet(name).vswitch[128])
            if prefix not in taken:
                leaves["ipv4-prefixes"] = prefix
        elif action == "flap":
            vpc.set_link(name, False)
            vpc.set_link(name, True)
        if action != "detach":
            vpc.refresh()

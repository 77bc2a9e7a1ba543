"""``rule_matches`` says of a rule and a packet what the kernel does."""

import contextlib
import itertools
import json
from ipaddress import ip_address, ip_network

import pytest

from eni_bootstrap.lab.namespace import Namespace
from eni_bootstrap.model.kernel import Match, Query, Rule
from eni_bootstrap.model.rule_match import rule_matches

ELSEWHERE = 4711
"""A table that only the rule leads to."""

HELD = {4: ("172.16.20.20", "172.16.30.30"), 6: ("2001:db8:20::20", "2001:db8:30::30")}
"""Addresses of d1 and d2."""
FAR = {4: ("203.0.113.1", "198.51.100.1"), 6: ("2001:db8:ffff::1", "2001:db8:eeee::1")}


def rules(version):
    """One rule for each selector, and some of several, each as it is and turned round."""
    source, destination = ip_network(HELD[version][0]), ip_network(FAR[version][0])
    matches = [Match(), Match(dst=destination), Match(iif="lo"), Match(iif="d2"), Match(mark=0x10, mask=0xFF),
               Match(mask=0xF0), Match(users=(1000, 1001)), Match(users=(0, 0)), Match(protocol=6),
               Match(protocol=6, dports=(80, 90)), Match(protocol=17, sports=(53, 53)),
               Match(dst=destination, mark=0x10, mask=0xFF, protocol=6)]
    zero = ip_network("0.0.0.0/32" if version == 4 else "::/1")
    sources = [None, source, source.supernet(new_prefix=source.prefixlen - 8), zero]
    made = [Rule(version, 100, src, table=ELSEWHERE, match=match) for src, match in itertools.product(sources, matches)]
    made += [Rule(version, 100, oif="d1", table=ELSEWHERE), Rule(version, 100, source, oif="d2", table=ELSEWHERE)]
    return made + [rule._replace(match=rule.match._replace(inverted=True)) for rule in made
                   if (rule.src, rule.oif, rule.match) != (None, "", Match())]


def packets(version):
    one, other = map(ip_address, HELD[version])
    far, further = map(ip_address, FAR[version])
    plain = [Query(far), Query(further), Query(far, one), Query(far, other), Query(far, one, oif="d1"),
             Query(far, oif="d2"), Query(one, far, iif="d1"), Query(further, other, mark=0x10),
             Query(far, one, mark=0x110), Query(far, user=1001), Query(far, user=5)]
    return plain + [Query(far, one, protocol=6, sport=5000, dport=dport) for dport in (80, 91)] + [
        Query(far, protocol=17, sport=53, dport=5353), Query(far, mark=0x10, protocol=6, dport=80)]


@pytest.fixture(scope="module")
def host():
    """d1 and d2, and in both tables a default by each, so that a device that is asked for is never in vain."""
    with contextlib.closing(Namespace()) as namespace:
        ends = [(dev, "other-" + dev) for dev in ("d1", "d2")]
        batch(namespace, 4, ["link add {} type veth peer name {}".format(*pair) for pair in ends]
              + ["link set {} up".format(dev) for pair in ends for dev in pair])
        for version, length in ((4, "24"), (6, "64 nodad")):
            addresses = ["address add {}/{} dev {}".format(address, length, dev)
                         for address, (dev, _) in zip(HELD[version], ends)]
            batch(namespace, version, addresses + [
                "route add default dev {} table {} metric {}".format(dev, table, 10 + place)
                for table in ("main", ELSEWHERE) for place, dev in enumerate(("d1", "d2"))])
        yield namespace


def batch(namespace, version, lines):
    return namespace.run(["ip", "-{}".format(version), "-json", "-batch", "-"], input="\n".join(lines) + "\n").stdout


def question(packet):
    words = ["route", "get", "fibmatch", str(packet.dst)]
    for word, value in (("from", packet.src), ("oif", packet.oif), ("mark", packet.mark), ("uid", packet.user),
                        ("ipproto", packet.protocol), ("sport", packet.sport), ("dport", packet.dport)):
        words += [word, str(value)] if value not in (None, "", 0) else []
    return " ".join(words)


@pytest.mark.parametrize("version", [4, 6])
def test_it_is_what_the_kernel_does(host, version):
    """Asked of each rule with each packet: by which table does the kernel's look-up go?"""
    asked = [packet for packet in packets(version) if not packet.iif]
    wrong, matched = [], 0
    for rule in rules(version):
        said = batch(host, version, ["rule add {}".format(rule)] + [question(packet) for packet in asked]
                     + ["rule del priority 100"])
        answers = [answer[0].get("table") == str(ELSEWHERE) for answer in map(json.loads, said.splitlines()) if answer]
        assert len(answers) == len(asked), said
        matched += sum(answers)
        wrong += [(str(rule), packet) for packet, taken in zip(asked, answers) if taken != rule_matches(rule, packet)]
    assert not wrong and matched > len(asked)

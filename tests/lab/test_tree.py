"""A world that the lab has read by itself agrees with no wrong reading of the agent's."""

import pytest

from eni_bootstrap.lab.vpc import make_tree
from eni_bootstrap.metadata import parser
from tests.oracle import assert_answers_by
from tests.unit.lab.test_tree import spelled_as_json


def test_a_wrong_reading_builds_no_world_that_agrees_with_it(make_vpc, make_agent, monkeypatch):
    """The agent takes every address for the next one."""
    right = parser._address
    monkeypatch.setattr(parser, "_address", lambda leaf, token, version: right(leaf, token, version) + 1)
    vpc = make_vpc()
    assert {name: str(vpc.address(name)) for name in vpc.nics} == {
        "eth0": "172.16.10.10", "eth1": "172.16.20.10", "eth2": "172.16.10.11"}
    assert make_agent(vpc)("verify").code == 1
    monkeypatch.undo()
    assert make_agent(vpc)().code == 0
    assert_answers_by(vpc, "eth1", "172.16.20.10")


@pytest.mark.parametrize("all_answer", [None, 404], ids=["at once", "leaf by leaf"])
def test_an_instance_whose_leaves_are_json(make_vpc, make_agent, all_answer):
    vpc = make_vpc(spelled_as_json(make_tree(3, addresses=2, ipv6=True, prefix=True)), assign=True,
                   all_answer=all_answer)
    agent = make_agent(vpc)
    assert agent().code == 0 and agent("verify").code == 0
    for version in (4, 6):
        for address in vpc.subnet("eth1", version).addresses:
            assert_answers_by(vpc, "eth1", address)

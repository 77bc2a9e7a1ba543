"""The demo calls nothing cured that is not, and tells the user's mistakes."""

from ipaddress import ip_address

import pytest

from eni_bootstrap import cli
from eni_bootstrap.lab import demo, story
from eni_bootstrap.lab.fabric import FORWARDED, SOURCE_CHECK, Packet
from eni_bootstrap.lab.story import Question, Trace

EIP, PRIVATE, CLIENT = map(ip_address, ("198.51.100.2", "172.16.20.10", "203.0.113.50"))
QUESTION = Question("eth1", PRIVATE, EIP, "eth0")
ILL = Trace(QUESTION, (False,) * 3, ("eth1",), ("eth0",), (SOURCE_CHECK,))
WELL = Trace(QUESTION, (True,) * 3, ("eth1",), ("eth1",), ())


# it does not say what it has not seen


def packet(port, direction, src, dst, verdict=FORWARDED):
    return Packet(port, direction, 4, src, dst, 1, 0, 0, verdict)


def test_a_trace_is_made_of_packets():
    asked = [packet("client", "from", CLIENT, EIP), packet("eth1", "to", CLIENT, PRIVATE)]
    lost = packet("eth0", "from", PRIVATE, CLIENT, SOURCE_CHECK)
    back = [packet("eth1", "from", PRIVATE, CLIENT), packet("client", "to", EIP, CLIENT)]
    stray = packet("eth0", "from", ip_address("172.16.10.10"), CLIENT)
    assert demo.trace(QUESTION, (False,) * 3, asked + [stray, lost]) == ILL
    assert demo.trace(QUESTION, (True,) * 3, asked + [stray] + back) == WELL
    assert demo.trace(QUESTION, (False,) * 3, []).came_in == ()


@pytest.mark.parametrize("trace", [
    WELL._replace(answered=(True, True, False)),
    WELL._replace(went_out=("eth0", "eth1"), dropped=(SOURCE_CHECK,)),
    WELL._replace(went_out=("eth0",)),
    ILL,
], ids=["UDP unanswered", "one reply dropped", "out by another", "ill"])
def test_only_what_answers_by_itself_is_well(trace):
    assert WELL.healthy and not story.missing_cure([WELL])
    assert not trace.healthy
    assert len(story.missing_cure([WELL, trace])) == 1


@pytest.mark.parametrize("trace", [WELL, ILL._replace(came_in=(), went_out=(), dropped=()), ILL._replace(dropped=())],
                         ids=["answers already", "silence", "not dropped"])
def test_a_symptom_that_is_not_seen_is_a_failure(trace):
    assert ILL.symptom and not story.missing_symptom([ILL])
    assert not trace.symptom
    assert len(story.missing_symptom([trace])) == 1
    primary = trace._replace(question=QUESTION._replace(dev="eth0"))
    assert not story.missing_symptom([primary])


# mistakes of the user


def test_a_configuration_that_is_wrong_is_said_before_anything_is_built(capfd, tmp_path):
    (tmp_path / "wrong.yaml").write_text("assign: some\n")
    assert cli.main(["demo", "--config", str(tmp_path / "wrong.yaml")]) == 2
    assert "wrong.yaml:1: assign" in capfd.readouterr().err

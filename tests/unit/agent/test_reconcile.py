"""The loop of rounds, over a platform made of scripts."""

import contextlib

import pytest

from eni_bootstrap.agent import platform as linux
from eni_bootstrap.agent.reconcile import Platform, Round, reconcile
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.model.kernel import Answer

NOTHING = type("Observation", (), {"decision": Decision((), ())})()


class Scripted(Platform):
    """Gives these listings one by one, the last one for ever; ``told`` is what happened."""

    def __init__(self, listings=("all",), removes=lambda listing: False, waits=(), rounds=()):
        self.listings, self._removes, self.waits, self.rounds = list(listings), removes, list(waits), list(rounds)
        self.told, self.locked = [], False

    def listing(self):
        assert not self.locked, "the service is asked while others are locked out"
        self.told.append("ask")
        return self.listings.pop(0) if len(self.listings) > 1 else self.listings[0]

    @contextlib.contextmanager
    def lock(self):
        self.locked = True
        try:
            yield self.waits.pop(0) if self.waits else False
        finally:
            self.locked = False

    def observe(self, listing, address_wait_expired):
        assert self.locked
        self.told.append("look at " + listing)
        self.observed = listing
        return NOTHING

    def removes(self, observation):
        return self._removes(self.observed)

    def execute(self, observation):
        assert self.locked
        self.told.append("act on " + self.observed)
        return self.rounds.pop(0) if self.rounds else Round(observation)

    def missed(self):
        return frozenset()

    def note_missed(self, observation):
        pass

    def retries(self, decision):
        return 3


def run(platform):
    return reconcile(platform, Deadline(60), Config(), sleep=lambda seconds: None)


def test_what_only_adds_is_done_by_one_listing():
    platform = Scripted()
    run(platform)
    assert platform.told == ["ask", "look at all", "act on all"]


def test_what_removes_waits_for_a_second_listing_that_says_the_same():
    platform = Scripted(["some", "some"], removes=lambda listing: True)
    run(platform)
    assert platform.told == ["ask", "look at some", "ask", "look at some", "act on some"]


def test_a_listing_that_was_cut_short_removes_nothing():
    platform = Scripted(["cut", "all"], removes=lambda listing: listing == "cut")
    run(platform)
    assert platform.told == ["ask", "look at cut", "ask", "look at all", "act on all"]


def test_listings_are_compared_in_a_row():
    """Two others that agree do not vouch for the one before them."""
    platform = Scripted(["a", "b", "a", "a"], removes=lambda listing: True)
    run(platform)
    assert platform.told[-2:] == ["look at a", "act on a"] and platform.told.count("ask") == 4


def test_a_listing_that_is_older_than_another_run_s_work_is_asked_for_anew():
    platform = Scripted(["before", "after"], waits=[True])
    run(platform)
    assert platform.told == ["ask", "ask", "look at after", "act on after"]


def test_who_can_t_write_down_whom_he_has_missed_has_done_his_work_all_the_same(caplog):
    class Held(Scripted):
        def note_missed(self, observation):
            raise BootstrapError("another run has been at work for 2 s")

    assert run(Held(rounds=[Round(NOTHING, ("change",))])).changes == ("change",)
    assert "another run has been at work for 2 s" in caplog.text


ETH0, ETH1 = (Answer(dev, None, 254, "unicast") for dev in ("eth0", "eth1"))


@pytest.mark.parametrize("rounds, said", [
    ([(ETH0, ETH0), (ETH0, ETH0)], []),
    ([(ETH0, ETH1), (ETH1, ETH1)], ["the way to the internet was by eth0 and is now by eth1"]),
    ([(ETH0, ETH0), (ETH0, ETH1)], ["the way to the internet was by eth0 and is now by eth1"]),
    ([(ETH0, ETH1), (ETH1, ETH0)], []),
    ([(ETH0, Answer(error=101)), (Answer(error=101), Answer(error=101))],
     ["the way to the internet was by eth0 and is now by nothing"]),
], ids=["never", "in the first round", "in the second", "there and back", "away"])
def test_a_way_that_any_round_has_moved_is_named_unless_it_is_back(monkeypatch, rounds, said):
    answers = iter([answer for pair in rounds for answer in pair])
    monkeypatch.setattr(linux.prove, "ways", lambda world, view: {"the internet": next(answers)})
    monkeypatch.setattr(linux, "execute", lambda world, view: ([], [], False))
    monkeypatch.setattr(linux, "mark_connections", lambda *arguments: ([], []))
    view = linux.Observation(None, None, Decision((), ()), None, Config())
    view = view._replace(snapshot=type("Snapshot", (), {"rules": ()}))
    platform = linux.LinuxPlatform(None)
    findings = [platform.execute(view).findings for _ in rounds][-1]
    assert [finding.cause for finding in findings] == said

"""When it is tried again, how long it is waited, and what an operator hears of it."""

import logging

import pytest

from eni_bootstrap.metadata import retry
from eni_bootstrap.metadata.retry import Retrying
from eni_bootstrap.model import deadline as model_deadline
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.errors import MetadataError, NotReady
from tests.fakes import Clock


class Flaky:
    """Fails with each of ``errors``, then succeeds; the last one for ever if ``always``."""

    def __init__(self, *errors, always=False):
        self.errors = list(errors)
        self.always = always
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors[0] if self.always else self.errors.pop(0)
        return "done"


@pytest.fixture
def clock():
    return Clock(1000.0)


def test_a_deadline_counts_down_to_zero_and_not_below(clock):
    deadline = Deadline(3, clock)
    assert (deadline.remaining(), deadline.expired) == (3.0, False)
    clock.now += 2
    assert (deadline.remaining(), deadline.expired) == (1.0, False)
    clock.now += 2
    assert (deadline.remaining(), deadline.expired) == (0.0, True)


def test_success_is_not_repeated(clock):
    function = Flaky()
    assert Retrying("it", Deadline(60, clock), clock.sleep)(function) == "done"
    assert (function.calls, clock.slept) == (1, [])


def test_arguments_are_passed_on(clock):
    assert Retrying("it", Deadline(60, clock), clock.sleep)(divmod, 7, 2) == (3, 1)


def test_not_ready_is_tried_again_after_growing_pauses_up_to_a_longest(clock):
    function = Flaky(*[NotReady("late")] * 7)
    assert Retrying("it", Deadline(60, clock), clock.sleep)(function) == "done"
    for slept, pause in zip(clock.slept, [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]):
        assert pause <= slept <= pause + retry.JITTER
    assert len(clock.slept) == 7


def test_pauses_differ_so_that_a_fleet_does_not_ask_together(clock):
    with pytest.raises(NotReady):
        Retrying("it", Deadline(600, clock), clock.sleep)(Flaky(NotReady("late"), always=True))
    longest = clock.slept[5:-1]
    assert len(set(longest)) > len(longest) / 2


@pytest.mark.parametrize("error", [MetadataError("forbidden"), ValueError("a bug")], ids=["final", "bug"])
def test_anything_but_not_ready_comes_out_at_once(clock, error):
    function = Flaky(error)
    with pytest.raises(type(error)) as caught:
        Retrying("it", Deadline(60, clock), clock.sleep)(function)
    assert caught.value is error
    assert (function.calls, clock.slept) == (1, [])


@pytest.mark.parametrize("seconds", [0.5, 1, 7, 60])
def test_it_ends_before_the_deadline_with_the_last_error_after_a_last_try(clock, seconds):
    start, last = clock.now, NotReady("still late")
    tries = []

    def function():
        tries.append(clock.now - start)
        raise last

    with pytest.raises(NotReady) as caught:
        Retrying("it", Deadline(seconds, clock), clock.sleep)(function)
    assert caught.value is last
    assert tries[-1] == pytest.approx(seconds - retry.LAST_TRY, abs=0.002)
    assert clock.now - start < seconds


def test_nothing_is_repeated_after_the_deadline(clock):
    deadline = Deadline(5, clock)
    clock.now += 6
    function = Flaky(NotReady("late"), always=True)
    with pytest.raises(NotReady):
        Retrying("it", deadline, clock.sleep)(function)
    assert (function.calls, clock.slept) == (1, [])


def test_every_try_is_in_the_debug_log_with_its_reason(clock, caplog):
    caplog.set_level(logging.DEBUG, "eni_bootstrap")
    Retrying("the service", Deadline(60, clock), clock.sleep)(Flaky(NotReady("refused"), NotReady("503")))
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("the service: try 1: refused; again in 0.")
    assert second.startswith("the service: try 2: 503; again in 0.")


def test_a_short_wait_is_not_worth_a_message(clock, caplog):
    caplog.set_level(logging.INFO, "eni_bootstrap")
    Retrying("the service", Deadline(60, clock), clock.sleep)(Flaky(NotReady("late"), NotReady("late")))
    assert caplog.records == []


def test_a_long_wait_is_told_now_and_then(clock, caplog):
    """What for and how long still: once after a second, then at most every five seconds."""
    caplog.set_level(logging.INFO, "eni_bootstrap")

    def function():
        if clock.now == 1000.0:
            clock.now += model_deadline.PATIENCE + 0.05
        raise NotReady("connection refused")

    with pytest.raises(NotReady):
        Retrying("the service", Deadline(21, clock), clock.sleep)(function)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "waiting for the service, 20 s more at most: connection refused"
    assert 3 <= len(messages) <= 4
    left = [int(message.split(", ")[1].split()[0]) for message in messages]
    assert all(before - after >= 5 for before, after in zip(left, left[1:]))

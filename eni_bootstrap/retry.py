"""One deadline for a whole run, and the only place that knows how to try again."""

import logging
import time
from typing import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential, wait_random

from eni_bootstrap.errors import BootstrapError, NotReady

LOG = logging.getLogger(__name__)

FIRST_PAUSE = 0.2
"""Seconds. A boot waits for this: most services that are late are late by less than a second."""

LONGEST_PAUSE = 2.0
"""Seconds. Pauses double up to here: the metadata service throttles who asks too often, nobody knows at what rate."""

JITTER = 0.1
"""Seconds added at random, so that a fleet that boots together does not ask together."""

LAST_TRY = 0.2
"""Seconds before the deadline at which the last try starts: a good answer takes milliseconds."""

PATIENCE = 1.0
"""Seconds of trying before an operator who watches the boot is told about it."""

LOCK_POLL = 0.05
"""Seconds between two tries for a lock: a run takes some 0.3 s, so that those who wait lose little."""

SPEAK_EVERY = 5.0
"""Seconds between two such messages."""


class Deadline:
    """The moment at which everything must have ended.

    ``clock`` returns seconds that never jump (``time.monotonic``); tests pass their own.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.seconds = seconds
        self._end = clock() + seconds

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - self._clock())

    def part(self, share: float) -> "Deadline":
        """A deadline of its own after this share of the time that is left."""
        return Deadline(self.remaining() * share, self._clock)

    @property
    def expired(self) -> bool:
        return self.remaining() == 0.0


def retrying(what: str, deadline: Deadline, sleep: Callable[[float], None] = time.sleep) -> Retrying:
    """``retrying("the …", deadline)(function, *arguments)`` repeats it on ``NotReady`` until just before the deadline.

    The last ``NotReady`` comes out, any other exception at once. Threads may share the result.
    """
    backoff = wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE) + wait_random(0, JITTER)
    spoke_at = float("inf")  # as seconds before the deadline

    def is_over(state: RetryCallState) -> bool:
        # Not tenacity's stop_before_delay: 8.2.2, the last for Python 3.6, has none.
        return deadline.remaining() <= LAST_TRY

    def pause(state: RetryCallState) -> float:
        # Up to the last try, but never a pause so short that adding it to the clock is lost in rounding.
        return min(backoff(state), max(0.001, deadline.remaining() - LAST_TRY))

    def report(state: RetryCallState) -> None:
        nonlocal spoke_at
        assert state.outcome and state.next_action
        left, error = deadline.remaining(), state.outcome.exception()
        LOG.debug("%s: try %d: %s; again in %.2f s", what, state.attempt_number, error, state.next_action.sleep)
        if (state.seconds_since_start or 0.0) > PATIENCE and spoke_at - left >= SPEAK_EVERY:
            spoke_at = left
            LOG.info("waiting for %s, %.0f s more at most: %s", what, left, error)

    return Retrying(
        retry=retry_if_exception_type(NotReady),
        wait=pause,
        stop=is_over,
        sleep=sleep,
        before_sleep=report,
        reraise=True,
    )


def wait_for_lock(try_it: Callable[[], bool], path: str, deadline: Deadline, sleep: Callable[[float], None]) -> bool:
    """Try until the lock is ours; tells whether another run had to be waited for.

    Raises ``BootstrapError`` when another run holds it until the deadline.
    """
    started = deadline.remaining()
    said = waited = False
    while not try_it():
        if deadline.expired:
            raise BootstrapError("another run has been at work for {:.0f} s (it holds {})".format(started, path))
        if not said and started - deadline.remaining() > PATIENCE:
            said = True
            LOG.info("waiting for another run to end, %.0f s at most", deadline.remaining())
        waited = True
        sleep(LOCK_POLL)
    return waited

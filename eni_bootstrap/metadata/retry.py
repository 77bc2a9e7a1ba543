"""Retries within the deadline: the only place that tries again, and the only file that imports tenacity."""

import logging
import time
from typing import Any, Callable, List, TypeVar

from eni_bootstrap.model.deadline import PATIENCE, SPEAK_EVERY, Deadline
from eni_bootstrap.model.errors import NotReady

LOG = logging.getLogger(__name__)

Result = TypeVar("Result")

FIRST_PAUSE = 0.2
"""Seconds before the second try. A boot waits for this: most services that are late are late by less than a second."""

LONGEST_PAUSE = 2.0
"""Seconds. Pauses double up to here: the metadata service throttles who asks too often, nobody knows at what rate."""

JITTER = 0.1
"""Seconds added at random, so that a fleet that boots together does not ask together."""

LAST_TRY = 0.2
"""Seconds before the deadline at which the last try starts: a good answer takes milliseconds."""


class Retrying:
    """``Retrying("the …", deadline)(function, *arguments)`` repeats it on ``NotReady`` until just before the deadline.

    Then it raises the last ``NotReady``; any other exception it raises at once. Threads may share it. tenacity, which
    draws asyncio, is imported when something has failed.
    """

    def __init__(self, what: str, deadline: Deadline, sleep: Callable[[float], None] = time.sleep) -> None:
        self._what = what
        self._deadline = deadline
        self._sleep = sleep
        self._spoke_at = float("inf")  # as seconds before the deadline

    def __call__(self, function: Callable[..., Result], *arguments: Any) -> Result:
        started_at = self._deadline.remaining()
        failed: List[NotReady] = []
        try:
            return function(*arguments)
        except NotReady as error:
            failed.append(error)

        def try_again() -> Result:
            if failed:
                raise failed.pop()  # tenacity's first try is the one that has been made
            return function(*arguments)

        return self._repeat(try_again, started_at)

    def _repeat(self, function: Callable[[], Result], started_at: float) -> Result:
        import tenacity
        from tenacity import RetryCallState
        backoff = tenacity.wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE) + tenacity.wait_random(0, JITTER)
        deadline = self._deadline

        def is_over(state: RetryCallState) -> bool:
            # Not tenacity's stop_before_delay: 8.2.2, the last for Python 3.6, has none.
            return deadline.remaining() <= LAST_TRY

        def pause(state: RetryCallState) -> float:
            # Up to the last try, but never a pause so short that adding it to the clock is lost in rounding.
            return min(backoff(state), max(0.001, deadline.remaining() - LAST_TRY))

        def report(state: RetryCallState) -> None:
            assert state.outcome and state.next_action
            left, error = deadline.remaining(), state.outcome.exception()
            LOG.debug("%s: try %d: %s; again in %.2f s", self._what, state.attempt_number, error,
                      state.next_action.sleep)
            if started_at - left > PATIENCE and self._spoke_at - left >= SPEAK_EVERY:
                self._spoke_at = left
                LOG.info("waiting for %s, %.0f s more at most: %s", self._what, left, error)

        repeating = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(NotReady), wait=pause, stop=is_over, sleep=self._sleep,
            before_sleep=report, reraise=True)
        return repeating(function)

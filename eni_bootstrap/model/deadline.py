"""One deadline for a whole run, and waiting for a lock within it."""

import logging
import time
from typing import Callable

from eni_bootstrap.model.errors import BootstrapError

LOG = logging.getLogger(__name__)


PATIENCE = 1.0
"""Seconds of trying before the first message to an operator who watches the boot."""

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
        """A new deadline, after this share of the time that is left."""
        return Deadline(self.remaining() * share, self._clock)

    @property
    def expired(self) -> bool:
        return self.remaining() == 0.0


def wait_for_lock(try_it: Callable[[], bool], path: str, deadline: Deadline, sleep: Callable[[float], None]) -> bool:
    """Try until the lock is ours. Returns whether another run had to be waited for.

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

"""Wait policy: which missing ENIs and addresses to wait for, until when, and the progress messages."""

import logging
from typing import AbstractSet, Dict, FrozenSet, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.model.deadline import SPEAK_EVERY, Deadline
from eni_bootstrap.model.finding import Finding

LOG = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks while waiting: what is missing comes within some seconds, and the service throttles."""


class Patience:
    """The clocks of what is missing: how long each ENI and address has been waited for."""

    def __init__(self, deadline: Deadline, config: Config, missed: AbstractSet[str] = frozenset()) -> None:
        """``missed``: MACs of ENIs that are not waited for any more."""
        self._deadline = deadline
        self._config = config
        self._missed = missed
        self._since: Dict[object, float] = {}  # by MAC or (device, IP version): when first missed
        self._spoke = float("-inf")

    def _age(self, key: object) -> float:
        now = self._now()
        return now - self._since.setdefault(key, now)

    def _now(self) -> float:
        return self._deadline.seconds - self._deadline.remaining()

    def over(self) -> FrozenSet[Tuple[str, int]]:
        """(device, IP version) pairs that nobody has addressed within ``address_wait``."""
        return frozenset(key for key in self._since
                         if isinstance(key, tuple) and self._age(key) >= self._config.address_wait)

    def worth(self, decision: Decision) -> bool:
        """Whether to wait for another look; says what for, and how long still, when it lasts."""
        waits = [(self._config.interface_wait - self._age(member.mac), member.finding.text)
                 for member in decision.unready if member.transient and member.mac not in self._missed]
        waits += [(self._config.address_wait - self._age((member.dev, member.version)) + POLL,
                   member.without_address.text) for member in decision.unaddressed]
        waits = [(min(left, self._deadline.remaining() - POLL), what) for left, what in waits]
        waits = [(left, what) for left, what in waits if left > 0]
        if waits and self._now() - self._spoke >= SPEAK_EVERY:
            self._spoke = self._now()
            for left, what in waits:
                LOG.info("waiting, %.0f s more at most: %s", left, what)
        return bool(waits)


def findings_of(decision: Decision) -> Tuple[Finding, ...]:
    """What the decision has found, and which ENIs can't be set up now, and why."""
    return tuple(member.finding for member in decision.unready) + decision.findings

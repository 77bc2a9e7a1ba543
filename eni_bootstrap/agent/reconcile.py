"""Observe and execute until nothing is left to do or to wait for; the same on every operating system.

What differs between them stands behind ``Platform``.
"""

import logging
import time
from typing import Any, Callable, ContextManager, FrozenSet, List, NamedTuple, Tuple

from eni_bootstrap.agent.waiting import POLL, Patience
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.eni import Listing
from eni_bootstrap.model.errors import BootstrapError, MetadataError
from eni_bootstrap.model.finding import Finding

LOG = logging.getLogger(__name__)


class Removed(Exception):
    """``remove`` has taken everything back, and an unattended run must not undo that."""


class Round(NamedTuple):
    """The result of one round: what was observed, and the changes that followed."""

    observation: Any
    """The platform's own type; ``observation.decision`` is the same on all of them."""
    changes: Tuple[Any, ...] = ()
    """Those that were made."""
    findings: Tuple[Finding, ...] = ()
    """What went wrong with them."""
    again: bool = False
    """Another look is due without a pause: another writer was faster, or a part of the plan had to wait."""


class Platform:
    """What ``reconcile`` needs of an operating system."""

    wait_share = 1.0
    """The share of the remaining time that may be spent on waiting."""

    def listing(self) -> Listing:
        """Ask the metadata service for its listing. Raises ``MetadataError``."""
        raise NotImplementedError

    def lock(self) -> ContextManager[bool]:
        """Lock out other runs. Yields whether another run had to be waited for."""
        raise NotImplementedError

    def observe(self, listing: Listing, address_wait_expired: FrozenSet[Tuple[str, int]]) -> Any:
        """Read the system, decide, compare. Raises ``Removed``."""
        raise NotImplementedError

    def removes(self, observation: Any) -> bool:
        """Whether the plan removes anything."""
        raise NotImplementedError

    def execute(self, observation: Any) -> Round:
        """Make the changes; record what the system can't remember."""
        raise NotImplementedError

    def missed(self) -> FrozenSet[str]:
        """The MACs of ENIs for which the last run waited in vain."""
        raise NotImplementedError

    def note_missed(self, observation: Any) -> None:
        """Record the ENIs for which this run waited in vain."""
        raise NotImplementedError

    def retries(self, decision: Decision) -> int:
        """Maximum immediate retries after a conflict with another writer."""
        raise NotImplementedError

    def awaited(self, decision: Decision, missed: FrozenSet[str]) -> Decision:
        """The decision without the missing addresses that are not worth waiting for."""
        return decision


def reconcile(platform: Platform, deadline: Deadline, config: Config, sleep: Callable[[float], None] = time.sleep
              ) -> Round:
    """Run rounds until nothing is left to do or to wait for. Returns the last one, with the changes of all.

    Raises ``MetadataError`` when metadata can't be had for the first round; ``Removed``.
    """
    # Somebody may have given an ENI to a virtual machine or a container for good: an unattended run waits once.
    missed = platform.missed() if config.unattended else frozenset()
    patience = Patience(deadline.part(platform.wait_share), config, missed)
    changes: List[Any] = []
    retries = 0
    done = _round(platform, patience)
    changes.extend(done.changes)
    while True:
        decision = done.observation.decision
        at_once = done.again and retries < platform.retries(decision)
        if not at_once and not patience.worth(platform.awaited(decision, missed)):
            break
        sleep(0 if at_once else POLL)
        retries = retries + 1 if at_once else 0
        try:
            done = _round(platform, patience)
        except MetadataError as error:
            LOG.warning("%s; what was waited for is given up", error)
            break
        changes.extend(done.changes)
    try:
        platform.note_missed(done.observation)
    except BootstrapError as error:  # all is done by now, and this would only spare the next run its waiting
        LOG.warning("%s; the next run will wait for the same ENIs again", error)
    return done._replace(changes=tuple(changes))


def _round(platform: Platform, patience: Patience) -> Round:
    """Observe and execute once.

    Something is removed only when two listings in a row agree: a listing that was cut short looks like one from which
    an ENI or an address has gone. One that is older than another run's work is not acted upon.

    The service is asked without the lock: who waits for it must not keep others, or ``remove``, from their work.
    """
    listing, agreed = platform.listing(), False
    while True:
        with platform.lock() as waited:
            if not waited:
                observation = platform.observe(listing, patience.over())
                if agreed or not platform.removes(observation):
                    return platform.execute(observation)
        newer = platform.listing()
        listing, agreed = newer, newer == listing

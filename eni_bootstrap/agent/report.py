"""The report of a command, the same on every operating system. PURE."""

from typing import Any, FrozenSet, NamedTuple, Optional, Tuple

from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.model import finding
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.host import Line
from eni_bootstrap.verify.checks import Verdict

REMOVED = Finding.remark("taken-back", "remove has taken back what was set up, and that stays so until the next boot",
                         "to have it set up now run apply")


class Report(NamedTuple):
    """The result of a command; ``exit_code`` follows from it."""

    decision: Optional[Decision] = None
    changes: Tuple[Any, ...] = ()
    """Changes that were made, or would be, of any operating system: each has a ``verb`` and an ``item``, and as text it
    is the system's own command. There may be 2,000 of them, so that the text is made for who shows it."""
    findings: Tuple[Finding, ...] = ()
    """What is not as it should be, or worth knowing; in the order in which it is said."""
    verdicts: Tuple[Verdict, ...] = ()
    adopted: Tuple[Any, ...] = ()
    """Changes that take over what people have typed."""
    lines: Tuple[Line, ...] = ()
    """Lines of boot scripts that are commented out, or would be."""

    @property
    def devs(self) -> FrozenSet[str]:
        """The devices of all ENIs, also of those that could not be set up, and their children."""
        if self.decision is None:
            return frozenset()
        own = {dev for each in (self.decision.enis, self.decision.unready) for eni in each for dev in eni.devs}
        return self.decision.kept_devs.union(own, self.decision.children)

    @property
    def problems(self) -> Tuple[str, ...]:
        """What is not as it should be, but for the look-ups."""
        return finding.errors(self.findings)

    @property
    def remarks(self) -> Tuple[str, ...]:
        """What an operator should know although nothing is wrong."""
        return finding.remarks(self.findings)

    @property
    def failures(self) -> Tuple[Finding, ...]:
        """The look-ups that are not as they should be."""
        return tuple(verdict.finding for verdict in self.verdicts if not verdict.ok)

    @property
    def exit_code(self) -> int:
        return 1 if finding.errors(self.findings + self.failures) else 0

"""The report of a command, the same on every operating system. PURE."""

from typing import Any, FrozenSet, Iterable, NamedTuple, Optional, Tuple

from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.model.host import Line
from eni_bootstrap.verify.checks import Verdict

REMOVED = ("remove has taken back what was set up; that stays so until somebody runs apply, or until the next boot")


class ReportedChange(NamedTuple):
    """A change that was made, or would be, on any operating system."""

    action: str
    """"add", "replace", "set" or "remove"."""
    object: str
    """The kind of object: "route", "rule", "linkaddress", ..."""
    command: str
    """The system's own command that does it."""


def reported(changes: Iterable[Any]) -> Tuple[ReportedChange, ...]:
    """Report changes of any operating system: each has a ``verb`` and an ``item``, and as text it is a command."""
    return tuple(ReportedChange(change.verb, type(change.item).__name__.lower(), str(change)) for change in changes)


class Report(NamedTuple):
    """The result of a command; ``exit_code`` follows from it."""

    decision: Optional[Decision] = None
    changes: Tuple[ReportedChange, ...] = ()
    problems: Tuple[str, ...] = ()
    """Things that are not as they should be; any of them makes the exit code 1."""
    remarks: Tuple[str, ...] = ()
    """Things that an operator should know although nothing is wrong."""
    verdicts: Tuple[Verdict, ...] = ()
    adopted: Tuple[ReportedChange, ...] = ()
    """Changes that take over what people have typed."""
    lines: Tuple[Line, ...] = ()
    """Lines of boot scripts that are commented out, or would be."""

    @property
    def devs(self) -> FrozenSet[str]:
        """The devices of all ENIs, also of those that could not be set up, and their children."""
        if self.decision is None:
            return frozenset()
        own = {dev for eni in self.decision.enis for dev in (eni.dev, eni.link.name)}
        return self.decision.kept_devs.union(own, self.decision.children)

    @property
    def exit_code(self) -> int:
        return 0 if not self.problems and all(verdict.ok for verdict in self.verdicts) else 1

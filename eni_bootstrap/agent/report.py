"""What a command has to say, whatever the operating system. PURE."""

from typing import TYPE_CHECKING, FrozenSet, NamedTuple, Optional, Tuple, Union

from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.model.changes import Change, Step
from eni_bootstrap.verify.checks import Verdict

if TYPE_CHECKING:
    from eni_bootstrap.model.host import Line
    from eni_bootstrap.windows.plan import RouteChange

REMOVED = ("remove has taken back what was set up; that stays so until somebody runs apply, or until the next boot")


class Report(NamedTuple):
    """What a command has to say; ``exit_code`` follows from it."""

    decision: Optional[Decision] = None
    changes: Tuple[Union[Change, Step, "RouteChange"], ...] = ()
    problems: Tuple[str, ...] = ()
    """What is not as it should be; any of them makes the exit code 1."""
    remarks: Tuple[str, ...] = ()
    """What an operator should know although nothing is wrong."""
    verdicts: Tuple[Verdict, ...] = ()
    adopted: Tuple[Change, ...] = ()
    """Those of the changes that take over what people have typed."""
    lines: Tuple["Line", ...] = ()
    """Of boot scripts: commented out, or to be."""

    @property
    def devs(self) -> FrozenSet[str]:
        """The devices of the ENIs, those that could not be set up too, and what is made of them."""
        if self.decision is None:
            return frozenset()
        own = {dev for eni in self.decision.enis for dev in (eni.dev, eni.link.name)}
        return self.decision.kept_devs.union(own, self.decision.children)

    @property
    def exit_code(self) -> int:
        return 0 if not self.problems and all(verdict.ok for verdict in self.verdicts) else 1

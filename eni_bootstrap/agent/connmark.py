"""The steps that connection marks need, and their record."""

from typing import List, Optional, Sequence, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.connmark import Marked, as_wanted, ruleset
from eni_bootstrap.kernel.nft import filters_strictly, heeds_mark, nft
from eni_bootstrap.model.changes import TABLE, Record, Ruleset, Step, ValidMark
from eni_bootstrap.model.errors import BootstrapError


def todo(members: Sequence[Marked], made: Record, ours: bool, config: Config
         ) -> Tuple[List[Step], Optional[BootstrapError]]:
    """The steps to the desired table and sysctls; and the error where nft is needed and can't be used
    (``NotPermitted``: it takes CAP_NET_ADMIN).

    ``ours``: the kernel has rules of ours for marks. nft is not started where no table is wanted and nothing hints at
    one.
    """
    text = ruleset(members, config)
    devs = {member.dev for member in members}
    steps = [Step("remove", ValidMark(dev)) for dev in sorted(made.valid_marks - devs) if heeds_mark(dev)]
    if not (text or made.marked or ours):
        return steps, None
    try:
        listing = nft("list", "table", *TABLE.split())
    except BootstrapError as error:
        return steps, error
    if text:
        steps += [Step("add", ValidMark(member.dev)) for member in members if not member.primary
                  and filters_strictly(member.dev) and not (heeds_mark("all") or heeds_mark(member.dev))]
        if not as_wanted(listing, text):
            steps.append(Step("add", Ruleset(text)))
    elif listing:
        steps.append(Step("remove", Ruleset("")))
    return steps, None


def before(made: Record, steps: Sequence[Step]) -> Record:
    """The record as it must be written before these steps are made."""
    added = [step.item for step in steps if step.verb == "add"]
    return made._replace(
        marked=made.marked or any(isinstance(item, Ruleset) for item in added),
        valid_marks=made.valid_marks.union(item.dev for item in added if isinstance(item, ValidMark)))


def after(made: Record, kept: bool, done: Sequence[Step], failed: Sequence[Step]) -> Record:
    """The record after these steps: without what they undid, and without what failed.

    ``kept``: the table is wanted, or nft could not be asked for it.
    """
    gone = {step.item for step in done if step.verb == "remove"} | {step.item for step in failed if step.verb == "add"}
    left = any(step.verb == "remove" and isinstance(step.item, Ruleset) for step in failed)
    return made._replace(
        marked=made.marked and (kept or left),
        valid_marks=frozenset(dev for dev in made.valid_marks if ValidMark(dev) not in gone))

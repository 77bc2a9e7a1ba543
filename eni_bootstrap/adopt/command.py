"""``adopt``: take over the rules, routes and script lines that people have typed, without a gap."""

from typing import Callable, Sequence, Set, Tuple

from eni_bootstrap.adopt import rc_local
from eni_bootstrap.adopt.search import Adoption, adoption, places
from eni_bootstrap.agent import commands, observe, prove
from eni_bootstrap.agent.apply import concerns, make, refusal
from eni_bootstrap.agent.observe import Context, Observation
from eni_bootstrap.agent.report import Report
from eni_bootstrap.config.settings import Config
from eni_bootstrap.host.network_managers import timed
from eni_bootstrap.kernel import record
from eni_bootstrap.model.changes import Change
from eni_bootstrap.model.eni import Listing
from eni_bootstrap.model.errors import MetadataError
from eni_bootstrap.model.finding import ERROR, REMARK, Finding
from eni_bootstrap.model.host import Script
from eni_bootstrap.model.kernel import MAIN, Rule, SeenRule
from eni_bootstrap.verify.checks import quick_checks, unprovable


def preview_adoption(world: Context) -> Report:
    """What ``adopt`` would do now; changes nothing."""
    scripts, unread = rc_local.read(world.root)
    listing = observe.ask_listing(world)
    view = observe.look(world, listing, frozenset(), _typed_tables(listing, scripts))
    found = adoption(view.decision, view.snapshot, scripts, world.config, started=timed(world.root))
    report = commands.preview_of(world, view)
    return report._replace(
        changes=report.changes + found.changes, adopted=found.changes, lines=found.lines,
        findings=report.findings + _left(found) + tuple(finding._replace(severity=REMARK) for finding in unread))


def adopt(world: Context) -> Report:
    """Take over what people have typed: first make ours; of each ENI only when look-ups prove that ours works."""
    report = commands.apply(world)
    try:
        return _take_over(world, report)
    except MetadataError as error:
        return report._replace(findings=report.findings + (
            Finding.error("not-taken-over", "nothing is taken over: {}".format(error)),))


def _take_over(world: Context, report: Report) -> Report:
    scripts, unread = rc_local.read(world.root)
    listing = observe.ask_listing(world)
    with record.lock(world.deadline, world.sleep) as waited:
        listing = observe.ask_listing(world) if waited else listing
        view = observe.look(world, listing, frozenset(), _typed_tables(listing, scripts))
        before = prove.ways(world, view)
        sound = _sound(world, view)
        found = adoption(view.decision, view.snapshot, scripts, world.config, sound, timed(world.root))
        done, failures = make(world, found.changes)
        still = _sound(world, observe.look(world, listing, frozenset())) if done else sound
        worse = [eni for eni in view.decision.enis if eni.dev in sound - still]
        back = _undone([change for change in done if any(
            concerns(change.item, eni, view.decision) for eni in worse)])
        failures += make(world, back)[1]
        after = commands.verify_of(world, observe.look(world, listing, frozenset()))
        wrong = {verdict.subject for verdict in after.verdicts if not verdict.ok}
        well = {eni.dev for eni in view.decision.enis if eni.dev in still and eni.label not in wrong}
        lines, unwritten = rc_local.comment_out(world.root, [line for line in found.lines if line.devs <= well])
        now = prove.ways(world, view)
        lost = prove.ways_lost(prove.moved(before, now, view), now)
    said = [finding for finding in report.findings if finding.severity == ERROR]
    said += [refusal(failure, view.decision) for failure in failures]
    said += [*after.findings, *lost]
    said += [Finding.error("typed-put-back", "what was typed for it is back: without it not every look-up was as it "
                           "should be", eni=eni.label) for eni in worse if back]
    said += [*unread, *unwritten, *_left(found)]
    taken = [change for change in done if Change("add", change.item, change.protocol) not in back]
    return after._replace(
        changes=report.changes + (*done, *back), findings=tuple(dict.fromkeys(said)),
        adopted=tuple(taken), lines=tuple(lines))


def _typed_tables(listing: Listing, scripts: Sequence[Script]) -> Callable[[Sequence[SeenRule], Config], Set[int]]:
    """A function that returns the tables in which there may be something typed."""
    return lambda rules, config: places(listing, rules, scripts, config)


def _undone(changes: Sequence[Change]) -> Tuple[Change, ...]:
    """The changes that put back what these have removed: routes first, as they went last."""
    return tuple(Change("add", change.item, change.protocol) for change in reversed(changes) if change.verb == "remove")


def _left(found: Adoption) -> Tuple[Finding, ...]:
    return tuple(Finding.remark("typed-left", "left as it is", evidence=text) for text in found.left)


def _sound(world: Context, view: Observation) -> Set[str]:
    """The devices of the ENIs that have everything that they should have, and whose look-ups are all as they should be.
    """
    decision = view.decision
    facts = prove.few_facts(world, view)
    verdicts = prove.prove(world, quick_checks(facts), facts) if decision.rules else []
    unsound = {verdict.subject for verdict in verdicts if not verdict.ok}
    unsound |= {family.label for family in unprovable(facts)}
    missing = [change.item for change in view.plan.routes + view.plan.rules]
    missing += [conflict.wanted for conflict in view.plan.conflicts]
    for_all = any(isinstance(item, Rule) and item.table == MAIN for item in missing)
    return {eni.dev for eni in decision.enis if not for_all and eni.label not in unsound
            and not any(concerns(item, eni, decision) for item in missing)}

"""Make a plan's changes, and report those that the kernel refuses."""

import logging
from typing import List, Optional, Sequence, Tuple

from eni_bootstrap.agent import connmark
from eni_bootstrap.agent.observe import Context, Observation
from eni_bootstrap.config.own_rules import owns_rule
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.connmark import Marked
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.desired.tables import Memory
from eni_bootstrap.kernel import nft, record
from eni_bootstrap.model.changes import TABLE, Change, Failure, Item, Plan, Record, Ruleset, Step
from eni_bootstrap.model.eni import Eni
from eni_bootstrap.model.errors import BootstrapError, NotPermitted
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import (
    MAIN, PROTOCOL_KERNEL, LinkAddress, LinkGroup, LinkUp, Route, Rule, SeenRule, Snapshot,
)
from eni_bootstrap.plan.order import steps
from eni_bootstrap.plan.stages import Refusals, families_of, sparing, staged
from eni_bootstrap.verify.checks import strangers

LOG = logging.getLogger(__name__)


def execute(world: Context, view: Observation) -> Tuple[List[Change], List[Finding], bool]:
    """Make the plan's changes. An ENI whose routes the kernel refuses keeps the rules that it has.

    Changes to links are recorded before they are made. Returns the changes made, the problems, and whether another look
    is due: another writer was faster; a table still had rules of other ENIs; or an address went, with which the kernel
    may delete others of its subnet and the link's routes.
    """
    config, links, decision = view.config, view.snapshot.links, view.decision
    todo, again = staged(view.plan)
    devs = [eni.dev for eni in decision.enis if not eni.primary]
    made = record.before(view.made, todo.links + todo.addresses, links, devs, config.group, view.snapshot.settings)
    made = made._replace(numberings=view.numberings, kernel_marks=view.kernel_marks)
    if made != view.recorded:
        record.save(made, links)
    refusals = Refusals(todo.removals)
    done, failures = make(world, todo.links + todo.routes, refusals)
    # A copy of a user's route is nobody's condition; a default whose place is taken is.
    missing = [failure.change.item for failure in failures
               if isinstance(failure.change.item, Route) and not _is_copy(failure.change.item, view.snapshot, config)]
    missing += [conflict.wanted for conflict in todo.conflicts if conflict.wanted.is_default]
    rest = todo.rules + todo.addresses + todo.removals
    refused = families_of(missing, decision)
    if refused:
        rest = sparing(rest, refused, decision, Memory(view.snapshot, config))
        for change in set(todo.removals).difference(rest):
            refusals.note(change)
    done_too, failures_too = make(world, rest, refusals)
    done += done_too
    failures += failures_too
    undone = set(todo.links + todo.addresses).difference(
        change for change in done if isinstance(change.item, (LinkUp, LinkAddress)))
    settled = record.after(made, done, config.group, undone)
    if any(change.verb != "remove" and isinstance(change.item, LinkAddress) for change in done):
        settled = record.with_seen(settled, done, world.kernel.seen_addresses())
    if settled != made:
        record.save(settled, links)
    again = again or any(failure.overtaken for failure in failures) or any(
        change.verb == "remove" and isinstance(change.item, LinkAddress)
        or isinstance(change.item, LinkGroup) and change.item.group != config.group for change in done)
    return done, [refusal(failure, decision) for failure in failures], again


def _is_copy(route: Route, snapshot: Snapshot, config: Config) -> bool:
    """Whether a route of an ENI's table is there because somebody has one like it in main."""
    return route.table != MAIN and not route.is_default and bool(route.hops) and any(
        (theirs.table, theirs.dst, theirs.metric) == (MAIN, route.dst, route.metric)
        and set(route.devs()) <= set(theirs.devs()) and protocol not in (PROTOCOL_KERNEL, config.protocol)
        for theirs, protocol, _ in snapshot.routes)


def mark_connections(world: Context, members: Sequence[Marked], made: Record, snapshot: Snapshot
                     ) -> Tuple[List[Step], List[Finding]]:
    """Make the table of connection marks as it should be. Returns the steps made, and problems.

    The rules and routes for the marks are there by now. A mark whose rule has gone has no effect.
    """
    steps, unusable = _steps(world, members, made, snapshot.rules)
    if steps or made.marked and not members:
        made = record.load(snapshot.links)  # since the look, links have been changed
    recorded = connmark.before(made, steps)
    if recorded != made:
        record.save(recorded, snapshot.links)
    for step in steps if LOG.isEnabledFor(logging.DEBUG) else ():
        LOG.debug("%s", step)
    done, failed, wrong = nft.do(steps)
    settled = connmark.after(recorded, bool(members) or unusable is not None, done, failed)
    if settled != recorded:  # also where somebody else has deleted the table
        record.save(settled, snapshot.links)
    return done, wrong + ([_unusable(unusable)] if unusable is not None else [])


def _unusable(error: BootstrapError) -> Finding:
    return Finding.error("nft-unusable", str(error))


def _steps(world: Context, members: Sequence[Marked], made: Record, rules: Sequence[SeenRule]
           ) -> Tuple[List[Step], Optional[BootstrapError]]:
    config = world.config
    ours = any(rule.priority == config.priority_mark and owns_rule(rule, protocol, config)
               for rule, protocol in rules)
    return connmark.todo(members, made, ours, config)


def see_steps(world: Context, members: Sequence[Marked], made: Record, rules: Sequence[SeenRule]
              ) -> Tuple[List[Step], List[Finding]]:
    """What there is to do for connection marks, or why that can't be found out.

    That nft can't be used is an error; that an ordinary user may not ask it, a remark.
    """
    steps, unusable = _steps(world, members, made, rules)
    if isinstance(unusable, NotPermitted):
        return steps, [Finding.remark("marks-not-seen", "connection marks can't be looked at: {}".format(unusable))]
    return steps, [_unusable(unusable)] if unusable is not None else []


def see_table(world: Context, members: Sequence[Marked], made: Record, rules: Sequence[SeenRule]) -> List[Finding]:
    """How things are with the connection marks; nothing where nobody asked for them and none are left."""
    steps, unseen = see_steps(world, members, made, rules)
    wrong = [Finding.error("marks-changed", "connection marks: {} is not as it should be".format(
        "table " + TABLE if isinstance(step.item, Ruleset) else step.item.path), "run apply") for step in steps]
    well = [Finding.remark("marks-in-place", "connection marks: table {} is as it should be, for {}".format(
        TABLE, ", ".join(member.dev for member in members)))] if members and not (steps or unseen) else []
    return unseen + wrong + well


def make(world: Context, changes: Sequence[Change], refusals: Optional[Refusals] = None
         ) -> Tuple[List[Change], List[Failure]]:
    """Make the changes step by step. Returns those made, and those refused.

    A change that presupposes a refused one is left for the next run. ``refusals``: the refused changes before these.
    Raises ``NotPermitted`` before anything of a later step is done.
    """
    done: List[Change] = []
    failures: List[Failure] = []
    refusals = refusals or Refusals()
    for step in steps(changes):
        waiting = {change for change in step if refusals.concern(change)} if refusals.any else set()
        todo = [change for change in step if change not in waiting] if waiting else step
        for change in todo if LOG.isEnabledFor(logging.DEBUG) else ():
            LOG.debug("%s", change)
        failed = world.kernel.apply(todo) if todo else []
        refused = {failure.change for failure in failed}
        done += [change for change in todo if change not in refused] if refused else todo
        failures += failed
        for change in [*waiting, *refused]:
            LOG.debug("not done: %s", change)
            refusals.note(change)
    return done, failures


def refusal(failure: Failure, decision: Optional[Decision] = None) -> Finding:
    """Names the ENI whose table or device it is."""
    item = failure.change.item
    whose = _label(item, decision) if decision else ""
    family = item.version if isinstance(item, (Route, Rule)) else \
        item.address.version if isinstance(item, LinkAddress) else 0
    return Finding.error("change-refused", "the kernel refuses '{}'".format(failure.change), "", whose, family,
                         failure.reason)


def _label(item: Item, decision: Decision) -> str:
    """The label of the ENI whose table or device it is; empty: of none."""
    return next((eni.label for eni in decision.enis if _is_about(item, eni, decision.table_of(eni.dev))), "")


def _is_about(item: Item, eni: Eni, table: int) -> bool:
    if isinstance(item, Route):
        return item.table == table or eni.dev in item.devs()
    return item.table == table if isinstance(item, Rule) else item.dev == eni.dev


def concerns(item: Item, eni: Eni, decision: Decision) -> bool:
    own = isinstance(item, Rule) and item.src in decision.sources_of(eni.dev)
    return own or _is_about(item, eni, decision.table_of(eni.dev))


def in_place(todo: Plan, decision: Decision) -> List[Finding]:
    return [Finding.remark(
        "route-in-place", "somebody else's route is in the place of ours and stays", "",
        _label(conflict.wanted, decision), conflict.wanted.version,
        "{} (ours: {})".format(conflict.present, conflict.wanted)) for conflict in todo.conflicts]


def among_ours(rules: Sequence[SeenRule], config: Config, named: Sequence[Rule] = ()) -> List[Finding]:
    """Names somebody else's rules in our band, but for those that are ``named`` already."""
    found = [rule for rule in strangers(rules, config) if rule not in named]
    said = [Finding.remark("rule-among-ours", "somebody else's rule is among ours (priorities {} to {})".format(
        config.priority_first, config.priority_last), family=rule.version, evidence=str(rule))
            for rule in found[:_NAMED]]
    if found[_NAMED:]:
        said.append(Finding.remark("rule-among-ours", "{} more of somebody else's rules are among ours".format(
            len(found) - _NAMED)))
    return said


_NAMED = 5
"""So many are named; who has more of them has a program that makes them, and they are alike."""

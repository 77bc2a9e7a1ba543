"""The whole story: read, decide, compare, apply, prove. The world (metadata, kernel, clock) is passed in."""

import ipaddress
import itertools
import logging
import time
from typing import AbstractSet, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Set, Tuple, Union
from urllib.parse import urlsplit

from eni_bootstrap import nftables, proof, state, trials
from eni_bootstrap.adoption import Adoption, Script, adoption, places
from eni_bootstrap.answer import Fetch, consistent
from eni_bootstrap.config import Config
from eni_bootstrap.errors import BootstrapError, MetadataError, NotPermitted
from eni_bootstrap.evidence import band_tables, leave_contained, parents
from eni_bootstrap.host import rclocal
from eni_bootstrap.host.managers import Managers, advice, timed
from eni_bootstrap.marks import TABLE, Marked, Ruleset, Step, marked, value
from eni_bootstrap.model import (
    MAIN, PROTOCOL_KERNEL, Address, Answer, ContainerNetwork, Link, LinkAddress, LinkGroup, Listing, Made, Numbering,
    Query, Route, Rule, SeenRule, Snapshot,
)
from eni_bootstrap.netlink import Failure, Kernel
from eni_bootstrap.pairing import Eni, likely, named, natural, pair
from eni_bootstrap.patience import POLL, Patience, unaddressed_text, unfit_text
from eni_bootstrap.plan import NOTHING, Change, Item, Plan, outdated, plan, unfinished, withdrawal, without
from eni_bootstrap.recall import recall
from eni_bootstrap.report import Report
from eni_bootstrap.retry import Deadline
from eni_bootstrap.routing import Decision, decide
from eni_bootstrap.staging import families_of, sparing, staged
from eni_bootstrap.tables import Memory, wanted

LOG = logging.getLogger(__name__)

LOOKS = 3
"""So many more looks without a pause at the most: who is overtaken so often is not the only one at work here."""

DAD_PAUSES = (0.2, 0.4, 0.8, 1.0, 0.0)
"""Seconds: an IPv6 address that was just added is not accepted before duplicate address detection ends, after up to 2 s
(RFC 4862 with the kernel's defaults)."""


class World(NamedTuple):
    """What a command works on."""

    fetch: Fetch
    kernel: Kernel
    deadline: Deadline
    config: Config
    managers: Optional[Managers] = None
    """Who else works on the network, where that is known."""
    rivals: Callable[[], List[str]] = list
    """Names what else on this host sets up ENIs."""
    root: str = "/"
    """Where the boot scripts are that people have written into."""
    networks: Callable[[], List[ContainerNetwork]] = list
    """Tells the container networks that are configured here."""
    sleep: Callable[[float], None] = time.sleep


class _View(NamedTuple):
    """One look at the world, and what follows from it."""

    snapshot: Snapshot
    made: Made
    decision: Decision
    plan: Plan
    config: Config
    """With the numbers that hold for now."""
    numberings: Tuple[Numbering, ...] = ()
    """To be recorded: those with which there are things of ours, the ones in force last."""


def apply(world: World) -> Report:
    """Converge with what is fit; again while something is still coming that is worth waiting for; then prove."""
    try:
        _heed_removal(world)
        view, changes, problems = _converge(world)
    except _TakenBack:
        return Report(remarks=("remove has taken back what was set up; that stays so until somebody runs apply, or "
                               "until the next boot",))
    decision = view.decision
    problems = [unfit_text(member) for member in decision.unfit] + list(decision.problems) + problems
    problems += [unaddressed_text(member) for member in decision.unaddressed]
    facts = _few_facts(world, view)
    verdicts: List[proof.Verdict] = []
    if decision.rules:
        waited_for = {(member.eni, member.version) for member in decision.unaddressed}
        problems += [_unprovable(*member) for member in _unprovable_ones(facts, world.config)
                     if member not in waited_for]
        verdicts = _prove(world, proof.small(facts), facts)
    return Report(decision, tuple(changes), tuple(problems), decision.remarks + _in_place(view.plan), tuple(verdicts))


def preview(world: World) -> Report:
    """What ``apply`` would do now; changes nothing."""
    return _preview(world, _look(world, _listing(world), frozenset()))


def _preview(world: World, view: _View) -> Report:
    decision = view.decision
    waits = tuple("{}; apply will give it one when nobody else does within {:.0f} s".format(
        unaddressed_text(member), world.config.address_wait) for member in decision.unaddressed)
    problems = [unfit_text(member) for member in decision.unfit] + list(decision.problems)
    remarks = list(decision.remarks + waits + _in_place(view.plan))
    steps, _ = _seen(world, decision.marked, view.made, view.snapshot.rules, problems, remarks)
    return Report(decision, view.plan.changes + tuple(steps), tuple(problems), tuple(remarks))


def verify(world: World) -> Report:
    """Ask the kernel about every source that metadata gives; changes nothing."""
    return _verify(world, _look(world, _listing(world), frozenset()))


def _verify(world: World, view: _View) -> Report:
    decision = view.decision
    problems = [unfit_text(member) for member in decision.unfit] + list(decision.problems)
    remarks = list(decision.remarks)
    _see_table(world, decision.marked, view.made, view.snapshot.rules, problems, remarks)
    if not decision.rules:
        return Report(decision, (), tuple(problems), tuple(remarks))
    eni_devs = {eni.dev for eni in decision.enis} | decision.kept_devs
    local = _local(world, eni_devs, view.snapshot)
    facts = proof.Facts(decision.enis, decision.sources, view.snapshot.addresses, view.snapshot.rules, local,
                        _gateways(decision), world.config.primary == "full", _barriers(view.snapshot),
                        _marks(decision.marked, world.config))
    problems += [_unprovable(*member) for member in _unprovable_ones(facts, world.config)]
    remarks += ["main shares a route between an ENI and another device; ENIs' traffic may follow it: {}".format(route)
                for route in _shared(view.snapshot, eni_devs)]
    for rule, whose in proof.queue_jumpers(facts, world.config):
        remarks.append("somebody else's rule comes before ours and catches a source of {}: {}".format(whose, rule))
    verdicts = _prove(world, proof.full(facts), facts)
    tried, untried = _try(world, view.snapshot, decision, world.config)
    verdicts += tried
    remarks += untried
    remarks.append("looked at {} sources of {} ENIs, and from one source of each to {} local devices".format(
        sum(len(sources) for sources in facts.sources.values()), len(facts.enis),
        len({dev for _, dev in local})))
    return Report(decision, (), tuple(problems), tuple(remarks), tuple(verdicts))


def status(world: World) -> Report:
    """What is installed and whether it works, from the kernel alone."""
    links, rules = world.kernel.links(), world.kernel.rules()
    networks = _networks(world)
    ids = band_tables(links, {link.name for link in links}, rules, networks, world.config)
    snapshot = world.kernel.snapshot(links, rules, (), ids, world.config)
    decision = recall(snapshot, world.config)
    members: List[Marked] = []
    if world.config.connection_marks:
        tables = {dev: numbers.table for dev, numbers in decision.numbers.items()}
        members, _ = marked(decision.enis, (), tables, {}, (4, 6), world.config)
    facts = proof.Facts(decision.enis, decision.sources, snapshot.addresses, rules,
                        marks=_marks(members, world.config))
    verdicts = _prove(world, proof.full(facts), facts)
    proven = {verdict.eni for verdict in verdicts}
    problems = ["{}: has routing table {}, and nothing leads there; run apply".format(
        eni.label, decision.numbers[eni.dev].table) for eni in decision.enis if eni.label not in proven]
    remarks = (advice(world.managers) if world.managers is not None else []) + world.rivals()
    _see_table(world, members, state.load(links), rules, problems, remarks)
    remarks += _left_alone(snapshot, networks, world.config)
    if decision.enis:
        # By its id or its vSwitch's an ENI is known with metadata only.
        known = tuple(entry for entry in world.config.entries
                      if not entry.via or len(named(entry.via, decision.enis)) == 1)
        remarks += ["access entry on line {}: which ENI it names can't be told without metadata; verify does".format(
            entry.line) for entry in world.config.entries if entry not in known]
        tried, untried = _try(world, snapshot, decision, world.config._replace(entries=known))
        verdicts += tried
        remarks += untried
    return Report(decision, (), tuple(problems), tuple(remarks), tuple(verdicts))


def _networks(world: World) -> List[ContainerNetwork]:
    """The container networks that count here."""
    return world.networks() if world.config.container_networks == "leave" else []


def _left_alone(snapshot: Snapshot, networks: Sequence[ContainerNetwork], config: Config) -> List[str]:
    """What is left alone as far as it can be told without metadata: whatever has main's best default is the primary."""
    said = ["left alone, as the configuration says: {}".format(", ".join(config.ignore))] if config.ignore else []
    said += ["left alone, as the configuration says: all but {}".format(", ".join(config.only))] if config.only else []
    if config.container_networks != "leave":
        return said
    defaults = [seen.route for seen in snapshot.routes if seen.route.table == MAIN and seen.route.is_default]
    best = min((route.metric for route in defaults if route.hops), default=0)
    primary = {dev for route in defaults if route.metric == best for dev in route.devs()}
    enis = [eni for eni in likely(snapshot.links) if eni.dev not in primary]
    left = leave_contained(enis, [], snapshot.links, Memory(snapshot, config), networks)[2]
    return said + ["{}: left alone, {}".format(member.label, member.reason) for member in left]


def remove(world: World) -> Report:
    """Take back all that is ours; needs no metadata."""
    with state.lock(world.deadline, world.sleep):
        links, rules = world.kernel.links(), world.kernel.rules()
        made = state.load(links)
        former = _former(made, world.config)
        snapshot = world.kernel.snapshot(links, rules, (), (), world.config, former)
        snapshot = snapshot._replace(settings=world.kernel.settings(done.setting[:2] for done in made.settings))
        steps, problems = _mark(world, (), made, snapshot)
        if made.marked or made.valid_marks:
            made = state.load(links)  # without these
        protocols = {each.protocol for each in (world.config, *former)}
        todo = withdrawal(snapshot, made, _in_use(world, links, made.ups, protocols), world.config, former)
        done, failures = _make(world, todo.removals)
        made = state.after(made, done, -1)
        state.save(made if failures else made._replace(numberings=()), links)
        state.take_back()
    changes: List[Union[Change, Step]] = [*steps, *done]
    return Report(None, tuple(changes), tuple(problems + [_refused(failure) for failure in failures]))


def preview_adoption(world: World) -> Report:
    """What ``adopt`` would do now; changes nothing."""
    scripts, unread = rclocal.read(world.root)
    view = _look(world, _listing(world), frozenset(), scripts)
    found = adoption(view.decision, view.snapshot, scripts, world.config, started=timed(world.root))
    report = _preview(world, view)
    return report._replace(
        changes=report.changes + found.changes, adopted=found.changes, lines=found.lines,
        remarks=report.remarks + _left(found) + tuple(unread))


def adopt(world: World) -> Report:
    """Take over what people have typed: ours first, and of each ENI only when the kernel says that ours works."""
    report = apply(world)
    try:
        return _take_over(world, report)
    except MetadataError as error:
        return report._replace(problems=report.problems + ("{}; nothing is taken over".format(error),))


def _take_over(world: World, report: Report) -> Report:
    scripts, unread = rclocal.read(world.root)
    listing = _listing(world)
    with state.lock(world.deadline, world.sleep) as waited:
        listing = _listing(world) if waited else listing
        view = _look(world, listing, frozenset(), scripts)
        before = _ways(world, view)
        sound = _sound(world, view)
        found = adoption(view.decision, view.snapshot, scripts, world.config, sound, timed(world.root))
        done, failures = _make(world, found.changes)
        still = _sound(world, _look(world, listing, frozenset())) if done else sound
        worse = [eni for eni in view.decision.enis if eni.dev in sound - still]
        back = _undone([change for change in done if any(
            _concerns(change.item, eni, view.decision) for eni in worse)])
        failures += _make(world, back)[1]
        after = _verify(world, _look(world, listing, frozenset()))
        wrong = {verdict.eni for verdict in after.verdicts if not verdict.ok}
        well = {eni.dev for eni in view.decision.enis if eni.dev in still and eni.label not in wrong}
        lines, unwritten = rclocal.comment_out(world.root, [line for line in found.lines if line.devs <= well])
        moved = _moved(before, _ways(world, view), view)
    problems = [*report.problems, *(_refused(failure, view.decision) for failure in failures), *after.problems, *moved]
    problems += ["{}: what was typed for it is back, since without it not every look-up was as it should be".format(
        eni.label) for eni in worse if back]
    taken = [change for change in done if Change("add", change.item, change.protocol) not in back]
    return after._replace(
        changes=report.changes + tuple(done) + back, problems=tuple(dict.fromkeys(problems + unread + unwritten)),
        remarks=after.remarks + _left(found), adopted=tuple(taken), lines=tuple(lines))


def _undone(changes: Sequence[Change]) -> Tuple[Change, ...]:
    """What puts back what these have removed: routes first, as they went last."""
    return tuple(Change("add", change.item, change.protocol) for change in reversed(changes) if change.verb == "remove")


def _left(found: Adoption) -> Tuple[str, ...]:
    return tuple("left as it is: " + text for text in found.left)


def _sound(world: World, view: _View) -> Set[str]:
    """The devices of the ENIs of which all is there that should be and every look-up is as it should be."""
    decision = view.decision
    facts = _few_facts(world, view)
    verdicts = _prove(world, proof.small(facts), facts) if decision.rules else []
    unsound = {verdict.eni for verdict in verdicts if not verdict.ok}
    unsound |= {eni.label for eni, _ in proof.unprovable(facts)}
    missing = [change.item for change in view.plan.routes + view.plan.rules]
    missing += [conflict.wanted for conflict in view.plan.conflicts]
    for_all = any(isinstance(item, Rule) and item.table == MAIN for item in missing)
    return {eni.dev for eni in decision.enis if not for_all and eni.label not in unsound
            and not any(_concerns(item, eni, decision) for item in missing)}


class _TakenBack(Exception):
    """Somebody wants nothing to be set up."""


def _heed_removal(world: World) -> None:
    """Who runs apply by hand wants it all again; what runs by itself must not undo a removal, raises ``_TakenBack``."""
    if not world.config.unattended:
        state.ask_again()
    elif state.taken_back():
        raise _TakenBack


def _converge(world: World) -> Tuple[_View, List[Union[Change, Step]], List[str]]:
    """Look and execute until nothing is left to do or to wait for: the last view, all changes, the last problems."""
    # Somebody may have given an ENI to a virtual machine or a container, for good: what runs by itself waits once.
    missed = state.load(()).missed if world.config.unattended else frozenset()
    patience = Patience(world.deadline, world.config, missed)
    changes: List[Union[Change, Step]] = []
    looks = 0

    def step() -> Tuple[_View, List[str], bool]:
        # Asked before the lock is taken: who waits for the service must not keep others from their work.
        listing = _listing(world)
        with state.lock(world.deadline, world.sleep) as waited:
            _heed_removal(world)
            view = _look(world, _listing(world) if waited else listing, patience.over())
            before = _ways(world, view)
            done, problems, again = _execute(world, view)
            changes.extend(done)
            steps, wrong = _mark(world, view.decision.marked, view.made, view.snapshot)
            changes.extend(steps)
            problems += wrong
            return view, problems + _moved(before, _ways(world, view), view), again

    view, problems, again = step()
    while True:
        at_once = again and looks < LOOKS + len(view.decision.enis)  # each may wait for the next one's table
        if not at_once and not patience.worth(view.decision):
            break
        world.sleep(0 if at_once else POLL)
        looks += 1
        try:
            view, problems, again = step()
        except MetadataError as error:
            LOG.warning("%s; what was waited for is given up", error)
            break
    _note_missed(world, view)
    return view, changes, problems


def _note_missed(world: World, view: _View) -> None:
    missed = frozenset(member.mac for member in view.decision.unfit if member.passing)
    if missed != view.made.missed:
        with state.lock(world.deadline, world.sleep):
            made = state.load(view.snapshot.links)
            state.save(made._replace(missed=missed), view.snapshot.links)


def _listing(world: World) -> Listing:
    return consistent(world.fetch, world.deadline, world.sleep)[1]


def _look(world: World, listing: Listing, patience_over: FrozenSet[Tuple[str, int]],
          scripts: Optional[Sequence[Script]] = None) -> _View:
    """Read the kernel, decide, compare. With ``scripts`` also what people may have typed is read."""
    links, rules = world.kernel.links(), world.kernel.rules()
    made = state.load(links)
    view = _look_by(world.config, _former(made, world.config), world, listing, links, rules, made, patience_over,
                    scripts)
    before = [numbering for numbering in view.numberings if numbering != world.config.numbering]
    if before and (view.decision.unfit or view.decision.kept_devs):
        # What can't be set up keeps what it has, so that nothing by any numbers may go now.
        config = world.config.renumbered(before[-1])._replace(protocol_guarded=_guarded(world.config, before[-1]))
        numberings = view.numberings
        view = _look_by(config, [], world, listing, links, rules, made, patience_over, scripts)
        remark = "other numbers are used once all ENIs can be set up; until then the former ones: {}".format(
            ", ".join("{} {}".format(name, number) for name, number in before[-1]._asdict().items()))
        view = view._replace(numberings=numberings, decision=view.decision._replace(
            remarks=view.decision.remarks + (remark,)))
    return view


def _look_by(
    config: Config, former: Sequence[Config], world: World, listing: Listing, links: Tuple[Link, ...],
    rules: Tuple[SeenRule, ...], made: Made, patience_over: FrozenSet[Tuple[str, int]],
    scripts: Optional[Sequence[Script]]
) -> _View:
    """With these numbers; what ``former`` ones have made ours goes once what is wanted is there."""
    networks = _networks(world)
    for crowded in (False, True):
        devs, tables = _places(listing, links, rules, crowded, config)
        tables |= band_tables(links, devs, rules, networks, config)
        if scripts is not None:
            tables |= places(listing, rules, scripts, config)
        whole = world.kernel.snapshot(links, rules, devs, tables, config, former)
        outdone = outdated(whole, devs, former, config) if former else NOTHING
        snapshot = without(whole, outdone) if former else whole
        decision = decide(listing, snapshot, made, patience_over, config, networks)
        if not decision.displaced:
            break
    groups = {link.group for link in links} - {config.group}
    asked = {setting[:2] for setting in decision.settings} | {done.setting[:2] for done in made.settings}
    settings = world.kernel.settings(asked) if asked else ()
    whole, snapshot = whole._replace(settings=settings), snapshot._replace(settings=settings)
    found = tuple(each.numbering for each in former
                  if each.group in groups
                  or unfinished(outdated(whole, devs, [each], config), decision, whole, each, config))
    numberings = found + (config.numbering,) if decision.rules else found
    ours = made.ups.union(held.dev for held in made.addresses)
    in_use = _in_use(world, links, ours & decision.left - decision.used, {each.protocol for each in (config, *former)})
    return _View(snapshot, made, decision, plan(decision, whole, made, config, former, outdone, in_use), config,
                 () if numberings == (Config().numbering,) else numberings)


def _former(made: Made, config: Config) -> List[Config]:
    """The numbers in force before, as far as is known: without a record the usual ones."""
    return [config.renumbered(numbering) for numbering in made.numberings or (Config().numbering,)
            if numbering != config.numbering]


def _guarded(config: Config, numbering: Numbering) -> int:
    return PROTOCOL_KERNEL if config.protocol_guarded == PROTOCOL_KERNEL else numbering.protocol


def _in_use(world: World, links: Sequence[Link], devs: AbstractSet[str], protocols: AbstractSet[int]) -> Set[str]:
    """Those of the devices by which somebody else routes, or of which he has made others."""
    below = parents(links)
    return {link.name for link in links if link.name in devs and (
        link.ifindex in below or world.kernel.carries_others(link.name, protocols))}


def _places(listing: Listing, links: Sequence[Link], rules: Sequence[SeenRule], crowded: bool, config: Config
            ) -> Tuple[Set[str], Set[int]]:
    """The devices and tables whose routes the decision needs to know; when ``crowded``, with spare tables."""
    enis, unfit = pair(listing, links)
    devs = {eni.dev for eni in enis} | {member.dev for member in unfit}
    devs |= {rule.oif for rule, protocol in rules if config.owns_rule(rule.priority, protocol)}
    return devs & {link.name for link in links}, wanted(enis, crowded, config)


def _execute(world: World, view: _View) -> Tuple[List[Change], List[str], bool]:
    """Make the changes; an ENI whose routes the kernel refuses keeps the rules that it has.

    What is done to links is written down before it is done. Returns what was done, what went wrong, and whether another
    look is due: somebody was faster, a table had to be left by others first, or an address went, with which the kernel
    may take others of its subnet and the link's routes.
    """
    config, links, decision = view.config, view.snapshot.links, view.decision
    todo, again = staged(view.plan)
    devs = [eni.dev for eni in decision.enis if not eni.primary]
    made = state.before(view.made, todo.links + todo.addresses, links, devs, config.group, view.snapshot.settings)
    made = made._replace(numberings=view.numberings)
    if made != view.made:
        state.save(made, links)
    done, failures = _make(world, todo.links + todo.routes)
    # A copy of a user's route is nobody's condition; a default whose place is taken is.
    missing = [failure.change.item for failure in failures if isinstance(failure.change.item, Route)]
    missing += [conflict.wanted for conflict in todo.conflicts if conflict.wanted.is_default]
    rest = todo.rules + todo.addresses + todo.removals
    refused = families_of(missing, decision)
    if refused:
        rest = sparing(rest, refused, decision, Memory(view.snapshot, config))
    done_too, failures_too = _make(world, rest)
    done += done_too
    failures += failures_too
    settled = state.after(made, done, config.group, [failure.change for failure in failures])
    if settled != made:
        state.save(settled, links)
    again = again or any(failure.overtaken for failure in failures) or any(
        change.verb == "remove" and isinstance(change.item, LinkAddress)
        or isinstance(change.item, LinkGroup) and change.item.group != config.group for change in done)
    return done, [_refused(failure, decision) for failure in failures], again


def _mark(world: World, members: Sequence[Marked], made: Made, snapshot: Snapshot) -> Tuple[List[Step], List[str]]:
    """Have the table of connection marks as it should be: what was done, and what went wrong.

    What it leads to is there by now; a mark whose rule has gone leads where none would.
    """
    steps, unusable = _steps(world, members, made, snapshot.rules)
    if steps or made.marked and not members:
        made = state.load(snapshot.links)  # since the look, links have been changed
    recorded = nftables.before(made, steps)
    if recorded != made:
        state.save(recorded, snapshot.links)
    for step in steps if LOG.isEnabledFor(logging.DEBUG) else ():
        LOG.debug("%s", step)
    done, failed, problems = nftables.do(steps)
    settled = nftables.after(recorded, bool(members) or unusable is not None, done, failed)
    if settled != recorded:  # also where somebody else has deleted the table
        state.save(settled, snapshot.links)
    return done, problems + ([str(unusable)] if unusable is not None else [])


def _steps(world: World, members: Sequence[Marked], made: Made, rules: Sequence[SeenRule]
           ) -> Tuple[List[Step], Optional[BootstrapError]]:
    config = world.config
    ours = any(rule.priority == config.priority_mark and config.owns_rule(rule.priority, protocol)
               for rule, protocol in rules)
    return nftables.todo(members, made, ours, config)


def _seen(world: World, members: Sequence[Marked], made: Made, rules: Sequence[SeenRule], problems: List[str],
          remarks: List[str]) -> Tuple[List[Step], bool]:
    """What there is to do for connection marks, and whether that could be found out.

    That nft can't be used is a problem; that an ordinary user may not ask it, a remark.
    """
    steps, unusable = _steps(world, members, made, rules)
    if isinstance(unusable, NotPermitted):
        remarks.append("connection marks can't be looked at: {}".format(unusable))
    elif unusable is not None:
        problems.append(str(unusable))
    return steps, unusable is None


def _see_table(world: World, members: Sequence[Marked], made: Made, rules: Sequence[SeenRule], problems: List[str],
               remarks: List[str]) -> None:
    """Say how things are with the connection marks; nothing where nobody asked for them and none are left."""
    steps, known = _seen(world, members, made, rules, problems, remarks)
    problems += ["connection marks: {} is not as it should be; run apply".format(
        "table " + TABLE if isinstance(step.item, Ruleset) else step.item.path) for step in steps]
    if members and known and not steps:
        remarks.append("connection marks: table {} is as it should be, for {}".format(
            TABLE, ", ".join(member.dev for member in members)))


def _marks(members: Sequence[Marked], config: Config) -> Dict[str, int]:
    return {member.dev: value(member, config) for member in members}


def _make(world: World, changes: Sequence[Change]) -> Tuple[List[Change], List[Failure]]:
    """Apply; the changes made, and those refused."""
    for change in changes if LOG.isEnabledFor(logging.DEBUG) else ():
        LOG.debug("%s", change)
    failures = world.kernel.apply(changes) if changes else []
    refused = {failure.change for failure in failures}
    return [change for change in changes if change not in refused], failures


def _prove(world: World, checks: Sequence[proof.Check], facts: proof.Facts) -> List[proof.Verdict]:
    """Ask all in one go; of what turns out wrong ask the route as well."""
    for pause in DAD_PAUSES:
        answers = world.kernel.ask([check.query for check in checks])
        verdicts = proof.judge(checks, answers, facts, world.config)
        if all(verdict.ok for verdict in verdicts):
            return verdicts
        if not proof.may_be_tentative(verdicts):
            break
        world.sleep(min(pause, world.deadline.remaining()))
    matches = world.kernel.ask([check.query._replace(match=True) for check in checks])
    answers = [answer._replace(dst=match.dst) for answer, match in zip(answers, matches)]
    return proof.judge(checks, answers, facts._replace(rules=world.kernel.rules()), world.config)


def _try(world: World, snapshot: Snapshot, decision: Decision, config: Config
         ) -> Tuple[List[proof.Verdict], List[str]]:
    """Whether the configuration's entries and spreads do what they say."""
    own = {held.address for held in snapshot.addresses}
    devs = {link.name for link in snapshot.links}
    near = {dev: [proof.some_host(route.dst, own) for route in world.kernel.specific_routes(dev, proof.LOCAL_DEVICES)]
            for entry in config.entries for dev in entry.iifs if dev in devs}
    versions = sorted({rule.version for rule in decision.rules})
    asked, remarks = trials.trials(decision.enis, snapshot.working, own, near, versions, config)
    asked = [trial for trial in asked if not trial.query.iif or trial.query.iif in devs]
    return trials.judge(asked, world.kernel.ask([trial.query for trial in asked])), remarks


def _ways(world: World, view: _View) -> Dict[str, Answer]:
    """By which way this host's own packets leave that choose no source, and the primary's to the metadata service."""
    queries = {"the internet by IPv{}".format(version): Query(dst) for version, dst in proof.INTERNET.items()
               if not world.config.spreads}  # else it is meant to change
    try:
        service = ipaddress.ip_address(urlsplit(world.config.metadata_url).hostname or "")
    except ValueError:
        service = None  # it has a name, not an address
    if service is not None:
        queries["the metadata service"] = Query(service)
    if service is not None and not service.is_loopback:
        held = {address.address for address in view.snapshot.addresses}
        own = [subnet.addresses[0] for eni in view.decision.enis if eni.primary
               for subnet in eni.interface.subnets if subnet.version == service.version and subnet.addresses]
        for address in held.intersection(own):
            queries["the metadata service from {}".format(address)] = Query(service, address)
    return dict(zip(queries, world.kernel.ask(list(queries.values()))))


def _moved(before: Dict[str, Answer], after: Dict[str, Answer], view: _View) -> List[str]:
    """What must never happen: a way that was the primary's, or a VPN's, is another one now."""
    secondaries = {eni.dev for eni in view.decision.enis if not eni.primary}
    return ["the way to {} was by {} and is now by {}".format(what, way.dev, after[what].dev or "nothing")
            for what, way in before.items() if way.dev and way.dev not in secondaries
            and (way.dev, way.gateway) != (after[what].dev, after[what].gateway)]


def _few_facts(world: World, view: _View) -> proof.Facts:
    """What ``proof.small`` needs."""
    return proof.Facts(view.decision.enis, view.decision.sources, world.kernel.addresses(),
                       gateways=_gateways(view.decision), full=world.config.primary == "full",
                       barriers=_barriers(view.snapshot), marks=_marks(view.decision.marked, world.config))


def _local(world: World, eni_devs: Set[str], snapshot: Snapshot) -> Tuple[Tuple[Address, str], ...]:
    """A destination by each local device that is no ENI, of some of them: where this host's own packets leave by it."""
    own = {held.address for held in snapshot.addresses}
    names = sorted((link.name for link in snapshot.links if link.up and link.name not in eni_devs), key=natural)
    routes = (route for name in names for route in world.kernel.specific_routes(name, 1))
    chosen = [proof.some_host(route.dst, own) for route in itertools.islice(routes, proof.LOCAL_DEVICES)]
    answers = world.kernel.ask([Query(dst) for dst in chosen])
    return tuple((dst, answer.dev) for dst, answer in zip(chosen, answers)
                 if not answer.error and answer.kind == "unicast" and answer.dev not in eni_devs)


def _gateways(decision: Decision) -> Dict[str, Tuple[Address, ...]]:
    """By device: the ENI's gateway first, then those of the user's routes through it."""
    found = {eni.dev: [subnet.gateway for subnet in eni.interface.subnets] for eni in decision.enis}
    for route in decision.routes:
        for hop in route.hops:
            if hop.gateway is not None and hop.dev in found and route.table == decision.numbers[hop.dev].table:
                found[hop.dev].append(hop.gateway)
    return {dev: tuple(dict.fromkeys(gateways)) for dev, gateways in found.items()}


def _barriers(snapshot: Snapshot) -> Tuple[Route, ...]:
    return tuple(seen.route for seen in snapshot.routes
                 if seen.route.table == MAIN and seen.route.is_default and not seen.route.hops)


def _shared(snapshot: Snapshot, eni_devs: Set[str]) -> List[Route]:
    """Main's multipath routes over an ENI and a device that is none."""
    return [seen.route for seen in snapshot.routes if seen.route.table == MAIN
            and eni_devs.intersection(seen.route.devs()) and not eni_devs.issuperset(seen.route.devs())]


def _unprovable_ones(facts: proof.Facts, config: Config) -> List[Tuple[Eni, int]]:
    """Where the configuration says that no address is put on a link, nothing is wrong with one that has none."""
    return [] if config.assign == "none" else proof.unprovable(facts)


def _unprovable(eni: Eni, version: int) -> str:
    return "{}: none of its IPv{} addresses is on its link; the kernel can't be asked".format(eni.label, version)


def _refused(failure: Failure, decision: Optional[Decision] = None) -> str:
    """Names the ENI whose table or device it is."""
    whose = [eni.label + ": " for eni in decision.enis
             if _is_about(failure.change.item, eni, decision.numbers[eni.dev].table)] if decision else []
    return "{}the kernel refuses '{}': {}".format("".join(whose[:1]), failure.change, failure.reason)


def _is_about(item: Item, eni: Eni, table: int) -> bool:
    if isinstance(item, Route):
        return item.table == table or eni.dev in item.devs()
    return item.table == table if isinstance(item, Rule) else item.dev == eni.dev


def _concerns(item: Item, eni: Eni, decision: Decision) -> bool:
    own = isinstance(item, Rule) and item.src in decision.sources[eni.dev]
    return own or _is_about(item, eni, decision.numbers[eni.dev].table)


def _in_place(todo: Plan) -> Tuple[str, ...]:
    return tuple("somebody else's route is in the place of ours and stays: {} (ours: {})".format(
        conflict.present, conflict.wanted) for conflict in todo.conflicts)

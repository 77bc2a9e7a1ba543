"""The whole story: read, decide, compare, apply, prove. The world (metadata, kernel, clock) is passed in."""

import logging
from typing import Dict, FrozenSet, List, Tuple, Union

from eni_bootstrap import executing, looking, proving
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.cni import at_parents, band_tables
from eni_bootstrap.desired.connmark import Marked, marked
from eni_bootstrap.desired.matching import named
from eni_bootstrap.host.managers import advice
from eni_bootstrap.kernel import record
from eni_bootstrap.looking import View, World
from eni_bootstrap.model.changes import Change, Step
from eni_bootstrap.model.eni import Listing
from eni_bootstrap.model.errors import MetadataError
from eni_bootstrap.model.kernel import Route
from eni_bootstrap.patience import POLL, Patience, problems_of, unaddressed_text
from eni_bootstrap.plan.diff import withdrawal
from eni_bootstrap.report import TAKEN_BACK, Report
from eni_bootstrap.verify.checks import Facts, Verdict, full, queue_jumpers, small
from eni_bootstrap.verify.installed import recall

LOG = logging.getLogger(__name__)


LOOKS = 3
"""So many more looks without a pause at the most: who is overtaken so often is not the only one at work here."""


def apply(world: World) -> Report:
    """Converge with what is fit; again while something is still coming that is worth waiting for; then prove."""
    try:
        _heed_removal(world)
        view, changes, problems = _converge(world)
    except _TakenBack:
        return Report(remarks=(TAKEN_BACK,))
    decision = view.decision
    problems = problems_of(decision) + problems
    problems += [unaddressed_text(member) for member in decision.unaddressed]
    facts = proving.few_facts(world, view)
    verdicts: List[Verdict] = []
    if decision.rules:
        waited_for = {(member.eni, member.version) for member in decision.unaddressed}
        problems += [proving.unprovable_text(*member) for member in proving.unprovable_ones(facts, world.config)
                     if member not in waited_for]
        verdicts = proving.prove(world, small(facts), facts)
    remarks = decision.remarks + executing.in_place(view.plan) + executing.among_ours(view.snapshot.rules, view.config)
    return Report(decision, tuple(changes), tuple(problems), remarks, tuple(verdicts))


def preview(world: World) -> Report:
    """What ``apply`` would do now; changes nothing."""
    return preview_of(world, looking.look(world, looking.ask_listing(world), frozenset()))


def preview_of(world: World, view: View) -> Report:
    """What there is to do, by one look."""
    decision = view.decision
    waits = tuple("{}; apply will give it one when nobody else does within {:.0f} s".format(
        unaddressed_text(member), world.config.address_wait) for member in decision.unaddressed)
    problems = problems_of(decision)
    remarks = list(decision.remarks + waits + executing.in_place(view.plan)
                   + executing.among_ours(view.snapshot.rules, view.config))
    steps, _ = executing.see_steps(world, decision.marked, view.made, view.snapshot.rules, problems, remarks)
    return Report(decision, view.plan.changes + tuple(steps), tuple(problems), tuple(remarks))


def verify(world: World) -> Report:
    """Ask the kernel about every source that metadata gives; changes nothing."""
    return verify_of(world, looking.look(world, looking.ask_listing(world), frozenset()))


def verify_of(world: World, view: View) -> Report:
    """The proof, by one look."""
    decision = view.decision
    problems = problems_of(decision)
    remarks = list(decision.remarks)
    executing.see_table(world, decision.marked, view.made, view.snapshot.rules, problems, remarks)
    if not decision.rules:
        return Report(decision, (), tuple(problems), tuple(remarks))
    eni_devs = {eni.dev for eni in decision.enis} | decision.kept_devs
    local = proving.local_destinations(world, eni_devs, view.snapshot)
    held = tuple(at_parents(view.snapshot.links, view.snapshot.addresses))
    facts = Facts(decision.enis, decision.sources, held, view.snapshot.rules, local,
                  proving.gateways(decision), world.config.primary == "full", proving.barriers(view.snapshot),
                  proving.marks_of(decision.marked, world.config),
                  proving.no_default(view.snapshot, world.config))
    problems += [proving.unprovable_text(*member) for member in proving.unprovable_ones(facts, world.config)]
    remarks += ["main shares a route between an ENI and another device; ENIs' traffic may follow it: {}".format(route)
                for route in proving.shared_routes(view.snapshot, eni_devs)]
    jumpers = queue_jumpers(facts, world.config)
    remarks += ["somebody else's rule comes before ours and catches a source of {}: {}".format(whose, rule)
                for rule, whose in jumpers]
    remarks += executing.among_ours(view.snapshot.rules, view.config, [rule for rule, _ in jumpers])
    verdicts = proving.prove(world, full(facts), facts)
    tried, untried = proving.try_entries(world, view.snapshot, decision, world.config)
    verdicts += tried
    remarks += untried
    remarks.append("looked at {} sources of {} ENIs, and from one source of each to {} local devices".format(
        sum(len(sources) for sources in facts.sources.values()), len(facts.enis),
        len({dev for _, dev in local})))
    return Report(decision, (), tuple(problems), tuple(remarks), tuple(verdicts))


def status(world: World) -> Report:
    """What is installed and whether it works, from the kernel alone."""
    links, rules = world.kernel.links(), world.kernel.rules()
    networks = looking.networks_here(world)
    ids = band_tables(links, {link.name for link in links}, rules, networks, world.config)
    snapshot = world.kernel.snapshot(links, rules, (), ids, world.config)
    decision = recall(snapshot, world.config)
    members: List[Marked] = []
    if world.config.connection_marks:
        tables = {dev: numbers.table for dev, numbers in decision.numbers.items()}
        members, _ = marked(decision.enis, (), tables, {}, (4, 6), world.config)
    facts = Facts(decision.enis, decision.sources, tuple(at_parents(links, snapshot.addresses)), rules,
                  marks=proving.marks_of(members, world.config),
                  no_default=proving.no_default(snapshot, world.config))
    verdicts = proving.prove(world, full(facts), facts)
    proven = {verdict.eni for verdict in verdicts}
    problems = ["{}: has routing table {}, and nothing leads there; run apply".format(
        eni.label, decision.numbers[eni.dev].table) for eni in decision.enis if eni.label not in proven]
    remarks = (advice(world.managers) if world.managers is not None else []) + world.rivals()
    made = record.load(links)
    executing.see_table(world, members, made, rules, problems, remarks)
    former = looking.former_configs(made, world.config)
    remarks += executing.among_ours([seen for seen in rules if not any(each.owns_rule(*seen) for each in former)],
                                    world.config)
    remarks += looking.left_alone(snapshot, networks, world.config)
    if decision.enis:
        # By its id or its vSwitch's an ENI is known with metadata only.
        known = tuple(entry for entry in world.config.entries
                      if not entry.via or len(named(entry.via, decision.enis)) == 1)
        remarks += ["access entry on line {}: which ENI it names can't be told without metadata; verify does".format(
            entry.line) for entry in world.config.entries if entry not in known]
        tried, untried = proving.try_entries(world, snapshot, decision, world.config._replace(entries=known))
        verdicts += tried
        remarks += untried
    return Report(decision, (), tuple(problems), tuple(remarks), tuple(verdicts))


def remove(world: World) -> Report:
    """Take back all that is ours; needs no metadata."""
    with record.lock(world.deadline, world.sleep):
        links, rules = world.kernel.links(), world.kernel.rules()
        made = record.load(links)
        former = looking.former_configs(made, world.config)
        snapshot = world.kernel.snapshot(links, rules, (), (), world.config, former)
        snapshot = snapshot._replace(settings=world.kernel.settings(done.setting[:2] for done in made.settings))
        steps, problems = executing.mark(world, (), made, snapshot)
        if made.marked or made.valid_marks:
            made = record.load(links)  # without these
        protocols = {each.protocol for each in (world.config, *former)}
        made = record.still_ours(made, snapshot.seen, protocols)
        made = record.without_undone(made, snapshot, {each.group for each in (Config(), world.config, *former)})
        todo = withdrawal(snapshot, made, looking.devs_in_use(world, links, made.ups, protocols), world.config, former)
        done, failures = executing.make(world, todo.removals)
        made = record.after(made, done, -1)
        record.save(made if failures else made._replace(numberings=(), kernel_marks=False), links)
        record.take_back()
    changes: List[Union[Change, Step]] = [*steps, *done]
    return Report(None, tuple(changes), tuple(problems + [executing.refusal(failure) for failure in failures]))


class _TakenBack(Exception):
    """Somebody wants nothing to be set up."""


def _heed_removal(world: World) -> None:
    """Who runs apply by hand wants it all again; what runs by itself must not undo a removal, raises ``_TakenBack``."""
    if not world.config.unattended:
        record.ask_again()
    elif record.taken_back():
        raise _TakenBack


def _converge(world: World) -> Tuple[View, List[Union[Change, Step]], List[str]]:
    """Look and execute until nothing is left to do or to wait for: the last view, all changes, the last problems."""
    # Somebody may have given an ENI to a virtual machine or a container, for good: what runs by itself waits once.
    missed = record.load(()).missed if world.config.unattended else frozenset()
    patience = Patience(world.deadline, world.config, missed)
    changes: List[Union[Change, Step]] = []
    looks = 0

    def step() -> Tuple[View, List[str], bool]:
        # Asked before the lock is taken: who waits for the service must not keep others from their work.
        listing = looking.ask_listing(world)
        with record.lock(world.deadline, world.sleep) as waited:
            _heed_removal(world)
            view = _confirmed(world, looking.ask_listing(world) if waited else listing, patience.over())
            before = proving.ways(world, view)
            done, problems, again = executing.execute(world, view)
            changes.extend(done)
            steps, wrong = executing.mark(world, view.decision.marked, view.made, view.snapshot)
            changes.extend(steps)
            problems += wrong
            after = proving.ways(world, view)
            takers = proving.takers(before, after, done)
            if takers:
                back, said = _give_back(world, view, takers)
                changes.extend(back)
                problems += said
                after = proving.ways(world, view)
            return view, problems + proving.moved(before, after, view), again

    view, problems, again = step()
    while True:
        at_once = again and looks < LOOKS + len(view.decision.enis)  # each may wait for the next one's table
        if not at_once and not patience.worth(view.decision):
            break
        world.sleep(0 if at_once else POLL)
        looks = looks + 1 if at_once else 0
        try:
            view, problems, again = step()
        except MetadataError as error:
            LOG.warning("%s; what was waited for is given up", error)
            break
    _note_missed(world, view)
    return view, changes, problems


def _give_back(world: World, view: View, takers: Dict[Change, str]) -> Tuple[List[Change], List[str]]:
    """Take back default routes of this run, by which the host's own packets leave now: the changes, what to say."""
    back, failures = executing.make(world, [change._replace(verb="remove") for change in takers])
    labels = {eni.dev: eni.label for eni in view.decision.enis}
    said = ["{}: its default route in main would take the way to {}, and is taken back; see why main's better one does "
            "not work, then run apply".format(labels[change.item.hops[0].dev], way) for change, way in takers.items()
            if isinstance(change.item, Route)]
    return back, said + [executing.refusal(failure, view.decision) for failure in failures]


def _confirmed(world: World, listing: Listing, patience_over: FrozenSet[Tuple[str, int]]) -> View:
    """A look. What metadata tells no more goes when it says so twice in a row: a listing that was cut short looks like
    one from which something has gone."""
    view = looking.look(world, listing, patience_over)
    while view.plan.removals:
        again = looking.ask_listing(world)
        if again == listing:
            break
        listing = again
        view = looking.look(world, listing, patience_over)
    return view


def _note_missed(world: World, view: View) -> None:
    missed = frozenset(member.mac for member in view.decision.unfit if member.passing)
    if missed != view.made.missed:
        with record.lock(world.deadline, world.sleep):
            made = record.load(view.snapshot.links)
            record.save(made._replace(missed=missed), view.snapshot.links)

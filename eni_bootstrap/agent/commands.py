"""The commands: each observes, then applies or reports. The world (metadata, kernel, clock) is passed in."""

from typing import List

from eni_bootstrap.agent import observe, prove
from eni_bootstrap.agent.apply import among_ours, in_place, make, mark_connections, refusal, see_steps, see_table
from eni_bootstrap.agent.observe import Context, Observation
from eni_bootstrap.agent.platform import LinuxPlatform
from eni_bootstrap.agent.reconcile import Removed, reconcile
from eni_bootstrap.agent.report import REMOVED, Report
from eni_bootstrap.agent.waiting import findings_of
from eni_bootstrap.config.own_rules import owns_rule
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.cni import at_parents, band_tables
from eni_bootstrap.desired.connmark import Marked, marked
from eni_bootstrap.desired.matching import named
from eni_bootstrap.host.network_managers import advice
from eni_bootstrap.kernel import record
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.plan.diff import withdrawal
from eni_bootstrap.verify.checks import Verdict, VerifyInput, all_checks, quick_checks, shadowing_rules
from eni_bootstrap.verify.installed import recall


def apply(world: Context) -> Report:
    """Set up all ENIs that are ready; go on while others that are worth waiting for may come; then prove."""
    if not world.config.unattended:
        record.clear_removed_flag()  # once: whoever runs remove from now on means this run, too
    elif record.removed_flag():  # before metadata is asked: it may not be there
        return Report(findings=(REMOVED,))
    try:
        done = reconcile(LinuxPlatform(world), world.deadline, world.config, world.sleep)
    except Removed:
        return Report(findings=(REMOVED,))
    view = done.observation
    decision = view.decision
    found = [*findings_of(decision), *done.findings, *(member.without_address for member in decision.unaddressed)]
    facts = prove.few_facts(world, view)
    verdicts: List[Verdict] = []
    if decision.rules:
        found += [prove.not_provable(family) for family in prove.unprovable_ones(facts, world.config)
                  if family not in decision.unaddressed]
        verdicts = prove.prove(world, quick_checks(facts), facts)
    found += in_place(view.plan, decision) + among_ours(view.snapshot.rules, view.config)
    return Report(decision, done.changes, tuple(found), tuple(verdicts))


def preview(world: Context) -> Report:
    """What ``apply`` would do now; changes nothing."""
    return preview_of(world, observe.look(world, observe.ask_listing(world), frozenset()))


def preview_of(world: Context, view: Observation) -> Report:
    """The plan of one observation."""
    decision = view.decision
    found = [*findings_of(decision), *(Finding.remark(
        "address-awaited", member.without_address.cause,
        "apply gives it one when nobody else does within {:.0f} s".format(world.config.address_wait),
        member.label, member.version) for member in decision.unaddressed)]
    found += in_place(view.plan, decision) + among_ours(view.snapshot.rules, view.config)
    steps, unseen = see_steps(world, decision.marked, view.made, view.snapshot.rules)
    return Report(decision, (*view.plan.changes, *steps), tuple(found + unseen))


def verify(world: Context) -> Report:
    """Ask the kernel about every source that metadata gives; changes nothing."""
    return verify_of(world, observe.look(world, observe.ask_listing(world), frozenset()))


def verify_of(world: Context, view: Observation) -> Report:
    """The proof of one observation."""
    decision = view.decision
    found = [*findings_of(decision), *see_table(world, decision.marked, view.made, view.snapshot.rules)]
    if not decision.rules:
        return Report(decision, (), tuple(found))
    eni_devs = {eni.dev for eni in decision.enis} | decision.kept_devs
    local = prove.local_destinations(world, eni_devs, view.snapshot)
    held = tuple(at_parents(view.snapshot.links, view.snapshot.addresses))
    facts = VerifyInput(
        decision.families, held, view.snapshot.rules, local, prove.gateways(decision), world.config.primary == "full",
        prove.kill_switch_routes(view.snapshot), prove.marks_of(decision.marked, world.config),
        prove.no_default(view.snapshot, world.config))
    found += [prove.not_provable(family) for family in prove.unprovable_ones(facts, world.config)]
    found += [Finding.remark("route-shared", "main shares a route between an ENI and another device, and ENIs' traffic "
                             "may follow it", family=route.version, evidence=str(route))
              for route in prove.shared_routes(view.snapshot, eni_devs)]
    jumpers = shadowing_rules(facts, world.config)
    found += [Finding.remark("rule-in-front", "somebody else's rule comes before ours and catches a source of it",
                             "", whose, rule.version, str(rule)) for rule, whose in jumpers]
    found += among_ours(view.snapshot.rules, view.config, [rule for rule, _ in jumpers])
    verdicts = prove.prove(world, all_checks(facts), facts)
    tried, untried = prove.try_entries(world, view.snapshot, decision, world.config)
    found += untried
    found.append(Finding.remark("looked-at", "looked at {} sources of {} ENIs, and from one source of each to {} local "
                                "devices".format(sum(len(family.sources) for family in facts.families),
                                                 len(facts.enis), len({dev for _, dev in local}))))
    return Report(decision, (), tuple(found), tuple(verdicts + tried))


def status(world: Context) -> Report:
    """What is installed and whether it works, from the kernel alone."""
    links, rules = world.kernel.links(), world.kernel.rules()
    networks = observe.networks_here(world)
    ids = band_tables(links, {link.name for link in links}, rules, networks, world.config)
    snapshot = world.kernel.snapshot(links, rules, (), ids, world.config)
    decision = recall(snapshot, world.config)
    members: List[Marked] = []
    if world.config.connection_marks:
        members, _ = marked(decision.ways, {4, 6}, world.config)
    facts = VerifyInput(
        decision.families, tuple(at_parents(links, snapshot.addresses)), rules,
        marks=prove.marks_of(members, world.config), no_default=prove.no_default(snapshot, world.config))
    verdicts = prove.prove(world, all_checks(facts), facts)
    proven = {verdict.subject for verdict in verdicts}
    found = [Finding.error("table-unused", "has routing table {}, and nothing leads there".format(
        decision.table_of(eni.dev)), "run apply", eni.label) for eni in decision.enis if eni.label not in proven]
    found += (advice(world.managers) if world.managers is not None else []) + world.competing_agents()
    made = record.load(links)
    found += see_table(world, members, made, rules)
    former = observe.former_configs(made, world.config)
    found += among_ours(
        [seen for seen in rules if not any(owns_rule(*seen, each) for each in former)], world.config)
    found += observe.left_alone(snapshot, networks, world.config)
    if decision.enis:
        # By its id or its vSwitch's an ENI is known with metadata only.
        known = tuple(entry for entry in world.config.entries
                      if not entry.via or len(named(entry.via, decision.enis)) == 1)
        found += [Finding.remark("entry-not-known", "access entry on line {}: which ENI it names can't be told without "
                                 "metadata".format(entry.line), "ask verify")
                  for entry in world.config.entries if entry not in known]
        tried, untried = prove.try_entries(world, snapshot, decision, world.config._replace(entries=known))
        verdicts += tried
        found += untried
    return Report(decision, (), tuple(found), tuple(verdicts))


def remove(world: Context) -> Report:
    """Take back all that is ours; needs no metadata."""
    with record.lock(world.deadline, world.sleep):
        links, rules = world.kernel.links(), world.kernel.rules()
        made = record.load(links)
        former = observe.former_configs(made, world.config)
        snapshot = world.kernel.snapshot(links, rules, (), (), world.config, former)
        snapshot = snapshot._replace(settings=world.kernel.settings(done.setting[:2] for done in made.settings))
        steps, wrong = mark_connections(world, (), made, snapshot)
        if made.marked or made.valid_marks:
            made = record.load(links)  # without these
        protocols = {each.protocol for each in (world.config, *former)}
        made = record.still_ours(made, snapshot.seen, protocols)
        made = record.without_undone(made, snapshot, {each.group for each in (Config(), world.config, *former)})
        todo = withdrawal(snapshot, made, observe.devs_in_use(world, links, made.ups, protocols), world.config, former)
        done, failures = make(world, todo.removals)
        made = record.after(made, done, -1)
        record.save(made if failures else made._replace(numberings=(), kernel_marks=False), links)
        record.set_removed_flag()
    return Report(None, (*steps, *done), tuple(wrong + [refusal(failure) for failure in failures]))

"""The agent on Windows: its commands and its platform; on Linux these are in ``agent`` and ``linux``."""

import argparse
import logging
import os
import time
from typing import Callable, ContextManager, Dict, FrozenSet, List, NamedTuple, Sequence, Tuple

from eni_bootstrap.agent.reconcile import Platform, Removed, Round, reconcile
from eni_bootstrap.agent.report import REMOVED, Report
from eni_bootstrap.agent.waiting import findings_of
from eni_bootstrap.config import loader
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.desired.selection import unwanted
from eni_bootstrap.metadata.client import MetadataClient, client_of
from eni_bootstrap.metadata.dump import Saved
from eni_bootstrap.metadata.fetch import Fetch, consistent
from eni_bootstrap.metadata.parser import essence
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.eni import Eni, EniFamily, Listing, NetworkInterface, Subnet
from eni_bootstrap.model.errors import BootstrapError, UsageError
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.verify.checks import Verdict
from eni_bootstrap.windows import installation, observe, powershell, proof, reader, record, scripts
from eni_bootstrap.windows.desired import decide, links_of, owned
from eni_bootstrap.windows.model import Recorded, Snapshot, WindowsRoute
from eni_bootstrap.windows.plan import Plan, RouteChange, plan, settled, withdrawal
from eni_bootstrap.windows.record import Record

LOG = logging.getLogger(__name__)

_AT_ONCE = 200
"""Maximum questions to one PowerShell: it takes some 10 ms for each, and a whole run has its deadline."""


class Context(NamedTuple):
    """The world that a command works on: metadata, PowerShell, clock, folder."""

    fetch: Fetch
    run: Callable[[str, float], str]
    """Run a script in PowerShell, within this number of seconds. Returns its output."""
    deadline: Deadline
    config: Config
    sleep: Callable[[float], None]


class _View(NamedTuple):
    """Windows at one moment, the decision, and the plan that follows."""

    listing: Listing
    snapshot: Snapshot
    recorded: Tuple[Recorded, ...]
    decision: Decision
    plan: Plan


install, uninstall = installation.install, installation.uninstall


class _Command(NamedTuple):
    run: Callable[[Context], Report]
    privileged: bool


def report(parsed: argparse.Namespace, config: Config) -> Report:
    """Run the command of the command line. Raises ``BootstrapError``."""
    if parsed.command == "adopt":
        raise UsageError("adopt: not on Windows: what the vendor's page has people type there is a route like ours; "
                         "apply counts it as present, and it stays whose it is")
    chosen = _COMMANDS[parsed.command]
    deadline = Deadline(config.timeout)
    if chosen.privileged:
        _secure(observe.administrator(parsed.command, deadline), parsed, config, deadline)
    asking = client(config, deadline)
    try:
        return chosen.run(Context(asking.fetch, powershell.run, deadline, config, time.sleep))
    finally:
        asking.close()


def metadata(config: Config) -> Saved:
    """The metadata tree, and the part of Windows' state that we read. Raises ``MetadataError``."""
    deadline = Deadline(config.timeout)
    asking = client(config, deadline, every_leaf=True)
    try:
        tree, listing = consistent(asking.fetch, deadline)
    finally:
        asking.close()
    return Saved(essence(tree), listing, {"windows": reader.value(powershell.run(scripts.READ, deadline.remaining()))})


def client(config: Config, deadline: Deadline, every_leaf: bool = False) -> MetadataClient:
    """A client of the metadata service; the caller closes it."""

    def has_ipv6_only() -> bool:
        return {held.address.version for held in observe.read(powershell.run, deadline).addresses
                if not held.address.is_loopback} == {6}

    return client_of(config, deadline, has_ipv6_only, every_leaf)


def apply(world: Context) -> Report:
    """Set up all ENIs that are ready; go on while others that are worth waiting for may come; then prove."""
    if not world.config.unattended:
        _heed_no_removal(world)
    try:
        done = reconcile(WindowsPlatform(world), world.deadline, world.config, world.sleep)
    except Removed:
        return Report(findings=(REMOVED,))
    view = done.observation
    verdicts: List[Verdict] = []
    if _has_secondaries(view.decision):
        snapshot = observe.read(world.run, world.deadline) if done.changes else view.snapshot
        verdicts = _prove(world, proof.few(view.decision, snapshot, _ours(view, snapshot)), snapshot)
    return Report(view.decision, done.changes, _findings(view.decision) + done.findings, tuple(verdicts))


def preview(world: Context) -> Report:
    """What ``apply`` would do now; changes nothing."""
    view = _look(world, _listing(world))
    return Report(view.decision, view.plan.changes, _findings(view.decision))


def verify(world: Context) -> Report:
    """Ask Windows about every source that metadata gives; changes nothing."""
    view = _look(world, _listing(world))
    decision, snapshot = view.decision, view.snapshot
    if not _has_secondaries(decision):
        return Report(decision, (), _findings(decision))
    verdicts = _prove(world, proof.all_of_them(decision, snapshot, _ours(view, snapshot)), snapshot)
    return Report(decision, (), (*_findings(decision), *proof.unprovable(decision, snapshot)), tuple(verdicts))


def status(world: Context) -> Report:
    """What is installed and whether it works, from the record and Windows alone."""
    snapshot = observe.read(world.run, world.deadline)
    kept = observe.kept_record(snapshot)
    ours = owned(kept.routes, snapshot)
    decision = _recall(ours, snapshot)
    verdicts = _prove(world, [question for question in proof.all_of_them(decision, snapshot, ()) if question.gateway],
                      snapshot)
    proven = {verdict.subject for verdict in verdicts}
    found = [Finding.error("route-unused", "has its route, and no address that could use it", eni=eni.label)
             for eni in decision.enis if eni.label not in proven]
    found += [Finding.error(
        "route-gone", "{} by {}, which was made for it, is not there any more, or was changed".format(
            entry.route.dst, entry.route.gateway), "run apply", entry.mac, entry.route.version) for entry in kept.routes
        if not owned([entry], snapshot) and snapshot.index_of(entry.guid) is not None]
    found += unwanted(world.config.ignore, world.config.only)
    if kept.is_taken_back(snapshot.boot):
        found.append(REMOVED)
    return Report(decision, (), tuple(found), tuple(verdicts))


def remove(world: Context) -> Report:
    """Take back all that is ours; needs no metadata."""
    with record.lock(world.deadline, world.sleep):
        snapshot = observe.read(world.run, world.deadline)
        kept = record.load()
        done, failed = _make(world, withdrawal(snapshot, kept.routes), snapshot, kept)
        record.save(record.load()._replace(taken_back=snapshot.boot))
    return Report(None, tuple(done), tuple(failed))


_COMMANDS: Dict[str, _Command] = {
    "apply": _Command(apply, True),
    "plan": _Command(preview, False),
    "verify": _Command(verify, False),
    "status": _Command(status, False),
    "remove": _Command(remove, True),
}


# Looking and making


def _secure(snapshot: Snapshot, parsed: argparse.Namespace, config: Config, deadline: Deadline) -> None:
    """Make the folder of the record safe; refuse a configuration that an ordinary user may have written."""
    folder = snapshot.folder
    if not folder.closed and os.path.lexists(record.folder()):
        folder = observe.read(powershell.run, deadline).folder  # a run beside this one may have made it just now
    is_configured = os.path.lexists(loader.PATH)
    if not parsed.config and is_configured and not (folder.trusted and folder.config_trusted):
        raise BootstrapError(
            "{}: it or its folder belongs to a user, who could tell the system what to do; have it owned by the "
            "administrators (icacls PATH /setowner *S-1-5-32-544), or name another by --config".format(
                loader.PATH))
    record.secure(folder, powershell.tool)
    # It was read before anybody had looked whose it was: who was quick has put another in its place meanwhile.
    if not parsed.config and (
            os.path.lexists(loader.PATH) != is_configured or loader.settings(parsed) != config):
        raise BootstrapError("{}: it was changed while it was being looked at; run it again".format(loader.PATH))


class WindowsPlatform(Platform):
    """Windows' part of ``reconcile``: PowerShell and the record."""

    wait_share = 0.8  # PowerShell takes seconds to start, and the proof has to be asked for, too

    def __init__(self, world: Context) -> None:
        self._world = world

    def listing(self) -> Listing:
        return _listing(self._world)

    def lock(self) -> ContextManager[bool]:
        return record.lock(self._world.deadline, self._world.sleep)

    def observe(self, listing: Listing, address_wait_expired: FrozenSet[Tuple[str, int]]) -> _View:
        view = _look(self._world, listing)
        if record.load().is_taken_back(view.snapshot.boot):
            raise Removed
        return view

    def removes(self, observation: _View) -> bool:
        return any(change.verb == "remove" for change in observation.plan.changes)

    def execute(self, observation: _View) -> Round:
        kept = _without_removal()
        done, refused = _make(self._world, observation.plan, observation.snapshot, kept)
        return Round(observation, tuple(done), tuple(refused), bool(refused))

    def missed(self) -> FrozenSet[str]:
        return record.load().missed

    def note_missed(self, observation: _View) -> None:
        missed = frozenset(member.mac for member in observation.decision.unready if member.transient)
        missed |= {family.eni.mac for family in observation.decision.unaddressed}
        if missed != record.load().missed:
            with self.lock():
                record.save(record.load()._replace(missed=missed))

    def retries(self, decision: Decision) -> int:
        return 1  # where something was refused somebody was faster, and then his is there

    def awaited(self, decision: Decision, missed: FrozenSet[str]) -> Decision:
        """The decision without addresses for which the last run waited in vain: an adapter may have none for good."""
        return decision._replace(unaddressed=tuple(
            family for family in decision.unaddressed if family.eni.mac not in missed))


def _heed_no_removal(world: Context) -> None:
    """A person's apply is newer than the last ``remove``; whoever runs that from now on means this run, too."""
    with record.lock(world.deadline, world.sleep):
        _without_removal()


def _without_removal() -> record.Record:
    """The record, which says from now on that nothing is taken back."""
    kept = record.load()
    if kept.taken_back is not None:
        kept = kept._replace(taken_back=None)
        record.save(kept)
    return kept


def _listing(world: Context) -> Listing:
    return consistent(world.fetch, world.deadline, world.sleep)[1]


def _look(world: Context, listing: Listing) -> _View:
    """Read Windows, decide, plan."""
    snapshot = observe.read(world.run, world.deadline)
    recorded = observe.kept_record(snapshot).routes
    decision = decide(listing, snapshot, recorded, world.config)
    return _View(listing, snapshot, recorded, decision, plan(listing, decision, snapshot, recorded))


def _make(world: Context, todo: Plan, snapshot: Snapshot, kept: Record) -> Tuple[List[RouteChange], List[Finding]]:
    """Make the changes. Returns those made, and the refusals. What becomes ours is recorded before it is made."""
    failures: Dict[RouteChange, str] = {}
    if todo.changes:
        if todo.during != kept.routes:
            record.save(kept._replace(routes=todo.during))
        for change in todo.changes:
            LOG.debug("%s", change)
        said = reader.errors(world.run(scripts.change(map(str, todo.changes)), world.deadline.remaining()),
                             len(todo.changes))
        failures = {change: error for change, error in zip(todo.changes, said) if error}
    routes = settled(todo, list(failures), snapshot)
    if routes != record.load().routes:
        record.save(kept._replace(routes=routes))
    return ([change for change in todo.changes if change not in failures],
            [Finding.error("change-refused", "Windows refuses '{}'".format(change), "",
                           change.dev or "interface {}".format(change.route.ifindex), change.route.version, error)
             for change, error in failures.items()])


def _findings(decision: Decision) -> Tuple[Finding, ...]:
    return (*findings_of(decision), *(member.without_address for member in decision.unaddressed))


def _has_secondaries(decision: Decision) -> bool:
    return any(not eni.primary for eni in decision.enis)


def _ours(view: _View, snapshot: Snapshot) -> List[WindowsRoute]:
    """Our routes as they are now, after the changes."""
    return [entry.route for entry in owned(view.plan.during, snapshot)]


def _prove(world: Context, questions: Sequence[proof.Question], snapshot: Snapshot) -> List[Verdict]:
    answers: List[reader.Answer] = []
    for start in range(0, len(questions), _AT_ONCE):
        part = questions[start:start + _AT_ONCE]
        script = scripts.ask([(question.dst, question.src) for question in part])
        answers += reader.answers(world.run(script, world.deadline.remaining()), len(part))
    return proof.judge(questions, answers, snapshot)


def _recall(ours: Sequence[Recorded], snapshot: Snapshot) -> Decision:
    """The ENIs that have routes of ours, as far as Windows describes them."""
    enis: List[Eni] = []
    for link in links_of(snapshot):
        subnets = []
        for version in (4, 6):
            held = [each for each in snapshot.addresses if each.dev == link.name and each.address.version == version]
            gateways = [entry.route.gateway for entry in ours
                        if entry.route.ifindex == link.ifindex and entry.route.version == version]
            if gateways and held:
                subnets.append(Subnet(held[0].network, gateways[0], tuple(each.address for each in held)))
        if any(entry.route.ifindex == link.ifindex for entry in ours):
            enis.append(Eni(NetworkInterface("", link.mac, False, tuple(subnets)), link, link.name))
    return Decision(tuple(enis), tuple(
        EniFamily(eni, subnet, subnet.sources) for eni in enis for subnet in eni.subnets))

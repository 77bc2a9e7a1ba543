"""The agent on Windows: read, decide, compare, apply, prove. What Linux has in ``bootstrap`` and ``linux``."""

import argparse
import contextlib
import logging
import os
import shutil
import sys
import time
import zipfile
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import eni_bootstrap
from eni_bootstrap import configfile, output
from eni_bootstrap.config import Config
from eni_bootstrap.errors import BootstrapError, MetadataError, NotPermitted, UsageError
from eni_bootstrap.host import singlefile
from eni_bootstrap.interfaces import LEAVES, VSWITCH_ID, parse_interfaces
from eni_bootstrap.metadata import MetadataClient
from eni_bootstrap.model import Listing, NetworkInterface, Subnet
from eni_bootstrap.pairing import Eni, network_of
from eni_bootstrap.patience import POLL, Patience, unaddressed_text, unfit_text
from eni_bootstrap.proof import Verdict
from eni_bootstrap.report import Report
from eni_bootstrap.retry import Deadline, retrying
from eni_bootstrap.routing import Decision
from eni_bootstrap.windows import powershell, proof, reader, record, scripts, task
from eni_bootstrap.windows.decision import decide, links_of, owned
from eni_bootstrap.windows.model import Recorded, Snapshot, WindowsRoute
from eni_bootstrap.windows.plan import Plan, RouteChange, plan, settled, withdrawal
from eni_bootstrap.windows.record import Record

LOG = logging.getLogger(__name__)

LOOKS = 1
"""So many more looks without a pause where something was refused: somebody was faster, and then his is there."""

_AT_ONCE = 200
"""Questions to one PowerShell: it takes some 10 ms for each, and a whole run has its deadline."""

_FOR_WAITING = 0.8
"""The share of the time that may be waited in: PowerShell takes seconds to start, and the proof has to be asked for."""

_PROGRAM = "eni-bootstrap.pyz"


class World(NamedTuple):
    """What a command works on."""

    fetch: Callable[[], Dict[str, Any]]
    """Asks the metadata service for its ``meta-data`` tree; raises ``MetadataError``."""
    run: Callable[[str, float], str]
    """Has PowerShell run a script, within so many seconds."""
    deadline: Deadline
    config: Config
    sleep: Callable[[float], None]


class _View(NamedTuple):
    """One look at the world, and what follows from it."""

    listing: Listing
    snapshot: Snapshot
    recorded: Tuple[Recorded, ...]
    decision: Decision
    plan: Plan


class _Command(NamedTuple):
    run: Callable[[World], Report]
    privileged: bool


def report(parsed: argparse.Namespace, config: Config) -> Report:
    """Do what the command line says. Raises ``BootstrapError``."""
    if parsed.command == "adopt":
        raise UsageError("adopt: not on Windows: what the vendor's page has people type there is a route like ours; "
                         "apply counts it as present, and it stays whose it is")
    chosen = _COMMANDS[parsed.command]
    deadline = Deadline(config.timeout)
    if chosen.privileged:
        _secure(_want_administrator(parsed.command, deadline), parsed, deadline)
    asking = client(config, deadline)
    try:
        return chosen.run(World(asking.fetch, powershell.run, deadline, config, time.sleep))
    finally:
        asking.close()


def client(config: Config, deadline: Deadline) -> MetadataClient:
    """Asks the metadata service; whoever gets it closes it."""

    def has_ipv6_only() -> bool:
        return {held.address.version for held in _read(powershell.run, deadline).addresses
                if not held.address.is_loopback} == {6}

    return MetadataClient(config.metadata_url, deadline, ipv6_url=config.metadata_url_ipv6, ipv6_only=has_ipv6_only,
                          leaves=LEAVES | {VSWITCH_ID} if config.names_enis else LEAVES)


def saved() -> Dict[str, Any]:
    """What Windows holds as far as we look at it, to be kept beside the metadata."""
    return {"windows": reader.value(powershell.run(scripts.READ, Config().timeout))}


def apply(world: World) -> Report:
    """Converge with what is fit; again while something is still coming that is worth waiting for; then prove."""
    try:
        view, changes, problems = _converge(world)
    except _TakenBack:
        return Report(remarks=("remove has taken back what was set up; that stays so until somebody runs apply, or "
                               "until the next boot",))
    problems = _problems(view.decision) + problems
    verdicts: List[Verdict] = []
    if _has_secondaries(view.decision):
        snapshot = _read(world.run, world.deadline) if changes else view.snapshot
        verdicts = _prove(world, proof.few(view.decision, snapshot, _ours(view, snapshot)), snapshot)
    return Report(view.decision, tuple(changes), tuple(problems), view.decision.remarks, tuple(verdicts))


def preview(world: World) -> Report:
    """What ``apply`` would do now; changes nothing."""
    view = _look(world, _listing(world))
    return Report(view.decision, view.plan.changes, tuple(_problems(view.decision)), view.decision.remarks)


def verify(world: World) -> Report:
    """Ask Windows about every source that metadata gives; changes nothing."""
    view = _look(world, _listing(world))
    decision, snapshot = view.decision, view.snapshot
    if not _has_secondaries(decision):
        return Report(decision, (), tuple(_problems(decision)), decision.remarks)
    verdicts = _prove(world, proof.all_of_them(decision, snapshot, _ours(view, snapshot)), snapshot)
    remarks = decision.remarks + tuple(proof.unprovable(decision, snapshot))
    return Report(decision, (), tuple(_problems(decision)), remarks, tuple(verdicts))


def status(world: World) -> Report:
    """What is installed and whether it works, from the record and Windows alone."""
    snapshot = _read(world.run, world.deadline)
    kept = _kept(snapshot)
    ours = owned(kept.routes, snapshot)
    decision = _recall(ours, snapshot)
    verdicts = _prove(world, [question for question in proof.all_of_them(decision, snapshot, ()) if question.gateway],
                      snapshot)
    proven = {verdict.eni for verdict in verdicts}
    problems = ["{}: has its route, and no address that could use it".format(eni.label)
                for eni in decision.enis if eni.label not in proven]
    problems += ["{}: {} by {}, which was made for it, is not there any more, or was changed; run apply".format(
        entry.mac, entry.route.dst, entry.route.gateway) for entry in kept.routes
        if not owned([entry], snapshot) and snapshot.index_of(entry.guid) is not None]
    remarks = ["left alone, as the configuration says: {}".format(", ".join(words)) for words in (
        world.config.ignore, ["all but", *world.config.only] if world.config.only else []) if words]
    if kept.is_taken_back(snapshot.boot):
        remarks.append("remove has taken back what was set up; that stays so until somebody runs apply, or until the "
                       "next boot")
    return Report(decision, (), tuple(problems), tuple(remarks), tuple(verdicts))


def remove(world: World) -> Report:
    """Take back all that is ours; needs no metadata."""
    with record.lock(world.deadline, world.sleep):
        snapshot = _read(world.run, world.deadline)
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


def install(parsed: argparse.Namespace) -> int:
    """Have the agent run at each boot and at each change of an ENI. Returns the exit code."""
    _check_root(parsed)
    program = singlefile.path()
    place = _place()
    for path in [sys.executable] + ([] if program else [os.path.abspath(eni_bootstrap.__file__)]):
        if task.in_profile(path, os.environ):
            raise BootstrapError("{} lies in a user's profile, who could change what the system runs: install Python "
                                 "for all users, in Program Files, and run install with that".format(path))
    arguments = ["-m", "eni_bootstrap"] if not program else [place]
    definition = task.task(sys.executable, arguments + ["apply", "--unattended"])
    if parsed.dry_run:
        said = ["would write {}".format(place)] if program else []
        return 0 if output.write("\n".join(said + ["would register the task {}:".format(task.NAME), definition])) else 1
    deadline = Deadline(Config().timeout)
    snapshot = _want_administrator("install", deadline)
    left = [text for text in (_foreign_task(), _foreign_program(place) if program else "") if text]
    if left:
        return _say(["left as it is: " + text for text in left], 1)
    said = []
    if program:
        _copy(program, place)
        said.append("wrote {}".format(place))
    _register(definition)
    if _kept(snapshot).taken_back is not None:  # whoever installs it wants it, whatever was removed before
        with record.lock(deadline, time.sleep):
            record.save(record.load()._replace(taken_back=None))
    said.append("registered the task {}; it runs at each boot, at each change of a network, and every 5 minutes".format(
        task.NAME))
    if not task.is_guarded(sys.executable, os.environ):
        said.append("remark: {} lies outside Program Files: see to it that only administrators may write there".format(
            sys.executable))
    return _say(said, 0)


def uninstall(parsed: argparse.Namespace) -> int:
    """Take back what ``install`` has put there. Returns the exit code."""
    _check_root(parsed)
    place = _place()
    if parsed.dry_run:
        return _say(["would delete the task {}".format(task.NAME), "would remove {}".format(place)], 0)
    _want_administrator("uninstall", Deadline(Config().timeout))
    foreign_task, foreign_program = _foreign_task(), _foreign_program(place)
    left = [text for text in (foreign_task, foreign_program) if text]
    said = ["left as it is: " + text for text in left]
    if not foreign_task and _shown_task():
        _schtasks("/Delete", "/TN", task.NAME, "/F")
        said.append("deleted the task {}".format(task.NAME))
    if not foreign_program and os.path.lexists(place):
        try:
            os.unlink(place)
        except OSError as error:
            raise BootstrapError("can't remove {}: {}".format(place, error.strerror)) from error
        said.append("removed {}".format(place))
        with contextlib.suppress(OSError):  # somebody has put something in
            os.rmdir(os.path.dirname(place))
    return _say(said or ["nothing is installed"], 1 if left else 0)


# Looking and making


class _TakenBack(Exception):
    """Somebody wants nothing to be set up."""


def _want_administrator(what: str, deadline: Deadline) -> Snapshot:
    snapshot = _read(powershell.run, deadline)
    if not snapshot.elevated:
        raise NotPermitted("{} takes an administrator's rights: run it in a PowerShell that was started as "
                           "administrator".format(what))
    return snapshot


def _secure(snapshot: Snapshot, parsed: argparse.Namespace, deadline: Deadline) -> None:
    """Have the folder of the record; refuse a configuration that a user may have written."""
    folder = snapshot.folder
    if not folder.closed and os.path.lexists(record.folder()):
        folder = _read(powershell.run, deadline).folder  # a run beside this one may have made it just now
    if not parsed.config and os.path.lexists(configfile.PATH) and not (folder.trusted and folder.config_trusted):
        raise BootstrapError(
            "{}: it or its folder belongs to a user, who could tell the system what to do; have it owned by the "
            "administrators (icacls PATH /setowner *S-1-5-32-544), or name another by --config".format(configfile.PATH))
    record.secure(folder, powershell.tool)


def _heed_removal(world: World, kept: Record, snapshot: Snapshot) -> None:
    """Who runs apply by hand wants it all again; what runs by itself must not undo a removal, raises ``_TakenBack``."""
    if kept.is_taken_back(snapshot.boot) and world.config.unattended:
        raise _TakenBack


def _converge(world: World) -> Tuple[_View, List[RouteChange], List[str]]:
    """Look and execute until nothing is left to do or to wait for: the last view, all changes, the last problems."""
    # Somebody may have disabled an adapter, or given it to a virtual machine, for good: what runs by itself waits once.
    missed = record.load().missed if world.config.unattended else frozenset()
    patience = Patience(world.deadline.part(_FOR_WAITING), world.config, missed)
    changes: List[RouteChange] = []

    def step() -> Tuple[_View, List[str]]:
        # Asked before the lock is taken: who waits for the service must not keep others from their work.
        listing = _listing(world)
        with record.lock(world.deadline, world.sleep) as waited:
            view = _look(world, _listing(world) if waited else listing)
            kept = record.load()
            _heed_removal(world, kept, view.snapshot)
            if kept.taken_back is not None:
                kept = kept._replace(taken_back=None)
                record.save(kept)
            done, problems = _make(world, view.plan, view.snapshot, kept)
            changes.extend(done)
            return view, problems

    view, problems = step()
    looks = 0
    while True:
        at_once = bool(problems) and looks < LOOKS
        coming = tuple(member for member in view.decision.unaddressed if member.eni.mac not in missed)
        if not at_once and not patience.worth(view.decision._replace(unaddressed=coming)):
            break
        world.sleep(0 if at_once else POLL)
        looks += at_once
        try:
            view, problems = step()
        except MetadataError as error:
            LOG.warning("%s; what was waited for is given up", error)
            break
    _note_missed(world, view)
    return view, changes, problems


def _note_missed(world: World, view: _View) -> None:
    missed = frozenset(member.mac for member in view.decision.unfit if member.passing)
    missed |= {member.eni.mac for member in view.decision.unaddressed}
    if missed != record.load().missed:
        with record.lock(world.deadline, world.sleep):
            record.save(record.load()._replace(missed=missed))


def _listing(world: World) -> Listing:
    return retrying("a consistent answer of the metadata service", world.deadline, world.sleep)(
        lambda: parse_interfaces(world.fetch()))


def _read(run: Callable[[str, float], str], deadline: Deadline) -> Snapshot:
    return reader.snapshot(run(scripts.READ, deadline.remaining()))


def _look(world: World, listing: Listing) -> _View:
    """Read Windows, decide, compare."""
    snapshot = _read(world.run, world.deadline)
    recorded = _kept(snapshot).routes
    decision = decide(listing, snapshot, recorded, world.config)
    return _View(listing, snapshot, recorded, decision, plan(listing, decision, snapshot, recorded))


def _kept(snapshot: Snapshot) -> Record:
    """The record, where nobody else may have written it."""
    return record.load() if snapshot.folder.trusted and snapshot.folder.closed else Record()


def _make(world: World, todo: Plan, snapshot: Snapshot, kept: Record) -> Tuple[List[RouteChange], List[str]]:
    """Make the changes: those made, and what was refused. What is ours is written down before it is made."""
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
            ["{}: Windows refuses '{}': {}".format(
                change.dev or "interface {}".format(change.route.ifindex), change, error)
             for change, error in failures.items()])


def _problems(decision: Decision) -> List[str]:
    return ([unfit_text(member) for member in decision.unfit] + list(decision.problems)
            + [unaddressed_text(member) for member in decision.unaddressed])


def _has_secondaries(decision: Decision) -> bool:
    return any(not eni.primary for eni in decision.enis)


def _ours(view: _View, snapshot: Snapshot) -> List[WindowsRoute]:
    """Ours as they are now, after whatever was done."""
    return [entry.route for entry in owned(view.plan.during, snapshot)]


def _prove(world: World, questions: Sequence[proof.Question], snapshot: Snapshot) -> List[Verdict]:
    answers: List[reader.Answer] = []
    for start in range(0, len(questions), _AT_ONCE):
        part = questions[start:start + _AT_ONCE]
        script = scripts.ask([(question.dst, question.src) for question in part])
        answers += reader.answers(world.run(script, world.deadline.remaining()), len(part))
    return proof.judge(questions, answers, snapshot)


def _recall(ours: Sequence[Recorded], snapshot: Snapshot) -> Decision:
    """The ENIs that have routes of ours, as far as Windows tells of them."""
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
    sources = {eni.dev: [network_of(each) for subnet in eni.subnets for each in subnet.addresses] for eni in enis}
    return Decision(tuple(enis), (), {}, (), (), sources)


# What install puts where


def _check_root(parsed: argparse.Namespace) -> None:
    if parsed.root != "/":
        raise UsageError("--root {}: not on Windows: an image can't be given a task from outside".format(parsed.root))


def _place() -> str:
    """In Program Files, where only administrators may write; %ProgramData% is everybody's."""
    return os.path.join(os.environ.get("ProgramFiles") or r"C:\Program Files", "eni-bootstrap", _PROGRAM)


def _copy(program: str, place: str) -> None:
    """Whole or not at all."""
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.exists(place) and os.path.samefile(program, place):
            return
        shutil.copyfile(program, place + ".new")
        os.replace(place + ".new", place)
    except OSError as error:
        raise BootstrapError("can't write {}: {}".format(place, error.strerror)) from error


def _foreign_program(place: str) -> str:
    """Names a file that is there and is not ours."""
    if not os.path.lexists(place):
        return ""
    try:
        with zipfile.ZipFile(place) as archive:
            if any(name.endswith("eni_bootstrap/cli.py") for name in archive.namelist()):
                return ""
    except (OSError, zipfile.BadZipFile):
        pass
    return "{} is not ours".format(place)


def _shown_task() -> bytes:
    """The definition of the task of our name; nothing where there is none."""
    code, shown = powershell.tool(["schtasks.exe", "/Query", "/TN", task.NAME, "/XML"])
    return b"" if code else shown


def _foreign_task() -> str:
    shown = _shown_task()
    return "the task {} is not ours".format(task.NAME) if shown and not task.is_ours(shown) else ""


def _register(definition: str) -> None:
    path = os.path.join(os.path.dirname(_place()), "task.xml")  # where nobody else can write
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(definition.encode("utf-16"))
    except OSError as error:
        raise BootstrapError("can't write {}: {}".format(path, error.strerror)) from error
    try:
        _schtasks("/Create", "/TN", task.NAME, "/XML", path, "/F")
    finally:
        os.unlink(path)
        with contextlib.suppress(OSError):  # the program is there
            os.rmdir(os.path.dirname(path))


def _schtasks(*arguments: str) -> None:
    code, said = powershell.tool(["schtasks.exe"] + list(arguments))
    if code:
        raise BootstrapError("schtasks {} has failed with code {}: {}".format(
            arguments[0], code, " ".join(said.decode("ascii", "replace").split())[:200]))


def _say(lines: Sequence[str], code: int) -> int:
    return code if output.write("\n".join(lines) + "\n") else 1

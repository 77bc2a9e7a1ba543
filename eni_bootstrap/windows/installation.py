"""``install`` and ``uninstall`` on Windows: a scheduled task, and the program in a place of its own."""

import argparse
import contextlib
import os
import shutil
import sys
import time
import zipfile
from typing import Sequence

import eni_bootstrap
from eni_bootstrap.config.settings import Config
from eni_bootstrap.host import zipapp
from eni_bootstrap.model import output
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.errors import BootstrapError, UsageError
from eni_bootstrap.windows import observe, powershell, record, task

_PROGRAM = "eni-bootstrap.pyz"


def install(parsed: argparse.Namespace) -> int:
    """Have the agent run at each boot and at each change of an ENI. Returns the exit code."""
    _check_root(parsed)
    program = zipapp.path()
    place = _place()
    arguments = ["-m", "eni_bootstrap"] if not program else [place]
    definition = task.task(sys.executable, arguments + ["apply", "--unattended"])
    if parsed.dry_run:
        said = ["would write {}".format(place)] if program else []
        return 0 if output.write("\n".join(said + ["would register the task {}:".format(task.NAME), definition])) else 1
    deadline = Deadline(Config().timeout)
    snapshot = observe.administrator("install", deadline)
    for path in [sys.executable] + ([] if program else [os.path.abspath(eni_bootstrap.__file__)]):
        if not task.is_guarded(path, os.environ):
            raise BootstrapError(
                "{} lies outside Program Files, where users may be able to change what the system runs: install Python "
                "for all users there, and run install with that; or see to it that only administrators may write, and "
                "register what install --dry-run shows".format(path))
    left = [text for text in (_foreign_task(), _foreign_program(place) if program else "") if text]
    if left:
        return _say(["left as it is: " + text for text in left], 1)
    said = []
    if program:
        _copy(program, place)
        said.append("wrote {}".format(place))
    _register(definition)
    if observe.kept_record(snapshot).taken_back is not None:  # whoever installs it wants it, whatever was removed
        with record.lock(deadline, time.sleep):
            record.save(record.load()._replace(taken_back=None))
    said.append("registered the task {}; it runs at each boot, at each change of a network, and every 5 minutes".format(
        task.NAME))
    return _say(said, 0)


def uninstall(parsed: argparse.Namespace) -> int:
    """Take back what ``install`` has put there. Returns the exit code."""
    _check_root(parsed)
    place = _place()
    if parsed.dry_run:
        return _say(["would delete the task {}".format(task.NAME), "would remove {}".format(place)], 0)
    observe.administrator("uninstall", Deadline(Config().timeout))
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


def _check_root(parsed: argparse.Namespace) -> None:
    if parsed.root != "/":
        raise UsageError("--root {}: not on Windows: an image can't be given a task from outside".format(parsed.root))


def _place() -> str:
    """The program's folder in Program Files, where only administrators may write; %ProgramData% is everybody's."""
    return os.path.join(os.environ.get("ProgramFiles") or r"C:\Program Files", "eni-bootstrap", _PROGRAM)


def _copy(program: str, place: str) -> None:
    """Copy a file whole or not at all."""
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.exists(place) and os.path.samefile(program, place):
            return
        shutil.copyfile(program, place + ".new")
        os.replace(place + ".new", place)
    except OSError as error:
        raise BootstrapError("can't write {}: {}".format(place, error.strerror)) from error


def _foreign_program(place: str) -> str:
    """The name of a file that is there and is not ours."""
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
    """The definition of the task with our name; empty where there is none."""
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

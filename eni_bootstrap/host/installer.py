"""Installs files on a host, or on the root file system of an image, and removes exactly these.

The record of the files is written before the first file is, so that a run that was cut off can be undone as well. A
file that somebody else wrote, or that was edited since, is left alone and named. All files are written whole or not at
all.
"""

import contextlib
import hashlib
import json
import os
import stat
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from eni_bootstrap.host import units
from eni_bootstrap.host.rootfs import inside, outside, place
from eni_bootstrap.host.units import File
from eni_bootstrap.model.errors import BootstrapError, NotPermitted

RECORD = "/var/lib/eni-bootstrap/installed.json"

_RC_LOCAL = ("/etc/rc.d/rc.local", "/etc/rc.local")
"""Red Hat's descendants run the first, also where the second is no link to it; the others have only the second."""


class Step(NamedTuple):
    """One file's step that was, or would be, made."""

    verb: str
    """``write``, ``remove``, ``keep`` (it is as it should be), ``leave`` (it is not ours)."""
    path: str
    file: Optional[File] = None
    why: str = ""


class Record(NamedTuple):
    """The files that an installation has put on a host."""

    files: Dict[str, str]
    """Path -> fingerprint of what was written there."""
    folders: List[str]
    """Directories that did not exist before, parents first."""
    rc_local: Dict[str, Any]
    """The boot script that got our line: path, fingerprint, former text and mode (None: there was no script)."""


def install(root: str, wanted: Sequence[File], rc_local: Sequence[str] = (), dry: bool = False) -> List[Step]:
    """Install these files, and the command as a line of rc.local if one is given; files of an earlier version that are
    not among them are removed. Returns the steps; ``dry``: nothing is changed.

    Raises ``NotPermitted`` or ``BootstrapError`` when something can't be written; the record has what is there then.
    """
    record = load(root)
    wanted = [file for file in wanted if not file.only_beside or os.path.isdir(inside(root, file.only_beside))]
    steps = [_step(root, file, record) for file in wanted]
    gone = sorted(set(record.files) - {file.path for file in wanted})
    steps += [_removal(root, path, record) for path in gone]
    written = {step.path: _fingerprint_of(step.file) for step in steps if step.verb == "write" and step.file}
    kept = {step.path: _fingerprint_of(step.file) if step.verb == "keep" and step.file else record.files[step.path]
            for step in steps if step.verb in ("keep", "leave") and step.path in record.files}
    new = Record({**kept, **written}, _with_new_folders(root, record.folders, list(written) + [RECORD]),
                 record.rc_local)
    if rc_local:
        step, new = _start_by_rc_local(root, rc_local, new)
        steps.append(step)
    if dry:
        return steps
    with _said():
        _save(root, record, new._replace(files={**written, **record.files}))  # a file's former version is ours, too
        for step in steps:
            _do(root, step)
        _save(root, load(root), new)
    return steps


def uninstall(root: str, dry: bool = False) -> List[Step]:
    """Remove everything that is on record. Returns the steps; ``dry``: nothing is changed."""
    record = load(root)
    steps = [_removal(root, path, record) for path in sorted(record.files)]
    if record.rc_local:
        steps.append(_stop_by_rc_local(root, record.rc_local))
    if dry:
        return steps
    with _said():
        for step in steps:
            _do(root, step)
        if os.path.lexists(place(root, RECORD)):
            os.unlink(place(root, RECORD))
        for folder in reversed(record.folders):
            with contextlib.suppress(OSError):  # somebody else has put something in, or has removed it
                os.rmdir(place(root, folder))
    return steps


def load(root: str) -> Record:
    """The record; empty where there is none. Raises ``BootstrapError`` when it can't be read."""
    try:
        with open(inside(root, RECORD)) as handle:
            whole = json.load(handle)
        return Record(dict(whole["files"]), list(whole["folders"]), dict(whole["rc_local"]))
    except FileNotFoundError:
        return Record({}, [], {})
    except OSError as error:
        raise _unwritable(RECORD, error)
    except (ValueError, KeyError, TypeError) as error:
        raise BootstrapError("{} can't be read ({}): what was installed is not known; remove the files that `install "
                             "--dry-run` lists, and it".format(RECORD, error))


def _step(root: str, file: File, record: Record) -> Step:
    there = _fingerprint(place(root, file.path))
    if there == _fingerprint_of(file):
        return Step("keep", file.path, file)
    if there is None or there == record.files.get(file.path):
        return Step("write", file.path, file)
    return Step("leave", file.path, file, "it was edited since it was installed" if file.path in record.files
                else "it was there before, and is not ours")


def _removal(root: str, path: str, record: Record) -> Step:
    there = _fingerprint(place(root, path))
    if there is None:
        return Step("keep", path, why="it is gone already")
    if there != record.files[path]:
        return Step("leave", path, why="it was edited since it was installed")
    return Step("remove", path)


def _do(root: str, step: Step) -> None:
    here = place(root, step.path)
    if step.verb == "remove":
        os.unlink(here)
    elif step.verb == "write" and step.file:
        _make_folder(os.path.dirname(here))
        temporary = here + ".eni-bootstrap"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if step.file.target:
            os.symlink(step.file.target, temporary)
        else:
            _write(temporary, step.file)
        os.replace(temporary, here)


def _make_folder(folder: str) -> None:
    if not os.path.isdir(folder):
        _make_folder(os.path.dirname(folder))
        os.mkdir(folder)
        os.chmod(folder, 0o755)  # whatever the umask of whoever runs us


def _write(path: str, file: File) -> None:
    with open(path, "wb") as handle:
        handle.write(file.data)
        os.fchmod(handle.fileno(), file.mode)
        handle.flush()
        os.fsync(handle.fileno())  # an empty unit after a power cut would be worse than the old one


def _fingerprint(path: str) -> Optional[str]:
    """The fingerprint of what is at a path; None: nothing."""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return "link to " + os.readlink(path)
        if not stat.S_ISREG(status.st_mode):
            return "no file"
        with open(path, "rb") as handle:
            return _digest(stat.S_IMODE(status.st_mode), handle.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unwritable(path, error)


def _fingerprint_of(file: File) -> str:
    return "link to " + file.target if file.target else _digest(file.mode, file.data)


def _digest(mode: int, data: bytes) -> str:
    return "{:04o} {}".format(mode, hashlib.sha256(data).hexdigest())


def _with_new_folders(root: str, folders: List[str], paths: Sequence[str]) -> List[str]:
    """The recorded directories, and those that these paths need; the record's own directory is ours in any case."""
    new = {os.path.dirname(RECORD)}
    for path in paths:
        folder = os.path.dirname(place(root, path))
        while not os.path.isdir(folder):
            new.add(outside(root, folder))
            folder = os.path.dirname(folder)
    return folders + sorted(new - set(folders))


def _start_by_rc_local(root: str, command: Sequence[str], record: Record) -> Tuple[Step, Record]:
    path = next((path for path in _RC_LOCAL if os.path.exists(inside(root, path))), _RC_LOCAL[-1])
    here = inside(root, path)
    path = outside(root, here)
    text, mode = _read_script(here)
    wanted = File(path, units.with_start(text or "", command), (0o644 if mode is None else mode) | 0o111)
    if text is not None and _fingerprint(here) == _fingerprint_of(wanted):
        return Step("keep", path, wanted), record
    entry: Dict[str, Any] = {"path": path, "written": _fingerprint_of(wanted)}
    if record.rc_local and record.rc_local["written"] == _fingerprint(here):
        entry.update(text=record.rc_local["text"], mode=record.rc_local["mode"])
    else:
        entry.update(text=None if text is None else units.without_start(text), mode=mode)
    return Step("write", path, wanted), record._replace(rc_local=entry)


def _stop_by_rc_local(root: str, entry: Dict[str, Any]) -> Step:
    """The step that restores rc.local; where it was edited since, only our line goes."""
    path, here = entry["path"], inside(root, entry["path"])
    text, mode = _read_script(here)
    if text is None:
        return Step("keep", path, why="it is gone already")
    if _fingerprint(here) == entry["written"]:
        if entry["text"] is None:
            return Step("remove", path)
        return Step("write", path, File(path, entry["text"], entry["mode"]))
    less = units.without_start(text)
    if less == text:
        return Step("keep", path, why="our line is gone already")
    return Step("write", path, File(path, less, mode or 0o755))


def _read_script(path: str) -> Tuple[Optional[str], Optional[int]]:
    """Text and mode of a script; None where there is none. Bytes that are no UTF-8 survive (surrogateescape), and so do
    ends of lines."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
            return handle.read(), stat.S_IMODE(os.fstat(handle.fileno()).st_mode)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise _unwritable(path, error)


def _save(root: str, old: Record, new: Record) -> None:
    if new != old:
        text = json.dumps(new._asdict(), indent=1, sort_keys=True) + "\n"
        _do(root, Step("write", RECORD, File(RECORD, text)))


@contextlib.contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(error.filename or "writing", error)


def _unwritable(path: str, error: OSError) -> BootstrapError:
    message = "{}: {}".format(path, error.strerror)
    return NotPermitted(message + "; run it as root") if isinstance(error, PermissionError) else BootstrapError(message)

r"""What Windows can't remember for us, and the lock: files in %ProgramData%\eni-bootstrap.

Routes carry no owner there, so that ours are written down before they are made. Every user may create folders in
%ProgramData%: one that a user has made is put aside, and ours is closed to all but the system and its administrators.
"""

import contextlib
import errno
import json
import logging
import os
import stat
import time
from ipaddress import ip_address, ip_network
from typing import Any, Callable, Dict, FrozenSet, Iterator, NamedTuple, Optional, Sequence, Tuple, TypeVar

from eni_bootstrap.model.deadline import LOCK_POLL, Deadline, wait_for_lock
from eni_bootstrap.model.errors import BootstrapError, NotPermitted
from eni_bootstrap.windows.model import Folder, Recorded, WindowsRoute

LOG = logging.getLogger(__name__)

Tool = Callable[[Sequence[str]], Tuple[int, bytes]]
Result = TypeVar("Result")

_TRIES = 20
"""To read or replace the record: Windows refuses while somebody, ``status`` or a virus scanner, has it open, for less
than 1 s."""

_SAME_BOOT = 120
"""Seconds by which the time of one boot may seem to differ: Windows tells it by a clock that is set meanwhile."""

_SYSTEM, _ADMINISTRATORS, _USERS = "*S-1-5-18", "*S-1-5-32-544", "*S-1-5-32-545"
"""To icacls the star says that it is a SID: names of groups are translated."""

_REPARSE_POINT = 0x400  # FILE_ATTRIBUTE_REPARSE_POINT: a link or a junction


class Record(NamedTuple):
    """What is written down between runs."""

    routes: Tuple[Recorded, ...] = ()
    missed: FrozenSet[str] = frozenset()
    """MACs of ENIs for which the last run has waited in vain."""
    taken_back: Optional[int] = None
    """The boot (as in ``Snapshot``) in which ``remove`` has taken back all."""

    def is_taken_back(self, boot: int) -> bool:
        return self.taken_back is not None and abs(self.taken_back - boot) <= _SAME_BOOT


def folder() -> str:
    return os.path.join(os.environ.get("ProgramData") or r"C:\ProgramData", "eni-bootstrap")


def secure(found: Folder, tool: Tool) -> None:
    """Have the folder, closed to others; nothing that others may have put in is heeded. Raises ``BootstrapError``."""
    path = folder()
    try:
        if os.path.lexists(path) and not (found.trusted and _is_plain_folder(path)):
            aside = _aside(path)
            os.rename(path, aside)
            LOG.warning("%s was not made by an administrator; it is %s now, and nothing in it is heeded", path, aside)
        fresh = not os.path.lexists(path)
        if fresh:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.mkdir(path)
        _icacls(tool, path, "/setowner", _ADMINISTRATORS)
        _icacls(tool, path, "/inheritance:r", "/grant:r", _SYSTEM + ":(OI)(CI)F", _ADMINISTRATORS + ":(OI)(CI)F",
                _USERS + ":(OI)(CI)RX")
        doubtful = os.listdir(path) if fresh else [] if found.closed else map(os.path.basename, (_path(), _new_path()))
        for name in doubtful:
            _discard(os.path.join(path, name))
        if os.path.isdir(_lock_path()):
            _discard(_lock_path())
        with open(_lock_path(), "ab"):
            pass
        if not found.closed:  # another run may hold it; whoever has made it must not be able to hold it for ever
            _icacls(tool, _lock_path(), "/setowner", _ADMINISTRATORS)
            _icacls(tool, _lock_path(), "/reset")
        # Who may read a file may lock it.
        _icacls(tool, _lock_path(), "/inheritance:r", "/grant:r", _SYSTEM + ":F", _ADMINISTRATORS + ":F")
    except OSError as error:
        raise _unwritable(path, error)


def _discard(path: str) -> None:
    """Remove a file; put aside what is no file."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError:
        os.rename(path, _aside(path))


def _aside(path: str) -> str:
    return "{}.not-ours-{}".format(path, os.getpid())


@contextlib.contextmanager
def lock(deadline: Deadline, sleep: Callable[[float], None] = time.sleep) -> Iterator[bool]:
    """One run at a time; tells whether another one had to be waited for. Windows frees the lock whatever happens.

    Raises ``BootstrapError`` when another run holds it until the deadline.
    """
    import msvcrt  # on Windows only
    locking, at_once = getattr(msvcrt, "locking"), getattr(msvcrt, "LK_NBLCK")
    try:
        handle = open(_lock_path(), "ab")
    except OSError as error:
        raise _unwritable(_lock_path(), error)

    def try_it() -> bool:
        try:
            locking(handle.fileno(), at_once, 1)  # one byte, which need not be there
            return True
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise BootstrapError("can't lock {}: {}".format(_lock_path(), error.strerror))
            return False

    with handle:
        yield wait_for_lock(try_it, _lock_path(), deadline, sleep)


def load() -> Record:
    """What earlier runs have written down. Raises ``BootstrapError`` where that is there and can't be read."""
    try:
        content = json.loads(_patiently(_content).decode("utf-8"))
        back = content.get("taken_back")
        return Record(tuple(_entry(each) for each in content["routes"]), frozenset(map(str, content.get("missed", []))),
                      None if back is None else int(back))
    except FileNotFoundError:
        return Record()
    except OSError as error:  # what can't be read now is not forgotten: it would be somebody else's for ever
        raise BootstrapError("can't read {}: {}".format(_path(), error.strerror)) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        LOG.warning("%s can't be read (%s); which routes are ours is not known any more", _path(), error)
        return Record()


def save(record: Record) -> None:
    """Write the record, whole or not at all."""
    content: Dict[str, Any] = {"routes": [_words(entry) for entry in record.routes], "missed": sorted(record.missed),
                               "taken_back": record.taken_back}
    temporary = _new_path()
    try:
        with open(temporary, "w", encoding="utf-8") as handle:
            json.dump(content, handle, indent=1, sort_keys=True)
            handle.flush()
            os.fsync(handle.fileno())  # it outlives the boot, as the routes do
        _patiently(lambda: os.replace(temporary, _path()))
    except OSError as error:
        raise _unwritable(temporary, error)


def _content() -> bytes:
    with open(_path(), "rb") as handle:
        return handle.read()


def _patiently(do: Callable[[], Result]) -> Result:
    """Call until Windows allows it; the call's result."""
    for _ in range(_TRIES - 1):
        try:
            return do()
        except PermissionError:
            time.sleep(LOCK_POLL)
    return do()


def _entry(content: Dict[str, Any]) -> Recorded:
    route = WindowsRoute(ip_network(content["prefix"]), int(content["index"]), ip_address(content["gateway"]),
                         int(content["metric"]))
    if not route.dst.prefixlen == 0 or route.gateway.version != route.version:
        raise ValueError("{} by {} is no route of ours".format(*route[::2]))
    return Recorded(str(content["mac"]), str(content["guid"]), route)


def _words(entry: Recorded) -> Dict[str, Any]:
    route = entry.route
    return {"mac": entry.mac, "guid": entry.guid, "prefix": str(route.dst), "index": route.ifindex,
            "gateway": str(route.gateway), "metric": route.metric}


def _is_plain_folder(path: str) -> bool:
    found = os.lstat(path)
    return stat.S_ISDIR(found.st_mode) and not getattr(found, "st_file_attributes", 0) & _REPARSE_POINT


def _icacls(tool: Tool, path: str, *arguments: str) -> None:
    code, said = tool(["icacls.exe", path] + list(arguments) + ["/Q"])
    if code:
        raise BootstrapError("icacls can't close {} to others: code {}, {}".format(
            path, code, " ".join(said.decode("ascii", "replace").split())[:200]))


def _path() -> str:
    return os.path.join(folder(), "state.json")


def _new_path() -> str:
    return _path() + ".new"


def _lock_path() -> str:
    return os.path.join(folder(), "lock")


def _unwritable(path: str, error: OSError) -> BootstrapError:
    message = "can't write {}: {}".format(path, error.strerror)
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(message + "; run it as an administrator")
    return BootstrapError(message)

"""The record of what the kernel can't remember for us, and the lock: files below /run/eni-bootstrap.

A link's group, its being up and its addresses carry no owner. So their former state is written down before they are
changed. The files live as long as the kernel's own state: until the next boot.
"""

import contextlib
import errno
import fcntl
import ipaddress
import json
import logging
import operator
import os
import stat
import time
from typing import AbstractSet, Any, Callable, Dict, Iterable, Iterator, Sequence, Set, Tuple

from eni_bootstrap.config.settings import allowed
from eni_bootstrap.model.changes import Change, Numbering, Record, SettingMade
from eni_bootstrap.model.deadline import Deadline, wait_for_lock
from eni_bootstrap.model.errors import BootstrapError, NotPermitted
from eni_bootstrap.model.kernel import Link, LinkAddress, LinkGroup, LinkSetting, LinkUp, SeenAddress, Snapshot

LOG = logging.getLogger(__name__)


def directory() -> str:
    """The directory of the files: what systemd's RuntimeDirectory= gives (systemd.exec(5)), or /run/eni-bootstrap."""
    return os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or "/run/eni-bootstrap"


@contextlib.contextmanager
def lock(deadline: Deadline, sleep: Callable[[float], None] = time.sleep) -> Iterator[bool]:
    """Lock out other runs. Yields whether another run had to be waited for. The kernel frees the lock whatever happens.

    Raises ``BootstrapError`` when another run holds it until the deadline, ``NotPermitted`` without write access.
    """
    path = os.path.join(directory(), "lock")
    try:
        os.makedirs(directory(), mode=0o755, exist_ok=True)
        handle = open(_lock_file(path))
    except OSError as error:
        raise _unwritable(path, error)

    def try_it() -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise BootstrapError("can't lock {}: {}".format(path, error.strerror))
            return False

    with handle:
        yield wait_for_lock(try_it, path, deadline, sleep)


def removed_flag() -> bool:
    """Whether ``remove`` has taken back everything, and nobody has run ``apply`` since."""
    try:
        return stat.S_ISREG(os.lstat(_mark()).st_mode)
    except OSError:
        return False


def set_removed_flag() -> None:
    try:
        if not removed_flag():
            os.close(_anew(_mark()))
    except OSError as error:
        raise _unwritable(_mark(), error)


def clear_removed_flag() -> None:
    try:
        os.unlink(_mark())
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unwritable(_mark(), error)


def load(links: Sequence[Link], level: int = logging.WARNING) -> Record:
    """The record of what earlier runs changed, as far as those links are still there; empty where there is none.

    A link is known again by its index, which lasts exactly as long as the link, so that a renamed one is found.
    ``level``: the log level for what is wrong with the record. Raises ``BootstrapError`` for a record of a newer
    version: what that has made and we do not know would never be taken back.
    """
    try:
        with open(_there(_path())) as handle:
            text = handle.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError("it is larger than {} MiB".format(_LARGEST >> 20))
        content = json.loads(text)
        if operator.index(content.get("version", 0)) > _VERSION:
            raise BootstrapError("{} was written by a newer eni-bootstrap; install that one, or run its remove first"
                                 .format(_path()))
        recorded = content["links"]
        by_index = {link.ifindex: link.name for link in links}
        known = [(by_index[int(index)], entry) for index, entry in sorted(recorded.items()) if int(index) in by_index]
        return Record(
            frozenset(name for name, entry in known if entry.get("up")),
            tuple(LinkGroup(name, _group(entry["group"])) for name, entry in known if "group" in entry),
            frozenset(_address(name, text) for name, entry in known for text in entry.get("addresses", [])),
            frozenset(name for name, entry in known if entry.get("seen_up")),
            frozenset(map(str, content.get("missed", []))),
            bool(content.get("marked")),
            frozenset(name for name, entry in known if entry.get("valid_mark")),
            tuple(_numberings(content.get("numbers", []), level)),
            tuple(SettingMade(LinkSetting(name, _setting(key), int(value)), int(former)) for name, entry in known
                  for key, (value, former) in sorted(entry.get("settings", {}).items())),
            bool(content.get("kernel_marks", True)),  # a record without it is one of a version that noted nothing
            frozenset(SeenAddress(_address(name, text), int(protocol), int(set_at)) for name, entry in known
                      for text, (protocol, set_at) in entry.get(
                          "as_set", dict.fromkeys(entry.get("addresses", []), (0, _UNTOLD))).items()),
        )
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        LOG.log(level, "%s can't be read (%s); what earlier runs did to links is not known any more", _path(), error)
        return Record()


def save(made: Record, links: Sequence[Link]) -> None:
    """Write the record, whole or not at all. Raises ``BootstrapError``."""
    indexes = {link.name: str(link.ifindex) for link in links}
    entries: Dict[str, Dict[str, Any]] = {}
    for dev in sorted(made.ups):
        entries.setdefault(indexes[dev], {})["up"] = True
    for dev in sorted(made.seen_up):
        entries.setdefault(indexes[dev], {})["seen_up"] = True
    for dev in sorted(made.valid_marks):
        entries.setdefault(indexes[dev], {})["valid_mark"] = True
    for former in made.groups:
        entries.setdefault(indexes[former.dev], {})["group"] = former.group
    for done in made.settings:
        settings = entries.setdefault(indexes[done.setting.dev], {}).setdefault("settings", {})
        settings[done.setting.name] = [done.setting.value, done.former]
    as_set = {seen.held: seen[1:] for seen in made.as_set}
    for held in sorted(made.addresses, key=repr):
        entry = entries.setdefault(indexes[held.dev], {})
        text = "{}/{}{}".format(held.address, held.prefix_length, " deprecated" if held.deprecated else "")
        entry.setdefault("addresses", []).append(text)
        entry.setdefault("as_set", {}).update({text: as_set[held]} if held in as_set else {})
    temporary = _path() + ".new"
    try:
        with open(_anew(temporary), "w") as handle:
            content = {"version": _VERSION, "links": entries, "missed": sorted(made.missed), "marked": made.marked,
                       "numbers": made.numberings, "kernel_marks": made.kernel_marks}
            json.dump(content, handle, indent=1, sort_keys=True)
        os.replace(temporary, _path())
    except OSError as error:
        raise _unwritable(temporary, error)


def still_ours(made: Record, seen: Sequence[SeenAddress], protocols: AbstractSet[int]) -> Record:
    """The record without the addresses that somebody else has set anew since, or deleted and added again.

    An address is ours as long as the kernel has it as it was when we set it. Where a run was killed before it could
    write that down, the address has to carry one of our ``protocols``; when in doubt it is somebody else's.
    """
    recorded = {each.held: each for each in made.as_set}
    there = {each.held: each for each in seen}
    left: Set[LinkAddress] = set()
    as_set: Set[SeenAddress] = set()
    for address in made.addresses:
        then, now = recorded.get(address), there.get(address)
        untold = then is not None and then.set_at == _UNTOLD
        if now is None:
            left.add(address)
            as_set.update([then] if then is not None and not untold else [])
        elif then == now or untold or then is None and now.protocol in protocols:
            left.add(address)
            as_set.add(now)
    return made._replace(addresses=frozenset(left), as_set=frozenset(as_set))


def with_seen(made: Record, changes: Sequence[Change], seen: Sequence[SeenAddress]) -> Record:
    """The record with the addresses that these changes have just added, as the kernel has them now (``seen``)."""
    added = made.addresses.intersection(change.item for change in changes if isinstance(change.item, LinkAddress))
    others = {each for each in made.as_set if each.held not in added}
    return made._replace(as_set=frozenset(others.union(each for each in seen if each.held in added)))


def without_undone(made: Record, snapshot: Snapshot, groups: AbstractSet[int]) -> Record:
    """The record without changes that are not in force any more: a run that was killed could not write down that it had
    undone them. If one is in force again some day, somebody else has made it. ``groups``: our interface groups."""
    up = {link.name for link in snapshot.links if link.up}
    grouped = {link.name for link in snapshot.links if link.group in groups}
    return _with_addresses(made, made.addresses.intersection(snapshot.addresses))._replace(
        ups=made.ups & up, groups=tuple(former for former in made.groups if former.dev in grouped),
        settings=tuple(done for done in made.settings if done.setting in snapshot.settings))


def before(
    made: Record, changes: Sequence[Change], links: Sequence[Link], devs: Iterable[str], group: int,
    settings: Iterable[LinkSetting] = ()
) -> Record:
    """The record as it must be written before these changes to links are made; also notes which ``devs`` are up.

    ``settings``: the links' settings before the changes.
    """
    former = {link.name: link.group for link in links}
    added = [change.item for change in changes if change.verb != "remove"]
    addresses = {item for item in added if isinstance(item, LinkAddress)}
    recorded = {entry.dev for entry in made.groups}
    groups = tuple(LinkGroup(item.dev, former[item.dev]) for item in added
                   if isinstance(item, LinkGroup) and item.group == group and item.dev not in recorded)
    return made._replace(
        ups=made.ups | {item.dev for item in added if isinstance(item, LinkUp)},
        groups=made.groups + groups,
        addresses=made.addresses | addresses,
        as_set=frozenset(each for each in made.as_set if each.held not in addresses),
        seen_up=made.seen_up | {link.name for link in links if link.up}.intersection(devs),
        settings=_with_settings(made, [item for item in added if isinstance(item, LinkSetting)], settings),
    )


def after(made: Record, changes: Sequence[Change], group: int, undone: Iterable[Change] = ()) -> Record:
    """The record after these changes were made: without what they undid, and without addresses that were not added and
    links that were not brought up (``undone``)."""
    not_ours = {change.item for change in undone if change.verb == "add"}
    removed = [change.item for change in changes if change.verb == "remove"]
    removed += [change.item._replace(deprecated=True) for change in changes
                if change.verb == "replace" and isinstance(change.item, LinkAddress)]
    restored = {change.item.dev for change in changes
                if isinstance(change.item, LinkGroup) and change.item.group != group}
    ups = {change.item.dev for change in changes if change.verb != "remove" and isinstance(change.item, LinkUp)}
    downs = {item.dev for item in removed if isinstance(item, LinkUp)}
    still_down = {item.dev for item in not_ours if isinstance(item, LinkUp)}
    left = made.addresses - not_ours - {item for item in removed if isinstance(item, LinkAddress)}
    return _with_addresses(made, left)._replace(
        ups=made.ups - downs - still_down,
        groups=tuple(former for former in made.groups if former.dev not in restored),
        settings=tuple(done for done in made.settings if done.setting._replace(value=done.former) not in removed),
        seen_up=(made.seen_up | ups) - downs,
    )


def _with_addresses(made: Record, addresses: AbstractSet[LinkAddress]) -> Record:
    """The record with these of its addresses only."""
    return made._replace(addresses=frozenset(addresses),
                         as_set=frozenset(each for each in made.as_set if each.held in addresses))


def _with_settings(made: Record, added: Sequence[LinkSetting], present: Iterable[LinkSetting]
                   ) -> Tuple[SettingMade, ...]:
    """The settings that we made, with these added; the former value is the one before our first change."""
    found = {done.setting[:2]: done for done in made.settings}
    were = {setting[:2]: setting.value for setting in present}
    for setting in added:
        key = setting[:2]
        found[key] = SettingMade(setting, found[key].former if key in found else were[key])
    return tuple(found[key] for key in sorted(found))


# The directory may belong to the sandboxed service, a user who may do little else. What is no regular file there is
# never followed and never waited for. Everybody may read what is made: after root's run the next may be that user's.


def _new(path: str) -> int:
    """Make a file; raises ``FileExistsError`` when anything is there."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    os.fchmod(descriptor, 0o644)  # whatever the umask
    return descriptor


def _anew(path: str) -> int:
    """Make a file in the place of whatever is there, perhaps of a run that was cut off, perhaps another user's."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return _new(path)


def _there(path: str) -> int:
    """Open a regular file to read it. Raises ``_NoFile`` for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _NoFile() if error.errno in (errno.ELOOP, errno.ENXIO) else error  # a link, a socket
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _NoFile()


def _lock_file(path: str) -> int:
    """Open the lock file, or make it. It is opened to read only: so it may be root's or the sandboxed service's."""
    for _ in range(_TRIES):
        with contextlib.suppress(FileExistsError):
            return _new(path)
        try:
            return _there(path)
        except FileNotFoundError:
            continue  # somebody has just removed it
        except _NoFile:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    raise _NoFile()


class _NoFile(OSError):
    """A link, a pipe, a device … where a file should be."""

    def __init__(self) -> None:
        super().__init__(errno.EINVAL, "it is no regular file; delete it")


_TRIES = 10
"""Maximum tries for a new file: more often nobody is in the way by accident."""

_VERSION = 1
"""Of what is written; it grows when an older agent would misread it. The first records had no number, and count as
0."""

_LARGEST = 1 << 24
"""Characters of a record: 32 ENIs with 100 addresses each make a hundredth of it."""


def _mark() -> str:
    """The path of the removed flag: a file of its own, for the scripts of packages, too."""
    return os.path.join(directory(), "taken-back")


def _path() -> str:
    return os.path.join(directory(), "state.json")


_UNTOLD = -1
"""``set_at`` in a record of a version that did not write it down: what is there is ours, as it was for that version."""


def _group(number: int) -> int:
    if not 0 <= int(number) < 1 << 32:
        raise ValueError("{} is no interface group".format(number))
    return int(number)


def _setting(name: str) -> str:
    if name not in ("mtu", "rp_filter", "arp_ignore", "arp_announce"):
        raise ValueError("{} is no setting of a link".format(name))
    return name


def _numberings(recorded: Sequence[Any], level: int) -> Iterator[Numbering]:
    """The recorded numbers. Objects to remove are found by them, so numbers that no configuration may have are left
    out."""
    for numbers in recorded:
        try:
            numbering = Numbering(*map(operator.index, numbers))
        except TypeError:
            numbering = Numbering(0, 0, 0, 0)
        if allowed(numbering):
            yield numbering
        else:
            LOG.log(level, "%s: the numbers %s are out of bounds and not heeded; what was made with them, if anything, "
                    "stays", _path(), repr(numbers)[:80])


def _address(dev: str, text: str) -> LinkAddress:
    word, _, deprecated = text.partition(" ")
    interface = ipaddress.ip_interface(word)
    return LinkAddress(dev, interface.ip, interface.network.prefixlen, deprecated=bool(deprecated))


def _unwritable(path: str, error: OSError) -> BootstrapError:
    message = "can't write {}: {}".format(path, error.strerror)
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(message + "; run it as root")
    return BootstrapError(message)

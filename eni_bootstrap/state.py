"""What the kernel can't remember for us, and the lock: files below /run/eni-bootstrap.

A link's group, its being up and its addresses carry no owner, so what they were is written down before they are
changed. The files live as long as the kernel's own state: until the next boot.
"""

import contextlib
import errno
import fcntl
import ipaddress
import json
import logging
import os
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, Tuple

from eni_bootstrap.errors import BootstrapError, NotPermitted
from eni_bootstrap.model import Link, LinkAddress, LinkGroup, LinkSetting, LinkUp, Made, Numbering, SettingMade
from eni_bootstrap.plan import Change
from eni_bootstrap.retry import Deadline, wait_for_lock

LOG = logging.getLogger(__name__)


def directory() -> str:
    """Where the files are: what systemd's RuntimeDirectory= gives (systemd.exec(5)), else /run/eni-bootstrap."""
    return os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or "/run/eni-bootstrap"


@contextlib.contextmanager
def lock(deadline: Deadline, sleep: Callable[[float], None] = time.sleep) -> Iterator[bool]:
    """One run at a time; tells whether another one had to be waited for. The kernel frees the lock whatever happens.

    Raises ``BootstrapError`` when another run holds it until the deadline, ``NotPermitted`` without write access.
    """
    path = os.path.join(directory(), "lock")
    try:
        os.makedirs(directory(), mode=0o755, exist_ok=True)
        # To read only: then it does not matter whose file it is, root's or the sandboxed service's.
        handle = open(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        with contextlib.suppress(PermissionError):
            os.fchmod(handle.fileno(), 0o644)
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


def taken_back() -> bool:
    """Whether ``remove`` has taken back all, and nobody has asked for it again since."""
    return os.path.exists(_mark())


def take_back() -> None:
    try:
        open(_mark(), "w").close()
    except OSError as error:
        raise _unwritable(_mark(), error)


def ask_again() -> None:
    try:
        os.unlink(_mark())
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unwritable(_mark(), error)


def load(links: Sequence[Link]) -> Made:
    """The record of what earlier runs changed, as far as those links are still there.

    A link is known again by its index, which lasts exactly as long as the link; a renamed one is found.
    """
    try:
        with open(_path()) as handle:
            content = json.load(handle)
        recorded = content["links"]
        by_index = {link.ifindex: link.name for link in links}
        known = [(by_index[int(index)], entry) for index, entry in sorted(recorded.items()) if int(index) in by_index]
        return Made(
            frozenset(name for name, entry in known if entry.get("up")),
            tuple(LinkGroup(name, _group(entry["group"])) for name, entry in known if "group" in entry),
            frozenset(_address(name, text) for name, entry in known for text in entry.get("addresses", [])),
            frozenset(name for name, entry in known if entry.get("seen_up")),
            frozenset(map(str, content.get("missed", []))),
            bool(content.get("marked")),
            frozenset(name for name, entry in known if entry.get("valid_mark")),
            tuple(Numbering(*map(int, numbers)) for numbers in content.get("numbers", [])),
            tuple(SettingMade(LinkSetting(name, _setting(key), int(value)), int(former)) for name, entry in known
                  for key, (value, former) in sorted(entry.get("settings", {}).items())),
        )
    except FileNotFoundError:
        return Made()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        LOG.warning("%s can't be read (%s); what earlier runs did to links is not known any more", _path(), error)
        return Made()


def save(made: Made, links: Sequence[Link]) -> None:
    """Write the record, whole or not at all."""
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
    for held in sorted(made.addresses, key=str):
        texts: List[str] = entries.setdefault(indexes[held.dev], {}).setdefault("addresses", [])
        texts.append("{}/{}{}".format(held.address, held.prefix_length, " deprecated" if held.deprecated else ""))
    temporary = _path() + ".new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # of a run that was cut off, perhaps another user's
        with open(temporary, "w") as handle:
            os.fchmod(handle.fileno(), 0o644)  # root's next run may be the sandboxed service's
            content = {"links": entries, "missed": sorted(made.missed), "marked": made.marked,
                       "numbers": made.numberings}
            json.dump(content, handle, indent=1, sort_keys=True)
        os.replace(temporary, _path())
    except OSError as error:
        raise _unwritable(temporary, error)


def before(
    made: Made, changes: Sequence[Change], links: Sequence[Link], devs: Iterable[str], group: int,
    settings: Iterable[LinkSetting] = ()
) -> Made:
    """The record with what the changes are about to do to links, and with those of ``devs`` that are up.

    ``settings``: as they are before the changes.
    """
    former = {link.name: link.group for link in links}
    added = [change.item for change in changes if change.verb != "remove"]
    recorded = {entry.dev for entry in made.groups}
    groups = tuple(LinkGroup(item.dev, former[item.dev]) for item in added
                   if isinstance(item, LinkGroup) and item.group == group and item.dev not in recorded)
    return made._replace(
        ups=made.ups | {item.dev for item in added if isinstance(item, LinkUp)},
        groups=made.groups + groups,
        addresses=made.addresses | {item for item in added if isinstance(item, LinkAddress)},
        seen_up=made.seen_up | {link.name for link in links if link.up}.intersection(devs),
        settings=_with_settings(made, [item for item in added if isinstance(item, LinkSetting)], settings),
    )


def after(made: Made, changes: Sequence[Change], group: int, undone: Iterable[Change] = ()) -> Made:
    """The record without what the changes have taken back, and without addresses that were not put on their links."""
    not_ours = {change.item for change in undone if change.verb == "add" and isinstance(change.item, LinkAddress)}
    removed = [change.item for change in changes if change.verb == "remove"]
    removed += [change.item._replace(deprecated=True) for change in changes
                if change.verb == "replace" and isinstance(change.item, LinkAddress)]
    restored = {change.item.dev for change in changes
                if isinstance(change.item, LinkGroup) and change.item.group != group}
    downs = {item.dev for item in removed if isinstance(item, LinkUp)}
    return made._replace(
        ups=made.ups - downs,
        groups=tuple(former for former in made.groups if former.dev not in restored),
        addresses=made.addresses - not_ours - {item for item in removed if isinstance(item, LinkAddress)},
        settings=tuple(done for done in made.settings if done.setting._replace(value=done.former) not in removed),
        seen_up=made.seen_up - downs,
    )


def _with_settings(made: Made, added: Sequence[LinkSetting], present: Iterable[LinkSetting]) -> Tuple[SettingMade, ...]:
    """What was there before our first change is what counts."""
    found = {done.setting[:2]: done for done in made.settings}
    were = {setting[:2]: setting.value for setting in present}
    for setting in added:
        key = setting[:2]
        found[key] = SettingMade(setting, found[key].former if key in found else were[key])
    return tuple(found[key] for key in sorted(found))


def _mark() -> str:
    """A file of its own, for the scripts of packages too."""
    return os.path.join(directory(), "taken-back")


def _path() -> str:
    return os.path.join(directory(), "state.json")


def _group(number: int) -> int:
    if not 0 <= int(number) < 1 << 32:
        raise ValueError("{} is no interface group".format(number))
    return int(number)


def _setting(name: str) -> str:
    if name not in ("mtu", "rp_filter", "arp_ignore", "arp_announce"):
        raise ValueError("{} is no setting of a link".format(name))
    return name


def _address(dev: str, text: str) -> LinkAddress:
    word, _, deprecated = text.partition(" ")
    interface = ipaddress.ip_interface(word)
    return LinkAddress(dev, interface.ip, interface.network.prefixlen, deprecated=bool(deprecated))


def _unwritable(path: str, error: OSError) -> BootstrapError:
    message = "can't write {}: {}".format(path, error.strerror)
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(message + "; run it as root")
    return BootstrapError(message)

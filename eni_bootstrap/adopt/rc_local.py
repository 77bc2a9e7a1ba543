"""The boot script in which people persist what they have typed: read, and edited line by line."""

import contextlib
import os
import shutil
import stat
from typing import Dict, List, Sequence, Tuple

from eni_bootstrap.host.rootfs import inside, outside
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.host import Line, Script

MARKER = "# taken over by eni-bootstrap: "

_PLACES = ("/etc/rc.local", "/etc/rc.d/rc.local")
"""On Red Hat's descendants the first is a link to the second."""


def read(root: str = "/") -> Tuple[List[Script], List[Finding]]:
    """The boot scripts of this host, each once, and problems with those that can't be read."""
    scripts: Dict[str, Script] = {}
    problems = []
    for place in _PLACES:
        here = inside(root, place)
        try:
            if os.path.isfile(here) and here not in scripts:
                scripts[here] = Script(outside(root, here), tuple(_text(here).split("\n")))
        except OSError as error:
            problems.append(Finding.error("script-not-read", "{} can't be read ({}), so that it is not known what "
                                          "people wrote into it".format(place, error.strerror)))
    return list(scripts.values()), problems


def comment_out(root: str, lines: Sequence[Line]) -> Tuple[List[Line], List[Finding]]:
    """Put the marker in front of these lines. Returns the lines that have it now, and problems.

    All else stays as it is: mode, owner, the bytes of every other line. The file changes at once or not at all.
    """
    done: List[Line] = []
    problems = []
    for path in dict.fromkeys(line.path for line in lines):
        own = [line for line in lines if line.path == path]
        here = inside(root, path)
        try:
            parts = _text(here).split("\n")
            if any(parts[line.number - 1:line.number] != [line.text] for line in own):
                problems.append(Finding.error(
                    "script-not-written", "{} was edited just now and is left as it is".format(path), "try again"))
                continue
            for line in own:
                parts[line.number - 1] = MARKER + line.text
            _replace(here, "\n".join(parts))
            done += own
        except OSError as error:
            problems.append(Finding.error(
                "script-not-written", "{} can't be written ({}), and its lines do again at each boot what "
                "eni-bootstrap does".format(path, error.strerror)))
    return done, problems


def _text(path: str) -> str:
    """The text of a file; bytes that are no UTF-8 survive, and so do ends of lines."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
        return handle.read()


def _replace(path: str, text: str) -> None:
    temporary = path + ".eni-bootstrap"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # of a run that was cut off
    former = os.stat(path)
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(text.encode("utf-8", "surrogateescape"))
            if (former.st_uid, former.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(handle.fileno(), former.st_uid, former.st_gid)
            shutil.copystat(path, temporary)  # SELinux's label too
            os.fchmod(handle.fileno(), stat.S_IMODE(former.st_mode))
            os.utime(temporary)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise

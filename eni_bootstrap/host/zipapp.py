"""The single file from which this program may run: a zip with a member of byte code for each Python on which it starts
fast (see ``bytecode``). Its builder may not have had the host's Python.
"""

import functools
import io
import os
import pkgutil
import subprocess
import zipfile
from typing import Dict, Tuple

import eni_bootstrap
from eni_bootstrap.model.errors import BootstrapError

_PATIENCE = 300
"""Seconds for compiling: it takes one or two on a processor of today."""


def path() -> str:
    """The path of the single file, if this program runs from it; else empty."""
    archive = getattr(eni_bootstrap.__spec__.loader, "archive", "")
    return os.path.abspath(archive) if archive else ""


def byte_code(program: bytes, python: str, root: str = "/") -> Tuple[str, bytes]:
    """Name and content of the member for the Python at this path in the root file system; no content: it is there.

    Raises ``BootstrapError`` where that Python can't be run.
    """
    script = pkgutil.get_data("eni_bootstrap.host", "bytecode.py")
    assert script is not None
    try:
        done = subprocess.run(
            # In ASCII, because an old Python in an empty environment takes nothing else.
            [python, "-S", "-W", "ignore", "-c", script.decode("ascii")], input=program, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, timeout=_PATIENCE,
            preexec_fn=None if root == "/" else functools.partial(_enter, root),
            # The seed is for the order of sets, which become constants: the same bytes come out each time.
            env={"PYTHONHASHSEED": "0"})
    except subprocess.TimeoutExpired:
        raise BootstrapError("{} takes more than {} s to compile the program".format(python, _PATIENCE)) from None
    except (OSError, subprocess.SubprocessError) as error:
        raise BootstrapError("{} can't be run: {}".format(python, error)) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise BootstrapError("{} can't compile the program: {}".format(python, "".join(said) or done.returncode))
    name, _, content = done.stdout.partition(b"\n")
    return name.decode(), content


def with_members(program: bytes, members: Dict[str, bytes]) -> bytes:
    """The single file with these members, dated like the rest of it."""
    file = io.BytesIO(program)
    with zipfile.ZipFile(file, "a") as archive:
        date = archive.getinfo("__main__.py").date_time
        for name, content in members.items():
            member = zipfile.ZipInfo(name, date)
            member.external_attr = 0o100644 << 16
            archive.writestr(member, content)
    return file.getvalue()


def with_byte_code(program: bytes, python: str, root: str) -> bytes:
    """The single file with the member for this Python. Raises as ``byte_code``."""
    name, content = byte_code(program, python, root)
    return with_members(program, {name: content}) if content else program


def _enter(root: str) -> None:
    os.chroot(root)
    os.chdir("/")

"""Rendered files on standard output, or below a directory."""

import os
import tempfile
from typing import List, Sequence

from eni_bootstrap.model.errors import BootstrapError, NotPermitted
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.render.assumed_host import MADE_BY, File


def text(files: Sequence[File]) -> str:
    """One file's text as it is; several files' texts with their paths between them."""
    if not files:
        return "# nothing is needed: no secondary ENI can be set up\n"
    if len(files) == 1:
        return files[0].text
    return "\n".join("# ---- {} (mode {:04o})\n{}".format(file.path, file.mode, file.text) for file in files)


def write(files: Sequence[File], directory: str) -> List[Finding]:
    """Write each file at its place below the directory. Returns problems. Files of somebody else's stay.

    Raises ``NotPermitted``, and ``BootstrapError`` where a file can't be written.
    """
    problems = []
    for file in files:
        path = os.path.join(directory, file.path.lstrip("/"))
        try:
            if os.path.lexists(path) and not _is_ours(path):
                problems.append(Finding.error("file-in-place", "{} is there already and not made by this program: left "
                                              "alone".format(path), "move it away, or name another directory"))
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _put(path, file)
        except PermissionError as error:
            raise NotPermitted("can't write {}: {}".format(path, error.strerror))
        except OSError as error:
            raise BootstrapError("can't write {}: {}".format(path, error.strerror))
    return problems


def _put(path: str, file: File) -> None:
    """Write a file whole or not at all; what a killed run leaves begins with a dot, and no manager reads it."""
    descriptor, temporary = tempfile.mkstemp(prefix=".", dir=os.path.dirname(path))
    try:
        with open(descriptor, "w", newline=file.newline, encoding="utf-8") as handle:
            os.chmod(temporary, file.mode)  # whatever the umask
            handle.write(file.text)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def _is_ours(path: str) -> bool:
    """Whether a file is ours; a symbolic link is not: where it leads is somebody else's."""
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    with open(path, errors="replace") as handle:
        return MADE_BY in handle.read(200)

"""Rendered files on standard output, or below a directory."""

import os
from typing import List, Sequence

from eni_bootstrap.errors import BootstrapError, NotPermitted
from eni_bootstrap.render.outline import MADE_BY, File


def text(files: Sequence[File]) -> str:
    """One file as it is; several with their places between them."""
    if len(files) == 1:
        return files[0].text
    return "\n".join("# ---- {} (mode {:04o})\n{}".format(file.path, file.mode, file.text) for file in files)


def write(files: Sequence[File], directory: str) -> List[str]:
    """Put each at its place below the directory: what could not be done. What somebody else has written stays.

    Raises ``NotPermitted``, and ``BootstrapError`` where a file can't be written.
    """
    problems = []
    for file in files:
        path = os.path.join(directory, file.path.lstrip("/"))
        try:
            if os.path.lexists(path) and not _is_ours(path):
                problems.append("{}: is there already, and not made by this program: left alone".format(path))
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = path + ".new"
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode), "w",
                      newline=file.newline, encoding="utf-8") as handle:
                os.chmod(temporary, file.mode)  # whatever the umask
                handle.write(file.text)
            os.replace(temporary, path)
        except PermissionError as error:
            raise NotPermitted("can't write {}: {}".format(path, error.strerror))
        except OSError as error:
            raise BootstrapError("can't write {}: {}".format(path, error.strerror))
    return problems


def _is_ours(path: str) -> bool:
    """A link is not: where it leads is somebody else's."""
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    with open(path, errors="replace") as handle:
        return MADE_BY in handle.read(200)

"""Paths of a host whose root file system may be a folder here, as when an image is built."""

import os

from eni_bootstrap.model.errors import BootstrapError

_LINKS = 40
"""Maximum symbolic links in one path, as for the kernel (path_resolution(7))."""


def inside(root: str, path: str) -> str:
    """The path here of the host's absolute path. Symbolic links are followed as on that host: none leads out of it.

    Raises ``BootstrapError`` for links that go round in circles.
    """
    todo, done, links = path.strip("/").split("/"), os.path.abspath(root), 0
    top = done
    while todo:
        name = todo.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            done = done if done == top else os.path.dirname(done)
            continue
        here = os.path.join(done, name)
        if not os.path.islink(here):
            done = here
            continue
        links += 1
        if links > _LINKS:
            raise BootstrapError("{} is a circle of symbolic links".format(path))
        target = os.readlink(here)
        done = top if target.startswith("/") else done
        todo = target.split("/") + todo
    return done


def place(root: str, path: str) -> str:
    """Like ``inside``, but a symbolic link in the last part is not followed."""
    folder, name = os.path.split(path)
    return os.path.join(inside(root, folder), name)


def outside(root: str, path: str) -> str:
    """The host's absolute path of a path here."""
    return "/" + os.path.relpath(path, os.path.abspath(root))

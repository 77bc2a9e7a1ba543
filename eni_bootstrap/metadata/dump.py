"""A metadata tree in a file, with what was known of the host that it was saved on.

``{"meta-data": {…}, "host": {…}}``; without ``host``, inside ``latest``, or the bare ``meta-data`` will do as well, as
``curl http://100.100.100.200/2016-01-01/meta-data/all`` gives it.
"""

import json
import re
import sys
from typing import Any, Dict, NamedTuple, Tuple

from eni_bootstrap.metadata.parser import parse_interfaces
from eni_bootstrap.model.eni import Listing
from eni_bootstrap.model.errors import MetadataError, UsageError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z")
_NOBODY_S = ("lo", "all", "default")
"""What these mean is something else, here or as directories of sysctls."""


class Saved(NamedTuple):
    """What a file holds, or would."""

    tree: Dict[str, Any]
    listing: Listing
    host: Dict[str, Any]
    """``links``: MAC → name of the link; ``windows``: what PowerShell told. Empty where nothing is known."""


def text(what: Saved) -> str:
    """A file's content."""
    return json.dumps({"meta-data": what.tree, "host": what.host}, indent=1, sort_keys=True) + "\n"


def read(path: str) -> Saved:
    """A file, and what its tree says. ``-`` is standard input. Raises ``UsageError``."""
    tree, host = load(path)
    try:
        return Saved(tree, parse_interfaces(tree), host)
    except MetadataError as error:
        raise UsageError("{}: {}".format(path, error)) from error


def load(path: str) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """A file's tree, and what was known of the host: for whoever reads the tree in a way of his own."""
    try:
        if path == "-":
            content = json.load(sys.stdin)
        else:
            with open(path, "rb") as file:  # as bytes: Windows' own tools begin a file with a mark, or write UTF-16
                content = json.loads(file.read())
    except OSError as error:
        raise UsageError("{}: {}".format(path, error.strerror)) from error
    except (ValueError, RecursionError) as error:
        raise UsageError("{}: not JSON: {}".format(path, error)) from error
    host = content.get("host") if isinstance(content, dict) else None
    for name in ("latest", "meta-data"):
        if isinstance(content, dict) and name in content:
            content = content[name]
    if not isinstance(content, dict):
        raise UsageError("{}: its meta-data is no JSON object".format(path))
    return content, host if isinstance(host, dict) else {}


def links(what: Saved) -> Dict[str, str]:
    """MAC → name of the link, as far as it is known. Raises ``UsageError``.

    The kernel takes more for a name than what shells, YAML and paths have no meaning of their own for.
    """
    found = what.host.get("links")
    if not isinstance(found, dict):
        return {}
    named = {mac.lower(): name for mac, name in found.items() if name}
    for name in named.values():
        if not isinstance(name, str) or not _NAME.match(name) or name in _NOBODY_S:
            raise UsageError("host.links: {!r} is no name of an ENI's link that can be written into files".format(name))
        if list(named.values()).count(name) > 1:
            raise UsageError("host.links: {} is the name of several links".format(name))
    return named

"""Metadata files: a metadata tree, with what was known of the host on which it was saved.

The format is ``{"meta-data": {…}, "host": {…}}``. A tree without ``host``, inside ``latest``, or the bare ``meta-data``
is read as well, as ``curl http://100.100.100.200/2016-01-01/meta-data/all`` gives it.
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
"""Names that no ENI's link can have: lo is the loopback, the others are directories of sysctls."""


class Saved(NamedTuple):
    """The content of a metadata file."""

    tree: Dict[str, Any]
    listing: Listing
    host: Dict[str, Any]
    """``links``: MAC → name of the link; ``windows``: PowerShell's answers. Empty where nothing is known."""


def text(what: Saved) -> str:
    """The file's content as JSON."""
    return json.dumps({"meta-data": what.tree, "host": what.host}, indent=1, sort_keys=True) + "\n"


def read(path: str) -> Saved:
    """Read a file and parse its tree. ``-`` is standard input. Raises ``UsageError``."""
    tree, host = load(path)
    try:
        return Saved(tree, parse_interfaces(tree), host)
    except MetadataError as error:
        raise UsageError("{}: {}".format(path, error)) from error


def load(path: str) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """A file's tree and what was known of the host, for callers that parse the tree themselves. Raises ``UsageError``.
    """
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

    The kernel accepts more names than these: only names that mean nothing else to shells, YAML and paths are taken.
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

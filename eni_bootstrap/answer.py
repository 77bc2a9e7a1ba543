"""A consistent answer of the metadata service: asked for again while it contradicts itself."""

import time
from typing import Any, Callable, Dict, Tuple

from eni_bootstrap.interfaces import parse_interfaces
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.eni import Listing
from eni_bootstrap.retry import retrying

Fetch = Callable[[], Dict[str, Any]]
"""Asks the metadata service for its ``meta-data`` tree; raises ``MetadataError``."""


def consistent(fetch: Fetch, deadline: Deadline, sleep: Callable[[float], None] = time.sleep
               ) -> Tuple[Dict[str, Any], Listing]:
    """The tree, and what it says. Raises ``MetadataError``."""

    def ask() -> Tuple[Dict[str, Any], Listing]:
        tree = fetch()
        return tree, parse_interfaces(tree)

    return retrying("a consistent answer of the metadata service", deadline, sleep)(ask)

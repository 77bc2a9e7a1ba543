"""Fetch metadata: a listing that does not contradict itself, by a client that is made when it is first asked."""

import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple

from eni_bootstrap.metadata.parser import parse_interfaces
from eni_bootstrap.metadata.retry import Retrying
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.eni import Listing

if TYPE_CHECKING:
    from eni_bootstrap.metadata.client import MetadataClient

Fetch = Callable[[], Dict[str, Any]]
"""Asks the metadata service for its ``meta-data`` tree; raises ``MetadataError``."""


def consistent(fetch: Fetch, deadline: Deadline, sleep: Callable[[float], None] = time.sleep
               ) -> Tuple[Dict[str, Any], Listing]:
    """The tree and its listing. Asks again while an answer contradicts itself. Raises ``MetadataError``."""

    def ask() -> Tuple[Dict[str, Any], Listing]:
        tree = fetch()
        return tree, parse_interfaces(tree)

    return Retrying("a consistent answer of the metadata service", deadline, sleep)(ask)


class Fetcher:
    """Fetches by a client that ``make`` makes: with requests, which are half of what a run imports, and for which
    ``status`` and ``remove`` have no use."""

    def __init__(self, make: Callable[[], "MetadataClient"]) -> None:
        self._make = make
        self._client: Optional["MetadataClient"] = None

    def fetch(self) -> Dict[str, Any]:
        """A ``Fetch``."""
        if self._client is None:
            self._client = self._make()
        return self._client.fetch()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

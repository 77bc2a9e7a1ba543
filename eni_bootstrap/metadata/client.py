"""The HTTP client of the metadata service. What the answers mean is the business of ``parser``.

The work runs in a daemon thread which is left behind at the deadline: the time-outs of sockets start anew with every
byte, so against a server that sends one byte a second nothing else holds.
"""

import collections
import errno
import http.client
import json
import logging
import queue
import re
import socket
import threading
import time
from typing import (
    AbstractSet, Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type, TypeVar,
)
from urllib.parse import quote, urlsplit

import requests

from eni_bootstrap.config.settings import Config
from eni_bootstrap.metadata.parser import LEAVES, VSWITCH_ID, leaves_told
from eni_bootstrap.metadata.retry import FIRST_PAUSE, Retrying
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.errors import MetadataError, NotReady, UsageError

LOG = logging.getLogger(__name__)

TOKEN = "/latest/api/token"
TOKEN_HEADER = "X-aliyun-ecs-metadata-token"
ALL = "/2016-01-01/meta-data/all"  # cloud-init asks under this version, so it is known to be there
MAC = "/latest/meta-data/mac"
MACS = "/latest/meta-data/network/interfaces/macs/"

TOKEN_SECONDS = 600
"""Lifetime of a token: ten runs of the default deadline. A longer run gets a new token when this one is refused."""

CONNECT_SECONDS = 2.0
"""Time-out of a connection: the service is one hop away on the host; a connection that takes longer lost its SYN."""

READ_SECONDS = 5.0
"""Time-out between two pieces of an answer; cloud-init's value for this service."""

MAX_CONNECTIONS = 8
"""Maximum connections: the client needs half a millisecond of CPU for a request, so that more gain nothing (measured).
"""

MAX_BYTES = 4 * 1024 * 1024
"""Largest answer: 32 ENIs with 50 IPv4 and 50 IPv6 addresses and 1 KiB of other leaves are some 150 KiB; this is 25
times as much."""

_TOKEN_SHAPE = re.compile(r"[!-~]{1,4096}\Z")
"""A token that fits into a header; an error page does not."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class _NoContact(NotReady):
    """The service gave no answer at all, so the way to it may be the cause."""


class _Failing(NotReady):
    """The service answered that it fails (5xx): all of it, or this one path."""


class _Answer(NamedTuple):
    url: str
    status: int
    text: str


class _Session(requests.Session):
    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False  # http_proxy is obeyed otherwise, and a proxied token request is refused by the service
        self.headers["Accept-Encoding"] = "identity"  # some KiB over a link of Gbit/s; and no bomb to unpack

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Even with ``allow_redirects=False`` requests looks at the target, and reads the body without bound for it."""


class MetadataClient:
    """Reads the ``meta-data`` tree, within one deadline for all requests.

    ``ipv6_url``: the service's URL for hosts that have IPv6 only, which ``ipv6_only`` tells. ``leaves``: the leaves of
    an ENI that are fetched where the service has to be asked leaf by leaf.
    """

    def __init__(
        self, base_url: str, deadline: Deadline, sleep: Callable[[float], None] = time.sleep, ipv6_url: str = "",
        ipv6_only: Callable[[], bool] = lambda: False, leaves: AbstractSet[str] = LEAVES
    ) -> None:
        self._leaves = leaves
        self._base = _checked(base_url)
        self._ipv6_url = ipv6_url and _checked(ipv6_url)
        self._ipv6_only = ipv6_only
        self._deadline = deadline
        self._sleep = sleep
        self._retrying = Retrying("the metadata service", deadline, sleep)
        self._sessions: List[_Session] = []
        self._token: Optional[Dict[str, str]] = None  # as a header; None: not asked for yet; empty: none to be had
        self._token_lock = threading.Lock()
        self._has_all = True
        self._trouble: NotReady = _NoContact(f"{self._base}: no time to ask")  # what to say if time were up now

    def fetch(self) -> Dict[str, Any]:
        """The tree as it is now, at least ``mac`` and ``network.interfaces.macs`` with the leaves.

        Raises ``MetadataError``.
        """
        outcome: "queue.Queue[Tuple[Optional[Dict[str, Any]], Optional[BaseException]]]" = queue.Queue()

        def work() -> None:
            try:
                outcome.put((self._fetch(), None))
            except BaseException as error:  # comes out below, in the thread that waits for it
                outcome.put((None, error))

        threading.Thread(target=work, name="metadata", daemon=True).start()
        try:
            tree, error = outcome.get(timeout=self._deadline.remaining())
        except queue.Empty:
            tree, error = None, self._trouble
        if isinstance(error, NotReady):
            raise self._gave_up(error) from error
        if error:
            raise error
        assert tree is not None
        return tree

    def close(self) -> None:
        for session in self._sessions:
            session.close()

    def _gave_up(self, error: NotReady) -> MetadataError:
        advice = ""
        if isinstance(error, _NoContact):
            host = urlsplit(self._base).netloc
            advice = f"; is a firewall, a VPN or Tailscale (100.64.0.0/10) between this machine and {host}?"
        return MetadataError(f"no metadata: {error}; gave up after {self._deadline.seconds:g} s{advice}")

    # -- what is asked --

    def _fetch(self) -> Dict[str, Any]:
        session = next(self._each_session())
        if self._token is None:
            self._token = self._retrying(self._first_token, session)
        return self._all(session) or self._walk(session)

    def _all(self, session: _Session) -> Optional[Dict[str, Any]]:
        """The whole tree by one request; None where the service has none, or one that is not the expected JSON."""
        if not self._has_all:
            return None
        half = self._deadline.part(0.5)

        def attempt() -> Optional[_Answer]:
            try:
                return self._try_get(session, ALL)
            except _Failing:
                if half.expired:
                    return None
                raise

        answer = self._retrying(attempt)
        if answer is None:
            LOG.warning("%s: nothing but failures; reading leaf by leaf", self._base + ALL)
            return None
        if answer.status != 200:
            LOG.info("%s: %d; reading leaf by leaf", answer.url, answer.status)
            self._has_all = False
            return None
        try:
            tree: Dict[str, Any] = json.loads(answer.text)
            if isinstance(tree["mac"], str) and isinstance(tree["network"]["interfaces"]["macs"], dict):
                return tree
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        LOG.warning("%s: not the expected JSON; reading leaf by leaf", answer.url)
        return None

    def _walk(self, session: _Session) -> Dict[str, Any]:
        mac = self._leaf(session, MAC) or ""
        names = _lines(self._leaf(session, MACS))
        listings = self._listed([_macs_path(name) for name in names])
        wanted = [
            (name, leaf) for name, listing in zip(names, listings) for leaf in _lines(listing) if leaf in self._leaves
        ]
        told: Dict[str, Dict[str, Optional[str]]] = {name: {} for name in names}
        for (name, leaf), body in zip(wanted, self._listed([_macs_path(*pair) for pair in wanted])):
            told[name][leaf] = body
        macs = {name: leaves_told(leaves) for name, leaves in told.items()}
        return {"mac": mac, "network": {"interfaces": {"macs": macs}}}

    def _listed(self, paths: Sequence[str]) -> List[Optional[str]]:
        """The texts at paths that a listing has just named. What is missing or empty is asked for once more: from a
        single such answer nothing follows."""
        found = self._side_by_side(self._leaf, paths)
        without = [place for place, text in enumerate(found) if not text]
        if without:
            self._sleep(FIRST_PAUSE)
            for place, text in zip(without, self._side_by_side(self._leaf, [paths[place] for place in without])):
                found[place] = text
        return found

    def _leaf(self, session: _Session, path: str) -> Optional[str]:
        """A leaf's text; None where there is no such leaf (404)."""
        answer = self._get(session, path)
        if answer.status not in (200, 404):
            raise MetadataError(f"GET {answer.url}: {_status(answer.status)}")
        return answer.text.strip() if answer.status == 200 else None

    def _side_by_side(self, function: Callable[[_Session, Item], Result], items: Sequence[Item]) -> List[Result]:
        """``function(session, item)`` of all items, over at most ``MAX_CONNECTIONS``; the first error ends it."""
        todo: Deque[Tuple[int, Item]] = collections.deque(enumerate(items))
        results: Dict[int, Result] = {}
        errors: List[BaseException] = []

        def work(session: _Session) -> None:
            while not errors:
                try:
                    index, item = todo.popleft()
                except IndexError:
                    return
                try:
                    results[index] = function(session, item)
                except BaseException as error:  # comes out below
                    errors.append(error)

        sessions = [session for session, _ in zip(self._each_session(), items)]
        threads = [threading.Thread(target=work, args=(session,), daemon=True) for session in sessions[1:]]
        for thread in threads:
            thread.start()
        for session in sessions[:1]:
            work(session)
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return [results[index] for index in range(len(items))]

    def _each_session(self) -> Iterator[_Session]:
        """A session for each connection: a session shared by threads is slower, and not promised to be safe."""
        for number in range(MAX_CONNECTIONS):
            if number == len(self._sessions):
                self._sessions.append(_Session())
            yield self._sessions[number]

    # -- one request --

    def _get(self, session: _Session, path: str) -> _Answer:
        return self._retrying(self._try_get, session, path)

    def _try_get(self, session: _Session, path: str) -> _Answer:
        answer = None
        while answer is None:
            token = self._token or {}
            answer = self._exchange(session, "GET", path, token)
            if answer.status == 401:
                answer = self._get_with_new_token(session, path, token)
        if answer.status == 403:
            why = "disabled for this instance?" if self._token else "hardened-only or disabled, and it gave us no token"
            raise MetadataError(f"GET {answer.url}: 403, the metadata service is {why} (HttpTokens, HttpEndpoint)")
        return answer

    def _get_with_new_token(self, session: _Session, path: str, refused: Dict[str, str]) -> Optional[_Answer]:
        """The answer, or None if another thread has got a new token meanwhile, which the caller tries first.

        The first use of a token is in the lock, too: nobody else can have used it up, so a 401 is the last word.
        """
        with self._token_lock:
            if self._token != refused:
                return None
            token = self._new_token(session)
            answer = self._exchange(session, "GET", path, token)
            if answer.status == 401:
                raise MetadataError(f"GET {answer.url}: 401, even a fresh token is refused")
            self._token = token
            return answer

    def _first_token(self, session: _Session) -> Dict[str, str]:
        """The first token. Without any contact a host that has no IPv4 asks by IPv6; whether it has is checked only
        then.

        A boot whose IPv4 comes later goes back to IPv4 at the next try, unless the service has answered by IPv6.
        """
        try:
            return self._new_token(session)
        except _NoContact:
            if not (self._ipv6_url and self._ipv6_only()):
                raise
            usual, self._base = self._base, self._ipv6_url
            try:
                token = self._new_token(session)
                if token:
                    return token
            except MetadataError as error:
                LOG.debug("%s", error)
            self._base = usual
            raise

    def _new_token(self, session: _Session) -> Dict[str, str]:
        answer = self._exchange(session, "PUT", TOKEN, {TOKEN_HEADER + "-ttl-seconds": str(TOKEN_SECONDS)})
        if answer.status in (403, 404, 405):
            LOG.info("PUT %s: %d; going without a token", answer.url, answer.status)
            return {}
        if answer.status != 200:
            raise MetadataError(f"PUT {answer.url}: {_status(answer.status)}")
        token = answer.text.strip()
        if not _TOKEN_SHAPE.match(token):
            raise NotReady(f"PUT {answer.url}: the answer is not a token")
        return {TOKEN_HEADER: token}

    def _exchange(self, session: _Session, method: str, path: str, headers: Dict[str, str]) -> _Answer:
        """Send one request. Returns the answer; only one with status 200 has a text."""
        url = self._base + path
        left = self._deadline.remaining()
        if not left:
            raise self._trouble
        self._trouble = _NoContact(f"{method} {url}: timed out, the answer is not complete")
        try:
            return _send(session, method, url, headers, (min(CONNECT_SECONDS, left), min(READ_SECONDS, left)))
        except NotReady as error:
            self._trouble = error
            raise


def client_of(
    config: Config, deadline: Deadline, ipv6_only: Callable[[], bool], every_leaf: bool = False
) -> MetadataClient:
    """A client as the configuration says; the caller closes it. ``every_leaf``: fetch also the vSwitch's id where the
    configuration names no ENI by it."""
    return MetadataClient(config.metadata_url, deadline, ipv6_url=config.metadata_url_ipv6, ipv6_only=ipv6_only,
                          leaves=LEAVES | {VSWITCH_ID} if config.names_enis or every_leaf else LEAVES)


def _send(session: _Session, method: str, url: str, headers: Dict[str, str], timeout: Tuple[float, float]) -> _Answer:
    try:
        with session.request(
            method, url, headers=headers, timeout=timeout, allow_redirects=False, stream=True
        ) as response:
            status = response.status_code
            if 300 <= status < 400:
                target = response.headers.get("Location", "nowhere")
                raise MetadataError(f"{method} {url}: redirected to {target!r}, and we never follow")
            if status == 429 or status >= 500:
                raise (NotReady if status == 429 else _Failing)(f"{method} {url}: {_status(status)}")
            return _Answer(url, status, _text(response) if status == 200 else "")
    except MetadataError:
        raise
    except requests.exceptions.InvalidURL as error:
        raise UsageError(f"{url}: {error}") from error
    except Exception as error:  # mostly requests' own, but urllib3's and http.client's get through here and there
        kind, words = _in_words(error)
        raise kind(f"{method} {url}: {words}") from error


def _text(response: requests.Response) -> str:
    body = bytearray()
    for piece in response.iter_content(65536):
        body += piece
        if len(body) > MAX_BYTES:
            raise MetadataError(f"{response.url}: the answer is too large, more than {MAX_BYTES >> 20} MiB")
    promised = response.headers.get("Content-Length")
    if promised and len(body) < int(promised):  # urllib3 before 2.0 does not look
        raise http.client.IncompleteRead(bytes(body))
    return body.decode("utf-8", "replace")


def _in_words(error: BaseException) -> Tuple[Type[NotReady], str]:
    """The kind of an error, and its cause in words for an operator: requests wraps it three or four times over."""
    causes = list(_causes(error))
    numbers = {cause.errno for cause in causes if isinstance(cause, OSError)}

    def has(*kinds: Type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if errno.ECONNREFUSED in numbers:
        return _NoContact, "connection refused"
    if numbers & {errno.ENETUNREACH, errno.EHOSTUNREACH}:
        return _NoContact, "network is unreachable"
    if numbers & {errno.EPERM, errno.EACCES}:
        return _NoContact, "forbidden by this machine's own firewall"
    if errno.ETIMEDOUT in numbers or has(socket.timeout, requests.exceptions.Timeout):
        return _NoContact, "timed out"
    if has(socket.gaierror):
        return _NoContact, "there is no host of this name"
    if has(ConnectionError, http.client.IncompleteRead):
        return _NoContact, "connection dropped before the end of the answer"
    return NotReady, f"the answer is not proper HTTP ({type(error).__name__})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    todo: List[Any] = [error]
    seen: List[Any] = []
    while todo:
        cause = todo.pop()
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            yield cause
            todo += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def _checked(base_url: str) -> str:
    base = base_url.rstrip("/")
    try:
        parts = urlsplit(base)
        parts.port  # is judged only when it is asked for
        if parts.scheme in ("http", "https") and parts.netloc and not re.search(r"[\s?#]", base_url):
            requests.Request("GET", base + MAC).prepare()
            return base
    except (ValueError, requests.RequestException):
        pass
    raise UsageError(f"{base_url!r} is not the URL of a metadata service; one is http://100.100.100.200")


def _lines(listing: Optional[str]) -> List[str]:
    """The names in a directory listing, each once; directories may or may not end with a slash."""
    names = dict.fromkeys(line.strip().rstrip("/") for line in (listing or "").splitlines())
    return [name for name in names if name not in ("", ".", "..")]


def _macs_path(mac: str, leaf: str = "") -> str:
    return f"{MACS}{quote(mac, safe=':')}/{quote(leaf)}"


def _status(status: int) -> str:
    return f"{status} {http.client.responses.get(status, '')}".strip()

"""Alibaba Cloud's metadata service as a real HTTP server on this machine, with every fault we know of to switch on.

``MetadataService`` decides what is answered, ``_Connection`` how it goes over the wire, ``Faults`` says what is broken.
"""

import json
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple, Union
from urllib.parse import unquote, urlsplit

TOKEN_PATH = "/latest/api/token"
VERSIONS = ("2016-01-01", "latest")

NOT_FOUND_PAGE = (
    '<?xml version="1.0" encoding="iso-8859-1"?>\n'
    '<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">\n'
    " <head><title>404 - Not Found</title></head>\n <body><h1>404 - Not Found</h1></body>\n</html>\n"
)


class Faults:
    """What is wrong with the service; every attribute can be changed while it runs."""

    # who may ask
    hardened = False
    """Answer only with a token ("security-hardened mode")."""
    disabled = False
    """403 to everything, as ``HttpEndpoint=disabled``."""
    token_status = 200
    """Another number: the token endpoint answers with it (404, 405: a site without tokens)."""
    token_uses: Optional[int] = None
    """A token is good for so many requests."""
    token_seconds: Optional[float] = None
    """A token is good for so long, whatever the client asks for."""

    # answers
    always: Optional[int] = None
    """This status to every request."""
    fail_first = 0
    """So many requests get ``fail_status``; counts down."""
    fail_status = 503
    redirect: Optional[str] = None
    """302 to this URL."""
    all_answer: Union[None, int, str] = None
    """For ``meta-data/all``: a status, or a body instead of the right one."""

    # the wire
    not_before = 0.0
    """Connections are refused for so many seconds after ``start()``."""
    drop_first = 0
    """So many connections are closed without an answer; counts down."""
    delay = 0.0
    """Seconds before each answer."""
    stall = False
    """Take the request and never answer."""
    drip: Optional[float] = None
    """Seconds between two bytes of a body."""
    drip_headers = False
    """Drip the head as well."""
    endless = False
    """A body that never ends."""
    huge = 0
    """Pad every body with spaces to so many bytes."""
    garbage = b""
    """These bytes instead of an HTTP answer."""
    keep_alive = False
    """Otherwise ``Connection: close`` after each answer, as the documentation describes it."""

    # spelling
    trailing_newline = False
    listing_slash = True
    crlf = False
    macs_reversed = False

    # ENIs on their way in or out
    missing: Dict[str, Iterable[str]] = {}
    """MAC → leaves that are not there (404)."""
    still_listed = False
    """The missing leaves stay in the MAC's directory listing."""
    empty: Dict[str, Iterable[str]] = {}
    """MAC → leaves that are there and empty (200)."""
    instead: Dict[str, List["Answer"]] = {}
    """End of a path → what the next requests for it are answered with; used up."""
    detaching: Iterable[str] = ()
    """MACs that are listed while everything below them is 404."""
    late: Dict[str, float] = {}
    """MAC → seconds after ``start()`` at which it shows up."""
    late_requests: Dict[str, int] = {}
    """MAC → number of requests after which it shows up."""

    def __init__(self, **faults: Any) -> None:
        for name, value in faults.items():
            if not hasattr(Faults, name):
                raise TypeError(f"no such fault: {name}")
            setattr(self, name, value)


class Request(NamedTuple):
    """One request that arrived."""

    method: str
    path: str
    headers: Dict[str, str]
    """The ``X-…`` headers, names in lower case."""


class Answer(NamedTuple):
    """What goes back."""

    status: int
    body: str = ""
    headers: Tuple[Tuple[str, str], ...] = ()


NOT_FOUND = Answer(404, NOT_FOUND_PAGE, (("Content-Type", "text/html"),))


class MetadataService:
    """A metadata service that serves ``tree``, the nested dict below ``meta-data``.

    An object is a directory, text a leaf; any other value is one too, and is served as its JSON.

    The socket is bound by the constructor, hence in the network namespace of the thread that calls it.
    It listens from ``start()`` on: before that, and after ``close()``, connections are refused.
    """

    def __init__(self, tree: Dict[str, Any], address: Tuple[str, int] = ("127.0.0.1", 0), **faults: Any) -> None:
        self.tree = tree
        self.user_data: Optional[str] = None
        """What the operator gave the instance; beside ``meta-data``."""
        self.faults = Faults(**faults)
        self.requests: List[Request] = []
        self.connections = 0
        self.max_open = 0
        self.stopping = threading.Event()
        self._open: Set[socket.socket] = set()
        self._ending: Set[socket.socket] = set()
        self.clock: Callable[[], float] = time.monotonic
        """The seconds by which tokens expire."""
        self._tokens: Dict[str, "_Token"] = {}
        self._lock = threading.RLock()
        self._thread: Optional[threading.Thread] = None
        self._started = time.monotonic()
        self._server = _Server(address, self)

    @property
    def url(self) -> str:
        host, port = map(str, self._server.server_address[:2])
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def age(self) -> float:
        """Seconds since ``start()``, in which ``Faults.late`` counts."""
        return time.monotonic() - self._started

    def start(self) -> "MetadataService":
        self._started = time.monotonic()
        if not self.faults.not_before:
            self._server.server_activate()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def _serve(self) -> None:
        if self.faults.not_before:
            if self.stopping.wait(self.faults.not_before):
                return
            self._server.server_activate()
        while not self.stopping.is_set():
            self._server.handle_request()

    def close(self) -> None:
        """End at once: open connections are cut, the port is refused from now on."""
        self.stopping.set()
        if self._thread:
            self._thread.join()
        self._server.server_close()
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the client was faster
        # The threads of the connections close their own sockets: give them the moment which that takes.
        give_up = time.monotonic() + 1
        while self._open and time.monotonic() < give_up:
            time.sleep(0.001)

    def __enter__(self) -> "MetadataService":
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def paths(self, method: str = "GET") -> List[str]:
        """The paths that were asked for, in order of arrival."""
        return [request.path for request in list(self.requests) if request.method == method]

    # -- what is answered --

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            if self.faults.redirect:
                return Answer(302, headers=(("Location", self.faults.redirect),))
            if self.faults.always:
                return Answer(self.faults.always)
            if self.count_down("fail_first"):
                return Answer(self.faults.fail_status)
            if self.faults.disabled:
                return Answer(403)
            if request.path == TOKEN_PATH:
                return self._new_token(request)
            if request.method != "GET":
                return Answer(405)
            refusal = self._refusal(request.headers.get("x-aliyun-ecs-metadata-token"))
            return refusal or self._instead(request.path) or self._content(request.path)

    def count_down(self, fault: str) -> bool:
        with self._lock:
            left: int = getattr(self.faults, fault)
            setattr(self.faults, fault, max(0, left - 1))
            return left > 0

    def _new_token(self, request: Request) -> Answer:
        if self.faults.token_status != 200:
            return Answer(self.faults.token_status)
        if request.method != "PUT":
            return Answer(405)
        if "x-forwarded-for" in request.headers:
            return Answer(403)
        ttl = request.headers.get("x-aliyun-ecs-metadata-token-ttl-seconds", "")
        if not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
            return Answer(400)
        seconds = float(ttl) if self.faults.token_seconds is None else self.faults.token_seconds
        token = f"token-{len(self._tokens) + 1}"
        self._tokens[token] = _Token(self.clock() + seconds, self.faults.token_uses)
        return Answer(200, token)

    def _refusal(self, token: Optional[str]) -> Optional[Answer]:
        if token is None:
            return Answer(403) if self.faults.hardened else None
        return None if token in self._tokens and self._tokens[token].use(self.clock()) else Answer(401)

    def _instead(self, path: str) -> Optional[Answer]:
        ready = [answers for end, answers in self.faults.instead.items() if answers and path.endswith(end)]
        return ready[0].pop(0) if ready else None

    def _content(self, path: str) -> Answer:
        names = [unquote(name) for name in path.split("/") if name]
        if not names:
            return Answer(200, "\n".join(VERSIONS))
        if names[0] not in VERSIONS:
            return NOT_FOUND
        if names[1:] == ["meta-data", "all"]:
            return self._all()
        node: Any = {"meta-data": self._visible(self.faults.still_listed)}
        if self.user_data is not None:
            node["user-data"] = self.user_data
        for name in names[1:]:
            if not isinstance(node, dict) or name not in node:
                return NOT_FOUND
            node = node[name]
        if node is None:
            return NOT_FOUND
        if isinstance(node, dict):
            return Answer(200, self._listing(node))
        text = node if isinstance(node, str) else json.dumps(node, separators=(",", ":"))
        return Answer(200, text + "\n" * self.faults.trailing_newline)

    def _all(self) -> Answer:
        if isinstance(self.faults.all_answer, int):
            return NOT_FOUND if self.faults.all_answer == 404 else Answer(self.faults.all_answer)
        tree = self._visible(still_listed=False)
        macs = _macs(tree)
        macs.update({mac: {} for mac, leaves in macs.items() if leaves is None})
        return Answer(200, json.dumps(tree) if self.faults.all_answer is None else self.faults.all_answer)

    def _listing(self, directory: Dict[str, Any]) -> str:
        newline = "\r\n" if self.faults.crlf else "\n"
        # A detaching MAC has no object any more, but is listed as the directory that it was; no leaf has a colon.
        slash = {name for name, node in directory.items() if isinstance(node, dict) or ":" in name}
        if not self.faults.listing_slash:
            slash = set()
        return newline.join(name + "/" * (name in slash) for name in directory) + newline * self.faults.trailing_newline

    def _visible(self, still_listed: bool) -> Dict[str, Any]:
        """The tree as it can be seen now; ``None`` stands for what is listed but can't be read."""
        tree: Dict[str, Any] = json.loads(json.dumps(self.tree))
        macs = _macs(tree)
        faults = self.faults
        for mac, seconds in faults.late.items():
            if time.monotonic() < self._started + seconds:
                macs.pop(mac, None)
        for mac, requests in faults.late_requests.items():
            if len(self.requests) <= requests:
                macs.pop(mac, None)
        for mac, leaves in faults.missing.items():
            for leaf in leaves:
                if macs.get(mac, {}).pop(leaf, None) is not None and still_listed:
                    macs[mac][leaf] = None
        for mac, leaves in faults.empty.items():
            macs.get(mac, {}).update({leaf: "" for leaf in leaves})
        for mac in faults.detaching:
            macs[mac] = None
        if faults.macs_reversed:
            items = list(macs.items())
            macs.clear()
            macs.update(reversed(items))
        return tree

    # -- for the connections --

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            self._open.add(connection)
            self.max_open = max(self.max_open, len(self._open - self._ending))

    def ending(self, connection: socket.socket) -> None:
        """The last answer goes out: the client may open its next connection before this one is closed here."""
        with self._lock:
            self._ending.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)
            self._ending.discard(connection)


def _macs(tree: Dict[str, Any]) -> Dict[str, Any]:
    macs: Dict[str, Any] = tree.get("network", {}).get("interfaces", {}).get("macs", {})
    return macs


class _Token:
    def __init__(self, expires: float, uses: Optional[int]) -> None:
        self.expires = expires
        self.uses = uses

    def use(self, now: float) -> bool:
        if self.uses is not None:
            self.uses -= 1
        return now < self.expires and (self.uses is None or self.uses >= 0)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128
    timeout = 0.02
    """``handle_request`` looks up so often: the time in which ``close()`` is noticed."""

    def __init__(self, address: Tuple[str, int], service: MetadataService) -> None:
        self.service = service
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Connection, bind_and_activate=False)
        try:
            self.server_bind()
        except OSError:
            self.server_close()
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        self.service.opened(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.service.closed(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are what this server is for."""


class _Connection(BaseHTTPRequestHandler):
    """One connection; the faults of the wire."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        if not self.server.service.count_down("drop_first"):
            super().handle()

    def do_GET(self) -> None:
        service, faults = self.server.service, self.server.service.faults
        headers = {name.lower(): value for name, value in self.headers.items() if name.lower().startswith("x-")}
        answer = service.answer(Request(self.command, urlsplit(self.path).path, headers))
        service.stopping.wait(1e6 if faults.stall else faults.delay)
        if service.stopping.is_set():
            self.close_connection = True
        elif faults.garbage:
            self.wfile.write(faults.garbage)
            self.close_connection = True
        else:
            self._send(answer)

    do_PUT = do_POST = do_HEAD = do_GET

    def _send(self, answer: Answer) -> None:
        faults = self.server.service.faults
        body = answer.body.encode("utf-8", "surrogateescape").ljust(faults.huge)
        if not faults.keep_alive:
            self.close_connection = True
        headers = dict((("Content-Type", "text/plain"),) + answer.headers)
        headers["Connection"] = "close" if self.close_connection else "keep-alive"
        if not faults.endless:
            headers["Content-Length"] = str(len(body))
        lines = [f"HTTP/1.1 {answer.status} {self.responses.get(answer.status, ('Unknown',))[0]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if faults.drip_headers:
            head, body = b"", head + body
        if self.close_connection:
            self.server.service.ending(self.connection)
        self.wfile.write(head)
        for piece in [body] if faults.drip is None else [bytes([byte]) for byte in body]:
            self.wfile.write(piece)
            if faults.drip is not None and self.server.service.stopping.wait(faults.drip):
                return
        while faults.endless and not self.server.service.stopping.wait(faults.drip or 0):
            self.wfile.write(b" " if faults.drip else b" " * 65536)

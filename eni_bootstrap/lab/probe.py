"""Real packets from a namespace: does an answer come back? Every question ends after its time-out."""

import os
import selectors
import socket
import struct
import threading
import time
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Callable, Iterator, List, Optional, Tuple, Union

from eni_bootstrap.lab import wire
from eni_bootstrap.lab.namespace import Namespace
from eni_bootstrap.model.kernel import Address

TIMEOUT = 5.0
"""Seconds. An answer takes a millisecond, or as long as other work holds the processors. Whoever expects silence gives
a shorter time."""
ECHO_PORT = 7

_AGAIN = 0.5
"""Seconds until a datagram without an answer is sent once more: a full queue drops it. TCP does so by itself."""

Where = Union[str, Address]

_IP_PKTINFO = 8
_IPV6_RECVPKTINFO = 49
_DATAGRAM = 65535
_NO_ANSWER = OSError
"""A time-out is one too, and so is the kernel saying at once that there is no way: all the same to whoever asks."""


def ping(
    namespace: Namespace,
    dst: Where,
    src: Optional[Where] = None,
    device: Optional[str] = None,
    timeout: float = TIMEOUT,
) -> Optional[float]:
    """Milliseconds until the echo came back from exactly this address; None: it did not."""
    to = ip_address(str(dst))
    identifier, nonce = os.urandom(2), os.urandom(8)
    with _socket(namespace, to.version, socket.SOCK_RAW, src, device) as pinging:

        def send() -> None:
            pinging.sendto(echo_request(to.version, identifier, nonce), (str(to), 0))

        def is_answer() -> bool:
            data, source = pinging.recvfrom(_DATAGRAM)
            return echoed(to.version, data, identifier) == nonce and _same(source[0], to)

        started = time.monotonic()
        return (time.monotonic() - started) * 1000 if _answered(pinging, send, is_answer, timeout) else None


def tcp(
    namespace: Namespace,
    dst: Where,
    port: int = ECHO_PORT,
    src: Optional[Where] = None,
    device: Optional[str] = None,
    timeout: float = TIMEOUT,
) -> bool:
    """Did a TCP connection come about, and did it echo?"""
    nonce = os.urandom(8)
    with _socket(namespace, ip_address(str(dst)).version, socket.SOCK_STREAM, src, device) as talking:
        talking.settimeout(timeout)
        try:
            talking.connect((str(dst), port))
            talking.sendall(nonce)
            answered = talking.recv(_DATAGRAM) == nonce
            talking.shutdown(socket.SHUT_WR)
            talking.recv(_DATAGRAM)  # the end: what follows is seen by itself, without packets of this connection
            return answered
        except _NO_ANSWER:
            return False


def udp(
    namespace: Namespace,
    dst: Where,
    port: int = ECHO_PORT,
    src: Optional[Where] = None,
    device: Optional[str] = None,
    timeout: float = TIMEOUT,
) -> bool:
    """Did a datagram come back from the address and port that it was sent to?"""
    nonce = os.urandom(8)
    with _socket(namespace, ip_address(str(dst)).version, socket.SOCK_DGRAM, src, device) as talking:
        try:
            talking.connect((str(dst), port))
        except _NO_ANSWER:
            return False
        return _answered(talking, lambda: talking.send(nonce), lambda: talking.recv(_DATAGRAM) == nonce, timeout)


def _answered(asking: socket.socket, send: Callable[[], object], is_answer: Callable[[], bool], timeout: float) -> bool:
    """Does ``is_answer``, which receives, get what it wants in time? Until then ``send`` sends again and again."""
    end = time.monotonic() + timeout
    try:
        while time.monotonic() < end:
            send()
            again = min(end, time.monotonic() + _AGAIN)
            while time.monotonic() < again:
                asking.settimeout(max(again - time.monotonic(), 0.001))  # 0 means without blocking
                try:
                    if is_answer():
                        return True
                except socket.timeout:
                    pass
    except _NO_ANSWER:
        pass
    return False


@contextmanager
def echo_server(
    namespace: Namespace,
    address: Optional[Where] = None,
    device: Optional[str] = None,
    port: int = ECHO_PORT,
    pktinfo: bool = True,
) -> Iterator[None]:
    """TCP and UDP echo inside the namespace: on all addresses of both families, or on one address, or on one device.

    ``pktinfo``: UDP answers from the address that it was asked at. Without, the kernel chooses, as for most programs.
    """
    server = _EchoServer(namespace, address, device, port, pktinfo)
    try:
        yield
    finally:
        server.close()


class _EchoServer:
    """A thread that sends back whatever comes."""

    def __init__(
        self, namespace: Namespace, address: Optional[Where], device: Optional[str], port: int, pktinfo: bool
    ) -> None:
        self._pktinfo = pktinfo
        self._selector = selectors.DefaultSelector()
        self._stop, stopped = socket.socketpair()
        self._sockets: List[socket.socket] = [self._stop, stopped]
        self._selector.register(stopped, selectors.EVENT_READ, None)
        try:
            for version in (4, 6) if address is None else (ip_address(str(address)).version,):
                local = "::" if version == 6 else "0.0.0.0"
                for kind, serve in ((socket.SOCK_STREAM, self._accept), (socket.SOCK_DGRAM, self._datagram)):
                    listening = _socket(namespace, version, kind, address or local, device, port)
                    self._sockets.append(listening)
                    if kind == socket.SOCK_STREAM:
                        listening.listen(16)
                    elif pktinfo:
                        listening.setsockopt(*_asks_pktinfo(version), 1)
                    listening.setblocking(False)
                    self._selector.register(listening, selectors.EVENT_READ, serve)
        except BaseException:
            self._close_all()
            raise
        self._thread = threading.Thread(target=self._run, name="echo", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.send(b".")
        self._thread.join()
        self._close_all()

    def _close_all(self) -> None:
        for opened in self._sockets:
            opened.close()
        self._selector.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                try:
                    key.data(key.fileobj)
                except OSError:
                    pass  # no way back, or the other side has gone: his loss is what the probe is there to see

    def _accept(self, listening: socket.socket) -> None:
        connection = listening.accept()[0]
        connection.setblocking(False)
        self._sockets.append(connection)
        self._selector.register(connection, selectors.EVENT_READ, self._stream)

    def _stream(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(_DATAGRAM)
            if data:
                connection.send(data)
                return
        except OSError:
            pass
        self._selector.unregister(connection)
        self._sockets.remove(connection)
        connection.close()

    def _datagram(self, listening: socket.socket) -> None:
        data, ancillary, _, source = listening.recvmsg(_DATAGRAM, 128)
        listening.sendmsg([data], [_answer_from(item) for item in ancillary] if self._pktinfo else [], 0, source)


def _answer_from(ancillary: Tuple[int, int, bytes]) -> Tuple[int, int, bytes]:
    """The control message that arrived, made into one that chooses its address as the answer's source."""
    level, kind, data = ancillary
    if level == socket.IPPROTO_IPV6:
        return level, kind, data[:16] + struct.pack("I", 0)
    arrived_at = data[8:12]
    return level, kind, struct.pack("I4s4s", 0, arrived_at, bytes(4))


def _asks_pktinfo(version: int) -> Tuple[int, int]:
    return (socket.IPPROTO_IP, _IP_PKTINFO) if version == 4 else (socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO)


def _socket(
    namespace: Namespace, version: int, kind: int, src: Optional[Where], device: Optional[str], port: int = 0
) -> socket.socket:
    """A socket of the namespace, bound as wanted. An address that is not on a link raises: a mistake of the test."""
    protocol = 0
    if kind == socket.SOCK_RAW:
        protocol = wire.ICMP if version == 4 else wire.ICMPV6
    with namespace:
        made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind, protocol)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6 and kind != socket.SOCK_RAW:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if device is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        if src is not None:
            made.bind((str(src), port))
    except BaseException:
        made.close()
        raise
    return made


def raw_socket(namespace: Namespace, version: int) -> socket.socket:
    """A socket for echo requests of one's own."""
    return _socket(namespace, version, socket.SOCK_RAW, None, None)


def echoed(version: int, data: bytes, identifier: bytes) -> Optional[bytes]:
    """What an echo reply to this identifier brings back; None: it is none."""
    message = data[(data[0] & 15) * 4:] if version == 4 else data
    is_reply = message[:1] == (b"\x00" if version == 4 else b"\x81")
    return message[8:] if is_reply and message[4:6] == identifier else None


def echo_request(version: int, identifier: bytes, nonce: bytes) -> bytes:
    """An echo request; the kernel adds ICMPv6's checksum by itself."""
    if version == 6:
        return b"\x80\0\0\0" + identifier + b"\0\x01" + nonce
    rest = identifier + b"\0\x01" + nonce
    return b"\x08\0" + struct.pack("!H", wire.checksum(b"\x08\0\0\0" + rest)) + rest


def _same(source: str, address: Address) -> bool:
    return ip_address(source.split("%")[0]) == address

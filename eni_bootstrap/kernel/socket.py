"""A netlink socket: many messages in one send, dumps that the kernel filters, its errors in its own words.

It knows how messages are framed (linux/netlink.h), and nothing of their content.
"""

import errno
import os
import socket
import struct
import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from eni_bootstrap.model.errors import BootstrapError

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port

_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP_INTERRUPTED, _DUMP = 0x1, 0x4, 0x10, 0x300
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 270, 10, 11, 12
_ERROR_TEXT = 1  # NLMSGERR_ATTR_MSG

_ORDERS_AT_ONCE = 400
"""Messages in one send: 40 KiB of the 208 KiB that a socket may buffer by default, and as many errors come back."""

_QUESTIONS_AT_ONCE = 64
"""Look-ups in one send: the answers wait in the same buffer, at 1.4 KiB each (150 of them were too many)."""

_BUFFER = 1 << 20
"""Bytes: room for 400 refusals, where we may ask for it (SO_RCVBUFFORCE)."""
_RCVBUFFORCE = 33  # asm-generic/socket.h

_DATAGRAM = 1 << 17
"""Bytes; the kernel's dumps come in at most 32 KiB, an answer to a full send in single messages."""

_PATIENCE = 10.0
"""Seconds: the kernel answers within milliseconds, even when other programs hold its routing lock."""

_DUMP_PAUSES = (0.0, 0.01, 0.03, 0.1, 0.3)
"""Seconds before each try of a dump that is cut short by somebody's changes: at boot many are at work."""


class Message(NamedTuple):
    """A message to send: its type, flags beside the usual ones, and all that follows the header."""

    type: int
    flags: int
    body: bytes


class Reply(NamedTuple):
    """The kernel's reply: a body, or an errno (0: done) and the kernel's words for it."""

    body: bytes = b""
    error: int = 0
    text: str = ""


Take = Callable[[bytes], bool]
"""Judges the body of a message: whether it is wanted."""
Takes = Callable[[], Take]
"""Gives a judge for each try: one that counts begins anew where a dump was cut short."""


def _everything(body: bytes) -> bool:
    return True


class Socket:
    """One rtnetlink socket into the network namespace of the calling thread."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(_PATIENCE)
        self._set(_SOL_NETLINK, _CAP_ACK, 1)
        self._set(_SOL_NETLINK, _EXT_ACK, 1)
        self._set(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)  # takes privileges
        self.filters = self._set(_SOL_NETLINK, _STRICT_CHECK, 1)
        """Whether the kernel filters dumps: since 4.20. Before, it takes the same requests and gives everything."""
        self.port: int = self._socket.getsockname()[0]
        """The port by which the kernel names the maker of a change, when it tells others of it."""
        self._sequence = 0

    def _set(self, level: int, option: int, value: int) -> bool:
        try:
            self._socket.setsockopt(level, option, value)
            return True
        except OSError:
            return False

    def close(self) -> None:
        self._socket.close()

    def order(self, messages: Sequence[Message]) -> List[Reply]:
        """Send messages that change something. Returns a reply to each. Raises ``BootstrapError`` without an answer.

        Only the last message of a send asks for an acknowledgement. The kernel reports an error of any of them, asked
        for or not; a message without a report has succeeded.
        """
        replies: List[Reply] = []
        for start in range(0, len(messages), _ORDERS_AT_ONCE):
            part = list(messages[start:start + _ORDERS_AT_ONCE])
            part[-1] = part[-1]._replace(flags=part[-1].flags | _ACK)
            replies += self._exchange(part, lambda heard: len(part) - 1 in heard)
        return replies

    def ask(self, messages: Sequence[Message]) -> List[Reply]:
        """Send messages that ask for something. Returns the one answer to each."""
        replies: List[Reply] = []
        for start in range(0, len(messages), _QUESTIONS_AT_ONCE):
            part = messages[start:start + _QUESTIONS_AT_ONCE]
            replies += self._exchange(part, lambda heard: len(heard) == len(part))
        return replies

    def dump(self, message: Message, takes: Optional[Takes] = None) -> List[bytes]:
        """The bodies of all messages that the kernel lists and that are taken. A missing table is empty.

        ``takes`` gives the judge of bodies; None: all are taken.
        Raises ``BootstrapError`` where the kernel refuses, or where each try is cut short by changes.
        """
        for pause in _DUMP_PAUSES:
            time.sleep(pause)
            found, whole = self._dump(message, takes() if takes is not None else _everything)
            if whole:
                return found
        raise BootstrapError("the kernel's routing state changes too fast to be read; try again")

    def _exchange(self, part: Sequence[Message], ended: Callable[[Dict[int, Reply]], bool]) -> List[Reply]:
        first = self._send(part)
        heard: Dict[int, Reply] = {}
        while not ended(heard):
            for kind, _, sequence, body in self._receive():
                place = sequence - first
                if 0 <= place < len(part):
                    heard[place] = Reply(b"", *_error(body)) if kind == _ERROR else Reply(body)
        return [heard.get(place, Reply()) for place in range(len(part))]

    def _dump(self, message: Message, take: Take) -> Tuple[List[bytes], bool]:
        expected = self._send([message._replace(flags=message.flags | _DUMP)])
        found: List[bytes] = []
        whole = True
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != expected:
                    continue
                if flags & _DUMP_INTERRUPTED:
                    whole = False
                if kind == _DONE or kind == _ERROR:
                    number, text = _error(body) if len(body) >= 4 else (0, "")
                    if number in (errno.ENOENT, errno.ENODEV, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                        return [], True  # no such table or device, or a kernel without IPv6
                    if number:
                        raise BootstrapError("the kernel does not tell its state: " + (text or os.strerror(number)))
                    return found, whole
                if take(body):
                    found.append(body)

    def _send(self, messages: Sequence[Message]) -> int:
        """Send all messages at once. Returns the sequence number of the first; the others follow."""
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(b"".join(
            HEADER.pack(HEADER.size + len(message.body), message.type, message.flags | _REQUEST, sequence, 0)
            + message.body for sequence, message in enumerate(messages, first)))
        return first

    def _receive(self) -> Iterator[Tuple[int, int, int, bytes]]:
        """(type, flags, sequence number, body) of each message of one datagram. A dump may have ten thousand."""
        try:
            data = self._socket.recv(_DATAGRAM)
        except OSError as error:
            raise BootstrapError("the kernel's answer is not to be had: {}".format(error)) from error
        offset = 0
        while offset < len(data):
            length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
            if length < HEADER.size:
                raise BootstrapError("the kernel's answer makes no sense: it has a message of {} bytes".format(length))
            yield kind, flags, sequence, data[offset + HEADER.size:offset + length]
            offset += (length + 3) & ~3


def _error(body: bytes) -> Tuple[int, str]:
    """The errno of an error message (0: an acknowledgement), and the kernel's own words or ""."""
    number = -struct.unpack_from("=i", body)[0]
    offset = 4 + HEADER.size  # behind the error stands the header of the message that it answers (NETLINK_CAP_ACK)
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4:
            break
        if kind & 0x3FFF == _ERROR_TEXT:
            return number, body[offset + 4:offset + length].rstrip(b"\0").decode(errors="replace")
        offset += (length + 3) & ~3
    return number, ""

"""How the lab talks with a machine whose network may be broken: lines of JSON over a Unix socket of its own."""

import itertools
import json
import os
import queue
import socket
import threading
from typing import Any, Dict, NamedTuple, Optional


class Result(NamedTuple):
    """What a command in the machine came to."""

    code: int
    out: str
    err: str


class NoAnswer(Exception):
    """The machine, or the command in it, did not answer in time."""


class Channel:
    """Listens at ``path``; whoever connects is the machine (qemu for its virtio port, or the container itself)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen(4)
        self._connection: Optional[socket.socket] = None
        self._boots: "queue.Queue[str]" = queue.Queue()
        self._answers: "queue.Queue[Dict[str, Any]]" = queue.Queue()
        self._numbers = itertools.count(1)
        threading.Thread(target=self._accept, name="channel", daemon=True).start()

    def wait_boot(self, timeout: float) -> str:
        """The id of a boot that has got as far as being able to run commands."""
        try:
            return self._boots.get(timeout=timeout)
        except queue.Empty:
            raise NoAnswer("no boot within {:.0f} s".format(timeout)) from None

    def run(self, command: str, timeout: float) -> Result:
        """One after the other; the machine ends a command that takes too long (code 124)."""
        number = next(self._numbers)
        if self._connection is None:
            raise NoAnswer("the machine has not been heard of")
        self._connection.sendall(
            json.dumps({"id": number, "command": command, "timeout": timeout}).encode() + b"\n")
        while True:
            try:
                answer = self._answers.get(timeout=timeout + 20)
            except queue.Empty:
                raise NoAnswer("no answer from the machine to: {}".format(command)) from None
            if answer["id"] == number:
                return Result(answer["code"], answer["out"], answer["err"])

    def close(self) -> None:
        try:
            self._listening.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listening.close()
        if self._connection is not None:
            self._connection.close()
        if os.path.exists(self.path):
            os.unlink(self.path)

    def _accept(self) -> None:
        while True:
            try:
                self._connection = self._listening.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._read, args=(self._connection,), name="channel", daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        pending = b""
        while True:
            try:
                data = connection.recv(65536)
            except OSError:
                return
            if not data:
                return
            pending += data
            while b"\n" in pending:
                line, pending = pending.split(b"\n", 1)
                try:
                    said = json.loads(line.decode())
                except ValueError:
                    continue  # cut off by a reboot
                if "hello" in said:
                    self._boots.put(said["hello"])
                else:
                    self._answers.put(said)

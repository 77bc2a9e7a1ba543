"""The client on the internet, which pings every EIP all the time: since when does each answer, and what went wrong way.

An answer that leaves by a wrong ENI is dropped by the fabric's source check: who is answered has been answered by the
ENI that was asked.
"""

import os
import socket
import struct
import threading
import time
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from eni_bootstrap.lab import wire
from eni_bootstrap.lab.fabric import SOURCE_CHECK, Packet
from eni_bootstrap.lab.vpc import Vpc
from eni_bootstrap.model.kernel import Address

INTERVAL = 0.2
"""Seconds between two pings of one address."""
ANSWER = 0.9
"""Seconds that an answer may take: an emulated machine is slow when it is busy."""
STEADY = 2.0
"""Seconds for which an address has to answer before it counts."""


class Probe(NamedTuple):
    """One ping."""

    address: Address
    sent: float


class Stray(NamedTuple):
    """Packets that the source check has dropped."""

    number: int
    source: Address
    owner: str
    """The link of the ENI that has this address."""
    port: str
    """The link by which they left."""

    def __str__(self) -> str:
        return "{0.number} x {0.source} of {0.owner} by {0.port}".format(self)


class Watch:
    """``with Watch(vpc) as watch:`` pings EIPs, and collects what the source check drops."""

    def __init__(self, vpc: Vpc) -> None:
        self._vpc = vpc
        self._identifier = os.urandom(2)
        self._sent: Dict[int, Probe] = {}
        self._answered: Dict[int, float] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._capture = vpc.fabric.capture()
        self._seen: List[Packet] = []
        self._threads: List[threading.Thread] = []
        with vpc.client:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.settimeout(0.2)

    def __enter__(self) -> "Watch":
        self._seen = self._capture.__enter__()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()
        self._capture.__exit__(None, None, None)

    def settle(
        self, since: float, patience: float, names: Optional[Sequence[str]] = None
    ) -> Dict[str, Optional[float]]:
        """Wait until all of these links' EIPs answer steadily. Per link: seconds after ``since`` from which it did;
        None: it did not within ``patience``."""
        while True:
            found = {name: self.steady_from(self._vpc.eips[name], since) for name in names or list(self._vpc.nics)}
            if None not in found.values() or time.monotonic() > since + patience + STEADY:
                return {name: None if at is None or at - since > patience else max(0.0, at - since)
                        for name, at in found.items()}
            time.sleep(0.1)

    def steady_from(self, eip: Address, since: float) -> Optional[float]:
        """The first ping after ``since`` from which on all were answered, for ``STEADY`` seconds at least."""
        now = time.monotonic()
        start: Optional[float] = None
        last = 0.0
        with self._lock:
            for number, probe in self._sent.items():
                if probe.address != eip or probe.sent < since:
                    continue
                if number in self._answered:
                    start = probe.sent if start is None else start
                    last = probe.sent
                elif now - probe.sent > ANSWER:
                    start = None
        return start if start is not None and last - start >= STEADY else None

    def strays(self) -> List["Stray"]:
        """Packets with the address of one ENI that left by another one."""
        owners = {}
        for name, eni in self._vpc.nics.items():
            for subnet in eni.subnets:
                owners.update({address: name for address in subnet.addresses})
        wrong = Counter((packet.src, owners[packet.src], packet.port) for packet in list(self._seen)
                        if packet.verdict == SOURCE_CHECK and packet.src in owners)
        return [Stray(count, *what) for what, count in wrong.items()]

    def _send(self) -> None:
        number = 0
        while not self._stop.wait(INTERVAL):
            for eip in list(self._vpc.eips.values()):
                number += 1
                with self._lock:
                    self._sent[number] = Probe(eip, time.monotonic())
                rest = self._identifier + b"\0\1" + struct.pack("!Q", number)
                message = b"\x08\0" + struct.pack("!H", wire.checksum(b"\x08\0\0\0" + rest)) + rest
                try:
                    self._socket.sendto(message, (str(eip), 0))
                except OSError:
                    pass  # lost on its way is lost

    def _receive(self) -> None:
        while not self._stop.is_set():
            try:
                data, _ = self._socket.recvfrom(2048)
            except OSError:
                continue
            message = data[(data[0] & 15) * 4:]
            if message[:1] == b"\0" and message[4:6] == self._identifier and len(message) >= 16:
                number = struct.unpack_from("!Q", message, 8)[0]
                with self._lock:
                    probe = self._sent.get(number)
                    if probe is not None and data[12:16] == probe.address.packed:
                        self._answered[number] = time.monotonic()

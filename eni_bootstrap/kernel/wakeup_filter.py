"""The wake-up socket: a netlink socket at which systemd listens for us, and which it hands to us (sd_listen_fds(3)).

systemd starts the agent when a message of the kernel arrives there, and again as long as one is unread. So a run reads
all messages before it reads the kernel, waits for the end of a burst, and leaves what comes later for the next run. On
a busy host next to no message concerns us: a filter in the socket, which stays there between our runs, lets only those
pass that may cost an ENI its way.
"""

import ctypes
import errno
import logging
import os
import socket
import struct
import time
from typing import Callable, Iterable, List, Mapping, Optional, Sequence, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.kernel import MAIN, PROTOCOL_KERNEL

LOG = logging.getLogger(__name__)


QUIET = 0.2
"""Seconds without a message that end a burst: a DHCP client's or a manager's changes to one link come within a few
hundredths."""
PATIENCE = 10
"""Maximum reads of a burst: what keeps on coming for 2 s is the state that we have to live with."""

_FIRST = 3  # SD_LISTEN_FDS_START
_DATAGRAM = 1 << 16
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER

_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE, _DELRULE = 16, 17, 20, 21, 24, 25, 33
_ROUTE_DEVICE, _RULE_PROTOCOL = 4, 21  # RTA_OIF, FRA_PROTOCOL
_OTHERS_ROUTES = (3, 4, 9, 16)
"""Protocols of routes in main that operators, router advertisements and DHCP clients make: our routes follow these.
Routing daemons' protocols are left out: a full table changes all day. Of these routes only defaults and those by an ENI
count: a container network makes a route for each container."""

Instruction = Tuple[int, int, int, int]
"""An instruction of classic BPF (linux/filter.h): code, steps to skip if true, if false, operand."""

_LOAD, _LOAD_HALF, _LOAD_BYTE, _EQUAL, _SKIP, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x05, 0x06
_SET, _SET_INDEX, _COPY_TO_INDEX, _LOAD_AT_INDEX, _LOAD_BYTE_AT_INDEX = 0x00, 0x01, 0x07, 0x40, 0x50
_FIND_ATTRIBUTE = 0xFFFFF000 + 12
"""Operand of a load (SKF_AD_OFF + SKF_AD_NLATTR): the place of an attribute of a kind after an offset; 0: none."""
_PASS, _DROP = 0xFFFF, 0  # bytes of the message to keep


def passed(environment: Mapping[str, str] = os.environ) -> Optional[socket.socket]:
    """The socket that systemd has handed to this process; None where there is none."""
    if environment.get("LISTEN_PID") != str(os.getpid()) or environment.get("LISTEN_FDS") != "1":
        return None
    handed = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE, fileno=_FIRST)
    handed.setblocking(False)
    return handed


def settle(handed: socket.socket, sleep: Callable[[float], None] = time.sleep) -> None:
    """Read all messages that are there; as long as new ones came, wait for the end of the burst."""
    for _ in range(PATIENCE):
        if not _drain(handed):
            return
        sleep(QUIET)
    _drain(handed)


def narrow(
    handed: socket.socket, config: Config, port: Optional[int] = None, indexes: Optional[Iterable[int]] = None
) -> None:
    """Filter the socket: from now on only messages that concern us start us.

    ``port``: the netlink port of our own changes, which never start us. ``indexes``: the interfaces whose links and
    addresses count, once the ENIs are known.
    """
    program = filter_program(config.protocol, port, indexes)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    try:
        handed.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(buffer)))
    except OSError as error:
        LOG.debug("no filter (%s): more than ENIs' changes will start a run", error.strerror)


def filter_program(protocol: int, port: Optional[int], indexes: Optional[Iterable[int]]) -> List[Instruction]:
    """The filter. A netlink message is in host byte order, and BPF loads in network byte order: numbers are turned.

    struct nlmsghdr: length 4, type 2, flags 2, sequence 4, port 4. At 16 struct ifinfomsg and ifaddrmsg have the index
    in their second four bytes. There struct rtmsg has the destination's length in byte 1, the table in byte 4, the
    protocol in byte 5; it and struct fib_rule_hdr have 12 bytes, with attributes behind them.
    """
    known: List[Instruction] = []
    for index in indexes or ():
        known += _if_equal(_word(index), _PASS)
    about_a_link = [(_LOAD, 0, 0, 20)] + known + [(_RETURN, 0, 0, _PASS if indexes is None else _DROP)]
    lost_rule = _load_attribute(_RULE_PROTOCOL, _LOAD_BYTE_AT_INDEX)
    for mark in (protocol, PROTOCOL_KERNEL):
        lost_rule += _if_equal(mark, _PASS)
    lost_rule.append((_RETURN, 0, 0, _DROP))
    lost_route = [(_LOAD_BYTE, 0, 0, 21)] + _if_equal(protocol, _PASS)
    # A default route by whatever it is may be the first that is heard of an ENI.
    default = [(_LOAD_BYTE, 0, 0, 17)] + _if_equal(0, _PASS)
    by_an_eni = [(_RETURN, 0, 0, _PASS)] if indexes is None else default + _load_attribute(
        _ROUTE_DEVICE, _LOAD_AT_INDEX) + known + [(_RETURN, 0, 0, _DROP)]
    route_of_main = [(_LOAD_BYTE, 0, 0, 20), (_EQUAL, 1, 0, MAIN), (_RETURN, 0, 0, _DROP), (_LOAD_BYTE, 0, 0, 21)]
    for place, other in enumerate(_OTHERS_ROUTES):
        route_of_main.append((_EQUAL, len(_OTHERS_ROUTES) - place, 0, other))
    route_of_main += [(_RETURN, 0, 0, _DROP)] + by_an_eni
    own = [] if port is None else [(_LOAD, 0, 0, 12)] + _if_equal(_word(port), _DROP)
    return (
        own + [(_LOAD_HALF, 0, 0, 4)] + _if_in((_DELRULE,), lost_rule)
        + _if_in((_DELROUTE,), lost_route + route_of_main)
        + _if_in((_NEWROUTE,), route_of_main)
        + _if_in((_NEWLINK, _DELLINK, _NEWADDR, _DELADDR), about_a_link)
        + [(_RETURN, 0, 0, _DROP)])


def _load_attribute(kind: int, load: int) -> List[Instruction]:
    """Load an attribute's value; a message without the attribute passes (a route with several hops or none)."""
    return [(_SET, 0, 0, 28), (_SET_INDEX, 0, 0, kind), (_LOAD, 0, 0, _FIND_ATTRIBUTE), (_EQUAL, 0, 1, 0),
            (_RETURN, 0, 0, _PASS), (_COPY_TO_INDEX, 0, 0, 0), (load, 0, 0, 4)]


def _if_equal(value: int, verdict: int) -> List[Instruction]:
    return [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, verdict)]


def _if_in(kinds: Sequence[int], block: List[Instruction]) -> List[Instruction]:
    """Run the block, which ends with a verdict, for messages of these types."""
    tests = [(_EQUAL, len(kinds) - place, 0, _half(kind)) for place, kind in enumerate(kinds)]
    return tests + [(_SKIP, 0, 0, len(block))] + block


def _word(number: int) -> int:
    return int.from_bytes(struct.pack("=I", number), "big")


def _half(number: int) -> int:
    return int.from_bytes(struct.pack("=H", number), "big")


def _drain(handed: socket.socket) -> bool:
    """Read all messages that are there. Returns whether there was any."""
    found = False
    while True:
        try:
            handed.recv(_DATAGRAM)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # more came than fitted: that is said once, and means that much came
                return found
        found = True

"""Network namespaces that live as long as this process: each is held by one file descriptor and nothing else.

Nothing appears in /run/netns, and whatever kills the process takes all of it away.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading
from typing import Any, List, Sequence

from eni_bootstrap.model.errors import NotPermitted

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_CAP_NET_ADMIN = 12
_CAP_SYS_ADMIN = 21
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Stack(threading.local):
    """Where this thread came from: a namespace belongs to a thread, not to the process."""

    def __init__(self) -> None:
        self.descriptors: List[int] = []


_came_from = _Stack()


class Namespace:
    """A network namespace with nothing but ``lo`` in it; ``with namespace:`` puts the current thread into it."""

    def __init__(self) -> None:
        here = _current()
        try:
            _call("unshare", _CLONE_NEWNET)
            try:
                self.descriptor = _current()
                set_up("lo", True)
            finally:
                _call("setns", here, _CLONE_NEWNET)
        finally:
            os.close(here)

    def __enter__(self) -> "Namespace":
        here = _current()
        try:
            _call("setns", self.descriptor, _CLONE_NEWNET)
        except OSError:
            os.close(here)
            raise
        _came_from.descriptors.append(here)
        return self

    def __exit__(self, *exc_info: object) -> None:
        before = _came_from.descriptors.pop()
        try:
            _call("setns", before, _CLONE_NEWNET)
        finally:
            os.close(before)

    @property
    def path(self) -> str:
        """A name that any process of the same owner can open, as long as this one lives."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def popen(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """Start a program inside: a child begins where the thread that starts it is."""
        with self:
            return subprocess.Popen(argv, **options)

    def run(self, argv: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[Any]":
        """``subprocess.run`` inside; a failure raises, and the output is captured as text, unless told otherwise."""
        options.setdefault("check", True)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("universal_newlines", True)
        with self:
            return subprocess.run(argv, **options)

    def sysctl(self, name: str, value: object) -> None:
        """Set ``net.…`` inside; the parts of the name may be separated by slashes, as device names contain dots."""
        path = name if "/" in name else name.replace(".", "/")
        with self, open(f"/proc/sys/{path}", "w") as file:
            file.write(str(value))

    def close(self) -> None:
        """Let go; the kernel clears away what is inside once nobody else is in it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def isolate() -> None:
    """Make namespaces possible for an ordinary user: become root of a user namespace of our own. Nothing for root.

    There is no way back for this process, and the kernel wants it to have one thread only.
    """
    if _capable(_CAP_SYS_ADMIN) and _capable(_CAP_NET_ADMIN):
        return
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", _CLONE_NEWUSER)
        # Without CAP_SETGID outside, the kernel takes a group map only from those who gave up setgroups().
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        # With mounts of our own, programs of the lab can be given a /run that they may write to.
        _call("unshare", _CLONE_NEWNS | _CLONE_NEWNET)
    except OSError as error:
        raise NotPermitted(
            "this system does not let an ordinary user make network namespaces (user namespaces): "
            f"{error.strerror}; try again as root"
        ) from error


def set_up(device: str, up: bool) -> None:
    """Bring a link of the current thread's namespace up or down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH22x", device.encode(), 0))
        flags = struct.unpack_from("H", answer, 16)[0]
        flags = flags | _IFF_UP if up else flags & ~_IFF_UP
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", device.encode(), flags))


def _current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _capable(capability: int) -> bool:
    with open("/proc/thread-self/status") as status:
        effective = next(line.split()[1] for line in status if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> capability & 1)

"""Connection marks in the kernel: ``nft``, and the sysctl by which a strict reverse path filter uses the mark.

This is the only file that starts ``nft``. The kernel loads a ruleset whole or not at all. nft needs CAP_NET_ADMIN and a
netlink socket, which the service's sandbox allows; sysctls are read-only there.
"""

import os
from typing import List, Optional, Sequence, Tuple

from eni_bootstrap.model.changes import TABLE, Ruleset, Step, ValidMark
from eni_bootstrap.model.errors import BootstrapError, NotPermitted
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import bytes_of, name_of

_PATIENCE = 10.0
"""Seconds for nft: it takes 0.01, on a node with a hundred thousand rules of others a second or two."""
_PLACES = "/usr/sbin:/sbin"
"""Directories of nft that a hook's or an ordinary user's PATH may lack."""


def do(steps: Sequence[Step]) -> Tuple[List[Step], List[Step], List[Finding]]:
    """Make the changes. Returns those made, those that failed, and why."""
    done: List[Step] = []
    failed: List[Step] = []
    wrong: List[Finding] = []
    for step in steps:
        finding = _load(step, step.item) if isinstance(step.item, Ruleset) else _switch(step, step.item)
        if finding is None:
            done.append(step)
        else:
            failed.append(step)
            wrong.append(finding)
    return done, failed, wrong


def _load(step: Step, ruleset: Ruleset) -> Optional[Finding]:
    """Why the kernel would not have it."""
    try:
        if step.verb == "remove":
            nft("delete", "table", *TABLE.split())
        else:
            nft(ruleset.text)
    except BootstrapError as error:
        return Finding.error("marks-refused", str(error))
    return None


def _switch(step: Step, item: ValidMark) -> Optional[Finding]:
    """Why the sysctl can't be set."""
    try:
        with open(bytes_of("/proc/sys/" + item.path), "w") as switch:
            switch.write("{:d}\n".format(step.verb == "add"))
    except FileNotFoundError:
        return None  # it has gone with its device
    except OSError as error:
        cause = "its reverse path filter is strict and does not heed the mark, so that it drops what is forwarded" \
            if step.verb == "add" else "its reverse path filter can't be told to heed the mark no more"
        return Finding.error("filter-not-set", "{} ({})".format(cause, error.strerror), "run as root: {}".format(step),
                             item.dev, 4)
    return None


def nft(*arguments: str) -> str:
    """Run nft. Returns what it prints; "" where there is no such table.

    A ruleset is an argument, too: nft opens /dev/stdin by its name, which not every sandbox has. Raises
    ``BootstrapError``; ``NotPermitted`` without CAP_NET_ADMIN.
    """
    import shutil  # most hosts mark no connections
    import subprocess
    program = shutil.which("nft", path=os.environ.get("PATH", "") + ":" + _PLACES)
    if program is None:
        raise BootstrapError("connection marks need the program nft: install the package nftables")
    try:
        ran = subprocess.run([program.encode()] + list(map(bytes_of, arguments)), stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=_PATIENCE,
                             env=dict(os.environ, LC_ALL="C"))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BootstrapError("nft can't be used: {}".format(error))
    said = name_of(ran.stderr).strip()
    if not ran.returncode:
        return name_of(ran.stdout)
    if "No such file or directory" in said and len(arguments) > 1:
        return ""
    refusal = NotPermitted if "Operation not permitted" in said else BootstrapError
    what = " ".join(arguments) if len(arguments) > 1 else "refuses table " + TABLE
    raise refusal("nft {}: {}".format(what, said.splitlines()[0] if said else "it has failed"))


def filters_strictly(dev: str) -> bool:
    """Whether the reverse path filter is strict and asks for this very device: of the device's and all's ``rp_filter``
    the larger one counts (ip-sysctl)."""
    return max(_sysctl(dev, "rp_filter"), _sysctl("all", "rp_filter")) == 1


def heeds_mark(dev: str) -> bool:
    return _sysctl(dev, "src_valid_mark") == 1


def _sysctl(dev: str, name: str) -> int:
    """The value of one of IPv4's sysctls; 0 where it can't be read: a sandbox may hide all sysctls."""
    try:
        with open(bytes_of("/proc/sys/net/ipv4/conf/{}/{}".format(dev, name))) as value:
            return int(value.read())
    except (OSError, ValueError):
        return 0

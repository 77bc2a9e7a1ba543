"""The agent on Linux: the kernel, the network managers and the container networks of this very host."""

import contextlib
import logging
import os
import re
from typing import TYPE_CHECKING, Callable, Dict, Iterator, List, NamedTuple

from eni_bootstrap.agent import commands
from eni_bootstrap.agent.observe import Context
from eni_bootstrap.agent.report import Report
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.matching import pair
from eni_bootstrap.host.cni_config import container_networks
from eni_bootstrap.host.competitors import competing_agents
from eni_bootstrap.host.network_managers import look
from eni_bootstrap.kernel import record
from eni_bootstrap.kernel.kernel import Kernel
from eni_bootstrap.metadata.fetch import Fetcher, consistent
from eni_bootstrap.metadata.parser import essence
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.errors import BootstrapError, NotPermitted
from eni_bootstrap.model.kernel import PROTOCOL_KERNEL

if TYPE_CHECKING:
    from argparse import Namespace

    from eni_bootstrap.metadata.client import MetadataClient
    from eni_bootstrap.metadata.dump import Saved

OLDEST_KERNEL = (4, 17)
"""The oldest kernel: since then rules carry a protocol, by which we know ours."""

_CAP_NET_ADMIN = 12  # linux/capability.h


class _Command(NamedTuple):
    run: Callable[[Context], Report]
    privileged: bool


def _preview_adoption(world: Context) -> Report:
    from eni_bootstrap.adopt import command as adoption  # no part of a boot
    return adoption.preview_adoption(world)


def _adopt(world: Context) -> Report:
    from eni_bootstrap.adopt import command as adoption
    return adoption.adopt(world)


_COMMANDS: Dict[str, _Command] = {
    "apply": _Command(commands.apply, True),
    "plan": _Command(commands.preview, False),
    "verify": _Command(commands.verify, False),
    "status": _Command(commands.status, False),
    "adopt": _Command(_preview_adoption, False),
    "remove": _Command(commands.remove, True),
}

_ADOPT = _Command(_adopt, True)
"""``adopt --yes``."""


def install(parsed: "Namespace") -> int:
    """Have the agent run at each boot and at each change of an ENI. Returns the exit code."""
    from eni_bootstrap.host import install  # no part of a boot
    return install.install(parsed, record.clear_removed_flag)


def uninstall(parsed: "Namespace") -> int:
    """Remove what ``install`` has put there. Returns the exit code."""
    from eni_bootstrap.host import install
    return install.uninstall(parsed, record.clear_removed_flag)


def report(parsed: "Namespace", config: Config) -> Report:
    """Run the command of the command line. Raises ``BootstrapError``."""
    chosen = _ADOPT if parsed.command == "adopt" and parsed.yes else _COMMANDS[parsed.command]
    _check_kernel(os.uname().release)
    if chosen.privileged and not _may_change_network():
        raise NotPermitted("{} takes CAP_NET_ADMIN: run it as root, for instance with sudo".format(parsed.command))
    managers = look()
    if managers.deletes_rules:
        config = config._replace(protocol_networkd_safe=PROTOCOL_KERNEL)
    config = config._replace(kernel_marks=managers.deletes_rules or record.load((), logging.DEBUG).kernel_marks)
    deadline = Deadline(config.timeout)
    asking = _fetcher(config, deadline)
    kernel = Kernel()
    try:
        with _watched(kernel, config) as watch:
            found = chosen.run(Context(
                asking.fetch, kernel, deadline, config, managers, competing_agents, root=parsed.root,
                networks=container_networks))
            watch(found)
            return found
    finally:
        kernel.close()
        asking.close()


def metadata(config: Config) -> "Saved":
    """The metadata tree, and the names of the links. Raises ``MetadataError``."""
    from eni_bootstrap.metadata.dump import Saved  # no part of a boot
    deadline = Deadline(config.timeout)
    asking = _fetcher(config, deadline, every_leaf=True)
    kernel = Kernel()
    try:
        tree, listing = consistent(asking.fetch, deadline)
        return Saved(essence(tree), listing, {"links": {eni.mac: eni.dev for eni in pair(listing, kernel.links())[0]}})
    finally:
        kernel.close()
        asking.close()


def _fetcher(config: Config, deadline: Deadline, every_leaf: bool = False) -> Fetcher:
    """The fetcher of a run; the caller closes it."""
    def client() -> "MetadataClient":
        from eni_bootstrap.metadata.client import client_of
        return client_of(config, deadline, _has_ipv6_only, every_leaf)
    return Fetcher(client)


def _has_ipv6_only() -> bool:
    """Whether this host has IPv6 addresses only.

    It uses its own socket: this runs in the metadata thread, and a netlink socket carries one dump at a time.
    """
    kernel = Kernel()
    try:
        return {held.address.version for held in kernel.addresses()} == {6}
    finally:
        kernel.close()


@contextlib.contextmanager
def _watched(kernel: Kernel, config: Config) -> Iterator[Callable[[Report], None]]:
    """Set the filter of the wake-up socket, where systemd hands us one: it says which changes start us again.

    During the run all changes of others do, so that nothing is missed; after it those that concern the ENIs found.
    """
    handed = None
    if config.unattended:
        from eni_bootstrap.kernel import wakeup_filter
        handed = wakeup_filter.passed()
    if handed is None:
        yield lambda report: None
        return
    with handed:
        wakeup_filter.settle(handed)
        wakeup_filter.narrow(handed, config, port=kernel.port)
        devs: List[str] = []
        ended: List[Report] = []
        try:
            yield ended.append
            devs = [dev for report in ended for dev in report.devs]
        finally:
            # A run that has failed does not tell: then the links count that an earlier one has put into our group. What
            # it has failed of is what is to be said.
            with contextlib.suppress(BootstrapError):
                devs = devs or [link.name for link in kernel.links() if link.group == config.group]
                if devs or ended:
                    wakeup_filter.narrow(handed, config, indexes=kernel.indexes(devs))


def _check_kernel(release: str) -> None:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and (int(numbers.group(1)), int(numbers.group(2))) < OLDEST_KERNEL:
        raise BootstrapError("this kernel, {}, is too old: rules carry an owner since {}.{}".format(
            release, *OLDEST_KERNEL))


def _may_change_network() -> bool:
    """Whether this process has CAP_NET_ADMIN, root or not (proc(5))."""
    try:
        with open("/proc/self/status") as lines:
            effective = next(line for line in lines if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return os.geteuid() == 0
    return bool(int(effective.split()[1], 16) >> _CAP_NET_ADMIN & 1)

"""The files by which a host runs the agent at each boot and each change: one list, for ``install``, packages and
images. PURE.

systemd listens to the kernel for us (the socket unit), so that a link that comes, goes or loses its address starts the
agent, whoever manages the network. Hooks and the timer are for events that the kernel does not report: a lease that was
renewed, an ENI that metadata lists later than the kernel shows it, an address assigned without any event.
"""

import re
import shlex
from typing import List, Match, NamedTuple, Sequence, Union

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.kernel import GROUPS

SERVICE = "eni-bootstrap.service"
SOCKET = "eni-bootstrap.socket"
TIMER = "eni-bootstrap.timer"
RETRY = "eni-bootstrap-retry.timer"
SETTLE = "eni-bootstrap-settle.timer"

BOOT = "timers.target"
"""The target that starts the timer at each boot. Nothing is ordered after it; most units are after sockets.target."""

_METADATA_HOSTS = " ".join(
    url.split("//")[1].strip("[]") for url in (Config().metadata_url, Config().metadata_url_ipv6))
_START = "systemctl --quiet is-active {} && systemctl --no-block start {}".format(TIMER, SERVICE)
"""The hooks' command. The timer is the switch: an operator who has disabled it wants none of this. Several starts while
a run is waiting to start, or at work, are one."""


class File(NamedTuple):
    """A regular file, or a symbolic link."""

    path: str
    """The absolute path on the host."""
    content: Union[str, bytes] = ""
    mode: int = 0o644
    target: str = ""
    """The target of a symbolic link; empty: it is a regular file."""
    only_beside: str = ""
    """The file is installed only where this directory is; empty: always."""

    @property
    def data(self) -> bytes:
        # surrogateescape: bytes that are no UTF-8 have come in that way
        return self.content if isinstance(self.content, bytes) else self.content.encode("utf-8", "surrogateescape")


def installed(command: Sequence[str]) -> List[File]:
    """The files that ``install`` puts on a host with systemd: in /etc, the operator's own place."""
    units = "/etc/systemd/system"
    enabled = File("{}/{}.wants/{}".format(units, BOOT, TIMER), target="{}/{}".format(units, TIMER))
    return _units(units, command) + [enabled] + _rest("/etc/udev/rules.d", "/etc/NetworkManager/dispatcher.d")


def packaged(command: Sequence[str]) -> List[File]:
    """The files of a distribution's package: in /usr/lib where programs look there; the package enables units itself.
    """
    return _units("/usr/lib/systemd/system", command) + _rest(
        "/usr/lib/udev/rules.d", "/usr/lib/NetworkManager/dispatcher.d")


def sysctls() -> File:
    """The drop-in for a configuration that asks for links' sysctls: CAP_NET_ADMIN is enough to write those of the
    network."""
    return File("/etc/systemd/system/{}.d/links.conf".format(SERVICE), "[Service]\nProtectKernelTunables=no\n")


def _units(folder: str, command: Sequence[str]) -> List[File]:
    units = [(SERVICE, _service(command)), (SOCKET, _SOCKET), (TIMER, _TIMER), (RETRY, _RETRY), (SETTLE, _SETTLE)]
    return [File("{}/{}".format(folder, name), content) for name, content in units]


def _rest(udev: str, dispatcher: str) -> List[File]:
    return [
        File(udev + "/70-eni-bootstrap.rules", _UDEV),
        File("/etc/iproute2/rt_protos.d/eni-bootstrap.conf", "{} eni-bootstrap\n".format(Config().protocol)),
        File(dispatcher + "/50-eni-bootstrap", _NETWORK_MANAGER, 0o755, only_beside="/etc/NetworkManager"),
        File("/etc/networkd-dispatcher/routable.d/50-eni-bootstrap", _PLAIN_HOOK, 0o755,
             only_beside="/etc/networkd-dispatcher"),
        # Debian's dhclient-script takes names without a dot only, that of Red Hat's descendants what ends in .sh and is
        # executable, although it is read in like the other.
        File("/etc/dhcp/dhclient-exit-hooks.d/eni-bootstrap", _DHCLIENT, only_beside="/etc/dhcp"),
        File("/etc/dhcp/dhclient-exit-hooks.d/eni-bootstrap.sh", "#!/bin/sh\n" + _DHCLIENT, 0o755,
             only_beside="/etc/dhcp"),
        File("/etc/network/if-up.d/eni-bootstrap", _IFUPDOWN, 0o755, only_beside="/etc/network"),
        File("/etc/network/if-post-down.d/eni-bootstrap", _IFUPDOWN, 0o755, only_beside="/etc/network"),
    ]


def _service(command: Sequence[str]) -> str:
    return _SERVICE.format(command=" ".join(map(_word, command)), metadata=_METADATA_HOSTS)


def _word(word: str) -> str:
    """A word of a command, quoted for systemd (systemd.service(5), COMMAND LINES)."""
    return re.sub(r"[^\w@%$+=:,./-]", _hexadecimal, word.replace("%", "%%").replace("$", "$$"))


def _hexadecimal(found: Match[str]) -> str:
    return "".join("\\x{:02x}".format(byte) for byte in found.group().encode())


# Nothing waits for the service: no target wants it, the timer starts it at boot, and with it the socket. A unit that is
# ordered after it waits for as long as a run takes, 30 s when metadata is dead. The time-out of systemd is for a run
# that hangs in the kernel. ProtectProc= and others are unknown to the oldest systemd that we work with (239), which
# says so and goes on; Restart= it refuses for a oneshot, so that the retry is a timer's.
_SERVICE = """\
[Unit]
Description=Routes for every elastic network interface (ENI)
Documentation=man:ip-rule(8)
After=network.target
Wants={socket}
OnFailure={retry}
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={{command}} apply --unattended --timeout 30
TimeoutStartSec=90s
SyslogIdentifier=eni-bootstrap
DynamicUser=yes
RuntimeDirectory=eni-bootstrap
RuntimeDirectoryPreserve=yes
AmbientCapabilities=CAP_NET_ADMIN
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes
UMask=0077
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
PrivateDevices=yes
PrivateIPC=yes
PrivateMounts=yes
PrivateTmp=yes
RestrictAddressFamilies=AF_NETLINK AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
IPAddressDeny=any
IPAddressAllow={{metadata}}
""".format(socket=SOCKET, retry=RETRY)

# The mask is rtnetlink's groups for links, addresses, routes and rules. 8 MiB hold a burst of some ten thousand
# messages. Without the default dependencies sockets.target does not wait for it. A program that can't even start reads
# nothing, and would be started again and again: after twenty starts in 30 s the socket fails, and the run that follows
# from that gets a new one, in which nothing is unread.
_SOCKET = """\
[Unit]
Description=Changes of links, addresses, routes and rules that may concern an ENI
OnFailure={service}
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Socket]
ListenNetlink=route {groups}
ReceiveBuffer=8M
TriggerLimitIntervalSec=30s
TriggerLimitBurst=20
""".format(service=SERVICE, groups=GROUPS)

# The start at boot, for which nothing waits, and the last resort: an address may be assigned without any event.
_TIMER = """\
[Unit]
Description=Routes for every elastic network interface (ENI), at boot and every 5 minutes

[Timer]
OnBootSec=0
OnUnitInactiveSec=5min
AccuracySec=1s

[Install]
WantedBy={}
""".format(BOOT)

# 30 s: a metadata service that comes back is asked within a minute, and a lasting failure costs two runs a minute.
_RETRY = """\
[Unit]
Description=Another try to set up routes for every elastic network interface (ENI)

[Timer]
Unit={service}
OnActiveSec=30s
AccuracySec=1s
RemainAfterElapse=no
""".format(service=SERVICE)

# Metadata may list an ENI only seconds after the kernel shows it: most at once, few after a minute.
_SETTLE = """\
[Unit]
Description=Routes for an elastic network interface (ENI) that has just been bound
Requisite={switch}
After={switch}

[Timer]
Unit={service}
{times}
AccuracySec=1s
RemainAfterElapse=no
""".format(service=SERVICE, switch=TIMER,
           times="\n".join("OnActiveSec={}s".format(second) for second in (1, 3, 7, 15, 30, 60, 120)))

# Alibaba's MACs; what has no driver of its own or above it (VLAN, bridge, container link) is no ENI, which can only be
# asked positively: != would hold for any parent without one. An event with SYNTH_UUID was asked for (udevadm trigger,
# at each boot), and is no hot-plug.
_UDEV = """\
SUBSYSTEM!="net", GOTO="eni_bootstrap_end"
ACTION=="remove", ENV{{ENI_BOOTSTRAP}}=="1", RUN+="/bin/systemctl --no-block restart {settle}"
ACTION!="add", GOTO="eni_bootstrap_end"
ATTR{{address}}=="00:16:3e:*", DRIVERS=="?*", ENV{{ENI_BOOTSTRAP}}="1"
ENV{{ENI_BOOTSTRAP}}!="1", GOTO="eni_bootstrap_end"
ATTR{{netdev_group}}=="0", ATTR{{netdev_group}}="{group}"
ENV{{SYNTH_UUID}}!="?*", RUN+="/bin/systemctl --no-block restart {settle}"
LABEL="eni_bootstrap_end"
""".format(settle=SETTLE, group=Config().group)

_GUARD = '[ -d /run/systemd/system ] || {} 0\n'
_RUN = "{{ {}; }} >/dev/null 2>&1 || :\n".format(_START)

_PLAIN_HOOK = "#!/bin/sh\n" + _GUARD.format("exit") + _RUN

_NETWORK_MANAGER = "#!/bin/sh\n" + _GUARD.format("exit") + """\
case "$2" in
    up|down|reapply|dhcp4-change|dhcp6-change) {} ;;
esac
""".format(_RUN.strip())

# Read in by dhclient-script itself, which goes on after it.
_DHCLIENT = _GUARD.format("return") + """\
case "$reason" in
    BOUND|RENEW|REBIND|REBOOT|EXPIRE|RELEASE|STOP) {} ;;
esac
""".format(_RUN.strip())

_IFUPDOWN = "#!/bin/sh\n" + _GUARD.format("exit") + '[ "$IFACE" != lo ] || exit 0\n' + _RUN


# The line for hosts without systemd.

_MARK = "# put here by eni-bootstrap install"


def with_start(text: str, command: Sequence[str]) -> str:
    """An rc.local with our line, once: before its last line where that is ``exit 0``, else at its end. A file without
    an interpreter gets one; nothing else changes.

    The line runs the agent in the background, so that the boot does not wait for it.
    """
    ours = "{{ {} apply --unattended 2>&1 | logger -t eni-bootstrap; }} & {}\n".format(
        " ".join(map(shlex.quote, command)), _MARK)
    lines = without_start(text).splitlines(True)
    if not lines or not lines[0].startswith("#!"):
        lines.insert(0, "#!/bin/sh\n")
    if not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    last = max(place for place, line in enumerate(lines) if line.strip())
    place = last if re.match(r"exit(\s+0)?\s*$", lines[last]) else len(lines)
    return "".join(lines[:place] + [ours] + lines[place:])


def without_start(text: str) -> str:
    """An rc.local without our line."""
    return "".join(line for line in text.splitlines(True) if not line.rstrip("\n").endswith(_MARK))

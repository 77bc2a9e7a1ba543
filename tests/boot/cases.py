"""What is promised, a function each: its docstring is the promise."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from eni_bootstrap.lab.vpc import macs_of, make_tree
from tests.boot.delivery import PACKAGE, PROGRAM, REPOSITORY
from tests.boot.lab import Failed, Lab, NotHere, Where

ALL = ("networkd", "NetworkManager", "ifupdown", "netplan")
BOTH = ("container", "vm")


class Case(NamedTuple):
    """One promise."""

    name: str
    promise: str
    check: Callable[[Lab], str]
    """Returns what was seen; raises where the promise was not kept."""
    managers: Sequence[str]
    kinds: Sequence[str]
    own: bool
    """On a machine of its own, not on one that it shares with others."""
    agent: bool
    """The agent is in the image; the others share a machine without it, and leave it so."""
    prepare: Optional[Callable[[Lab], None]]
    """Before that machine boots."""
    quick: bool
    """Among the few that are run in the virtual machine by default."""
    slow: bool
    """Takes half a minute or more: by default with one manager only."""
    but: Sequence[Tuple[str, str]]
    """Not for these, kind and manager."""

    def fits(self, where: Where) -> bool:
        """Slow ones on one suite's virtual machines only: what they wait for is no different on another."""
        return where.kind in self.kinds and where.manager in self.managers and (
            where.kind, where.manager) not in self.but and not (
            self.slow and where.kind == "vm" and where.suite != "bookworm")


CASES: List[Case] = []

INSTALL = "python3 {} install".format(PROGRAM)
"""On the running machine."""


def case(
    managers: Sequence[str] = ALL, kinds: Sequence[str] = BOTH, own: bool = False, agent: bool = True,
    prepare: Optional[Callable[[Lab], None]] = None, quick: bool = False, slow: bool = False,
    but: Sequence[Tuple[str, str]] = ()
) -> Callable[[Callable[[Lab], str]], Callable[[Lab], str]]:
    def add(check: Callable[[Lab], str]) -> Callable[[Lab], str]:
        promise = " ".join((check.__doc__ or "").split())
        CASES.append(Case(check.__name__.replace("_", "-"), promise, check, managers, kinds, own, agent, prepare, quick,
                          slow, but))
        return check
    return add


# It would be the same with each of them, and takes minutes: in virtual machines with networkd only, on every suite.
ONE_MANAGER = (("vm", "NetworkManager"), ("vm", "ifupdown"), ("vm", "netplan"))


# Boot


@case(quick=True)
def boot(lab: Lab) -> str:
    """After boot each ENI answers by itself, and no unit has failed."""
    seen = lab.symmetric(30 + lab.limit)
    failed = lab.run("systemctl --failed --no-legend --plain")
    if failed.strip():
        raise Failed("units failed: " + failed)
    return "booted in {:.0f} s; {}".format(lab.machine.boot_seconds if lab.machine else 0, seen)


@case(quick=True)
def sandbox(lab: Lab) -> str:
    """The unit's exposure is 1.5 at the most, and systemd finds nothing wrong with our units."""
    said = lab.run("systemd-analyze security --no-pager eni-bootstrap.service")
    found = re.search(r"Overall exposure level for eni-bootstrap.service: ([\d.]+)", said)
    if not found or float(found.group(1)) > 1.5:
        raise Failed("exposure " + (found.group(1) if found else "unknown: " + said[-300:]))
    # An old systemd does not know all that protects us, says so, and goes on.
    said = lab.run("systemd-analyze verify --man=no /etc/systemd/system/eni-bootstrap*.* 2>&1", check=False)
    wrong = [line for line in said.splitlines() if "eni-bootstrap" in line and "Unknown " not in line]
    if wrong:
        raise Failed("systemd-analyze verify: " + "; ".join(wrong))
    return "exposure {}".format(found.group(1))


@case(quick=True)
def byte_code(lab: Lab) -> str:
    """The program holds byte code for the machine's own Python, which its builder did not have."""
    return "code/" + lab.run(
        "python3 -c 'import sys, zipfile; tag = sys.implementation.cache_tag; "
        "zipfile.ZipFile(\"/usr/local/sbin/eni-bootstrap\").getinfo(\"code/\" + tag); print(tag)'").strip()


@case(quick=True)
def status(lab: Lab) -> str:
    """status needs no privileges, finds all as it should be, and says who manages the network and what protects us."""
    said = lab.run("setpriv --reuid=65534 --regid=65534 --clear-groups eni-bootstrap status")
    manager = {"netplan": "systemd-networkd", "networkd": "systemd-networkd"}.get(lab.where.manager, lab.where.manager)
    for words in ("the network is managed by " + manager, "(eni-bootstrap.socket)"):
        if words not in said:
            raise Failed("'{}' is not said: {}".format(words, said))
    if manager == "systemd-networkd" and "ours are marked as the kernel's" not in said:
        raise Failed("it is not said what protects us from networkd: " + said)
    return [line for line in said.splitlines() if manager in line][-1].strip()


# systemd-networkd

NETWORKD = ("networkd",)
NETWORKD_INSIDE = ("networkd", "netplan")


@case(NETWORKD_INSIDE, quick=True)
def networkd_restart(lab: Lab) -> str:
    """systemd-networkd is restarted."""
    return _restart(lab)


def _restart(lab: Lab) -> str:
    if lab.where.suite == "bullseye":
        raise NotHere("systemd-networkd 247 can't be restarted: with several links it aborts (address_is_ready) again "
                      "and again, with and without the agent")
    return lab.disturb("systemctl restart systemd-networkd")


@case(NETWORKD_INSIDE)
def networkd_reload(lab: Lab) -> str:
    """networkctl reload, nothing changed."""
    return lab.disturb("networkctl reload")


@case(NETWORKD_INSIDE)
def networkd_reconfigure(lab: Lab) -> str:
    """networkctl reconfigure of a secondary's link."""
    return lab.disturb("networkctl reconfigure eth1")


@case(NETWORKD_INSIDE)
def networkd_reconfigure_primary(lab: Lab) -> str:
    """networkctl reconfigure of the primary's link."""
    return lab.disturb("networkctl reconfigure eth0")


@case(NETWORKD)
def networkd_edit(lab: Lab) -> str:
    """A secondary's .network file is edited and networkd reloads."""
    return lab.disturb("echo '# edited' >>/etc/systemd/network/10-eth1.network; networkctl reload")


@case(NETWORKD)
def networkd_edit_primary(lab: Lab) -> str:
    """The primary's .network file is edited and networkd reloads."""
    return lab.disturb("echo '# edited' >>/etc/systemd/network/10-eth0.network; networkctl reload")


@case(NETWORKD_INSIDE)
def networkd_renew(lab: Lab) -> str:
    """networkctl renew: a new lease at once."""
    return lab.disturb("networkctl renew eth1 eth2")


@case(("netplan",))
def netplan_apply(lab: Lab) -> str:
    """netplan apply."""
    return lab.disturb("netplan apply")


# NetworkManager

NETWORK_MANAGER = ("NetworkManager",)


@case(NETWORK_MANAGER)
def nm_restart(lab: Lab) -> str:
    """NetworkManager is restarted."""
    return lab.disturb("systemctl restart NetworkManager")


@case(NETWORK_MANAGER)
def nm_reapply(lab: Lab) -> str:
    """nmcli device reapply of a secondary's link."""
    return lab.disturb("nmcli device reapply eth1")


@case(NETWORK_MANAGER)
def nm_connection_up(lab: Lab) -> str:
    """nmcli connection up of a secondary's connection."""
    return lab.disturb("nmcli connection up eth1")


@case(NETWORK_MANAGER)
def nm_off_on(lab: Lab) -> str:
    """nmcli networking off, and on."""
    return lab.disturb("nmcli networking off; sleep 2; nmcli networking on")


# ifupdown

IFUPDOWN = ("ifupdown",)


@case(IFUPDOWN)
def ifdown_ifup(lab: Lab) -> str:
    """ifdown and ifup of a secondary's link."""
    return lab.disturb("ifdown eth1; sleep 1; ifup eth1")


@case(IFUPDOWN)
def networking_restart(lab: Lab) -> str:
    """systemctl restart networking: all links go down and come up."""
    return lab.disturb("systemctl restart networking")


# Whoever manages


@case()
def link_bounce(lab: Lab) -> str:
    """A secondary's link is set down, and up a second later."""
    return lab.disturb("ip link set eth1 down; sleep 1; ip link set eth1 up")


@case()
def carrier_loss(lab: Lab) -> str:
    """A secondary's link loses its carrier for eight seconds."""
    def pull() -> None:
        assert lab.machine
        lab.machine.carrier("eth1", False)
        time.sleep(8)
        lab.machine.carrier("eth1", True)
    return lab.disturb(pull)


@case(but=ONE_MANAGER)
def rule_lost(lab: Lab) -> str:
    """Somebody deletes all of our rules."""
    # Until the agent has run again packets do go a wrong way, which nothing can prevent: their number is only told.
    return lab.disturb("ip rule del pref 7100; while ip rule del pref 7200; do :; done 2>/dev/null", spared=())


@case(slow=True, but=ONE_MANAGER)
def new_address(lab: Lab) -> str:
    """An address that is assigned to an ENI, of which nothing on the host tells, gets its rule from the timer (here
    shortened to 20 s by a drop-in), and answers as soon as it is on the link."""
    lab.run("mkdir -p /run/systemd/system/eni-bootstrap.timer.d; "
            "printf '[Timer]\\nOnBootSec=\\nOnUnitInactiveSec=\\nOnUnitInactiveSec=20s\\n' "
            ">/run/systemd/system/eni-bootstrap.timer.d/lab.conf; systemctl daemon-reload; "
            "systemctl restart eni-bootstrap.timer; systemctl start eni-bootstrap.service")
    address = "172.16.20.77"
    eni = lab.vpc.nics["eth1"]
    leaves = lab.vpc.tree["network"]["interfaces"]["macs"][eni.mac]
    leaves["private-ipv4s"] = leaves["private-ipv4s"].rstrip("]") + ',"{}"]'.format(address)
    lab.vpc.refresh()
    # 20 s after the last run, and the run's own time, which is not what is promised here.
    took = lab.wait("a rule for " + address, lambda: "from {} lookup 1001".format(address) in lab.run("ip rule"), 60)
    lab.run("ip address add {}/24 dev eth1".format(address))
    lab.vpc.eips["eth1, second address"] = lab.vpc.eip(address)
    try:
        seen = lab.symmetric(lab.limit, list(lab.vpc.eips))
    finally:
        del lab.vpc.eips["eth1, second address"]
        lab.run("ip address del {}/24 dev eth1; rm -r /run/systemd/system/eni-bootstrap.timer.d; "
                "systemctl daemon-reload; systemctl restart eni-bootstrap.timer".format(address), check=False)
    return "rule after {:.1f} s; {}".format(took, seen)


@case(but=ONE_MANAGER)
def unrelated_link(lab: Lab) -> str:
    """A link that is no ENI is plugged in: nothing of ours changes, and it is not taken for one."""
    assert lab.machine
    names = []
    rules = lab.run("ip rule")
    seen = lab.disturb(lambda: names.append(lab.machine.plug_other()) if lab.machine else None)
    try:
        time.sleep(3)
        if lab.run("ip rule") != rules:
            raise Failed("rules changed")
        said = lab.run("ip -d link show dev " + names[0])
        if "60235" in said:
            raise Failed("it was put into the ENIs' group: " + said)
    finally:
        lab.machine.unplug_other()
    return seen


@case(NETWORKD, ("vm",), quick=True)
def link_settings(lab: Lab) -> str:
    """Settings of links that the configuration asks for are made by the sandboxed service, once install has given it
    leave, and are put back when they are not asked for any more. (In a container sysctls can't be written.)"""
    files = ("net/ipv4/conf/eth1/rp_filter", "net/ipv4/conf/eth1/arp_ignore")

    def now() -> str:
        return lab.run("cat {} /sys/class/net/eth1/mtu".format(" ".join("/proc/sys/" + file for file in files)))
    before = now()
    lab.run("printf 'links:\\n  - {eni: eth1, mtu: 1400, rp-filter: 2, arp-ignore: 1}\\n' >/etc/eni-bootstrap.yaml")
    try:
        # Out of its own place it is the same as what was delivered.
        lab.run("python3 /usr/local/sbin/eni-bootstrap install; systemctl start eni-bootstrap.service", 180)
        set_up = now().split()
        said = lab.run("systemd-analyze security --no-pager eni-bootstrap.service | tail -n 1")
        if set_up != ["2", "1", "1400"]:
            raise Failed("rp_filter, arp_ignore, MTU: {}".format(set_up))
    finally:
        lab.run("rm /etc/eni-bootstrap.yaml; systemctl start eni-bootstrap.service; "
                "python3 /usr/local/sbin/eni-bootstrap install", 180, check=False)
    if now() != before:
        raise Failed("not put back: {}".format(now().split()))
    return "rp_filter, arp_ignore, MTU as asked for, and put back; meanwhile{}".format(
        said.split("for")[-1].strip().replace("eni-bootstrap.service", "") if "level" in said else "")


# A container has no udev, so that somebody else has to tell of the link: ifupdown does not.
UDEV = (("container", "ifupdown"),)


@case(quick=True, but=UDEV)
def hot_plug(lab: Lab) -> str:
    """An ENI is bound while the machine runs, and works without anybody's help. Virtual machine: although metadata
    lists it only 5 s later, and udev has put its link into our group by then."""
    assert lab.machine
    # Later by as much as the runs take that the kernel's own news start: none of them may see it listed by chance.
    late = 5 + 2 * lab.slower if lab.where.kind == "vm" else 0.0
    with lab.watch() as watch:
        before = watch.settle(time.monotonic(), 20)
        if None in before.values():
            raise Failed("before it began: {}".format(before))
        started = time.monotonic()
        name = lab.machine.plug(lab.machine.spare_mac, lab.machine.spare, late)
        if late:
            group = "cat /sys/class/net/{}/netdev_group".format(name)
            lab.wait("udev puts the link into group 60235",
                     lambda: lab.run(group, check=False).strip() == "60235", late - 1)
        # The next run after it is listed is 8 s later at the most. The new ENI's own packets go a wrong way until then.
        seen = lab.judge(watch, started + late, 8 + lab.limit, spared=("eth0", "eth1", "eth2"))
    return "{}, listed {:.0f} s later; from then {}".format(name, late, seen)


@case(quick=True, but=UDEV)
def hot_unplug(lab: Lab) -> str:
    """An ENI is unbound while the machine runs: none of its rules, tables and routes is left, the others go on."""
    assert lab.machine
    if "eth3" not in lab.vpc.nics:
        lab.machine.plug(lab.machine.spare_mac, lab.machine.spare)
        lab.symmetric(20 + lab.limit, spared=())
    eni = lab.vpc.nics["eth3"]
    address = str(lab.vpc.address("eth3"))
    if "from {} lookup 1003".format(address) not in lab.run("ip rule"):
        raise Failed("there is no rule for eth3 to begin with")
    command = "ip rule; ip route show table all; ip -6 rule; ip -6 route show table all"
    seen = lab.disturb(lambda: lab.machine.unplug("eth3") if lab.machine else None)

    def clean() -> bool:
        state = lab.run(command)
        return not any(word in state for word in (address, "1003", "eth3"))
    took = lab.wait("no rule, table or route of eth3 ({})".format(eni.mac), clean, lab.limit)
    return "{}; clean {:.1f} s later".format(seen, took)


@case(own=True, prepare=lambda lab: lab.vpc.fabric.silence("metadata"), slow=True, but=ONE_MANAGER)
def dead_metadata(lab: Lab) -> str:
    """The metadata service is dead at boot: nothing waits for us, login works, one clear line in the journal tells of
    it, and the agent succeeds by itself once the service is back."""
    chain = lab.run("systemd-analyze critical-chain --no-pager")
    if "eni-bootstrap" in chain:
        raise Failed("the boot waited for us:\n" + chain)
    login = ["systemd-logind.service"] + ["serial-getty@ttyS0.service"] * (lab.where.kind == "vm")
    for unit in ["multi-user.target", "systemd-user-sessions.service"] + login:
        lab.run("systemctl is-active " + unit)

    def ended() -> str:
        return lab.run("systemctl show -p ExecMainExitTimestampMonotonic --value eni-bootstrap.service").strip()
    lab.wait("the first run ends", lambda: ended() not in ("", "0"), 60)
    reached = int(lab.run("systemctl show -p ActiveEnterTimestampMonotonic --value multi-user.target"))
    if reached > int(ended()):
        raise Failed("multi-user.target was reached only after the agent had given up")
    invocation = lab.run("journalctl -b -t eni-bootstrap -o json --output-fields=_SYSTEMD_INVOCATION_ID | head -n 1 "
                         "| grep -o '_SYSTEMD_INVOCATION_ID\" *: *\"[^\"]*' | grep -o '[^\"]*$'").strip()
    lines = lab.run("journalctl -b -o cat -t eni-bootstrap _SYSTEMD_INVOCATION_ID=" + invocation).splitlines()
    if len(lines) != 1 or "100.100.100.200" not in lines[0]:
        raise Failed("{} lines instead of a clear one: {}".format(len(lines), lines))
    lab.vpc.fabric.silence("metadata", False)
    # The next try comes 30 s after a failed run, which takes 30 s itself while the service is dead.
    return "said: {}; once it is back {}".format(lines[0], lab.symmetric(65 + lab.limit, spared=()))


@case(kinds=("vm",), but=ONE_MANAGER)
def reboot(lab: Lab) -> str:
    """After a reboot each ENI answers by itself again."""
    assert lab.machine
    lab.machine.reboot()
    return "rebooted in {:.0f} s; {}".format(lab.machine.boot_seconds, lab.symmetric(30 + lab.limit))


_LEASE = 40
"""Seconds: clients ask for another after half of that (RFC 2131, T1)."""
_NEW_LEASE = {
    "networkd": "networkctl renew eth0 eth1 eth2", "netplan": "networkctl renew eth0 eth1 eth2",
    "NetworkManager": "for name in eth0 eth1 eth2; do nmcli connection up $name; done",
    "ifupdown": "systemctl restart networking",
}


@case(slow=True)
def lease_renewed(lab: Lab) -> str:
    """Every lease is renewed in time (leases of 40 s), and nobody notices."""
    ports = [lab.vpc.fabric.ports[name] for name in lab.vpc.nics]
    usual = ports[0].lease.seconds

    def take(seconds: int) -> None:
        for port in ports:
            port.lease = port.lease._replace(seconds=seconds)
        lab.run(_NEW_LEASE[lab.where.manager])
        lab.symmetric(20 + lab.limit)

    def wait() -> None:
        before = [port.counters["leased"] for port in ports]
        lab.wait("every lease is renewed", lambda: all(
            port.counters["leased"] > then for port, then in zip(ports, before)), 2.5 * _LEASE)

    take(_LEASE)
    try:
        return lab.disturb(wait)
    finally:
        take(usual)


# Files of the manager's own, and no agent

FORMAT = {"networkd": "networkd", "NetworkManager": "networkmanager", "netplan": "netplan", "ifupdown": "ip"}


ACCESS = """\
access:
  - {to: 192.0.2.0/24, answer: prohibit}
  - {to: 10.60.0.0/16, protocol: tcp, port: 443, via: eth2}
  - {user: 1001, via: eth1}
"""


def _rendered(lab: Lab) -> None:
    """The ENIs have IPv6 as well; what the files say, they say because of metadata alone."""
    for mac, leaves in macs_of(make_tree(4, ipv6=True)).items():
        if mac in macs_of(lab.vpc.tree):
            macs_of(lab.vpc.tree)[mac].update(leaves)
    lab.vpc.refresh()
    # A rule of netplan knows nothing of protocols, ports and users.
    lab.root.write("/etc/eni-bootstrap.yaml", "{}" if lab.where.manager == "netplan" else ACCESS)
    _render(lab, FORMAT[lab.where.manager], lab.root.path)
    if lab.where.manager == "ifupdown":
        lab.root.write("/etc/rc.local", "#!/bin/sh\nexec /usr/local/sbin/eni-bootstrap-routes\n", 0o755)


def _render(lab: Lab, name: str, folder: str) -> None:
    tree = os.path.join(lab.folder, "tree.json")
    with open(tree, "w") as file:
        json.dump(lab.vpc.tree, file)
    subprocess.run([sys.executable, lab.root.inside(PROGRAM), "render", name, "--metadata", tree, "--output", folder,
                    "--config", lab.root.inside("/etc/eni-bootstrap.yaml")],
                   check=True, stdout=subprocess.DEVNULL, timeout=60)


# netplan asks for a permanent MAC, which a container's links have not.
@case(own=True, agent=False, prepare=_rendered, quick=True, slow=True, but=(("container", "netplan"), (
    "vm", "networkd"), ("vm", "NetworkManager"), ("vm", "ifupdown")))
def rendered(lab: Lab) -> str:
    """With files that render made for the manager (for ifupdown a script that rc.local calls), and no agent: each ENI
    answers by itself, all look-ups of verify are right, IPv4 and IPv6. While a link is down none of its packets leaves
    by another ENI, but with NetworkManager, whose rules go with the link, and of whose files that is said."""
    seen = lab.symmetric(30 + lab.limit)
    primary = next(eni for eni in lab.vpc.nics.values() if eni.primary).subnets[1]
    # The laboratory has no DHCPv6, by which the primary's would come.
    lab.run("ip -6 address add {0}/128 dev eth0 nodad && ip -6 route add default via {1} dev eth0 onlink metric 1024"
            .format(primary.addresses[0], primary.gateway))
    said = lab.run("python3 {} verify".format(PROGRAM), check=False)
    proven = re.search(r"\n(\d+) look-ups, none wrong\n", said)
    # 24 of the ENIs' own addresses; the rest are the configuration's.
    if not proven or int(proven.group(1)) < (24 if lab.where.manager == "netplan" else 28) or "PROBLEM" in said:
        raise Failed("verify: " + said)
    again = "; /etc/rc.local" if lab.where.manager == "ifupdown" else ""
    bounced = lab.disturb("ip link set eth1 down; sleep 3; ip link set eth1 up" + again,
                          spared=() if lab.where.manager == "NetworkManager" else None)
    return "{}; {}; link down and up: {}".format(seen, proven.group().strip(), bounced)


CLOUD_INITS = """\
network:
  version: 2
  ethernets:
    eth1: {dhcp4: true, dhcp4-overrides: {route-metric: 300}, dhcp6: true, dhcp6-overrides: {route-metric: 300},
           match: {macaddress: "00:16:3e:0e:00:02"}, set-name: eth1}
"""
"""As its newer versions write for a secondary ENI."""


def _for_netplan(lab: Lab) -> None:
    _rendered(lab)
    lab.root.write("/opt/netplan/etc/netplan/50-cloud-init.yaml", CLOUD_INITS, 0o600)
    lab.root.write("/etc/eni-bootstrap.yaml", "{}")
    _render(lab, "netplan", lab.root.inside("/opt/netplan"))


@case(NETWORKD, ("container",), own=True, agent=False, prepare=_for_netplan)
def netplan_generate(lab: Lab) -> str:
    """netplan takes the file that render made for it, IPv6 and all, without a word, beside one of cloud-init's, and
    tells networkd each rule, each way by a gateway and the fences."""
    if lab.run("netplan generate --root-dir /opt/netplan 2>&1").strip():
        raise Failed("netplan: " + lab.run("netplan generate --root-dir /opt/netplan 2>&1"))
    told = lab.run("cat /opt/netplan/run/systemd/network/10-netplan-*.network")
    for words, number in (("[RoutingPolicyRule]", 6), ("Type=unreachable\nMetric=2147483647\n", 2), ("Metric=-", 0),
                          ("Type=unreachable", 2), ("Destination=0.0.0.0/0\nGateway=", 2),
                          ("Destination=::/0\nGateway=", 4), ("Address=2001:", 2)):
        if told.count(words) != number:
            raise Failed("{} is there {} times, not {}: {}".format(words, told.count(words), number, told))
    return "6 rules"


# The first boot, by cloud-init

CLOUD_INIT = ("cloud-init",)
FILES = ("100.100.100.200", 8080)
"""Where the instance fetches the single file from: another port of the metadata service's machine."""


CONFIGURATION = """\
write_files:
  - path: /etc/eni-bootstrap.yaml
    content: |
      access:
        - {user: 1001, via: eth1}
        - {to: 192.0.2.0/24, answer: prohibit}
"""
"""Given along by user data; the library for it is in the single file."""


def _user_data(lab: Lab) -> None:
    """The repository's own example, filled in."""
    with open(os.path.join(REPOSITORY, "cloud-init", "user-data-file.yaml")) as file:
        text = file.read()
    program = lab.root.inside(PROGRAM)
    with open(program, "rb") as content:
        digest = hashlib.sha256(content.read()).hexdigest()
    served = os.path.join(lab.folder, "files")
    os.mkdir(served)
    shutil.move(program, os.path.join(served, "eni-bootstrap.pyz"))
    text, urls = re.subn(r"url=\S+/eni-bootstrap.pyz", "url=http://{}:{}/eni-bootstrap.pyz".format(*FILES), text)
    text, digests = re.subn("sha256=0{64}", "sha256=" + digest, text)
    assert urls == digests == 1, "the example has changed"
    lab.serve(served, FILES)
    lab.vpc.service.user_data = text.replace("runcmd:\n", CONFIGURATION + "runcmd:\n", 1)
    # A cloud-init that sends tokens has to; the one of Debian 12 and 11 can't.
    lab.vpc.service.faults.hardened = lab.where.suite not in ("bullseye", "bookworm")


@case(CLOUD_INIT, ("vm",), own=True, agent=False, prepare=_user_data)
def user_data(lab: Lab) -> str:
    """First boot by user data that cloud-init fetches from the metadata service (by its AliYun data source, with tokens
    required where this cloud-init sends them), and a reboot after it: each ENI answers by itself, and the configuration
    that was given along is in force."""
    assert lab.machine
    seen = lab.symmetric(60 + lab.limit, spared=())
    rules = lab.run("ip rule")
    if "uidrange 1001-1001 lookup 1001" not in rules or "to 192.0.2.0/24 prohibit" not in rules:
        raise Failed("the configuration is not in force: " + rules)
    said = lab.run("cloud-init --version 2>&1; cloud-init status --long", 120, check=False)
    if "DataSourceAliYun" not in said or "status: done" not in said:
        raise Failed("cloud-init: " + said)
    booted = lab.machine.boot_seconds
    lab.machine.reboot()
    again = lab.symmetric(30 + lab.limit, spared=())
    return "{}{}, booted in {:.0f} s; {}; after a reboot in {:.0f} s {}".format(
        said.splitlines()[0], ", tokens required" if lab.vpc.service.faults.hardened else "", booted, seen,
        lab.machine.boot_seconds, again)


@case(CLOUD_INIT, ("vm",), own=True, agent=False)
def baked(lab: Lab) -> str:
    """A system that was made an image by cloud-init/bake, started as another instance with other MACs and addresses:
    each ENI answers by itself."""
    assert lab.machine
    lab.bake()
    seen = lab.symmetric(60 + lab.limit, spared=())
    failed = lab.run("systemctl --failed --no-legend --plain")
    if failed.strip():
        raise Failed("units failed: " + failed)
    return "booted in {:.0f} s; {}".format(lab.machine.boot_seconds, seen)


# Everything but what is written all the time, and what the lab itself has put there. Of files the time of the inode's
# last change, which nobody can turn back: no file that was there before has been written in between.
_FILES = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/tmp "
    "-o -path /var/log -o -path /var/lib/systemd -o -path /var/lib/NetworkManager -o -path /var/lib/dhcp "
    "-o -path /var/lib/dpkg "
    "-o -path /usr/local/lib/lab \\) -prune "
    "-o \\( -type f -printf '%p %M %U %G %s %C@\\n' -o -printf '%p %M %U %G %l\\n' \\) | sort")
_NETWORK = ("ip -d rule; ip -d -6 rule; ip route show table all; ip -6 route show table all; "
            "ip -br address; ip -d link | grep -o '^[0-9]*: [^:]*\\|group [^ ]*\\|state [^ ]*'")


@case(agent=False, slow=True, but=ONE_MANAGER)
def uninstall(lab: Lab) -> str:
    """Without the agent only the primary answers (else the laboratory would be blind). Installed on the running
    machine, it works at once; remove and uninstall leave files, rules and routes as they were before."""
    lab.wait("every link has its address", lambda: lab.run("ip -4 -br address").count(" UP ") == 3, 60)
    with lab.watch() as watch:
        found = watch.settle(time.monotonic(), 3)
        if found["eth0"] is None or found["eth1"] is not None or found["eth2"] is not None or not watch.strays():
            raise Failed("without the agent: {}".format(found))
    files, network = lab.run(_FILES, 300), lab.run(_NETWORK)
    lab.run(INSTALL, 180)
    seen = lab.symmetric(10 + lab.limit, spared=())
    if lab.run(_NETWORK) == network:
        raise Failed("nothing was installed")
    return "{}; {}".format(seen, _as_before(lab, "eni-bootstrap remove; eni-bootstrap uninstall", files, network))


@case(NETWORKD, ("container",), agent=False)
def debian_package(lab: Lab) -> str:
    """Installed by dpkg the agent works at once; removed and purged it leaves files, rules and routes as before."""
    files, network = lab.run(_FILES, 300), lab.run(_NETWORK)
    lab.run("dpkg --install {}".format(PACKAGE), 120)
    seen = lab.symmetric(10 + lab.limit, spared=())
    lab.run("systemctl is-enabled eni-bootstrap.timer; systemctl is-active eni-bootstrap.socket")
    return "{}; {}".format(seen, _as_before(
        lab, "eni-bootstrap remove; dpkg --remove eni-bootstrap; dpkg --purge eni-bootstrap", files, network))


def _as_before(lab: Lab, command: str, files: str, network: str) -> str:
    lab.run(command, 120)
    time.sleep(3)
    problems = _difference(network, lab.run(_NETWORK)) + _difference(files, lab.run(_FILES, 300))
    if problems:
        raise Failed("; ".join(problems[:8]))
    return "{} files and directories as before".format(len(files.splitlines()))


def _difference(before: str, after: str) -> List[str]:
    old, new = before.splitlines(), after.splitlines()
    were, are = set(old), set(new)
    return ["gone: " + line for line in old if line not in are] + ["new: " + line for line in new if line not in were]


@case(NETWORKD, agent=False)
def live_install(lab: Lab) -> str:
    """Installed while networkd runs: when it configures links anew no rule is lost."""
    lab.run(INSTALL, 180)
    seen = lab.symmetric(10 + lab.limit, spared=())
    seen += "; primary reconfigured: " + lab.disturb("networkctl reconfigure eth0")
    seen += "; secondary: " + lab.disturb("networkctl reconfigure eth1")
    return seen + ("" if lab.where.suite == "bullseye" else "; networkd restarted: " + _restart(lab))

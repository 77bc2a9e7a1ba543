"""A Windows that is as strict as the real one is documented to be, an instance around it, and a stand-in for msvcrt."""

import contextlib
import errno
import io
import json
import os
import re
import sys
import types
import xml.etree.ElementTree
from ipaddress import ip_address, ip_network

from eni_bootstrap import cli
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.windows import agent, installation, powershell, scripts
from tests.agent import Result
from tests.build import mac
from tests.fakes import Clock

V4, V6 = "0.0.0.0/0", "::/0"
TASK_NAMESPACE = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"

_CHANGE = re.compile(r"        try \{ (.*) \| Out-Null; '' \} catch \{ \[string\]\$_\.Exception\.Message \}")
_QUESTION = re.compile(r"        try \{ Answer \((Find-NetRoute .*)\) \} catch "
                       r"\{ @\{ error = \[string\]\$_\.Exception\.Message \} \}")
_WORD = re.compile(r"'((?:[^']|'')*)'|(\S+)")


class Killed(BaseException):
    """The agent's process has ended here."""


class Refusal(Exception):
    """What a cmdlet says."""


class FakeWindows:
    """Adapters, their addresses, and the two stores of default routes.

    A route's identity in a store is (prefix, interface, next hop); a store maps it to the metric.
    """

    def __init__(self):
        self.adapters = {}  # index: [name, mac, guid, enabled]
        self.metrics = {}  # (index, version): metric
        self.weak = set()  # (index, version)
        self.addresses = []  # (index, address, prefix length)
        self.tentative = set()  # those of them that Windows still asks the network about, and does not use
        self.own = {}  # what DHCP and router advertisements make, as in a store
        self.active, self.persistent = {}, {}
        self.typed = set()  # keys of what somebody has made or changed and is in force
        self.typed_for_good = set()  # and of what is persistent
        self.elevated, self.boot = True, 1700000000
        self.owner, self.closed, self.config_owner = "", False, "S-1-5-32-544"
        self.commands = []
        self.kill_after = None
        self.tasks = {}
        self.tools = []
        self.form = "lists"
        self.before = None  # called before the changes are made

    # What happens to a host

    def plug(self, number, *addresses, index=None, name=None, metric=15, gateway=None, own_metric=0, guid=None):
        """The adapter of ENI number n; ``gateway``: DHCP or a router makes a default route."""
        index = index or number + 5
        name = name or ("Ethernet" if number == 0 else "Ethernet {}".format(number + 1))
        guid = guid or "{{0000000{}-AAAA-bbbb-cccc-{:012x}}}".format(number, index)
        self.adapters[index] = [name, mac(number), guid, True]
        for address in addresses:
            text, length = address.split("/")
            self.addresses.append((index, text if "%" in text else str(ip_address(text)), int(length)))
        for version in (4, 6):
            self.metrics[index, version] = metric
        if gateway:
            prefix = V6 if ":" in gateway else V4
            self.own[prefix, index, gateway] = own_metric
        self._come_up(index)
        return index

    def unplug(self, index):
        self.adapters.pop(index)
        self.addresses = [each for each in self.addresses if each[0] != index]
        self.metrics = {key: metric for key, metric in self.metrics.items() if key[0] != index}
        self.own = {key: metric for key, metric in self.own.items() if key[1] != index}
        self._go_down(index)

    def disable(self, index):
        self.adapters[index][3] = False
        self._go_down(index)

    def enable(self, index):
        self.adapters[index][3] = True
        self._come_up(index)

    def rename(self, index, name):
        self.adapters[index][0] = name

    def reboot(self, renumbered=None):
        """``renumbered``: old index to new."""
        self.boot += 1000
        for old, new in (renumbered or {}).items():
            self.adapters[new] = self.adapters.pop(old)
            self.addresses = [(new if each[0] == old else each[0],) + each[1:] for each in self.addresses]
            self.metrics = {(new if key[0] == old else key[0], key[1]): value for key, value in self.metrics.items()}
            for store in (self.own, self.persistent):
                for key in [key for key in store if key[1] == old]:
                    store[key[0], new, key[2]] = store.pop(key)
            self.typed_for_good = {(prefix, new if index == old else index, hop)
                                   for prefix, index, hop in self.typed_for_good}
        self.active, self.typed = {}, set(self.typed_for_good)
        for index in self.adapters:
            self._come_up(index)

    def _go_down(self, index):
        self.active = {key: metric for key, metric in self.active.items() if key[1] != index}
        self.typed = {key for key in self.typed if key[1] != index or key in self.typed_for_good}

    def _come_up(self, index):
        """DHCP comes last and takes over what is there."""
        if self.adapters[index][3]:
            for store in (self.persistent, self.own):
                self.active.update({key: metric for key, metric in store.items() if key[1] == index})

    def type_route(self, prefix, index, gateway, metric, persistent=True):
        """Somebody does, or changes what is there."""
        self.typed.add((prefix, index, gateway))
        self.typed_for_good.update([(prefix, index, gateway)] if persistent else [])
        for store in [self.active] + ([self.persistent] if persistent else []):
            store[prefix, index, gateway] = metric

    def state(self):
        return dict(self.active), dict(self.persistent)

    def effective(self, key):
        return self.active[key] + self.metrics[key[1], 6 if key[0] == V6 else 4]

    # What PowerShell does

    def run(self, script, timeout):
        script.encode("ascii")
        if timeout <= 0:
            raise BootstrapError("PowerShell has not ended within 0 s")
        if script == scripts.READ:
            return json.dumps(self._formed(self._read()))
        head, body, tail = re.match(r"(.*\n    Say @\(\n)(.*?)(\n    \)\n\} catch \{\n.*)\Z", script, re.S).groups()
        assert "\n$global:ErrorActionPreference = 'Stop'\n" in head, "no refusal would be caught"
        assert tail.count("Say @{ error = ") == 1
        lines = body.split("\n")
        if "Find-NetRoute" in body:
            return json.dumps([self._tried(self._answer, _QUESTION.fullmatch(line).group(1), True) for line in lines])
        if self.before:
            self.before()
        return json.dumps([self._tried(self._change, _CHANGE.fullmatch(line).group(1), False) for line in lines])

    @staticmethod
    def _tried(do, text, is_question):
        words = [one.replace("''", "'") if other == "" else other for one, other in _WORD.findall(text)]
        if not is_question:
            assert words.pop() == "-Confirm:$false", "it would wait for an answer"
        assert len(words) % 2
        cmdlet, options = words[0], dict(zip(words[1::2], words[2::2]))
        try:
            return do(cmdlet, options)
        except Refusal as refusal:
            return {"error": str(refusal)} if is_question else str(refusal)

    def _change(self, cmdlet, options):
        words = dict(options)
        key = (words.pop("-DestinationPrefix"), int(words.pop("-InterfaceIndex")), words.pop("-NextHop"))
        store = words.pop("-PolicyStore", "")
        metric = int(words.pop("-RouteMetric")) if cmdlet != "Remove-NetRoute" else None
        assert not words and store in ("", "ActiveStore", "PersistentStore") and key[0] in (V4, V6)
        assert ip_address(key[2]).version == ip_network(key[0]).version
        if self.kill_after == len(self.commands):
            raise Killed
        self.commands.append("{} {} {} {} {}".format(cmdlet, *key, store or "Both"))
        if not self.elevated:
            raise Refusal("Access is denied. ")
        stores = {"": [self.active, self.persistent], "ActiveStore": [self.active],
                  "PersistentStore": [self.persistent]}[store]
        if cmdlet == "New-NetRoute":
            if store == "PersistentStore":
                raise Refusal("Invalid parameter Store PersistentStore. ")
            if not self.adapters.get(key[1], [None] * 4)[3]:
                raise Refusal("Element not found. ")
            if any(key in each for each in stores):
                raise Refusal("Instance MSFT_NetRoute already exists ")
            for each in stores:
                each[key] = metric
            return ""
        held = [each for each in stores if key in each]
        if not held:
            raise Refusal("No MSFT_NetRoute objects found with property 'DestinationPrefix' equal to '{}'.".format(
                key[0]))
        for each in held:
            if cmdlet == "Set-NetRoute":
                assert store != "PersistentStore", "the documentation: specify ActiveStore only"
                each[key] = metric
            else:
                assert cmdlet == "Remove-NetRoute"
                del each[key]
        return ""

    def _answer(self, cmdlet, options):
        assert cmdlet == "Find-NetRoute"
        words = dict(options)
        dst, src = ip_address(words.pop("-RemoteIPAddress")), words.pop("-LocalIPAddress", None)
        assert not words
        indexes = {index for index, adapter in self.adapters.items() if adapter[3]}
        if src is not None:
            indexes = {index for index, address, _ in self.addresses if address == src and index in indexes
                       and address not in self.tentative}
            if any((index, dst.version) in self.weak for index in indexes):
                indexes = {index for index, adapter in self.adapters.items() if adapter[3]}
        found = []
        for index, address, length in self.addresses:
            network = ip_network("{}/{}".format(address.split("%")[0], length), strict=False)
            if index in indexes and dst.version == network.version and dst in network:
                found.append((-length, self.metrics[index, dst.version] + 256, index,
                              "::" if dst.version == 6 else "0.0.0.0"))
        found += [(0, self.effective(key), key[1], key[2]) for key in self.active
                  if key[1] in indexes and ip_network(key[0]).version == dst.version]
        if not found:
            raise Refusal("The network location cannot be reached. ")
        _, _, index, gateway = min(found)
        return {"index": index, "gateway": gateway}

    def _read(self):
        numbers = self.form != "names"
        return {
            "elevated": self.elevated, "boot": self.boot, "owner": self.owner,
            "closed": self.closed, "config_owner": self.config_owner,
            "adapters": [{
                "InterfaceIndex": index, "Name": name, "PermanentAddress": address.replace(":", "").upper(),
                "NetworkAddresses": [address.replace(":", "").upper()], "InterfaceGuid": guid,
                "InterfaceAdminStatus": (1 if enabled else 2) if numbers else ("Up" if enabled else "Down"),
            } for index, (name, address, guid, enabled) in self.adapters.items()],
            "interfaces": [{
                "InterfaceIndex": index, "InterfaceMetric": metric,
                "AddressFamily": {4: 2, 6: 23}[version] if numbers else "IPv{}".format(version),
                "WeakHostSend": int((index, version) in self.weak) if numbers else
                "Enabled" if (index, version) in self.weak else "Disabled",
            } for (index, version), metric in self.metrics.items()],
            "addresses": [{
                "InterfaceIndex": index, "IPAddress": address, "PrefixLength": length,
                "AddressState": (1 if numbers else "Tentative") if address in self.tentative else
                4 if numbers else "Preferred",
            } for index, address, length in self.addresses if self.adapters[index][3]],
            "active": self._rows(self.active), "persistent": self._rows(self.persistent),
        }

    @staticmethod
    def _rows(store):
        return [{"DestinationPrefix": prefix, "InterfaceIndex": index, "NextHop": gateway, "RouteMetric": metric}
                for (prefix, index, gateway), metric in store.items()]

    def _formed(self, found):
        """As PowerShell 5.1 may print lists."""
        if self.form == "bare":
            return {name: rows if not isinstance(rows, list) else None if not rows else rows[0] if len(rows) == 1
                    else {"value": rows, "Count": len(rows)} for name, rows in found.items()}
        return found

    # The other programs

    def tool(self, command, timeout=60.0):
        self.tools.append(list(command))
        if command[0] == "icacls.exe":
            assert os.path.lexists(command[1]) and command[-1] == "/Q"
            if "/setowner" in command:
                self.owner = command[command.index("/setowner") + 1].lstrip("*")
            self.closed = self.closed or "/inheritance:r" in command
            return 0, b""
        assert command[0] == "schtasks.exe" and command[command.index("/TN") + 1] == "eni-bootstrap"
        if command[1] == "/Query":
            assert command[-1] == "/XML"
            return (0, self.tasks["eni-bootstrap"]) if self.tasks else (1, b"ERROR: The system cannot find the file.")
        if command[1] == "/Create":
            with open(command[command.index("/XML") + 1], "rb") as file:
                definition = file.read()
            assert definition[:2] == b"\xff\xfe" and "/F" in command
            assert xml.etree.ElementTree.fromstring(definition.decode("utf-16")).tag == TASK_NAMESPACE + "Task"
            self.tasks["eni-bootstrap"] = definition[2:]
        else:
            assert command[1] == "/Delete" and "/F" in command
            del self.tasks["eni-bootstrap"]
        return 0, b""


def msvcrt():
    """The module: its lock is held by a descriptor, too, and freed when that is closed."""
    import fcntl  # there are tests that pretend to be where this is not
    module = types.ModuleType("msvcrt")
    module.LK_NBLCK = 2

    def locking(descriptor, mode, count):
        assert (mode, count) == (2, 1)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OSError(errno.EACCES, "Permission denied")

    module.locking = locking
    return module


def tree(*interfaces):
    """The metadata service's tree of these ENIs; the first is the primary."""
    macs = {}
    for each in interfaces:
        leaves = macs[each.mac] = {"network-interface-id": each.eni_id}
        for subnet in each.subnets:
            if subnet.version == 4:
                leaves.update({
                    "primary-ip-address": str(subnet.addresses[0]), "netmask": str(subnet.vswitch.netmask),
                    "private-ipv4s": json.dumps([str(address) for address in subnet.addresses]),
                    "gateway": str(subnet.gateway), "vswitch-cidr-block": str(subnet.vswitch)})
            else:
                leaves.update({
                    "ipv6s": "[{}]".format(",".join(map(str, subnet.addresses))), "ipv6-gateway": str(subnet.gateway),
                    "vswitch-ipv6-cidr-block": str(subnet.vswitch)})
    return {"mac": interfaces[0].mac, "network": {"interfaces": {"macs": macs}}}


class Instance:
    """A Windows and its metadata: ``instance("apply")`` is the command line."""

    def __init__(self, folder, monkeypatch):
        self.windows = FakeWindows()
        self.tree = {}
        self.failure = None
        for name, path in (("ProgramData", "data"), ("ProgramFiles", "programs"), ("SystemRoot", "windows"),
                           ("PUBLIC", "users/public"), ("USERPROFILE", "users/me")):
            monkeypatch.setenv(name, str(folder / path))
        self.folder = folder
        monkeypatch.setitem(sys.modules, "msvcrt", msvcrt())
        monkeypatch.setattr(cli, "PLATFORM", "win32")
        monkeypatch.setattr(powershell, "run", self.windows.run)
        monkeypatch.setattr(powershell, "tool", self.windows.tool)
        monkeypatch.setattr(agent, "client", lambda config, deadline, every_leaf=False: self)
        self.clock = Clock()  # nobody waits for real
        for module in (agent, installation):
            monkeypatch.setattr(module, "time", types.SimpleNamespace(sleep=self.sleep))
            monkeypatch.setattr(module, "Deadline", lambda seconds: Deadline(seconds, self.clock))
        self.while_waiting = []

    def sleep(self, seconds):
        """Meanwhile something may happen."""
        self.clock.sleep(seconds)
        if self.while_waiting:
            self.while_waiting.pop(0)()

    @property
    def state(self):
        with open(str(self.folder / "data" / "eni-bootstrap" / "state.json")) as file:
            return json.load(file)

    def fetch(self):
        if self.failure:
            raise self.failure
        return self.tree

    def close(self):
        pass

    def list(self, *interfaces):
        self.tree = tree(*interfaces)

    def __call__(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(list(arguments))
        return Result(code, out.getvalue(), err.getvalue())

"""A machine with its ENIs in a simulated VPC: a container (systemd-nspawn, starts in a second) or a virtual machine
(own kernel, udev, hot-plug). Both do the same and can be asked when their network is broken.
"""

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import time
import uuid
from typing import Any, Dict, List, Optional

from eni_bootstrap.lab.vpc import REAL, Tree, Vpc, make_tree
from tests.boot.cgroup import ControlGroup
from tests.boot.channel import Channel, NoAnswer, Result
from tests.boot.image import Root

BOOT = {"container": 60, "vm": 300}
"""Seconds until a boot is given up: several times what it takes on a busy machine."""

_GUEST = "/usr/local/lib/lab/guest.py"
_UNIT = """\
[Unit]
Description=Commands of the laboratory
DefaultDependencies=no
After=local-fs.target

[Service]
ExecStart=/usr/bin/python3 {guest} {path}
Restart=always
RestartSec=1

[Install]
WantedBy=sysinit.target
"""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

_OTHER_VENDOR = "52:54:00:12:34:56"
"""The MAC of a link that is no ENI."""


class EmulatorDied(Exception):
    """qemu ended, or its processor broke the guest's kernel: nothing that the machine's software did."""


class Machine:
    """What both kinds have in common. ``boot()`` first, ``stop()`` last; twice does no harm."""

    kind = ""
    port = ""
    """Where the guest finds the channel."""

    def __init__(self, root: Root, taps: bool = False, number: int = 0) -> None:
        """``number``: of the instance; another one has other MACs and addresses."""
        self.root = root
        self.channel = Channel(os.path.join(root.folder, "commands"))
        tree = _tree(number)
        macs = tree["network"]["interfaces"]["macs"]
        self.spare_mac = list(macs)[-1]
        self.spare: Tree = macs.pop(self.spare_mac)
        """A fourth ENI, not bound yet."""
        self.vpc = Vpc(tree, os=REAL, taps=taps)
        self.boot_id = ""
        self.boot_seconds = 0.0
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "guest.py")) as file:
            root.write(_GUEST, file.read())
        root.write("/etc/systemd/system/lab-commands.service", _UNIT.format(guest=_GUEST, path=self.port))
        root.enable(["lab-commands.service"])

    def run(self, command: str, timeout: float = 60, check: bool = True) -> Result:
        """A command line for the guest's bash. A failure raises unless told otherwise."""
        try:
            result = self.channel.run(command, timeout)
        except NoAnswer:
            self._see_whether_it_lives()
            raise
        if check and result.code != 0:
            raise AssertionError("in the machine, {}: exit code {}: {}".format(
                command, result.code, (result.out + result.err).strip()[-1500:]))
        return result

    def boot(self) -> None:
        """Until everything that starts at boot has been started."""
        started = time.monotonic()
        self._start()
        self._await_boot(started)

    def reboot(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        self._end()
        self.vpc.close()
        self.channel.close()

    def plug(self, mac: str, leaves: Tree, listed_after: float = 0) -> str:
        """Bind an ENI; metadata lists it so many seconds later. Tells its link's name."""
        service = self.vpc.service
        assert service is not None
        service.faults.late = {mac: service.age + listed_after} if listed_after else {}
        name = self.vpc.attach(mac, leaves, os=REAL)
        self._plugged(name, mac)
        return name

    def unplug(self, name: str) -> None:
        self._unplug(name)
        self.vpc.detach(name)

    def carrier(self, name: str, present: bool) -> None:
        self.vpc.fabric.carrier(name, present)

    def plug_other(self) -> str:
        """A link that is no ENI; tells its name."""
        raise NotImplementedError

    def unplug_other(self) -> None:
        raise NotImplementedError

    def _await_boot(self, started: float) -> None:
        limit = BOOT[self.kind]
        while True:
            try:
                self.boot_id = self.channel.wait_boot(1)
                break
            except NoAnswer:
                self._see_whether_it_lives()
                if time.monotonic() - started > limit:
                    raise
        left = max(10.0, limit - (time.monotonic() - started))
        self.run("systemctl is-system-running --wait", left, check=False)
        self.boot_seconds = time.monotonic() - started

    def _start(self) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    def _see_whether_it_lives(self) -> None:
        """Raises ``EmulatorDied``."""

    def _plugged(self, name: str, mac: str) -> None:
        pass

    def _unplug(self, name: str) -> None:
        pass


class Container(Machine):
    """systemd as the first process of a container; no udev, and the host's kernel."""

    kind = "container"
    port = "/run/lab/commands"

    def __init__(self, root: Root) -> None:
        self._process: "Optional[subprocess.Popen[bytes]]" = None
        self._name = "lab-" + uuid.uuid4().hex[:8]
        self._group = ControlGroup(self._name)
        super().__init__(root)

    def _start(self) -> None:
        def enter() -> None:
            _die_with_us()
            self._group.enter()

        # A folder of its own: a socket that is bound alone would be the old one after a second boot.
        self._log = open(os.path.join(self.root.folder, "console"), "wb")
        self._process = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--boot",
             "--machine=" + self._name, "--directory=" + self.root.path,
             "--network-namespace-path=" + self.vpc.instance.path,
             "--capability=CAP_NET_ADMIN,CAP_NET_RAW", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
             "--console=pipe",
             "--bind={}:/run/lab/commands".format(self.channel.path)],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, preexec_fn=enter)

    def _see_whether_it_lives(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            with open(os.path.join(self.root.folder, "console"), errors="replace") as file:
                raise RuntimeError("the container has ended: " + file.read()[-1500:])

    def _end(self) -> None:
        if self._process is not None:
            end(self._process, signal.SIGTERM, 15)
            self._log.close()
            self._process = None
        self._group.remove()

    def plug_other(self) -> str:
        with self.vpc.instance:
            subprocess.run(["ip", "link", "add", "eth9", "address", _OTHER_VENDOR, "type", "veth", "peer", "other"],
                           check=True)
            subprocess.run(["ip", "link", "set", "other", "up"], check=True)
        return "eth9"

    def unplug_other(self) -> None:
        self.vpc.instance.run(["ip", "link", "del", "eth9"])


class VirtualMachine(Machine):
    """qemu without hardware virtualization: any machine can do that, at a tenth of the speed."""

    kind = "vm"
    port = "/dev/virtio-ports/lab"

    def __init__(self, root: Root, disk: str = "", number: int = 0) -> None:
        """``disk``: of another machine that has been switched off, not a new one from the root file system."""
        self._process: "Optional[subprocess.Popen[bytes]]" = None
        self._qmp: Optional[_Qmp] = None
        self._disk = disk
        super().__init__(root, taps=True, number=number)

    def _start(self) -> None:
        folder = self.root.folder
        self._disk = self._disk or self.root.disk(os.path.join(folder, "disk"))
        qmp = os.path.join(folder, "qmp")
        command = [
            "qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "pc", "-m", "1024", "-smp", "1",
            # cx16 and la57 off: qemu 7.2 gets cmpxchg16b wrong, which newer kernels use all the time.
            "-cpu", "max,cx16=off,la57=off,svm=off", "-accel", "tcg,thread=multi,tb-size=512",
            "-kernel", self.root.kernel(), "-initrd", self.root.initrd(),
            "-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=-1 mitigations=off",
            "-drive", "file={},if=virtio,format=raw,cache=unsafe".format(self._disk),
            "-serial", "file:" + os.path.join(folder, "console"), "-qmp", "unix:{},server=on,wait=off".format(qmp),
            "-chardev", "socket,id=lab,path=" + self.channel.path, "-device", "virtio-serial",
            "-device", "virtserialport,chardev=lab,name=lab", "-device", "virtio-rng-pci",
            "-smbios", "type=1,manufacturer=Alibaba Cloud,product=Alibaba Cloud ECS,version=pc-i440fx-2.1,"
                       "serial={0},uuid={0}".format(uuid.uuid4()),
        ]
        for name, eni in self.vpc.nics.items():
            command += ["-netdev", _netdev(name, self.vpc.fabric.ports[name].device),
                        "-device", "virtio-net-pci,id={0},netdev=net-{0},mac={1},romfile=".format(name, eni.mac)]
        self._process = self.vpc.fabric.namespace.popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=open(os.path.join(folder, "qemu"), "wb"), preexec_fn=_die_with_us)
        self._qmp = _Qmp(qmp, self._process)

    def reboot(self) -> None:
        before = self.boot_id
        started = time.monotonic()
        self.run("systemctl reboot --no-block")
        self._await_boot(started)
        assert self.boot_id != before

    def power_off(self) -> str:
        """As its own operating system does it; what is left is its disk."""
        assert self._process is not None
        self.run("systemctl poweroff --no-block")
        self._process.wait(120)
        self.stop()
        return self._disk

    def carrier(self, name: str, present: bool) -> None:
        self._ask("set_link", name=name, up=present)

    def plug_other(self) -> str:
        self._ask("netdev_add", type="user", id="net-other")
        self._ask("device_add", driver="virtio-net-pci", id="other", netdev="net-other", mac=_OTHER_VENDOR, romfile="")
        return "eth{}".format(len(self.vpc.nics))

    def unplug_other(self) -> None:
        self._remove("other")

    def _plugged(self, name: str, mac: str) -> None:
        self._ask("netdev_add", type="tap", id="net-" + name, ifname=self.vpc.fabric.ports[name].device, script="no",
                  downscript="no", vnet_hdr=False)
        self._ask("device_add", driver="virtio-net-pci", id=name, netdev="net-" + name, mac=mac, romfile="")

    def _unplug(self, name: str) -> None:
        self._remove(name)

    def _remove(self, name: str) -> None:
        assert self._qmp is not None
        self._ask("device_del", id=name)
        self._qmp.wait_event("DEVICE_DELETED", 30)
        self._ask("netdev_del", id="net-" + name)

    def _ask(self, what: str, **arguments: Any) -> Any:
        assert self._qmp is not None
        return self._qmp.ask(what, arguments)

    def _see_whether_it_lives(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            with open(os.path.join(self.root.folder, "qemu"), errors="replace") as file:
                raise EmulatorDied("qemu ended with code {}: {}".format(self._process.returncode, file.read()[-500:]))
        try:
            with open(os.path.join(self.root.folder, "console"), errors="replace") as file:
                console = file.read()
        except FileNotFoundError:
            return
        if "Kernel panic" in console or "double fault" in console:
            raise EmulatorDied("the guest's kernel broke: " + console[-800:])

    def _end(self) -> None:
        if self._process is not None:
            end(self._process, signal.SIGTERM, 10)
            self._process = None
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None


class _Qmp:
    """qemu's own control socket."""

    def __init__(self, path: str, process: "subprocess.Popen[bytes]") -> None:
        give_up = time.monotonic() + 20
        while not os.path.exists(path) and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.05)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        try:
            self._socket.connect(path)
        except OSError as error:
            raise EmulatorDied("qemu does not start: {}".format(error)) from error
        self._file = self._socket.makefile("rb")
        self._events: List[Dict[str, Any]] = []
        self._read()
        self.ask("qmp_capabilities", {})

    def ask(self, what: str, arguments: Dict[str, Any]) -> Any:
        self._socket.sendall(json.dumps({"execute": what, "arguments": arguments}).encode() + b"\n")
        while True:
            said = self._read()
            if "event" in said:
                self._events.append(said)
            elif "error" in said:
                raise RuntimeError("qemu, {}: {}".format(what, said["error"]))
            else:
                return said["return"]

    def wait_event(self, name: str, timeout: float) -> None:
        give_up = time.monotonic() + timeout
        while time.monotonic() < give_up:
            for said in self._events:
                if said["event"] == name and "device" in said.get("data", {}):
                    self._events.remove(said)
                    return
            self._events.append(self._read())
        raise RuntimeError("qemu did not say {}".format(name))

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _read(self) -> Dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise EmulatorDied("qemu has closed its control socket")
        said: Dict[str, Any] = json.loads(line.decode())
        return said


KINDS = {"container": Container, "vm": VirtualMachine}


def _tree(number: int) -> Tree:
    """Four ENIs; instance 0 as the lab has them."""
    tree = make_tree(4)
    if number:
        text = json.dumps(tree).replace("00:16:3e:0e", "00:16:3e:{:02x}".format(0x0E + number))
        text = re.sub(r"172\.16\.(\d)0\.1(\d)\b", r"172.16.\g<1>0.{}\2".format(10 + number), text)
        tree = json.loads(text.replace("i-bp1examplexample0001", "i-bp1examplexample{:04d}".format(number + 1)))
    return tree


def end(process: "subprocess.Popen[bytes]", by: signal.Signals, patience: float) -> None:
    """Ask a process of ours to end, and end it if it does not."""
    if process.poll() is None:
        process.send_signal(by)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _netdev(name: str, tap: str) -> str:
    # Without the extra header the guest finishes its packets itself: checksums, and nothing larger than the MTU.
    return "tap,id=net-{},ifname={},script=no,downscript=no,vnet_hdr=off".format(name, tap)


def _die_with_us() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

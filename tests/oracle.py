"""What the kernel and the wire say: ``ip -json``, ``ip monitor`` and captured packets, never the agent's own reader."""

import itertools
import json
import re
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from contextlib import contextmanager
from ipaddress import ip_address

from eni_bootstrap.lab import probe
from eni_bootstrap.lab.namespace import Namespace

ASKS = (probe.ping, probe.tcp, probe.udp)
OUTSIDE = {4: "203.0.113.50", 6: "2001:db8:c11e::50"}
"""The lab's client: somebody on the internet."""
OURS = "235"
"""The protocol of our routes and rules."""

NO_WAY = ""
"""What ``leaves_by`` tells when the kernel refuses."""


def ip(vpc, command):
    """Output of one ``ip`` command inside the instance; a failure raises."""
    return vpc.instance.run(["ip"] + command.split()).stdout


def show(vpc, command):
    return json.loads(ip(vpc, "-json -details " + command) or "[]")


def rules(vpc, version=4):
    return show(vpc, "-{} rule show".format(version))


def routes(vpc, table, version=4):
    """The routes of one table; none when there is no such table."""
    shown = vpc.instance.run(["ip", "-json", "-details", "-{}".format(version), "route", "show", "table", str(table)],
                             check=False, stderr=subprocess.PIPE)
    return json.loads(shown.stdout or "[]") if shown.returncode == 0 else []


def lookup(vpc, src, dst, iif=None, oif=None):
    """The kernel's own answer to "by which route?"; an empty dict when it refuses. ``src=None``: no source yet."""
    command = "ip -json route get {}".format(dst)
    for word, value in (("from", src), ("iif", iif), ("oif", oif)):
        command += " {} {}".format(word, value) if value is not None else ""
    done = vpc.instance.run(command.split(), check=False, stderr=subprocess.PIPE)
    found = json.loads(done.stdout or "[]") if done.returncode == 0 else []
    return found[0] if found and found[0].get("type", "unicast") in ("unicast", "local") else {}


def leaves_by(vpc, src, dst, oif=None):
    """The device by which a packet of this source leaves, or ``NO_WAY``."""
    return lookup(vpc, src, dst, oif=oif).get("dev", NO_WAY)


def sources_led_to(vpc, table, version=4):
    """What our rules lead to a table."""
    return {_network(rule) for rule in rules(vpc, version)
            if rule.get("table") == str(table) and rule.get("protocol") == OURS and "oif" not in rule}


def _network(rule):
    return rule["src"] + ("/{}".format(rule["srclen"]) if "srclen" in rule else "")


def table_of(vpc, dev, version=4):
    """The table of a secondary ENI: where our rule for sockets bound to its device leads."""
    return next((int(rule["table"]) for rule in rules(vpc, version)
                 if rule.get("oif") == dev and rule.get("protocol") == OURS), None)


def defaults(vpc, version=4):
    """Main's default routes as (device, metric, protocol)."""
    return [(route["dev"], route.get("metric", 0), route["protocol"])
            for route in show(vpc, "-{} route show default".format(version))]


# packets


def ask_all(vpc, dst, asker=None, asks=ASKS, **options):
    """Whether each kind of question to ``dst`` is answered; by the client on the internet unless told otherwise."""
    return [bool(ask(asker or vpc.client, dst, **options)) for ask in asks]


def assert_answers_by(vpc, dev, address, asker=None, asks=ASKS):
    """Packets to this address come in by the device, the answers leave by it and arrive; by EIP from the internet."""
    address = ip_address(str(address))
    dst = vpc.eip(address) if asker is None and address.version == 4 else address
    with probe.echo_server(vpc.instance), vpc.fabric.capture() as seen:
        answered = ask_all(vpc, dst, asker, asks)
    ways = {(packet.direction, packet.port, packet.verdict) for packet in seen
            if (packet.src if packet.direction == "from" else packet.dst) == address}
    assert ways == {("to", dev, "forwarded"), ("from", dev, "forwarded")}
    assert all(answered)


def assert_asks_by(vpc, dev, src, dst, asks=ASKS, **options):
    """Questions from this address to a host with an echo server leave by the device and are answered."""
    with vpc.fabric.capture() as seen:
        answered = ask_all(vpc, dst, vpc.instance, asks, src=src, **options)
    assert {(packet.port, packet.verdict) for packet in seen
            if packet.direction == "from" and str(packet.src) == str(src)} == {(dev, "forwarded")}
    assert all(answered)


def assert_every_eni_answers(vpc, asks=ASKS):
    """The first address of each family of every ENI, asked from the internet."""
    for dev, interface in vpc.nics.items():
        for subnet in interface.subnets:
            assert_answers_by(vpc, dev, subnet.addresses[0], asks=asks)


@contextmanager
def steady_pings(vpc, targets, per_second=100):
    """The client pings each target so often; ends up as {target: (sent, unanswered)}."""
    told = {}
    sockets = {version: probe.raw_socket(vpc.client, version) for version in (4, 6)}
    targets = [ip_address(str(target)) for target in targets]
    unanswered, sent, ending = {}, Counter(), threading.Event()
    for opened in sockets.values():
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)  # what the reader is late for is not lost
        opened.settimeout(0.1)

    def send():
        due = time.monotonic()
        for number in itertools.count():
            for place, target in enumerate(targets):
                nonce = struct.pack("!II", place, number)
                unanswered[nonce] = target
                sockets[target.version].sendto(probe.echo_request(target.version, b"up", nonce), (str(target), 0))
                sent[target] += 1
            due += 1 / per_second
            if ending.wait(max(0, due - time.monotonic())):
                return

    def receive(version):
        end = None
        while end is None or unanswered and time.monotonic() < end:
            try:
                data = sockets[version].recv(1 << 16)
                unanswered.pop(probe.echoed(version, data, b"up"), None)
            except socket.timeout:
                pass
            if end is None and ending.is_set():
                end = time.monotonic() + 2

    threads = [threading.Thread(target=send)] + [threading.Thread(target=receive, args=(version,))
                                                 for version in sockets]
    try:
        for thread in threads:
            thread.start()
        yield told
    finally:
        ending.set()
        for thread in threads:
            thread.join()
        for opened in sockets.values():
            opened.close()
    left = Counter(unanswered.values())
    told.update((str(target), (sent[target], left[target])) for target in targets)


def wait_until(condition, seconds=3):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def settle(vpc):
    """Wait for links that have just come up, and for addresses that are new: they still change by themselves."""
    wait_until(lambda: not [line for line in ip(vpc, "link show").splitlines() if ",UP" in line and " DOWN " in line])
    vpc.dump()  # comes when the addresses are done


# other people's things


@contextmanager
def container(vpc, address, gateway, link="veth0", bridge=None):
    """A namespace behind the instance, on a bridge of this name or by a link of its own, with a way back."""
    inside = Namespace()
    try:
        ip(vpc, "link add {} type veth peer name eth0 netns {}".format(link, inside.path))
        ip(vpc, "link set {} up{}".format(link, " master " + bridge if bridge else ""))
        if not bridge:
            ip(vpc, "route add {} dev {}".format(address, link))
        vpc.instance.sysctl("net.ipv4.ip_forward", 1)
        for command in ("link set eth0 up", "address add {}/32 dev eth0".format(address),
                        "route add default via {} onlink dev eth0".format(gateway)):
            inside.run(["ip"] + command.split())
        yield inside
    finally:
        inside.close()


# comparing


def kernel(vpc):
    """The whole configuration, but for the counters of bridges and for the queue by which a link tells that it was up
    once."""
    return re.sub(r"(?m)^    bridge.*\n", "", vpc.dump().replace("qdisc noop ", "qdisc noqueue "))


def difference(before, after):
    """The lines that went and the lines that came, each sorted."""
    old, new = (Counter(line.rstrip() for line in text.splitlines()) for text in (before, after))
    return sorted((old - new).elements()), sorted((new - old).elements())


def lost(before, after):
    """The lines that went; the interface group, which is how we mark ENIs, doesn't count."""
    return difference(*(text.replace("group 60235", "group default") for text in (before, after)))[0]


@contextmanager
def watch(vpc):
    """Collects what ``ip monitor`` says of links, addresses, routes and rules."""
    heard, said = [], []
    monitor = vpc.instance.popen(["ip", "monitor", "link", "address", "route", "rule"],
                                 stdout=subprocess.PIPE, universal_newlines=True)
    reading = threading.Thread(target=_read, args=(monitor.stdout, heard))
    reading.start()

    def mark(number):
        """Make a change of our own and wait for it to be told: what came before it has been told too."""
        place = "blackhole 192.0.2.{} table 4999".format(number)
        ip(vpc, "route add " + place)
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            if any(line.startswith("blackhole 192.0.2.{} ".format(number)) for line in heard):
                return True
            time.sleep(0.005)
        return False

    try:
        assert any(mark(number) for number in range(1, 30))
        del heard[:]
        yield said
        assert any(mark(number) for number in range(101, 130))
        said += [line for line in heard if "192.0.2." not in line]
    finally:
        monitor.terminate()
        monitor.wait()
        reading.join()
        monitor.stdout.close()
        ip(vpc, "route flush table 4999")


def _read(stream, heard):
    for line in stream:
        heard.append(line)

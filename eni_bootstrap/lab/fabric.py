"""The cloud's network between the links of a lab: one thread that moves frames from port to port.

What it does as Alibaba Cloud does it: every address has the same MAC, packets go by destination address alone,
an ENI may send from its own addresses only, EIPs are translated one to one, and gateways answer pings.
"""

import fcntl
import os
import select
import socket
import struct
import threading
from array import array
from collections import Counter
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple, Union

from pyroute2 import IPRoute

from eni_bootstrap.lab import dhcp, wire
from eni_bootstrap.lab.namespace import Namespace, set_up
from eni_bootstrap.model.kernel import Address, Network

MAC = "ee:ff:ff:ff:ff:ff"
"""Every next hop in a VPC has this one, neighbours in the same vSwitch too."""

LINK_LOCAL = ip_address("fe80::ecff:ffff:feff:ffff")
"""What MAC makes of a gateway's link-local address."""

_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_QDISC_BYPASS = 20
_FRAME = 65536
_DRAINED = 50
"""Frames of each port that are read before a capture begins: more than the ends of the connections before it have."""
_SIOCETHTOOL = 0x8946
_ETHTOOL_OFF = (0x17, 0x1F, 0x24)
"""Transmit checksums, TCP segmentation, generic segmentation: otherwise a veth hands over unfinished packets."""
_TUN = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000


FORWARDED = "forwarded"
ANSWERED = "answered"
"""A gateway was pinged."""
LEASED = "leased"
"""The DHCP server was asked, and has answered."""
SOURCE_CHECK = "source check"
"""Dropped: it came from an ENI that does not own its source."""
NO_ROUTE = "no route"
"""Dropped: nobody owns its destination."""
SILENT = "silent"
"""Dropped: a gateway or a port on its way was made silent."""


class Packet(NamedTuple):
    """One IP packet at one port."""

    port: str
    direction: str
    """``from`` the port into the fabric, or ``to`` the port out of it."""
    version: int
    src: Address
    dst: Address
    proto: int
    sport: int
    """0 where there are no ports."""
    dport: int
    verdict: str
    """One of those below."""


class Port:
    """Where a link is plugged in."""

    def __init__(self, name: str, mac: str, owned: Iterable[Network], gateways: Iterable[Address], nat: bool) -> None:
        self.name = name
        self.mac = mac
        self.owned = tuple(owned)
        """The addresses and prefixes that packets from here may bear and that packets to here bear."""
        self.gateways = tuple(gateways)
        self.nat = nat
        """This is the internet: whoever has an EIP is known by it here."""
        self.counters: "Counter[str]" = Counter()
        """How many packets from here got which verdict; ``lost``: how many could not be handed over to here."""
        self.device = ""
        self.socket: socket.socket
        self.lease: Optional[dhcp.Lease] = None
        """What the DHCP server at this port gives; None: there is no such server."""

    def owns(self, address: Address) -> bool:
        return any(address in network for network in self.owned)


class Fabric:
    """All ports, and the thread behind them; ``close()`` ends it."""

    def __init__(self) -> None:
        self.namespace = Namespace()
        # The kernel must not speak IPv6 on the fabric's own ends of the links.
        self.namespace.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
        self.ports: Dict[str, Port] = {}
        self.eips: Dict[Address, Address] = {}
        """EIP → private address."""
        self._private: Dict[Address, Address] = {}
        self._owners: Dict[Address, Port] = {}
        self._prefixes: List[Tuple[Network, Port]] = []
        self._gateways: Set[Union[str, Address]] = set()
        self._silent: Set[Union[str, Address]] = set()
        """Names of ports and addresses of gateways."""
        self._observers: List[List[Packet]] = []
        self._by_descriptor: Dict[int, Port] = {}
        self._made = 0
        self._lock = threading.RLock()
        self._epoll = select.epoll()
        self._stop, self._stopped = socket.socketpair()
        self._epoll.register(self._stopped, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="fabric", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._stop.send(b".")
            self._thread.join()
            for port in self.ports.values():
                port.socket.close()
            self._epoll.close()
            self._stop.close()
            self._stopped.close()
            self.namespace.close()

    # plugging

    # Size: a port has a name, two ends and what the cloud knows of it; each port of the lab tells all of it, once.
    def attach(
        self,
        name: str,
        namespace: Namespace,
        device: str,
        mac: str,
        owned: Iterable[Network],
        gateways: Iterable[Address] = (),
        nat: bool = False,
    ) -> Port:
        """Make a link ``device`` in ``namespace``, down, and plug it in as port ``name``."""
        port = self._new_port(name, mac, owned, gateways, nat)
        with self.namespace, IPRoute() as kernel:
            peer = {"ifname": device, "address": mac, "net_ns_fd": namespace.descriptor}
            kernel.link("add", ifname=port.device, kind="veth", address=MAC, peer=peer)
        with namespace:
            _finish_packets(device)
        return self._open(port)

    def attach_tap(self, name: str, mac: str, owned: Iterable[Network], gateways: Iterable[Address] = ()) -> Port:
        """Plug in a tap: its other end is for a virtual machine, which is started in the fabric's namespace and has
        the device ``port.device`` and this MAC."""
        port = self._new_port(name, mac, owned, gateways, nat=False)
        with self.namespace:
            tun = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", port.device.encode(), _IFF_TAP | _IFF_NO_PI))
                fcntl.ioctl(tun, _TUNSETPERSIST, 1)
            finally:
                os.close(tun)
        return self._open(port)

    def _new_port(
        self, name: str, mac: str, owned: Iterable[Network], gateways: Iterable[Address], nat: bool
    ) -> Port:
        port = Port(name, mac, owned, gateways, nat)
        self._made += 1
        port.device = f"port{self._made}"
        return port

    def _open(self, port: Port) -> Port:
        with self.namespace:
            set_up(port.device, True)
            port.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            # Otherwise a fresh link swallows packets until the kernel's link watch has given it a queue.
            port.socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
            port.socket.bind((port.device, _ETH_P_ALL))
        with self._lock:
            self.ports[port.name] = port
            self._by_descriptor[port.socket.fileno()] = port
            self._learn()
        self._epoll.register(port.socket, select.EPOLLIN)
        return port

    def detach(self, name: str) -> None:
        """Pull the link out: it is gone from its namespace at once."""
        with self._lock:
            port = self.ports.pop(name)
            self._epoll.unregister(port.socket)
            del self._by_descriptor[port.socket.fileno()]
            self._learn()
            port.socket.close()
        with self.namespace, IPRoute() as kernel:
            kernel.link("del", ifname=port.device)

    def carrier(self, name: str, present: bool) -> None:
        """Plug the cable in or out: the link stays up and has no carrier."""
        with self.namespace:
            set_up(self.ports[name].device, present)

    def own(self, name: str, owned: Iterable[Network]) -> None:
        """From now on these addresses and prefixes are this port's."""
        with self._lock:
            self.ports[name].owned = tuple(owned)
            self._learn()

    def bind(self, eip: Address, private: Address) -> None:
        """Associate an EIP with a private address."""
        with self._lock:
            self.eips[eip] = private
            self._private[private] = eip

    def silence(self, what: Union[str, Address], silent: bool = True) -> None:
        """A gateway's address: it answers no ARP, ND or ping, and ports behind it lose all packets of its family.

        A port's name: nothing is answered there and all packets are lost.
        """
        with self._lock:
            key = what if what in self.ports else ip_address(str(what))
            if silent:
                self._silent.add(key)
            else:
                self._silent.discard(key)

    # observing

    @contextmanager
    def capture(self) -> Iterator[List[Packet]]:
        """Collect every IP packet; not those that only keep the links going (ARP, ND, multicast, DHCP), nor those that
        were sent before."""
        seen: List[Packet] = []
        with self._lock:
            for _ in range(_DRAINED):
                for port in self._waiting():
                    self._receive(port)
            self._observers.append(seen)
        try:
            yield seen
        finally:
            with self._lock:
                self._observers = [observer for observer in self._observers if observer is not seen]

    def _waiting(self) -> List[Port]:
        """The ports at which a frame waits to be read."""
        return [self._by_descriptor[descriptor] for descriptor, _ in self._epoll.poll(0)
                if descriptor in self._by_descriptor]

    # the thread

    def _run(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == self._stopped.fileno():
                    return
                with self._lock:
                    port = self._by_descriptor.get(descriptor)
                    if port is not None:
                        self._receive(port)

    def _receive(self, port: Port) -> None:
        try:
            frame, source = port.socket.recvfrom(_FRAME)
        except OSError:
            return  # nothing there, or the fabric's end went down: both pass
        if source[2] == socket.PACKET_OUTGOING or len(frame) < wire.ETHERNET:
            return
        kind = frame[12:14]
        if kind == wire.ARP:
            self._answer_arp(port, frame)
        elif kind in (wire.IPV4, wire.IPV6):
            packet = wire.parse(frame[wire.ETHERNET:])
            if packet is not None:
                self._take(port, packet)

    def _answer_arp(self, port: Port, frame: bytes) -> None:
        request = wire.parse_arp_request(frame)
        if request is None or self._is_mute(port, request.target) or port.owns(request.target):
            return  # whoever asks for his own address checks that nobody else has it
        self._send(port, wire.ARP, wire.arp_reply(request, wire.mac(MAC)))

    def _answer_dhcp(self, port: Port, packet: wire.Packet) -> None:
        """A lease that is renewed is asked for from the address itself, for which the source check holds as well."""
        if not packet.src.is_unspecified and not port.owns(packet.src):
            port.counters[SOURCE_CHECK] += 1
            self._observe(port, "from", packet, SOURCE_CHECK)
        elif port.lease is not None and not self._is_mute(port, port.lease.gateway):
            answer = dhcp.answer(packet, wire.mac(port.mac), port.lease)
            if answer is not None:
                port.counters[LEASED] += 1
                self._send(port, wire.IPV4, answer)

    def _take(self, port: Port, packet: wire.Packet) -> None:
        """A packet came out of a port."""
        if packet.is_solicitation:
            target = packet.solicited
            if packet.src.is_unspecified or self._is_mute(port, target) or port.owns(target):
                return
            self._send(port, wire.IPV6, wire.advertisement(packet, wire.mac(MAC), target in self._gateways))
        elif dhcp.is_request(packet):
            self._answer_dhcp(port, packet)
        elif packet.is_link_upkeep:
            return
        else:
            self._forward(port, packet)

    def _forward(self, port: Port, packet: wire.Packet) -> None:
        verdict, target, out = self._decide(port, packet)
        port.counters[verdict] += 1
        self._observe(port, "from", packet, verdict)
        if target is not None:
            # Seen first, sent then: who gets an answer finds all of its way in what was captured.
            self._observe(target, "to", out, verdict)
            self._send(target, out.ethertype, out.data)

    def _decide(self, port: Port, packet: wire.Packet) -> Tuple[str, Optional[Port], wire.Packet]:
        """What becomes of a packet: where to it goes, if anywhere, and as what."""
        if self._is_lost(port, packet.version):
            return SILENT, None, packet
        link_local = packet.version == 6 and packet.src.is_link_local
        if not link_local and not port.owns(packet.src):
            return SOURCE_CHECK, None, packet
        if packet.is_echo_request and packet.dst in self._gateways - self._silent:
            return ANSWERED, port, wire.echo_reply(packet)
        if not link_local:
            out, target = self._translate(port, packet)
            if target is not None:
                lost = self._is_lost(target, packet.version)
                return (SILENT, None, packet) if lost else (FORWARDED, target, out)
        return NO_ROUTE, None, packet

    def _translate(self, port: Port, packet: wire.Packet) -> Tuple[wire.Packet, Optional[Port]]:
        """EIPs exist towards the internet only: to them it sends, and from them it gets."""
        if port.nat and packet.dst in self.eips:
            packet = packet.with_dst(self.eips[packet.dst])
        target = self._owner(packet.dst)
        if target is not None and target.nat and packet.src in self._private:
            packet = packet.with_src(self._private[packet.src])
        return packet, target

    def _owner(self, address: Address) -> Optional[Port]:
        port = self._owners.get(address)
        if port is None:
            port = next((port for prefix, port in self._prefixes if address in prefix), None)
        return port

    def _send(self, port: Port, ethertype: bytes, data: bytes) -> None:
        try:
            port.socket.send(wire.mac(port.mac) + wire.mac(MAC) + ethertype + data)
        except OSError:
            port.counters["lost"] += 1  # the link is down, or its queue is full

    def _observe(self, port: Port, direction: str, packet: wire.Packet, verdict: str) -> None:
        if self._observers:
            sport, dport = packet.ports
            seen = Packet(
                port.name, direction, packet.version, packet.src, packet.dst, packet.proto, sport, dport, verdict
            )
            for observer in self._observers:
                observer.append(seen)

    def _is_mute(self, port: Port, address: Address) -> bool:
        """Nobody answers for this address at this port."""
        return port.name in self._silent or address in self._silent

    def _is_lost(self, port: Port, version: int) -> bool:
        """Packets of this family don't get past this port."""
        return port.name in self._silent or any(
            gateway in self._silent for gateway in port.gateways if gateway.version == version
        )

    def _learn(self) -> None:
        """Index what the ports own: exact addresses by hash, of which there are many, prefixes in a list."""
        self._owners = {}
        self._prefixes = []
        self._gateways = {LINK_LOCAL}
        for port in self.ports.values():
            self._gateways.update(port.gateways)
            for network in port.owned:
                if network.prefixlen == network.max_prefixlen:
                    self._owners[network.network_address] = port
                else:
                    self._prefixes.append((network, port))


def _finish_packets(device: str) -> None:
    """Have the kernel fill in checksums and cut to size before a packet leaves by this link of the current thread's
    namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in _ETHTOOL_OFF:
            value = array("I", [command, 0])
            fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP16x", device.encode(), value.buffer_info()[0]))

"""A VPC on this machine: an instance with its ENIs, a client on the internet, the metadata service, neighbours.

``make_tree`` says what the cloud knows; ``Vpc`` makes it real and leaves the instance as an operating system does.
"""

import json
import re
import time
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import count
from socket import AF_INET, AF_INET6
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Union

from pyroute2 import IPRoute

from eni_bootstrap.lab import fabric as cloud_fabric
from eni_bootstrap.lab.dhcp import Lease
from eni_bootstrap.lab.fabric import Fabric
from eni_bootstrap.lab.namespace import Namespace, set_up
from eni_bootstrap.lab.service import MetadataService
from eni_bootstrap.lab.tree import Eni, Subnet, Tree, macs_of, read
from eni_bootstrap.model.kernel import Address, Network

METADATA = IPv4Address("100.100.100.200")
METADATA6 = IPv6Address("fd00:100::100:200")
CLIENT = (IPv4Address("203.0.113.50"), IPv6Address("2001:db8:c11e::50"))
EIPS = IPv4Network("198.51.100.0/24")
MORE_EIPS = IPv4Network("198.18.0.0/15")
"""For labs with more addresses than one /24 holds."""
HOST_GATEWAYS = (IPv4Address("169.254.0.1"), cloud_fabric.LINK_LOCAL)
"""The next hop of every plain host."""

VPC4 = IPv4Network("172.16.0.0/12")
VPC6 = IPv6Network("2001:db8:20:a200::/56")

_ONLINK = 4
_BY_DHCP = 16
"""The kernel's number for routes that a DHCP client made."""
_TENTATIVE = 0x40
_SETTLE = 2.0
"""Seconds."""
_FIRST_HOST = 10
_FIRST_HOST6 = 0x1000
_FIRST_PREFIX6 = 0xA000

DHCP, UP, DOWN, REAL = "dhcp", "up", "down", "real"
"""What the operating system did with a link: all; address but no default (Ubuntu 16); nothing (cloud-init 22.4);
``real``: it is a real one and does it by itself, the primary's too, with leases from the VPC's own DHCP."""

LEASE = 3600
"""Seconds that a lease lasts there."""


# What the cloud knows


def make_tree(
    enis: int = 3,
    addresses: int = 1,
    ipv6: bool = False,
    vswitches: Union[str, Sequence[int], None] = None,
    prefix: bool = False,
) -> Tree:
    """A ``meta-data`` tree in Alibaba's spelling; the first ENI is the primary.

    ``vswitches``: the vSwitch's number for each ENI; ``"shared"``: all in number 0; ``"own"``: each in its own;
    otherwise 0, 1, 0, 1, … ``prefix``: every ENI has a delegated IPv4 /28 (and, with ``ipv6``, a /80).
    """
    members = _members(enis, vswitches)
    slots = [members[:number].count(member) for number, member in enumerate(members)]
    length = _vswitch_length(max(slots) + 1, addresses, prefix)
    macs = {
        f"00:16:3e:0e:00:{number + 1:02x}": _eni_leaves(number, member, slot, length, addresses, ipv6, prefix)
        for number, (member, slot) in enumerate(zip(members, slots))
    }
    mac, primary = next(iter(macs.items()))
    return {
        "dns-conf": {"nameservers": "100.100.2.136\r\n100.100.2.138"},
        "hostname": "iZbp1example0001Z",
        "image-id": "aliyun_3_x64_20G_alibase_20250629.vhd",
        "instance": {"instance-name": "iZbp1example0001Z", "instance-type": "ecs.g8i.2xlarge"},
        "instance-id": "i-bp1examplexample0001",
        "mac": mac,
        "network": {"interfaces": {"macs": macs}},
        "network-type": "vpc",
        "ntp-conf": {"ntp-servers": "ntp1.aliyun.com\r\nntp1.cloud.aliyuncs.com"},
        "owner-account-id": "1000000000000001",
        "private-ipv4": primary["primary-ip-address"],
        "region-id": "cn-hangzhou",
        "serial-number": "4acd2b47-b328-4762-852f-998000000001",
        "source-address": "http://mirrors.cloud.aliyuncs.com",
        "sub-private-ipv4-list": "",
        "vpc-cidr-block": primary["vpc-cidr-block"],
        "vpc-id": primary["vpc-id"],
        "vswitch-cidr-block": primary["vswitch-cidr-block"],
        "vswitch-id": primary["vswitch-id"],
        "zone-id": "cn-hangzhou-i",
    }


def _members(enis: int, vswitches: Union[str, Sequence[int], None]) -> List[int]:
    if vswitches is None:
        return [number % 2 for number in range(enis)]
    if vswitches == "shared":
        return [0] * enis
    if vswitches == "own":
        return list(range(enis))
    return [int(number) for number in vswitches]


def _vswitch_length(enis: int, addresses: int, prefix: bool) -> int:
    """Addresses live in the lower half of a vSwitch, /28s in the upper one, the last sixteen are kept free."""
    for length in range(24, 16, -1):
        half = 2 ** (31 - length)
        if _FIRST_HOST + enis * addresses <= half and (not prefix or (enis + 1) * 16 <= half):
            return length
    raise ValueError(f"{enis} ENIs with {addresses} addresses each don't fit into a vSwitch")


# Size: an ENI's leaves follow from its place in the world and from what the world has, and from nothing else.
def _eni_leaves(
    number: int, member: int, slot: int, length: int, addresses: int, ipv6: bool, prefix: bool
) -> Dict[str, str]:
    stride = 10 if length == 24 else 1  # 172.16.10.0/24, 172.16.20.0/24 … as on the vendor's page
    base = int(VPC4.network_address) + (member + 1) * stride * 2 ** (32 - length)
    vswitch = IPv4Network((base, length))
    private = [str(vswitch[_FIRST_HOST + slot * addresses + i]) for i in range(addresses)]
    leaves = {
        "gateway": str(vswitch[-3]),
        "netmask": str(vswitch.netmask),
        "network-interface-id": f"eni-bp1exampleeni{number + 1:05d}",
        "primary-ip-address": private[0],
        "private-ipv4s": json.dumps(private, separators=(",", ":")),
        "vpc-cidr-block": str(VPC4),
        "vpc-id": "vpc-bp1examplevpc00001",
        "vswitch-cidr-block": str(vswitch),
        "vswitch-id": f"vsw-bp1examplevsw{member + 1:05d}",
    }
    if prefix:
        leaves["ipv4-prefixes"] = f"{vswitch[vswitch.num_addresses // 2 + slot * 16]}/28"
    if ipv6:
        vswitch6 = IPv6Network((int(VPC6.network_address) + (member << 64), 64))
        first = _FIRST_HOST6 + slot * addresses
        leaves["ipv6-gateway"] = str(vswitch6[-9])
        leaves["ipv6s"] = "[" + ", ".join(str(vswitch6[first + i]) for i in range(addresses)) + "]"
        leaves["vpc-ipv6-cidr-blocks"] = f"[{VPC6}]"
        leaves["vswitch-ipv6-cidr-block"] = str(vswitch6)
        if prefix:
            leaves["ipv6-prefixes"] = f"{vswitch6[(_FIRST_PREFIX6 + slot) << 48]}/80"
    return leaves


# The real thing


class Host(Namespace):
    """A machine with one link and nothing to configure: the client, the metadata service, a neighbour."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        super().__init__()
        self.addresses = tuple(addresses)

    def address(self, version: int) -> Address:
        """Its address of this family."""
        return next(address for address in self.addresses if address.version == version)

    @property
    def ipv4(self) -> Address:
        return self.address(4)

    @property
    def ipv6(self) -> Address:
        return self.address(6)


class Vpc:
    """``with Vpc(make_tree()) as vpc:`` one instance in its VPC.

    ``names``: the links' names, the primary's first (otherwise eth0, eth1, … in the order of the tree).
    ``os``: ``dhcp``, ``up`` or ``down`` for the secondaries, or for each name (the others are ``dhcp``).
    ``assign``: put all addresses on the links, not only the primary one. ``ipv6_onlink``: give the IPv6 address its
    /64. ``ipv6_defaults``: the secondaries have an IPv6 default route too. ``taps``: the instance is a virtual machine
    on the fabric's taps, and its ENIs are not in ``instance``. ``service6``: metadata by IPv6 instead of IPv4.
    ``faults``: for the metadata service.
    """

    # Size: each is something that an operating system or the cloud does differently, and that a test sets alone.
    def __init__(
        self,
        tree: Tree,
        names: Optional[Sequence[str]] = None,
        os: Union[str, Mapping[str, str]] = DHCP,
        assign: bool = False,
        ipv6_onlink: bool = False,
        ipv6_defaults: bool = True,
        service: bool = True,
        taps: bool = False,
        service6: bool = False,
        **faults: Any,
    ) -> None:
        self.tree = tree
        self.nics: Dict[str, Eni] = {}
        """Link → the ENI that it is, the primary first."""
        self.eips: Dict[str, Address] = {}
        """Link → EIP of its ENI's primary address."""
        self.service: Optional[MetadataService] = None
        self._assign = assign
        self._ipv6_onlink = ipv6_onlink
        self._ipv6_defaults = ipv6_defaults
        self._taps = taps
        self._neighbours: Dict[Network, Host] = {}
        self._eip_of: Dict[Address, Address] = {}
        self._free_eips = _free_eips()
        self._open = ExitStack()
        try:
            self.fabric = Fabric()
            self._open.callback(self.fabric.close)
            self.instance = Namespace()
            self._open.callback(self.instance.close)
            _skip_dad(self.instance)
            for which in ("all", "default"):
                # A new namespace inherits this from the machine; strict, what comes in by eth1 is lost at once.
                self.instance.sysctl(f"net.ipv4.conf.{which}.rp_filter", 0)
            self.client = self._add_host("client", CLIENT, nat=True)
            address = METADATA6 if service6 else METADATA
            self.cloud = self._add_host("metadata", (address,))
            if service:
                with self.cloud:
                    self.service = MetadataService(tree, address=(str(address), 80), **faults)
                self._open.callback(self.service.close)
                self.service.start()
            self._plug_all(names, os)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Vpc":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is left; twice does no harm."""
        self._open.close()

    # what there is

    @property
    def primary(self) -> str:
        """The primary ENI's link."""
        return next(name for name, eni in self.nics.items() if eni.primary)

    def address(self, name: str, version: int = 4) -> Address:
        """The first address of this family that the link's ENI has."""
        return self.subnet(name, version).addresses[0]

    def subnet(self, name: str, version: int = 4) -> Subnet:
        """What the link's ENI has of this family."""
        return next(subnet for subnet in self.nics[name].subnets if subnet.version == version)

    def eip(self, private: Union[str, Address]) -> Address:
        """The EIP of any private IPv4 address; a new one if it has none yet."""
        private = ip_address(str(private))
        if private not in self._eip_of:
            self._eip_of[private] = next(self._free_eips)
            self.fabric.bind(self._eip_of[private], private)
        return self._eip_of[private]

    def neighbour(self, where: Union[str, Network]) -> Host:
        """Another machine in the vSwitch of a link, or in the vSwitch with this CIDR block."""
        subnets = self._vswitches(where)
        key = subnets[0].vswitch
        if key not in self._neighbours:
            addresses = [subnet.gateway - 3 for subnet in subnets]
            self._neighbours[key] = self._add_host(f"neighbour in {key}", addresses)
        return self._neighbours[key]

    def dump(self) -> str:
        """The instance's whole configuration as ``ip`` prints it: equal texts, equal state. Needs iproute2.

        A worker of the kernel blesses each new IPv6 address and adds its local route a while after the address is seen.
        """
        # Without -4 it lists IPv6, too (findings/ip-route-table-all-lists-both.sh).
        commands = (
            "ip -d rule", "ip -d -6 rule", "ip -d -4 route show table all", "ip -d -6 route show table all",
            "ip -d address",
        )
        end = time.monotonic() + _SETTLE
        while True:
            text = "".join(f"# {command}\n{self.instance.run(command.split()).stdout}" for command in commands)
            if _is_settled(text) or time.monotonic() > end:
                return text

    # what can happen

    def attach(self, mac: str, leaves: Optional[Tree] = None, name: Optional[str] = None, os: str = DHCP) -> str:
        """Bind an ENI: the one that the tree has under this MAC, or, with ``leaves``, a new one. Tells its link."""
        if leaves is not None:
            macs_of(self.tree)[mac] = leaves
        eni = self._enis()[mac]
        if name is None:
            name = next(free for free in map("eth{}".format, count()) if free not in self.nics)
        self._plug(name, eni, os)
        _settle(self.instance)
        return name

    def detach(self, name: str, listed: bool = False) -> None:
        """Unbind an ENI: its link goes, and with it (unless ``listed``) what the metadata service tells of it."""
        eni = self.nics.pop(name)
        self.eips.pop(name, None)
        self.fabric.detach(name)
        if not listed:
            macs_of(self.tree).pop(eni.mac, None)

    def refresh(self) -> None:
        """Somebody has changed ``tree``: its addresses are now what the cloud routes and accepts."""
        enis = self._enis()
        for name, eni in self.nics.items():
            self.nics[name] = enis.get(eni.mac, eni)
            self.fabric.own(name, _owned(self.nics[name]))

    def set_link(self, name: str, up: bool) -> None:
        """``ip link set … up`` or ``down`` in the instance."""
        with self.instance:
            set_up(name, up)
        _settle(self.instance)

    # how it is made

    def _enis(self) -> Dict[str, Eni]:
        """By MAC: what can be plugged in now. An ENI whose leaves are not all there is on its way."""
        return {eni.mac: eni for eni in read(self.tree).enis}

    def _plug_all(self, names: Optional[Sequence[str]], os: Union[str, Mapping[str, str]]) -> None:
        for name, eni in zip(names or map("eth{}".format, count()), self._enis().values()):
            if not isinstance(os, str):
                done = os.get(name, DHCP)
            else:
                done = DHCP if eni.primary and os != REAL else os
            self._plug(name, eni, done)
        _settle(self.instance)

    def _plug(self, name: str, eni: Eni, os: str) -> None:
        if os not in (DHCP, UP, DOWN, REAL):
            raise ValueError(f"an operating system does not do {os!r} with a link")
        gateways = [subnet.gateway for subnet in eni.subnets]
        if self._taps:
            port = self.fabric.attach_tap(name, eni.mac, _owned(eni), gateways)
        else:
            port = self.fabric.attach(name, self.instance, name, eni.mac, _owned(eni), gateways)
        number = len(self.nics)
        self.nics[name] = eni
        for subnet in eni.subnets:
            if subnet.version == 4:
                self.eips[name] = self.eip(subnet.addresses[0])
                if os == REAL:
                    port.lease = _lease(subnet)
        if os not in (DOWN, REAL):
            with self.instance:
                set_up(name, True)
                with IPRoute() as kernel:
                    index = kernel.link_lookup(ifname=name)[0]
                    for subnet in eni.subnets:
                        self._configure(kernel, index, subnet, number, os == DHCP)

    def _configure(self, kernel: IPRoute, index: int, subnet: Subnet, number: int, default: bool) -> None:
        length = subnet.vswitch.prefixlen
        if subnet.version == 6 and not self._ipv6_onlink:
            length = 128
        for address in subnet.addresses if self._assign else subnet.addresses[:1]:
            kernel.addr("add", index=index, address=str(address), prefixlen=length)
        if subnet.version == 6:
            default = default and (number == 0 or self._ipv6_defaults)
        if default:
            # Clients name the address as the source they prefer; for IPv6 nobody does.
            source = {"prefsrc": str(subnet.addresses[0])} if subnet.version == 4 else {}
            on_link = subnet.version == 4 or self._ipv6_onlink
            flags = 0 if on_link else _ONLINK
            _add_default(kernel, index, subnet.gateway, _metric(subnet.version, number), flags, **source)

    def _add_host(self, name: str, addresses: Iterable[Address], nat: bool = False) -> Host:
        host = Host(addresses)
        self._open.callback(host.close)
        _skip_dad(host)
        mac = f"00:16:3f:00:00:{len(self.fabric.ports):02x}"
        owned = [ip_network(address) for address in host.addresses]
        self.fabric.attach(name, host, "eth0", mac, owned, HOST_GATEWAYS, nat)
        with host:
            set_up("eth0", True)
            with IPRoute() as kernel:
                index = kernel.link_lookup(ifname="eth0")[0]
                for address in host.addresses:
                    kernel.addr("add", index=index, address=str(address), prefixlen=address.max_prefixlen)
                for gateway in HOST_GATEWAYS:
                    if any(address.version == gateway.version for address in host.addresses):
                        _add_default(kernel, index, gateway, 0, _ONLINK)
        _settle(host)
        return host

    def _vswitches(self, where: Union[str, Network]) -> Sequence[Subnet]:
        for name, eni in self.nics.items():
            if name == where or str(where) in [str(subnet.vswitch) for subnet in eni.subnets]:
                return eni.subnets
        raise KeyError(where)


def _owned(eni: Eni) -> List[Network]:
    owned: List[Network] = []
    for subnet in eni.subnets:
        owned += [ip_network(address) for address in subnet.addresses]
        owned += subnet.prefixes
    return owned


def _lease(subnet: Subnet) -> Lease:
    return Lease(
        IPv4Address(subnet.addresses[0]), IPv4Network(subnet.vswitch), IPv4Address(subnet.gateway), LEASE
    )


def _metric(version: int, number: int) -> int:
    """A default route's metric, as cloud-init has it: IPv4 100, 200, 300 …; IPv6 begins at the kernel's own 1024."""
    return 100 * (number + 1) if version == 4 else 1024 + 100 * number


def _add_default(kernel: IPRoute, index: int, gateway: Address, metric: int, flags: int, **options: str) -> None:
    kernel.route(
        "add",
        family=AF_INET if gateway.version == 4 else AF_INET6,
        dst="0.0.0.0/0" if gateway.version == 4 else "::/0",
        gateway=str(gateway),
        oif=index,
        priority=metric,
        proto=_BY_DHCP,
        flags=flags,
        **options,
    )


def _free_eips() -> Iterator[Address]:
    for network in (EIPS, MORE_EIPS):
        yield from network.hosts()


def _skip_dad(namespace: Namespace) -> None:
    """Have IPv6 addresses at once, not after a second or two of looking for duplicates."""
    for which in ("all", "default"):
        namespace.sysctl(f"net.ipv6.conf.{which}.accept_dad", 0)


def _settle(namespace: Namespace) -> None:
    """Even then a worker of the kernel has to bless every IPv6 address before it is used as a source."""
    end = time.monotonic() + _SETTLE
    with namespace:
        while _has_tentative() and time.monotonic() < end:
            time.sleep(0.001)


def _is_settled(dump: str) -> bool:
    """Whether every IPv6 address of a link that is up has its local route."""
    name, up = "", False
    for line in dump.splitlines():
        link = re.match(r"\d+: ([^:@]+)[^<]*<(.*?)>", line)
        if link:
            name, up = link.group(1), "LOWER_UP" in link.group(2).split(",")
        address = re.match(r" +inet6 ([^/ ]+)", line)
        if address and up and (" tentative" in line or f"local {address.group(1)} dev {name} " not in dump):
            return False
    return True


def _has_tentative() -> bool:
    with open("/proc/thread-self/net/if_inet6") as lines:
        return any(int(line.split()[4], 16) & _TENTATIVE for line in lines)

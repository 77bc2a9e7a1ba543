"""Short builders of the values that the pure parts work on."""

from ipaddress import ip_address, ip_interface, ip_network

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.decide import decide
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.eni import Listing, NetworkInterface, Subnet
from eni_bootstrap.model.kernel import Hop, Link, LinkAddress, Route, SeenRoute, SeenRule, Snapshot

CONFIG = Config()
OURS = CONFIG.protocol
KERNEL, BOOT, STATIC, RA, DHCP = 2, 3, 4, 9, 16
MAIN = 254


def net(text):
    return ip_network(text)


def subnet(vswitch, *addresses, gateway=None, prefixes=(), vpc=()):
    """A subnet whose gateway is where Alibaba has it: the third address from the end."""
    block = ip_network(vswitch)
    gateway = ip_address(gateway) if gateway else block[-3 if block.version == 4 else -9]
    return Subnet(block, gateway, tuple(ip_address(address) for address in addresses),
                  tuple(ip_network(prefix) for prefix in prefixes), tuple(ip_network(block) for block in vpc))


def interface(number, *subnets, primary=False):
    """ENI number n has the MAC …:0n, as ``link(n)`` has."""
    return NetworkInterface("eni-{}".format(number), mac(number), primary, subnets)


def mac(number):
    return "00:16:3e:00:00:{:02x}".format(number)


def link(number, name=None, **more):
    """The link of ENI number n: eth<n>, with ifindex n + 2."""
    return Link(number + 2, name or "eth{}".format(number), mac(number), **more)


def address(dev, text):
    at = ip_interface(text)
    return LinkAddress(dev, at.ip, at.network.prefixlen)


def route(table, dst, *hops, **more):
    """``route(1001, "default", "eth1 172.16.20.253")``; the version of a default follows from its gateway."""
    made = tuple(Hop(hop.split()[0], ip_address(hop.split()[1]) if " " in hop else None) for hop in hops)
    if dst == "default":
        six = more.pop("version", 4) == 6 or any(hop.gateway and hop.gateway.version == 6 for hop in made)
        dst = "::/0" if six else "0.0.0.0/0"
    return Route(table, ip_network(dst), made, **more)


def snapshot(links, addresses=(), routes=(), rules=()):
    """``routes`` and ``rules`` as (value, protocol)."""
    return Snapshot(tuple(links), tuple(addresses), tuple(SeenRule(*rule) for rule in rules),
                    tuple(SeenRoute(*seen) for seen in routes))


PRIMARY = interface(0, subnet("172.16.10.0/24", "172.16.10.10"), primary=True)
ETH1 = interface(1, subnet("172.16.20.0/24", "172.16.20.20"))
ETH2 = interface(2, subnet("172.16.10.0/24", "172.16.10.30"))

DHCP_MAIN = [
    (route(MAIN, "default", "eth0 172.16.10.253", metric=100), DHCP),
    (route(MAIN, "172.16.10.0/24", "eth0"), KERNEL),
    (route(MAIN, "default", "eth1 172.16.20.253", metric=200), DHCP),
    (route(MAIN, "172.16.20.0/24", "eth1"), KERNEL),
]


def two_enis(routes=(), rules=(), links=None, addresses=()):
    """A snapshot of eth0 and eth1 as DHCP leaves them, and more."""
    held = [address("eth0", "172.16.10.10/24"), address("eth1", "172.16.20.20/24")]
    return snapshot(links or [link(0), link(1)], held + list(addresses), DHCP_MAIN + list(routes), rules)


def decision(world, *interfaces, sick=(), made=Record(), address_wait_expired=frozenset(), config=CONFIG,
             networks=()):
    listing = Listing(interfaces or (PRIMARY, ETH1), tuple(sick))
    return decide(listing, world, made, address_wait_expired, config, networks)


def texts(items):
    return [str(item) for item in items]

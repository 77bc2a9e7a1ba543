"""What our readers make of this kernel's own messages; ``ip -json`` and the sysctls are the judges."""

import pytest

from eni_bootstrap.config.settings import Config
from eni_bootstrap.kernel.kernel import Kernel
from eni_bootstrap.lab.vpc import make_tree
from tests.oracle import ip, routes, show

ROUTES = (
    "route add 10.20.0.0/16 via 172.16.20.9 dev eth1 mtu lock 1400 initcwnd 20 metric 7",
    "route add 10.21.0.0/16 nexthop via 172.16.20.8 dev eth1 weight 3 nexthop dev eth2 weight 5",
    "route add 10.22.0.0/16 via inet6 fe80::5 dev eth1",
    "route add 10.23.0.0/16 encap ip id 7 dst 172.16.20.200 via 172.16.20.9 dev eth1",
    "route add unreachable 10.24.0.0/16 metric 4278198272",
    "route add 10.25.0.0/16 dev eth1 src 172.16.20.10 tos 0x10",
    "-6 route add fd00:20::/32 via fe80::9 dev eth1 expires 600",
    "-6 route add fd00:21::/32 nexthop via fe80::8 dev eth1 nexthop via fe80::9 dev eth2",
    "-6 route add prohibit fd00:22::/32",
)


@pytest.fixture
def host(make_vpc):
    """A host with links and routes of many kinds, and a reader of its kernel."""
    vpc = make_vpc(make_tree(ipv6=True))
    for command in ("link add br0 type bridge", "link add v0 type veth peer name v1", "link set v0 master br0 group 7",
                    "link add mv0 link eth1 type macvlan mode private", "link set br0 up mtu 1400",
                    "link add small type veth peer name small1", "link set small mtu 1000",
                    "address add 192.0.2.1 peer 192.0.2.2/32 dev br0",
                    "address add 172.16.20.77/32 dev eth1 valid_lft 3600 preferred_lft 0") + ROUTES:
        ip(vpc, command)
    vpc.instance.sysctl("net/ipv6/conf/v1/disable_ipv6", 1)
    with vpc.instance:
        reader = Kernel()
        reader.links()
        yield vpc, reader
        reader.close()


def has_ipv6(vpc, dev):
    done = vpc.instance.run(["cat", "/proc/sys/net/ipv6/conf/{}/disable_ipv6".format(dev)], check=False)
    return done.returncode == 0 and done.stdout.strip() == "0"


def test_links(host):
    vpc, reader = host
    names = {}
    found = {link.name: link for link in reader.links()}
    told = show(vpc, "-details link show")
    assert set(found) == {each["ifname"] for each in told}
    for each in told:
        link = found[each["ifname"]]
        names[link.ifindex] = link.name
        assert (link.ifindex, link.mac) == (each["ifindex"], each.get("permaddr") or each["address"])
        assert link.kind == each.get("linkinfo", {}).get("info_kind", "loopback" if link.name == "lo" else "")
        assert (link.up, link.carrier) == ("UP" in each["flags"], each["operstate"] in ("UP", "UNKNOWN"))
        assert link.group == {"default": 0}.get(each["group"]) or str(link.group) == each["group"]
        assert link.ipv6 == has_ipv6(vpc, link.name)
    for each in told:
        link = found[each["ifname"]]
        assert names.get(link.master, "") == each.get("master", "")
        assert names.get(link.parent) == each.get("link")  # the other end of a veth may be in another namespace
        assert reader.settings([(link.name, "mtu")])[0].value == each["mtu"]
    assert not found["v1"].ipv6 and not found["small"].ipv6 and found["br0"].ipv6


def test_addresses(host):
    vpc, reader = host
    told = {(link["ifname"], held["local"], held["prefixlen"], not held.get("valid_life_time") == 4294967295,
             bool(held.get("deprecated")))
            for link in show(vpc, "address show") for held in link["addr_info"]
            if held["scope"] == "global" and link["ifname"] != "lo"}
    found = {(held.dev, str(held.address), held.prefix_length, held.leased, held.deprecated)
             for held in reader.addresses()}
    assert found == told and len(found) > 6


def test_routes(host):
    vpc, reader = host
    snapshot = reader.snapshot(reader.links(), (), ["eth1", "eth2"], (), Config())
    found = {str(seen.route): seen for seen in snapshot.routes}
    for text, expires in {
        "10.20.0.0/16 via 172.16.20.9 dev eth1 table main metric 7 initcwnd 20 mtu 1400": False,
        "10.22.0.0/16 via fe80::5 dev eth1 table main": False,
        "10.23.0.0/16 via 172.16.20.9 dev eth1 encap table main": False,
        "10.25.0.0/16 dev eth1 table main tos 0x10 src 172.16.20.10": False,
        "10.21.0.0/16 table main nexthop via 172.16.20.8 dev eth1 weight 3 nexthop dev eth2 weight 5": False,
        "fd00:20::/32 via fe80::9 dev eth1 table main metric 1024": True,
        "fd00:21::/32 table main metric 1024 nexthop via fe80::8 dev eth1 nexthop via fe80::9 dev eth2": False,
    }.items():
        assert found[text].expires == expires, text
    protocols = {str(route["dst"]): route["protocol"] for version in (4, 6) for route in routes(vpc, "main", version)}
    names = {2: "kernel", 3: "boot", 9: "ra", 16: "dhcp"}
    for seen in snapshot.routes:
        dst = "default" if seen.route.is_default else str(seen.route.dst).replace("/32", "").replace("/128", "")
        assert dst not in protocols or names.get(seen.protocol, str(seen.protocol)) == protocols[dst]

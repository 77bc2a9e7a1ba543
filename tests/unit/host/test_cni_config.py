"""Container networks, read off the files of their configuration."""

import json

import pytest

from eni_bootstrap.host.cni_config import container_networks
from eni_bootstrap.model.host import ContainerNetwork


def write(root, name, content, folder="etc/cni/net.d"):
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


TERWAY_FILE = {"cniVersion": "0.4.0", "name": "terway", "plugins": [
    {"type": "terway", "eniip_virtual_type": "IPVlan"}, {"type": "portmap", "capabilities": {"portMappings": True}}]}


@pytest.mark.parametrize("content, found", [
    (TERWAY_FILE, [("terway", True, [])]),
    ({"type": "terway", "eniip_virtual_type": "Veth"}, [("terway", True, [])]),
    ({"plugins": [{"type": "cilium-cni", "enable-debug": False}]}, [("Cilium", False, [])]),
    ({"type": "cilium-cni", "alibaba-cloud": {"vswitches": ["vsw-1"]}}, [("Cilium", True, [])]),
    ({"plugins": [{"type": "aws-cni"}, {"type": "egress-cni"}, {"type": "portmap"}]}, [("AWS VPC CNI", False, [])]),
    ({"type": "macvlan", "master": "eth1", "ipam": {"type": "dhcp"}}, [("macvlan", False, ["eth1"])]),
    ({"type": "host-device", "hwaddr": "00:16:3E:00:00:01"}, [("host-device", True, ["00:16:3e:00:00:01"])]),
    ({"type": "multus", "delegates": [TERWAY_FILE, {"type": "ipvlan", "master": "eth2"}]},
     [("terway", True, []), ("ipvlan", False, ["eth2"])]),
    ({"plugins": [{"type": "bridge", "bridge": "cni0"}, {"type": "portmap"}, {"type": "firewall"}]}, []),
    ({"type": "flannel", "delegate": {"isDefaultGateway": True}}, []),
    ({"type": "vlan", "master": "eth1"}, []),
    ({"type": "loopback"}, []), ([], []), ("{", []), ("[" * 100000, []), ("", []),
    ('{"plugins": [' * 20000 + "]}" * 20000, []), ({"type": 7, "plugins": 5}, []),
])
def test_what_a_file_says(tmp_path, content, found):
    write(tmp_path, "20-net.conflist", content)
    path = "/etc/cni/net.d/20-net.conflist"
    assert container_networks(str(tmp_path)) == [
        ContainerNetwork(name, path, takes, frozenset(devices)) for name, takes, devices in found]


@pytest.mark.parametrize("name, found", [
    ("10-terway.conf", ("terway", True)), ("05-cilium.conflist", ("Cilium", False)),
    ("10-aws.conflist", ("AWS VPC CNI", False)), ("87-podman-bridge.conflist", None),
])
@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_file_that_can_t_be_read_counts_by_its_name(tmp_path, name, content, found):
    path = write(tmp_path, name, content)
    assert [network[:3] for network in container_networks(str(tmp_path))] == (
        [(found[0], "/etc/cni/net.d/" + name, found[1])] if found else [])
    path.write_text('{"type": "bridge"}')
    assert container_networks(str(tmp_path)) == []


def test_where_files_are_looked_for(tmp_path):
    assert container_networks(str(tmp_path)) == []
    write(tmp_path, "10-terway.conflist.bak", TERWAY_FILE)
    write(tmp_path, "README", TERWAY_FILE)
    (tmp_path / "etc/cni/net.d/loop.conf").symlink_to("loop.conf")
    (tmp_path / "etc/cni/net.d/gone.conf").symlink_to("/nowhere")
    (tmp_path / "etc/cni/net.d/folder.conf").mkdir()
    assert container_networks(str(tmp_path)) == []
    write(tmp_path, "real.json", TERWAY_FILE, "opt")
    (tmp_path / "etc/cni/net.d/10-terway.conf").symlink_to("/opt/real.json")
    write(tmp_path, "10-terway.conflist", "", "var/lib/rancher/k3s/agent/etc/cni/net.d")
    assert [(network.name, network.path) for network in container_networks(str(tmp_path))] == [
        ("terway", "/etc/cni/net.d/10-terway.conf"),
        ("terway", "/var/lib/rancher/k3s/agent/etc/cni/net.d/10-terway.conflist")]

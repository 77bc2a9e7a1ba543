"""The container networks that are configured here, by the files in which kubelet, containerd and podman find their
plug-ins (CNI specification). Docker has none. Reads files only, as any user may.
"""

import json
import os
from typing import Any, Dict, Iterator, List

from eni_bootstrap.host.rootfs import inside
from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.model.host import ContainerNetwork

_PLACES = ("/etc/cni/net.d", "/etc/cni/multus/net.d", "/var/lib/rancher/k3s/agent/etc/cni/net.d")
_ENDINGS = (".conf", ".conflist", ".json")
_LARGEST = 1 << 20
"""Maximum bytes of a file: real ones have a few hundred."""

_NAMES = {"terway": "terway", "cilium-cni": "Cilium", "aws-cni": "AWS VPC CNI"}
"""Plug-in type -> name, of plug-ins that work with ENIs."""
_TAKERS = ("terway", "host-device", "sriov")
"""Plug-ins that move whole devices into containers' namespaces: terway an ENI, if a pod is to have one for itself."""
_CLOUD_KEYS = ("eni", "alibaba-cloud")
"""Keys with which Cilium has ENIs attached as it needs them."""
_USERS = _TAKERS + ("ipvlan", "macvlan")
_DEVICE_KEYS = ("master", "device", "hwaddr")
"""Keys in which these plug-ins name their device or its parent; the children of that are in other namespaces."""


def container_networks(root: str = "/") -> List[ContainerNetwork]:
    """The configured container networks that may use ENIs; others, such as a bridge for containers, don't count.

    Many files only root may read (Cilium's; others where a security benchmark says so), and the service is not root:
    then the file's name has to do.
    """
    found: Dict[ContainerNetwork, None] = {}
    for place in _PLACES:
        try:
            names = sorted(os.listdir(inside(root, place)))
        except (OSError, BootstrapError):
            continue
        for name in names:
            if name.endswith(_ENDINGS):
                found.update(dict.fromkeys(_networks(root, "{}/{}".format(place, name))))
    return list(found)


def _networks(root: str, path: str) -> Iterator[ContainerNetwork]:
    plugins = _read(root, path)
    for plugin in plugins:
        kind = str(plugin["type"])
        devices = frozenset(str(plugin[key]).lower() for key in _DEVICE_KEYS if kind in _USERS and plugin.get(key))
        takes = kind in _TAKERS or kind == "cilium-cni" and any(key in plugin for key in _CLOUD_KEYS)
        if kind in _NAMES or takes or devices:
            yield ContainerNetwork(_NAMES.get(kind, kind), path, takes, devices)
    for kind, name in _NAMES.items() if not plugins else ():
        if name.split()[0].lower() in os.path.basename(path):
            yield ContainerNetwork(name, path, kind in _TAKERS)


def _read(root: str, path: str) -> List[Dict[str, Any]]:
    """The plug-ins of a file; none where it can't be read or is no JSON."""
    try:
        real = inside(root, path)
        if not os.path.isfile(real):  # to open a pipe would wait for its writer
            return []
        with open(real, "rb") as handle:
            return list(_plugins(json.loads(handle.read(_LARGEST).decode("utf-8", "replace"))))
    except (OSError, BootstrapError, ValueError, RecursionError):
        return []


def _plugins(node: Any) -> Iterator[Dict[str, Any]]:
    """The plug-in that a file configures, those of its list, and those that it hands containers on to."""
    if not isinstance(node, dict):
        return
    if isinstance(node.get("type"), str):
        yield node
    for key in ("plugins", "delegates"):
        for each in node[key] if isinstance(node.get(key), list) else ():
            yield from _plugins(each)

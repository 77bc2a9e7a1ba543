"""Competing agents: other programs on this host that set up ENIs. We find them by their files, name them, and never
switch them off.
"""

import glob
import os
import re
from typing import List

from eni_bootstrap.host.rootfs import inside, outside
from eni_bootstrap.model.finding import Finding

_UNITS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_TYPED = re.compile(r"^\s*(sudo\s+)?(/\S*/)?(ip\s+(-\S+\s+)*(route|ro?|rule|ru)\s+(add|append|replace)|route\s+add)\b")
"""Lines that the vendor's page has people write into rc.local."""
_YES = re.compile(r"NM_CLOUD_SETUP_ALIYUN=[\"']?(yes|true|1)\b", re.IGNORECASE)


def competing_agents(root: str = "/") -> List[Finding]:
    """A remark for each: what it is, where, and how it is switched off."""
    return _nm_cloud_setup(root) + _multi_nic_util(root) + _typed_lines(root) + _terway(root)


def _nm_cloud_setup(root: str) -> List[Finding]:
    """nm-cloud-setup, which works on Alibaba Cloud only where its environment says so (nm-cloud-setup(8))."""
    if not _enabled(root, "nm-cloud-setup.service") and not _enabled(root, "nm-cloud-setup.timer"):
        return []
    places = [path for unit in _UNITS for pattern in ("nm-cloud-setup.service", "nm-cloud-setup.service.d/*.conf")
              for path in glob.glob(inside(root, unit) + "/" + pattern)]
    said = [path for path in places if any(_YES.search(line) and not line.startswith("#") for line in _lines(path))]
    return [Finding.remark(
        "competing-agent", "nm-cloud-setup is enabled and told to set up ENIs ({}): both make rules for the same "
        "addresses".format(outside(root, said[0])), "to leave it to eni-bootstrap: systemctl disable --now "
        "nm-cloud-setup.timer nm-cloud-setup.service")] if said else []


def _multi_nic_util(root: str) -> List[Finding]:
    units = [unit + "/eni.service" for unit in _UNITS if os.path.lexists(inside(root, unit) + "/eni.service")]
    return [Finding.remark(
        "competing-agent", "multi-nic-util is installed ({}) and sets up ENIs too".format(units[0]),
        "to leave it to eni-bootstrap: systemctl disable --now eni.service")] if units else []


def _typed_lines(root: str) -> List[Finding]:
    said, seen = [], set()
    for place in ("/etc/rc.local", "/etc/rc.d/rc.local"):
        path = inside(root, place)
        numbers = [str(number) for number, line in enumerate(_lines(path), 1) if _TYPED.match(line)]
        if numbers and path not in seen:
            seen.add(path)
            said.append(Finding.remark(
                "competing-script", "{} adds routes or rules at boot (line {}): what they do for ENIs is done by "
                "eni-bootstrap, and they may win over it".format(place, ", ".join(numbers)),
                "`eni-bootstrap adopt` tells which of them can go"))
    return said


def _terway(root: str) -> List[Finding]:
    found = glob.glob(inside(root, "/etc/cni/net.d/*terway*"))
    return [Finding.remark(
        "container-network", "the container network plug-in terway is configured ({}): ENIs that it gives to "
        "containers are left alone".format(outside(root, found[0])))] if found else []


def _enabled(root: str, unit: str) -> bool:
    return any(glob.glob("{}/*.wants/{}".format(inside(root, place), unit)) for place in _UNITS)


def _lines(path: str) -> List[str]:
    try:
        with open(path, errors="replace") as lines:
            return list(lines)
    except OSError:
        return []

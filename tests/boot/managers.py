"""Who manages the network in a machine: what an operator, or a distribution's image, would have written there."""

import os
from typing import Callable, Dict

from tests.boot.image import Root

LINKS = 4
"""eth0 to eth3: three that are there at boot, and one that is plugged in."""


def metric(number: int) -> int:
    """As cloud-init has it."""
    return 100 * (number + 1)


def networkd(root: Root) -> None:
    for number in range(LINKS):
        root.write("/etc/systemd/network/10-eth{}.network".format(number), NETWORK.format(number, metric(number)))
    root.enable(["systemd-networkd.service"])


def network_manager(root: Root) -> None:
    for number in range(LINKS):
        root.write("/etc/NetworkManager/system-connections/eth{}.nmconnection".format(number),
                   CONNECTION.format(number, metric(number)), 0o600)
    root.enable(["NetworkManager.service"])


def ifupdown(root: Root) -> None:
    """It does not know of eth3: nobody configures what is plugged in."""
    lines = ["auto lo", "iface lo inet loopback"]
    for number in range(LINKS - 1):
        lines += ["auto eth{}".format(number), "iface eth{} inet dhcp".format(number),
                  "    metric {}".format(metric(number))]
    root.write("/etc/network/interfaces", "\n".join(lines) + "\n")
    root.enable(["networking.service"])


def netplan(root: Root) -> None:
    lines = ["network:", "  version: 2", "  renderer: networkd", "  ethernets:"]
    for number in range(LINKS):
        lines += ["    eth{}:".format(number), "      dhcp4: true", "      optional: true",
                  "      dhcp4-overrides: {{route-metric: {}}}".format(metric(number))]
    root.write("/etc/netplan/50-cloud-init.yaml", "\n".join(lines) + "\n", 0o600)


def cloud_init(root: Root) -> None:
    """It configures the network by itself, as it sees fit, for networkd. What it does besides is left out as far as the
    small image has no programs for it, and reports errors."""
    os.unlink(root.inside("/etc/cloud/cloud-init.disabled"))
    root.write("/etc/cloud/cloud.cfg.d/10-lab.cfg", CLOUD_INIT)
    root.enable(["systemd-networkd.service"])


NETWORK = """\
[Match]
Name=eth{0}

[Network]
DHCP=ipv4
IPv6AcceptRA=no

[DHCPv4]
RouteMetric={1}
UseDNS=no
"""

CONNECTION = """\
[connection]
id=eth{0}
type=ethernet
interface-name=eth{0}
autoconnect=true

[ipv4]
method=auto
route-metric={1}

[ipv6]
method=disabled
"""

CLOUD_INIT = """\
system_info: {network: {renderers: [networkd]}}
cloud_init_modules: [seed_random, bootcmd, write-files, set_hostname, update_hostname]
cloud_config_modules: [runcmd]
cloud_final_modules: [package-update-upgrade-install, scripts-vendor, scripts-per-once, scripts-per-boot,
                      scripts-per-instance, scripts-user, final-message]
"""

MANAGERS: Dict[str, Callable[[Root], None]] = {
    "networkd": networkd, "NetworkManager": network_manager, "ifupdown": ifupdown, "netplan": netplan,
    "cloud-init": cloud_init,
}

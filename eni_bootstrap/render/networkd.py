"""systemd-networkd: a .network file for each ENI, and one for lo. PURE.

What belongs to no device, rules and IPv4's fences, is in lo's file: with an ENI's own they would go when its link loses
its carrier, and nothing would keep its traffic from leaving by another one.
"""

from typing import List

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.kernel import Route, Rule
from eni_bootstrap.render.assumed_host import ACTIONS, File, Member, Outline, comments, not_expressed, other_settings

_PATH = "/etc/systemd/network/05-eni-bootstrap-{}.network"
"""In front of what netplan (10-netplan-eth0), cloud-init (10-cloud-init-eth0) and operators usually have: of several
files that match a link the first one is taken, whole (systemd.network(5))."""


def render(outline: Outline, config: Config) -> List[File]:
    """The files; an ENI's file matches the link by its MAC, whatever its name."""
    lines = comments(outline.headline) + [
        "# For systemd 248 or newer. What belongs to no device: it stays while an ENI's link is down.",
        "# It takes the place of another file for lo, if there is one.",
        "[Match]", "Name=lo"]
    for route in outline.device_less:
        lines += _route(route)
    for rule in outline.all_rules:
        lines += _rule(rule) if rule.action in ACTIONS else []
    lines += [""] + comments(not_expressed([rule for rule in outline.all_rules if rule.action not in ACTIONS], config))
    return [File(_PATH.format("lo"), _text(lines))] + [_link(member, outline) for member in outline.members]


def _link(member: Member, outline: Outline) -> File:
    primary = member.eni.primary
    lines = comments(outline.headline) + [
        "# {}: takes the place of the file that configures it now.".format(member.eni.label),
        "[Match]", "MACAddress=" + member.eni.mac, "Type=ether"]
    mtu = [str(each.value) for each in member.settings if each.name == "mtu"]
    if mtu or not primary:
        lines += ["", "[Link]"]
    lines += ["MTUBytes=" + value for value in mtu]
    lines += [] if primary else ["# The boot does not wait for it.", "RequiredForOnline=no"]
    lines += comments(other_settings(member))
    lines += ["", "[Network]"]
    if primary:
        lines.append("DHCP=yes" if 6 in member.versions else "DHCP=ipv4")
    else:
        lines += ["DHCP=ipv4"] if 4 in member.versions else []
        lines.append("IPv6AcceptRA=no")
    for held in member.addresses:
        lines += ["", "[Address]", "Address={}/{}".format(held.address, held.prefix_length)]
        lines += ["PreferredLifetime=0"] if held.deprecated else []
        # The cloud has seen to it that there is none, and until it is certain a socket can't be bound to it.
        lines += ["DuplicateAddressDetection=none"] if held.address.version == 6 else []
    if 4 in member.versions:
        lines += ["", "[DHCPv4]", "RouteMetric={}".format(member.metric)]
    for route in member.routes:
        lines += _route(route) if route.hops else []
    return File(_PATH.format(member.dev), _text(lines))


def _route(route: Route) -> List[str]:
    lines = ["", "[Route]", "Destination={}".format(route.dst)]
    if route.kind != "unicast":
        lines.append("Type=" + route.kind)
    for hop in route.hops:
        if hop.gateway is not None:
            lines.append("Gateway={}".format(hop.gateway))
            lines += ["GatewayOnLink=yes"] if route.onlink else []
        elif route.version == 4 and route.kind == "unicast":
            lines.append("Scope=link")  # of IPv6 there is one scope only
    lines.append("Table={}".format(route.table))
    return lines + (["Metric={}".format(route.metric)] if route.metric else [])


def _rule(rule: Rule) -> List[str]:
    match = rule.match
    lines = ["", "[RoutingPolicyRule]", "Priority={}".format(rule.priority)]
    if rule.src is None and match.dst is None:
        lines.append("Family=ipv{}".format(rule.version))
    lines += ["From={}".format(rule.src)] if rule.src is not None else []
    lines += ["To={}".format(match.dst)] if match.dst is not None else []
    lines += ["OutgoingInterface=" + rule.oif] if rule.oif else []
    lines += ["IncomingInterface=" + match.iif] if match.iif else []
    lines += ["FirewallMark={}/{:#x}".format(match.mark, match.mask)] if match.mask else []
    lines += ["User={}-{}".format(*match.users)] if match.users is not None else []
    lines += ["IPProtocol={}".format(match.protocol)] if match.protocol else []
    lines += ["SourcePort={}-{}".format(*match.sports)] if match.sports is not None else []
    lines += ["DestinationPort={}-{}".format(*match.dports)] if match.dports is not None else []
    lines += ["InvertRule=yes"] if match.inverted else []
    if rule.action == "lookup":
        lines.append("Table={}".format(rule.table))
    else:
        lines.append("Type=" + rule.action)
    if rule.suppress_prefixlength is not None:
        lines.append("SuppressPrefixLength={}".format(rule.suppress_prefixlength))
    return lines


def _text(lines: List[str]) -> str:
    return "\n".join(lines).rstrip("\n") + "\n"

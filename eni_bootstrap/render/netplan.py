"""netplan: one file, which netplan merges with the others. PURE.

An ENI's entry bears its link's name, so that it merges with what cloud-init has written for it. Rules and fences are
lo's, as for networkd. A rule of netplan knows source, destination, mark and table, and nothing else (netplan-yaml(5)).
"""

from typing import List

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.kernel import ANY, Route, Rule
from eni_bootstrap.render.assumed_host import File, Member, Outline, comments, not_expressed, other_settings

_PATH = "/etc/netplan/90-eni-bootstrap.yaml"
"""Behind 50-cloud-init.yaml: of two files that say a thing the later one counts, and lists are joined."""
_WORST = 2147483647
"""The worst metric for netplan: it writes what is larger as a negative number (0.106), which networkd takes for none at
all, and none is the best."""
_SECRET = 0o600
"""netplan warns of its files that others can read."""


def render(outline: Outline, config: Config) -> List[File]:
    """The one netplan file."""
    lines = comments(outline.headline) + [
        "# For netplan with systemd-networkd, which it has on servers.",
        "network:", "  version: 2", "  ethernets:"]
    for member in outline.members:
        lines += _entry(member)
    lines += comments(["What belongs to no device: it stays while an ENI's link is down."], indent="    ") + ["    lo:"]
    lines += _list("routes", [_route(route) for route in outline.device_less])
    lines += _list("routing-policy", [_rule(rule) for rule in outline.all_rules if _expressible(rule)])
    # What comes before main's specific routes is needed where there is a rule for those.
    lines += comments(not_expressed([rule for rule in outline.all_rules if not _expressible(rule)
                                     and rule.priority != config.priority_without_ifgroup], config), indent="      ")
    return [File(_PATH, "\n".join(lines) + "\n", _SECRET)]


def _entry(member: Member) -> List[str]:
    primary = member.eni.primary
    # In quotes, or YAML takes some names for numbers or truth values.
    lines = ["    # " + member.eni.label, '    "{}":'.format(member.dev),
             '      match: {{macaddress: "{}"}}'.format(member.eni.mac)]
    lines += ["      mtu: {}".format(each.value) for each in member.settings if each.name == "mtu"]
    lines += comments(other_settings(member), indent="      ")
    lines += [] if primary else ["      optional: true  # the boot does not wait for it"]
    if 4 in member.versions:
        lines += ["      dhcp4: true", "      dhcp4-overrides: {{route-metric: {}}}".format(member.metric)]
    if 6 in member.versions:
        # netplan wants one metric for both; for a secondary too, for which cloud-init may have asked for DHCPv6.
        lines += ["      dhcp6-overrides: {{route-metric: {}}}".format(member.metric)]
    if not primary:
        lines.append("      accept-ra: false")
    elif 6 in member.versions:
        lines.append("      dhcp6: true")
    lines += _list("addresses", [_address(held.address, held.prefix_length, held.deprecated)
                                 for held in member.addresses])
    return lines + _list("routes", [_route(route) for route in member.routes if route.hops])


def _address(address: object, length: int, deprecated: bool) -> str:
    text = '"{}/{}"'.format(address, length)
    return text + ": {lifetime: 0}" if deprecated else text


def _list(name: str, entries: List[str]) -> List[str]:
    return ["      {}:".format(name)] + ["      - " + entry for entry in entries] if entries else []


def _route(route: Route) -> str:
    words = ['to: "{}"'.format(route.dst)]
    if route.kind != "unicast":
        words.append("type: " + route.kind)
    for hop in route.hops:
        if hop.gateway is None:
            words += ["scope: link"] if route.kind == "unicast" else []
        else:
            words.append('via: "{}"'.format(hop.gateway))
            words += ["on-link: true"] if route.onlink else []
    words.append("table: {}".format(route.table))
    words += ["metric: {}".format(min(route.metric, _WORST))] if route.metric else []
    return "{" + ", ".join(words) + "}"


def _expressible(rule: Rule) -> bool:
    match = rule.match
    return ((rule.src is not None or match.dst is not None) and rule.action == "lookup"
            and rule.suppress_prefixlength is None and match.mask in (0, 0xFFFFFFFF) and not rule.oif
            and match._replace(dst=None, mark=0, mask=0) == ANY)


def _rule(rule: Rule) -> str:
    match = rule.match
    words = ['from: "{}"'.format(rule.src)] if rule.src is not None else []
    words += ['to: "{}"'.format(match.dst)] if match.dst is not None else []
    words += ["mark: {}".format(match.mark)] if match.mask else []
    words += ["table: {}".format(rule.table), "priority: {}".format(rule.priority)]
    return "{" + ", ".join(words) + "}"

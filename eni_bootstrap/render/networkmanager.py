"""NetworkManager: a keyfile for each ENI (nm-settings-keyfile(5)). PURE.

A profile's rules and routes are there as long as it is active: while the link is down there is nothing that keeps the
ENI's traffic from leaving by another one. Rules that are no ENI's are in every profile: NetworkManager makes them once,
and keeps them as long as one of these is active.
"""

import uuid
from typing import List, Sequence

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.kernel import EVERYWHERE, Route, Rule
from eni_bootstrap.render.assumed_host import (
    ACTIONS, File, Member, Outline, also_sent, comments, not_expressed, other_settings,
)

_PATH = "/etc/NetworkManager/system-connections/eni-bootstrap-{}.nmconnection"
_SECRET = 0o600
"""NetworkManager ignores keyfiles that others can read."""
_NAMESPACE = uuid.UUID("9c1b7e0e-4d55-4c0c-8f3e-6f0c6a4a7f11")
"""Any; a profile keeps its id when it is made anew."""
_PRIORITY = 100
"""In front of profiles that say nothing, which have 0; the most is 999."""


def render(outline: Outline, config: Config) -> List[File]:
    """The files; a profile matches the link by its MAC, whatever its name."""
    return [_profile(member, outline, config) for member in outline.members]


def _profile(member: Member, outline: Outline, config: Config) -> File:
    lines = comments(outline.headline) + comments([
        "{}: its priority puts it in front of the profile that is used now. For NetworkManager 1.36 or newer.".format(
            member.eni.label),
        "NOT EXPRESSED: what stays while the profile is not active, the link being down for instance. Meanwhile "
        "packets from the ENI's addresses leave by another one, and the cloud drops them.",
        *also_sent(config), *other_settings(member)])
    lines += ["[connection]", "id=eni-bootstrap-" + member.dev,
              "uuid={}".format(uuid.uuid5(_NAMESPACE, member.eni.mac)), "type=ethernet",
              "autoconnect-priority={}".format(_PRIORITY), "", "[ethernet]", "mac-address=" + member.eni.mac.upper()]
    lines += ["mtu={}".format(each.value) for each in member.settings if each.name == "mtu"]
    for version in (4, 6):
        lines += ["", "[ipv{}]".format(version)] + _family(member, version)
        if version in member.versions:
            first = member is next(each for each in outline.members if version in each.versions)
            others = outline.routes if first else ()
            lines += _routes([route for route in [*member.routes, *others] if route.version == version])
            lines += _rules([rule for rule in [*member.rules, *outline.rules] if rule.version == version], config)
    return File(_PATH.format(member.dev), "\n".join(lines) + "\n", _SECRET)


def _family(member: Member, version: int) -> List[str]:
    if version not in member.versions:
        return ["method=disabled" if version == 4 else "method=ignore"]
    held = [each for each in member.addresses if each.address.version == version]
    lines = comments("NOT EXPRESSED, so that it may be chosen as a source: {} preferred_lft 0".format(each.address)
                     for each in held if each.deprecated)
    lines += ["address{}={}/{}".format(number, each.address, each.prefix_length)
              for number, each in enumerate(held, start=1)]
    if version == 4:
        return ["method=auto", "route-metric={}".format(member.metric)] + lines
    return ["method=auto" if member.eni.primary else "method=manual" if held else "method=link-local"] + lines


def _routes(routes: Sequence[Route]) -> List[str]:
    lines: List[str] = []
    for number, route in enumerate(routes, start=1):
        gateway = next((hop.gateway for hop in route.hops if hop.gateway is not None), None)
        words = [str(route.dst)]
        if gateway is not None or route.metric:
            words.append(str(gateway) if gateway is not None else str(EVERYWHERE[route.version].network_address))
        words += [str(route.metric)] if route.metric else []
        options = ["table={}".format(route.table)]
        options += ["type=" + route.kind] if route.kind != "unicast" else []
        options += ["onlink=true"] if route.onlink else []
        lines += ["route{}={}".format(number, ",".join(words)), "route{}_options={}".format(number, ",".join(options))]
    return lines


def _rules(rules: Sequence[Rule], config: Config) -> List[str]:
    known = [rule for rule in rules if rule.action in ACTIONS]
    lines = ["routing-rule{}={}".format(number, _rule(rule)) for number, rule in enumerate(known, start=1)]
    return lines + comments(not_expressed([rule for rule in rules if rule.action not in ACTIONS], config))


def _rule(rule: Rule) -> str:
    words = ["priority", str(rule.priority)] + (["not"] if rule.match.inverted else [])
    if rule.src is not None:
        words += ["from", str(rule.src)]
    elif rule.match.dst is None:
        words += ["from", str(EVERYWHERE[rule.version])]
    words += ["oif", rule.oif] if rule.oif else []
    words += rule.match.words()
    words += ["table", str(rule.table)] if rule.action == "lookup" else ["type", rule.action]
    if rule.suppress_prefixlength is not None:
        words += ["suppress_prefixlength", str(rule.suppress_prefixlength)]
    return " ".join(words)

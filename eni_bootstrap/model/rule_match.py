"""Whether a policy rule holds for a packet: the kernel's own comparison, for where the kernel can't be asked. PURE."""

from typing import Optional, Tuple

from eni_bootstrap.model.kernel import Address, Network, Query, Rule

_LOOPBACK = "lo"
"""The device by which, for rules, this host's own packets come in (ip-rule(8))."""

_ROOT = 0
"""The agent asks as root unless a query says otherwise."""


def rule_matches(rule: Rule, packet: Query) -> bool:
    """Whether the rule matches this packet, as the kernel decides (fib_rule_match and its two families', kernel 6.18).

    A rule with selectors that we don't know counts as one that does not match.
    """
    match = rule.match
    if rule.version != packet.dst.version or rule.other:
        return False
    fits = (
        (not match.iif or match.iif == (packet.iif or _LOOPBACK))
        and (not rule.oif or rule.oif == packet.oif)
        and not (match.mark ^ packet.mark) & match.mask
        and _within(match.users, _ROOT if packet.user is None else packet.user)
        and (not match.protocol or match.protocol == packet.protocol)
        and _within(match.sports, packet.sport) and _within(match.dports, packet.dport)
        and (match.dst is None or packet.dst in match.dst)
        and _from(rule.src, packet.src, rule.version))
    return fits != match.inverted


def _from(wanted: Optional[Network], source: Optional[Address], version: int) -> bool:
    """Whether the source matches. A packet without a source has 0.0.0.0; for IPv6 no rule with a source matches it
    (ip6_rule_match)."""
    if wanted is None:
        return True
    if source is None:
        return version == 4 and not int(wanted.network_address)
    return source in wanted


def _within(span: Optional[Tuple[int, int]], number: int) -> bool:
    return span is None or span[0] <= number <= span[1]

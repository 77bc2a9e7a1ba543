"""Which rules and routes are ours: the mark, the place in our bands, and the forms of all rules that we make. PURE."""

from typing import Any, Callable, Dict

from eni_bootstrap.config.settings import ENTRIES, Config
from eni_bootstrap.model.kernel import (
    ANY, EVERYWHERE, LOCAL, MAIN, PROTOCOL_KERNEL, SERVICES, SOURCELESS, UNREACHABLE_METRIC, UPPER_HALF, Match,
    Network, Route, Rule,
)


def owns_rule(rule: Rule, protocol: int, config: Config) -> bool:
    """A rule is ours when it carries our protocol, lies in our band and has no selector that we never set.

    VRFs' rules and others carry protocol ``kernel``, too: with it a rule is ours only when we could have made exactly
    that one.
    """
    if protocol == config.protocol:
        return config.owns_priority(rule.priority) and not rule.other
    return protocol == PROTOCOL_KERNEL and config.kernel_marks and _makes(rule, config)


def owns_route(route: Route, protocol: int, config: Config) -> bool:
    """A route is ours when it carries our protocol and lies in a table of our band, or makes a delegated prefix local.

    With protocol ``kernel`` only our fence is ours. For main's default routes see ``plan.ownership.owned``.
    """
    if route.table == LOCAL:
        return protocol == config.protocol and route.kind == "local"
    if not config.owns_table(route.table):
        return False
    return protocol == config.protocol or (
        protocol == PROTOCOL_KERNEL and config.kernel_marks and route == fence(route.table, route.dst)
        and route.dst != EVERYWHERE[6])  # there the fence is a rule


def fence(table: int, dst: Network = EVERYWHERE[4]) -> Route:
    """The fence: a route that refuses packets for which the table has no better one.

    For all of IPv4 it keeps traffic from leaving by another ENI when the table's own routes have gone with their link.
    """
    return Route(table, dst, kind="unreachable", metric=UNREACHABLE_METRIC)


# The forms of the rules that we make: each of these functions names all fields of such a rule. A rule with any other
# field is not of that form.


def _makes(rule: Rule, config: Config) -> bool:
    form = _FORMS.get(rule.priority - config.priority_first)
    return form is not None and form(rule, config)


def _alone(rule: Rule, **fields: Any) -> bool:
    """Whether a rule has exactly these fields, beside its IP version and priority."""
    return rule == Rule(rule.version, rule.priority, **fields)


def _to_table(rule: Rule, config: Config, **fields: Any) -> bool:
    return config.owns_table(rule.table) and _alone(rule, table=rule.table, **fields)


def _from_source(rule: Rule, config: Config) -> bool:
    return rule.src is not None and _to_table(rule, config, src=rule.src)


def _from_address(rule: Rule, config: Config) -> bool:
    return rule.src is not None and rule.src.prefixlen == rule.src.max_prefixlen and _from_source(rule, config)


def _from_prefix(rule: Rule, config: Config) -> bool:
    return rule.src is not None and rule.src.prefixlen < rule.src.max_prefixlen and _from_source(rule, config)


def _without_ifgroup(rule: Rule, config: Config) -> bool:
    return rule.src is not None and _to_table(rule, config, src=rule.src, suppress_prefixlength=0)


def _refusal(rule: Rule, config: Config) -> bool:
    goto = config.priority_main if rule.action == "goto" else 0
    return (rule.action in ("goto", "prohibit", "unreachable", "blackhole") and _is_of_entry(rule)
            and _alone(rule, src=rule.src, match=rule.match, action=rule.action, goto=goto))


def _main(rule: Rule, config: Config) -> bool:
    return rule.suppress_ifgroup in (None, config.group) and _alone(
        rule, table=MAIN, suppress_prefixlength=0, suppress_ifgroup=rule.suppress_ifgroup)


def _inwards(rule: Rule, config: Config) -> bool:
    return bool(rule.match.iif) and _is_mark(rule.match._replace(iif="")) and _alone(
        rule, action="goto", goto=config.priority_mark_end, match=rule.match)


def _mark(rule: Rule, config: Config) -> bool:
    return _is_mark(rule.match) and _to_table(rule, config, match=rule.match)


def _mark_fence(rule: Rule, config: Config) -> bool:
    return _is_mark(rule.match) and (_alone(rule, table=MAIN, match=rule.match) or rule.version == 6 and _alone(
        rule, action="unreachable", match=rule.match))


def _source_fence(rule: Rule, config: Config) -> bool:
    return rule.version == 6 and rule.src is not None and _alone(rule, action="unreachable", src=rule.src)


def _device(rule: Rule, config: Config) -> bool:
    return bool(rule.oif) and _to_table(rule, config, oif=rule.oif)


def _rest(rule: Rule, config: Config) -> bool:
    return rule.src is not None and _alone(rule, table=MAIN, src=rule.src)


def _sent(rule: Rule, config: Config) -> bool:
    return _is_of_entry(rule) and (_alone(rule, table=MAIN, src=rule.src, match=rule.match)
                                   or _to_table(rule, config, src=rule.src, match=rule.match))


def _sent_fence(rule: Rule, config: Config) -> bool:
    return _is_of_entry(rule) and _alone(rule, action="unreachable", src=rule.src, match=rule.match)


def _near(rule: Rule, config: Config) -> bool:
    src, match = SOURCELESS[rule.version]
    return _alone(rule, src=src, table=MAIN, suppress_prefixlength=0, match=match)


def _spread(rule: Rule, config: Config) -> bool:
    src, match = SOURCELESS[rule.version]
    return _alone(rule, src=src, table=config.table_spread, match=match)


def _is_of_entry(rule: Rule) -> bool:
    return (rule.src is not None or rule.match != ANY) and not rule.match.inverted


def _is_mark(match: Match) -> bool:
    """Whether a match asks for a mark that lies inside its mask, and for nothing else."""
    return 0 < match.mark == match.mark & match.mask and match == Match(mark=match.mark, mask=match.mask)


_USUAL = Config()
_FORMS: Dict[int, Callable[[Rule, Config], bool]] = {
    priority - _USUAL.priority_first: form for priority, form in [
        (_USUAL.priority_without_ifgroup, _without_ifgroup),
        *((_USUAL.priority_refusal + place, _refusal) for place in range(ENTRIES)),
        (_USUAL.priority_main, _main),
        (_USUAL.priority_mark_inwards, _inwards),
        (_USUAL.priority_mark, _mark),
        (_USUAL.priority_mark_fence, _mark_fence),
        (_USUAL.priority_mark_end, lambda rule, config: _alone(rule, action="nop")),
        (_USUAL.priority_address, _from_address),
        (_USUAL.priority_prefix, _from_prefix),
        (_USUAL.priority_fence, _source_fence),
        (_USUAL.priority_device, _device),
        (_USUAL.priority_primary, _from_source),
        (_USUAL.priority_rest, _rest),
        (_USUAL.priority_services, lambda rule, config: _alone(
            rule, table=MAIN, match=Match(SERVICES[rule.version]))),
        *((_USUAL.priority_entry + 2 * place, _sent) for place in range(ENTRIES)),
        *((_USUAL.priority_entry + 2 * place + 1, _sent_fence) for place in range(ENTRIES)),
        (_USUAL.priority_foreign, lambda rule, config: _alone(rule, table=MAIN, src=UPPER_HALF)),
        (_USUAL.priority_near, _near),
        (_USUAL.priority_spread, _spread),
    ]}
"""Place in the band, which moves as a whole -> the form of the rules with that priority."""

"""The number ladder and every other setting, in one place, each with its reason."""

from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from eni_bootstrap.model.changes import Numbering
from eni_bootstrap.model.kernel import (
    ANY, EVERYWHERE, LOCAL, MAIN, PROTOCOL_KERNEL, SERVICES, SOURCELESS, UNREACHABLE_METRIC, UPPER_HALF, Match,
    Network, Route, Rule,
)

_BAND = 1000
"""Tables and priorities that are ours, from the first one on."""

BOUNDS = {
    "table": (256, (1 << 32) - _BAND),
    "priority": (1001, 32766 - _BAND),
    "protocol": (5, 255),
    "group": (1, (1 << 32) - 1),
}
"""The least and the most that each of ``Numbering`` may be. The kernel's own tables, 253 to 255, are not in our band,
nor are its priorities: 0, a VRF's 1000, main's 32766 and what is behind."""

TAKEN_PROTOCOLS = frozenset((*range(5), *range(8, 19), 42, 99, *range(186, 199)))
"""The kernel's, and those of routing daemons, DHCP clients and others (rt_protos of iproute2 and FRR)."""

ENTRIES = 80
"""Access entries at the most: as many as there are priorities for."""

Span = Tuple[int, int]
"""First and last number."""


class Entry(NamedTuple):
    """What of the traffic leaves by a certain ENI, or is refused. Of each selector one must hold; an empty one does."""

    line: int
    """In the file."""
    via: str
    """The ENI; empty: refused."""
    answer: str
    """``prohibit``, ``unreachable`` or ``blackhole``; empty: it is sent."""
    src: Tuple[Network, ...] = ()
    dst: Tuple[Network, ...] = ()
    iifs: Tuple[str, ...] = ()
    protocols: Tuple[int, ...] = ()
    sports: Tuple[Span, ...] = ()
    dports: Tuple[Span, ...] = ()
    users: Tuple[Span, ...] = ()
    mark: Optional[Span] = None
    """Mark and mask."""


class Spread(NamedTuple):
    """Over which ENIs connections that have chosen no source are spread."""

    line: int
    dst: Tuple[Network, ...]
    """Empty: everywhere."""
    over: Tuple[Tuple[str, int], ...]
    """ENIs and their weights."""


class Source(NamedTuple):
    """Sources of an ENI that metadata does not tell."""

    line: int
    eni: str
    networks: Tuple[Network, ...]


class LinkWish(NamedTuple):
    """Settings of ENIs' links."""

    line: int
    eni: str
    settings: Tuple[Tuple[str, int], ...]


class Config(NamedTuple):
    """Settings of one run; the defaults are what the documentation promises."""

    metadata_url: str = "http://100.100.100.200"
    """Alibaba Cloud's metadata service: the same address in every VPC."""

    metadata_url_ipv6: str = "http://[fd00:100::100:200]"
    """The same service for hosts without IPv4; empty where another URL was given."""

    timeout: float = 60.0
    """Seconds for a whole run: metadata is reachable once the primary ENI has its lease, which takes well under a
    minute, and a boot must not hang for longer."""

    interface_wait: float = 20.0
    """Seconds to wait for an ENI that metadata lists but that is incomplete or has no link: container network
    plug-ins wait 10 s and NetworkManager's cloud set-up 15 s for the same lag."""

    address_wait: float = 10.0
    """Seconds that a link which is up may stay without an address before it gets one from us: a DHCP client that is
    coming gets its lease sooner."""

    unattended: bool = False
    """No person started this run, so that it must not undo what a person or a network manager has just done: a link
    that was up and is down now stays down, and what ``remove`` has taken back stays away."""

    # Routing tables. The vendor's page numbers eth1's table 1001.
    table_primary: int = 1000
    table_displaced: int = 1100
    """First id for an ENI whose natural id (1000 + n, n up to 99) is in somebody else's use."""
    table_spread: int = 1999
    """The default routes over several ENIs; the last of our band, far from those that ENIs may get."""
    table_last: int = 1999
    """1000-1999 is the band in which a table can be ours."""

    # Rule priorities: after Tailscale's 5210-5270, so that a VPN in front stays in front; before 10000, where other
    # clouds' agents begin, and main's 32766. The gaps are for the operator's own rules.
    priority_first: int = 7000
    priority_without_ifgroup: int = 7000
    """Only without an interface group: the ENI's specific routes, before main's."""
    priority_refusal: int = 7010
    """Entries that refuse, one priority each, in front of everything else; up to 7089."""
    priority_main: int = 7100
    """Main's specific routes that don't go through an ENI: Docker, VPN."""
    priority_mark_inwards: int = 7140
    """With connection marks: what comes in by the ENI whose mark it bears goes on behind all of these."""
    priority_mark: int = 7150
    """Before the sources: a container may have an address that belongs to another ENI."""
    priority_mark_fence: int = 7151
    """The fence of IPv6; for the primary, main."""
    priority_mark_end: int = 7160
    priority_address: int = 7200
    priority_prefix: int = 7300
    """After the addresses: the more specific source wins."""
    priority_fence: int = 7400
    """IPv6 only; after every look-up of the same source."""
    priority_device: int = 7500
    priority_primary: int = 7600
    priority_rest: int = 7650
    """What the primary's table does not know: as without the entries and spreads behind it."""
    priority_services: int = 7690
    """The cloud's own services, likewise."""
    priority_entry: int = 7700
    """Entries that name an ENI, two each: the look-up, and for IPv6 the fence; up to 7859."""
    priority_foreign: int = 7890
    priority_near: int = 7895
    priority_spread: int = 7900
    """Last, for what has chosen no source; before it main's specific routes."""
    priority_last: int = 7999

    # Default routes in main.
    metric_step: int = 100
    metric_least: int = 100
    """A secondary's is the primary's (counted as 100 at least) and 100 for each n: eth1 gets 200 as on the vendor's
    page, eth2 300."""
    metric_missing: int = 1024
    """The primary's, where it has no default route yet: the worst that it may still get (router advertisements in the
    kernel, systemd-networkd)."""

    protocol: int = 235
    """Marks our routes and rules in the kernel. 0xEB; not in iproute2's rt_protos, FRR's or any agent's numbers."""

    protocol_networkd_safe: int = 235
    """Marks our rules and fences, which belong to no device. ``PROTOCOL_KERNEL`` where systemd-networkd would delete
    them with any other mark."""

    kernel_marks: bool = False
    """Whether what bears the kernel's mark and is just what we would make can be ours: such marks are in use now, or
    were, and not all that had them is gone."""

    group: int = 60235
    """The interface group of all ENI links. High, because people number groups from 1 upwards. 0: none,
    where links can't be told one."""

    # What the configuration file says; an ENI is named by device, MAC, ENI id or vSwitch id, with wildcards.
    ignore: Tuple[str, ...] = ()
    only: Tuple[str, ...] = ()
    container_networks: str = "leave"
    """What becomes of ENIs that a container network uses: ``leave`` (as if they were not there) or ``manage``."""
    assign: str = "primary"
    """Which addresses are put on a secondary's link: ``primary`` (where nobody else does), ``all``, ``none``."""
    primary: str = "main"
    """Where goes what comes from the primary's addresses: ``main``, as main says, or ``full``, by the primary."""
    prefixes: str = "route"
    """What a delegated prefix is: ``route``, a source of its ENI (a container's, for instance), or ``local``, addresses
    of this host's own as well."""
    extra: Tuple[Source, ...] = ()
    links: Tuple[LinkWish, ...] = ()
    entries: Tuple[Entry, ...] = ()
    spreads: Tuple[Spread, ...] = ()

    connection_marks: int = 0
    """The bits of the mark that are ours; 0: connections are not marked."""

    copies: int = 1000
    """At most so many of the user's own routes through one ENI are copied into its table: a routing daemon's full
    table does not belong there."""

    @property
    def numbering(self) -> Numbering:
        return Numbering(self.table_primary, self.priority_first, self.protocol, self.group)

    def renumbered(self, numbering: Numbering) -> "Config":
        """With other numbers: the bands move as a whole."""
        moved: Dict[str, Any] = {}
        for prefix, shift in (("table_", numbering.table - self.table_primary),
                              ("priority_", numbering.priority - self.priority_first)):
            moved.update({name: getattr(self, name) + shift for name in self._fields if name.startswith(prefix)})
        return self._replace(protocol=numbering.protocol, protocol_networkd_safe=numbering.protocol,
                             group=numbering.group, **moved)

    @property
    def names_enis(self) -> bool:
        """Whether ENIs are named somewhere, maybe by their vSwitch."""
        return bool(self.ignore or self.only or self.extra or self.entries or self.spreads or self.links)

    def owns_table(self, table: int) -> bool:
        return self.table_primary <= table <= self.table_last

    def owns_priority(self, priority: int) -> bool:
        return self.priority_first <= priority <= self.priority_last

    def owns_rule(self, rule: Rule, protocol: int) -> bool:
        """A rule is ours when it carries our mark, lies in our band and has no selector that we never set.

        The kernel's mark is VRFs' and others', too: with it a rule is ours only when we could have made exactly that.
        """
        if protocol == self.protocol:
            return self.owns_priority(rule.priority) and not rule.other
        return protocol == PROTOCOL_KERNEL and self.kernel_marks and _makes(rule, self)

    def owns_route(self, route: Route, protocol: int) -> bool:
        """Likewise a route of a table, where only our fence may carry the kernel's mark, and a pool in the kernel's
        table of local addresses; of main's default routes ``plan.owned`` tells."""
        if route.table == LOCAL:
            return protocol == self.protocol and route.kind == "local"
        if not self.owns_table(route.table):
            return False
        return protocol == self.protocol or (
            protocol == PROTOCOL_KERNEL and self.kernel_marks and route == fence(route.table, route.dst)
            and route.dst != EVERYWHERE[6])  # there the fence is a rule


def allowed(numbering: Numbering) -> bool:
    """Whether the configuration may ask for these numbers; nothing else is ever ours, whoever says so."""
    within = all(BOUNDS[name][0] <= number <= BOUNDS[name][1] for name, number in numbering._asdict().items())
    return within and numbering.protocol not in TAKEN_PROTOCOLS


def fence(table: int, dst: Network = EVERYWHERE[4]) -> Route:
    """A route that refuses what nothing better in the table is for.

    For all of IPv4 it keeps traffic from leaving by another ENI when the table's own routes have gone with their link.
    """
    return Route(table, dst, kind="unreachable", metric=UNREACHABLE_METRIC)


# Rules that we make: of each place in the band all that such a rule has. Nothing else may be beside it.


def _makes(rule: Rule, config: Config) -> bool:
    form = _FORMS.get(rule.priority - config.priority_first)
    return form is not None and form(rule, config)


def _alone(rule: Rule, **fields: Any) -> bool:
    """Whether a rule has just this."""
    return rule == Rule(rule.version, rule.priority, **fields)


def _to_table(rule: Rule, config: Config, **fields: Any) -> bool:
    return config.owns_table(rule.table) and _alone(rule, table=rule.table, **fields)


def _from_source(rule: Rule, config: Config) -> bool:
    return rule.src is not None and _to_table(rule, config, src=rule.src)


def _from_address(rule: Rule, config: Config) -> bool:
    return rule.src is not None and rule.src.prefixlen == rule.src.max_prefixlen and _from_source(rule, config)


def _from_prefix(rule: Rule, config: Config) -> bool:
    return rule.src is not None and rule.src.prefixlen < rule.src.max_prefixlen and _from_source(rule, config)


def _early(rule: Rule, config: Config) -> bool:
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
    """Whether it asks for a mark that lies inside its mask, and for nothing else."""
    return 0 < match.mark == match.mark & match.mask and match == Match(mark=match.mark, mask=match.mask)


_USUAL = Config()
_FORMS: Dict[int, Callable[[Rule, Config], bool]] = {
    priority - _USUAL.priority_first: form for priority, form in [
        (_USUAL.priority_without_ifgroup, _early),
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
"""By the place in the band, which moves as a whole."""

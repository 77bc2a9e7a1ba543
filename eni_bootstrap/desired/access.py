"""Access control by path and balance: what the configuration asks for, as rules and routes. PURE.

Entries count in the order in which they are written, the first that fits. They stand at two places, because what an
ENI's own addresses send must leave by that ENI or not at all, or the cloud drops it:

1. in front of everything, for all packets: refusals, and for what an earlier entry sends, a jump over the later ones;
2. behind all rules for sources: what chose no source yet, and what comes from elsewhere (containers, bridges), is sent
   by the ENI that the entry names, and fails when that one is down. Main's specific routes to anything that is no ENI
   (Docker, VPN) are in force before, and so are the cloud's own services by the primary.

Balance comes last, for packets of this host's own that have chosen no source and that no specific route of main's
fits: a table whose default has several next hops. Source 0.0.0.0 tells them for IPv4. For IPv6 no rule can ask for «no
source»: a rule with a source does not match a packet without one (ip6_rule_match), so that ``not from ::/1`` matches
just these and what comes from the upper half, which main gets before.
"""

import itertools
from typing import AbstractSet, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from eni_bootstrap.config.settings import Config, Entry
from eni_bootstrap.desired.main_table import neighbour
from eni_bootstrap.desired.matching import named, names
from eni_bootstrap.model.eni import Eni, UnreadyEni
from eni_bootstrap.model.kernel import (
    ANY, EVERYWHERE, IPV6_METRIC, MAIN, SERVICES, SOURCELESS, UPPER_HALF, Hop, Match, Network, Route, Rule,
)

_ICMP = {1: 4, 58: 6}


class Way(NamedTuple):
    """Where an ENI that an entry names can be left by."""

    dev: str
    primary: bool
    tables: Dict[int, int]
    """By IP version; a family that the ENI has not is missing."""


class Policy(NamedTuple):
    """What is asked of the kernel, and what is wrong with it."""

    rules: List[Rule]
    routes: List[Route]
    problems: List[str]
    remarks: List[str]


def policy(
    enis: Sequence[Eni], unready: Sequence[UnreadyEni], tables: Dict[str, int], kept: Dict[str, List[int]],
    sources: Dict[str, List[Network]], working: AbstractSet[str], versions: Iterable[int], config: Config
) -> Policy:
    """``tables``: by device. ``kept``: tables of ours that ENIs have that can't be set up now, by their devices.
    ``working``: devices that are up."""
    found = Policy([], [], [], [])
    steered = bool(config.spreads) or any(entry.via for entry in config.entries)
    for version in sorted(versions):
        if steered:
            found.rules.extend(_spared(enis, sources, version, config))
    last = max((place for place, entry in enumerate(config.entries) if entry.answer), default=-1)
    for place, entry in enumerate(config.entries):
        found.remarks.extend(_shadow(entry, config.entries[:place]))
        way, problem = _way(entry, enis, unready, tables, kept) if entry.via else (None, [])
        found.problems.extend(problem)
        for version in sorted(versions):
            open_way = way is not None and (way.primary or version in way.tables and way.dev in working)
            found.rules.extend(_in_front(entry, place, version, open_way, place < last, config))
            if entry.via:
                found.rules.extend(_sent(entry, config.priority_entry + 2 * place, way, version))
    _balance(found, enis, working, sorted(versions), config)
    return found


def _in_front(entry: Entry, place: int, version: int, open_way: bool, jumps: bool, config: Config) -> Iterator[Rule]:
    """Refusals, and the jump over those that follow.

    Where an IPv6 look-up without a source is refused the kernel goes on with a source of its own choice
    (ip6_dst_lookup_tail, kernel 6.18), which is the primary's: only here that is refused, too, while the ENI is down.
    """
    action = entry.answer
    if not action and version == 6 and not open_way:
        action = "unreachable"
    for src, match in matches(entry, version) if action or jumps else ():
        priority = config.priority_refusal + place
        if action:
            yield Rule(version, priority, src, action=action, match=match)
        else:
            yield Rule(version, priority, src, action="goto", goto=config.priority_main, match=match)


def _spared(enis: Sequence[Eni], sources: Dict[str, List[Network]], version: int, config: Config) -> Iterator[Rule]:
    """What the entries and the balance must not catch: the primary's sources and the cloud's services."""
    for eni in enis:
        for src in sources[eni.dev] if eni.primary else ():
            if src.version == version:
                yield Rule(version, config.priority_rest, src, table=MAIN)
    yield Rule(version, config.priority_services, table=MAIN, match=Match(dst=SERVICES[version]))


def _sent(entry: Entry, priority: int, way: Optional[Way], version: int) -> Iterator[Rule]:
    table = MAIN if way and way.primary else way.tables.get(version, 0) if way else 0
    for src, match in matches(entry, version):
        if table:
            yield Rule(version, priority, src, table=table, match=match)
        if not table or version == 6 and table != MAIN:  # the IPv4 table has a fence of its own
            yield Rule(version, priority + 1, src, action="unreachable", match=match)


def _way(entry: Entry, enis: Sequence[Eni], unready: Sequence[UnreadyEni], tables: Dict[str, int], kept: Dict[str, List[int]]
         ) -> Tuple[Optional[Way], List[str]]:
    """The way by the ENI of an entry; none, and why, when there is none: then its traffic is refused."""
    where = "access entry on line {}: ".format(entry.line)
    fitting = named(entry.via, enis)
    if len(fitting) > 1:
        return None, [where + "via {} names several ENIs ({}); its traffic is refused".format(
            entry.via, ", ".join(eni.dev for eni in fitting))]
    if fitting:
        eni = fitting[0]
        return Way(eni.dev, eni.primary, {subnet.version: tables[eni.dev] for subnet in eni.interface.subnets}), []
    for member in unready:
        if names(entry.via, member.eni_id, member.mac, (member.dev,)):
            left = kept.get(member.dev, [])  # what is wrong with the ENI is said already
            return Way(member.dev, False, {4: left[0], 6: left[0]}) if left else None, []
    return None, [where + "no ENI is named {}; its traffic is refused".format(entry.via)]


def matches(entry: Entry, version: int) -> Iterator[Tuple[Optional[Network], Match]]:
    """All combinations of an entry's selectors, as one rule has them."""
    def of_version(networks: Sequence[Network]) -> Sequence[Optional[Network]]:
        return [network for network in networks if network.version == version] if networks else [None]

    protocols = [number for number in entry.protocols or (0,) if _ICMP.get(number, version) == version]
    mark, mask = entry.mark or (0, 0)
    ports = itertools.product(protocols, entry.sports or (None,), entry.dports or (None,))
    senders = itertools.product(of_version(entry.src), entry.iifs or ("",), entry.users or (None,))
    for (src, iif, users), dst, (protocol, sports, dports) in itertools.product(
            list(senders), of_version(entry.dst), list(ports)):
        match = Match(dst, iif, mark, mask, users, protocol, sports, dports)
        yield src, ANY if match == ANY else match


def _shadow(entry: Entry, earlier: Sequence[Entry]) -> Iterator[str]:
    for other in earlier:
        if shadowed(entry, other):
            yield "access entry on line {} never counts: all that fits it fits the one on line {} first".format(
                entry.line, other.line)
            return


def shadowed(other: Entry, one: Entry) -> bool:
    """Whether all that fits the other one fits this one, too."""
    def networks(wide: Sequence[Network], narrow: Sequence[Network]) -> bool:
        return not wide or bool(narrow) and all(any(
            each.version == block.version and each.prefixlen >= block.prefixlen and each.network_address in block
            for block in wide) for each in narrow)

    def spans(wide: Sequence[Tuple[int, int]], narrow: Sequence[Tuple[int, int]]) -> bool:
        return not wide or bool(narrow) and all(any(
            low <= first and last <= high for low, high in wide) for first, last in narrow)

    def words(wide: Sequence[object], narrow: Sequence[object]) -> bool:
        return not wide or bool(narrow) and set(narrow) <= set(wide)

    if one.mark is not None:
        mark, mask = one.mark
        if other.mark is None or mask & ~other.mark[1] or other.mark[0] & mask != mark:
            return False
    return (networks(one.src, other.src) and networks(one.dst, other.dst) and words(one.iifs, other.iifs)
            and words(one.protocols, other.protocols) and spans(one.sports, other.sports)
            and spans(one.dports, other.dports) and spans(one.users, other.users))


def _balance(
    found: Policy, enis: Sequence[Eni], working: AbstractSet[str], versions: Sequence[int], config: Config
) -> None:
    """The table of the spreads and what leads there; an ENI that is down gets no share."""
    routes: Dict[Tuple[int, Network, int, int], Route] = {}
    near: Dict[Route, None] = {}
    for spread in config.spreads:
        shares: Dict[str, Tuple[Eni, int]] = {}
        for pattern, weight in spread.over:
            fitting = named(pattern, enis)
            if not fitting:
                found.problems.append("balance on line {}: no ENI is named {}; the others carry its share".format(
                    spread.line, pattern))
            for eni in fitting:
                shares.setdefault(eni.dev, (eni, weight))
        for version in versions:
            hops = [Hop(eni.dev, subnet.gateway, weight) for eni, weight in shares.values() if eni.dev in working
                    for subnet in eni.interface.subnets if subnet.version == version]
            blocks = [block for block in spread.dst or EVERYWHERE.values() if block.version == version]
            if not hops:
                continue
            for number, hop in enumerate(hops):
                # Two ENIs in one vSwitch have one gateway: the routes to it differ in their metrics.
                near.update((route._replace(metric=IPV6_METRIC + number), None)
                            for route in neighbour(config.table_spread, hop))
            alone = [hop._replace(weight=1) for hop in hops] if len(hops) == 1 else hops
            for block in blocks:
                route = Route(config.table_spread, block, tuple(alone), metric=0 if version == 4 else IPV6_METRIC)
                routes.setdefault(route.key, route)
    found.routes.extend(itertools.chain(near, routes.values()))
    for version in sorted({route.version for route in routes.values()}):
        src, match = SOURCELESS[version]
        if version == 6:
            found.rules.append(Rule(6, config.priority_foreign, UPPER_HALF, table=MAIN))
        found.rules.append(Rule(version, config.priority_near, src, table=MAIN, suppress_prefixlength=0, match=match))
        found.rules.append(Rule(version, config.priority_spread, src, table=config.table_spread, match=match))

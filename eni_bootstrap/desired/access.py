"""Access control by path, and balance: the rules and routes that the configuration asks for. PURE.

The first entry that fits counts, in the order in which they are written. An entry makes rules at two places, because
what an ENI's own addresses send must leave by that ENI or not at all, or the cloud drops it:

1. in front of everything, for all packets: refusals, and for what an earlier entry sends, a jump over the later ones;
2. behind all rules for sources: packets that chose no source yet, and packets from elsewhere (containers, bridges), are
   sent by the ENI that the entry names, and fail when that ENI is down. Main's specific routes to anything that is no
   ENI (Docker, VPN) come before, and so do the cloud's own services by the primary.

Balance comes last: a table whose default route has several next hops, for packets of this host's own that have chosen
no source and that no specific route of main's fits. For IPv4 their source is 0.0.0.0. For IPv6 no rule can ask for «no
source»: a rule with a source does not match a packet without one (ip6_rule_match), so that ``not from ::/1`` matches
just these packets and those from the upper half, which main gets before.
"""

import itertools
from typing import AbstractSet, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from eni_bootstrap.config.settings import Config, Entry, Spread
from eni_bootstrap.desired.egress import Egress, named_egresses
from eni_bootstrap.desired.main_table import neighbour
from eni_bootstrap.desired.matching import named
from eni_bootstrap.model.eni import EniFamily
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import (
    ANY, EVERYWHERE, IPV6_METRIC, MAIN, SERVICES, SOURCELESS, UPPER_HALF, Match, Network, Route, Rule,
)

_ICMP = {1: 4, 58: 6}


class Policy(NamedTuple):
    """Rules and routes of entries and spreads; problems and remarks."""

    rules: List[Rule]
    routes: List[Route]
    findings: List[Finding]


def policy(families: Sequence[EniFamily], ways: Sequence[Egress], working: AbstractSet[str],
           versions: AbstractSet[int], config: Config) -> Policy:
    """Rules and routes for all entries and spreads. ``working``: devices that are up and have a carrier."""
    parts = [_spared(families, versions, config)]
    last = max((place for place, entry in enumerate(config.entries) if entry.answer), default=-1)
    parts += [_entry(place, place < last, ways, working, versions, config) for place in range(len(config.entries))]
    parts.append(_balance(families, working, sorted(versions), config))
    return Policy(
        [rule for part in parts for rule in part.rules], [route for part in parts for route in part.routes],
        [finding for part in parts for finding in part.findings])


def _entry(place: int, jumps: bool, ways: Sequence[Egress], working: AbstractSet[str], versions: AbstractSet[int],
           config: Config) -> Policy:
    """The rules of one access entry. ``jumps``: refusals follow, which must not catch what it sends."""
    entry = config.entries[place]
    found = Policy([], [], list(_shadow(entry, config.entries[:place])))
    own, wrong = _egress(entry, ways) if entry.via else ({}, [])  # type: Dict[int, Egress], List[Finding]
    found.findings.extend(wrong)
    for version in sorted(versions):
        way = own.get(version)
        is_open = way is not None and (way.primary or bool(way.table) and way.dev in working)
        found.rules.extend(_in_front(entry, place, version, is_open, jumps, config))
        if entry.via:
            found.rules.extend(_sent(entry, config.priority_entry + 2 * place, way, version))
    return found


def _in_front(entry: Entry, place: int, version: int, is_open: bool, jumps: bool, config: Config) -> Iterator[Rule]:
    """The entry's rules in front of everything: refusals, and the jump over those that follow.

    Where an IPv6 look-up without a source is refused, the kernel goes on with a source of its own choice
    (ip6_dst_lookup_tail, kernel 6.18), which is the primary's. Only a rule at this place refuses that, too, while the
    ENI is down.
    """
    action = entry.answer
    if not action and version == 6 and not is_open:
        action = "unreachable"
    for src, match in matches(entry, version) if action or jumps else ():
        priority = config.priority_refusal + place
        if action:
            yield Rule(version, priority, src, action=action, match=match)
        else:
            yield Rule(version, priority, src, action="goto", goto=config.priority_main, match=match)


def _spared(families: Sequence[EniFamily], versions: AbstractSet[int], config: Config) -> Policy:
    """Rules for what entries and balance must not catch: the primary's sources and the cloud's services."""
    rules = []
    if config.spreads or any(entry.via for entry in config.entries):
        for version in sorted(versions):
            rules += [Rule(version, config.priority_rest, src, table=MAIN) for family in families
                      if family.primary and family.version == version for src in family.sources]
            rules.append(Rule(version, config.priority_services, table=MAIN, match=Match(dst=SERVICES[version])))
    return Policy(rules, [], [])


def _sent(entry: Entry, priority: int, way: Optional[Egress], version: int) -> Iterator[Rule]:
    table = 0 if way is None else MAIN if way.primary else way.table
    for src, match in matches(entry, version):
        if table:
            yield Rule(version, priority, src, table=table, match=match)
        if not table or version == 6 and table != MAIN:  # the IPv4 table has a fence of its own
            yield Rule(version, priority + 1, src, action="unreachable", match=match)


def _egress(entry: Entry, ways: Sequence[Egress]) -> Tuple[Dict[int, Egress], List[Finding]]:
    """IP version -> the egress that an access entry resolves to; none and a problem where its traffic is refused."""
    where = "access entry on line {}: ".format(entry.line)
    fitting = named_egresses(entry.via, ways)
    if len(fitting) > 1:
        several = ", ".join(own[0].dev or own[0].mac for own in fitting.values())
        return {}, [Finding.error("several-enis", "{}via {} names several ENIs ({}), and its traffic is refused".format(
            where, entry.via, several), "name one")]
    for own in fitting.values():
        return {way.version: way for way in own}, []  # where it can't be set up, that is said already
    return {}, [Finding.error("no-such-eni", "{}no ENI is named {}, and its traffic is refused".format(
        where, entry.via))]


def matches(entry: Entry, version: int) -> Iterator[Tuple[Optional[Network], Match]]:
    """All combinations of an entry's selectors, each as (source, match) of one rule."""
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


def _shadow(entry: Entry, earlier: Sequence[Entry]) -> Iterator[Finding]:
    for other in earlier:
        if shadowed(entry, other):
            yield Finding.remark("entry-never-counts", "access entry on line {} never counts: all that fits it fits "
                                 "the one on line {} first".format(entry.line, other.line))
            return


def shadowed(other: Entry, one: Entry) -> bool:
    """Whether all packets that fit the other entry fit this one, too."""
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


def _balance(families: Sequence[EniFamily], working: AbstractSet[str], versions: Sequence[int], config: Config
             ) -> Policy:
    """The table of the spreads and what leads there; an ENI that is down gets no share."""
    found = Policy([], [], [])
    routes: Dict[Tuple[int, Network, int, int], Route] = {}
    near: Dict[Route, None] = {}
    for spread in config.spreads:
        shares, wrong = _shares(spread, families)
        found.findings.extend(wrong)
        for version in versions:
            hops = [family.hop._replace(weight=weight) for family, weight in shares
                    if family.version == version and family.dev in working]
            for number, hop in enumerate(hops):
                # Two ENIs in one vSwitch have one gateway: the routes to it differ in their metrics.
                near.update((route._replace(metric=IPV6_METRIC + number), None)
                            for route in neighbour(config.table_spread, hop))
            alone = [hop._replace(weight=1) for hop in hops] if len(hops) == 1 else hops
            for block in spread.dst or EVERYWHERE.values():
                if hops and block.version == version:
                    route = Route(config.table_spread, block, tuple(alone), metric=0 if version == 4 else IPV6_METRIC)
                    routes.setdefault(route.key, route)
    found.routes.extend(itertools.chain(near, routes.values()))
    for version in sorted({route.version for route in routes.values()}):
        src, match = SOURCELESS[version]
        if version == 6:
            found.rules.append(Rule(6, config.priority_foreign, UPPER_HALF, table=MAIN))
        found.rules.append(Rule(version, config.priority_near, src, table=MAIN, suppress_prefixlength=0, match=match))
        found.rules.append(Rule(version, config.priority_spread, src, table=config.table_spread, match=match))
    return found


def _shares(spread: Spread, families: Sequence[EniFamily]
            ) -> Tuple[List[Tuple[EniFamily, int]], List[Finding]]:
    """The families that a spread names, each with the first weight that it is given; and problems with names."""
    enis = list({family.dev: family.eni for family in families}.values())
    weights: Dict[str, int] = {}
    problems = []
    for pattern, weight in spread.over:
        fitting = named(pattern, enis)
        if not fitting:
            problems.append(Finding.error("no-such-eni", "balance on line {}: no ENI is named {}, and the others carry "
                                          "its share".format(spread.line, pattern)))
        for eni in fitting:
            weights.setdefault(eni.dev, weight)
    return [(family, weight) for dev, weight in weights.items() for family in families if family.dev == dev], problems

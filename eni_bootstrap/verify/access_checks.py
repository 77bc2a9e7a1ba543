"""Whether access entries and spreads do what they say: for each a packet that fits it, about which the kernel is asked.
PURE; the verdicts are like those of ``checks``.
"""

from typing import AbstractSet, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from eni_bootstrap.config.settings import Config, Entry, Span
from eni_bootstrap.desired.access import matches, shadowed
from eni_bootstrap.desired.egress import Egress, named_egresses
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import MAIN, SERVICES, Address, Answer, Query, Rule
from eni_bootstrap.model.rule_match import rule_matches
from eni_bootstrap.verify.checks import INTERNET, Verdict, some_host, words


class AccessCheck(NamedTuple):
    """A packet, and the way that it has to go."""

    what: str
    """In words for an operator: "access entry on line 7"."""
    query: Query
    devs: Tuple[str, ...]
    """Devices by one of which the packet must leave; empty: it must be refused."""


def access_checks(
    ways: Sequence[Egress], working: AbstractSet[str], own: AbstractSet[Address], near: Dict[str, List[Address]],
    versions: Sequence[int], config: Config
) -> Tuple[List[AccessCheck], List[Finding]]:
    """The checks, and remarks on entries that the kernel can't be asked about.

    ``ways``: egresses of the ENIs. ``working``: devices that are up and have a carrier. ``own``: this host's addresses.
    ``near``: device -> addresses behind it.
    """
    found: List[AccessCheck] = []
    untried: List[Finding] = []
    for place, entry in enumerate(config.entries):
        what = "access entry on line {}".format(entry.line)
        earlier = config.entries[:place]
        if any(shadowed(entry, other) for other in earlier):
            continue  # that is said already
        asked = 0
        for version in versions:
            query = next((query for query in _packets(entry, version, own, near)
                          if not any(_fits(other, query) for other in earlier)), None)
            if query is not None:
                asked += 1
                found.append(AccessCheck(what, query, _devs(entry, version, ways, working)))
        if not asked:
            untried.append(Finding.remark("entry-not-tried", "{}: the kernel can't be asked: its packets are forwarded "
                                          "ones or fit earlier entries".format(what)))
    for version in versions:
        found += _spread_checks(ways, working, own, version, config)
    return found, untried


def judge(asked: Sequence[AccessCheck], answers: Sequence[Answer]) -> List[Verdict]:
    """A verdict for each check."""
    found = []
    for check, answer in zip(asked, answers):
        ok = not answer.error and answer.dev in check.devs if check.devs else bool(answer.error)
        expected = "by " + " or ".join(check.devs) if check.devs else "refused"
        reason = cure = ""
        if not ok and answer.table == MAIN and answer.dev:
            reason = "main sends it by {}, which comes first".format(answer.dev)
        elif not ok:
            cure = "run apply"
        found.append(Verdict(check.what, str(check.query.src or "any"), _target(check.query), ok, expected,
                             words(answer, False), False, reason, cure, check.query.dst.version))
    return found


def _devs(entry: Entry, version: int, ways: Sequence[Egress], working: AbstractSet[str]) -> Tuple[str, ...]:
    fitting = named_egresses(entry.via, ways) if entry.via else {}
    if len(fitting) != 1:
        return ()
    (own,) = fitting.values()
    return tuple(way.dev for way in own if way.version == version
                 and (way.primary or way.table and way.dev in working))


def _packets(
    entry: Entry, version: int, own: AbstractSet[Address], near: Dict[str, List[Address]]
) -> Iterator[Query]:
    """Packets that fit an entry. The kernel can't be asked about a packet from elsewhere that comes in by no device."""
    for src, match in matches(entry, version):
        source = None
        if match.iif or src is not None:
            candidates = near.get(match.iif, ()) if match.iif else sorted(own, key=str)
            source = next((address for address in candidates if address.version == version
                           and (src is None or address in src)), None)
        dst = INTERNET[version] if match.dst is None else some_host(match.dst, set(own))
        if source is not None or not match.iif and src is None:
            user = match.users[0] if match.users else None
            yield Query(dst, source, iif=match.iif, user=user, mark=match.mark,
                        protocol=match.protocol, sport=_first(match.sports), dport=_first(match.dports))


def _first(span: Optional[Span]) -> int:
    return span[0] if span else 0


def _fits(entry: Entry, query: Query) -> bool:
    """Whether a packet fits an entry."""
    version = query.dst.version
    return any(rule_matches(Rule(version, 0, src, match=match), query) for src, match in matches(entry, version))


def _spread_checks(
    ways: Sequence[Egress], working: AbstractSet[str], own: AbstractSet[Address], version: int, config: Config
) -> Iterator[AccessCheck]:
    for place, spread in enumerate(config.spreads):
        shares = {way.dev for pattern, _ in spread.over for own in named_egresses(pattern, ways).values()
                  for way in own if way.version == version and way.dev in working}
        blocks = [block for block in spread.dst if block.version == version]
        if not shares or spread.dst and not blocks:
            continue
        dst = some_host(blocks[0], set(own)) if blocks else INTERNET[version]
        if not any(_fits(entry, Query(dst)) for entry in config.entries):
            yield AccessCheck("balance on line {}".format(spread.line), Query(dst), tuple(sorted(shares)))
    primary = tuple(way.dev for way in ways if way.primary and way.version == version)
    if config.spreads and version == 4 and primary:
        yield AccessCheck("balance", Query(some_host(SERVICES[4], set(own))), primary)


def _target(query: Query) -> str:
    parts = [str(query.dst)]
    parts += ["{} {}".format(name, value) for name, value in (
        ("protocol", query.protocol), ("port", query.dport), ("user", query.user), ("mark", hex(query.mark))
    ) if value not in (0, None, "0x0")]
    return " ".join(parts + (["in by " + query.iif] if query.iif else []))

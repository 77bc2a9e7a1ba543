"""Connection marks: forwarded connections are answered by the ENI by which they came in. PURE.

A container's reply has the container's address when its route is chosen; NAT puts the ENI's address back only
afterwards. So the connection has to remember its ENI. A new connection that comes in by an ENI gets that ENI's number
into its connection mark; each of its packets gets the number from there into its packet mark before the route is
chosen; and a rule leads that mark to the ENI's table. Connections that begin inside have no number, and this host's own
packets are never marked: their addresses decide, as without marks.

A packet that comes in by the ENI whose mark it bears is on its way inwards: it goes on behind these rules, as without
them. It is marked all the same, for a strict reverse path filter: with ``src_valid_mark`` that filter asks with the
packet's mark, and it asks as the host itself does, not as a packet that came in by the ENI.

All of it is one table of nftables. A rule has constants only: old versions of nft can't combine two registers.
"""

import hashlib
import re
from typing import AbstractSet, List, NamedTuple, Sequence, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.egress import Egress
from eni_bootstrap.model.changes import TABLE
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import MAIN, Match, Rule, bytes_of

_HOOK = "type filter hook prerouting priority -150; policy accept;"
"""Where mangling is done: behind connection tracking (-200), before destinations are translated (-100). As a number:
old versions of nft know no names."""
_QUOTABLE = re.compile(r"([A-Za-z0-9_.@-]|[^\x00-\x7f])+\Z")
"""Device names that mean nothing else to nft, which takes bytes that are no ASCII as they are (1.0.6): a * at the end
would be all that begin so."""


class Marked(NamedTuple):
    """An ENI whose connections are marked."""

    dev: str
    number: int
    """The value in our bits of the mark; from 1."""
    table: int
    primary: bool
    versions: Tuple[int, ...]


def marked(ways: Sequence[Egress], versions: AbstractSet[int], config: Config
           ) -> Tuple[List[Marked], List[Finding]]:
    """The ENIs whose connections are marked, sorted by number; and problems with the others."""
    found: List[Marked] = []
    problems: List[Finding] = []
    lowest = config.connection_marks & -config.connection_marks
    most = config.connection_marks // lowest if lowest else 0
    for way in {way.dev: way for way in ways if way.table}.values():
        number = way.table - config.table_primary + 1
        if number > most:
            problems.append(Finding.error(
                "not-marked", "its connections are not marked: table {} would be number {}, and the mask {:#x} has "
                "room for {}".format(way.table, number, config.connection_marks, most),
                "widen connection-marks", way.label))
        elif not _QUOTABLE.match(way.dev):
            problems.append(Finding.error(
                "not-marked", "its connections are not marked: nft can't be told a name like {}".format(way.dev),
                "rename the link", way.label))
        else:
            own = {each.version for each in ways if each.dev == way.dev and each.table}
            found.append(Marked(way.dev, number, way.table, way.primary, tuple(sorted(own & versions))))
    return sorted(found, key=lambda member: member.number), problems


def value(member: Marked, config: Config) -> int:
    """The packet mark: the ENI's number, shifted to our bits."""
    return member.number * (config.connection_marks & -config.connection_marks)


def mark_rules(members: Sequence[Marked], config: Config) -> List[Rule]:
    """The rules that lead marks to the ENIs' tables, with IPv6's fence; the primary's mark has main behind its table.
    """
    rules = [Rule(version, config.priority_mark_end, action="nop")
             for version in sorted({version for member in members for version in member.versions})]
    for member in members:
        match = Match(mark=value(member, config), mask=config.connection_marks)
        for version in member.versions:
            rules.append(Rule(version, config.priority_mark_inwards, action="goto", goto=config.priority_mark_end,
                              match=match._replace(iif=member.dev)))
            rules.append(Rule(version, config.priority_mark, table=member.table, match=match))
            if member.primary:
                rules.append(Rule(version, config.priority_mark_fence, table=MAIN, match=match))
            elif version == 6:  # the IPv4 table has a fence of its own
                rules.append(Rule(version, config.priority_mark_fence, action="unreachable", match=match))
    return rules


def ruleset(members: Sequence[Marked], config: Config) -> str:
    """The input for nft, one transaction: it makes the table as it should be, whatever it was; "" without members."""
    if not members:
        return ""
    rules = _rules(members, config)
    lines = ["add table " + TABLE, "delete table " + TABLE, "table {} {{".format(TABLE),
             "\tchain {} {{".format(_name(rules)), "\t}", "\tchain prerouting {", "\t\t" + _HOOK]
    return "\n".join(lines + ["\t\t" + rule for rule in rules] + ["\t}", "}"]) + "\n"


def as_wanted(listing: str, text: str) -> bool:
    """Whether nft's listing is that of the ruleset ``text``.

    Each version of nft writes rules in a way of its own. So the digest of the text is the name of an empty chain, and
    the rules are counted, as somebody may have deleted some.
    """
    wanted = re.findall(r"chain (digest_\w+)", text)
    return wanted == re.findall(r"chain (digest_\w+)", listing) and _inner(listing) == _inner(text)


def _rules(members: Sequence[Marked], config: Config) -> List[str]:
    mask, rest = config.connection_marks, config.connection_marks ^ 0xFFFFFFFF
    rules = ['iifname "{}" ct state new ct mark set ct mark & {:#010x} | {:#010x}'.format(
        member.dev, rest, value(member, config)) for member in members]
    return rules + ["ct mark & {:#010x} == {:#010x} meta mark set meta mark & {:#010x} | {:#010x}".format(
        mask, value(member, config), rest, value(member, config)) for member in members]


def _name(rules: Sequence[str]) -> str:
    return "digest_" + hashlib.sha256(bytes_of("\n".join(rules))).hexdigest()[:16]


def _inner(text: str) -> int:
    """The number of lines inside chains: the hook, and the rules."""
    return sum(line.startswith("\t\t") for line in text.split("\n"))

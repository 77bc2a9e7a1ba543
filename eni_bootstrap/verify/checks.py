"""The proof: which look-ups to ask of the kernel, and what its answers mean. PURE; ``Kernel.ask`` does the asking.

No packet is sent: the kernel's own look-up says by which device a packet would leave. With ``iif`` it also runs the
reverse path filter. IPv4 looks up only sources that are on a link. For another source (a secondary address that a
container uses), the rules that match it are compared with the rules of a source that can be asked, and the verdict is
marked as derived.
"""

import errno
import os
from collections import defaultdict
from ipaddress import ip_address
from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from eni_bootstrap.config.own_rules import owns_rule
from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.eni import Eni, EniFamily
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import (
    ANY, MAIN, Address, Answer, LinkAddress, Network, Query, Route, Rule, SeenRule, network_of,
)
from eni_bootstrap.model.rule_match import rule_matches

INTERNET = {4: ip_address("203.0.113.1"), 6: ip_address("3fff::1")}
"""Destinations by IP version: documentation addresses (RFC 5737, RFC 9637), far away from everybody, and in nobody's
own routes."""

LOCAL_DEVICES = 16
"""Maximum local devices that are checked: a container host has hundreds that are all alike."""


class Check(NamedTuple):
    """A look-up, and how it must come out."""

    eni: Eni
    target: str
    """In words: "internet", "own vSwitch", "vSwitch of eth2", "device docker0", "received"."""
    query: Query
    dev: str
    """The device by which the packet must leave; it does not count where there is ``not_by``."""
    gateways: Tuple[Address, ...] = ()
    """The gateway must be one of these; empty: any."""
    not_by: Tuple[str, ...] = ()
    """Devices by which the packet must not leave."""
    stands_for: Tuple[Network, ...] = ()
    """Sources that the kernel can't be asked about; this check's answer counts for them."""


class Verdict(NamedTuple):
    """The result of a check: what was expected of one source and one target, and what the kernel answered."""

    subject: str
    """What has to be so: an ENI by its label, or an entry of the configuration."""
    source: str
    target: str
    ok: bool
    expected: str
    actual: str
    derived: bool = False
    """The kernel could not be asked: the rules were compared with those of another source."""
    reason: str = ""
    """Why not."""
    cure: str = ""
    family: int = 0
    evidence: str = ""
    """Whose rule or route it is, where it is somebody else's."""

    @property
    def why(self) -> str:
        """Why not, and what to do."""
        reason = ": ".join(part for part in (self.reason, self.evidence) if part)
        return "; ".join(part for part in (reason, self.cure) if part)

    @property
    def finding(self) -> Finding:
        """Of one that is not ok."""
        cause = "{} to {}: {}, wanted {}".format(self.source, self.target, self.actual, self.expected)
        return Finding.error("look-up-wrong", "; ".join(part for part in (cause, self.reason) if part), self.cure,
                             self.subject, self.family, self.evidence)


class VerifyInput(NamedTuple):
    """The input of the checks: the decision, and what the kernel holds."""

    families: Tuple[EniFamily, ...]
    """ENI families whose sources must all leave by that ENI."""
    addresses: Tuple[LinkAddress, ...]
    rules: Tuple[SeenRule, ...] = ()
    """Rules of the kernel, for sources that can't be asked about, and to name the rule that is to blame."""
    local: Tuple[Tuple[Address, str], ...] = ()
    """(destination, device) pairs: destinations that this host reaches by a device that is no ENI."""
    gateways: Dict[str, Tuple[Address, ...]] = {}
    """Device -> gateways to which the ENI's own table may lead."""
    full: bool = False
    """Whether the primary's sources must leave by the primary, too (``primary: full``)."""
    kill_switch_routes: Tuple[Route, ...] = ()
    """Main's default routes that lead nowhere: a VPN's kill-switch."""
    marks: Dict[str, int] = {}
    """Device -> mark of the connections that came in by it."""
    no_default: FrozenSet[int] = frozenset()
    """IP versions of which main has no default route but ours: the primary, which follows main, may lead nowhere."""

    @property
    def enis(self) -> Tuple[Eni, ...]:
        return tuple({family.dev: family.eni for family in self.families}.values())


def quick_checks(facts: VerifyInput) -> List[Check]:
    """``apply``'s checks: one source of each ENI and family, to the internet, its own vSwitch and one other."""
    checks: List[Check] = []
    for family, source in _askable(facts):
        checks += _targets(family, source, facts, others=1)
    return checks + _marked(facts)


def all_checks(facts: VerifyInput) -> List[Check]:
    """``verify``'s checks: every source to the internet, one source of each table to everything."""
    checks: List[Check] = []
    local = {held.address for held in facts.addresses}
    others = len(facts.enis)
    for family, source in _askable(facts):
        rest = [network for network in family.sources if network != network_of(source)]
        silent = tuple(network for network in rest if family.version == 4 and network.network_address not in local)
        first, *more = _targets(family, source, facts, others)
        checks += [first._replace(stands_for=silent), *more]
        checks += [Check(family.eni, "device " + dev, Query(dst, source), dev)
                   for dst, dev in facts.local if dst.version == family.version]
        checks += [_internet(family, network.network_address, facts) for network in rest if network not in silent]
    return checks + _marked(facts)


def unprovable(facts: VerifyInput) -> List[EniFamily]:
    """ENI families of which the kernel can be asked about no source: none of their addresses is on their link."""
    asked = {family.key for family, _ in _askable(facts)}
    return [family for family in facts.families if family.key not in asked and family.sources]


def judge(checks: Sequence[Check], answers: Sequence[Answer], facts: VerifyInput, config: Config) -> List[Verdict]:
    """A verdict for each check, and for each source that a check stands for."""
    paths = _Paths(facts.rules)
    verdicts: List[Verdict] = []
    for check, answer in zip(checks, answers):
        received = bool(check.query.iif)
        if received:
            ok = answer.kind == "local" and not answer.error
        elif check.not_by:
            nowhere = answer.error == errno.ENETUNREACH and check.query.dst.version in facts.no_default
            ok = nowhere or not answer.error and answer.dev not in check.not_by
        else:
            ok = not answer.error and answer.dev == check.dev
            ok = ok and (not check.gateways or answer.gateway in check.gateways)
        by = "by " + check.dev + "".join(" via {}".format(gateway) for gateway in check.gateways[:1])
        expected = "accepted on " + check.dev if received else (
            "not by " + ", ".join(check.not_by) if check.not_by else by)
        blame = _NOBODY if ok else _blame(check, answer, facts, config)
        source = str(check.query.dst if received else check.query.src)
        if check.query.mark:
            source = "mark {:#x}".format(check.query.mark)
        verdict = Verdict(check.eni.label, source, check.target, ok, expected, words(answer, received), False,
                          blame.reason, blame.cure, check.query.dst.version, blame.evidence)
        verdicts.append(verdict)
        for network in check.stands_for:
            same = paths.of(network) == paths.of(network_of(check.query.src))
            derived = verdict._replace(
                source=str(network if network.prefixlen < network.max_prefixlen else network.network_address),
                derived=True)
            verdicts.append(derived if same or not ok else derived._replace(
                ok=False, reason="other rules match it than {}".format(source), cure="run apply"))
    return verdicts


def may_be_tentative(verdicts: Sequence[Verdict]) -> bool:
    """Whether each wrong verdict may come from an IPv6 address in duplicate address detection."""
    return all(verdict.ok or verdict.target == "received" and ":" in verdict.source for verdict in verdicts)


def shadowing_rules(facts: VerifyInput, config: Config) -> List[Tuple[Rule, str]]:
    """Foreign rules in front of ours that catch one of our sources, each with the label of that source's ENI.

    A rule that is added without a priority lands in front of the lowest one that is there. Selectors that we don't know
    count as fulfilled.
    """
    owners = {source: family.label for family in facts.families for source in family.sources}
    wide = [source for source in owners if source.prefixlen < source.max_prefixlen]
    found = []
    for rule, protocol in facts.rules:
        if owns_rule(rule, protocol, config) or rule.priority == 0 or rule.priority >= config.priority_primary:
            continue
        is_address = rule.src is not None and rule.src.prefixlen == rule.src.max_prefixlen
        candidates = [rule.src, *wide] if is_address and rule.src in owners else wide if is_address else owners
        known = rule._replace(other=())
        caught = next((source for source in candidates if source.version == rule.version
                       and rule_matches(known, _packet_for(known, source))), None)
        if caught is not None:
            found.append((rule, owners[caught]))
    return found


def strangers(rules: Iterable[SeenRule], config: Config) -> List[Rule]:
    """Foreign rules in our band of priorities, in the kernel's order; rules that differ in the protocol only are one.
    """
    return list(dict.fromkeys(rule for rule, protocol in rules
                              if config.owns_priority(rule.priority) and not owns_rule(rule, protocol, config)))


def _packet_for(rule: Rule, source: Network) -> Query:
    """A packet of this host's own from this source that fits all other selectors of the rule; from a prefix, the
    address that the rule names in it."""
    match = rule.match if not rule.match.inverted else ANY
    inside = rule.src is not None and rule.src.version == source.version and rule.src.network_address in source
    src = rule.src.network_address if inside and rule.src is not None else source.network_address
    return Query(INTERNET[rule.version] if match.dst is None else match.dst.network_address, src, mark=match.mark,
                 user=match.users[0] if match.users else None, protocol=match.protocol,
                 sport=match.sports[0] if match.sports else 0, dport=match.dports[0] if match.dports else 0)


def _askable(facts: VerifyInput) -> List[Tuple[EniFamily, Address]]:
    """(ENI family, source) pairs: of each family one source that the kernel can be asked about.

    For IPv6 that is any source, also an address of a delegated prefix that is on no link.
    """
    held = {(address.dev, address.address) for address in facts.addresses}
    found = []
    for family in facts.families:
        own = next((network.network_address for network in family.sources
                    if (family.dev, network.network_address) in held), None)
        if own is not None:
            found.append((family, own))
        elif family.version == 6 and family.sources:
            found.append((family, family.sources[0][-1]))
    return found


def _targets(family: EniFamily, source: Address, facts: VerifyInput, others: int) -> List[Check]:
    """The checks of one source, the internet first. ``others``: maximum other vSwitches."""
    eni, vswitch = family.eni, family.vswitch
    checks = [_internet(family, source, facts)]
    local = {held.address for held in facts.addresses}
    if source in vswitch and vswitch.num_addresses > 1:
        near = Check(eni, "own vSwitch", Query(some_host(vswitch, local), source), eni.dev)
        # Of IPv6 it may be reached by main's default only: then it is where that is.
        follows_main = family.version == 6 and family.primary and not facts.full and 6 in facts.no_default
        checks.append(near._replace(not_by=_others(family, facts)) if follows_main else near)
    seen = {vswitch}
    for other in facts.families:
        far = other.vswitch
        known = other.version == family.version and far.num_addresses > 1
        if known and far not in seen and len(seen) <= others:
            seen.add(far)
            checks.append(Check(eni, "vSwitch of " + other.dev, Query(some_host(far, local), source), eni.dev))
    if any(held.address == source and held.dev == eni.dev for held in facts.addresses):
        checks.append(Check(eni, "received", Query(source, INTERNET[family.version], iif=eni.dev), eni.dev))
    return checks


def _internet(family: EniFamily, source: Optional[Address], facts: VerifyInput) -> Check:
    """The check to the internet. A secondary must leave by itself. The primary follows main wherever that leads but to
    another ENI, unless ``primary: full``."""
    query = Query(INTERNET[family.version], source)
    if family.primary and not facts.full:
        return Check(family.eni, "internet", query, family.dev, not_by=_others(family, facts))
    return Check(family.eni, "internet", query, family.dev, tuple(
        gateway for gateway in facts.gateways.get(family.dev, ()) if gateway.version == family.version))


def _others(family: EniFamily, facts: VerifyInput) -> Tuple[str, ...]:
    return tuple(other.dev for other in facts.enis if other.dev != family.dev)


def _marked(facts: VerifyInput) -> List[Check]:
    """The checks of packets with an ENI's connection mark, whatever their source."""
    return [_internet(family, None, facts)._replace(
        target="internet, forwarded", query=Query(INTERNET[family.version], mark=facts.marks[family.dev]))
        for family in facts.families if family.dev in facts.marks]


def some_host(network: Network, local: Set[Address]) -> Address:
    """An address of the network that is neither this host's own nor the network's first or last, if there is one."""
    size = network.num_addresses
    candidates = range(1, min(size - 1, len(local) + 3)) if size > 2 else range(size)
    hosts = (network[place] for place in candidates)
    return next((host for host in hosts if host not in local), network[0])


class _Paths:
    """The rules that match a source, in order: the packet's way, as far as the source decides it."""

    def __init__(self, rules: Iterable[SeenRule]) -> None:
        self._by_source: Dict[Network, List[Tuple[int, Rule]]] = defaultdict(list)
        self._wide: List[Tuple[int, Rule]] = []
        for place, (rule, _) in enumerate(rules):
            if rule.src is not None and rule.src.prefixlen == rule.src.max_prefixlen:
                self._by_source[rule.src].append((place, rule))
            else:
                self._wide.append((place, rule))

    def of(self, source: Network) -> List[Rule]:
        """The rules without their sources, so that two sources can be compared."""
        wide = [(place, rule) for place, rule in self._wide
                if rule.version == source.version and not rule.oif
                and (rule.src is None or rule.src.overlaps(source))]
        matching = sorted(wide + self._by_source.get(source, []), key=lambda entry: entry[0])
        found: List[Rule] = []
        for _, rule in matching:
            # Where the rule stands matters only against others; an address and a prefix have their own priorities.
            step = rule._replace(src=None, priority=0)
            if not found or found[-1] not in (step, step._replace(other=())):  # with more selectors it adds nothing
                found.append(step)
        return found


def words(answer: Answer, received: bool) -> str:
    """The kernel's answer in words for an operator."""
    if answer.error:
        return os.strerror(answer.error)
    if received:
        return answer.kind
    via = " via {}".format(answer.gateway) if answer.gateway is not None else ""
    table = "main" if answer.table == MAIN else str(answer.table)
    return "by {}{} (table {})".format(answer.dev, via, table)


class _Blame(NamedTuple):
    """Why a packet goes another way, what to do, and whose rule or route it is."""

    reason: str
    cure: str = ""
    evidence: str = ""


_NOBODY = _Blame("")


def _blame(check: Check, answer: Answer, facts: VerifyInput, config: Config) -> _Blame:
    """Whose rule or route it is that makes the packet go another way."""
    no_route = _Blame("no route", "see whether {} is up".format(check.eni.dev))
    if answer.error == errno.EXDEV:
        return _Blame("the reverse path filter refuses it: the way back is by another device")
    source = check.query.src
    if check.query.mark:
        return no_route if answer.error else _Blame("", "run apply")
    if check.query.iif or source is None:
        return _Blame("the kernel would not accept it")
    for rule, protocol in facts.rules:
        if rule.priority == 0 or rule.table != answer.table or not rule_matches(rule, check.query):
            continue
        if not owns_rule(rule, protocol, config) and rule.priority < config.priority_primary:
            return _Blame("somebody else's rule comes first", evidence=str(rule))
        break
    if answer.table == MAIN:
        return _Blame("main sends {} by {}".format(answer.dst or "it", answer.dev or "nowhere"))
    for barrier in facts.kill_switch_routes if answer.error else ():
        if barrier.version == source.version:
            return _Blame("main refuses it for everybody", evidence=str(barrier))
    return no_route if answer.error else _Blame("", "run apply")

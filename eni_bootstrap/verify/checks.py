"""The proof: what to ask of the kernel, and what its answers mean. PURE; ``netlink.Kernel.ask`` does the asking.

No packet is sent: the kernel's own look-up says by which device a packet would leave. With ``iif`` it also runs the
reverse path filter. IPv4 looks up only sources that are on a link; for another source (a secondary address that a
container uses) the rules that match it are compared with those of a source that can be asked, and the verdict is
marked as derived.
"""

import errno
import os
from collections import defaultdict
from ipaddress import ip_address
from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.eni import Eni
from eni_bootstrap.model.kernel import (
    MAIN, Address, Answer, LinkAddress, Network, Query, Route, Rule, SeenRule, network_of,
)

INTERNET = {4: ip_address("203.0.113.1"), 6: ip_address("3fff::1")}
"""Documentation addresses (RFC 5737, RFC 9637): far away from everybody, and in nobody's own routes."""

LOCAL_DEVICES = 16
"""So many local devices are looked at: a container host has hundreds that are all alike."""


class Check(NamedTuple):
    """One thing that must be so."""

    eni: Eni
    target: str
    """In words: "internet", "own vSwitch", "vSwitch of eth2", "device docker0", "received"."""
    query: Query
    dev: str
    """The device by which the packet must leave; for ``not_by`` none in particular."""
    gateways: Tuple[Address, ...] = ()
    """One of these must be the gateway; none: any."""
    not_by: Tuple[str, ...] = ()
    """The devices by which it must not leave."""
    stands_for: Tuple[Network, ...] = ()
    """Sources that can't be asked about and are judged by this one."""


class Verdict(NamedTuple):
    """What the kernel says of one source and one target."""

    eni: str
    source: str
    target: str
    ok: bool
    expected: str
    actual: str
    derived: bool = False
    reason: str = ""
    """Why not, and what to do."""


class VerifyInput(NamedTuple):
    """What the checks are made of."""

    enis: Tuple[Eni, ...]
    sources: Dict[str, List[Network]]
    """By device: what must leave by it."""
    addresses: Tuple[LinkAddress, ...]
    rules: Tuple[SeenRule, ...] = ()
    """Needed where a source stands for others, and to say who is to blame."""
    local: Tuple[Tuple[Address, str], ...] = ()
    """Destinations that this host reaches by a device that is no ENI, and that device."""
    gateways: Dict[str, Tuple[Address, ...]] = {}
    """By device: the gateways that the ENI's own table may lead to."""
    full: bool = False
    """The primary goes by itself, too."""
    kill_switch_routes: Tuple[Route, ...] = ()
    """Main's default routes that lead nowhere: a VPN's kill-switch."""
    marks: Dict[str, int] = {}
    """By device: the mark of connections that came in by it."""
    no_default: FrozenSet[int] = frozenset()
    """IP versions of which main has no default route but ours: the primary, which follows main, may lead nowhere."""


def quick_checks(facts: VerifyInput) -> List[Check]:
    """``apply``'s proof: one source of each ENI and family, to the internet, its own vSwitch and one other."""
    checks: List[Check] = []
    for eni, version, source in _askable(facts):
        checks += _targets(eni, version, source, facts, others=1)
    return checks + _marked(facts)


def all_checks(facts: VerifyInput) -> List[Check]:
    """``verify``'s proof: every source to the internet, one source of each table to everything."""
    checks: List[Check] = []
    local = {held.address for held in facts.addresses}
    for eni, version, source in _askable(facts):
        checks += _targets(eni, version, source, facts, others=len(facts.enis))
        checks += [Check(eni, "device " + dev, Query(dst, source), dev)
                   for dst, dev in facts.local if dst.version == version]
        sources = [network for network in facts.sources[eni.dev] if network.version == version
                   and network != network_of(source)]
        silent = tuple(network for network in sources if version == 4 and network.network_address not in local)
        for network in sources:
            if network not in silent:
                checks.append(_internet(eni, version, network.network_address, facts))
        if silent:
            place = next(place for place, check in enumerate(checks)
                         if check.eni is eni and check.query.src == source and check.target == "internet")
            checks[place] = checks[place]._replace(stands_for=silent)
    return checks + _marked(facts)


def unprovable(facts: VerifyInput) -> List[Tuple[Eni, int]]:
    """ENIs (and the IP version) of which no source can be asked: no address of theirs is on a link."""
    asked = {(eni.dev, version) for eni, version, _ in _askable(facts)}
    return [(eni, subnet.version) for eni in facts.enis for subnet in eni.interface.subnets
            if (eni.dev, subnet.version) not in asked and facts.sources[eni.dev]]


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
        reason = "" if ok else _blame(check, answer, facts, config)
        source = str(check.query.dst if received else check.query.src)
        if check.query.mark:
            source = "mark {:#x}".format(check.query.mark)
        verdict = Verdict(check.eni.label, source, check.target, ok, expected, words(answer, received),
                          reason=reason)
        verdicts.append(verdict)
        for network in check.stands_for:
            same = paths.of(network) == paths.of(network_of(check.query.src))
            verdicts.append(verdict._replace(
                source=str(network if network.prefixlen < network.max_prefixlen else network.network_address),
                derived=True, ok=ok and same,
                reason=reason or ("" if same else "other rules match it than {}; run apply".format(source))))
    return verdicts


def may_be_tentative(verdicts: Sequence[Verdict]) -> bool:
    """Whether all that is wrong may be an IPv6 address whose duplicate address detection has not ended yet."""
    return all(verdict.ok or verdict.target == "received" and ":" in verdict.source for verdict in verdicts)


def shadowing_rules(facts: VerifyInput, config: Config) -> List[Tuple[Rule, str]]:
    """Foreign rules in front of ours that catch one of our sources, and whose.

    A rule that is added without a priority lands in front of the lowest one that is there.
    """
    found = []
    for rule, protocol in facts.rules:
        if config.owns_rule(rule, protocol) or rule.priority == 0:
            continue
        if rule.priority >= config.priority_primary or rule.oif or rule.match.iif:
            continue
        for eni in facts.enis:
            if any(source.version == rule.version and (rule.src is None or rule.src.overlaps(source))
                   for source in facts.sources[eni.dev]):
                found.append((rule, eni.label))
                break
    return found


def strangers(rules: Iterable[SeenRule], config: Config) -> List[Rule]:
    """Somebody else's rules among ours, in the kernel's order; twins that differ in their protocols are one."""
    return list(dict.fromkeys(rule for rule, protocol in rules
                              if config.owns_priority(rule.priority) and not config.owns_rule(rule, protocol)))


def _askable(facts: VerifyInput) -> List[Tuple[Eni, int, Address]]:
    """One source of each ENI and family that the kernel can be asked about.

    Of IPv6 that is any, also an address of a delegated prefix that is on no link.
    """
    held: Dict[str, Set[Address]] = defaultdict(set)
    for address in facts.addresses:
        held[address.dev].add(address.address)
    found = []
    for eni in facts.enis:
        for subnet in eni.interface.subnets:
            sources = [network for network in facts.sources[eni.dev] if network.version == subnet.version]
            own = next((network.network_address for network in sources
                        if network.network_address in held[eni.dev]), None)
            if own is not None:
                found.append((eni, subnet.version, own))
            elif subnet.version == 6 and sources:
                found.append((eni, subnet.version, sources[0][-1]))
    return found


def _targets(eni: Eni, version: int, source: Address, facts: VerifyInput, others: int) -> List[Check]:
    subnet = next(subnet for subnet in eni.interface.subnets if subnet.version == version)
    checks = [_internet(eni, version, source, facts)]
    local = {held.address for held in facts.addresses}
    if source in subnet.vswitch and subnet.vswitch.num_addresses > 1:
        near = Check(eni, "own vSwitch", Query(some_host(subnet.vswitch, local), source), eni.dev)
        # Of IPv6 it may be reached by main's default only: then it is where that is.
        checks.append(near._replace(not_by=_others(eni, facts)) if version == 6 and eni.primary and not facts.full
                      and version in facts.no_default else near)
    seen = {subnet.vswitch}
    for other in facts.enis:
        for far in other.interface.subnets:
            known = far.version == version and far.vswitch.num_addresses > 1
            if known and far.vswitch not in seen and len(seen) <= others:
                seen.add(far.vswitch)
                query = Query(some_host(far.vswitch, local), source)
                checks.append(Check(eni, "vSwitch of " + other.dev, query, eni.dev))
    if any(held.address == source and held.dev == eni.dev for held in facts.addresses):
        checks.append(Check(eni, "received", Query(source, INTERNET[version], iif=eni.dev), eni.dev))
    return checks


def _internet(eni: Eni, version: int, source: Optional[Address], facts: VerifyInput) -> Check:
    """The primary follows main, unless told otherwise, wherever that leads but for another ENI; a secondary goes by
    itself."""
    query = Query(INTERNET[version], source)
    if eni.primary and not facts.full:
        return Check(eni, "internet", query, eni.dev, not_by=_others(eni, facts))
    return Check(eni, "internet", query, eni.dev, tuple(
        gateway for gateway in facts.gateways.get(eni.dev, ()) if gateway.version == version))


def _others(eni: Eni, facts: VerifyInput) -> Tuple[str, ...]:
    return tuple(other.dev for other in facts.enis if other is not eni)


def _marked(facts: VerifyInput) -> List[Check]:
    """What bears an ENI's connection mark, of whatever source."""
    return [_internet(eni, subnet.version, None, facts)._replace(
        target="internet, forwarded", query=Query(INTERNET[subnet.version], mark=facts.marks[eni.dev]))
        for eni in facts.enis if eni.dev in facts.marks for subnet in eni.interface.subnets]


def some_host(network: Network, local: Set[Address]) -> Address:
    """An address of the network that is not this host's own and not the network's first or last."""
    size = network.num_addresses
    candidates = range(1, min(size - 1, len(local) + 3)) if size > 2 else range(size)
    hosts = (network[place] for place in candidates)
    return next((host for host in hosts if host not in local), network[0])


class _Paths:
    """Which rules match a source, in order: the packet's way, as far as the source decides it."""

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


def _covers(outer: Network, inner: Network) -> bool:
    return (outer.version == inner.version and outer.prefixlen <= inner.prefixlen
            and inner.network_address in outer)


def words(answer: Answer, received: bool) -> str:
    """What the kernel's answer says."""
    if answer.error:
        return os.strerror(answer.error)
    if received:
        return answer.kind
    via = " via {}".format(answer.gateway) if answer.gateway is not None else ""
    table = "main" if answer.table == MAIN else str(answer.table)
    return "by {}{} (table {})".format(answer.dev, via, table)


def _blame(check: Check, answer: Answer, facts: VerifyInput, config: Config) -> str:
    """Whose rule or route it is that makes the packet go another way."""
    if answer.error == errno.EXDEV:
        return "the reverse path filter refuses it: the way back is by another device"
    source = check.query.src
    if check.query.mark:
        return "no route; is {} up?".format(check.eni.dev) if answer.error else "run apply"
    if check.query.iif or source is None:
        return "the kernel would not accept it"
    for rule, protocol in facts.rules:
        if rule.version != source.version or rule.priority == 0 or rule.oif or rule.table != answer.table:
            continue
        if rule.src is not None and not _covers(rule.src, network_of(source)):
            continue
        if not config.owns_rule(rule, protocol) and rule.priority < config.priority_primary:
            return "somebody else's rule comes first: " + str(rule)
        break
    if answer.table == MAIN:
        return "main sends {} by {}".format(answer.dst or "it", answer.dev or "nowhere")
    for barrier in facts.kill_switch_routes if answer.error else ():
        if barrier.version == source.version:
            return "main refuses it for everybody: " + str(barrier)
    if answer.error:
        return "no route; is {} up?".format(check.eni.dev)
    return "run apply"

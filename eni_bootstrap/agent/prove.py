"""Ask the kernel whether packets leave as they should: the questions are those of ``checks`` and ``access_checks``."""

import ipaddress
import itertools
from typing import Dict, FrozenSet, List, Sequence, Set, Tuple
from urllib.parse import urlsplit

from eni_bootstrap.agent.observe import Context, Observation
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.cni import at_parents
from eni_bootstrap.desired.connmark import Marked, value
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.model.changes import Change
from eni_bootstrap.model.eni import EniFamily
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import MAIN, Address, Answer, Hop, Query, Route, Snapshot, natural
from eni_bootstrap.verify import access_checks
from eni_bootstrap.verify.checks import (
    INTERNET, LOCAL_DEVICES, Check, Verdict, VerifyInput, judge, may_be_tentative, some_host, unprovable,
)

DAD_PAUSES = (0.2, 0.4, 0.8, 1.0, 0.0)
"""Seconds: an IPv6 address that was just added is not accepted before duplicate address detection ends, after up to 2 s
(RFC 4862 with the kernel's defaults)."""


def marks_of(members: Sequence[Marked], config: Config) -> Dict[str, int]:
    return {member.dev: value(member, config) for member in members}


def prove(world: Context, checks: Sequence[Check], facts: VerifyInput) -> List[Verdict]:
    """Ask all checks in one go; where one is wrong, ask for the routes as well. Returns a verdict for each source."""
    for pause in DAD_PAUSES:
        answers = world.kernel.ask([check.query for check in checks])
        verdicts = judge(checks, answers, facts, world.config)
        if all(verdict.ok for verdict in verdicts):
            return verdicts
        if not may_be_tentative(verdicts):
            break
        world.sleep(min(pause, world.deadline.remaining()))
    matches = world.kernel.ask([check.query._replace(match=True) for check in checks])
    answers = [answer._replace(dst=match.dst) for answer, match in zip(answers, matches)]
    return judge(checks, answers, facts._replace(rules=world.kernel.rules()), world.config)


def try_entries(world: Context, snapshot: Snapshot, decision: Decision, config: Config
                ) -> Tuple[List[Verdict], List[Finding]]:
    """Verdicts on the configuration's entries and spreads, and remarks on those that the kernel can't be asked about.
    """
    own = {held.address for held in snapshot.addresses}
    devs = {link.name for link in snapshot.links}
    near = {dev: [some_host(route.dst, own) for route in world.kernel.specific_routes(dev, LOCAL_DEVICES)]
            for entry in config.entries for dev in entry.iifs if dev in devs}
    versions = sorted({rule.version for rule in decision.rules})
    asked, untried = access_checks.access_checks(decision.ways, snapshot.working, own, near, versions, config)
    asked = [trial for trial in asked if not trial.query.iif or trial.query.iif in devs]
    return access_checks.judge(asked, world.kernel.ask([trial.query for trial in asked])), untried


def ways(world: Context, view: Observation) -> Dict[str, Answer]:
    """The ways that must never change, in words -> answer: of this host's own packets without a source, and of the
    primary's to the metadata service."""
    queries = {"the internet by IPv{}".format(version): Query(dst) for version, dst in INTERNET.items()
               if not world.config.spreads}  # else it is meant to change
    try:
        service = ipaddress.ip_address(urlsplit(world.config.metadata_url).hostname or "")
    except ValueError:
        service = None  # it has a name, not an address
    if service is not None:
        queries["the metadata service"] = Query(service)
    if service is not None and not service.is_loopback:
        held = {address.address for address in view.snapshot.addresses}
        own = [subnet.addresses[0] for eni in view.decision.enis if eni.primary
               for subnet in eni.interface.subnets if subnet.version == service.version and subnet.addresses]
        for address in [address for address in own if address in held]:
            queries["the metadata service from {}".format(address)] = Query(service, address)
    return dict(zip(queries, world.kernel.ask(list(queries.values()))))


def moved(before: Dict[str, Answer], after: Dict[str, Answer], view: Observation) -> Dict[str, Answer]:
    """Those of the ways ``before`` that were the primary's, or a VPN's, and are other ones now. It must never be."""
    secondaries = {eni.dev for eni in view.decision.enis if not eni.primary}
    return {what: way for what, way in before.items()
            if way.dev and way.dev not in secondaries and what in after
            and (way.dev, way.gateway) != (after[what].dev, after[what].gateway)}


def ways_lost(moved: Dict[str, Answer], after: Dict[str, Answer]) -> List[Finding]:
    """A problem for each way that was ``moved``."""
    return [Finding.error("way-moved", "the way to {} was by {} and is now by {}".format(
        what, way.dev, after[what].dev or "nothing")) for what, way in moved.items()]


def takers(before: Dict[str, Answer], after: Dict[str, Answer], done: Sequence[Change]) -> Dict[Change, str]:
    """Default routes that were just made in main, of an IP version in which one of them has taken a way -> that way.

    All of that version, because without the first the next would take it. Main has a better default then, but one that
    the kernel may pass by: its link has no carrier (``ignore_routes_with_linkdown``), or its IPv6 gateway does not
    answer at present.
    """
    made = {change: change.item for change in done
            if isinstance(change.item, Route) and change.item.table == MAIN and change.verb != "remove"}
    versions = {route.hops: route.version for route in made.values()}
    found: Dict[Change, str] = {}
    for what, way in before.items():
        now = after[what]
        taken = versions.get((Hop(now.dev, now.gateway),))
        if now.table == MAIN and now.dev != way.dev and taken:
            for change, route in made.items():
                if route.version == taken:
                    found.setdefault(change, "{}, which {}".format(what, "is by " + way.dev if way.dev else "has none"))
    return found


def few_facts(world: Context, view: Observation) -> VerifyInput:
    """The input of ``quick_checks``."""
    held = tuple(at_parents(view.snapshot.links, world.kernel.addresses()))
    return VerifyInput(
        view.decision.families, held, gateways=gateways(view.decision), full=world.config.primary == "full",
        kill_switch_routes=kill_switch_routes(view.snapshot), marks=marks_of(view.decision.marked, world.config),
        no_default=no_default(view.snapshot, world.config))


def local_destinations(world: Context, eni_devs: Set[str], snapshot: Snapshot) -> Tuple[Tuple[Address, str], ...]:
    """(destination, device) pairs for at most ``LOCAL_DEVICES`` local devices that are no ENI: there this host's own
    packets leave by that device."""
    own = {held.address for held in snapshot.addresses}
    names = sorted((link.name for link in snapshot.links if link.up and link.name not in eni_devs), key=natural)
    routes = (route for name in names for route in world.kernel.specific_routes(name, 1))
    chosen = [some_host(route.dst, own) for route in itertools.islice(routes, LOCAL_DEVICES)]
    answers = world.kernel.ask([Query(dst) for dst in chosen])
    return tuple((dst, answer.dev) for dst, answer in zip(chosen, answers)
                 if not answer.error and answer.kind == "unicast" and answer.dev not in eni_devs)


def gateways(decision: Decision) -> Dict[str, Tuple[Address, ...]]:
    """Device -> gateways: the ENI's own first, then those of the user's routes through it."""
    found = {eni.dev: [family.gateway for family in decision.families if family.eni is eni] for eni in decision.enis}
    for route in decision.routes:
        for hop in route.hops:
            if hop.gateway is not None and hop.dev in found and route.table == decision.table_of(hop.dev):
                found[hop.dev].append(hop.gateway)
    return {dev: tuple(dict.fromkeys(gateways)) for dev, gateways in found.items()}


def no_default(snapshot: Snapshot, config: Config) -> FrozenSet[int]:
    """The IP versions of which main has no default route but ours."""
    return frozenset({4, 6} - {seen.route.version for seen in snapshot.routes if seen.route.table == MAIN
                               and seen.route.is_default and seen.protocol != config.protocol})


def kill_switch_routes(snapshot: Snapshot) -> Tuple[Route, ...]:
    return tuple(seen.route for seen in snapshot.routes
                 if seen.route.table == MAIN and seen.route.is_default and not seen.route.hops)


def shared_routes(snapshot: Snapshot, eni_devs: Set[str]) -> List[Route]:
    """Main's multipath routes over an ENI and a device that is none."""
    return [seen.route for seen in snapshot.routes if seen.route.table == MAIN
            and eni_devs.intersection(seen.route.devs()) and not eni_devs.issuperset(seen.route.devs())]


def unprovable_ones(facts: VerifyInput, config: Config) -> List[EniFamily]:
    """The ENI families that can't be proven; none where the configuration says ``assign: none``: then a link without an
    address is as it should be."""
    return [] if config.assign == "none" else unprovable(facts)


def not_provable(family: EniFamily) -> Finding:
    return Finding.error("address-not-on-link", "none of its IPv{} addresses is on its link, so that the kernel can't "
                         "be asked".format(family.version), eni=family.label, family=family.version)

"""One observation: read the kernel and the record, decide, plan."""

import time
from typing import AbstractSet, Callable, FrozenSet, List, NamedTuple, Optional, Sequence, Set, Tuple

from eni_bootstrap.config.own_rules import owns_rule
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.cni import band_tables, leave_contained, parents
from eni_bootstrap.desired.decide import Decision, decide
from eni_bootstrap.desired.matching import likely, pair
from eni_bootstrap.desired.selection import unwanted
from eni_bootstrap.desired.tables import Memory, tables_to_read
from eni_bootstrap.host.network_managers import Managers
from eni_bootstrap.kernel import record
from eni_bootstrap.kernel.kernel import Kernel
from eni_bootstrap.metadata.fetch import Fetch, consistent
from eni_bootstrap.model.changes import Numbering, Plan, Record
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.eni import Listing
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.host import ContainerNetwork
from eni_bootstrap.model.kernel import MAIN, PROTOCOL_KERNEL, Link, SeenRule, Snapshot
from eni_bootstrap.plan.diff import Before, plan
from eni_bootstrap.plan.ownership import NOTHING, bears_kernels_mark, outdated, unfinished, without


class Context(NamedTuple):
    """The world that a command works on: metadata, kernel, clock, this host."""

    fetch: Fetch
    kernel: Kernel
    deadline: Deadline
    config: Config
    managers: Optional[Managers] = None
    """Who else works on the network, where that is known."""
    competing_agents: Callable[[], List[Finding]] = list
    """Names what else on this host sets up ENIs."""
    root: str = "/"
    """The root directory of the boot scripts."""
    networks: Callable[[], List[ContainerNetwork]] = list
    """The container networks that are configured on this host."""
    sleep: Callable[[float], None] = time.sleep


class Observation(NamedTuple):
    """The kernel at one moment, the decision, and the plan that follows."""

    snapshot: Snapshot
    made: Record
    decision: Decision
    plan: Plan
    config: Config
    """The configuration, with the numbers that are in force for now."""
    numberings: Tuple[Numbering, ...] = ()
    """The numbers to record: those by which there are objects of ours, those in force last."""
    kernel_marks: bool = False
    """To record: whether some of these objects carry protocol ``kernel``, or will."""
    recorded: Record = Record()
    """The record as it was read; ``made`` is the part of it that is still true."""


def networks_here(world: Context) -> List[ContainerNetwork]:
    """The container networks whose ENIs are left alone: none with ``container-networks: manage``."""
    return world.networks() if world.config.container_networks == "leave" else []


def left_alone(snapshot: Snapshot, networks: Sequence[ContainerNetwork], config: Config
               ) -> List[Finding]:
    """What is left alone as far as it can be told without metadata: whatever has main's best default is the primary."""
    said = unwanted(config.ignore, config.only)
    if config.container_networks != "leave":
        return said
    defaults = [seen.route for seen in snapshot.routes if seen.route.table == MAIN and seen.route.is_default]
    best = min((route.metric for route in defaults if route.hops), default=0)
    primary = {dev for route in defaults if route.metric == best for dev in route.devs()}
    enis = [eni for eni in likely(snapshot.links) if eni.dev not in primary]
    left = leave_contained(enis, [], snapshot.links, snapshot.addresses, Memory(snapshot, config), networks)[2]
    return said + [member.finding for member in left]


def ask_listing(world: Context) -> Listing:
    return consistent(world.fetch, world.deadline, world.sleep)[1]


class _Reading(NamedTuple):
    """The inputs of a look that do not depend on the numbers."""

    listing: Listing
    links: Tuple[Link, ...]
    rules: Tuple[SeenRule, ...]
    record: Record
    address_wait_expired: FrozenSet[Tuple[str, int]]
    more_tables: Callable[[Sequence[SeenRule], Config], Set[int]]


def _no_tables(rules: Sequence[SeenRule], config: Config) -> Set[int]:
    return set()


def look(world: Context, listing: Listing, address_wait_expired: FrozenSet[Tuple[str, int]],
         more_tables: Callable[[Sequence[SeenRule], Config], Set[int]] = _no_tables) -> Observation:
    """Read the kernel and the record, decide, plan. ``more_tables``: further tables to read."""
    links, rules = world.kernel.links(), world.kernel.rules()
    seen = _Reading(listing, links, rules, record.load(links), address_wait_expired, more_tables)
    view = _look_by(world.config, former_configs(seen.record, world.config), world, seen)
    before = [numbering for numbering in view.numberings if numbering != world.config.numbering]
    if before and (view.decision.unready or view.decision.kept_devs):
        # What can't be set up keeps what it has, so that nothing by any numbers may go now.
        config = world.config.renumbered(before[-1])
        config = config._replace(protocol_networkd_safe=_networkd_safe_protocol(world.config, before[-1]))
        numberings = view.numberings
        view = _look_by(config, [], world, seen)
        remark = Finding.remark(
            "former-numbers", "other numbers are used once all ENIs can be set up; until then the former ones",
            evidence=", ".join("{} {}".format(name, number) for name, number in before[-1]._asdict().items()))
        view = view._replace(numberings=numberings, decision=view.decision._replace(
            findings=view.decision.findings + (remark,)))
    return view


def _look_by(config: Config, former: Sequence[Config], world: Context, seen: _Reading) -> Observation:
    """A look by these numbers. What is ours by ``former`` ones goes once the desired objects are there."""
    networks, links = networks_here(world), seen.links
    protocols = {each.protocol for each in (config, world.config, *former)}
    for with_spare_tables in (False, True):
        devs, tables = _places(seen, with_spare_tables, config)
        tables |= band_tables(links, devs, seen.rules, networks, config) | seen.more_tables(seen.rules, config)
        whole = world.kernel.snapshot(links, seen.rules, devs, tables, config, former)
        made = record.still_ours(seen.record, whole.seen, protocols)
        outdone = outdated(whole, devs, former, config) if former else NOTHING
        snapshot = without(whole, outdone) if former else whole
        decision = decide(seen.listing, snapshot, made, seen.address_wait_expired, config, networks)
        if not decision.displaced:
            break
    groups = {link.group for link in links} - {config.group}
    asked = {setting[:2] for setting in decision.settings} | {done.setting[:2] for done in made.settings}
    settings = world.kernel.settings(asked) if asked else ()
    held = {setting[:2] for setting in settings}  # none of a link that has gone since it was listed
    decision = decision._replace(settings=tuple(each for each in decision.settings if each[:2] in held))
    whole, snapshot = whole._replace(settings=settings), snapshot._replace(settings=settings)
    found = tuple(each.numbering for each in former
                  if each.group in groups
                  or unfinished(outdated(whole, devs, [each], config), decision, whole, each, config))
    numberings = found + (config.numbering,) if decision.rules else found
    ours = made.ups.union(held.dev for held in made.addresses)
    in_use = devs_in_use(world, links, ours & decision.skipped - decision.used,
                         {each.protocol for each in (config, *former)})
    before = Before(tuple(former), outdone, frozenset(in_use))
    return Observation(
        snapshot, made, decision, plan(decision, whole, made, config, before), config,
        () if numberings == (Config().numbering,) else numberings,
        config.protocol_networkd_safe == PROTOCOL_KERNEL and bool(decision.rules)
        or any(bears_kernels_mark(whole, each) for each in (config, *former)),
        seen.record)


def former_configs(made: Record, config: Config) -> List[Config]:
    """Configurations with the numbers in force before, by the record; without one, with the usual numbers."""
    return [config.renumbered(numbering) for numbering in made.numberings or (Config().numbering,)
            if numbering != config.numbering]


def _networkd_safe_protocol(config: Config, numbering: Numbering) -> int:
    return PROTOCOL_KERNEL if config.protocol_networkd_safe == PROTOCOL_KERNEL else numbering.protocol


def devs_in_use(world: Context, links: Sequence[Link], devs: AbstractSet[str], protocols: AbstractSet[int]) -> Set[str]:
    """Those of the devices by which somebody else routes, or that carry another link."""
    below = parents(links)
    return {link.name for link in links if link.name in devs and (
        link.ifindex in below or world.kernel.carries_others(link.name, protocols))}


def _places(seen: _Reading, with_spare_tables: bool, config: Config) -> Tuple[Set[str], Set[int]]:
    """The devices and the tables whose routes the decision needs."""
    enis, unready = pair(seen.listing, seen.links)
    devs = {eni.dev for eni in enis} | {member.dev for member in unready}
    devs |= {rule.oif for rule, protocol in seen.rules if owns_rule(rule, protocol, config)}
    names = [eni.link.name for eni in enis if not eni.primary]
    names += [member.link for member in unready if member.link and not member.primary]
    return devs & {link.name for link in seen.links}, tables_to_read(names, with_spare_tables, config)

"""The decision on Windows: which default routes should be there. PURE: values in, a value out.

Windows has no rules by source. It needs none: what comes from an address is sent by the interface that owns it (the
strong host model), if only that interface has a route. So each secondary ENI gets a default route by its own gateway,
which is worse than the primary's best, so that whatever has chosen no source goes by the primary as before.

Windows makes such routes itself where DHCP or a router advertisement tells it to. These are left alone, and so is what
a person has typed; where that leads elsewhere, or to the front, it is named.
"""

from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.desired.matching import pair
from eni_bootstrap.desired.selection import leave_ignored, leave_out, left as left_alone
from eni_bootstrap.desired.validation import refuse_stealing
from eni_bootstrap.model.eni import Eni, EniFamily, Listing, Subnet, UnreadyEni
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import EVERYWHERE, Address, Link, Network, Route, network_of
from eni_bootstrap.windows.model import GATEWAY_METRIC, WORST_METRIC, Recorded, Snapshot, WindowsRoute


class Default(NamedTuple):
    """A default route of somebody else's on an ENI's adapter."""

    route: WindowsRoute
    in_place: bool
    """It is where ours should be, and is not as ours would be."""
    ahead: bool
    """It is not worse than the primary's best."""


class Defaults(NamedTuple):
    """The default routes of one secondary ENI and IP version."""

    wanted: Optional[Route]
    """What should be there of ours."""
    findings: Tuple[Finding, ...] = ()


def decide(listing: Listing, snapshot: Snapshot, recorded: Sequence[Recorded], config: Config) -> Decision:
    """Decide which default routes there should be. ``recorded``: those that earlier runs made, as far as known."""
    links = links_of(snapshot)
    fit, unready = pair(listing, links)
    unready = [_in_words(member, links) for member in unready]
    enis, thieves = refuse_stealing(fit, unready, snapshot.addresses)
    enis, unready, found = _able(enis, unready + thieves, snapshot)
    enis, unready, left = leave_ignored(enis, unready, config.ignore, config.only)
    found += left_alone(enis, left, config.ignore)
    gone, said = _unlisted(listing, snapshot, recorded)
    found += said + not_here(config)

    routes: List[Route] = []
    unaddressed: List[EniFamily] = []
    primary = primary_indexes(listing, snapshot)
    held = {(each.dev, each.address.version) for each in snapshot.addresses}
    bases: Dict[int, int] = {}
    for version in sorted({subnet.version for eni in enis if not eni.primary for subnet in eni.subnets}):
        if primary:
            bases[version], said = _base(primary, version, enis, snapshot)
            found += said
    families = [EniFamily(eni, subnet, _sources(eni, subnet, snapshot)) for eni in enis for subnet in eni.subnets]
    for family in families:
        eni, subnet = family.eni, family.subnet
        has_address = eni.primary or family.key in held
        if not has_address:
            unaddressed.append(family)
        is_weak = len(enis) > 1 and _is_weak(eni, subnet.version, snapshot)
        if is_weak:
            found.append(Finding.error(
                "weak-host-sending", "weak host sending is switched on for IPv{}: what comes from its addresses may "
                "leave by another adapter".format(subnet.version),
                "Set-NetIPInterface -InterfaceIndex {} -AddressFamily IPv{} -WeakHostSend Disabled".format(
                    eni.link.ifindex, subnet.version), eni.label, subnet.version))
        if not eni.primary and subnet.version in bases:
            default = _defaults(eni, subnet, bases[subnet.version], snapshot, recorded, has_address and not is_weak)
            found += default.findings
            routes += [default.wanted] if default.wanted is not None else []
    kept = {(dev, version) for dev in gone for version in (4, 6)}
    kept |= {(member.dev, version) for member in unready if member.dev for version in member.versions}
    return Decision(
        tuple(enis), tuple(families), tuple(unready), tuple(found), tuple(unaddressed),
        routes=tuple(routes), kept_families=frozenset(kept),
        skipped=frozenset(dev for member in left for dev in member.devs))


def links_of(snapshot: Snapshot) -> List[Link]:
    """The adapters as links, as on other systems."""
    return [Link(each.ifindex, each.name, each.mac, up=each.enabled) for each in snapshot.adapters]


def primary_indexes(listing: Listing, snapshot: Snapshot) -> Set[int]:
    """The interfaces that are the primary ENI's, also where it can't be set up: a Hyper-V switch has its MAC, too."""
    macs = {each.mac for each in listing.interfaces if each.primary}
    macs |= {each.mac for each in listing.sick if each.primary}
    return {each.ifindex for each in snapshot.adapters if each.mac in macs}


def owned(recorded: Sequence[Recorded], snapshot: Snapshot) -> List[Recorded]:
    """What is ours: it is on record, and its persistent copy, or where there is none the other, still is as it was
    recorded. What somebody has changed since is his: a copy in force, for instance, that DHCP has taken over."""
    known = placed(recorded, snapshot)
    active = {route.key: route for route in snapshot.active}
    persistent = {route.key: route for route in snapshot.persistent}
    found: Dict[Tuple[Network, int, Address], Recorded] = {}
    for key in {route.key: None for route in known}:
        if persistent.get(key, active.get(key)) in known:
            found[key] = known[active[key] if active.get(key) in known else persistent[key]]
    return list(found.values())


def placed(recorded: Sequence[Recorded], snapshot: Snapshot) -> Dict[WindowsRoute, Recorded]:
    """How a copy looks that is ours: with the index that the adapter, known again by its GUID, has now. The routes of
    one that is gone keep the index, unless that is another's now.

    A run that was cut off has recorded a metric and the one before, and may have changed one store only.
    """
    taken = {each.ifindex for each in snapshot.adapters}
    found: Dict[WindowsRoute, Recorded] = {}
    for entry in recorded:
        index = snapshot.index_of(entry.guid)
        if index is not None or entry.route.ifindex not in taken:
            route = entry.route if index is None else entry.route._replace(ifindex=index)
            found[route] = entry._replace(route=route)
    return found


def defaults_of(index: int, version: int, snapshot: Snapshot) -> List[WindowsRoute]:
    """All default routes of an interface in both stores; where the stores differ, as the route is in force."""
    found = {route.key: route for store in (snapshot.persistent, snapshot.active) for route in store}
    return [route for route in found.values() if (route.ifindex, route.version) == (index, version)]


def not_here(config: Config) -> List[Finding]:
    """Findings on what the configuration asks for and Windows can't do."""
    usual = Config()
    asked = {
        "access": config.entries, "balance": config.spreads, "connection-marks": config.connection_marks,
        "sources": config.extra, "prefixes: local": config.prefixes != usual.prefixes,
        "primary: full": config.primary != usual.primary,
        "numbers": (config.numbering, config.metric_step) != (usual.numbering, usual.metric_step),
    }
    reasons = {what: "no rules that choose a route by more than the destination"
               for what, wish in asked.items() if wish}
    if config.assign != usual.assign:
        reasons["assign: " + config.assign] = "its addresses from DHCP or from who typed them"
    if config.links:
        reasons["links"] = "no such settings"
    return [Finding.error("not-on-windows", "{}: not on Windows, which has {}".format(what, reason))
            for what, reason in reasons.items()]


def _in_words(member: UnreadyEni, links: Sequence[Link]) -> UnreadyEni:
    """The ENI with what ``pair`` says of its link in Windows' word for it: adapter."""
    own = [link.name for link in links if link.mac == member.mac]
    if member.subnets and not own:
        return member._replace(reason="no adapter has this MAC", cure="see whether it is still being bound")
    if member.subnets and len(own) > 1:
        return member._replace(reason="several adapters have this MAC (a Hyper-V switch, or a team): {}".format(
            ", ".join(own)))
    return member


def _able(enis: Sequence[Eni], unready: Sequence[UnreadyEni], snapshot: Snapshot
          ) -> Tuple[List[Eni], List[UnreadyEni], List[Finding]]:
    """The ENIs whose adapter is in use, without the IP versions that are switched off there, and whose gateway Windows
    can reach; those that can't be set up, with the ``unready`` ones; remarks."""
    metrics = snapshot.metrics
    enabled = [eni for eni in enis if eni.link.up]
    disabled = [eni.unready("the adapter is disabled", "Enable-NetAdapter switches it on")
                for eni in enis if not eni.link.up]
    found = leave_out(enabled, unready, {
        (eni.dev, version) for eni in enabled for version in (4, 6) if (eni.link.ifindex, version) not in metrics})
    # Or the adapter is so new that Windows has not bound it yet.
    bare = [eni.unready("{} is switched off on the adapter".format(
        " and ".join("IPv{}".format(subnet.version) for subnet in eni.subnets)))._replace(transient=True)
        for eni in found.bare]
    fit, far = reached(found.enis)
    return fit, found.unready + disabled + bare + far, [Finding.remark(
        "family-off", "IPv{} is switched off on the adapter and left out".format(version), eni=label, family=version)
        for label, version in found.left_out]


def reached(enis: Sequence[Eni]) -> Tuple[List[Eni], List[UnreadyEni]]:
    """Split off the secondaries' address families whose gateway Windows does not reach."""
    fit: List[Eni] = []
    unready: List[UnreadyEni] = []
    for eni in enis:
        rest, far = eni.without({
            subnet.version: "its gateway {} is outside its vSwitch, where Windows does not reach it".format(
                subnet.gateway) for subnet in eni.subnets
            if not (eni.primary or subnet.gateway in subnet.vswitch or subnet.gateway.is_link_local)})
        fit += [rest] if rest else []
        unready += far
    return fit, unready


def _unlisted(listing: Listing, snapshot: Snapshot, recorded: Sequence[Recorded]) -> Tuple[List[str], List[Finding]]:
    """The adapters that metadata no longer lists and that have routes of ours, and remarks."""
    listed = {each.mac for each in listing.interfaces} | {each.mac for each in listing.sick}
    ours = {entry.route.ifindex for entry in owned(recorded, snapshot)}
    gone = [each for each in snapshot.adapters if each.ifindex in ours and each.mac not in listed]
    return [each.name for each in gone], [
        Finding.remark("eni-not-listed", "metadata does not list it any more, and what was set up for it stays until "
                       "the adapter goes", eni="{} ({})".format(each.name, each.mac)) for each in gone]


def _base(primary: Set[int], version: int, enis: Sequence[Eni], snapshot: Snapshot) -> Tuple[int, List[Finding]]:
    """The effective metric of the primary's best default route, than which the others' must be worse, and a remark
    where that is a guess."""
    metrics = [snapshot.effective(route) for route in snapshot.active
               if route.ifindex in primary and route.version == version]
    if metrics:
        return min(metrics), []
    own = [metric for (index, of), metric in snapshot.metrics.items() if index in primary and of == version]
    if not own:
        return 0, []  # it has no such IP version: whatever leaves, leaves by another
    said = [Finding.remark("primary-without-default", "has no IPv{} default route, whose metric is counted as the {} "
                           "that Windows gives a gateway typed by hand".format(version, GATEWAY_METRIC),
                           eni=eni.label, family=version) for eni in enis
            if eni.primary and version in [subnet.version for subnet in eni.subnets]]
    return min(own) + GATEWAY_METRIC, said


def _is_weak(eni: Eni, version: int, snapshot: Snapshot) -> bool:
    return any(each.weak_send for each in snapshot.interfaces
               if (each.ifindex, each.version) == (eni.link.ifindex, version))


def _defaults(eni: Eni, subnet: Subnet, base: int, snapshot: Snapshot, recorded: Sequence[Recorded], is_ready: bool
              ) -> Defaults:
    """What should be of one ENI and IP version. ``base``: the primary's best effective metric.

    One that is not ready, or where somebody else's route will do or is in the way, gets nothing; what it has of ours
    stays, and stays worse than the primary's.
    """
    index, version = eni.link.ifindex, subnet.version
    ours = [entry.route for entry in owned(recorded, snapshot)]
    wanted = WindowsRoute(EVERYWHERE[version], index, subnet.gateway, 0)
    metric = max(1, base + 1 - snapshot.effective(wanted))
    known = placed(recorded, snapshot)
    typed = {route.key for route in snapshot.persistent if route not in known}
    others = [_judged(route, subnet.gateway, base, route.key in typed, snapshot)
              for route in defaults_of(index, version, snapshot) if route not in ours]
    found = [Finding.error(
        "default-in-place", "somebody else's default route is in the place of ours and stays", "", eni.label, version,
        "{} (ours: by {}, metric {})".format(_text(each.route, snapshot), subnet.gateway, metric))
        for each in others if each.in_place]
    found += [Finding.remark(
        "default-ahead", "Windows' own default route is not worse than the primary's, so that what has chosen no "
        "source may leave by either", "", eni.label, version, _text(each.route, snapshot))
        for each in others if each.ahead and not each.in_place]
    present = next((route for route in ours if route.key == wanted.key), None)
    if present is None and (others or not is_ready):
        # By the gateway of before, where it has moved meanwhile.
        present = next((route for route in ours if (route.ifindex, route.version) == (index, version)), None)
        if present is None:
            return Defaults(None, tuple(found))
        wanted = present
    if metric > WORST_METRIC:
        found.append(Finding.error(
            "metric-too-large", "its IPv{} default route would have to have metric {} to be worse than the primary's, "
            "and {} is the largest".format(version, metric, WORST_METRIC), eni=eni.label, family=version))
        return Defaults(present.on(eni.dev) if present else None, tuple(found))
    return Defaults(wanted._replace(metric=metric).on(eni.dev), tuple(found))


def _judged(route: WindowsRoute, gateway: Address, base: int, persistent: bool, snapshot: Snapshot) -> Default:
    """What Windows makes by itself is in force only, and leads to the ENI's gateway or to a router that has advertised
    itself by its link-local address. ``persistent``: somebody has made it so."""
    elsewhere = route.gateway != gateway
    ahead = snapshot.effective(route) <= base
    typed = persistent or elsewhere and not route.gateway.is_link_local
    return Default(route, typed and (elsewhere or ahead), ahead)


def _text(route: WindowsRoute, snapshot: Snapshot) -> str:
    return "by {}, metric {} and the interface's {}".format(
        route.gateway, route.metric, snapshot.effective(route) - route.metric)


def _sources(eni: Eni, subnet: Subnet, snapshot: Snapshot) -> Tuple[Network, ...]:
    """The ENI's sources: those of metadata, and its adapter's other addresses inside the vSwitch."""
    found: Set[Address] = set(subnet.addresses)
    found |= {held.address for held in snapshot.addresses if held.dev == eni.dev
              and held.address.version == subnet.version and held.address in subnet.vswitch}
    return tuple(network_of(address) for address in sorted(found, key=int))

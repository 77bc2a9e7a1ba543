"""The decision for an assumed host: nothing is known of the real one but its metadata. PURE.

There are two such hosts. A bare one has its primary ENI's default routes and no more, so that the decision for it holds
all that may have to be done. In a configured one a DHCP client gives every ENI its IPv4 address and a default route in
main, each worse than the one before, as our files have it; IPv6 comes by router advertisement to the primary, and is in
our files for the others. Of an operator's own routes nothing is known.
"""

import textwrap
from typing import Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Sequence, Tuple, Union

from eni_bootstrap import __version__
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.decide import Decision, decide
from eni_bootstrap.metadata.parser import is_mac
from eni_bootstrap.model.changes import Record
from eni_bootstrap.model.eni import Eni, Listing, Subnet
from eni_bootstrap.model.kernel import (
    EVERYWHERE, IPV6_METRIC, MAIN, PROTOCOL_KERNEL, Hop, Link, LinkAddress, LinkSetting, Network, Route, Rule,
    SeenRoute, Snapshot, natural,
)

MADE_BY = "Made by eni-bootstrap"
"""The beginning of a rendered file, by which it is known again."""
ORIGIN = ("{} {} from the instance's metadata: it holds for this instance, as long as no ENI and no address is bound "
          "or unbound; then make it anew.".format(MADE_BY, __version__))
WIDTH = 118
"""Width of comments, so that they can be read in any terminal."""

ACTIONS = ("lookup", "blackhole", "unreachable", "prohibit")
"""Of rules, those that systemd-networkd and NetworkManager have words for."""

_BY_DHCP, _BY_ADVERTISEMENT = 16, 9  # rt_protos


class File(NamedTuple):
    """A file of a rendered configuration."""

    path: str
    text: str
    mode: int = 0o644
    newline: str = "\n"
    """Of the file; in the text it is always that one."""


class Member(NamedTuple):
    """The part of a rendered file for one ENI."""

    eni: Eni
    metric: int
    """Of the IPv4 default route in main that its DHCP client makes."""
    addresses: Tuple[LinkAddress, ...]
    """Those that no DHCP client brings."""
    settings: Tuple[LinkSetting, ...]
    routes: Tuple[Route, ...]
    rules: Tuple[Rule, ...]

    @property
    def dev(self) -> str:
        return self.eni.dev

    @property
    def versions(self) -> FrozenSet[int]:
        return frozenset(subnet.version for subnet in self.eni.subnets)


class Outline(NamedTuple):
    """The content of all rendered files."""

    members: Tuple[Member, ...]
    """The primary first."""
    routes: Tuple[Route, ...]
    """What is no ENI's: prefixes that are local."""
    rules: Tuple[Rule, ...]
    """What is no ENI's: main's specific routes, refusals."""
    decision: Decision
    headline: Tuple[str, ...]
    """Notes that come first in the file."""

    @property
    def device_less(self) -> List[Route]:
        """The routes that belong to no ENI's device: fences, and what is no ENI's."""
        return [route for member in self.members for route in member.routes if not route.hops] + list(self.routes)

    @property
    def all_rules(self) -> List[Rule]:
        return [rule for member in self.members for rule in member.rules] + list(self.rules)


def bare(
    listing: Listing, names: Mapping[str, str], config: Config, on_link: bool = False
) -> Tuple[Decision, Snapshot]:
    """For a host that has its primary ENI's first addresses and default routes only, and that host with links down.

    ``on_link``: main has each ENI's IPv6 vSwitch on its link.
    """
    links = _links(listing, names)
    held: List[LinkAddress] = []
    routes: List[SeenRoute] = []
    for link, subnet in _subnets(listing, links):
        if link is links[0]:
            held += _leased(link, subnet)
            routes.append(_default(link, subnet, config.metric_least))
        if subnet.version == 6 and on_link:
            routes.append(SeenRoute(Route(MAIN, subnet.vswitch, (Hop(link.name),), metric=IPV6_METRIC),
                                    PROTOCOL_KERNEL))
    decision, snapshot = _decide(listing, links, held, routes, config)
    return decision, snapshot._replace(links=tuple(link._replace(up=False) for link in links))


def configured(listing: Listing, names: Mapping[str, str], config: Config) -> Outline:
    """For a host whose ENIs a DHCP client configures. Without an interface group, which few files can tell a link.

    And without spreads: a network manager is told to make their routes at a time when not all ENIs are there, is
    refused, and gives up the link (systemd-networkd 252: lo, with everybody's rules; and with IPv6 an ENI's, because a
    gateway that it is told of in two tables it may use in the one that has not got it yet).
    """
    spreads = ["balance on line {}".format(spread.line) for spread in config.spreads]
    config = config._replace(group=0, spreads=())
    links = _links(listing, names)
    metrics = {link.name: config.metric_least + config.metric_step * place for place, link in enumerate(links)}
    held: List[LinkAddress] = []
    routes: List[SeenRoute] = []
    for link, subnet in _subnets(listing, links):
        if subnet.version == 6 and link is not links[0]:
            continue
        held += _leased(link, subnet)
        routes.append(_default(link, subnet, metrics[link.name]))
        if subnet.version == 4:
            routes.append(SeenRoute(Route(MAIN, subnet.vswitch, (Hop(link.name),), metric=metrics[link.name]),
                                    PROTOCOL_KERNEL))
    decision, _ = _decide(listing, links, held, routes, config)
    owners = Owners(decision)
    members = tuple(Member(
        eni, metrics[eni.dev], tuple(_beside(each) for each in decision.addresses if each.dev == eni.dev),
        tuple(each for each in decision.settings if each.dev == eni.dev),
        tuple(each for each in decision.routes if owners.of(each) == eni.dev),
        tuple(each for each in decision.rules if owners.of(each) == eni.dev)) for eni in decision.enis)
    devs = {eni.dev for eni in decision.enis}
    said = headline(decision, names)
    if decision.marked:
        said += ("NOT EXPRESSED, so that connections are not marked: the table of nftables that the format ip has.",)
    said += ("NOT EXPRESSED, so that connections are not spread: {}.".format(", ".join(spreads)),) if spreads else ()
    return Outline(members, tuple(each for each in decision.routes if owners.of(each) not in devs),
                   tuple(each for each in decision.rules if owners.of(each) not in devs), decision, said)


def _beside(held: LinkAddress) -> LinkAddress:
    """Of IPv4 with a subnet of its own: in the vSwitch's, if it came before the one of DHCP, it would bring main a way
    to there of the best metric, and be what is chosen as a source."""
    return held._replace(prefix_length=held.address.max_prefixlen)


def headline(decision: Decision, names: Mapping[str, str]) -> Tuple[str, ...]:
    """The headline of a file: where it comes from, what was assumed, what is left out."""
    said = [ORIGIN]
    guessed = [eni for eni in decision.enis if eni.mac not in names]
    if guessed:
        said.append("Names of links were not known and are assumed: {}.".format(
            ", ".join("{} is {}".format(eni.dev, eni.mac) for eni in guessed)))
    said += ["LEFT OUT: " + member.finding.text for member in decision.unready]
    said += ["PROBLEM: " + problem for problem in decision.problems]
    return tuple(said + ["Remark: " + remark for remark in decision.remarks])


def comments(said: Iterable[str], mark: str = "#", indent: str = "") -> List[str]:
    """Comment lines for each text, in a format whose comments begin with the mark."""
    return [line for each in said for line in textwrap.wrap(
        each, WIDTH, initial_indent=indent + mark + " ", subsequent_indent=indent + mark + "  ",
        break_long_words=False, break_on_hyphens=False)]


def not_expressed(rules: Iterable[Rule], config: Config) -> List[str]:
    """Notes on rules that a format can't express: what happens without them, and which they are."""
    by_consequence: Dict[str, List[str]] = {}
    for rule in rules:
        by_consequence.setdefault(consequence(rule, config), []).append("ip -{} rule {}".format(rule.version, rule))
    return [line for what, which in by_consequence.items()
            for line in ["NOT EXPRESSED, so that {}:".format(what), *which]]


def also_sent(config: Config) -> List[str]:
    """A note for formats in which the rules of access entries come and go with an ENI."""
    if not any(entry.via for entry in config.entries):
        return []
    return ["NOT EXPRESSED: meanwhile what access entries send by the ENI is not refused either: it goes as main says."]


def other_settings(member: Member) -> List[str]:
    """Notes on an ENI's sysctls, which the formats can't express."""
    return ["NOT EXPRESSED: sysctl net.ipv4.conf.{0.dev}.{0.name}={0.value}; it stays as it is.".format(setting)
            for setting in member.settings if setting.name != "mtu"]


def consequence(rule: Rule, config: Config) -> str:
    """The consequence of a missing rule, in words."""
    if rule.priority == config.priority_main:
        return ("routes in main to what is no ENI (Docker, VPN) don't hold for an ENI's own addresses: such packets "
                "leave by the ENI")
    if rule.priority == config.priority_without_ifgroup:
        return "what is more specific in main than an ENI's own routes comes first"
    if rule.oif:
        return "a socket that is bound to {} and has no source is routed by main".format(rule.oif)
    if rule.action == "unreachable" and rule.priority == config.priority_fence:
        return "while a link is down, packets from its IPv6 addresses leave by another ENI, and the cloud drops them"
    return "what the configuration asks for is not in force"


class Owners:
    """Finds the device of the ENI to which a route or rule belongs; "": to none."""

    def __init__(self, decision: Decision) -> None:
        self._tables = {family.table: family.dev for family in decision.families}
        self._sources: Dict[Network, str] = {
            source: family.dev for family in decision.families for source in family.sources}

    def of(self, item: Union[Route, Rule]) -> str:
        if item.table in self._tables:
            return self._tables[item.table]
        if isinstance(item, Route):
            return item.hops[0].dev if len(item.hops) == 1 else ""
        return item.oif or (self._sources.get(item.src, "") if item.src is not None else "")


def _links(listing: Listing, names: Mapping[str, str]) -> List[Link]:
    """The assumed links, the primary first, the others in natural order; an ENI without a known name gets the first
    free one.

    ENIs that are left out have a name, too: no other takes it, nor the table and the metric that go with it.
    """
    listed = {eni.mac: eni.primary for eni in listing.interfaces}
    listed.update((eni.mac, eni.primary) for eni in listing.sick if is_mac(eni.mac))
    taken = set(names.values())
    free = (name for name in map("eth{}".format, range(len(listed) + len(taken))) if name not in taken)
    called = [(names.get(mac) or next(free), mac) for mac in sorted(listed, key=lambda mac: (not listed[mac], mac))]
    called.sort(key=lambda each: (not listed[each[1]], natural(each[0])))
    return [Link(place, name, mac) for place, (name, mac) in enumerate(called, start=1)]


def _subnets(listing: Listing, links: Sequence[Link]) -> List[Tuple[Link, Subnet]]:
    """The subnets of the listed ENIs, each with its ENI's link."""
    by_mac = {eni.mac: eni for eni in listing.interfaces}
    return [(link, subnet) for link in links if link.mac in by_mac for subnet in by_mac[link.mac].subnets]


def _leased(link: Link, subnet: Subnet) -> List[LinkAddress]:
    """The address that DHCP gives to an ENI."""
    return [LinkAddress(link.name, address, subnet.vswitch.prefixlen if subnet.version == 4 else 128, leased=True)
            for address in subnet.addresses[:1]]


def _default(link: Link, subnet: Subnet, metric: int) -> SeenRoute:
    """An ENI's default route, as a DHCP client or a router advertisement makes it."""
    way = (Hop(link.name, subnet.gateway),)
    if subnet.version == 6:
        return SeenRoute(Route(MAIN, EVERYWHERE[6], way, metric=IPV6_METRIC), _BY_ADVERTISEMENT, True)
    return SeenRoute(Route(MAIN, EVERYWHERE[4], way, metric=metric), _BY_DHCP)


def _decide(listing: Listing, links: Sequence[Link], held: Sequence[LinkAddress], routes: Sequence[SeenRoute],
            config: Config) -> Tuple[Decision, Snapshot]:
    """The decision for an assumed host, and that host."""
    snapshot = Snapshot(tuple(links), tuple(held), (), tuple(routes))
    over = frozenset((link.name, version) for link in links for version in (4, 6))
    config = config._replace(container_networks="manage", unattended=False)
    return decide(listing, snapshot, Record(), over, config), snapshot

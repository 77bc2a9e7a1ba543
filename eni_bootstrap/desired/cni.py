"""Which ENIs belong to a container network, by what can be seen on this host. PURE.

Such ENIs carry containers' addresses, and the container network makes routes and rules for them; a second program that
sets them up breaks the containers. Cloud tags say that an ENI is a container network's, but metadata does not show
them. So a secondary is left alone

- when it has children that containers use,
- when the configuration of a container network names it,
- when rules or routes use it that are in the places of a configured container network's own,
- when it has no link here and a container network is configured that moves whole devices.

A configured network alone says nothing: a node may have ENIs beside it. Nor does a child that carries an address of
this host: what containers have is in their own namespaces.
"""

from typing import AbstractSet, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from eni_bootstrap.config.own_rules import owns_rule
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.matching import likely, skip
from eni_bootstrap.desired.tables import Memory
from eni_bootstrap.model.eni import Eni, SkippedEni, UnreadyEni
from eni_bootstrap.model.host import ContainerNetwork
from eni_bootstrap.model.kernel import MAIN, Link, LinkAddress, Network, Rule, SeenRule

CHILDREN = ("ipvlan", "ipvtap", "macvlan", "macvtap")
"""Kinds of links that containers and virtual machines get. A VLAN is the host's own as a rule."""

VIRTUAL_ROUTERS = ("00:00:5e:00:01:", "00:00:5e:00:02:")
"""The MACs of VRRP (RFC 9568): keepalived's macvlan has no address as long as another host is the master."""


class Band(NamedTuple):
    """The priorities and tables of a container network's rules."""

    to_pod: Tuple[int, ...]
    """Priorities of rules to a container, which lead to main."""
    from_pod: Tuple[int, ...]
    """Priorities of rules from a container, which lead to the table of its ENI."""
    tables: Tuple[int, int]
    """First and last of these tables; (0, 0): 1000 and the ENI's interface index."""


# In front of ours, all of them. The vendor's page gives no priority: its rule gets the next one in front of all others,
# which may be one of these by chance, but it leads to table 1001, which is the loopback's in terway's numbering.
BANDS: Dict[str, Band] = {
    "terway": Band((512,), (2048,), (0, 0)),
    "Cilium": Band((20, 109), (110, 111), (10, 252)),
    "AWS VPC CNI": Band((512, 1024), (1535, 1536), (1, 252)),
}

_FIRST_BY_INDEX = 1000
_OVERRIDE = "to have it set up write \"container-networks: manage\" into the configuration"


def leave_contained(
    enis: Sequence[Eni], unready: Sequence[UnreadyEni], links: Sequence[Link], addresses: Sequence[LinkAddress],
    memory: Memory, networks: Sequence[ContainerNetwork],
) -> Tuple[List[Eni], List[UnreadyEni], List[SkippedEni]]:
    """Split off the secondaries that a container network has: the ENIs, the unready ones, those that it has."""
    contained: Dict[str, SkippedEni] = {}  # by MAC
    here = {eni.mac for eni in likely(links)}
    secondaries: List[Union[Eni, UnreadyEni]] = [eni for eni in enis if not eni.primary]
    secondaries += [member for member in unready if not member.primary]
    for eni in secondaries:
        own = skip(eni, "", used=True)
        use = _use(own, eni.mac, links, addresses, memory, networks) if eni.mac in here else _absence(networks)
        if use:
            contained.setdefault(eni.mac, own._replace(reason="because " + use, cure=_OVERRIDE))
    return ([eni for eni in enis if eni.mac not in contained],
            [member for member in unready if member.mac not in contained], list(contained.values()))


def band_tables(links: Sequence[Link], devs: AbstractSet[str], rules: Iterable[SeenRule],
                networks: Sequence[ContainerNetwork], config: Config) -> Set[int]:
    """The tables to read: those in which the configured networks may have routes by these devices."""
    indexes = {link.ifindex for link in links if link.name in devs}
    found = {_FIRST_BY_INDEX + index for index in indexes if any(network.name == "terway" for network in networks)}
    for rule, protocol in rules:
        if not owns_rule(rule, protocol, config) and any(
                _is_of(BANDS.get(network.name), rule, indexes) for network in networks):
            found.add(rule.table)
    return found - {MAIN}


def children(links: Sequence[Link], devs: AbstractSet[str]) -> List[Link]:
    """The links on top of these devices, of the kinds that containers get."""
    indexes = {link.ifindex for link in links if link.name in devs}
    return [link for link in links if link.kind in CHILDREN and link.parent in indexes]


def at_parents(links: Sequence[Link], addresses: Iterable[LinkAddress]) -> List[LinkAddress]:
    """The addresses, with those of a macvlan and the like moved to its parent device: there their packets come in."""
    names = {link.ifindex: link.name for link in links}
    above = {link.name: names[link.parent] for link in links if link.kind in CHILDREN and link.parent in names}
    return [held._replace(dev=above[held.dev]) if held.dev in above else held for held in addresses]


def parents(links: Iterable[Link]) -> Set[int]:
    """Indexes of the devices that carry another link of this namespace, which has no carrier without them."""
    return {link.parent for link in links if link.parent and link.kind != "veth"}


def _use(own: SkippedEni, mac: str, links: Sequence[Link], addresses: Sequence[LinkAddress], memory: Memory,
         networks: Sequence[ContainerNetwork]) -> str:
    """What shows that a container network has this ENI, or ""."""
    indexes = {link.ifindex for link in links if link.name in own.devs}
    for link in children(links, set(own.devs)):
        if not _is_the_hosts(link, own.devs, addresses):
            return "{} is made of it, a {} as containers have".format(link.name, link.kind)
    names = {mac}.union(dev.lower() for dev in own.devs)
    for network in networks:
        if names & network.devices:
            return "{} gives it to containers ({})".format(network.name, network.path)
        trace = _trace(network, own, indexes, memory)
        if trace:
            return "{} ({}) uses it: {}".format(network.name, network.path, trace)
    return ""


def _is_the_hosts(child: Link, devs: Sequence[str], addresses: Sequence[LinkAddress]) -> bool:
    """Whether a child of these devices serves this host itself: a virtual router, or a link with an address of its own.

    An address that another link has too does not count: terway's ``ipvl_3`` carries the primary's, by which containers
    reach the node.
    """
    elsewhere = {held.address for held in addresses if held.dev not in (child.name, *devs)}
    return child.mac.startswith(VIRTUAL_ROUTERS) or any(
        held.dev == child.name and held.address not in elsewhere for held in addresses)


def _trace(network: ContainerNetwork, own: SkippedEni, indexes: Set[int], memory: Memory) -> str:
    """A rule or route of others in the network's places that uses the ENI, as text; or ""."""
    band = BANDS.get(network.name)
    for index in indexes if band is not None and not any(band.tables) else ():
        for route in memory.foreign_routes.get(_FIRST_BY_INDEX + index, ()):
            if route.is_default and set(own.devs).intersection(route.devs()):
                return str(route)
    whole = set(own.sources)
    blocks = [source for source in own.sources if source.prefixlen < source.max_prefixlen]
    for rules in memory.foreign_rules.values():
        for rule in rules:
            if not _is_of(band, rule, indexes):
                continue
            ends = [end for end in (rule.src, rule.match.dst) if end is not None]
            if any(end in whole or any(_inside(end, block) for block in blocks) for end in ends):
                return str(rule)
            if rule.table != MAIN and any(set(own.devs).intersection(route.devs())
                                          for route in memory.foreign_routes.get(rule.table, ())):
                return str(rule)
    return ""


def _is_of(band: Optional[Band], rule: Rule, indexes: Set[int]) -> bool:
    """Whether a rule has a priority and a table as the network's own rules have."""
    if band is None or rule.action != "lookup":
        return False
    if rule.priority in band.from_pod:
        if not any(band.tables):
            return rule.table - _FIRST_BY_INDEX in indexes
        return band.tables[0] <= rule.table <= band.tables[1]
    return rule.priority in band.to_pod and rule.table == MAIN


def _inside(network: Network, block: Network) -> bool:
    return (network.version == block.version and network.prefixlen >= block.prefixlen
            and network.network_address in block)


def _absence(networks: Sequence[ContainerNetwork]) -> str:
    """Why an ENI that metadata lists need not have a link here, or ""."""
    return next(("no link has its MAC, and {} ({}) moves whole ENIs into containers' namespaces".format(
        network.name, network.path) for network in networks if network.takes), "")

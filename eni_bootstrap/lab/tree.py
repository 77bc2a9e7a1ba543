"""A metadata tree as the lab reads it: the ENIs that it tells of, as values.

The agent's own parser has no part in it: what that one misreads must not build a world that agrees with it. It is
strict about what a world is made of, and heeds nothing else of the tree.
"""

import re
from collections import Counter
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from eni_bootstrap.model.kernel import Address, Network

Tree = Dict[str, Any]
"""What is below ``meta-data``: an object is a directory, anything else a leaf."""

_SIGNS = str.maketrans("[]\"',;", "      ")
"""Around the words of a leaf: a list comes as JSON, without its quotes, with commas, or in lines."""
_WORD = re.compile(r"[0-9A-Fa-f.:/]{2,49}\Z")
"""An address or a block of either IP version, and nothing that Python takes for one besides (a zone)."""


class Subnet(NamedTuple):
    """What an ENI has of one IP version."""

    vswitch: Network
    gateway: Address
    addresses: Tuple[Address, ...]
    """In the order of the tree; of IPv4 the primary one first."""
    prefixes: Tuple[Network, ...]

    @property
    def version(self) -> int:
        return self.vswitch.version


class Eni(NamedTuple):
    """An ENI that can be plugged in."""

    mac: str
    """Lower case, with colons."""
    primary: bool
    subnets: Tuple[Subnet, ...]
    """IPv4 first."""


class Instance(NamedTuple):
    """The instance that a metadata tree describes."""

    primary: str
    """The primary ENI's MAC."""
    enis: Tuple[Eni, ...]
    """The primary first, the others in the order of the tree."""
    broken: Dict[str, str]
    """MACs of those that can't be plugged in, or not with both of their IP versions, and why."""


def macs_of(tree: Tree) -> Dict[str, Tree]:
    """MAC → leaves of the ENI, in the order of the tree; the tree's own dict."""
    macs: Dict[str, Tree] = tree["network"]["interfaces"]["macs"]
    return macs


def read(tree: Tree) -> Instance:
    """The tree's instance. Raises ``ValueError`` for what is no tree of an instance."""
    primary = _mac(tree.get("mac"))
    if not primary:
        raise ValueError("mac names no primary ENI")
    try:
        listed = list(macs_of(tree).items())
    except (LookupError, TypeError, AttributeError):
        raise ValueError("network/interfaces/macs is no object") from None
    times = Counter(_mac(key) for key, _ in listed)
    if not times[primary]:
        raise ValueError(f"network/interfaces/macs does not list the primary ENI, {primary}")
    enis: List[Eni] = []
    broken: Dict[str, str] = {}
    for key, leaves in listed:
        mac = _mac(key)
        try:
            if not mac or times[mac] > 1:
                raise ValueError("its MAC is listed twice" if mac else "that is no MAC")
            subnets, reason = _subnets(leaves)
        except ValueError as error:
            subnets, reason = (), str(error)
        if subnets:
            enis.append(Eni(mac, mac == primary, subnets))
        if reason:
            broken[mac or key] = reason
    return Instance(primary, tuple(sorted(enis, key=lambda eni: not eni.primary)), broken)


def _mac(text: Any) -> str:
    """A MAC as the kernel writes it; empty for what is none."""
    if not isinstance(text, str):
        return ""
    parts = re.split("[:-]", text.strip(" \r\n/").lower())
    return ":".join(parts) if len(parts) == 6 and all(re.match("[0-9a-f]{2}$", part) for part in parts) else ""


def _subnets(leaves: Any) -> Tuple[Tuple[Subnet, ...], str]:
    """What can be plugged in, and why the rest can't be: what one IP version lacks costs that one only."""
    if not isinstance(leaves, dict):
        raise ValueError("it is no object")
    found: List[Subnet] = []
    reasons: List[str] = []
    for of_version in (_ipv4, _ipv6):
        try:
            subnet = of_version(leaves)
            found += [_sound(subnet)] if subnet is not None else []
        except ValueError as error:
            reasons.append(str(error))
    if not found and not reasons:
        raise ValueError("private-ipv4s and ipv6s are missing")
    return tuple(found), "; ".join(reasons)


def _sound(subnet: Subnet) -> Subnet:
    if subnet.gateway in subnet.addresses or subnet.gateway.is_multicast or subnet.gateway.is_unspecified:
        raise ValueError(f"its gateway is {subnet.gateway}")
    if subnet.vswitch.prefixlen == 0:
        raise ValueError(f"its vSwitch is {subnet.vswitch}")
    return subnet


def _ipv4(leaves: Tree) -> Optional[Subnet]:
    addresses = _all(IPv4Address, leaves, "primary-ip-address") + _all(IPv4Address, leaves, "private-ipv4s")
    prefixes = _all(_block(IPv4Network), leaves, "ipv4-prefixes")
    if not addresses and not prefixes:
        return None
    if not addresses:
        raise ValueError("primary-ip-address is missing")
    if _words(leaves, "vswitch-cidr-block"):
        vswitch = _one(_block(IPv4Network), leaves, "vswitch-cidr-block")
    else:
        vswitch = _one(lambda mask: IPv4Network(f"{addresses[0]}/{IPv4Address(mask)}", strict=False), leaves, "netmask")
    return Subnet(vswitch, _one(IPv4Address, leaves, "gateway"), tuple(dict.fromkeys(addresses)), tuple(prefixes))


def _ipv6(leaves: Tree) -> Optional[Subnet]:
    """A vSwitch that is not told is the /64 around the first address: an IPv6 vSwitch has that length always."""
    addresses = _all(IPv6Address, leaves, "ipv6s")
    prefixes = _all(_block(IPv6Network), leaves, "ipv6-prefixes")
    if not addresses and not prefixes:
        return None
    if addresses and not _words(leaves, "vswitch-ipv6-cidr-block"):
        vswitch = IPv6Network((int(addresses[0]) >> 64 << 64, 64))
    else:
        vswitch = _one(_block(IPv6Network), leaves, "vswitch-ipv6-cidr-block")
    return Subnet(vswitch, _one(IPv6Address, leaves, "ipv6-gateway"), tuple(dict.fromkeys(addresses)), tuple(prefixes))


# One leaf


def _block(network: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(word: str) -> Any:
        if "/" not in word:
            raise ValueError(word)
        return network(word)
    return parse


def _one(parse: Callable[[str], Any], leaves: Tree, name: str) -> Any:
    found = _all(parse, leaves, name)
    if len(found) != 1:
        raise ValueError(f"{name} is missing" if not found else f"{name} has {len(found)} values")
    return found[0]


def _all(parse: Callable[[str], Any], leaves: Tree, name: str) -> List[Any]:
    found = []
    for word in _words(leaves, name):
        try:
            found.append(parse(word))
        except ValueError:
            raise ValueError(f"{name} has {word}") from None
    return found


def _words(leaves: Tree, name: str) -> List[str]:
    """The words of a leaf; none where it is missing or empty."""
    leaf = leaves.get(name)
    texts = leaf if isinstance(leaf, list) else [] if leaf is None else [leaf]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} is neither text nor a list of texts")
    words: List[str] = " ".join(texts).translate(_SIGNS).split()
    for word in words:
        if not _WORD.match(word):
            raise ValueError(f"{name} has {word[:80]!a}")
    return words

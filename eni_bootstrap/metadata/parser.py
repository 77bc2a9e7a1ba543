"""The parser of the metadata service's ``meta-data`` tree: tree -> ``Listing``.

It is pure, and the only place that knows the keys of the metadata service and their spellings. A wrong description of
one ENI makes only that ENI sick, and of one address family only that family. An answer that contradicts itself raises
``NotReady``; nothing else is ever raised.
"""

import contextlib
import re
from collections import Counter
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from eni_bootstrap.model.eni import Listing, NetworkInterface, SickInterface, Subnet
from eni_bootstrap.model.errors import NotReady
from eni_bootstrap.model.kernel import Address, Network


class _Names(NamedTuple):
    """The names of one address family's leaves."""

    version: int
    primary: Optional[str]
    addresses: str
    prefixes: str
    vswitch: str
    gateway: str
    vpc: str


_IPV4 = _Names(
    4, "primary-ip-address", "private-ipv4s", "ipv4-prefixes", "vswitch-cidr-block", "gateway", "vpc-cidr-block"
)
_IPV6 = _Names(
    6, None, "ipv6s", "ipv6-prefixes", "vswitch-ipv6-cidr-block", "ipv6-gateway", "vpc-ipv6-cidr-blocks"
)
_ENI_ID = "network-interface-id"
_NETMASK = "netmask"
VSWITCH_ID = "vswitch-id"
"""Needed only where a configuration names ENIs by it."""

LEAVES = frozenset(name for name in (_ENI_ID, _NETMASK) + _IPV4[1:] + _IPV6[1:] if name)
"""All other leaves of an ENI that are read here: the client fetches these where it must ask leaf by leaf."""

_LISTS = frozenset((_IPV4.addresses, _IPV4.prefixes, _IPV6.addresses, _IPV6.prefixes))
"""Leaves that an ENI may lack: it has fewer addresses then, and nothing else is wrong with it."""

_NOT_THERE = "(listed and not there)"
"""Stands for the text of a list that is named and has none."""

_SEPARATORS = re.compile(r"[\s,;\[\]\"']+")
"""Lists come as JSON, as ``[a, b]`` without quotes, bare, or in lines with CRLF; no address contains any of these."""

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}\Z")

_IPV6_VSWITCH_LENGTH = 64
"""An IPv6 vSwitch is always a /64."""


class _Sick(Exception):
    """This ENI can't be used."""

    def __init__(self, reason: str, transient: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.transient = transient


def parse_interfaces(tree: Any) -> Listing:
    """All ENIs of one answer, the primary first, the others by MAC: the order of the answer means nothing.

    Raises ``NotReady`` where the answer names no primary ENI, or does not list it.
    """
    primary = _mac(_get(tree, "mac"))
    macs = _get(_get(_get(tree, "network"), "interfaces"), "macs")
    if primary is None:
        raise NotReady(f"the metadata service names no primary ENI: mac is {_quote(_get(tree, 'mac'))}")
    if not isinstance(macs, dict) or not macs:
        raise NotReady("the metadata service lists no ENI under network/interfaces/macs")
    listed = Counter(map(_mac, macs))
    if primary not in listed:
        raise NotReady(f"the metadata service does not list the primary ENI, mac {primary}")

    interfaces: List[NetworkInterface] = []
    sick: List[SickInterface] = []
    for key in sorted(macs, key=lambda key: (_mac(key) != primary, _mac(key) or "", str(key))):
        mac = _mac(key)
        leaves = macs[key] if isinstance(macs[key], dict) else {}
        whole = SickInterface(_word(leaves, _ENI_ID), mac or _quote(key), mac == primary, "", False,
                              vswitch_id=_word(leaves, VSWITCH_ID))
        if mac is None or listed[mac] > 1:
            sick.append(whole._replace(reason="its MAC is listed twice" if mac else f"its MAC is {_quote(key)}"))
            continue
        subnets, errors = _subnets(leaves)
        sick += [whole._replace(reason=error.reason, transient=error.transient, version=version if subnets else 0,
                                vswitches=_told_vswitches(leaves, [version] if subnets else [4, 6]))
                 for version, error in errors[:None if subnets else 1]]
        if subnets:
            interfaces.append(NetworkInterface(whole.eni_id, mac, whole.primary, subnets, whole.vswitch_id))
    return Listing(tuple(interfaces), tuple(sick))


def leaves_told(answers: Dict[str, Optional[str]]) -> Dict[str, str]:
    """An ENI's leaves, from the answers to all that its own listing names (None: 404); empty ones are left out.

    A list that is named and not there is changing at present: the ENI is sick. An empty list is empty: nobody knows
    whether the service answers so for what an ENI has none of. But the list of IPv4 addresses holds the primary address
    and can't be empty.
    """
    leaves = {leaf: text for leaf, text in answers.items() if text}
    for leaf in _LISTS.intersection(answers):
        if answers[leaf] is None or leaf == _IPV4.addresses and leaf not in leaves and _IPV4.primary in leaves:
            leaves[leaf] = _NOT_THERE
    return leaves


def essence(tree: Dict[str, Any]) -> Dict[str, Any]:
    """The part of a tree that is read here, without the credentials, keys and tags that it may hold as well."""
    macs = {mac: {name: leaf for name, leaf in leaves.items() if name in LEAVES or name == VSWITCH_ID}
            if isinstance(leaves, dict) else {} for mac, leaves in tree["network"]["interfaces"]["macs"].items()}
    return {"mac": tree["mac"], "network": {"interfaces": {"macs": macs}}}


def is_mac(text: str) -> bool:
    """Whether the text that names an ENI is a MAC; other texts are quoted as they came."""
    return bool(_MAC.match(text))


def _subnets(leaves: Dict[Any, Any]) -> Tuple[Tuple[Subnet, ...], List[Tuple[int, _Sick]]]:
    """The subnets of an ENI, IPv4 first, and (IP version, error) of the families that can't be used.

    An error of one family costs the other one nothing.
    """
    subnets: List[Subnet] = []
    errors: List[Tuple[int, _Sick]] = []
    for names in (_IPV4, _IPV6):
        try:
            subnet = _subnet(leaves, names)
            subnets += [subnet] if subnet else []
        except _Sick as error:
            errors.append((names.version, error))
    if not subnets and not errors:
        errors.append((0, _missing(_IPV4.addresses, _IPV6.addresses)))
    return tuple(subnets), errors


def _subnet(leaves: Dict[Any, Any], names: _Names) -> Optional[Subnet]:
    """The ENI's subnet of one family; None where it has no address and no prefix of that family."""
    primary = _one(leaves, names.primary) if names.primary else None
    first = [_address(names.primary or "", primary, names.version)] if primary else []
    listed = {_address(names.addresses, token, names.version) for token in _tokens(leaves, names.addresses)}
    addresses = tuple(first) + tuple(sorted(listed.difference(first)))
    prefixes = _networks(leaves, names.prefixes, names.version)
    if not addresses and not prefixes:
        return None
    if names.primary and not addresses:
        raise _missing(names.primary)
    gateway = _gateway(leaves, names)
    if gateway in addresses:
        raise _Sick(f"{names.gateway} is {gateway}, an address of the ENI itself")
    vswitch = _vswitch(leaves, names, addresses)
    return Subnet(vswitch, gateway, addresses, prefixes, _networks(leaves, names.vpc, names.version))


def _gateway(leaves: Dict[Any, Any], names: _Names) -> Address:
    """The gateway, which need not lie in the vSwitch."""
    token = _one(leaves, names.gateway)
    if not token:
        raise _missing(names.gateway)
    gateway = _address(names.gateway, token, names.version)
    if _is_nowhere(gateway):
        raise _garbage(names.gateway, token)
    return gateway


def _vswitch(leaves: Dict[Any, Any], names: _Names, addresses: Tuple[Address, ...]) -> Network:
    token = _one(leaves, names.vswitch)
    if token:
        return _network(names.vswitch, token, names.version)
    if names.version == 4:
        netmask = _one(leaves, _NETMASK)
        if netmask:
            return _network(_NETMASK, f"{addresses[0]}/{netmask}", 4)
    elif addresses and not _is_nowhere(addresses[0]) and not addresses[0].is_link_local:
        return _network(names.vswitch, f"{addresses[0]}/{_IPV6_VSWITCH_LENGTH}", 6)
    raise _missing(names.vswitch)


def _told_vswitches(leaves: Dict[Any, Any], versions: Iterable[int]) -> Tuple[Network, ...]:
    """The vSwitch's blocks of families that can't be used: what others send there does not depend on their health."""
    found: List[Network] = []
    for names in (_IPV4, _IPV6):
        with contextlib.suppress(_Sick):
            found += _networks(leaves, names.vswitch, names.version) if names.version in versions else ()
    return tuple(found)


# -- one leaf --


def _get(node: Any, name: str) -> Any:
    return node.get(name) if isinstance(node, dict) else None


def _tokens(leaves: Dict[Any, Any], leaf: str) -> List[str]:
    value = leaves.get(leaf)
    if value is None:
        return []
    if value == _NOT_THERE:
        raise _Sick(f"{leaf} is listed and not there: the ENI is being attached or detached", transient=True)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)  # a real JSON list instead of a text that holds one
    if not isinstance(value, str):
        raise _garbage(leaf, value)
    return [token for token in _SEPARATORS.split(value) if token]


def _one(leaves: Dict[Any, Any], leaf: str) -> Optional[str]:
    tokens = _tokens(leaves, leaf)
    if len(tokens) > 1:
        raise _garbage(leaf, leaves[leaf])
    return tokens[0] if tokens else None


def _address(leaf: str, token: str, version: int) -> Address:
    try:
        address = ip_address(token)
    except ValueError:
        raise _garbage(leaf, token) from None
    if address.version != version or _is_odd(token, address):
        raise _garbage(leaf, token)
    return address


def _networks(leaves: Dict[Any, Any], leaf: str, version: int) -> Tuple[Network, ...]:
    networks = {_network(leaf, token, version) for token in _tokens(leaves, leaf)}
    return tuple(sorted(networks))


def _network(leaf: str, token: str, version: int) -> Network:
    """A CIDR block, host bits allowed; /0 is no subnet of anybody and would catch everything."""
    try:
        network: Network = ip_network(token, strict=False)
    except ValueError:
        raise _garbage(leaf, token) from None
    if "/" not in token or network.prefixlen == 0:
        raise _garbage(leaf, token)
    if network.version != version or _is_odd(token, network.network_address):
        raise _garbage(leaf, token)
    return network


def _is_odd(token: str, address: Address) -> bool:
    """Whether an address has a zone (``%eth0``; Python 3.9 and newer parse it) or is an IPv4-mapped one, which can't be
    routed."""
    return "%" in token or (isinstance(address, IPv6Address) and address.ipv4_mapped is not None)


def _is_nowhere(address: Address) -> bool:
    """Whether no packet can be sent to this address through a link."""
    return address.is_unspecified or address.is_loopback or address.is_multicast


def _mac(key: Any) -> Optional[str]:
    """The MAC address in lower case with colons; None where it isn't one."""
    if not isinstance(key, str):
        return None
    mac = key.strip().rstrip("/").lower().replace("-", ":")
    return mac if _MAC.match(mac) else None


def _word(leaves: Dict[Any, Any], leaf: str) -> str:
    """A leaf that is only shown, or by which an ENI is named; anything but a plain word becomes "", and the ENI is not
    sick because of it."""
    value = leaves.get(leaf)
    return value.strip() if isinstance(value, str) and re.match(r"[\w.-]{1,64}\Z", value.strip()) else ""


def _missing(*leaves: str) -> _Sick:
    verb = "is" if len(leaves) == 1 else "are"
    return _Sick(f"{' and '.join(leaves)} {verb} missing: the ENI is being attached or detached", transient=True)


def _garbage(leaf: str, value: Any) -> _Sick:
    return _Sick(f"{leaf} is {_quote(value)}")


def _quote(value: Any) -> str:
    """A value for a message; at most a line of it, or an error page in the place of an address fills the journal."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 80 else repr(value[:80]) + "..."
    return "missing" if value is None else f"no text but {type(value).__name__}"

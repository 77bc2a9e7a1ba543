"""Changes to links, addresses and routes as messages to the kernel, by pyroute2's message codecs; rules by our own.

This is the only file that imports pyroute2, and a run that changes nothing does not import it. The message codecs are
the same on both lines that we support (0.7 on old Pythons, 0.9), while pyroute2's sockets differ in what they filter
and in the cost of a call. Formats: linux/rtnetlink.h; kernel 4.17 or newer.
"""

import importlib
import importlib.util
import sys
import types
from functools import lru_cache
from typing import Any, Dict, List, Mapping, Tuple

from eni_bootstrap.kernel import link_codec, rule_codec
from eni_bootstrap.kernel.attributes import attribute
from eni_bootstrap.kernel.route_codec import OPTIONS, TYPES
from eni_bootstrap.kernel.rule_codec import FAMILY
from eni_bootstrap.kernel.socket import HEADER, Message
from eni_bootstrap.model.changes import Change
from eni_bootstrap.model.kernel import Hop, LinkAddress, LinkGroup, LinkSetting, LinkUp, Route

_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400  # linux/netlink.h
_NEWLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE, _NEWRULE, _DELRULE = 16, 20, 21, 24, 25, 32, 33
_TYPE_NUMBERS = {name: number for number, name in TYPES.items()}
_OPTION_NAMES = {name: "RTAX_" + name.upper() for name in OPTIONS.values()}
_ONLINK = 4  # RTNH_F_ONLINK
_SCOPE_LINK, _SCOPE_HOST = 253, 254
_IFF_UP = 1
_NODAD = 2  # IFA_F_NODAD: the cloud gives an address to one ENI only, and a vSwitch has no multicast to ask by


def pack(change: Change, indexes: Mapping[str, int]) -> Message:
    """The message that makes a change. ``indexes``: link -> index."""
    item, away = change.item, change.verb == "remove"
    if isinstance(item, LinkGroup):
        return Message(_NEWLINK, 0, _encode("ifinfmsg", {"index": indexes[item.dev]}, [("IFLA_GROUP", item.group)]))
    if isinstance(item, LinkSetting):
        return Message(_NEWLINK, 0, _encode("ifinfmsg", {"index": indexes[item.dev]}, [("IFLA_MTU", item.value)]))
    if isinstance(item, LinkUp):
        fields = {"index": indexes[item.dev], "flags": 0 if away else _IFF_UP, "change": _IFF_UP}
        return Message(_NEWLINK, 0, _encode("ifinfmsg", fields, []))
    flags = 0 if away else _CREATE | (_REPLACE if change.verb == "replace" else _EXCL)
    if isinstance(item, LinkAddress):
        return Message(_DELADDR if away else _NEWADDR, flags, _address_body(item, change, indexes))
    if isinstance(item, Route):
        return Message(_DELROUTE if away else _NEWROUTE, flags, _route_body(item, change.protocol, indexes))
    return Message(_DELRULE if away else _NEWRULE, flags, rule_codec.pack(item, change.protocol))


def _address_body(held: LinkAddress, change: Change, indexes: Mapping[str, int]) -> bytes:
    away = change.verb == "remove"
    fields = {"family": FAMILY[held.address.version], "prefixlen": held.prefix_length, "index": indexes[held.dev]}
    found: List[Tuple[str, Any]] = [
        ("IFA_LOCAL", str(held.address)), ("IFA_ADDRESS", str(held.address)), ("IFA_FLAGS", _NODAD)]
    if not away and held.address.version == 6:
        preferred = 0 if held.deprecated else link_codec.FOR_EVER
        found.append(("IFA_CACHEINFO", {"ifa_preferred": preferred, "ifa_valid": link_codec.FOR_EVER}))
    body = _encode("ifaddrmsg", fields, found)
    # A kernel before 5.18 and pyroute2 0.7 don't know IFA_PROTO.
    return body if away else body + attribute(link_codec.ADDRESS_PROTOCOL, bytes([change.protocol]))


def _route_body(route: Route, protocol: int, indexes: Mapping[str, int]) -> bytes:
    fields = {"family": FAMILY[route.version], "dst_len": route.dst.prefixlen, "proto": protocol,
              "type": _TYPE_NUMBERS[route.kind], "tos": route.tos,
              "scope": _scope(route), "flags": _ONLINK if route.onlink and len(route.hops) == 1 else 0}
    found: List[Tuple[str, Any]] = [("RTA_TABLE", route.table)]
    if route.dst.prefixlen:
        found.append(("RTA_DST", str(route.dst.network_address)))
    if route.metric:
        found.append(("RTA_PRIORITY", route.metric))
    if len(route.hops) == 1:
        found.append(("RTA_OIF", indexes[route.hops[0].dev]))
        found += _via(route.hops[0], route.version)
    elif route.hops:
        found.append(("RTA_MULTIPATH", [
            {"oif": indexes[hop.dev], "hops": hop.weight - 1,
             "flags": _ONLINK if route.onlink and hop.gateway is not None else 0,
             "attrs": _via(hop, route.version)} for hop in route.hops]))
    if route.prefsrc is not None:
        found.append(("RTA_PREFSRC", str(route.prefsrc)))
    if route.options:
        found.append(("RTA_METRICS", {"attrs": [(_OPTION_NAMES[name], value) for name, value in route.options]}))
    return _encode("rtmsg", fields, found)


def _scope(route: Route) -> int:
    """The route's scope: how far away the destination is; IPv6 has none."""
    if route.version == 6:
        return 0
    if route.kind == "local":
        return _SCOPE_HOST
    return _SCOPE_LINK if route.hops and not route.onlink else 0


def _via(hop: Hop, version: int) -> List[Tuple[str, Any]]:
    if hop.gateway is None:
        return []
    if hop.gateway.version == version:
        return [("RTA_GATEWAY", str(hop.gateway))]
    return [("RTA_VIA", {"family": FAMILY[hop.gateway.version], "addr": str(hop.gateway)})]


def _encode(name: str, fields: Dict[str, Any], attributes: List[Tuple[str, Any]]) -> bytes:
    """Encode a message's body with one of pyroute2's codecs."""
    message = _codec(name)()
    for field, value in fields.items():
        message[field] = value
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[HEADER.size:])


@lru_cache(maxsize=None)
def _codec(name: str) -> Any:
    """pyroute2's codec of a message of rtnetlink."""
    return getattr(_module("pyroute2.netlink.rtnl." + name), name)


def _module(path: str) -> Any:
    """One module of pyroute2, without its package's own: that imports databases, asyncio and more, of which nothing is
    called and which is half of a boot.

    The package's name stands for an empty module meanwhile. Where a module wants more of it, all is imported.
    """
    if "pyroute2" not in sys.modules:
        spec = importlib.util.find_spec("pyroute2")
        if spec is not None and spec.submodule_search_locations:
            before = set(sys.modules)
            bare = types.ModuleType("pyroute2")
            bare.__path__ = list(spec.submodule_search_locations)
            sys.modules["pyroute2"] = bare
            try:
                return importlib.import_module(path)
            except (ImportError, AttributeError):
                for name in set(sys.modules) - before:
                    if name.startswith("pyroute2."):
                        del sys.modules[name]
            finally:
                del sys.modules["pyroute2"]  # whoever imports the package finds it whole
    return importlib.import_module(path)

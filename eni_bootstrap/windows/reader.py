"""What the scripts have printed, as values. PURE.

Strict: what is not as Microsoft documents it raises ``BootstrapError``. Where the documentation allows for two forms,
both are read: ConvertTo-Json may make of a list with one member the member, of an empty one null; an enumeration is a
number or its name, which is never translated.
"""

import json
import re
from ipaddress import ip_address, ip_network
from typing import Any, Dict, List, NamedTuple, Optional

from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.model.kernel import Address, LinkAddress
from eni_bootstrap.windows.model import Adapter, Folder, Interface, Snapshot, WindowsRoute
from eni_bootstrap.windows.scripts import OLDEST

_TRUSTED = ("S-1-5-18", "S-1-5-32-544")
"""The system and its administrators (well-known SIDs), who own what they create."""

_FAMILIES = {2: 4, "IPv4": 4, 23: 6, "IPv6": 6}
_ADMIN_STATUS = {1: True, "Up": True, 2: False, "Down": False, 3: False, "Testing": False}
"""MSFT_NetAdapter.InterfaceAdminStatus: of RFC 2863."""
_SWITCH = {0: False, "Disabled": False, 1: True, "Enabled": True}
_STATES = {0: "Invalid", 1: "Tentative", 2: "Duplicate", 3: "Deprecated", 4: "Preferred"}
_UNUSABLE = ("Invalid", "Tentative", "Duplicate")
"""Windows does not send from these; a tentative one may be preferred in some seconds."""


class Answer(NamedTuple):
    """By which interface and gateway a packet would go, or why by none."""

    ifindex: int = 0
    gateway: Optional[Address] = None
    """None: on-link."""
    error: str = ""


def value(text: str) -> Any:
    """The JSON that a script printed; raises ``BootstrapError`` for its error, or when it is none."""
    try:
        found = json.loads(text.lstrip("\ufeff"))
    except ValueError:
        said = " ".join(text.split())[:200]
        raise BootstrapError("PowerShell has answered what is not JSON: {}".format(said or "nothing")) from None
    if isinstance(found, dict) and set(found) == {"error", "id"}:
        if "CommandNotFoundException" in str(found["id"]):
            raise BootstrapError("this Windows lacks the cmdlets for routes: it takes {} or newer ({})".format(
                OLDEST, found["error"]))
        raise BootstrapError("PowerShell says: {}".format(found["error"]))
    return found


def snapshot(text: str) -> Snapshot:
    """The snapshot that the reading script printed."""
    return snapshot_of(value(text))


def snapshot_of(found: Any) -> Snapshot:
    """The snapshot out of parsed JSON."""
    try:
        adapters = tuple(_adapter(row) for row in _rows(found["adapters"]))
        names = {adapter.ifindex: adapter.name for adapter in adapters}
        held = [_address(row, names) for row in _rows(found["addresses"])]
        return Snapshot(
            _flag(found["elevated"]),
            Folder(found["owner"] in _TRUSTED, _flag(found["closed"]), found["config_owner"] in _TRUSTED),
            int(found["boot"]), adapters,
            tuple(Interface(int(row["InterfaceIndex"]), _one_of(_FAMILIES, row["AddressFamily"]),
                            int(row["InterfaceMetric"]), bool(_one_of(_SWITCH, row["WeakHostSend"])))
                  for row in _rows(found["interfaces"])),
            tuple(each for each in held if each is not None),
            tuple(_route(row) for row in _rows(found["active"])),
            tuple(_route(row) for row in _rows(found["persistent"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BootstrapError("what PowerShell tells of this host can't be understood ({}: {})".format(
            type(error).__name__, error)) from error


def errors(text: str, count: int) -> List[str]:
    """The results of so many changes: empty, or the error."""
    found = _list(value(text))
    if len(found) != count or not all(isinstance(each, str) for each in found):
        raise BootstrapError("PowerShell has answered to {} changes: {}".format(count, text[:200]))
    return [" ".join(each.split()) for each in found]


def answers(text: str, count: int) -> List[Answer]:
    """Windows' answers to so many questions."""
    found = _list(value(text))
    try:
        made = [_answer(row) for row in found]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BootstrapError("what PowerShell tells of a route can't be understood ({})".format(error)) from error
    if len(made) != count:
        raise BootstrapError("PowerShell has answered to {} of {} questions".format(len(made), count))
    return made


def _answer(row: Any) -> Answer:
    if "error" in row:
        return Answer(error=" ".join(str(row["error"]).split()) or "no route")
    gateway = _ip(row["gateway"])
    return Answer(int(row["index"]), None if gateway.is_unspecified else gateway)


def _adapter(row: Any) -> Adapter:
    addresses = [row["PermanentAddress"]] + _list(row.get("NetworkAddresses"))
    mac = next((_mac(each) for each in addresses if each), "")
    return Adapter(int(row["InterfaceIndex"]), str(row["Name"]), mac, str(row["InterfaceGuid"] or "").lower(),
                   bool(_one_of(_ADMIN_STATUS, row["InterfaceAdminStatus"])))


def _mac(text: str) -> str:
    """A MAC out of 00-16-3E-0E-00-01, 00163E0E0001 or 00:16:3e:0e:00:01; empty for what is no Ethernet address."""
    digits = re.sub(r"[-:.]", "", text).lower()
    if not re.match(r"[0-9a-f]*$", digits):
        raise ValueError("{!r} is no hardware address".format(text))
    return ":".join(digits[place:place + 2] for place in range(0, 12, 2)) if len(digits) == 12 else ""


def _address(row: Any, names: Dict[int, str]) -> Optional[LinkAddress]:
    """Nothing where it is of no use: of the loopback, link-local, or somebody else has it, too, or may have."""
    address = _ip(row["IPAddress"])
    dev = names.get(int(row["InterfaceIndex"]))
    state = row["AddressState"]
    state = _STATES[state] if isinstance(state, int) else state
    if state not in _STATES.values():
        raise ValueError("{!r} is no state of an address".format(state))
    if dev is None or address.is_link_local or state in _UNUSABLE:
        return None
    return LinkAddress(dev, address, int(row["PrefixLength"]), deprecated=state == "Deprecated")


def _route(row: Any) -> WindowsRoute:
    return WindowsRoute(ip_network(row["DestinationPrefix"]), int(row["InterfaceIndex"]), _ip(row["NextHop"]),
                        int(row["RouteMetric"]))


def _ip(text: str) -> Address:
    """An IP address without the zone that link-local addresses may have."""
    return ip_address(text.split("%")[0])


def _rows(found: Any) -> List[Any]:
    rows = _list(found)
    if not all(isinstance(row, dict) for row in rows):
        raise TypeError("a row is no object")
    return rows


def _list(found: Any) -> List[Any]:
    if found is None:
        return []
    if isinstance(found, dict) and set(found) == {"value", "Count"}:
        return _list(found["value"])  # what PowerShell 5.1 makes of a list that has been through a pipe
    return found if isinstance(found, list) else [found]


def _one_of(known: Dict[Any, Any], found: Any) -> Any:
    """A Boolean would be found as a number."""
    if isinstance(found, bool) or found not in known:
        raise ValueError("{!r} is none of {}".format(found, ", ".join(map(str, known))))
    return known[found]


def _flag(found: Any) -> bool:
    if not isinstance(found, bool):
        raise TypeError("{!r} is neither true nor false".format(found))
    return found

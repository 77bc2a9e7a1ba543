"""What Windows holds, as far as the decision looks at it; no I/O, standard library only.

Everything is named by the interface's index, which Windows itself uses in its routes. An index is not for ever: Windows
may give another one at each boot, so that across boots an adapter is known by its GUID. PURE.
"""

from typing import Dict, NamedTuple, Optional, Tuple

from eni_bootstrap.model.kernel import MAIN, Address, Hop, LinkAddress, Network, Route

WORST_METRIC = 9999
"""The largest route metric that ``route`` and ``netsh`` take, and what people know as the largest one."""

GATEWAY_METRIC = 256
"""What Windows makes of a route metric that nobody has chosen: a gateway typed by hand, New-NetRoute's default."""


class Adapter(NamedTuple):
    """A network adapter, enabled or not; one that was taken out is none."""

    ifindex: int
    name: str
    mac: str
    """The permanent address, lower case, colon separated; empty where it has none."""
    guid: str
    """Lower case, in braces. As long as the adapter is installed, whatever its name and its index."""
    enabled: bool


class Interface(NamedTuple):
    """One IP version on an adapter; where it is unbound there is none."""

    ifindex: int
    version: int
    metric: int
    """Is added to the metric of each route."""
    weak_send: bool
    """Its packets may be sent by another interface."""


class WindowsRoute(NamedTuple):
    """A route in one of the two stores."""

    dst: Network
    ifindex: int
    gateway: Address
    """0.0.0.0 or :: for on-link."""
    metric: int
    """Its own; the interface's is added."""

    @property
    def version(self) -> int:
        return self.dst.version

    @property
    def key(self) -> Tuple[Network, int, Address]:
        """The route's identity for Windows: two routes with one key can't both be in a store."""
        return self.dst, self.ifindex, self.gateway

    def on(self, dev: str) -> Route:
        """This route as the model's ``Route``, on the device with this name."""
        return Route(MAIN, self.dst, (Hop(dev, self.gateway),), metric=self.metric)


class Recorded(NamedTuple):
    """A route that we made, or are about to, and for whom."""

    mac: str
    guid: str
    route: WindowsRoute


class Folder(NamedTuple):
    """Who owns the folder of the record and the configuration."""

    trusted: bool
    """It belongs to the system or its administrators."""
    closed: bool
    """Nobody else may put anything in."""
    config_trusted: bool
    """The configuration file belongs to the system or its administrators."""


class Snapshot(NamedTuple):
    """All of Windows' state that the decision looks at: of the routes only the default ones."""

    elevated: bool
    """The process has an administrator's rights."""
    folder: Folder
    boot: int
    """Seconds since 1970 at which Windows was started; moves a little when the clock is set."""
    adapters: Tuple[Adapter, ...]
    interfaces: Tuple[Interface, ...]
    addresses: Tuple[LinkAddress, ...]
    """``dev`` is the adapter's name. Without link-local ones, which Windows invents (169.254.0.0/16) or has anyway."""
    active: Tuple[WindowsRoute, ...]
    """In force now."""
    persistent: Tuple[WindowsRoute, ...]
    """In force after each boot; also those of adapters that are disabled or gone."""

    @property
    def metrics(self) -> Dict[Tuple[int, int], int]:
        """The metric of each interface, by index and IP version."""
        return {(each.ifindex, each.version): each.metric for each in self.interfaces}

    def effective(self, route: WindowsRoute) -> int:
        """The metric that Windows compares: the smaller one wins."""
        return route.metric + self.metrics.get((route.ifindex, route.version), 0)

    def index_of(self, guid: str) -> Optional[int]:
        """The present index of the adapter with this GUID; none where it is not there."""
        return next((each.ifindex for each in self.adapters if each.guid == guid), None)

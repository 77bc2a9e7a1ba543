"""Container networks and boot scripts of this host, as values."""

from typing import FrozenSet, NamedTuple, Tuple


class ContainerNetwork(NamedTuple):
    """A container network as its configuration describes it."""

    name: str
    """``terway``, ``Cilium``, ``AWS VPC CNI``, or the type of another plug-in."""
    path: str
    """The configuration file."""
    takes: bool = False
    """Whether it moves whole devices into containers' network namespaces."""
    devices: FrozenSet[str] = frozenset()
    """Names and MACs of devices that the configuration gives to containers, lower case."""


class Script(NamedTuple):
    """A boot script."""

    path: str
    lines: Tuple[str, ...]


class Line(NamedTuple):
    """A line of a boot script that is not needed any more."""

    path: str
    number: int
    text: str
    devs: FrozenSet[str] = frozenset()
    """The devices of the ENIs that the line sets up."""

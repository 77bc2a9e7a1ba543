"""What other programs and people have left on this host: container networks, boot scripts. Values only."""

from typing import FrozenSet, NamedTuple, Tuple


class ContainerNetwork(NamedTuple):
    """A container network as its configuration describes it."""

    name: str
    """``terway``, ``Cilium``, ``AWS VPC CNI``, or the type of another plug-in."""
    path: str
    """The file that says so."""
    takes: bool = False
    """It moves whole devices into containers' network namespaces."""
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
    """The devices of the ENIs that it is for."""

"""ENIs: as the metadata service lists them, and joined with their links. Values only."""

from typing import NamedTuple, Tuple

from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import Address, Hop, Link, Network, network_of


class Subnet(NamedTuple):
    """What one ENI has of one address family."""

    vswitch: Network
    """The vSwitch's CIDR block: the ENI's subnet."""
    gateway: Address
    """The vSwitch's gateway, as the metadata service tells it (never derived)."""
    addresses: Tuple[Address, ...]
    """Private addresses; the ENI's primary address is the first."""
    prefixes: Tuple[Network, ...] = ()
    """Delegated prefixes (IPv4 /28, IPv6 /80)."""
    vpc: Tuple[Network, ...] = ()
    """The VPC's CIDR blocks as far as the metadata service tells them."""

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.vswitch.version

    @property
    def sources(self) -> Tuple[Network, ...]:
        """What the ENI's packets come from, as far as metadata says: its addresses, then its delegated prefixes."""
        return tuple(map(network_of, self.addresses)) + self.prefixes


class NetworkInterface(NamedTuple):
    """An ENI as the metadata service describes it, complete and syntactically sound."""

    eni_id: str
    mac: str
    """Lower case, colon separated."""
    primary: bool
    subnets: Tuple[Subnet, ...]
    """One per address family that the ENI has, IPv4 first."""
    vswitch_id: str = ""
    """Empty where it is not asked for, or not told."""


class SickInterface(NamedTuple):
    """An ENI that the metadata service lists but that can't be used as it is described."""

    eni_id: str
    """Empty when the service does not tell it."""
    mac: str
    primary: bool
    reason: str
    """What is wrong, in words for an operator."""
    transient: bool
    """True when it may become whole by itself (a leaf is missing: attaching or detaching), so waiting makes sense."""
    version: int = 0
    """The one address family that can't be used, 4 or 6; 0: the whole ENI."""
    vswitch_id: str = ""
    vswitches: Tuple[Network, ...] = ()
    """The vSwitch's CIDR blocks of the families that can't be used, as far as they are told all the same."""


class Listing(NamedTuple):
    """One complete answer of the metadata service: every MAC that it lists is in one of the two, or, where one of its
    two address families can't be used, in both."""

    interfaces: Tuple[NetworkInterface, ...]
    sick: Tuple[SickInterface, ...]


class Eni(NamedTuple):
    """An ENI that can be set up."""

    interface: NetworkInterface
    link: Link
    dev: str
    """The device that carries its addresses and routes: the link itself, or the master that it is a port of."""

    @property
    def primary(self) -> bool:
        return self.interface.primary

    @property
    def mac(self) -> str:
        return self.interface.mac

    @property
    def subnets(self) -> Tuple[Subnet, ...]:
        return self.interface.subnets

    @property
    def devs(self) -> Tuple[str, ...]:
        """All devices that are its own."""
        return (self.dev,) if self.dev == self.link.name else (self.dev, self.link.name)

    @property
    def label(self) -> str:
        return label(self.interface.eni_id, self.mac, self.dev)

    def unready(self, reason: str, cure: str = "") -> "UnreadyEni":
        """This ENI as one that can't be set up, and won't by itself."""
        interface = self.interface
        return UnreadyEni(interface.eni_id, interface.mac, interface.primary, reason, False, self.dev,
                          interface.subnets, vswitch_id=interface.vswitch_id, link=self.link.name, cure=cure)


class EniFamily(NamedTuple):
    """One ENI in one address family: what is healthy or sick, has sources, and leaves by one gateway.

    Both families of an ENI have the same table and number.
    """

    eni: Eni
    subnet: Subnet
    sources: Tuple[Network, ...] = ()
    """What its packets come from: its addresses as /32 or /128, then its delegated prefixes."""
    table: int = 0
    """The routing table; 0: none yet, or a system that has none for ENIs."""
    number: int = 0
    """n of the default route's metric in main: 1 for eth1, 0 for the primary."""

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.subnet.vswitch.version

    @property
    def dev(self) -> str:
        return self.eni.dev

    @property
    def key(self) -> Tuple[str, int]:
        """Device and address family."""
        return self.eni.dev, self.subnet.vswitch.version

    @property
    def primary(self) -> bool:
        return self.eni.interface.primary

    @property
    def label(self) -> str:
        return self.eni.label

    @property
    def vswitch(self) -> Network:
        return self.subnet.vswitch

    @property
    def gateway(self) -> Address:
        return self.subnet.gateway

    @property
    def addresses(self) -> Tuple[Address, ...]:
        return self.subnet.addresses

    @property
    def prefixes(self) -> Tuple[Network, ...]:
        return self.subnet.prefixes

    @property
    def hop(self) -> Hop:
        """The way out by the ENI's gateway."""
        return Hop(self.eni.dev, self.subnet.gateway)

    @property
    def without_address(self) -> Finding:
        """What is said of one whose link nobody has addressed."""
        return Finding.error("no-address", "the link has no IPv{} address".format(self.version),
                             eni=self.label, family=self.version)


class UnreadyEni(NamedTuple):
    """An ENI, or one of its address families, that metadata lists but that can't be set up now: what it has in the
    kernel stays as it is."""

    eni_id: str
    mac: str
    primary: bool
    reason: str
    transient: bool
    """True when it may become fit by itself, so that waiting makes sense."""
    dev: str = ""
    """Its device, where there is one."""
    subnets: Tuple[Subnet, ...] = ()
    """What metadata tells of it, where that is whole."""
    admin_down: bool = False
    """True when nothing is wrong: somebody wants it so."""
    vswitch_id: str = ""
    version: int = 0
    """The one address family that can't be set up, 4 or 6; 0: the whole ENI."""
    link: str = ""
    """The name of its own link, where there is one; ``dev`` may be the bond or bridge that carries it."""
    vswitches: Tuple[Network, ...] = ()
    """As in ``SickInterface``."""
    cure: str = ""
    """What to do, where something is to be done."""

    @property
    def versions(self) -> Tuple[int, ...]:
        """The address families that can't be set up."""
        return (self.version,) if self.version else (4, 6)

    @property
    def devs(self) -> Tuple[str, ...]:
        return (self.dev,) if self.dev else ()

    @property
    def label(self) -> str:
        return label(self.eni_id, self.mac, self.dev)

    @property
    def finding(self) -> Finding:
        if self.admin_down:
            return Finding.remark("link-taken-down", self.reason, self.cure, self.label)
        return Finding.error("eni-not-ready", self.reason, self.cure, self.label, self.version)


class SkippedEni(NamedTuple):
    """An ENI that is left alone, as if it were not there; what is ours of it goes."""

    label: str
    devs: Tuple[str, ...]
    sources: Tuple[Network, ...]
    reason: str
    used: bool = False
    """Somebody else has it: the link stays up, with whatever address it has."""
    cure: str = ""
    """How it would be set up all the same."""

    @property
    def finding(self) -> Finding:
        return Finding.remark("eni-left-alone", "left alone, " + self.reason, self.cure, self.label)


def label(eni_id: str, mac: str, dev: str) -> str:
    """How messages name an ENI: "eni-bp1… (00:16:3e:…, eth1)"."""
    return "{} ({}{})".format(eni_id or "ENI", mac, ", " + dev if dev else "")

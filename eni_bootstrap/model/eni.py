"""ENIs as values: as the metadata service lists them, and joined with their links."""

from typing import List, Mapping, NamedTuple, Optional, Sequence, Tuple

from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import Address, Hop, Link, Network, network_of


class Subnet(NamedTuple):
    """One ENI's addresses, prefixes, gateway and vSwitch in one address family."""

    vswitch: Network
    """The vSwitch's CIDR block: the ENI's subnet."""
    gateway: Address
    """The vSwitch's gateway, from the metadata service (never derived)."""
    addresses: Tuple[Address, ...]
    """Private addresses; the ENI's primary address is the first."""
    prefixes: Tuple[Network, ...] = ()
    """Delegated prefixes (IPv4 /28, IPv6 /80)."""
    vpc: Tuple[Network, ...] = ()
    """The VPC's CIDR blocks, as far as the metadata service lists them."""

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.vswitch.version

    @property
    def sources(self) -> Tuple[Network, ...]:
        """The ENI's sources by metadata: its addresses as /32 or /128, then its delegated prefixes."""
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
    """Empty where it was not asked for, or metadata lacks it."""


class SickInterface(NamedTuple):
    """An ENI that the metadata service lists but that can't be used as it is described."""

    eni_id: str
    """Empty where metadata lacks it."""
    mac: str
    primary: bool
    reason: str
    """What is wrong, in words for an operator."""
    transient: bool
    """Whether it may become whole by itself, so that waiting makes sense: a leaf is missing while the ENI is being
    attached or detached."""
    version: int = 0
    """The one address family that can't be used, 4 or 6; 0: the whole ENI."""
    vswitch_id: str = ""
    vswitches: Tuple[Network, ...] = ()
    """The vSwitch's CIDR blocks of the families that can't be used, as far as they are told all the same."""


class Listing(NamedTuple):
    """One complete answer of the metadata service. Every MAC that it lists is in one of the two fields; in both, where
    one of its address families can't be used."""

    interfaces: Tuple[NetworkInterface, ...]
    sick: Tuple[SickInterface, ...]


class Eni(NamedTuple):
    """An ENI that can be set up."""

    interface: NetworkInterface
    link: Link
    dev: str
    """The device that carries its addresses and routes: the link itself, or the master whose port it is."""

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
        """Its device, then its own link where that is another one."""
        return (self.dev,) if self.dev == self.link.name else (self.dev, self.link.name)

    @property
    def label(self) -> str:
        return label(self.interface.eni_id, self.mac, self.dev)

    def unready(self, reason: str, cure: str = "") -> "UnreadyEni":
        """Turn it into an ENI that can't be set up, and for which waiting makes no sense."""
        interface = self.interface
        return UnreadyEni(interface.eni_id, interface.mac, interface.primary, reason, False, self.dev,
                          interface.subnets, vswitch_id=interface.vswitch_id, link=self.link.name, cure=cure)

    def of(self, subnets: Sequence[Subnet]) -> "Eni":
        """The same ENI with some of its subnets only."""
        return self._replace(interface=self.interface._replace(subnets=tuple(subnets)))

    def without(self, reasons: Mapping[int, str]) -> Tuple[Optional["Eni"], List["UnreadyEni"]]:
        """Split off the address families that can't be set up. ``reasons``: by IP version.

        Returns the ENI with the rest of its families, and what is unready: where nothing is left, the whole ENI.
        """
        if not reasons:
            return self, []
        rest = [subnet for subnet in self.subnets if subnet.version not in reasons]
        if not rest:
            return None, [self.unready("; ".join(reasons.values()))]
        return self.of(rest), [
            self.of([subnet]).unready(reasons[subnet.version])._replace(version=subnet.version)
            for subnet in self.subnets if subnet.version in reasons]


class EniFamily(NamedTuple):
    """One ENI in one address family: this has sources, leaves by one gateway, and is well or not.

    Both families of an ENI have the same table and number.
    """

    eni: Eni
    subnet: Subnet
    sources: Tuple[Network, ...] = ()
    """The sources of its packets: its addresses as /32 or /128, then its delegated prefixes."""
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
    """Whether it may become ready by itself, so that waiting makes sense."""
    dev: str = ""
    """Its device, where there is one: as an ``Eni``'s."""
    subnets: Tuple[Subnet, ...] = ()
    """Its subnets by metadata, where these are whole."""
    admin_down: bool = False
    """Whether nothing is wrong: somebody has taken its link down on purpose."""
    vswitch_id: str = ""
    version: int = 0
    """The one address family that can't be set up, 4 or 6; 0: the whole ENI."""
    link: str = ""
    """The name of its own link, where there is one."""
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
        """As an ``Eni``'s; none where it has no link."""
        return tuple(dict.fromkeys(filter(None, (self.dev, self.link))))

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
    """Whether somebody else uses it: then the link stays up, with the addresses that it has."""
    cure: str = ""
    """How it would be set up all the same."""

    @property
    def finding(self) -> Finding:
        return Finding.remark("eni-left-alone", "left alone, " + self.reason, self.cure, self.label)


def label(eni_id: str, mac: str, dev: str) -> str:
    """An ENI's name in messages: "eni-bp1… (00:16:3e:…, eth1)"."""
    return "{} ({}{})".format(eni_id or "ENI", mac, ", " + dev if dev else "")

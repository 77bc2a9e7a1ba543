"""Changes to the kernel, and the record of those that it can't remember, as values."""

from typing import FrozenSet, NamedTuple, Tuple, Union

from eni_bootstrap.model.kernel import LinkAddress, LinkGroup, LinkSetting, LinkUp, Route, Rule, SeenAddress, shell_word


class SettingMade(NamedTuple):
    """A setting that we changed, and its former value."""

    setting: LinkSetting
    former: int


class Numbering(NamedTuple):
    """The numbers by which objects in the kernel are known as ours: the first table and priority of our bands, the
    protocol, the interface group."""

    table: int
    priority: int
    protocol: int
    group: int


class Record(NamedTuple):
    """Changes of earlier runs that carry no owner in the kernel."""

    ups: FrozenSet[str] = frozenset()
    """Devices that we brought up."""
    groups: Tuple[LinkGroup, ...] = ()
    """Devices that we put into our group, with the group that they had."""
    addresses: FrozenSet[LinkAddress] = frozenset()
    """Addresses that we added."""
    seen_up: FrozenSet[str] = frozenset()
    """Devices of secondary ENIs that were up when a run saw them."""
    missed: FrozenSet[str] = frozenset()
    """MACs of ENIs for which the last run waited in vain."""
    marked: bool = False
    """Whether we made the table of connection marks."""
    valid_marks: FrozenSet[str] = frozenset()
    """Devices on which we set ``src_valid_mark``: their reverse path filter uses the packet's mark."""
    numberings: Tuple[Numbering, ...] = ()
    """Numbers by which there may be objects of ours, beside the usual ones; those in force are the last."""
    settings: Tuple[SettingMade, ...] = ()
    kernel_marks: bool = False
    """Whether there may be rules and fences of ours with protocol ``kernel``."""
    as_set: FrozenSet[SeenAddress] = frozenset()
    """These addresses as the kernel had them right after we set them. Of an address that is missing here it is not
    known whether it was set at all."""


Item = Union[LinkGroup, LinkUp, LinkSetting, LinkAddress, Route, Rule]


class Change(NamedTuple):
    """One change to the kernel; as text, the ``ip`` command that makes it."""

    verb: str
    """"add", "replace" (routes and addresses of ours, or equal ones that become ours) or "remove"."""
    item: Item
    protocol: int
    """The protocol that marks the route or rule as ours."""

    def __str__(self) -> str:
        item = self.item
        if isinstance(item, LinkSetting) and item.name != "mtu":
            return "sysctl -qw " + shell_word("net/ipv4/conf/{0.dev}/{0.name}={0.value}".format(item))
        if isinstance(item, LinkSetting):
            words = "link set dev {0.dev} mtu {0.value}".format(item)
        elif isinstance(item, LinkGroup):
            words = "link set {}".format(item)
        elif isinstance(item, LinkUp):
            words = "link set dev {} {}".format(item.dev, "down" if self.verb == "remove" else "up")
        elif isinstance(item, LinkAddress):
            quiet = " nodad" if item.address.version == 6 and self.verb != "remove" else ""
            quiet += " preferred_lft 0" if quiet and item.deprecated else ""
            words = "-{} address {} {}{}".format(item.address.version, _VERBS[self.verb], item, quiet)
        elif isinstance(item, Route):
            onlink = ["onlink"] if item.onlink and self.verb != "remove" else []
            words = "-{} route {} {}".format(
                item.version, _VERBS[self.verb], item.text(["proto", str(self.protocol)], onlink))
        else:
            words = "-{} rule {} {} protocol {}".format(item.version, _VERBS[self.verb], item, self.protocol)
        return " ".join(map(shell_word, ["ip"] + words.split(" ")))


_VERBS = {"add": "add", "replace": "replace", "remove": "del"}


class Conflict(NamedTuple):
    """A desired route that can't be made: somebody else's route with the same key is there."""

    wanted: Route
    present: Route


class Plan(NamedTuple):
    """Changes in stages, each of them in order."""

    links: Tuple[Change, ...] = ()
    """Groups, links up, settings."""
    routes: Tuple[Change, ...] = ()
    rules: Tuple[Change, ...] = ()
    """They come after the routes: a rule is only made when the routes are there to which it leads."""
    addresses: Tuple[Change, ...] = ()
    """They come after the rules: until its rule is there, an address on a link or in a local prefix would answer by
    main."""
    removals: Tuple[Change, ...] = ()
    conflicts: Tuple[Conflict, ...] = ()
    """Desired routes that are not made."""

    @property
    def changes(self) -> Tuple[Change, ...]:
        return self.links + self.routes + self.rules + self.addresses + self.removals


TABLE = "inet eni_bootstrap"


class Ruleset(NamedTuple):
    """The table of connection marks, as text for nft; empty: none."""

    text: str


class ValidMark(NamedTuple):
    """The sysctl ``src_valid_mark`` of a device: its reverse path filter uses the packet's mark."""

    dev: str

    @property
    def path(self) -> str:
        return "net/ipv4/conf/{}/src_valid_mark".format(self.dev)


class Step(NamedTuple):
    """A change by nft or a sysctl, for connection marks; as text, the command that makes it."""

    verb: str
    """"add" or "remove"."""
    item: Union[Ruleset, ValidMark]

    def __str__(self) -> str:
        if isinstance(self.item, ValidMark):
            return "sysctl -w " + shell_word("{}={:d}".format(self.item.path, self.verb == "add"))
        if self.verb == "remove":
            return "nft delete table " + TABLE
        if max(self.item.text) > "~":
            return "nft " + shell_word(self.item.text)
        return "nft -f - <<'END'\n{}END".format(self.item.text)


class Failure(NamedTuple):
    """A change that the kernel refused."""

    change: Change
    reason: str
    overtaken: bool
    """Whether somebody has changed the same object since it was read: then another look is due."""

"""Changes to the kernel, and the record of those that it can't remember. Values only."""

from typing import FrozenSet, NamedTuple, Tuple, Union

from eni_bootstrap.model.kernel import LinkAddress, LinkGroup, LinkSetting, LinkUp, Route, Rule, SeenAddress, shell_word


class SettingMade(NamedTuple):
    """A setting that we changed, and what it was before."""

    setting: LinkSetting
    former: int


class Numbering(NamedTuple):
    """The numbers by which the kernel's things are known as ours: the first of each band, and the marks."""

    table: int
    priority: int
    protocol: int
    group: int


class Record(NamedTuple):
    """What earlier runs changed that carries no owner in the kernel."""

    ups: FrozenSet[str] = frozenset()
    """Devices that we brought up."""
    groups: Tuple[LinkGroup, ...] = ()
    """Devices that we put into our group, with the group that they had."""
    addresses: FrozenSet[LinkAddress] = frozenset()
    """Addresses that we added."""
    seen_up: FrozenSet[str] = frozenset()
    """Devices of secondary ENIs that were up when a run saw them."""
    missed: FrozenSet[str] = frozenset()
    """MACs of ENIs for which the last run has waited in vain."""
    marked: bool = False
    """We made the table of connection marks."""
    valid_marks: FrozenSet[str] = frozenset()
    """Devices whose reverse path filter heeds the mark since we said so."""
    numberings: Tuple[Numbering, ...] = ()
    """The numbers with which there may be things of ours, beside the usual ones; those in force are the last."""
    settings: Tuple[SettingMade, ...] = ()
    kernel_marks: bool = False
    """There may be rules and fences of ours with the kernel's mark."""
    as_set: FrozenSet[SeenAddress] = frozenset()
    """Those addresses as the kernel had them when we had just set them. Of one that is missing here it is not known
    whether it was set at all."""


Item = Union[LinkGroup, LinkUp, LinkSetting, LinkAddress, Route, Rule]


class Change(NamedTuple):
    """One step; as text, the ``ip`` command that does it."""

    verb: str
    """"add", "replace" (routes and addresses of ours, or what is equal and becomes ours) or "remove"."""
    item: Item
    protocol: int
    """What marks the route or rule as ours."""

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
    """A route of ours that can't be, because somebody else's with the same key is there."""

    wanted: Route
    present: Route


class Plan(NamedTuple):
    """Changes in stages, each of them in order."""

    links: Tuple[Change, ...] = ()
    """Groups, links up, settings."""
    routes: Tuple[Change, ...] = ()
    rules: Tuple[Change, ...] = ()
    """A rule is only made when the routes that it leads to are there."""
    addresses: Tuple[Change, ...] = ()
    """An address is only put on a link, and a prefix made local, when its rule is there: until then it would answer by
    main."""
    removals: Tuple[Change, ...] = ()
    conflicts: Tuple[Conflict, ...] = ()
    """What stays undone."""

    @property
    def changes(self) -> Tuple[Change, ...]:
        return self.links + self.routes + self.rules + self.addresses + self.removals


TABLE = "inet eni_bootstrap"


class Ruleset(NamedTuple):
    """The table, as text for nft; empty: none."""

    text: str


class ValidMark(NamedTuple):
    """A device whose reverse path filter heeds the mark."""

    dev: str

    @property
    def path(self) -> str:
        return "net/ipv4/conf/{}/src_valid_mark".format(self.dev)


class Step(NamedTuple):
    """A change that is not made by routing messages; as text, the command that makes it."""

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
    """Somebody has changed the same thing since it was read: another look will tell."""

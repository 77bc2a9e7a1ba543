"""The types of values in a configuration: each reads a node of the file, and describes itself as JSON Schema.
PURE: text in, values and problems out; it knows nothing of YAML or of what the values are for.

A problem does not end the reading, so that an operator sees all of them at once.
"""

import re
from ipaddress import ip_network
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union


class Node(NamedTuple):
    """A node of the file: a scalar's text (None: it is empty), a list, or the pairs of a mapping."""

    value: Union[None, str, List["Node"], List[Tuple["Node", "Node"]]]
    kind: str
    """``scalar``, ``list`` or ``mapping``."""
    line: int
    """The line in the file, from 1."""


class Problem(NamedTuple):
    """A problem of the file, with its line and place."""

    line: int
    place: str
    """The path in the file, such as ``access[2].ports``; empty: the whole file."""
    what: str

    def __str__(self) -> str:
        return "{}{}".format(self.place + ": " if self.place else "", self.what)


class Place:
    """A value's path in the file, to which problems are reported."""

    def __init__(self, problems: List[Problem], path: str = "") -> None:
        self._problems = problems
        self._path = path

    def inside(self, key: str) -> "Place":
        return Place(self._problems, "{}.{}".format(self._path, key) if self._path else key)

    def item(self, number: int) -> "Place":
        return Place(self._problems, "{}[{}]".format(self._path, number))

    def wrong(self, node: Node, what: str) -> None:
        self._problems.append(Problem(node.line, self._path, what))


class Kind:
    """A value type. ``read`` returns None after reporting a problem."""

    def read(self, node: Node, place: Place) -> Any:
        raise NotImplementedError

    def schema(self) -> Dict[str, Any]:
        raise NotImplementedError


class Text(Kind):
    """A word that ``parse`` reads; ``parse`` raises ``ValueError`` for other words."""

    def __init__(self, allowed: str, parse: Callable[[str], Any] = str, **schema: Any) -> None:
        """``allowed``: the allowed values in words, for messages."""
        self._allowed = allowed
        self._parse = parse
        self._schema = dict({"type": "string", "description": allowed}, **schema)

    def read(self, node: Node, place: Place) -> Any:
        try:
            if isinstance(node.value, str) and node.value:
                return self._parse(node.value)
            what = "nothing" if not node.value else "a " + node.kind
        except ValueError:
            what = repr(str(node.value)[:60])
        place.wrong(node, "{} is given; allowed is {}".format(what, self._allowed))
        return None

    def schema(self) -> Dict[str, Any]:
        return self._schema


def integer(least: int, most: int) -> Text:
    def parse(text: str) -> int:
        if not re.match(r"(0x[0-9a-fA-F]+|0|[1-9][0-9]*)\Z", text):
            raise ValueError(text)
        number = int(text, 0)
        if not least <= number <= most:
            raise ValueError(text)
        return number
    return Text("a whole number from {} to {}".format(least, most), parse, type="integer", minimum=least, maximum=most)


def choice(*words: str) -> Text:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text
    return Text("one of " + ", ".join(words), parse, enum=list(words))


def network() -> Text:
    return Text("a network such as 10.60.0.0/16 or 2001:db8::/32, or an address",
                lambda text: ip_network(text) if "%" not in text else ip_network("%"))


class ListOf(Kind):
    """A list of at most ``most`` items; with ``single`` one item may stand for a list of one.

    ``least`` is 1 where an empty list would mean everything: a template that finds nothing writes an empty list.
    """

    def __init__(self, item: Kind, single: bool = True, most: int = 1000, least: int = 0) -> None:
        self._item = item
        self._single = single
        self._most = most
        self._least = least

    def read(self, node: Node, place: Place) -> Any:
        if node.kind != "list":
            if not self._single:
                place.wrong(node, "a list is needed: lines that begin with \"- \"")
                return None
            found = self._item.read(node, place)
            return None if found is None else (found,)
        number = len(_items(node))
        if number > self._most:
            place.wrong(node, "there are {} entries; there is room for {}".format(number, self._most))
            return None
        if number < self._least:
            place.wrong(node, "the list is empty, which does not mean all; at least one entry is needed")
            return None
        items = [self._item.read(each, place.item(position)) for position, each in enumerate(_items(node), 1)]
        return tuple(item for item in items if item is not None)

    def schema(self) -> Dict[str, Any]:
        many = {"type": "array", "items": self._item.schema(), "maxItems": self._most}
        if self._least:
            many["minItems"] = self._least
        return {"anyOf": [self._item.schema(), many]} if self._single else many


class Key(NamedTuple):
    """One key of a mapping."""

    kind: Kind
    about: str
    needed: bool = False


class Mapping(Kind):
    """A mapping with these keys, each of its own type.

    ``make(found, node, place)`` makes the value from key -> value; it may report problems of the whole to the place.
    """

    def __init__(
        self, keys: Dict[str, Key], make: Optional[Callable[[Dict[str, Any], Node, Place], Any]] = None
    ) -> None:
        self._keys = keys
        self._make = make

    def read(self, node: Node, place: Place) -> Any:
        if node.kind != "mapping":
            place.wrong(node, "a mapping is needed, with keys of {}".format(", ".join(self._keys)))
            return None
        found: Dict[str, Any] = {}
        whole = True
        for name, value in named(node, place):
            if name not in self._keys:
                place.wrong(value, "there is no key {!r}; allowed: {}".format(name[:60], ", ".join(self._keys)))
                continue
            found[name] = self._keys[name].kind.read(value, place.inside(name))
            whole = whole and found[name] is not None
        for name, key in self._keys.items():
            if key.needed and name not in found:
                place.wrong(node, "the key {} is missing".format(name))
                whole = False
        if not whole:
            return None
        return self._make(found, node, place) if self._make else found

    def schema(self) -> Dict[str, Any]:
        needed = [name for name, key in self._keys.items() if key.needed]
        described = {name: dict(key.kind.schema(), description=key.about) for name, key in self._keys.items()}
        return dict({"type": "object", "additionalProperties": False, "properties": described},
                    **({"required": needed} if needed else {}))


class Pairs(Kind):
    """A mapping whose keys are values as well; it reads as a tuple of (key, value) pairs, in order."""

    def __init__(self, key: Text, value: Kind) -> None:
        self._key = key
        self._value = value

    def read(self, node: Node, place: Place) -> Any:
        if node.kind != "mapping" or not node.value:
            place.wrong(node, "a mapping is needed, such as {eth1: 1, eth2: 2}")
            return None
        found = []
        for name, value in named(node, place):
            word = self._key.read(Node(name, "scalar", value.line), place)
            pair = (word, self._value.read(value, place.inside(name)))
            if None not in pair:
                found.append(pair)
        return tuple(found)

    def schema(self) -> Dict[str, Any]:
        return {"type": "object", "minProperties": 1, "additionalProperties": self._value.schema()}


def named(node: Node, place: Place) -> List[Tuple[str, Node]]:
    """A mapping's (key, value) pairs; reports keys that are no words, or that come twice."""
    pairs: List[Tuple[str, Node]] = []
    lines: Dict[str, int] = {}
    for key, value in _pairs(node):
        if not isinstance(key.value, str) or not key.value:
            place.wrong(key, "a key has to be a word")
        elif key.value in lines:
            place.wrong(key, "the key {!r} is there twice, first on line {}".format(key.value[:60], lines[key.value]))
        else:
            lines[key.value] = key.line
            pairs.append((key.value, value._replace(line=key.line) if value.kind == "scalar" else value))
    return pairs


def _items(node: Node) -> Sequence[Node]:
    return [each for each in node.value or () if isinstance(each, Node)]


def _pairs(node: Node) -> List[Tuple[Node, Node]]:
    return [(each[0], each[1]) for each in node.value or () if not isinstance(each, (str, Node))]

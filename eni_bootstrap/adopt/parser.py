"""The parser of typed commands: the routes and rules that a line of a shell script adds, as on the vendor's page. PURE.

It takes only what is certain: with one word too many a line counts as not understood.
"""

import re
import shlex
from ipaddress import ip_address, ip_network
from typing import Dict, List, Optional, Sequence, Union

from eni_bootstrap.model.kernel import IPV6_METRIC, MAIN, Address, Hop, Route, Rule

Typed = Union[Route, Rule]


def typed(text: str) -> Optional[List[Typed]]:
    """The routes and rules that a line of a script adds; None where it does, or may do, anything else."""
    text = _QUIET.sub(" ", _COMMENT.sub("", text)).strip()
    if text.endswith(("&&", "|", "\\")):
        return None  # it goes on in the next line
    items: List[Typed] = []
    for part in _BETWEEN.split(text):
        try:
            words = shlex.split(part)
            item = _item(words) if words and words != ["true"] else None
        except (ValueError, IndexError):
            return None
        if item is not None:
            items.append(item)
    return items


_COMMENT = re.compile(r"(^|\s)#.*")
_QUIET = re.compile(r"\s[12&]?>>?\s*(/dev/null|&[12])(?=\s|$)")
_BETWEEN = re.compile(r"&&|\|\||;|&\s*$")


def _item(words: List[str]) -> Typed:
    """The route or rule that one ``ip`` command adds. Raises ``ValueError`` for other commands and unknown words."""
    words = words[1:] if words[0] == "sudo" else words
    if len(words) < 5 or words[0].rpartition("/")[2] != "ip":
        raise ValueError(words)
    version = {"-4": 4, "-6": 6}.get(words[1], 0)
    what, verb = words[2:4] if version else words[1:3]
    rest = words[4:] if version else words[3:]
    if not (what and verb):
        raise ValueError(words)
    if "route".startswith(what) and (verb == "replace" or "add".startswith(verb)):
        made: Typed = _route(rest, version)
    elif len(what) > 1 and "rule".startswith(what) and "add".startswith(verb):
        made = _rule(rest)
    else:
        raise ValueError(words)
    if version not in (0, made.version):
        raise ValueError(words)
    return made


def _route(words: List[str], version: int) -> Route:
    words = words[1:] if words[0] == "to" else words
    dst = None if words[0] == "default" else ip_network(words[0])
    found = _pairs([word for word in words[1:] if word != "onlink"], {
        "via": "via", "dev": "dev", "table": "table", "metric": "metric", "src": "src", "proto": "proto"})
    gateway: Optional[Address] = ip_address(found["via"]) if "via" in found else None
    version = version or (dst or gateway or ip_network("0.0.0.0/0")).version
    if found.get("proto", "boot") != "boot" or "dev" not in found or gateway and gateway.version != version:
        raise ValueError(words)
    table = found.get("table", "main")
    return Route(
        MAIN if table == "main" else _number(table), dst if dst is not None else ip_network(_ANYWHERE[version]),
        (Hop(found["dev"], gateway),), metric=_number(found.get("metric", "0")) or (IPV6_METRIC if version == 6 else 0),
        prefsrc=ip_address(found["src"]) if "src" in found else None)


def _rule(words: List[str]) -> Rule:
    found = _pairs(words, {"from": "from", "table": "table", "lookup": "table", "priority": "priority",
                           "pref": "priority", "preference": "priority", "prio": "priority", "order": "priority"})
    if "from" not in found or "table" not in found:
        raise ValueError(words)
    src = ip_network(found["from"])
    return Rule(src.version, _number(found.get("priority", "0")), src, table=_number(found["table"]))


def _number(text: str) -> int:
    """A number of 32 bits, as the kernel has room for."""
    if not 0 <= int(text) < 1 << 32:
        raise ValueError(text)
    return int(text)


def _pairs(words: List[str], known: Dict[str, str]) -> Dict[str, str]:
    """Words and their values, each once."""
    found: Dict[str, str] = {}
    if len(words) % 2:
        raise ValueError(words)
    for word, value in zip(words[::2], words[1::2]):
        if known.get(word) is None or known[word] in found:
            raise ValueError(words)
        found[known[word]] = value
    return found


_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


def nested(lines: Sequence[str]) -> List[bool]:
    """For each line whether other lines say if it is run: it is in a condition, a loop, a function, a continued line.

    A line that looks like the beginning of one counts, and so does all behind a here-document (<<).
    """
    found: List[bool] = []
    depth, goes_on = 0, False
    for text in lines:
        text = _COMMENT.sub("", text).rstrip()
        begins, ends = len(_BEGIN.findall(text)), len(_END.findall(text))
        found.append(goes_on or depth > 0 or begins > 0 or ends > 0)
        depth = max(0, depth + begins - ends) + (1000 if "<<" in text else 0)
        goes_on = text.endswith(("&&", "|", "\\"))
    return found


_BEGIN = re.compile(r"(?:^|[;&|]|\b(?:then|do|else)\b)\s*(?:if|for|while|until|case|select)\b|[{(]\s*$|^\s*[{(]")
_END = re.compile(r"(?:^|[;&|])\s*(?:fi|done|esac)\b|^\s*[)}]")

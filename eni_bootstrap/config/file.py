"""The configuration file: YAML in, a ``Config`` out, or all problems with it, each with its line.

Only this file knows YAML; it is imported when there is a configuration file. It reads the part of YAML that
people write by hand: mappings, lists and words. It refuses anchors and aliases, by which a small file becomes a huge
one, tags, and several documents. A word is what is written there: no octal numbers, no sexagesimal MACs.
"""

import re
from ipaddress import IPv6Network, collapse_addresses, ip_address
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from eni_bootstrap.config.schema import (
    Key, Kind, ListOf, Mapping, Node, Pairs, Place, Problem, Text, choice, integer, network,
)
from eni_bootstrap.config.settings import BOUNDS, ENTRIES, TAKEN_PROTOCOLS, Config, Entry, LinkWish, Source, Spread
from eni_bootstrap.model.errors import UsageError
from eni_bootstrap.model.kernel import CLOUD_SERVICES, EVERYWHERE, Network, bytes_of

LARGEST = 1 << 20
"""Maximum bytes of a file: a thousand entries with comments are a tenth of that."""
_DEEPEST = 10
"""Maximum lists and mappings inside each other: the schema has four."""


def read(data: bytes, base: Config = Config()) -> Tuple[Optional[Config], List[Problem]]:
    """The settings of a file's content, or None and its problems, in the order of its lines."""
    problems: List[Problem] = []
    if len(data) > LARGEST:
        return None, [Problem(1, "", "the file is larger than {} MiB".format(LARGEST >> 20))]
    root = _parse(data, problems)
    if root is not None and not problems:
        found = _FILE.read(root, Place(problems))
        if not problems:
            settings = _settings(base, found, problems)
            return None if problems else settings, problems
    return None, sorted(problems, key=lambda problem: problem.line)


EXAMPLE = """\
# /etc/eni-bootstrap.yaml: all of it is optional, and so is the file. What is said here counts from the next run on:
# "eni-bootstrap config check", "eni-bootstrap plan", "eni-bootstrap".
#
# An ENI is named by its device, its MAC, its id or its vSwitch's id; *, ? and [...] stand for others.

# The metadata service, where it is not at the usual address (a host without IPv4 asks http://[fd00:100::100:200] by
# itself). The service unit may speak to these two only: allow it another one by IPAddressAllow= in a drop-in.
metadata: {url: "http://100.100.100.200"}

# Left alone: nothing of theirs is changed. With "only", all secondary ENIs but those.
ignore: [eth9, "eni-bp1spare*"]

# So are ENIs that a container network uses (terway, Cilium, macvlan ...), unless this says "manage".
container-networks: leave

# Which addresses are put on the links: "primary" (the usual: an ENI's primary one, where nobody else does), "all" that
# the cloud assigned to the ENIs, the primary ENI too, or "none". The primary address stays what unbound sockets use.
assign: all

# What comes from the primary ENI's own addresses: "main" (the usual: as the main table says, by a VPN for instance), or
# "full": always by the primary ENI, as it is for each secondary one.
primary: full

# Delegated prefixes: "route" (the usual: what others, containers for instance, send from them leaves by their ENI), or
# "local": all their addresses are this host's own, too, as if each were on the link. (Who binds to one of IPv6 needs
# IPV6_FREEBIND, or the sysctl net.ipv6.ip_nonlocal_bind.)
prefixes: local

# Sources of an ENI that the metadata service does not tell.
sources:
  - eni: eth1
    address: [172.16.20.99]  # a HAVIP

# Settings of the links, which are left as they are otherwise, and which "eni-bootstrap remove" puts back. Of the
# sysctls the kernel takes the larger one of a link's and of net.ipv4.conf.all. The service unit may write sysctls only
# where "eni-bootstrap install" has found some asked for here: run it again after a change.
links:
  - {eni: eth1, mtu: 8500}
  - {eni: "eth*", rp-filter: 2, arp-ignore: 1, arp-announce: 2}

# Where the usual numbers are somebody else's: of tables and rules' priorities the first of a thousand, the protocol and
# the interface group that mark what is ours, and by how much each ENI's default in main is worse than the one before.
numbers: {table: 1000, priority: 7000, metric-step: 100, protocol: 235, group: 60235}

# What leaves by which ENI, or not at all; the first entry that fits counts. What comes from an ENI's own address leaves
# by that ENI in any case: entries that name an ENI are for what has chosen no source, and for what is forwarded.
access:
  - {to: 10.60.0.0/16, protocol: tcp, port: 443, via: eth2}
  - {user: 1001, via: eth1}
  - {to: [192.0.2.0/24, "2001:db8:bad::/48"], answer: prohibit}
  - {mark: 0x10/0xff, via: eth2}
  - {in: br0, from: 172.30.0.0/16, via: eth1}

# Connections that have chosen no source, spread by weight. The cloud's own services stay on the primary.
balance:
  - over: {eth0: 1, eth1: 2, eth2: 3}
  - {to: 10.70.0.0/16, over: {eth1: 1, eth2: 1}}

# Replies of containers' published ports, and of all else that is forwarded, leave by the ENI that the connection came
# in by: it is remembered in these bits of its mark. Needs the package nftables.
connection-marks: {mask: 0x7f000000}
"""


def json_schema() -> Dict[str, Any]:
    """The file's published JSON Schema, for editors."""
    return dict(_FILE.schema(), **{"$schema": "http://json-schema.org/draft-07/schema#",
                                   "title": "eni-bootstrap.yaml"})


# What may be in it

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "sctp": 132,
              "udplite": 136}
_WITH_PORTS = (6, 17, 33, 132, 136)


def _span(least: int, most: int, what: str) -> Text:
    def parse(text: str) -> Tuple[int, int]:
        first, dash, last = text.partition("-")
        if not first.isdigit() or dash and not last.isdigit():
            raise ValueError(text)
        span = int(first), int(last or first)
        if not least <= span[0] <= span[1] <= most:
            raise ValueError(text)
        return span
    return Text("{} from {} to {}, or two with a dash between them".format(what, least, most), parse,
                type=["integer", "string"], pattern=r"^[0-9]+(-[0-9]+)?$")


def _protocol(text: str) -> int:
    number = _PROTOCOLS.get(text) or int(text)
    if not 1 <= number <= 255:
        raise ValueError(text)
    return number


def _mark(text: str) -> Tuple[int, int]:
    mark, slash, mask = text.partition("/")
    value, bits = int(mark, 0), int(mask, 0) if slash else 0xFFFFFFFF
    if not 0 <= value <= 0xFFFFFFFF or not 0 < bits <= 0xFFFFFFFF or value & ~bits:
        raise ValueError(text)
    return value, bits


def _word(most: int) -> Any:
    def parse(text: str) -> str:
        if len(bytes_of(text)) > most or any(letter.isspace() or letter in "/\0" for letter in text):
            raise ValueError(text)
        return text
    return parse


_MARKS = 0x7F000000
"""The default bits for connection marks, in the highest byte: of the programs that use single bits of marks only Calico
(0xffff0000, can be told others) and Cilium are there. kube-proxy has 0xc000, CNI's port mapping 0x2000, Tailscale
0xff0000, Weave 0x60000, AWS and terway bits of the lowest byte; people use small numbers. Without the sign bit, which
Antrea uses; 127 ENIs."""


def _mask(text: str) -> int:
    mask = int(text, 0)
    lowest = mask & -mask
    if not 0 < mask <= 0xFFFFFFFF or mask & (mask + lowest) or mask // lowest < 15:
        raise ValueError(text)
    return mask


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s?#]", text):
        raise ValueError(text)
    parts.port  # raises ValueError, too
    return text


_OWN = "lo"
"""The device by which, for rules, this host's own packets come in (ip-rule(8))."""
_MOSTLY = {6, 17}
"""TCP and UDP: without both a machine is as good as cut off."""
_NO_SOURCE = ip_address("0.0.0.0")
"""The source that rules see in a packet that has none yet."""
_INTERNET = IPv6Network("2000::/3")
"""All of IPv6's internet: an entry that names it means just that; one that names a wider block means everything."""
_PORTS, _USERS = (1, 65535), (0, 4294967294)
_SPANS = {"port": _PORTS, "source-port": _PORTS, "user": _USERS}

_ENI = Text("an ENI by its device, MAC, ENI id or vSwitch id; *, ? and [..] stand for others", _word(64))
_DEVICE = Text("the name of a network device", _word(15))


def _some(item: Kind) -> ListOf:
    return ListOf(item, least=1)


def _entry(found: Dict[str, Any], node: Node, place: Place) -> Optional[Entry]:
    if ("via" in found) == ("answer" in found):
        place.wrong(node, "either via, an ENI, or answer, a refusal, says what becomes of the packets")
        return None
    protocols = found.get("protocol", ())
    if ("port" in found or "source-port" in found) and not (protocols and set(protocols) <= set(_WITH_PORTS)):
        place.wrong(node, "a port needs a protocol that has ports: tcp, udp, sctp, dccp or udplite")
        return None
    versions = [{network.version for network in found[key]} for key in ("from", "to") if key in found]
    if len(versions) == 2 and not versions[0] & versions[1]:
        place.wrong(node, "from and to contradict each other: no packet has one of IPv4 and the other of IPv6")
        return None
    if not set(found) - {"via", "answer"}:
        place.wrong(node, "nothing is said of the packets that it is for: from, to, in, protocol, port, source-port, "
                          "user or mark")
        return None
    if "answer" in found and _cuts_off(found):
        place.wrong(node, "this would cut off the whole machine: its default route, or the cloud's own services "
                          "(100.64.0.0/10)")
        return None
    return Entry(node.line, found.get("via", ""), found.get("answer", ""), found.get("from", ()), found.get("to", ()),
                 found.get("in", ()), protocols, found.get("source-port", ()), found.get("port", ()),
                 found.get("user", ()), found.get("mark"))


def _cuts_off(found: Dict[str, Any]) -> bool:
    """Whether a refusal catches everything that the machine sends, or what it can't do without, however it is spelled.
    """
    if "in" in found and _OWN not in found["in"] or found.get("mark", (0,))[0]:
        return False
    if "protocol" in found and not _MOSTLY <= set(found["protocol"]):
        return False
    if not all(_is_whole(found[key], *_SPANS[key]) for key in _SPANS if key in found):
        return False
    sources = _collapsed(found.get("from", EVERYWHERE.values()))
    versions = {source.version for source in sources if _is_everything(source) or _NO_SOURCE in source}
    return any(block.version in versions and _is_vital(block)
               for block in _collapsed(found.get("to", EVERYWHERE.values())))


def _is_whole(spans: Sequence[Tuple[int, int]], least: int, most: int) -> bool:
    """Whether the spans together cover everything from ``least`` to ``most``."""
    following = least
    for first, last in sorted(spans):
        if first > following:
            return False
        following = max(following, last + 1)
    return following > most


def _collapsed(networks: Iterable[Network]) -> List[Network]:
    """The networks, with neighbouring ones joined: two halves are a whole."""
    by_version: Dict[int, List[Any]] = {4: [], 6: []}
    for block in networks:
        by_version[block.version].append(block)
    return [block for blocks in by_version.values() for block in collapse_addresses(blocks)]


def _is_vital(network: Network) -> bool:
    return _is_everything(network) or network.version == 4 and network.overlaps(CLOUD_SERVICES)


def _is_everything(network: Network) -> bool:
    return network.prefixlen == 0 or network.prefixlen < _INTERNET.prefixlen and _INTERNET.network_address in network


def _spread(found: Dict[str, Any], node: Node, place: Place) -> Optional[Spread]:
    for block in found.get("to", ()):
        if block.version == 4 and block.overlaps(CLOUD_SERVICES) and block.prefixlen >= CLOUD_SERVICES.prefixlen:
            place.wrong(node, "{} is the cloud's own services', which the primary ENI alone reaches".format(block))
            return None
    return Spread(node.line, found.get("to", ()), found["over"])


def _wish(found: Dict[str, Any], node: Node, place: Place) -> Optional[LinkWish]:
    settings = tuple((name.replace("-", "_"), value) for name, value in found.items() if name != "eni")
    if not settings:
        place.wrong(node, "nothing is said of the link: mtu, rp-filter, arp-ignore or arp-announce")
        return None
    return LinkWish(node.line, found["eni"], settings)


def _mark_of_ours(text: str) -> int:
    if not text.isdigit() or int(text) in TAKEN_PROTOCOLS or int(text) > BOUNDS["protocol"][1]:
        raise ValueError(text)
    return int(text)


_NUMBERS = Mapping({
    "table": Key(integer(*BOUNDS["table"]), "the primary's routing table; eth1's is the next, and so on (1000). The "
                 "kernel's own, 253 to 255, must not be among the 1000 that are ours"),
    "priority": Key(integer(*BOUNDS["priority"]), "the first of 1000 priorities of rules (7000), all of them behind a "
                    "VRF's, 1000, and before main's, 32766"),
    "metric-step": Key(integer(1, 1000000), "by which each ENI's default route in main is worse (100)"),
    "protocol": Key(Text("a number to 255 that is nobody's: 5 to 7, 19 to 41, 43 to 98, 100 to 185 or 199 to 255",
                         _mark_of_ours, type="integer", minimum=BOUNDS["protocol"][0], maximum=BOUNDS["protocol"][1]),
                    "marks our routes and rules in the kernel (235)"),
    "group": Key(integer(*BOUNDS["group"]), "the interface group of all ENI links (60235)"),
})

_FILE = Mapping({
    "ignore": Key(ListOf(_ENI), "ENIs that are left alone: nothing of theirs is changed"),
    "only": Key(_some(_ENI), "if it is there, all other secondary ENIs are left alone"),
    "metadata": Key(Mapping({
        "url": Key(Text("the URL of a metadata service, such as http://100.100.100.200", _url), "where it is asked",
                   needed=True),
    }), "the metadata service, where it is not the usual one"),
    "container-networks": Key(choice("leave", "manage"), "ENIs that a container network uses are left alone (the "
                              "default), or set up like any other"),
    "assign": Key(choice("primary", "all", "none"), "which addresses are put on an ENI's link: its primary one where "
                  "nobody else does (the default), all that the cloud assigned to it, or none"),
    "primary": Key(choice("main", "full"), "whether what comes from the primary ENI's own addresses follows main's "
                   "default route (main, the default) or always leaves by the primary (full)"),
    "prefixes": Key(choice("route", "local"), "what delegated prefixes are: sources of their ENI that others use, "
                    "containers for instance (route, the default), or all their addresses this host's own (local)"),
    "sources": Key(ListOf(Mapping({
        "eni": Key(_ENI, "whose they are", needed=True),
        "address": Key(_some(network()), "addresses or networks that leave by it, too", needed=True),
    }, lambda found, node, place: Source(node.line, found["eni"], found["address"])), single=False),
        "more sources of an ENI than metadata tells: HAVIP, keepalived"),
    "access": Key(ListOf(Mapping({
        "from": Key(_some(network()), "source"),
        "to": Key(_some(network()), "destination"),
        "in": Key(_some(_DEVICE), "came in by this device"),
        "protocol": Key(_some(Text("tcp, udp, icmp, icmpv6, sctp, gre, esp, ah, or a number to 255", _protocol)),
                        "IP protocol"),
        "port": Key(_some(_span(*_PORTS, "a port")), "destination port"),
        "source-port": Key(_some(_span(*_PORTS, "a port")), "source port"),
        "user": Key(_some(_span(*_USERS, "a user id")), "user id of the sending process"),
        "mark": Key(Text("a firewall mark such as 0x10, or with a mask, 0x10/0xff", _mark), "firewall mark"),
        "via": Key(_ENI, "the ENI by which they leave, or not at all"),
        "answer": Key(choice("prohibit", "unreachable", "blackhole"), "they are refused"),
    }, _entry), single=False, most=ENTRIES), "what leaves by which ENI, or not at all; the first that fits counts"),
    "balance": Key(ListOf(Mapping({
        "to": Key(_some(network()), "destinations; without it, all"),
        "over": Key(Pairs(_ENI, integer(1, 256)), "ENIs and their weights", needed=True),
    }, _spread), single=False), "over which ENIs connections are spread that have chosen no source"),
    "connection-marks": Key(Mapping({
        "mask": Key(Text("at least four bits side by side, such as 0x7f000000", _mask, type=["integer", "string"]),
                    "the bits of the mark that are ours (0x7f000000); others' marks live beside them"),
    }, lambda found, node, place: found.get("mask", _MARKS)),
        "if it is there, what is forwarded is answered by the ENI that the connection came in by"),
    "links": Key(ListOf(Mapping({
        "eni": Key(_ENI, "whose links", needed=True),
        "mtu": Key(integer(1280, 65535), "MTU; 1280 is the least for IPv6"),
        "rp-filter": Key(integer(0, 2), "reverse path filter: 0 none, 1 strict, 2 loose"),
        "arp-ignore": Key(integer(0, 8), "which ARP requests are answered (sysctl arp_ignore)"),
        "arp-announce": Key(integer(0, 2), "with which address ARP asks (sysctl arp_announce)"),
    }, _wish), single=False), "settings of the ENIs' links, which are left as they are otherwise"),
    "numbers": Key(_NUMBERS, "where the usual numbers are somebody else's"),
})


def _settings(base: Config, found: Dict[str, Any], problems: List[Problem]) -> Config:
    if "metadata" in found:
        base = base._replace(metadata_url=found["metadata"]["url"], metadata_url_ipv6="")
    numbers = dict(found.get("numbers", {}))
    base = base._replace(metric_step=numbers.pop("metric-step", base.metric_step))
    base = base.renumbered(base.numbering._replace(**numbers))
    marks = found.get("connection-marks", 0)
    for entry in found.get("access", ()):
        if entry.mark is not None and entry.mark[0] & marks:
            problems.append(Problem(entry.line, "access", "the mark {:#x} lies in the bits of connection-marks, "
                                                          "{:#x}".format(entry.mark[0], marks)))
    return base._replace(
        ignore=found.get("ignore", ()), only=found.get("only", ()), assign=found.get("assign", base.assign),
        primary=found.get("primary", base.primary), prefixes=found.get("prefixes", base.prefixes),
        container_networks=found.get("container-networks", base.container_networks), extra=found.get("sources", ()),
        links=found.get("links", ()), entries=found.get("access", ()), spreads=found.get("balance", ()),
        connection_marks=marks)


# YAML


def _parse(data: bytes, problems: List[Problem]) -> Optional[Node]:
    """The file as nodes; None, with problems added, where it is not what people write by hand."""
    try:
        import yaml  # a boot without a file does not pay for it
    except ImportError:
        raise UsageError("the configuration file takes PyYAML: python -m pip install PyYAML") from None

    try:
        text = data.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = getattr(event.start_mark, "line", 0) + 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                problems.append(Problem(line, "", "anchors and aliases (& and *) are not for this file; a word that "
                                                  "begins with one of these has to be quoted"))
            elif getattr(event, "tag", None):
                problems.append(Problem(line, "", "tags (!) are not for this file"))
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                problems.append(Problem(line, "", "lists and mappings are nested too deeply"))
            if problems:
                return None
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        found = _node(root) if root is not None else Node(None, "scalar", 1)
        return found if found.value is not None else Node([], "mapping", found.line)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = error.problem or error.context or "this is no YAML"
        if "'\\t'" in words:
            words = "a tab: YAML is indented by spaces"
        problems.append(Problem(getattr(mark, "line", 0) + 1, "", words))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(Problem(1, "", "this is no YAML: {}".format(error)))
    return None


def _node(node: Any) -> Node:
    line = node.start_mark.line + 1
    if node.id == "mapping":
        return Node([(_node(key), _node(value)) for key, value in node.value], "mapping", line)
    if node.id == "sequence":
        return Node([_node(each) for each in node.value], "list", line)
    empty = node.tag == "tag:yaml.org,2002:null"
    return Node(None if empty else node.value, "scalar", line)

"""The kernel: read links, addresses, rules and routes; apply changes; ask for routes.

Our socket (``kernel.socket``) sends many messages at once and lets the kernel filter dumps, so that neither 1,600 rules
nor a routing daemon's 10,000 routes make a boot slow. Formats: linux/rtnetlink.h; kernel 4.17 or newer.
"""

import errno
import itertools
import os
import struct
import sys
from typing import Dict, FrozenSet, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.kernel import link_codec, route_codec, rule_codec
from eni_bootstrap.kernel.socket import Message, Socket, Take, Takes
from eni_bootstrap.model.changes import Change, Failure
from eni_bootstrap.model.errors import NotPermitted
from eni_bootstrap.model.kernel import (
    LOCAL, MAIN, PROTOCOL_KERNEL, Answer, Hop, Link, LinkAddress, LinkSetting, Query, Route, Rule, SeenAddress,
    SeenRoute, SeenRule, Snapshot, bytes_of,
)

_GETLINK, _GETADDR, _GETROUTE, _GETRULE, _GETNEXTHOP = 18, 22, 26, 34, 106  # linux/rtnetlink.h
_FENCE, _LOCAL = 7, 2  # RTN_UNREACHABLE, RTN_LOCAL
_WHOLE = {4: 32, 6: 128}
_ANY_RULE = struct.Struct("=B11x")  # struct fib_rule_hdr, of which only the family counts


class Kernel:
    """The kernel's links, addresses, rules and routes, in the network namespace of the calling thread.

    ``links()`` comes first: it tells the other methods which device has which index.
    """

    def __init__(self) -> None:
        self._socket = Socket()
        self._names: Dict[int, str] = {}
        self._indexes: Dict[str, int] = {}
        self._mtus: Dict[str, int] = {}
        self._known_nexthops: Optional[Mapping[int, Tuple[Hop, ...]]] = None
        self._protocols: FrozenSet[int] = frozenset()
        """Our protocols. Attributes of a route with one of these that we did not send are the kernel's own additions.
        """

    def close(self) -> None:
        self._socket.close()

    @property
    def port(self) -> int:
        """The netlink port by which the kernel names us, when it tells others of our changes."""
        return self._socket.port

    def indexes(self, devs: Iterable[str]) -> List[int]:
        """The interface indexes of the devices that were there at the last look, sorted."""
        return sorted(self._indexes[dev] for dev in devs if dev in self._indexes)

    # ---- reading

    def links(self) -> Tuple[Link, ...]:
        """All links of this namespace."""
        found = []
        mtus: Dict[str, int] = {}
        for body in self._socket.dump(Message(_GETLINK, 0, link_codec.ALL_LINKS)):
            link, mtus[link.name] = link_codec.unpack_link(body)
            found.append(link)
        self._mtus = mtus
        self._names = {link.ifindex: link.name for link in found}
        self._indexes = {link.name: link.ifindex for link in found}
        return tuple(found)

    def addresses(self) -> Tuple[LinkAddress, ...]:
        """All addresses but link-local IPv6 and loopback ones."""
        return tuple(seen.held for seen in self.seen_addresses())

    def seen_addresses(self) -> Tuple[SeenAddress, ...]:
        """The same addresses, each with its protocol and the time when it was set: these tell whose it is."""
        bodies = self._socket.dump(Message(_GETADDR, 0, link_codec.ALL_ADDRESSES))
        found = (link_codec.unpack_address(body, self._names) for body in bodies)
        return tuple(seen for seen in found if seen is not None)

    def settings(self, asked: Iterable[Tuple[str, str]]) -> Tuple[LinkSetting, ...]:
        """The values of these (device, setting) pairs, of devices that were there at the last look."""
        found = []
        for dev, name in sorted(asked):
            value = self._mtus.get(dev) if name == "mtu" else _sysctl(dev, name)
            if value is not None:
                found.append(LinkSetting(dev, name, value))
        return tuple(found)

    def rules(self) -> Tuple[SeenRule, ...]:
        """All policy rules in the order in which the kernel asks them, IPv4 first."""
        found = []
        for version in (4, 6):
            for body in self._socket.dump(Message(_GETRULE, 0, _ANY_RULE.pack(rule_codec.FAMILY[version]))):
                found.append(rule_codec.unpack(body, version))
        return tuple(found)

    def snapshot(
        self, links: Tuple[Link, ...], rules: Tuple[SeenRule, ...], devs: Iterable[str], tables: Iterable[int],
        config: Config, former: Sequence[Config] = ()
    ) -> Snapshot:
        """The kernel's state that the decision needs.

        Of ``devs`` it has main's routes: the kernel's own, as many others as may be copied, and one more, which shows
        that there are more. Of ``tables``, and of the tables that hold routes of ours, it has all routes; what is ours
        by ``former`` numbers counts, too. Addresses are read anew; ``links`` and ``rules`` are those of the caller.
        """
        self._known_nexthops = None
        numbered = [config, *former]
        self._protocols = frozenset(each.protocol for each in numbered)
        routes: Dict[SeenRoute, None] = {}
        for version in (4, 6):
            own: List[SeenRoute] = []
            for ours in sorted(self._protocols):
                own += self._routes(version, _that(lambda body: body[route_codec.PROTOCOL] == ours), protocol=ours)
            own += self._routes(version, protocol=PROTOCOL_KERNEL, kind=_FENCE, takes=_that(lambda body: (
                body[route_codec.PROTOCOL] == PROTOCOL_KERNEL and body[route_codec.TYPE] == _FENCE)))
            found = [own, self._routes(version, _that(lambda body: not body[route_codec.DST_LENGTH]), table=MAIN)]
            if config.prefixes == "local":
                whole = _WHOLE[version]
                found.append(self._routes(version, table=LOCAL, takes=_that(lambda body: (
                    body[route_codec.TYPE] == _LOCAL and body[route_codec.DST_LENGTH] < whole))))
            for table in sorted(set(tables).union(seen.route.table for seen in own
                                                  if any(each.owns_table(seen.route.table) for each in numbered))):
                found.append(self._routes(version, table=table))
            for dev in sorted(devs):  # a route by several of them is told with the first
                found.append(self._routes(version, self._worth(config.copies + 1), table=MAIN, dev=dev))
            routes.update(dict.fromkeys(itertools.chain.from_iterable(found)))
        seen = self.seen_addresses()
        return Snapshot(links, tuple(each.held for each in seen), rules, tuple(routes), seen=seen)

    def _worth(self, most: int, least_length: int = 0) -> Takes:
        """Take all routes that the kernel made and at most ``most`` others, to destinations of this prefix length or
        longer; all where the kernel does not filter and lists those of other devices, too."""
        limit = most if self._socket.filters else sys.maxsize

        def takes() -> Take:
            others = itertools.count(1)
            return lambda body: body[route_codec.DST_LENGTH] >= least_length and (
                body[route_codec.PROTOCOL] == PROTOCOL_KERNEL or next(others) <= limit)
        return takes

    def specific_routes(self, dev: str, most: int) -> List[Route]:
        """At most ``most`` of main's specific unicast routes through a device, IPv4 first."""
        found: List[Route] = []
        for version in (4, 6):
            found += [seen.route for seen in self._routes(version, self._worth(most, 1), table=MAIN, dev=dev)]
        return [route for route in found if not (route.dst.is_link_local or route.dst.is_multicast)][:most]

    def carries_others(self, dev: str, protocols: Iterable[int]) -> bool:
        """Whether any table has a route through the device that neither we (``protocols``) nor the kernel made."""
        return any(seen.protocol not in (PROTOCOL_KERNEL, *protocols)
                   for version in (4, 6) for seen in self._routes(version, dev=dev))

    def _routes(
        self, version: int, takes: Optional[Takes] = None, table: int = 0, protocol: int = 0, dev: str = "",
        kind: int = 0,
    ) -> Iterator[SeenRoute]:
        """Routes, filtered by the kernel where it can (since 4.20), here where it can't. Of local ones, prefixes only.

        ``takes`` sees the undecoded message, so that a route that nobody wants costs next to nothing.
        """
        request = Message(_GETROUTE, 0, route_codec.pack_filter(
            version, table, protocol, kind, self._indexes[dev] if dev else 0))
        for body in self._socket.dump(request, takes):
            seen = route_codec.unpack(body, version, self._names, self._protocols, self._nexthops)
            if seen.route.kind in _UNROUTED and not seen.route.is_local_prefix or table and seen.route.table != table:
                continue
            if not dev or dev in seen.route.devs():
                yield seen

    def _nexthops(self) -> Mapping[int, Tuple[Hop, ...]]:
        """The hops of all nexthop objects, as they were when a route was first told by one's id only."""
        if self._known_nexthops is None:
            bodies = self._socket.dump(Message(_GETNEXTHOP, 0, route_codec.ALL_NEXTHOPS))
            self._known_nexthops = route_codec.unpack_nexthops(bodies, self._names)
        return self._known_nexthops

    # ---- asking

    def ask(self, queries: Sequence[Query]) -> List[Answer]:
        """Have the kernel look up routes (RTM_GETROUTE), many in one send. Returns an answer for each query."""
        replies = self._socket.ask([
            Message(_GETROUTE, 0, route_codec.pack_question(query, self._indexes)) for query in queries])
        return [Answer(error=reply.error) if reply.error else
                route_codec.unpack_answer(reply.body, self._names, query.match)
                for query, reply in zip(queries, replies)]

    # ---- changing

    def apply(self, changes: Sequence[Change]) -> List[Failure]:
        """Make the changes in this order, many in one send. Returns those that the kernel refused.

        All messages are built before the first is sent: a change that can't be encoded leaves everything as it is.
        What is there already, or gone already, counts as done: somebody was faster.
        Raises ``NotPermitted`` without CAP_NET_ADMIN.
        """
        failures: List[Failure] = []
        ordered = [change for change in changes if not _is_sysctl(change)]
        messages = [self._order(change) for change in ordered]
        for change in changes:
            if _is_sysctl(change):
                failures += _write(change)
        for change, reply in zip(ordered, self._socket.order(messages)):
            if reply.error == errno.EPERM:
                raise NotPermitted("the kernel refuses '{}': it takes CAP_NET_ADMIN".format(change))
            if reply.error and not _done_already(change, reply.error):
                overtaken = reply.error in (errno.EEXIST, errno.ENODEV, errno.ENETDOWN)
                failures.append(Failure(change, reply.text or os.strerror(reply.error), overtaken))
        return failures

    def _order(self, change: Change) -> Message:
        from eni_bootstrap.kernel import change_codec  # it draws pyroute2, for which most runs have no use
        return change_codec.pack(change, self._indexes)


def _that(take: Take) -> Takes:
    """This judge, which does not count."""
    return lambda: take


_SYSCTL = "/proc/sys/net/ipv4/conf/{}/{}"


def _sysctl(dev: str, name: str) -> Optional[int]:
    """The value of one of IPv4's sysctls; None where the link has gone."""
    try:
        with open(bytes_of(_SYSCTL.format(dev, name))) as handle:
            return int(handle.read())
    except OSError:
        return None


def _is_sysctl(change: Change) -> bool:
    return isinstance(change.item, LinkSetting) and change.item.name != "mtu"


def _write(change: Change) -> List[Failure]:
    """Set a sysctl, which netlink can't. The service's sandbox allows it only where ``install`` knew of the setting."""
    item = change.item
    assert isinstance(item, LinkSetting)
    try:
        with open(bytes_of(_SYSCTL.format(item.dev, item.name)), "w") as handle:
            handle.write(str(item.value))
    except FileNotFoundError:
        return []  # with its link
    except OSError as error:
        return [Failure(change, "{}; for the service, run eni-bootstrap install again".format(error.strerror), False)]
    return []


_UNROUTED = ("local", "broadcast", "anycast", "multicast")


def _done_already(change: Change, number: int) -> bool:
    if change.verb == "remove":
        return number in (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)
    return number == errno.EEXIST and isinstance(change.item, Rule)

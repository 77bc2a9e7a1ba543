"""What the vendor's page had people type, and what of it can be ours. PURE.

The page gives each address a rule without a priority, which the kernel puts in front of all that is there and doubles
at each run, and a table of any number with a default route; or, on old systems, a default route in main. rc.local does
it again at each boot. A rule is taken back once ours does the same behind it; a route that has the place of ours gets
our mark, in one message, so that a packet finds it at any moment.

Only what matches an ENI's own addresses and its gateway exactly is taken over. A table is taken with all that leads to
it, or left with all of it. A line of rc.local is taken when it does nothing else and no other line says whether it is
done.
"""

import re
from collections import defaultdict
from typing import AbstractSet, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Set, Tuple

from eni_bootstrap.adopt.parser import Typed, nested, typed
from eni_bootstrap.config.own_rules import owns_rule
from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.desired.main_table import MainTable
from eni_bootstrap.desired.routes import main_defaults
from eni_bootstrap.model.changes import Change
from eni_bootstrap.model.eni import EniFamily, Listing, Subnet
from eni_bootstrap.model.host import Line, Script
from eni_bootstrap.model.kernel import (
    ANY, MAIN, UNKNOWN, Hop, Network, Route, Rule, SeenRoute, SeenRule, Snapshot, network_of,
)

TYPED = (0, 3)
"""The protocols of what people type: a route is RTPROT_BOOT, a rule that or none at all, as iproute2 has it."""

_STARTS = re.compile(r"[^#]*\beni-bootstrap apply\b")
"""The line that ``install`` puts into rc.local where there is no systemd."""

_KERNEL_S_TABLES = (0, 253, 254, 255)
"""None, default, main, local (rt_tables)."""

_UNPROVEN = "the ENI's own way is not proven"


class Adoption(NamedTuple):
    """What is taken over, and what is left."""

    changes: Tuple[Change, ...] = ()
    """For when ours is there and proven; in order."""
    lines: Tuple[Line, ...] = ()
    """To comment out when that has worked."""
    left: Tuple[str, ...] = ()
    """What looks like it and stays, and why."""


def places(listing: Listing, rules: Sequence[SeenRule], scripts: Sequence[Script], config: Config) -> Set[int]:
    """The tables that ``adoption`` wants to look into."""
    own = {source for interface in listing.interfaces for subnet in interface.subnets for source in subnet.sources}
    found = {rule.table for rule, protocol in rules
             if not owns_rule(rule, protocol, config) and _is_plain(rule) and rule.src in own}
    for script in scripts:
        for text in script.lines:
            found |= {item.table for item in typed(text) or ()}
    return found.difference(_KERNEL_S_TABLES)


def adoption(decision: Decision, snapshot: Snapshot, scripts: Sequence[Script], config: Config,
             sound: Optional[AbstractSet[str]] = None, started: bool = True) -> Adoption:
    """What can be taken over.

    ``sound``: the devices of the ENIs whose own way is proven, by default all. ``started``: something starts the agent
    at boot; if nothing does, the lines of scripts are still needed then.
    """
    search = _Search(decision, snapshot, scripts, config, sound)
    tables, rules, routes = search.tables()
    added, gone = search.main()
    lines = search.lines(scripts, started or any(_STARTS.match(text) for script in scripts for text in script.lines))
    return Adoption(tuple(tables + added + rules + routes + gone), tuple(lines), tuple(dict.fromkeys(search.left)))


class _Owner(NamedTuple):
    """An address family of an ENI, and what its own table holds of it."""

    family: EniFamily
    ways: FrozenSet[Route]
    """``_bare``: its default, its vSwitch, its gateway, the fence."""

    @property
    def version(self) -> int:
        return self.family.version

    @property
    def dev(self) -> str:
        return self.family.dev

    @property
    def table(self) -> int:
        return self.family.table

    @property
    def sources(self) -> Tuple[Network, ...]:
        return self.family.subnet.sources

    @property
    def hops(self) -> Tuple[Hop, ...]:
        return (self.family.hop,)

    def has(self, route: Route) -> bool:
        return route.version == self.version and _bare(route, self.family.subnet) in self.ways


class _Search:
    """One look for what was typed."""

    def __init__(self, decision: Decision, snapshot: Snapshot, scripts: Sequence[Script], config: Config,
                 sound: Optional[AbstractSet[str]]) -> None:
        self._decision, self._snapshot, self._config, self._sound = decision, snapshot, config, sound
        self._owners = [_owner(family, decision) for family in decision.families if not family.primary]
        self._wanted = {route.key: route for route in decision.routes}
        self._ours: Set[Rule] = set()
        self._leading: Dict[Tuple[int, int], List[SeenRule]] = defaultdict(list)
        for seen in snapshot.rules:
            if owns_rule(seen.rule, seen.protocol, config):
                self._ours.add(seen.rule)
            elif seen.rule.action == "lookup":
                self._leading[seen.rule.version, seen.rule.table].append(seen)
        self._holding: Dict[Tuple[int, int], List[SeenRoute]] = defaultdict(list)
        for held in snapshot.routes:
            self._holding[held.route.version, held.route.table].append(held)
        items = [item for script in scripts for text in script.lines for item in typed(text) or ()]
        self._told = {(item.version, item.table) for item in items
                      if isinstance(item, Route) and any(owner.has(item) for owner in self._owners)}
        """Tables that a line of a script fills for an ENI: then it is known what an empty one is for."""
        self._worst_main = MainTable(snapshot, config)
        self._primaries = {eni.dev for eni in decision.enis if eni.primary}
        self._primaries |= {member.dev for member in decision.unready if member.primary}
        self._left_in_main: Set[Tuple[str, int]] = set()
        self._exposing: Dict[Tuple[int, int], str] = {}
        """Tables that would be free to go if other rules were not uncovered by that, and by which."""
        self.left: List[str] = []
        self._keep_what_covers()

    # tables of their own

    def tables(self) -> Tuple[List[Change], List[Change], List[Change]]:
        """What becomes ours, rules and routes that go."""
        ours: List[Change] = []
        rules: List[Change] = []
        routes: List[Change] = []
        for owner in self._owners:
            candidates = self._candidates(owner)
            told = {table for version, table in self._told if version == owner.version}
            for table in sorted({owner.table} | told | {seen.rule.table for seen in candidates}):
                held = [seen for seen in self._holding[owner.version, table]
                        if seen.protocol in TYPED and owner.has(seen.route)]
                led = [seen for seen in candidates if seen.rule.table == table]
                reason = self._why_not(owner, table)
                if reason:
                    named = [_words(seen.rule) for seen in led] or [str(seen.route) for seen in held]
                    self.left += ["{} ({}): {}".format(what, owner.dev, reason) for what in named]
                    continue
                for rule, protocol in led:
                    if rule in self._ours and not protocol:
                        # Told no protocol, the kernel would take the first of the two, which is ours.
                        self.left.append("{}: a twin of ours, which does no harm".format(rule))
                        continue
                    if rule in self._decision.rules and rule not in self._ours:
                        # So far it stood for ours.
                        ours.append(Change("add", rule, self._config.protocol_networkd_safe))
                    rules.append(Change("remove", rule, protocol))
                for route, protocol, _ in held:
                    wanted = self._wanted.get(route.key)
                    if wanted is None:
                        routes.append(Change("remove", route, protocol))
                    elif route.hops:
                        ours.append(Change("replace", wanted, self._config.protocol))
            self.left += ["{}: this version can't read all that it asks for".format(_words(rule))
                          for leading in self._leading.values() for rule, _ in leading
                          if rule.src in owner.sources and UNKNOWN in rule.other]
        return ours, rules, routes

    def _candidates(self, owner: _Owner) -> List[SeenRule]:
        return [seen for leading in list(self._leading.values()) for seen in leading
                if seen.rule.version == owner.version and _is_plain(seen.rule) and seen.rule.src in owner.sources]

    def _keep_what_covers(self) -> None:
        """A rule that somebody else's would take the place of, in front of ours, is left; until no more are found."""
        going = {seen.rule: owner for owner in self._owners for seen in self._candidates(owner)
                 if not self._why_not(owner, seen.rule.table)}
        again = True
        while again:
            again = False
            for rule, owner in going.items():
                uncovered = self._next_to_catch(rule, owner, going)
                key = owner.version, rule.table
                if uncovered is not None and key not in self._exposing:
                    self._exposing[key] = str(uncovered)
                    again = True
            going = {rule: owner for rule, owner in going.items() if (rule.version, rule.table) not in self._exposing}

    def _next_to_catch(self, rule: Rule, owner: _Owner, going: Dict[Rule, _Owner]) -> Optional[Rule]:
        """Between a rule and ours for the same source: another one that stays and that catches the source."""
        end = next((ours.priority for ours in self._decision.rules
                    if (ours.src, ours.table) == (rule.src, owner.table)), 0)
        for other, protocol in self._snapshot.rules:
            if other.version != rule.version or not rule.priority <= other.priority < end or other in going:
                continue
            if owns_rule(other, protocol, self._config):
                continue
            for_all = other.src is None and other.match == ANY and not other.oif and other.suppress_prefixlength is None
            if for_all and (other.table == MAIN or other.action != "lookup"):
                return other
            if other.src is not None and rule.src is not None and other.src.overlaps(rule.src):
                return other
        return None

    def _why_not(self, owner: _Owner, table: int) -> str:
        """Why a table, with the rules that lead to it, must stay as it is; or ""."""
        if table in _KERNEL_S_TABLES:
            return "that table is no ENI's"
        leading = self._leading[owner.version, table]
        for rule, protocol in leading:
            if not (_is_plain(rule) and rule.src in owner.sources):
                return "something else leads to table {} too: {}".format(table, rule)
            if protocol not in TYPED:
                return "a program made it or one like it (protocol {}), and may make it again".format(protocol)
        held = self._holding[owner.version, table]
        if table != owner.table:
            for route, protocol, _ in held:
                if protocol not in TYPED or not owner.has(route):
                    return "table {} holds more than the ENI's own way: {}".format(table, route)
            if leading and not held and (owner.version, table) not in self._told:
                return "nothing is in table {}, so that nothing tells what it is for".format(table)
        if (owner.version, table) in self._exposing:
            return "behind it and in front of ours stands " + self._exposing[owner.version, table]
        if not self._is_sound(owner) and (leading or held):
            return _UNPROVEN
        return ""

    def _is_sound(self, owner: _Owner) -> bool:
        return self._sound is None or owner.dev in self._sound

    # main

    def main(self) -> Tuple[List[Change], List[Change]]:
        """Main's default routes: those that come or become ours, and those that go."""
        config, taken = self._config, []
        for owner in self._owners:
            for seen in self._holding[owner.version, MAIN]:
                if not self._is_typed_default(seen, owner):
                    continue
                if not self._is_worse(seen.route):
                    self._leave_in_main(owner, seen.route, "it is no worse than the primary's, so that main goes by it")
                elif not self._is_sound(owner):
                    self._leave_in_main(owner, seen.route, _UNPROVEN)
                else:
                    taken.append((owner, seen))
        rest = self._snapshot._replace(routes=tuple(
            seen for seen in self._snapshot.routes if seen not in [each for _, each in taken]))
        wanted = main_defaults(self._decision.families, self._primaries, MainTable(rest, config), config)
        present = {seen.route for seen in rest.routes}
        made: List[Change] = []
        gone: List[Change] = []
        for owner, (route, protocol, _) in taken:
            own = [each for each in wanted if each.hops == owner.hops]
            if not own and not any(owner.dev in each.devs() for each in present
                                   if each.table == MAIN and each.is_default and each.version == owner.version):
                self._leave_in_main(owner, route, "the kernel would not take ours")
            elif route in own:
                made.append(Change("replace", route, config.protocol))
            else:
                made += [Change("add", each, config.protocol) for each in own
                         if each not in present and each not in [seen.route for _, seen in taken]]
                gone.append(Change("remove", route, protocol))
        return list(dict.fromkeys(made)), gone

    def _is_typed_default(self, seen: SeenRoute, owner: _Owner) -> bool:
        route = seen.route
        plain = Route(MAIN, route.dst, owner.hops, metric=route.metric)
        return seen.protocol in TYPED and not seen.expires and route.is_default and route == plain

    def _is_worse(self, route: Route) -> bool:
        main = self._worst_main
        return main.has_better(route.version, route.metric) and route.metric > main.metric(
            route.version, self._primaries)

    def _leave_in_main(self, owner: _Owner, route: Route, reason: str) -> None:
        self._left_in_main.add((owner.dev, owner.version))
        self.left.append("{}: {}".format(route, reason))

    # boot scripts

    def lines(self, scripts: Sequence[Script], started: bool) -> List[Line]:
        """The lines that do what we do and nothing else."""
        found = []
        for script in scripts:
            inside = nested(script.lines)
            for number, text in enumerate(script.lines, 1):
                if not self._mentions(text):
                    continue
                devs: Set[str] = set()
                reason = "what it does depends on the lines around it" if inside[number - 1] else ""
                items = typed(text)
                if not items:
                    reason = "it is not, or not only, what the vendor's page has people type"
                for item in items or ():
                    owner, why_not = self._owner_of(item)
                    reason = reason or why_not
                    if owner is not None:
                        devs.add(owner.dev)
                if not started:
                    reason = reason or "nothing starts eni-bootstrap at boot instead; run eni-bootstrap install first"
                if reason:
                    self.left.append("line {} of {} ({}): {}".format(number, script.path, text.strip(), reason))
                else:
                    found.append(Line(script.path, number, text, frozenset(devs)))
        return found

    def _mentions(self, text: str) -> bool:
        """Whether it is about routes or rules of a secondary ENI."""
        words = set(re.split("[^\\w.:@\udc80-\udcff-]+", text.split("#")[0]))
        names = {owner.dev for owner in self._owners} | {
            str(source.network_address) for owner in self._owners for source in owner.sources}
        return bool(names & words) and bool(re.search(r"\b(ip|route)\s", text))

    def _owner_of(self, item: Typed) -> Tuple[Optional[_Owner], str]:
        """Whose a typed command is; or why it stays."""
        for owner in self._owners:
            if item.version != owner.version:
                continue
            if isinstance(item, Rule):
                mine = item.src in owner.sources
            else:
                mine = item.is_default and item.hops == owner.hops if item.table == MAIN else owner.has(item)
            if not mine:
                continue
            if isinstance(item, Rule) or item.table != MAIN:
                reason = self._why_not(owner, item.table)
            elif (owner.dev, owner.version) in self._left_in_main or not self._is_worse(item):
                reason = "main's default route by {} stays as it is".format(owner.dev)
            else:
                reason = ""
            return owner, reason or ("" if self._is_sound(owner) else _UNPROVEN)
        return None, "it does not match an ENI's own address and gateway"


def _owner(family: EniFamily, decision: Decision) -> _Owner:
    own = (family.vswitch, network_of(family.gateway))
    return _Owner(family, frozenset(
        _bare(route, family.subnet) for route in decision.routes if route.table == family.table
        and route.version == family.version and (route.is_default or route.dst in own)))


def _bare(route: Route, subnet: Subnet) -> Route:
    """A route without what makes no difference in a table that only the ENI's own sources get to."""
    suggests = None if route.prefsrc in subnet.addresses[:1] else route.prefsrc
    return route._replace(table=0, metric=0, prefsrc=suggests)


def _is_plain(rule: Rule) -> bool:
    """Whether it has a source and a table and nothing else; its priority may be the kernel's choice."""
    return rule.src is not None and rule == Rule(rule.version, rule.priority, rule.src, table=rule.table)


def _words(rule: Rule) -> str:
    """Without the priority, so that the copies of a doubled rule are one."""
    return str(rule).rpartition(" priority ")[0]

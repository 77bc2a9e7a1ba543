"""For random ENIs among random things of other people: what must hold whatever they are."""

from ipaddress import ip_network

from hypothesis import HealthCheck, assume, event, given, settings, strategies as st

from eni_bootstrap.desired.decide import Record, decide
from eni_bootstrap.kernel import record
from eni_bootstrap.lab.vpc import macs_of, make_tree
from eni_bootstrap.metadata.parser import parse_interfaces
from eni_bootstrap.model.kernel import MAIN, Hop, Link, LinkAddress, Route, Rule, SeenRoute, SeenRule, Snapshot
from eni_bootstrap.plan.diff import plan, withdrawal
from eni_bootstrap.plan.ownership import owned
from tests.build import CONFIG, DHCP, KERNEL, OURS, STATIC, net
from tests.effort import times
from tests.fakes import FakeKernel

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
PURE = settings(max_examples=times(150), deadline=None, derandomize=True, database=None, suppress_health_check=SLOW)


NAMES = ["eth0", "eth1", "eth2", "eth3", "eth7", "eth99", "ens5", "ens6", "ens10", "enp1s0", "enp2s0"]
TABLES = [7, 52, 999, 1000, 1001, 1002, 1003, 1100, 1101, 1999, 2000]
PRIORITIES = [1, 100, 5270, 6999, 7000, 7100, 7200, 7300, 7400, 7500, 7600, 7777, 7999, 8000, 30000]
OUTSIDE = [priority for priority in PRIORITIES if not CONFIG.owns_priority(priority)]


@st.composite
def trees(draw, ipv6_only=True):
    """1 to 6 ENIs in up to 3 vSwitches; each with its own number of addresses, prefixes and families."""
    count = draw(st.integers(1, 6))
    members = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    tree = make_tree(count, addresses=4, ipv6=True, vswitches=members, prefix=True)
    for mac, leaves in macs_of(tree).items():
        for names in (("private-ipv4s",), ("ipv6s",)):
            kept = draw(st.integers(1, 4))
            tokens = leaves[names[0]].strip("[]").replace('"', "").split(",")[:kept]
            leaves[names[0]] = ",".join(token.strip() for token in tokens)
        families = draw(st.sampled_from(["4", "46", "6"] if ipv6_only and mac != tree["mac"] else ["4", "46"]))
        gone = draw(st.sets(st.sampled_from(["ipv4-prefixes", "ipv6-prefixes"])))
        gone |= {name for name in leaves if "6" not in families and "ipv6" in name}
        if "4" not in families:
            gone |= {"private-ipv4s", "primary-ip-address", "gateway", "netmask", "vswitch-cidr-block", "ipv4-prefixes"}
        for name in gone:
            leaves.pop(name, None)
    return tree


@st.composite
def snapshots(draw, listing):
    """What an operating system and others may have made of these ENIs."""
    names = draw(st.permutations(NAMES))
    links, addresses, routes = [Link(1, "lo", "00:00:00:00:00:00")], [], []
    for place, interface in enumerate(listing.interfaces):
        dev, done = names[place], draw(st.sampled_from(["dhcp", "up", "down", "bare"]))
        if interface.primary:
            done = "dhcp"
        group = draw(st.sampled_from([0] * 12 + [7]))
        links.append(Link(place + 2, dev, interface.mac, up=done != "down", group=group))
        for subnet in interface.subnets if done in ("dhcp", "up") else ():
            six = subnet.version == 6
            addresses.append(LinkAddress(dev, subnet.addresses[0], 128 if six else subnet.vswitch.prefixlen))
            if not six:
                routes.append(SeenRoute(Route(MAIN, subnet.vswitch, (Hop(dev),)), KERNEL))
            if done == "dhcp":
                metric = 100 * (place + 1) + 1024 * six
                routes.append(SeenRoute(Route(MAIN, net("::/0" if six else "0.0.0.0/0"),
                                              (Hop(dev, subnet.gateway),), metric=metric), DHCP))
    links.append(Link(90, "docker0", "02:42:00:00:00:01", "bridge"))
    sources = [ip_network(address) for interface in listing.interfaces for subnet in interface.subnets
               for address in subnet.addresses] + [net("10.9.0.0/16"), net("fd00::/8"), net("172.16.0.0/12")]
    hops = [(Hop(link.name),) for link in links[1:]]
    hops += [(Hop(dev, subnet.gateway),) for dev, interface in zip(names, listing.interfaces)
             for subnet in interface.subnets]
    routes += draw(st.lists(_foreign_route(hops, listing), max_size=6))
    keyed = {seen.route.key: seen for seen in reversed(routes)}
    rules = draw(st.lists(_foreign_rule(sources, [link.name for link in links]), max_size=6, unique=True))
    return Snapshot(tuple(links), tuple(addresses), tuple(rules), tuple(keyed.values()))


@st.composite
def _foreign_rule(draw, sources, devs):
    src = draw(st.none() | st.sampled_from(sources))
    version = src.version if src is not None else draw(st.sampled_from([4, 6]))
    priority = draw(st.sampled_from(PRIORITIES))
    protocols = [0, 3, STATIC, 16] + ([OURS] if priority in OUTSIDE else [])
    oif = draw(st.sampled_from(["", ""] + devs))
    return SeenRule(Rule(version, priority, src, oif, table=draw(st.sampled_from([MAIN] + TABLES))),
                    draw(st.sampled_from(protocols)))


@st.composite
def _foreign_route(draw, hops, listing):
    hop = draw(st.sampled_from(hops))
    gateway = hop[0].gateway
    version = gateway.version if gateway is not None else draw(st.sampled_from([4, 6]))
    blocks = [subnet.vswitch for interface in listing.interfaces for subnet in interface.subnets]
    blocks += [net("0.0.0.0/0"), net("::/0"), net("198.18.7.0/24"), net("fd07::/64"), net("172.17.0.0/16")]
    dst = draw(st.sampled_from([block for block in blocks if block.version == version]))
    table = draw(st.sampled_from([MAIN] * 4 + TABLES))
    metrics = [0, 50, 100, 200, 4294967295] if version == 4 else [1, 1024, 1124]
    protocols = [3, STATIC, 16, 186] + ([OURS] if not CONFIG.owns_table(table) and table != MAIN else [])
    kind = draw(st.sampled_from(["unicast"] * 5 + ["blackhole", "unreachable"]))
    return SeenRoute(Route(table, dst, hop if kind == "unicast" else (), kind, draw(st.sampled_from(metrics))),
                     draw(st.sampled_from(protocols)))


@st.composite
def situations(draw):
    listing = parse_interfaces(draw(trees()))
    assert not listing.sick
    return listing, draw(snapshots(listing))


def everybody_gave_up(snapshot):
    return frozenset((link.name, version) for link in snapshot.links for version in (4, 6))


def apply_once(listing, snapshot, made):
    """What one run makes of it: the decision, the changes, the state after them."""
    decision = decide(listing, snapshot, made, everybody_gave_up(snapshot), CONFIG)
    todo = plan(decision, snapshot, made, CONFIG)
    made = record.before(made, todo.links + todo.addresses, snapshot.links, (), CONFIG.group)
    after = FakeKernel(snapshot).apply(todo.changes)
    return decision, todo, after, record.after(made, todo.changes, CONFIG.group)


def foreign(snapshot):
    ours = owned(snapshot, [link.name for link in snapshot.links if link.kind == ""], CONFIG)
    return ({seen for seen in snapshot.rules if seen.protocol != OURS or seen.rule not in ours.rules},
            {seen for seen in snapshot.routes if seen.protocol != OURS or seen.route not in ours.routes})


@PURE
@given(situations())
def test_a_second_plan_is_empty_and_remove_restores_everything(situation):
    listing, snapshot = situation
    decision, todo, after, made = apply_once(listing, snapshot, Record())
    _, again, _, _ = apply_once(listing, after, made)
    assert [str(change) for change in again.changes] == []
    assert foreign(after) == foreign(snapshot)
    undone = FakeKernel(after).apply(withdrawal(after, made, set(), CONFIG).changes)
    assert set(undone.rules) == set(snapshot.rules) and set(undone.routes) == set(snapshot.routes)
    assert set(undone.links) == set(snapshot.links) and set(undone.addresses) == set(snapshot.addresses)
    event("changes: {}".format(bool(todo.changes)))
    event("displaced: {}".format(any("instead" in remark for remark in decision.remarks)))


@PURE
@given(situations())
def test_a_decision_keeps_within_its_bounds(situation):
    listing, snapshot = situation
    decision = decide(listing, snapshot, Record(), everybody_gave_up(snapshot), CONFIG)
    tables = [decision.table_of(eni.dev) for eni in decision.enis]
    assert len(tables) == len(set(tables)) and all(map(CONFIG.owns_table, tables))
    assert len(decision.routes) == len({route.key for route in decision.routes})
    assert len(decision.rules) == len(set(decision.rules))
    by_table = {family.table: family.dev for family in decision.families}
    secondaries = {eni.dev for eni in decision.enis if not eni.primary}
    for route in decision.routes:
        if route.table == MAIN:
            assert route.is_default and set(route.devs()) <= secondaries
        else:
            assert set(route.devs()) <= {by_table[route.table]}
    primary = min([route.metric for route, _, _ in snapshot.routes if route.table == MAIN and route.version == 4
                   and route.is_default and not secondaries.intersection(route.devs())], default=0)
    assert all(route.metric > primary for route in decision.routes if route.table == MAIN and route.version == 4)
    for rule in decision.rules:
        assert CONFIG.owns_priority(rule.priority)
        if rule.src is None:
            assert rule.oif in secondaries or rule.table == MAIN and rule.suppress_prefixlength == 0
        else:
            assert rule.src.prefixlen > 0 and (rule.action == "unreachable" or rule.src in decision.sources_of(
                by_table[rule.table]))
    if not secondaries:
        assert not decision.rules and not decision.routes and not decision.groups


@PURE
@given(situations(), st.randoms(use_true_random=False))
def test_the_order_of_the_answer_means_nothing(situation, chance):
    listing, snapshot = situation
    mixed = list(listing.interfaces)
    chance.shuffle(mixed)
    shuffled = listing._replace(interfaces=tuple(mixed))
    results = [apply_once(each, snapshot, Record()) for each in (listing, shuffled)]
    assert set(results[0][2].rules) == set(results[1][2].rules)
    assert set(results[0][2].routes) == set(results[1][2].routes)


@PURE
@given(situations(), st.data())
def test_an_eni_keeps_its_table_whatever_comes_and_goes(situation, data):
    listing, snapshot = situation
    assume(len(listing.interfaces) > 2)
    decision, _, after, made = apply_once(listing, snapshot, Record())
    gone = data.draw(st.sampled_from(listing.interfaces[1:]))
    fewer = listing._replace(interfaces=tuple(each for each in listing.interfaces if each is not gone))
    dev = next(link.name for link in snapshot.links if link.mac == gone.mac)
    without = after._replace(
        links=tuple(link for link in after.links if link.name != dev),
        addresses=tuple(held for held in after.addresses if held.dev != dev),
        routes=tuple(seen for seen in after.routes if dev not in seen.route.devs()))
    made = made._replace(ups=made.ups - {dev}, groups=tuple(each for each in made.groups if each.dev != dev),
                         addresses=frozenset(held for held in made.addresses if held.dev != dev))
    later, _, _, _ = apply_once(fewer, without, made)
    for family in later.families:
        if not family.primary:
            before = next(before for before in decision.families if before.key == family.key)
            assert family.table == before.table
            # The number of a displaced one follows from its name, which may mean its position.
            assert family.number == before.number or family.table >= 1100

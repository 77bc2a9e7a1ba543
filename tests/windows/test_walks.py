"""Random walks between worlds: whatever happens to a Windows, apply makes of it what it should, and no more."""

import pathlib
import tempfile
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as some

from tests.build import interface, subnet
from tests.effort import times
from tests.windows.host import V4, V6, Instance

ENIS = range(4)
"""0 is the primary; 1 and 3 share its vSwitch."""

METRICS = (0, 703)
"""Of what somebody types: none that ours could have."""

STEPS = some.one_of(
    some.tuples(some.sampled_from(("plug", "unplug", "disable", "enable", "dhcp", "gateway")), some.sampled_from(ENIS)),
    some.tuples(some.just("list"), some.sets(some.sampled_from(ENIS))),
    some.tuples(some.just("metric"), some.sampled_from(ENIS), some.sampled_from((4, 5)), some.integers(1, 60)),
    some.tuples(some.just("type"), some.sampled_from(ENIS), some.booleans(), some.sampled_from(METRICS),
                some.booleans()),
    some.tuples(some.just("reboot"), some.booleans()),
)


def four(number):
    return ("172.16.20.{}" if number == 2 else "172.16.10.{}").format(10 + number)


def six(number):
    return "2001:db8:{}::{}".format(2 if number == 2 else 1, 10 + number)


class Walk:
    """What the world is, without asking the agent."""

    def __init__(self, instance):
        self.instance, self.windows = instance, instance.windows
        self.index, self.last = {}, {}
        self.fresh = 5
        self.listed = set(ENIS)
        self.moved = set()
        for number in ENIS:
            self.plug(number)

    def gateway(self, number, version):
        if version == 6:
            return str(ip_address("2001:db8:{}::{}".format(2 if number == 2 else 1, 2 if number in self.moved else 1)))
        return ("172.16.20.{}" if number == 2 else "172.16.10.{}").format(252 if number in self.moved else 253)

    def plug(self, number):
        if number not in self.index:
            self.fresh += 1
            self.index[number] = self.windows.plug(
                number, four(number) + "/24", six(number) + "/64", index=self.fresh,
                gateway=None if number else "172.16.10.253", own_metric=0)

    def unplug(self, number):
        if number and number in self.index:
            self.windows.unplug(self.index.pop(number))

    def disable(self, number):
        if number and number in self.index:
            self.windows.disable(self.index[number])

    def enable(self, number):
        if number in self.index and not self.windows.adapters[self.index[number]][3]:
            self.windows.enable(self.index[number])

    def dhcp(self, number):
        """Its server tells a gateway from now on; what is there already is taken over."""
        key = (V4, self.index.get(number), self.gateway(number, 4))
        if number in self.index and self.windows.adapters[key[1]][3]:
            self.windows.own[key] = self.windows.active[key] = 0

    def gateway_moves(self, number):
        if number:
            self.moved ^= {number}

    def type_route(self, number, own, metric, persistent):
        if number in self.index and self.windows.adapters[self.index[number]][3]:
            gateway = self.gateway(number, 4) if own else "172.16.10.99"
            self.windows.type_route(V4, self.index[number], gateway, metric, persistent)

    def reboot(self, renumbered):
        mapping = {}
        if renumbered:
            for number, index in self.index.items():
                self.fresh += 1
                mapping[index] = self.index[number] = self.fresh
        self.windows.reboot(mapping)

    def step(self, what, *how):
        if what == "list":
            self.listed = how[0] | {0}
        elif what == "metric":
            number, version, metric = how[0], 4 if how[1] == 4 else 6, how[2]
            if number in self.index:
                self.windows.metrics[self.index[number], version] = metric
        else:
            getattr(self, {"type": "type_route", "gateway": "gateway_moves"}.get(what, what))(*how)
        self.instance.list(*(interface(
            number, subnet("172.16.20.0/24" if number == 2 else "172.16.10.0/24", four(number),
                           gateway=self.gateway(number, 4)),
            subnet("2001:db8:{}::/64".format(2 if number == 2 else 1), six(number), gateway=self.gateway(number, 6)),
            primary=not number) for number in sorted(self.listed)))

    def others(self):
        """All that is not ours."""
        active, persistent = self.windows.state()
        return [{key: metric for key, metric in active.items()
                 if key in self.windows.typed or key in self.windows.own},
                {key: metric for key, metric in persistent.items() if key in self.windows.typed_for_good}]

    def check(self):
        before = self.others()
        done = self.instance("apply", "--unattended")
        assert done.code in (0, 1) and "unexpected" not in done.err, done
        assert self.others() == before, "touches what is not ours"
        ours = [key for key in self.windows.active if key not in self.windows.typed and key not in self.windows.own]
        assert not [key for key in ours if key[1] == self.index[0]], "touches the primary"
        self.windows.commands.clear()
        again = self.instance("apply", "--unattended")
        assert not self.windows.commands and again.code == done.code, "a second run has something to do"
        for number in self.listed - {0}:
            self.check_eni(number, done)
        for key in [key for key in ours if key[1] in [self.index.get(number) for number in self.listed]]:
            primary = [self.windows.effective(other) for other in self.windows.active
                       if other[:2] == (key[0], self.index[0])]
            assert self.windows.effective(key) > min(primary, default=0), "beats the primary"

    def check_eni(self, number, done):
        index = self.index.get(number)
        if index is None or not self.windows.adapters[index][3]:
            assert done.code == 1
            return
        for version, prefix, address, far in ((4, V4, four(number), "203.0.113.1"), (6, V6, six(number), "3fff::1")):
            if any(key[:2] == (prefix, index) for key in self.windows.typed
                   if key in self.windows.active or key in self.windows.persistent):
                continue
            found = self.windows._answer("Find-NetRoute", {"-RemoteIPAddress": far, "-LocalIPAddress": address})
            own = [key for key in self.windows.own if key[:2] == (prefix, index)]
            assert found["index"] == index and (own or found["gateway"] == self.gateway(number, version)), done
            keys = [key for key in self.windows.active if key[:2] == (prefix, index) and key not in self.windows.own]
            if not own:
                assert [self.windows.persistent[key] for key in keys] == [self.windows.active[key] for key in keys]


@settings(max_examples=times(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some.lists(STEPS, max_size=12))
@example([("list", set()), ("gateway", 3), ("metric", 0, 4, 16), ("type", 3, False, 0, False), ("list", set(ENIS))])
def test_whatever_happens(steps):
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch = pytest.MonkeyPatch()
        try:
            walk = Walk(Instance(pathlib.Path(folder), monkeypatch))
            for step in [("list", set(ENIS))] + steps:
                walk.step(*step)
                walk.check()
            before = walk.others()
            assert walk.instance("remove").code == 0
            assert walk.others() == before
            assert list(walk.windows.state()) == before, "something of ours is left"
        finally:
            monkeypatch.undo()

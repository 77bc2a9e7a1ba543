"""A kernel as sets: strict, so that a plan which does what a kernel would refuse fails the test. And a clock."""

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.changes import Change
from eni_bootstrap.model.kernel import LinkAddress, LinkGroup, LinkUp, Route, SeenRoute, SeenRule


class Clock:
    """A clock that only ``sleep`` moves."""

    def __init__(self, now=0.0):
        self.now = now
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


class FakeKernel:
    """Holds a snapshot and takes changes."""

    def __init__(self, snapshot):
        self.snapshot = snapshot

    def apply(self, changes):
        for change in changes:
            assert isinstance(change, Change)
            self._apply(change)
        return self.snapshot

    def _apply(self, change):
        item, present = change.item, self.snapshot
        if isinstance(item, (LinkGroup, LinkUp)):
            value = {"group": item.group} if isinstance(item, LinkGroup) else {"up": change.verb == "add"}
            assert item.dev in [link.name for link in present.links]
            self.snapshot = present._replace(links=tuple(
                link._replace(**value) if link.name == item.dev else link for link in present.links))
        elif isinstance(item, LinkAddress):
            held = set(present.addresses)
            self._toggle(change, item, held)
            self.snapshot = present._replace(addresses=tuple(sorted(held, key=str)))
        elif isinstance(item, Route):
            routes = set(present.routes)
            seen = SeenRoute(item, change.protocol)
            holder = [other for other in routes if other.route.key == item.key]
            if change.verb == "replace":
                equal = [other.route for other in holder] == [item]  # what is typed may become ours
                assert equal or [other.protocol for other in holder] == [Config().protocol], "replaces somebody else's"
                routes -= set(holder)
            elif change.verb == "add":
                assert not holder, "the kernel says EEXIST"
                ups = {link.name for link in present.links if link.up}
                assert ups.issuperset(item.devs()), "the kernel says ENETDOWN"
            self._toggle(change, seen, routes)
            self.snapshot = present._replace(routes=tuple(sorted(routes, key=str)))
        else:
            rules = list(present.rules)
            seen = SeenRule(item, change.protocol)
            if change.verb == "remove":
                rules.remove(seen)
            else:
                assert seen not in rules, "the kernel says EEXIST"
                rules.append(seen)
            self.snapshot = present._replace(rules=tuple(rules))

    @staticmethod
    def _toggle(change, item, items):
        if change.verb == "remove":
            assert item in items, "the kernel says ESRCH"
            items.remove(item)
        else:
            items.add(item)

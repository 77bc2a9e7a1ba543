"""``python -m tests.telling < situations``: all that is decided, planned and shown for hosts, as text.

A program, so that it can be run with one hash seed and another: no text may tell them apart.
"""

import json
import pickle
import sys

from eni_bootstrap.agent.report import Report, reported
from eni_bootstrap.agent.text import as_json, plan_text, status_text
from eni_bootstrap.config.settings import Entry, Source, Spread
from eni_bootstrap.desired.decide import decide
from eni_bootstrap.desired.tables import Memory
from eni_bootstrap.kernel import record
from eni_bootstrap.metadata.dump import Saved
from eni_bootstrap.model.changes import Numbering, Record
from eni_bootstrap.model.eni import SickInterface
from eni_bootstrap.model.host import ContainerNetwork
from eni_bootstrap.plan.diff import Before, plan, withdrawal
from eni_bootstrap.plan.ownership import outdated, without
from eni_bootstrap.render import FORMATS, formats, output
from eni_bootstrap.verify.checks import VerifyInput, all_checks, shadowing_rules
from eni_bootstrap.verify.installed import recall
from tests.build import CONFIG, net
from tests.fakes import FakeKernel

ALL = CONFIG._replace(
    primary="full", prefixes="local", assign="all", connection_marks=0xFF0000, only=("*",),
    extra=(Source(1, "eth1", (net("10.9.1.0/24"), net("10.9.2.0/24"))),),
    entries=(Entry(2, "eth1", "", src=(net("10.9.0.0/16"), net("fd00::/8")), dports=((80, 80), (443, 443))),
             Entry(3, "", "prohibit", dst=(net("198.18.0.0/15"),), protocols=(6, 17)), Entry(4, "ens*", "")),
    spreads=(Spread(5, (), (("eth*", 1), ("en*", 2))),))
FORMER = ALL.renumbered(Numbering(3000, 9000, 186, 77))
NETWORKS = [ContainerNetwork("Cilium", "/etc/cni/net.d/05-cilium.conf", True, frozenset(["ens5", "eth7", "eth3"]))]


def tell(listing, snapshot):
    """Lines of text about a host: before us, set up, with an ENI that has become unfit, with other numbers, without."""
    over = frozenset((link.name, version) for link in snapshot.links for version in (4, 6))
    for config in (CONFIG._replace(group=0), ALL):
        decision, todo, made, after = yield from _run(listing, snapshot, Record(), over, config)
        yield from _shown(recall(after, config), after, config)
        last = listing.interfaces[-1]
        sick = SickInterface(last.eni_id, last.mac, last.primary, "gateway is missing", True)
        yield from _run(listing._replace(interfaces=listing.interfaces[:-1], sick=(sick,)), after, made, over, config)
        yield from _run(listing._replace(interfaces=listing.interfaces[:1]), after, made, over, config)
        yield from _run(listing, after, made, over, config._replace(protocol_networkd_safe=2))
        yield from map(str, withdrawal(after, made, set(), config, [FORMER]).changes)
    yield from _run(listing, after, made, over, FORMER, former=[ALL])
    for name in FORMATS:
        files, problems = formats.render(name, Saved({}, listing, {}), ALL._replace(extra=()))
        yield output.text(files) + "\n".join(map(str, problems))


def _run(listing, snapshot, made, over, config, former=()):
    left = outdated(snapshot, [link.name for link in snapshot.links], former, config)
    decision = decide(listing, without(snapshot, left), made, over, config, NETWORKS)
    todo = plan(decision, snapshot, made, config, Before(tuple(former), left))
    yield plan_text(Report(decision, reported(todo.changes), decision.findings))
    yield repr((todo.conflicts, decision.routes, decision.rules, decision.addresses, decision.groups, decision.settings,
                decision.families, decision.marked, decision.unready, sorted(decision.kept_tables),
                sorted(decision.kept_families)))
    yield from _shown(decision, snapshot, config)
    yield repr([Memory(snapshot, config).tables_of(eni.dev, decision.sources_of(eni.dev)) for eni in decision.enis])
    made = record.before(made, todo.links + todo.addresses, snapshot.links, [eni.dev for eni in decision.enis],
                         config.group)
    after = FakeKernel(snapshot).apply(todo.changes)
    return decision, todo, record.after(made, todo.changes, config.group), after


def _shown(decision, snapshot, config):
    report = Report(decision, (), decision.findings)
    yield status_text(report) + json.dumps(as_json(report))
    facts = VerifyInput(decision.families, snapshot.addresses, snapshot.rules)
    yield repr(all_checks(facts)) + repr(shadowing_rules(facts, config))


if __name__ == "__main__":
    for situation in pickle.load(sys.stdin.buffer):
        for text in tell(*situation):
            print(text)

"""Linux's part of ``reconcile``: the kernel, the record, connection marks, and the look-ups that must not change."""

from typing import ContextManager, Dict, FrozenSet, List, Tuple

from eni_bootstrap.agent import observe, prove
from eni_bootstrap.agent.apply import execute, make, mark_connections, refusal
from eni_bootstrap.agent.observe import Context, Observation
from eni_bootstrap.agent.reconcile import Platform, Removed, Round
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.kernel import record
from eni_bootstrap.model.changes import Change
from eni_bootstrap.model.eni import Listing
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import Answer, Route

RETRIES = 3
"""Immediate retries, beside one for each ENI, which may wait for the next one's table: who is overtaken more often is
not the only one at work here."""


class LinuxPlatform(Platform):
    """This host's kernel, in the network namespace of the calling thread."""

    def __init__(self, world: Context) -> None:
        self._world = world
        self._moved: Dict[str, Answer] = {}
        """The ways that this run has moved, as they were before."""

    def listing(self) -> Listing:
        return observe.ask_listing(self._world)

    def lock(self) -> ContextManager[bool]:
        return record.lock(self._world.deadline, self._world.sleep)

    def observe(self, listing: Listing, address_wait_expired: FrozenSet[Tuple[str, int]]) -> Observation:
        if record.removed_flag():
            raise Removed
        return observe.look(self._world, listing, address_wait_expired)

    def removes(self, observation: Observation) -> bool:
        return bool(observation.plan.removals)

    def execute(self, observation: Observation) -> Round:
        world = self._world
        before = prove.ways(world, observation)
        done, refused, again = execute(world, observation)
        steps, wrong = mark_connections(world, observation.decision.marked, observation.made, observation.snapshot)
        after = prove.ways(world, observation)
        takers = prove.takers(before, after, done)
        if takers:
            back, said = _give_back(world, observation, takers)
            done, wrong = done + back, wrong + said
            after = prove.ways(world, observation)
        self._moved = prove.moved({**before, **self._moved}, after, observation)
        return Round(observation, (*done, *steps), (*refused, *wrong, *prove.ways_lost(self._moved, after)), again)

    def missed(self) -> FrozenSet[str]:
        return record.load(()).missed

    def note_missed(self, observation: Observation) -> None:
        missed = frozenset(member.mac for member in observation.decision.unready if member.transient)
        if missed != observation.made.missed:
            with self.lock():
                links = self._world.kernel.links()  # other runs may have recorded new ones since the look
                record.save(record.load(links)._replace(missed=missed), links)

    def retries(self, decision: Decision) -> int:
        return RETRIES + len(decision.enis)


def _give_back(world: Context, view: Observation, takers: Dict[Change, str]) -> Tuple[List[Change], List[Finding]]:
    """Take back default routes of this run, by which the host's own packets leave now: the changes, what to say."""
    back, failures = make(world, [change._replace(verb="remove") for change in takers])
    labels = {eni.dev: eni.label for eni in view.decision.enis}
    said = [Finding.error(
        "default-taken-back", "its default route in main would take the way to {}, and is taken back".format(way),
        "see why main's better one does not work, then run apply", labels[change.item.hops[0].dev],
        change.item.version, str(change.item)) for change, way in takers.items() if isinstance(change.item, Route)]
    return back, said + [refusal(failure, view.decision) for failure in failures]

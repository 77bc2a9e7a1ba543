"""Observe and apply until nothing is left to do or to wait for."""

import logging
from typing import Dict, FrozenSet, List, Tuple, Union

from eni_bootstrap.agent import observe, prove
from eni_bootstrap.agent.apply import execute, make, mark, refusal
from eni_bootstrap.agent.observe import Context, Observation
from eni_bootstrap.agent.waiting import POLL, Patience
from eni_bootstrap.kernel import record
from eni_bootstrap.model.changes import Change, Step
from eni_bootstrap.model.eni import Listing
from eni_bootstrap.model.errors import MetadataError
from eni_bootstrap.model.kernel import Route

LOG = logging.getLogger(__name__)


LOOKS = 3
"""So many more looks without a pause at the most: who is overtaken so often is not the only one at work here."""


class Removed(Exception):
    """Somebody wants nothing to be set up."""


def heed_removal(world: Context) -> None:
    """Who runs apply by hand wants it all again; what runs by itself must not undo a removal, raises ``Removed``."""
    if not world.config.unattended:
        record.clear_removed_flag()
    elif record.removed_flag():
        raise Removed


def converge(world: Context) -> Tuple[Observation, List[Union[Change, Step]], List[str]]:
    """Look and execute until nothing is left to do or to wait for: the last view, all changes, the last problems."""
    # Somebody may have given an ENI to a virtual machine or a container, for good: what runs by itself waits once.
    missed = record.load(()).missed if world.config.unattended else frozenset()
    patience = Patience(world.deadline, world.config, missed)
    changes: List[Union[Change, Step]] = []
    looks = 0

    def step() -> Tuple[Observation, List[str], bool]:
        # Asked before the lock is taken: who waits for the service must not keep others from their work.
        listing = observe.ask_listing(world)
        with record.lock(world.deadline, world.sleep) as waited:
            heed_removal(world)
            view = _confirmed(world, observe.ask_listing(world) if waited else listing, patience.over())
            before = prove.ways(world, view)
            done, problems, again = execute(world, view)
            changes.extend(done)
            steps, wrong = mark(world, view.decision.marked, view.made, view.snapshot)
            changes.extend(steps)
            problems += wrong
            after = prove.ways(world, view)
            takers = prove.takers(before, after, done)
            if takers:
                back, said = _give_back(world, view, takers)
                changes.extend(back)
                problems += said
                after = prove.ways(world, view)
            return view, problems + prove.moved(before, after, view), again

    view, problems, again = step()
    while True:
        at_once = again and looks < LOOKS + len(view.decision.enis)  # each may wait for the next one's table
        if not at_once and not patience.worth(view.decision):
            break
        world.sleep(0 if at_once else POLL)
        looks = looks + 1 if at_once else 0
        try:
            view, problems, again = step()
        except MetadataError as error:
            LOG.warning("%s; what was waited for is given up", error)
            break
    note_missed(world, view)
    return view, changes, problems


def _give_back(world: Context, view: Observation, takers: Dict[Change, str]) -> Tuple[List[Change], List[str]]:
    """Take back default routes of this run, by which the host's own packets leave now: the changes, what to say."""
    back, failures = make(world, [change._replace(verb="remove") for change in takers])
    labels = {eni.dev: eni.label for eni in view.decision.enis}
    said = ["{}: its default route in main would take the way to {}, and is taken back; see why main's better one does "
            "not work, then run apply".format(labels[change.item.hops[0].dev], way) for change, way in takers.items()
            if isinstance(change.item, Route)]
    return back, said + [refusal(failure, view.decision) for failure in failures]


def _confirmed(world: Context, listing: Listing, address_wait_expired: FrozenSet[Tuple[str, int]]) -> Observation:
    """A look. What metadata tells no more goes when it says so twice in a row: a listing that was cut short looks like
    one from which something has gone."""
    view = observe.look(world, listing, address_wait_expired)
    while view.plan.removals:
        again = observe.ask_listing(world)
        if again == listing:
            break
        listing = again
        view = observe.look(world, listing, address_wait_expired)
    return view


def note_missed(world: Context, view: Observation) -> None:
    missed = frozenset(member.mac for member in view.decision.unready if member.transient)
    if missed != view.made.missed:
        with record.lock(world.deadline, world.sleep):
            made = record.load(view.snapshot.links)
            record.save(made._replace(missed=missed), view.snapshot.links)

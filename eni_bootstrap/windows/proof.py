"""The proof on Windows: the questions to Find-NetRoute, and what its answers mean. PURE.

No packet is sent: it is Windows' own choice of the interface and the route for a source and a destination.
"""

from typing import List, NamedTuple, Optional, Sequence, Set, Tuple

from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.model.eni import Eni, EniFamily
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import Address
from eni_bootstrap.verify.checks import INTERNET, Verdict, some_host
from eni_bootstrap.windows.model import Snapshot, WindowsRoute
from eni_bootstrap.windows.reader import Answer


class Question(NamedTuple):
    """A question to Find-NetRoute, and how it must be answered."""

    eni: Eni
    target: str
    """In words: "internet", "own vSwitch", "vSwitch of Ethernet 3", "internet, no source"."""
    dst: Address
    src: Optional[Address]
    gateway: Optional[Address] = None
    """Must be the next hop, or a router that has advertised itself; none: any."""


def few(decision: Decision, snapshot: Snapshot, ours: Sequence[WindowsRoute]) -> List[Question]:
    """``apply``'s proof: one source of each ENI and IP version, to the internet, its own vSwitch and one other."""
    found: List[Question] = []
    for family in decision.families:
        for source in _sources(family, snapshot)[:1]:
            found += _questions(family, source, decision, snapshot, 1)
    return found + _sourceless(decision, snapshot, ours)


def all_of_them(decision: Decision, snapshot: Snapshot, ours: Sequence[WindowsRoute]) -> List[Question]:
    """``verify``'s proof: every source to everything."""
    found: List[Question] = []
    for family in decision.families:
        for source in _sources(family, snapshot):
            found += _questions(family, source, decision, snapshot, len(decision.enis))
    return found + _sourceless(decision, snapshot, ours)


def unprovable(decision: Decision, snapshot: Snapshot) -> List[Finding]:
    """Remarks on sources that are on no adapter: Windows can't be asked about them."""
    held = {each.address for each in snapshot.addresses}
    return [Finding.remark("addresses-not-tried", "{} of its {} addresses {} not on its adapter".format(
        len(missing), len(decision.sources_of(eni.dev)), "is" if len(missing) == 1 else "are"), eni=eni.label)
        for eni in decision.enis if not eni.primary
        for missing in [[each for each in decision.sources_of(eni.dev) if each.network_address not in held]] if missing]


def judge(questions: Sequence[Question], answers: Sequence[Answer], snapshot: Snapshot) -> List[Verdict]:
    """A verdict for each question."""
    names = {each.ifindex: each.name for each in snapshot.adapters}
    verdicts: List[Verdict] = []
    for question, answer in zip(questions, answers):
        wanted = question.gateway
        ok = not answer.error and answer.ifindex == question.eni.link.ifindex
        reached = wanted is None or answer.gateway == wanted or (
            answer.gateway is not None and answer.gateway.is_link_local)
        expected = "by " + question.eni.dev + (" via {}".format(wanted) if wanted is not None else "")
        actual = answer.error or "by {}{}".format(
            names.get(answer.ifindex, "interface {}".format(answer.ifindex)),
            "" if answer.gateway is None else " via {}".format(answer.gateway))
        reason = "" if ok and reached else "no route" if answer.error else (
            "somebody else's route leads there" if ok else "another interface is chosen")
        verdicts.append(Verdict(question.eni.label, str(question.src or "no source"), question.target, ok and reached,
                                expected, actual, False, reason, "" if ok else "run apply", question.dst.version))
    return verdicts


def _sources(family: EniFamily, snapshot: Snapshot) -> List[Address]:
    """The sources that are on the adapter; Windows answers about no others."""
    held = {each.address for each in snapshot.addresses if each.dev == family.dev}
    return [network.network_address for network in family.sources if network.network_address in held]


def _questions(family: EniFamily, source: Address, decision: Decision, snapshot: Snapshot, others: int
               ) -> List[Question]:
    eni, vswitch, internet = family.eni, family.vswitch, INTERNET[family.version]
    if family.primary:
        return [Question(eni, "internet", internet, source)]
    local: Set[Address] = {each.address for each in snapshot.addresses}
    found = [Question(eni, "internet", internet, source, family.gateway)]
    if source in vswitch and vswitch.num_addresses > 1:
        found.append(Question(eni, "own vSwitch", some_host(vswitch, local), source))
    seen = {vswitch}
    for other in decision.families:
        if other.version == family.version and other.vswitch not in seen and len(seen) <= others:
            seen.add(other.vswitch)
            found.append(Question(eni, "vSwitch of " + other.dev, some_host(other.vswitch, local), source))
    return found


def _sourceless(decision: Decision, snapshot: Snapshot, ours: Sequence[WindowsRoute]) -> List[Question]:
    """What has chosen no source goes by the primary, where nobody else's default route is as good: a VPN's, or one of
    Windows' own, which the decision remarks on."""
    found: List[Question] = []
    for family in [family for family in decision.families if family.primary]:
        defaults: List[Tuple[int, int]] = [
            (snapshot.effective(route), route.ifindex) for route in snapshot.active
            if route.version == family.version and route not in ours]
        own = [metric for metric, index in defaults if index == family.eni.link.ifindex]
        if own and all(metric > min(own) for metric, index in defaults if index != family.eni.link.ifindex):
            found.append(Question(family.eni, "internet, no source", INTERNET[family.version], None))
    return found

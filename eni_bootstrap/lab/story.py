"""The demo as text: what was measured goes in, lines for a terminal of 100 columns come out. PURE and plain ASCII."""

import textwrap
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar

from eni_bootstrap.lab.tree import Eni
from eni_bootstrap.model.kernel import Address, Network

WIDTH = 100
ENIS = 6
"""At most so many are drawn and asked."""
KINDS = ("ping", "TCP", "UDP")

_QUOTE = 24
"""The longest output of a program that is shown whole."""
_ENDS = (8, 4)
"""Of a longer one: so many lines of its beginning and of its end."""

Item = TypeVar("Item")


class Question(NamedTuple):
    """What the client asks."""

    dev: str
    """Of the ENI that is meant."""
    address: Address
    target: Address
    """Where to the client sends: the EIP of the address, or the IPv6 address itself."""
    main_dev: str
    """The ENI that has the best default route of this family: all leaves by it that nobody leads elsewhere."""

    @property
    def misled(self) -> bool:
        """Without policy routing the answer must leave by another ENI."""
        return self.dev != self.main_dev


class Trace(NamedTuple):
    """What became of a question, by the packets on the links."""

    question: Question
    answered: Tuple[bool, ...]
    """To each of KINDS."""
    came_in: Tuple[str, ...]
    """The links by which packets reached the instance."""
    went_out: Tuple[str, ...]
    """The links by which packets of this address left it."""
    dropped: Tuple[str, ...]
    """Why the VPC dropped packets of this address; empty when it dropped none."""

    @property
    def healthy(self) -> bool:
        """Answered throughout, and by the ENI that was asked."""
        return all(self.answered) and not self.dropped and self.came_in == self.went_out == (self.question.dev,)

    @property
    def symptom(self) -> bool:
        """Never answered, because the answers left by an ENI that may not send them."""
        return not any(self.answered) and bool(self.dropped) and self.question.dev not in self.went_out


class Run(NamedTuple):
    """One run of the agent."""

    command: str
    code: int
    output: str
    seconds: float


def sample(items: Sequence[Item], most: int) -> List[Item]:
    """The first items and the last one."""
    return list(items) if len(items) <= most else list(items[:most - 1]) + list(items[-1:])


def heading(text: str) -> str:
    return f"\n{text}\n{'=' * len(text)}\n\n"


def picture(nics: Mapping[str, Eni], eips: Mapping[str, Address], client: Address, service: Address) -> str:
    """Who is where, from the client on the left to the instance on the right."""
    drawn = sample(list(nics), ENIS)
    groups: Dict[Network, List[str]] = {}
    for dev in drawn:
        groups.setdefault(nics[dev].subnets[0].vswitch, []).append(dev)
    lines = [f"  client {client} on the internet", "    |"]
    for place, devs in enumerate(groups.values(), 1):
        vswitches = dict.fromkeys(str(subnet.vswitch) for dev in devs for subnet in nics[dev].subnets)
        trunk = "|" if place < len(groups) else " "
        lines.append(f"    +-- vSwitch {' and '.join(vswitches)}")
        for dev in devs:
            lines += [f"    {trunk}     +-- {road} " for road in _roads(dev, nics[dev], eips.get(dev))]
        lines.append(f"    {trunk}")
    lines[-1] = f"    ... and {_count(len(nics) - len(drawn), 'more ENI')}" if len(drawn) < len(nics) else ""
    return _with_bus(lines, f"  metadata service {service} ", "the instance")


def _with_bus(lines: Sequence[str], last: str, end: str) -> str:
    """A line down the right side, to which every ENI is connected and at whose end the instance is."""
    column = max(map(len, lines)) + 2
    page, begun = [], False
    for line in lines:
        joins = line.endswith(" ")
        begun = begun or joins
        page.append(line.ljust(column, "-" if joins else " ") + ("+" if joins else "|") if begun else line)
    page.append(last.ljust(column, "-") + "+-- " + end)
    return "\n".join(page) + "\n"


def _roads(dev: str, eni: Eni, eip: Optional[Address]) -> List[str]:
    roads = []
    for subnet in eni.subnets:
        for address in subnet.addresses[:1]:
            more = f" and {len(subnet.addresses) - 1} more" if len(subnet.addresses) > 1 else ""
            public = f"EIP {eip} --> " if eip and subnet.version == 4 else ""
            roads.append(f"{public}{address}{more}  {dev}{', primary' if eni.primary else ''}")
    return roads


def table(traces: Sequence[Trace]) -> str:
    """A line for each question."""
    rows: List[Tuple[str, ...]] = [("ENI", "asked at") + KINDS + ("in by", "out by", "dropped at the")]
    for trace in traces:
        question, ways = trace.question, (trace.came_in, trace.went_out, trace.dropped)
        rows.append((question.dev, str(question.target)) + tuple("ok" if answer else "-" for answer in trace.answered)
                    + tuple(" and ".join(way) or "-" for way in ways))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "".join("  " + "  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)


def way(trace: Trace) -> str:
    """«in by eth1, out by eth0, dropped at the source check»"""
    if not trace.came_in:
        return "never came in"
    words = ["in by " + " and ".join(trace.came_in)]
    words.append("out by " + " and ".join(trace.went_out) if trace.went_out else "no answer")
    words += ["dropped at the " + reason for reason in trace.dropped]
    return ", ".join(words)


def extent(asked: Sequence[Question], nics: Mapping[str, Eni]) -> str:
    """A note on what was left out; empty when all was asked."""
    devs = {question.dev for question in asked}
    addresses = sum(len(subnet.addresses) for eni in nics.values() for subnet in eni.subnets)
    if len(asked) == addresses:
        return ""
    return f"  (asked {len(asked)} of {_count(addresses, 'address')}, of {len(devs)} of {_count(len(nics), 'ENI')})\n"


def quote(run: Run) -> str:
    """A program's output, shortened in the middle."""
    lines = run.output.rstrip("\n").split("\n") if run.output.strip() else []
    if len(lines) > _QUOTE:
        first, last = _ENDS
        lines[first:-last] = [f"... {len(lines) - first - last} more lines ..."]
    ending = f"  exit code {run.code} after {run.seconds:.2f} s\n"
    return f"  $ {run.command}\n" + "".join(_wrapped(line) for line in lines) + ending


def _wrapped(line: str) -> str:
    pieces = textwrap.wrap(line, WIDTH - 4, subsequent_indent=" " * 6, break_long_words=False,
                           break_on_hyphens=False, replace_whitespace=False) or [""]
    return "".join(f"  | {piece}\n" for piece in pieces)


def missing_symptom(traces: Sequence[Trace]) -> List[str]:
    """One sentence for each trace that should show the symptom and does not."""
    return [f"The symptom was not seen: {_asked(trace)}." for trace in traces
            if trace.question.misled and not trace.symptom]


def missing_cure(traces: Sequence[Trace]) -> List[str]:
    return [f"Not cured: {_asked(trace)}." for trace in traces if not trace.healthy]


def _asked(trace: Trace) -> str:
    answered = [kind for kind, answer in zip(KINDS, trace.answered) if answer]
    return (f"{trace.question.dev} at {trace.question.target} answered {' and '.join(answered) or 'nothing'}; "
            f"{way(trace)}")


def diagnosis(traces: Sequence[Trace]) -> str:
    """What the symptom's table means; nothing when there is no symptom."""
    ill = [trace for trace in traces if trace.symptom]
    asked = dict.fromkeys(trace.question.dev for trace in ill)
    answering = dict.fromkeys(dev for trace in ill for dev in trace.went_out)
    text = (f"What came in by {' and '.join(asked)} was answered by {' and '.join(answering)}, as main has the best "
            "default route there; but an ENI may send from its own addresses only, and so the VPC dropped it.")
    return "\n" + textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ") + "\n" if ill else ""


def conclusion(failures: Sequence[str], nothing_to_cure: bool) -> str:
    if failures:
        return "\n".join(failures) + "\n"
    if nothing_to_cure:
        return "There was nothing to cure: no ENI's answers could leave by another one.\n"
    return "Cured: every ENI answers by itself, and the kernel agrees.\n"


def shares(flows: Mapping[Tuple[str, str], int]) -> str:
    """By which ENI flows left, and with which source."""
    rows = ["  {:<8} {:<18} {:>5}".format(dev, source, number) for (dev, source), number in sorted(flows.items())]
    return "\n".join(rows) + "\n"


def invitation(program: str, question: Question) -> str:
    """What can be tried in the shell."""
    lines = [
        "This shell is inside the instance; the lab ends with it. To try:",
        "  ip rule",
        f"  {program} verify",
        f"  {program} remove",
        f"  nsenter --net=$CLIENT ping -c 1 {question.target}    # the client asks {question.dev}",
    ]
    return "\n" + "\n".join(lines) + "\n"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"

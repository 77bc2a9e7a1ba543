"""What the commands print: a report as text for people, or as JSON for programs. PURE."""

from typing import Any, Dict, List, Optional, Sequence

from eni_bootstrap.agent.report import Report
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.model.kernel import Route


def apply_text(report: Report) -> str:
    lines = _enis(report)
    proven = sum(verdict.ok for verdict in report.verdicts)
    lines.append("{} changed; {} of {} look-ups are as they should be".format(
        _count(len(report.changes), "thing"), proven, len(report.verdicts)) if report.verdicts
        else "{} changed; nothing to prove".format(_count(len(report.changes), "thing")))
    return _page(lines + _failures(report) + _rest(report))


def unattended_text(report: Report) -> str:
    """The text for the journal: everything where something was changed or is wrong, else one line."""
    if report.changes or report.exit_code or report.decision is None:
        return apply_text(report)
    return _page(["nothing to change; {} as they should be".format(_count(len(report.verdicts), "look-up"))])


def plan_text(report: Report) -> str:
    """The changes as commands, the rest as comments, so that all of it can be pasted into a shell."""
    lines = [change.command for change in report.changes]
    if not lines:
        lines = ["# nothing to do"]
    lines += ["# remark: " + remark for remark in report.remarks]
    return _page(lines + ["# problem: " + problem for problem in report.problems])


def verify_text(report: Report) -> str:
    lines: List[str] = []
    for subject in _in_order(verdict.subject for verdict in report.verdicts):
        lines.append(subject)
        rows = [verdict for verdict in report.verdicts if verdict.subject == subject]
        source_width = max(len(row.source) for row in rows)
        target_width = max(len(row.target) for row in rows)
        for row in rows:
            mark = "ok  " if row.ok else "FAIL"
            lines.append("  {}  {:<{}}  {:<{}}  {}{}{}".format(
                mark, row.source, source_width, row.target, target_width, row.actual,
                "  (derived)" if row.derived else "",
                "" if row.ok else "  wanted: {}; {}".format(row.expected, row.why)))
    wrong = sum(not verdict.ok for verdict in report.verdicts)
    if report.verdicts:
        lines.append("{}, {} wrong".format(_count(len(report.verdicts), "look-up"), wrong or "none"))
    else:
        lines.append("nothing to ask about: no secondary ENI can be set up" if report.problems
                     else "nothing is set up: no secondary ENI")
    return _page(lines + _rest(report))


def status_text(report: Report) -> str:
    if report.decision is None or not report.decision.enis:
        return _page(["nothing is set up"] + _rest(report))
    return _page(_enis(report) + _failures(report) + _rest(report))


def remove_text(report: Report) -> str:
    return _page(["{} taken back".format(_count(len(report.changes), "thing"))] + _rest(report))


def adoption_plan_text(report: Report) -> str:
    """A plan's text, and for each line of a boot script what would become of it."""
    lines = [change.command for change in report.changes]
    if not report.adopted and not report.lines:
        lines.append("# nothing to adopt")
    lines += ["# line {} of {} would be commented out: {}".format(line.number, line.path, line.text.strip())
              for line in report.lines]
    lines += ["# remark: " + remark for remark in report.remarks]
    return _page(lines + ["# problem: " + problem for problem in report.problems])


def adoption_text(report: Report) -> str:
    lines = _enis(report) + [change.command for change in report.adopted]
    lines += ["commented out line {} of {}: {}".format(line.number, line.path, line.text.strip())
              for line in report.lines]
    taken = len(report.adopted) + len(report.lines)
    lines.append("{} taken over".format(_count(taken, "thing")) if taken else "nothing to adopt")
    return _page(lines + _failures(report) + _rest(report))


def as_json(report: Report) -> Dict[str, Any]:
    """The report as JSON, in one shape for all commands; a list is empty where a command has nothing for it."""
    return {
        "ok": report.exit_code == 0,
        "enis": [_eni(report, report.decision, place) for place in range(len(report.decision.enis))]
        if report.decision else [],
        "changes": [dict(change._asdict()) for change in report.changes],
        "adopted": [change.command for change in report.adopted],
        "lines": [{"file": line.path, "line": line.number, "text": line.text} for line in report.lines],
        "verdicts": [{
            "eni": verdict.subject, "source": verdict.source, "target": verdict.target, "ok": verdict.ok,
            "expected": verdict.expected, "actual": verdict.actual, "derived": verdict.derived, "reason": verdict.why,
        } for verdict in report.verdicts],
        "findings": [dict(finding._asdict()) for finding in report.findings + report.failures],
        "problems": list(report.problems),
        "remarks": list(report.remarks),
    }


def _eni(report: Report, decision: Decision, place: int) -> Dict[str, Any]:
    eni = decision.enis[place]
    verdicts = [verdict for verdict in report.verdicts if verdict.subject == eni.label]
    return {
        "eni": eni.interface.eni_id, "mac": eni.interface.mac, "device": eni.dev, "primary": eni.primary,
        "table": _table(decision, eni.dev), "sources": [str(source) for source in decision.sources_of(eni.dev)],
        "gateways": [str(subnet.gateway) for subnet in eni.interface.subnets],
        "ok": all(verdict.ok for verdict in verdicts) if verdicts else None,
    }


def _enis(report: Report) -> List[str]:
    decision = report.decision
    if decision is None:
        return []
    lines = []
    for eni in decision.enis:
        table = _table(decision, eni.dev)
        verdicts = [verdict for verdict in report.verdicts if verdict.subject == eni.label]
        state = "" if not verdicts else ", ok" if all(verdict.ok for verdict in verdicts) else ", NOT AS IT SHOULD BE"
        used = table is not None and (bool(verdicts) or _uses(decision.routes, table))
        ways = "".join(", via {}".format(subnet.gateway) for subnet in eni.interface.subnets
                       if subnet.gateway not in subnet.addresses)  # status does not know that of a link that is down
        lines.append("{}{}: {}{}{}{}".format(
            eni.label, " primary" if eni.primary else "", _count(len(decision.sources_of(eni.dev)), "source"),
            ", table {}".format(table) if used else "", ways, state))
    return lines


def _table(decision: Decision, dev: str) -> Optional[int]:
    """The ENI's routing table; None where the system has no tables for ENIs."""
    return decision.table_of(dev) or None


def _uses(routes: Sequence[Route], table: Optional[int]) -> bool:
    return any(route.table == table for route in routes)


def _failures(report: Report) -> List[str]:
    return ["WRONG: " + finding.text for finding in report.failures]


def _rest(report: Report) -> List[str]:
    return (["remark: " + remark for remark in report.remarks]
            + ["PROBLEM: " + problem for problem in report.problems])


def _count(number: int, what: str) -> str:
    return "{} {}{}".format(number, what, "" if number == 1 else "s")


def _in_order(items: Any) -> List[str]:
    return list(dict.fromkeys(items))


def _page(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"

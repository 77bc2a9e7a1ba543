"""What is wrong is one value: how it reads, what follows from it, and that the page has all its codes."""

import ast
import os
import re

import pytest

import eni_bootstrap
from eni_bootstrap.agent.report import Report
from eni_bootstrap.agent.text import apply_text, as_json, plan_text
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.verify.checks import Verdict
from tests import docs

PACKAGE = os.path.dirname(eni_bootstrap.__file__)

WRONG = Finding.error("no-address", "the link has no IPv6 address", "give it one", "eni-1", 6)
RULE = Finding.remark("rule-in-front", "somebody else's rule comes first", evidence="from all lookup 7")
FAILED = Verdict("eni-1", "172.16.20.10", "internet", False, "by eth1", "by eth0", False,
                 "somebody else's rule comes first", "run apply", 4, "from all lookup 7")


def calls():
    """All calls of ``Finding`` and its ways to make one: file, which, first argument. Raises ``ValueError`` where that
    is no literal."""
    for folder, _, names in os.walk(PACKAGE):
        for name in [name for name in names if name.endswith(".py")]:
            with open(os.path.join(folder, name)) as source:
                tree = ast.parse(source.read())
            for node in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
                called = node.func
                if isinstance(called, ast.Name) and called.id == "Finding":
                    yield name, "Finding", ""
                elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) \
                        and called.value.id == "Finding":
                    yield name, called.attr, ast.literal_eval(node.args[0])


@pytest.mark.parametrize("finding, text", [
    (WRONG, "eni-1: the link has no IPv6 address; give it one"),
    (WRONG._replace(eni=""), "the link has no IPv6 address; give it one"),
    (WRONG._replace(cure=""), "eni-1: the link has no IPv6 address"),
    (RULE, "somebody else's rule comes first: from all lookup 7"),
    (RULE._replace(eni="eni-2", cure="delete it"),
     "eni-2: somebody else's rule comes first: from all lookup 7; delete it"),
])
def test_it_reads_as_eni_cause_cure(finding, text):
    assert finding.text == text


@pytest.mark.parametrize("report, code", [
    (Report(), 0), (Report(findings=(RULE,)), 0), (Report(findings=(RULE, WRONG)), 1),
    (Report(verdicts=(FAILED,)), 1), (Report(verdicts=(FAILED._replace(ok=True),)), 0),
])
def test_the_exit_code_follows_from_the_severities(report, code):
    assert report.exit_code == code and as_json(report)["ok"] is (code == 0)


def test_a_report_has_one_list_and_its_views():
    report = Report(findings=(RULE, WRONG), verdicts=(FAILED,))
    assert (report.problems, report.remarks) == ((WRONG.text,), (RULE.text,))
    assert [(each.code, each.eni, each.family) for each in report.failures] == [("look-up-wrong", "eni-1", 4)]
    assert apply_text(report).splitlines()[1:] == [
        "WRONG: eni-1: 172.16.20.10 to internet: by eth0, wanted by eth1; somebody else's rule comes first: "
        "from all lookup 7; run apply", "remark: " + RULE.text, "PROBLEM: " + WRONG.text]


def test_the_page_says_how_each_severity_is_printed():
    report = Report(findings=(RULE, WRONG), verdicts=(FAILED,))
    printed = [line.split(" ")[0] for line in apply_text(report).splitlines()[1:]]
    printed += [" ".join(line.split(" ")[:2]) for line in plan_text(report).splitlines()[1:]]
    assert printed == ["WRONG:", "remark:", "PROBLEM:", "# remark:", "# problem:"]
    told = re.findall(r"`([^`]+) …`", docs.read("docs/findings.md").split("\n## ")[0])
    assert sorted(told) == sorted(printed)


def test_json_has_the_promised_keys_and_the_findings():
    found = as_json(Report(findings=(RULE, WRONG), verdicts=(FAILED,)))
    assert list(found) == ["ok", "enis", "changes", "adopted", "lines", "verdicts", "findings", "problems", "remarks"]
    assert found["verdicts"] == [{
        "eni": "eni-1", "source": "172.16.20.10", "target": "internet", "ok": False, "expected": "by eth1",
        "actual": "by eth0", "derived": False,
        "reason": "somebody else's rule comes first: from all lookup 7; run apply"}]
    assert found["problems"] == [WRONG.text] and found["remarks"] == [RULE.text]
    assert [each["code"] for each in found["findings"]] == ["rule-in-front", "no-address", "look-up-wrong"]
    assert found["findings"][1] == {
        "code": "no-address", "severity": "error", "eni": "eni-1", "family": 6, "cause": "the link has no IPv6 address",
        "cure": "give it one", "evidence": ""}


@pytest.mark.once
def test_every_code_is_written_where_the_finding_is_made():
    """And its severity, so that the page can be compared with the sources."""
    for name, made_by, code in calls():
        assert made_by in ("error", "remark") and re.match("[a-z]+(-[a-z]+)*$", code), name


@pytest.mark.once
@pytest.mark.parametrize("made_by, heading", [("error", "Errors"), ("remark", "Remarks")])
def test_the_page_lists_exactly_the_codes(made_by, heading):
    (part,) = [part for part in docs.read("docs/findings.md").split("\n## ")[1:] if part.startswith(heading + "\n")]
    listed = re.findall(r"^\| `([a-z-]+)` \| .+ \|$", part, re.MULTILINE)
    assert listed == sorted({code for _, which, code in calls() if which == made_by})


@pytest.mark.once
def test_the_page_lists_exactly_the_keys():
    head = docs.read("docs/findings.md").split("\n## ")[0]
    assert sorted(re.findall(r"^\| `([a-z]+)` \|", head, re.MULTILINE)) == sorted(Finding._fields)

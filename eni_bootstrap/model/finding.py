"""A finding: something that is wrong, or worth knowing, as one value. People read its sentence, programs its parts."""

from typing import Iterable, NamedTuple, Tuple

ERROR, REMARK = "error", "remark"
"""The severities: an error makes the exit code 1."""


class Finding(NamedTuple):
    """One thing that an operator should know."""

    code: str
    """The kind of finding. It stays the same when the words change; docs/findings.md has all codes."""
    severity: str
    cause: str
    """What is wrong."""
    cure: str = ""
    """What to do; empty where there is nothing to do."""
    eni: str = ""
    """The ENI's label; empty where it is about none, or about several."""
    family: int = 0
    """4 or 6; 0: about no address family, or about both."""
    evidence: str = ""
    """What shows it, as the system prints it: a rule, a route, a file."""

    # Size: a parameter for each field.
    @classmethod
    def error(cls, code: str, cause: str, cure: str = "", eni: str = "", family: int = 0, evidence: str = ""
              ) -> "Finding":
        return cls(code, ERROR, cause, cure, eni, family, evidence)

    # Size: a parameter for each field.
    @classmethod
    def remark(cls, code: str, cause: str, cure: str = "", eni: str = "", family: int = 0, evidence: str = ""
               ) -> "Finding":
        return cls(code, REMARK, cause, cure, eni, family, evidence)

    @property
    def text(self) -> str:
        """«ENI: cause: evidence; cure»."""
        said = ": ".join(part for part in (self.eni, self.cause, self.evidence) if part)
        return "{}; {}".format(said, self.cure) if self.cure else said


def errors(findings: Iterable[Finding]) -> Tuple[str, ...]:
    """The errors as text."""
    return tuple(finding.text for finding in findings if finding.severity == ERROR)


def remarks(findings: Iterable[Finding]) -> Tuple[str, ...]:
    """The remarks as text."""
    return tuple(finding.text for finding in findings if finding.severity == REMARK)

"""What is wrong, or worth knowing, as one value: what a person reads as a sentence, a program reads by its parts."""

from typing import Iterable, NamedTuple, Tuple

ERROR, REMARK = "error", "remark"
"""The severities: an error makes the exit code 1."""


class Finding(NamedTuple):
    """One thing that an operator should know."""

    code: str
    """What kind of thing it is. It stays the same when the words change; docs/findings.md has them all."""
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

    # Size: the fields of a finding but its severity, and nothing else.
    @classmethod
    def error(cls, code: str, cause: str, cure: str = "", eni: str = "", family: int = 0, evidence: str = ""
              ) -> "Finding":
        return cls(code, ERROR, cause, cure, eni, family, evidence)

    # Size: the fields of a finding but its severity, and nothing else.
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

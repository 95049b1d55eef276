"""The findings of the preflight as data and as text."""

from __future__ import annotations

from typing import Literal

from attrs import asdict, frozen

from pycontain.cgroups import Reason

State = Literal["yes", "no", "partly"]


@frozen
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is, such as "namespace: user".
        state: "yes", "no", or "partly": it can be had in another way, or with less.
        detail: what was found, or the cause.
        remedy: a sentence on what helps; None when nothing has to be done.
        required: whether a container with nothing special needs it.
    """

    name: str
    state: State
    detail: str
    remedy: str | None = None
    required: bool = False


@frozen
class Report:
    """What `pycontain.doctor()` found. `str` gives a line for each, and the remedy below the last that it helps."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether this user can run a container with nothing special here."""
        return all(finding.state != "no" for finding in self.findings if finding.required)

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name. Raises KeyError."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(name)

    def to_dict(self) -> dict[str, object]:
        """`{"ok": ..., "findings": [{"name": ..., "state": ..., ...}, ...]}`, of types that JSON has."""
        return {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}

    def __str__(self) -> str:
        width = max((len(finding.name) for finding in self.findings), default=0)
        lines = []
        for finding, after in zip(self.findings, (*self.findings[1:], None), strict=True):
            lines.append(f"{finding.name:{width}}  {finding.state:6}  {finding.detail}".rstrip())
            if finding.remedy and (after is None or after.remedy != finding.remedy):
                lines.append(f"{'':{width}}  {'':6}  -> {finding.remedy}")
        verdict = "can be run here" if self.ok else "cannot be run here by this user as things are"
        return "\n".join([*lines, "", f"A container {verdict}."])


def yes(name: str, detail: str = "", *, required: bool = False) -> Finding:
    return Finding(name, "yes", detail, required=required)


def no(name: str, reason: Reason, *, required: bool = False) -> Finding:
    return Finding(name, "no", reason.cause, reason.remedy or None, required)


def partly(name: str, reason: Reason, *, required: bool = False) -> Finding:
    return Finding(name, "partly", reason.cause, reason.remedy or None, required)

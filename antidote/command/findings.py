"""Findings of detectors of models, and audit.json: a killed audit keeps those that are done, a later one adds some."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from antidote.base.errors import UserError
from antidote.base.files import write_json
from antidote.command import report

OWN = "the method's own threshold"
FILE = "audit.json"
MODEL = "model's sha256"


@dataclass(frozen=True)
class Finding:
    """The result of one detector.

    Attributes:
        detector: name of the detector.
        score: higher is more suspicious; None: the detector has no score.
        threshold: the method's own threshold; None: it has none.
        verdict: where the score is among models of the same kind, or why that is not known.
        seconds: time of the search.
        evidence: what the detector found, as JSON values; also of some detectors without a score.
        left_out: the reason why there is no score.
        given: number of different pictures or captions that the detector could choose from; None: it takes none.
        condition: the data that the verdict holds for; "" for no verdict.
        identity: hash of settings, seed, code, model and data, by which a later audit knows the score again.
    """

    detector: str
    score: float | None = None
    threshold: float | None = None
    verdict: str = ""
    seconds: float = 0.0
    evidence: Any = None
    left_out: str = ""
    given: int | None = None
    condition: str = ""
    identity: str = ""

    @property
    def shown(self) -> str:
        """Return the score, or why there is none."""
        return f"left out: {self.left_out}" if self.left_out else f"{self.score:.4g}"

    @property
    def reached(self) -> bool:
        """Return whether the score reaches the method's own threshold; False without either."""
        return self.score is not None and self.threshold is not None and self.score >= self.threshold

    def row(self) -> dict[str, str]:
        """Return the row of the page's table."""
        reached = "reached" if self.reached else "not reached"
        threshold = "none" if self.threshold is None else f"{self.threshold:.4g}, {reached}"
        return {"detector": self.detector, "score": self.shown, OWN: threshold,
                "among models of this kind": self.verdict, "seconds": f"{self.seconds:.0f}"}  # fmt: skip


@dataclass
class Notes:
    """Writes the findings that are done whenever there is a new one.

    Attributes:
        file: audit.json of the output folder.
        facts: what is scored, by name.
        names: the detectors of this audit.
        new: findings of this audit so far.
    """

    file: Path
    facts: Mapping[str, Any]
    names: Sequence[str]
    new: list[Finding] = field(default_factory=list)

    def __call__(self, finding: Finding) -> None:
        """Add a finding and write the file."""
        self.new.append(finding)
        verdict = f"not finished: {len(self.new)} of {len(self.names)} detectors have a new score"
        with alone(self.file.parent):
            write(self.file, self.facts, verdict, merged(self.new, read(self.file, self.facts)))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder while its audit.json is read and written: audits side by side add to the same file.

    On a file system without locks, the block runs without one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write(file: Path, facts: Mapping[str, Any], verdict: str, findings: Sequence[Finding]) -> None:
    """Write audit.json."""
    write_json(file, {**facts, "verdict": verdict, "findings": [dict(vars(finding)) for finding in findings]})


def read(file: Path, facts: Mapping[str, Any]) -> list[Finding]:
    """Return the findings with a score in the audit.json of an earlier audit of the same model.

    Raises:
        UserError: the file is no audit, or that of another model.
    """
    if not file.is_file():
        return []
    advice = "name another folder, or remove it"
    found = report.earlier(file)
    if not isinstance(found, dict) or found.get(MODEL) != facts[MODEL]:
        other = found.get("model", "unknown") if isinstance(found, dict) else "unknown"
        raise UserError(f"--output: {file.parent}: holds the audit of another model ({other}); {advice}")
    try:
        findings = TypeAdapter(list[Finding]).validate_python(found.get("findings"))
    except ValidationError:
        raise UserError(f"--output: {file}: holds no findings of this version; {advice}") from None
    return [finding for finding in findings if finding.score is not None]


def merged(
    new: Sequence[Finding],
    earlier: Sequence[Finding],
    judged: Callable[[Finding], Finding] = lambda finding: finding,
) -> list[Finding]:
    """Return new findings, and earlier ones of detectors without a new score.

    Args:
        new: findings of this audit, one per detector.
        earlier: findings of earlier audits, with scores.
        judged: returns a finding with the present verdict.
    """
    scored = {finding.detector for finding in new if not finding.left_out}
    old = {finding.detector: judged(finding) for finding in earlier if finding.detector not in scored}
    here = [old.pop(finding.detector, finding) for finding in new]
    return [*here, *old.values()]

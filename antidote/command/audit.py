"""Score a CLIP with every detector of models, and say where the scores are among models of the same kind.

Detectors need clean pairs (--pairs), labelled pictures (--shots) or class names (--classes); a detector without its
data is left out, with the reason. A verdict needs a population: scores of clean and of backdoored models with the same
picture encoder, from data/populations or from a study of your own (--population results/STUDY). Without one there is
no verdict. Writes audit.json and report.html, to which a later audit of the same model adds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import whole_folder
from antidote.base.registry import method
from antidote.command import arguments as shared
from antidote.command import findings, finite, inputs, methods, patience, population, report, resume
from antidote.command.findings import OWN, Finding
from antidote.command.given import NOTHING, Given, check_given
from antidote.data.access import DefenseData
from antidote.detectors.base import NoScore

if TYPE_CHECKING:
    import pandas as pd

    from antidote.clip.model import Clip
    from antidote.detectors.base import Detector

PICTURE = "data:image/"  # beginning of a picture in the evidence of a detector


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        verdict: one sentence about all findings.
        findings: one per detector.
        facts: what was scored, by name.
    """

    verdict: str
    findings: list[Finding]
    facts: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write audit.json and report.html."""
        findings.write(folder / findings.FILE, self.facts, self.verdict, self.findings)
        rows = [finding.row() for finding in self.findings]
        shown = [picture for finding in self.findings for picture in pictures(finding)]
        report.write(folder / "report.html", "Audit", self.verdict, self.facts, rows, shown)


@dataclass(frozen=True)
class Auditor:
    """Scores models with some detectors of models.

    Attributes:
        names: the detectors.
        known: scores of the models of a study; None: those in data/populations.
        false_alarms: share of clean models that a verdict may call suspicious.
        seed: seed of the detectors.
        output: folder of the results, beside which a killed run keeps its work; None: nothing is kept.
        earlier: findings of earlier audits, which are not searched again for the same model, data and settings.
        note: is called with every new score.
    """

    names: Sequence[str]
    known: pd.DataFrame | None = None
    false_alarms: float = population.FALSE_ALARMS
    seed: int = 0
    output: Path | None = None
    earlier: Sequence[Finding] = ()
    note: Callable[[Finding], None] = field(default=lambda finding: None)

    @classmethod
    def of(
        cls, names: Sequence[str] | None, study: str | Path | None, option: str = "--detector", **rest: Any
    ) -> Auditor:
        """Return an auditor with some detectors, by default all, and the models of a study, by default none.

        Args:
            option: the option that names the detectors, for messages.

        Raises:
            UserError: a name is no detector of models; the study has no scores of models.
        """
        return cls(chosen(names, option), None if study is None else population.of_study(Path(study)), **rest)

    @property
    def levels(self) -> list[str]:
        """Return the levels of access of the detectors."""
        return [method("detector", name).access for name in self.names]

    def table(self, clip: Clip) -> pd.DataFrame:
        """Return the known scores of models of the kind of a model."""
        kind = population.architecture(clip.config["model_cfg"])
        return population.shipped(kind) if self.known is None else self.known[self.known["model"] == kind]

    def findings(
        self, clip: Clip, granted: Mapping[str, DefenseData | str], lexicon: str, runs: int = 1
    ) -> list[Finding]:
        """Return the finding of every detector on one model; before, the log names those that take minutes or hours.

        Of an audit that goes on, these are the detectors without a finding of an earlier one.

        Args:
            granted: data by level of access, or the reason why they are missing.
            lexicon: name of the language resource in the data.
            runs: number of models that the caller will score, this one included; 0: the log has named the detectors.
        """
        if self.names:
            try:
                finite.check_model(clip, "model", finite.blank(clip))
            except UserError as error:
                return [Finding(name, left_out=str(error)) for name in self.names]
        ready = {name: self._ready(name, clip, granted) for name in self.names}
        if runs:
            able = {name: found for name, found in ready.items() if not isinstance(found, Finding)}
            patience.warn(
                clip, [one for name, one in able.items() if not self._is_done(name, clip, *one, lexicon)], runs
            )
        return [
            found if isinstance(found, Finding) else self._score(name, clip, *found, lexicon)
            for name, found in ready.items()
        ]

    def judged(self, finding: Finding, clip: Clip) -> Finding:
        """Return a finding with the verdict that follows from the known scores."""
        where = population.place(self.table(clip), finding.detector, finding.score)
        verdict = where.verdict(self.false_alarms, finding.given)
        own = "no threshold of its own" if finding.threshold is None else f"{OWN} {finding.threshold:.4g}"
        command_line.log.info("%s: score %.4g, %s; %s", finding.detector, finding.score, own, verdict)
        condition = "" if verdict.startswith("no verdict") else where.condition
        if condition:
            command_line.log.info("%s: %s", finding.detector, condition)
        return replace(finding, verdict=verdict, condition=condition)

    def _ready(
        self, name: str, clip: Clip, granted: Mapping[str, DefenseData | str]
    ) -> tuple[Detector, DefenseData] | Finding:
        """Return a detector and its data, or a finding with the reason why it cannot score the model."""
        kind: type[Detector] = method("detector", name)
        settings, data = kind.Settings.read({"method": name}, f"detector {name}"), granted[kind.access]
        try:
            settings.check(clip.config["model_cfg"])
        except ValueError as error:
            return Finding(name, left_out=str(error))
        reason = kind.fits(clip.config["model_cfg"]) or kind.suits(type(clip))
        if reason or isinstance(data, str):
            return Finding(name, left_out=f"it {reason}" if reason else data)
        detector = kind(settings, self.seed)
        try:
            detector.check_data(data)
        except UserError as error:
            return _without(name, str(error))
        return detector, data

    def _is_done(self, name: str, clip: Clip, detector: Detector, data: DefenseData, lexicon: str) -> bool:
        """Return whether an earlier audit has the finding of a detector on the same model, data and settings."""
        known = [one.identity for one in self.earlier if one.detector == name and one.identity]
        return bool(known) and resume.identity_of(detector, clip, data, lexicon) in known

    def _score(self, name: str, clip: Clip, detector: Detector, data: DefenseData, lexicon: str) -> Finding:
        start = time.perf_counter()
        try:
            with resume.work(self.output, detector, clip, data, lexicon) as work:
                done = next((one for one in self.earlier if one.identity == work.identity), None)
                if done is not None:
                    command_line.log.info("%s: taken from the earlier audit of the same model and data", name)
                    return self.judged(replace(done, given=_different(detector, data)), clip)
                command_line.log.info("%s ...", name)
                scores = detector.score(clip, data, work)
            evidence = json.loads(json.dumps(dict(scores.evidence)))
        except NoScore as error:
            return replace(_without(name, str(error)), evidence=json.loads(json.dumps(error.evidence)) or None)
        except UserError as error:
            return _without(name, str(error))
        except Exception as error:  # a fault of one detector should not lose the scores of the others
            return _without(name, f"it failed, {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        value = float(scores.values[0])
        if not math.isfinite(value):
            return _without(name, "its score is not a number: the model's features are not finite")
        threshold = None if scores.threshold is None else float(scores.threshold)
        seconds, items = time.perf_counter() - start, _different(detector, data)
        found = Finding(name, value, threshold, "", seconds, evidence, given=items, identity=work.identity)
        found = self.judged(found, clip)
        self.note(found)
        return found


def _different(detector: Detector, data: DefenseData) -> int | None:
    """Return how many different pictures or captions a detector could choose from; None: it takes none."""
    pool = next((pool for pool in (data.pairs, data.shots) if pool is not None), None)
    if pool is None:
        return None
    if detector.works_on == "captions":
        return len(set(pool.captions))
    return len(pool.different.first(len(pool)))


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = shared.parser(
        __doc__, "model", *shared.MODEL, "--pairs", *shared.COLUMNS, "--shots", "--classes", "--templates", "--lexicon",
        "--population", "--seed",
    )  # fmt: skip
    known = ", ".join(methods.detectors("model"))
    parser.add_argument("--detector", action="append", help=f"only this one of {known}; can be repeated")
    parser.add_argument("--false-alarms", type=float, default=population.FALSE_ALARMS,
                        help="share of clean models that a verdict may call suspicious (ours)")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("audit"), help="folder to write")
    return parser


def run(args: argparse.Namespace) -> None:
    """Run the detectors and write the results."""
    found = audit(
        inputs.checkpoint(args), Given.of(args), detectors=args.detector, study=args.population,
        false_alarms=args.false_alarms, seed=args.seed, output=args.output,
    )  # fmt: skip
    command_line.log.info("%s; page %s", found.verdict, args.output / "report.html")


def audit(
    model: inputs.Model,
    given: Given = NOTHING,
    *,
    detectors: Sequence[str] | None = None,
    study: str | Path | None = None,
    false_alarms: float = population.FALSE_ALARMS,
    seed: int = 0,
    output: str | Path | None = None,
) -> Audit:
    """Score a model with detectors of models, and compare the scores with those of models of the same kind.

    Args:
        model: the suspicious model.
        given: clean pairs, labelled pictures or class names; a detector without its data is left out.
        detectors: names of detectors; None: every detector of models.
        study: results/STUDY, with whose models the scores are compared; None: the models in data/populations.
        false_alarms: share of clean models, between 0 and 1, that a verdict may call suspicious.
        seed: seed of the detectors, and of the draw of those given pictures that a detector uses.
        output: folder for audit.json and report.html; None: nothing is written. Scores of an earlier audit of the same
            model are kept there, and those of the same data and settings are not searched for again.

    Raises:
        UserError: the model, the data or the scores cannot be read; a name is no detector of models; the output holds
            the audit of another model, or results of another command.
    """
    check_given(given)
    if not 0 < false_alarms < 1:
        raise UserError(f"--false-alarms: {false_alarms:g} should be a fraction between 0 and 1")
    place = report.kept(output, "audit")
    auditor = Auditor.of(detectors, study, false_alarms=false_alarms, seed=seed, output=place)
    clip = inputs.load(model)
    facts = {
        "model": inputs.shown(model, "a model"),
        "model's sha256": resume.model_digest(clip),
        "kind": population.architecture(clip.config["model_cfg"]),
        "models of this kind with known scores": _counted(auditor.table(clip)),
    }
    if place is not None:
        earlier = findings.read(place / findings.FILE, facts)
        note = findings.Notes(place / findings.FILE, facts, auditor.names)
        auditor = replace(auditor, earlier=earlier, note=note)
    granted = given.granted(clip.size, auditor.levels, seed)
    found = auditor.findings(clip, granted, given.lexicon)
    if place is None:
        return _result(found, facts)
    with findings.alone(place):  # another audit may have added findings meanwhile
        there = findings.read(place / findings.FILE, facts)
        result = _result(findings.merged(found, there, lambda finding: auditor.judged(finding, clip)), facts)
        with whole_folder(place) as folder:
            result.write(folder)
    return result


def _result(found: list[Finding], facts: Mapping[str, str]) -> Audit:
    conditions = {finding.condition: None for finding in found if finding.condition}
    return Audit(summary(found), found, {**facts, **({"verdicts": "; ".join(conditions)} if conditions else {})})


def chosen(asked: Sequence[str] | None, option: str = "--detector") -> list[str]:
    """Return the names of the detectors of models, or of those that are asked for by an option.

    Raises:
        UserError: a name is no detector of models; a text stands in place of a list of names.
    """
    if isinstance(asked, str):
        raise UserError(f"detectors: should be a list of names, as [{asked!r}], not {asked!r}")
    if asked is not None and not asked:
        raise UserError(f"{option}: names no detector; known: {', '.join(methods.detectors('model'))}")
    for name in asked or ():
        methods.detector_of("model", name, option)
    return list(dict.fromkeys(methods.detectors("model") if asked is None else asked))


def summary(found: list[Finding]) -> str:
    """Return one sentence about all findings; it is never more certain than the findings."""
    if not found:
        return "no verdict: there is no detector of models"
    scored = [finding for finding in found if not finding.left_out]
    if not scored:
        reasons = list(dict.fromkeys(finding.left_out for finding in found))
        if all(reason.startswith("needs ") for reason in reasons):
            wanted = [reason.removeprefix("needs ") for reason in reasons if "(--" in reason]
            given = f"; give {' or '.join(wanted)}" if wanted else ""
            return f"no verdict: none of {len(found)} detectors has the data it needs{given}"
        return f"no verdict: no detector has a score; {found[0].detector}: {found[0].left_out}"
    judged = [finding for finding in scored if not finding.verdict.startswith("no verdict")]
    if not judged:
        return scored[0].verdict
    names = [finding.detector for finding in judged if finding.verdict.startswith("suspicious")]
    listed = f" ({', '.join(names)})" if names else ""
    return (
        f"{len(names)} of {len(judged)} detectors call the model suspicious{listed}; see the error rates of each. No "
        "detector finds every backdoor."
    )


def pictures(finding: Finding) -> list[report.Shown]:
    """Return the pictures in the evidence of a detector, such as an inverted patch."""
    evidence = finding.evidence if isinstance(finding.evidence, dict) else {}
    return [
        report.Shown(value, f"{finding.detector}: {key}", f"class {evidence['class']}" if "class" in evidence else "")
        for key, value in evidence.items()
        if isinstance(value, str) and value.startswith(PICTURE)
    ]


def _without(name: str, reason: str) -> Finding:
    reason = reason.removeprefix(f"{name}: ")
    command_line.log.warning("%s: left out: %s", name, reason)
    return Finding(name, left_out=reason)


def _counted(table: pd.DataFrame) -> str:
    counts = table["state"].value_counts().to_dict() if len(table) else {}
    return ", ".join(f"{count} scores of {state} models" for state, count in counts.items()) or "none"

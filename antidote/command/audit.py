"""Score a CLIP with every detector of models, and say where the scores are among models of the same kind.

Detectors need clean pairs (--pairs), labelled pictures (--shots) or class names (--classes); a detector without its
data is left out, with the reason. A verdict needs a population: scores of clean and of backdoored models with the same
picture encoder, from data/populations or from a study of your own (--population results/STUDY). Without one there is
no verdict. Writes audit.json and report.html.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base import command_line
from antidote.base.errors import UserError, nearest
from antidote.base.files import read_json, whole_folder, write_json
from antidote.base.registry import DETECTORS, method
from antidote.command import inputs, population, report, resume
from antidote.command.clean import labelled
from antidote.command.inspect import CONTROLS
from antidote.data.access import DefenseData
from antidote.data.words.lexicon import load_lexicon
from antidote.data.words.names import templates

if TYPE_CHECKING:
    import pandas as pd

    from antidote.clip.model import Clip
    from antidote.detectors.base import Detector

PICTURE = "data:image/"  # beginning of a picture in the evidence of a detector


@dataclass(frozen=True)
class Finding:
    """The result of one detector; `left_out` is the reason why it has no score."""

    detector: str
    score: float | None = None
    threshold: float | None = None
    verdict: str = ""
    seconds: float = 0.0
    evidence: Any = None
    left_out: str = ""

    def row(self) -> dict[str, str]:
        """Return the row of the page's table."""
        score = f"left out: {self.left_out}" if self.left_out else f"{self.score:.4g}"
        threshold = "" if self.threshold is None else f"{self.threshold:.4g}"
        return {"detector": self.detector, "score": score, "the method's own threshold": threshold,
                "among models of this kind": self.verdict, "seconds": f"{self.seconds:.0f}"}  # fmt: skip


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = command_line.parser(__doc__)
    parser.add_argument("model", help="model folder, checkpoint file, or hf-hub:OWNER/NAME")
    inputs.model_arguments(parser)
    parser.add_argument("--pairs", help="clean pairs: table, shards, folder, or written split")
    inputs.dataset_arguments(parser)
    parser.add_argument("--shots", help="labelled pictures: folder of class folders")
    parser.add_argument("--classes", type=Path, help="JSON list of the class names that the model is used for")
    parser.add_argument("--templates", default="openai_imagenet", help="prompts of that use")
    parser.add_argument("--lexicon", default="function_words", help="language resource of the text methods")
    parser.add_argument("--detector", action="append", help="only this detector; can be repeated")
    parser.add_argument("--population", type=Path, help="results/STUDY: scores of a study of your own")
    parser.add_argument("--false-alarms", type=float, default=population.FALSE_ALARMS,
                        help="share of clean models that a verdict may call suspicious (ours)")  # fmt: skip
    parser.add_argument("--seed", type=command_line.seed, default=0)
    parser.add_argument("--output", type=Path, default=Path("audit"), help="folder to write")
    return parser


def run(args: argparse.Namespace) -> None:
    """Run the detectors and write the results."""
    if not 0 < args.false_alarms < 1:
        raise UserError(f"--false-alarms: {args.false_alarms:g} should be a fraction between 0 and 1")
    names = chosen(args.detector)
    known = population.of_study(args.population) if args.population else None
    clip = inputs.load(args.model, args.arch, args.quick_gelu)
    kind = population.architecture(clip.config["model_cfg"])
    table = population.shipped(kind) if known is None else known[known["model"] == kind]
    granted = _granted(clip, args)
    found = [score(name, clip, granted, table, args) for name in names]
    verdict = summary(found)
    facts = {"model": args.model, "kind": kind, "models of this kind with known scores": _counted(table)}
    with whole_folder(args.output) as folder:
        findings = [dict(vars(finding)) for finding in found]
        write_json(folder / "audit.json", {**facts, "verdict": verdict, "findings": findings})
        rows = [finding.row() for finding in found]
        shown = [picture for finding in found for picture in pictures(finding)]
        report.write(folder / "report.html", "Audit", verdict, facts, rows, shown)
    command_line.log.info("%s; page %s", verdict, args.output / "report.html")


def chosen(asked: list[str] | None) -> list[str]:
    """Return the names of the detectors of models, or of those that are asked for.

    Raises:
        UserError: a name is no detector of models.
    """
    known = [
        name for name in DETECTORS
        if name not in CONTROLS and getattr(method("detector", name), "subject", None) == "model"
    ]  # fmt: skip
    for name in asked or ():
        if name not in known:
            raise UserError(f"--detector: {name!r} does not score models{nearest(name, known) or '; known: none'}")
    return asked or known


def score(name: str, clip: Clip, granted: dict[str, Any], table: pd.DataFrame, args: argparse.Namespace) -> Finding:
    """Return the finding of one detector."""
    kind: type[Detector] = method("detector", name)
    settings = kind.Settings.read({"method": name}, f"detector {name}")
    data = granted.get(kind.access, f"needs access {kind.access!r}, which a study alone grants")
    try:
        settings.check(clip.config["model_cfg"])
    except ValueError as error:
        return Finding(name, left_out=str(error))
    reason = kind.fits(clip.config["model_cfg"])
    if reason or isinstance(data, str):
        return Finding(name, left_out=f"it {reason}" if reason else data)
    start, detector = time.perf_counter(), kind(settings, args.seed)
    command_line.log.info("%s ...", name)
    try:
        with resume.work(args.output, detector, clip, data, args.lexicon) as work:
            scores = detector.score(clip, data, work)
    except UserError as error:
        return Finding(name, left_out=str(error))
    value = float(scores.values[0])
    verdict = population.place(table, name, value).verdict(args.false_alarms)
    evidence = json.loads(json.dumps(dict(scores.evidence)))
    threshold = None if scores.threshold is None else float(scores.threshold)
    return Finding(name, value, threshold, verdict, time.perf_counter() - start, evidence)


def summary(found: list[Finding]) -> str:
    """Return one sentence about all findings; it is never more certain than the findings."""
    if not found:
        return "no verdict: there is no detector of models"
    scored = [finding for finding in found if not finding.left_out]
    if not scored:
        return f"no verdict: none of {len(found)} detectors has the data it needs"
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


def _granted(clip: Clip, args: argparse.Namespace) -> dict[str, DefenseData | str]:
    """Return the data of each level of access, or the reason why it is missing."""
    found: dict[str, DefenseData | str] = {
        "nothing": DefenseData(),
        "clean-pairs": "needs clean pairs (--pairs)",
        "few-labelled": "needs labelled pictures (--shots)",
        "test-time": "needs class names (--classes)",
    }
    if args.pairs:
        pairs = inputs.load_pairs(args.pairs, args, clip.size)
        found["clean-pairs"] = DefenseData(pairs=pairs, lexicon=load_lexicon(args.lexicon))
    if args.shots:
        shots, names = labelled(args.shots, args, clip.size)
        found["few-labelled"] = DefenseData(shots=shots, classes=names, templates=templates(args.templates))
        found["test-time"] = DefenseData(classes=names, templates=templates(args.templates))
    elif args.classes:
        names = read_json(args.classes)
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"--classes: {args.classes}: should hold a JSON list of texts")
        found["test-time"] = DefenseData(classes=names, templates=templates(args.templates))
    return found


def _counted(table: pd.DataFrame) -> str:
    counts = table["state"].value_counts().to_dict() if len(table) else {}
    return ", ".join(f"{count} scores of {state} models" for state, count in counts.items()) or "none"

"""All `detection.json` files of a study as one frame, and the detection tables of the summary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.base.settings import Settings
from antidote.evaluation.ranking import CALIBRATED, RATES, calibrated, of_ranking, roc
from antidote.study.layout import NO_DEFENSE, Layout
from antidote.summary.page import duration
from antidote.summary.plan import DetectorFacts, SummarySettings
from antidote.summary.tables import percent, spread
from antidote.summary.text import RECONSTRUCTION, escaped

CLEAN = "clean"
ADAPTIVE = "§"  # mark of a figure whose attack is made against the detector
COLUMNS = ["attack", "defense", "detector", "seed", "subject", "adaptive", "score", "items", "poisoned", "unscored",
           *RATES]  # fmt: skip
TITLES = {
    "model": "Detectors of backdoored models",
    "pairs": "Detectors of poisoned training pairs",
    "pictures": "Detectors of triggered pictures",
}
Rate = Annotated[float, Field(ge=0, le=1)]
Cell = tuple[str, str, str]  # attack, defense, detector


class Detection(Settings):
    """The fields of `detection.json` that the summary reads; rates are fractions, null if not applicable."""

    model_config = ConfigDict(extra="ignore")

    items: int
    poisoned: int
    score: float | None = None
    threshold: float | None = None
    roc: list[Rate] | None = None
    auroc: Rate | None = None
    auprc: Rate | None = None
    tpr_at_fpr1: Rate | None = None
    fpr_at_tpr1: Rate | None = None
    precision: Rate | None = None
    recall: Rate | None = None
    fpr: Rate | None = None
    precision_at_poisons: Rate | None = None
    tpr_calibrated: Rate | None = None
    fpr_calibrated: Rate | None = None


@dataclass
class Detections:
    """The results of all detectors of a study.

    Attributes:
        frame: one row per attack, defense, detector and seed, with `COLUMNS`. A detector of models has its score in
            the rows by seed, followed by one row without a seed: the figures over the models of all seeds.
        curves: ROC curves by (attack, defense, detector), one per seed; for a detector of models, one over all seeds.
    """

    frame: pd.DataFrame
    curves: dict[Cell, list[list[float]]] = field(default_factory=dict)


def read_detections(plan: SummarySettings, results: Path) -> Detections:
    """Return all detections, clean references first; `results` is the study's folder.

    Raises:
        UserError: a `detection.json` exists but does not hold a detection.
    """
    kept, rows, curves = Layout(results), [], {}
    clean: dict[str, list[Detection]] = {}
    for facts in plan.detectors:
        if facts.subject == "model":
            paths = {s: kept.path("detect_clean", "detection", detector=facts.name, seed=s) for s in plan.seeds}
            read = list(_read(paths))
            for further in plan.population:
                names = {"surrogate": further, "detector": facts.name}
                read += _read({s: kept.path("detect_population", "detection", **names, seed=s) for s in plan.seeds})
            clean[facts.name] = [one for _, one in read]
            rows += [_row((CLEAN, NO_DEFENSE, facts.name), facts, s, one) for s, one in read]
    facts_of = {facts.name: facts for facts in plan.detectors}
    for cell in plan.detections:
        names, facts = dict(zip(("attack", "defense", "detector"), cell, strict=True)), facts_of[cell[2]]
        found = dict(_read({s: kept.path("detect", "detection", **names, seed=s) for s in plan.seeds}))
        rows += [_row(cell, facts, seed, one) for seed, one in found.items()]
        if facts.subject == "model":
            over, curve = _over_models([*found.values()], clean[facts.name], plan.detect_false_positives)
            rows += [{**_names(cell, facts), **over}] if over else []
            curves[cell] = [curve] if curve else []
        else:
            curves[cell] = [one.roc for one in found.values() if one.roc]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    pairs = zip(frame["attack"], frame["detector"], strict=True)
    frame["adaptive"] = [pair in plan.adaptive for pair in pairs]
    numbers = dict.fromkeys(["seed", *COLUMNS[COLUMNS.index("score") :]], float)
    return Detections(frame.astype(numbers), curves)


def _read(paths: dict[int, Path]) -> Iterator[tuple[int, Detection]]:
    for seed, path in paths.items():
        if path.exists():
            values = read_json(path)
            if not isinstance(values, dict):
                raise UserError(f"{path}: should hold keys and values, not {type(values).__name__}")
            yield seed, Detection.read(values, str(path))


def _names(cell: Cell, facts: DetectorFacts) -> dict[str, str]:
    return {"attack": cell[0], "defense": cell[1], "detector": cell[2], "subject": facts.subject}


def _row(cell: Cell, facts: DetectorFacts, seed: int, found: Detection) -> dict[str, Any]:
    row = {**_names(cell, facts), "seed": seed, "items": found.items, "poisoned": found.poisoned}
    if facts.subject == "model":  # one model gives a single score, so no curve or rate exists
        return {**row, "score": found.score}
    return {**row, **{name: getattr(found, name) for name in RATES}}


def _over_models(
    backdoored: list[Detection], clean: list[Detection], rate: float
) -> tuple[dict[str, float | None] | None, list[float] | None]:
    """Return figures and ROC curve of a detector of models, backdoored against clean; None if either is missing.

    A model without a score is not flagged at any threshold. It has no place in a ranking, so that a single one of them
    leaves the figures that rank models, and the curve, without a value. `unscored` counts these models.
    """
    models = [*backdoored, *clean]
    if not backdoored or not clean:
        return None, None
    scored = [one for one in models if one.score is not None]
    unscored = len(models) - len(scored)
    values = np.array([-np.inf if one.score is None else one.score for one in models])
    truth = np.arange(len(models)) < len(backdoored)
    found: dict[str, float | None] = {"items": len(models), "poisoned": len(backdoored), "unscored": unscored}
    found |= calibrated(values, truth, rate)
    if all(one.threshold is not None for one in scored):
        flagged = np.array([one.score is not None and one.score >= one.threshold for one in models])
        found["precision"] = float(truth[flagged].mean()) if flagged.any() else None
        found["recall"] = float(flagged[truth].mean())
        found["fpr"] = float(flagged[~truth].mean())
    if unscored:
        return found, None
    return {**found, **of_ranking(values, truth)}, roc(values, truth)


def tables(plan: SummarySettings, found: Detections, costs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return two tables per subject, with `title`, `note` and `rows` of text; the first row holds the column heads.

    One row per detector and model under test, controls last. One column per attack, mean and standard deviation over
    seeds in percent: AUROC and TPR at 1 % FPR; then, in the second table, TPR and FPR at the detector's own threshold
    and at the calibrated one. A cell that cannot be run holds `- [1]`, the number of its reason in the note. A cell
    with models without a score holds `- / -` in the first table, and the note has their number.
    """
    parts = []
    for subject, title in TITLES.items():
        of_subject = sorted((f for f in plan.detectors if f.subject == subject), key=lambda f: bool(f.control))
        names = {f.name for f in of_subject}
        cells = [cell for cell in plan.detections if cell[2] in names]
        unscored = {
            (one.attack, one.defense, one.detector): one.reason for one in plan.unscored if one.detector in names
        }
        if not cells and not unscored:
            continue
        attacks = [*dict.fromkeys(cell[0] for cell in (*cells, *unscored))]
        defenses = [*dict.fromkeys(cell[1] for cell in (*cells, *unscored) if cell[1])] or [NO_DEFENSE]
        reasons = [*dict.fromkeys(unscored.values())]
        several = len(defenses) > 1
        head = ["detector", *(["model"] if several else []), *attacks]
        rows, further = [[*head, "time"]], [head]
        for facts in of_subject:
            for defense in defenses:
                first = [_title(facts), *([defense] if several else [])]
                mine = [_of(found.frame, (attack, defense, facts.name)) for attack in attacks]
                reason_of = [_reason(unscored, (attack, defense, facts.name)) for attack in attacks]
                blank = [_number(reason, reasons) for reason in reason_of]
                texts = [_marked(_text(one), one) or none for one, none in zip(mine, blank, strict=True)]
                rows.append([*first, *texts, _time(costs, facts.name, defense)])
                texts = [_marked(_at_thresholds(one), one) or none for one, none in zip(mine, blank, strict=True)]
                further.append([*first, *texts])
        blanks = "".join(f" [{number}] not applicable: {reason}." for number, reason in enumerate(reasons, 1))
        parts.append({"title": title, "note": _note(subject, found.frame, plan) + blanks, "rows": rows})
        note = _threshold_note(subject, found.frame, plan) + blanks
        parts.append({"title": title + ": at a threshold", "note": note, "rows": further})
    return parts


def _of(frame: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    attack, defense, detector = cell
    return frame[(frame["attack"] == attack) & (frame["defense"] == defense) & (frame["detector"] == detector)]


def _reason(unscored: dict[tuple[str, str | None, str], str], cell: Cell) -> str | None:
    """Return why a cell cannot be run, on all models or on the models of its defense; None if it can."""
    attack, _, detector = cell
    return unscored.get((attack, None, detector)) or unscored.get(cell)


def _number(reason: str | None, reasons: list[str]) -> str:
    """Return the text of a cell that cannot be run, such as `- [1]`; empty without a reason."""
    return f"- [{reasons.index(reason) + 1}]" if reason else ""


def _marked(text: str, mine: pd.DataFrame) -> str:
    return f"{text} {ADAPTIVE}" if text and mine["adaptive"].any() else text


def _at_thresholds(mine: pd.DataFrame) -> str:
    """Return the text of one cell, such as `80.0 / 12.5; 60.0 / 1.0`; - for a figure that does not exist."""
    if mine[["recall", "fpr", *CALIBRATED]].isna().all(axis=None):
        return ""
    pairs = [(own.mean() for own in (mine[true], mine[false])) for true, false in (("recall", "fpr"), CALIBRATED)]
    return "; ".join(" / ".join(percent(rate) or "-" for rate in pair) for pair in pairs)


def _threshold_note(subject: str, frame: pd.DataFrame, plan: SummarySettings) -> str:
    calibration = {
        "model": "all clean models, so that no clean model is left for its false positives",
        "pairs": "half of the clean pairs, and the other half gives its false positives",
        "pictures": "half of the clean pictures, and the other half gives its false positives",
    }[subject]
    return (
        "True positives / false positives in percent, mean over seeds: at the method's own threshold; then at one that "
        f"is calibrated for {percent(plan.detect_false_positives)} % false positives on {calibration}. -: the method "
        f"has no threshold, or too few clean items calibrate one.{_unscored_note(subject, frame, 'are not flagged')}"
    )


def _text(mine: pd.DataFrame) -> str:
    """Return the text of one cell, such as `92.1 ± 0.4 / 56.0 ± 2.0`; empty if the cell was not run.

    `- / -` if the cell was run and some of its models have no score.
    """
    if (mine["unscored"] > 0).any():
        return "- / -"
    parts = []
    for figure in ("auroc", "tpr_at_fpr1"):
        rates = mine[figure].dropna()
        parts.append(spread(rates.mean(), rates.std()))
    return " / ".join(parts) if all(parts) else ""


def _time(costs: pd.DataFrame, detector: str, defense: str) -> str:
    mine = costs[(costs["stage"] == "detect") & (costs["detector"] == detector) & (costs["defense"] == defense)]
    return duration(mine["seconds"].dropna().astype(float).mean()) if len(mine) else ""


def _title(facts: DetectorFacts) -> str:
    own = f"{facts.name} ({facts.label})" if facts.label not in ("", facts.name) else facts.name
    return own + (", control" if facts.control else "") + (f" {RECONSTRUCTION}" if facts.reconstruction else "")


def _note(subject: str, frame: pd.DataFrame, plan: SummarySettings) -> str:
    head = "AUROC / true-positive rate at 1 % false positives, in percent"
    spread = "; mean ± standard deviation over seeds" if len(plan.seeds) > 1 and subject != "model" else ""
    over = {
        "model": "of the backdoored models of all seeds against the clean references",
        "pairs": "of the poisoned pairs against all other pairs of the training set",
        "pictures": "of triggered pictures against the same pictures without a trigger",
    }[subject]
    mine = frame[(frame["subject"] == subject) & (frame["auroc"].notna() | frame["unscored"].notna())]
    counts = sorted({f"{p:.0f} of {n:.0f}" for p, n in zip(mine["poisoned"], mine["items"], strict=True)})
    items = {"model": "backdoored models", "pairs": "poisoned pairs", "pictures": "triggered pictures"}[subject]
    marked = f" {ADAPTIVE}: the attack is made against the detector." if mine["adaptive"].any() else ""
    marked += _unscored_note(subject, frame, "leave `- / -`")
    return f"{head}{spread}, {over}; {items}: {', '.join(counts) or 'not measured'}. Time: mean per job.{marked}"


def _unscored_note(subject: str, frame: pd.DataFrame, effect: str) -> str:
    """Return the cells with models without a score, and the effect of these models; empty where all have a score."""
    mine = frame[(frame["subject"] == subject) & (frame["unscored"] > 0)]
    told = []
    for one in mine.itertuples():
        model = one.attack if one.defense == NO_DEFENSE else f"{one.attack}, {one.defense}"
        told.append(f"{one.detector} on {model}: {one.unscored:.0f} of {one.items:.0f} models without a score")
    return f" Models on which a detector has no score {effect}: {'; '.join(told)}." if told else ""


def markdown(parts: list[dict[str, Any]]) -> str:
    """Return the tables as Markdown."""
    text = []
    for part in parts:
        head, *rows = part["rows"]
        lines = [head, ["---", *("---:" for _ in head[1:])], *([escaped(row[0]), *row[1:]] for row in rows)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        text.append(f"\n## {part['title']}\n\n{part['note']}\n\n{table}\n")
    return "".join(text)

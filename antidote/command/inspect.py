"""Score pictures at use with a detector of pictures; higher is more suspicious.

PICTURES is a folder of pictures, or any dataset that `antidote scan` reads; captions have no effect. Writes scores.csv,
inspect.json and report.html with the most suspicious pictures. All pictures are held in memory at the model's size.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import read_json, whole_folder, write_json
from antidote.base.registry import DETECTORS, method
from antidote.base.settings import read_mapping
from antidote.command import inputs, report, resume
from antidote.data.access import GRANTS, DefenseData
from antidote.data.words.names import templates

if TYPE_CHECKING:
    from antidote.data.pairs import Pairs
    from antidote.detectors.base import Detector, Scores

CONTROLS = ("random", "oracle")


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = command_line.parser(__doc__)
    parser.add_argument("model", help="model folder, checkpoint file, or hf-hub:OWNER/NAME")
    parser.add_argument("pictures", help="folder of pictures, or another dataset")
    inputs.model_arguments(parser)
    inputs.dataset_arguments(parser)
    parser.add_argument("--detector", required=True, help="detector of pictures")
    parser.add_argument("--settings", type=read_mapping, default="{}", metavar="JSON|FILE", help="of the detector")
    parser.add_argument("--classes", type=Path, help="JSON list of the class names that the model is used for")
    parser.add_argument("--templates", default="openai_imagenet", help="prompts of that use")
    parser.add_argument("--shown", type=int, default=48, help="pictures shown on the page")
    parser.add_argument("--seed", type=command_line.seed, default=0)
    parser.add_argument("--output", type=Path, default=Path("inspected"), help="folder to write")
    return parser


def run(args: argparse.Namespace) -> None:
    """Score the pictures and write the results."""
    kind = detector_of(args.detector)
    settings = kind.Settings.read({"method": args.detector, **args.settings}, f"detector {args.detector}")
    clip = inputs.load(args.model, args.arch, args.quick_gelu)
    reason = kind.fits(clip.config["model_cfg"])
    if reason:
        raise UserError(f"{args.detector}: does not fit this model: it {reason}")
    pairs = inputs.load_pairs(args.pictures, args, clip.size)
    data = _data(kind, pairs, args)
    detector = kind(settings, args.seed)
    with whole_folder(args.output) as folder, resume.work(args.output, detector, clip, data, "none") as work:
        write(folder, pairs, detector.score(clip, data, work), args)
    command_line.log.info("%d pictures scored; page %s", len(pairs), args.output / "report.html")


def detector_of(name: str) -> type[Detector]:
    """Return the class of a detector of pictures.

    Raises:
        UserError: there is no such detector, or it scores another subject, or needs data that a study alone grants.
    """
    kind = method("detector", name)
    if name in CONTROLS or getattr(kind, "subject", None) != "pictures":
        known = [
            other for other in DETECTORS
            if other not in CONTROLS and getattr(method("detector", other), "subject", None) == "pictures"
        ]  # fmt: skip
        raise UserError(f"--detector: {name!r} does not score pictures; known: {', '.join(known) or 'none'}")
    if GRANTS[kind.access].pools:
        raise UserError(f"--detector: {name}: needs access {kind.access!r}, which a study alone grants")
    return kind


def _data(kind: type[Detector], pairs: Pairs, args: argparse.Namespace) -> DefenseData:
    """Return what the detector gets: the pictures by position and, if its access says so, class names and prompts."""
    from dataclasses import replace

    plain = replace(pairs, keys=[str(row) for row in range(len(pairs))], captions=[""] * len(pairs))
    if not GRANTS[kind.access].classes:
        return DefenseData(pictures=plain)
    if args.classes is None:
        raise UserError(f"--classes: is missing; {args.detector} needs the class names that the model is used for")
    names = read_json(args.classes)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"--classes: {args.classes}: should hold a JSON list of texts")
    return DefenseData(pictures=plain, classes=names, templates=templates(args.templates))


def write(folder: Path, pairs: Pairs, scores: Scores, args: argparse.Namespace) -> None:
    """Write scores.csv, inspect.json and the page."""
    import pandas as pd

    values = np.asarray(scores.values)
    order = np.argsort(-values, kind="stable")
    suspicious = None if scores.threshold is None else int((values >= scores.threshold).sum())
    table = pd.DataFrame({"picture": list(pairs.keys), "score": values})
    table.iloc[order].to_csv(folder / "scores.csv", index=False)
    facts = {"model": args.model, "pictures": len(pairs), "detector": args.detector, "threshold": scores.threshold}
    evidence = json.loads(json.dumps(dict(scores.evidence)))
    write_json(folder / "inspect.json", {**facts, "suspicious": suspicious, "evidence": evidence})
    verdict = (
        "The method has no threshold: compare the scores with those of pictures that you trust."
        if suspicious is None
        else f"{suspicious} of {len(pairs)} pictures reach the method's own threshold. Clean pictures reach it as well."
    )
    picture = lambda row: report.thumbnail(pairs.images[row].permute(1, 2, 0).numpy())
    shown = [report.Shown(picture(row), pairs.keys[row], f"{values[row]:.4g}") for row in order[: args.shown].tolist()]
    report.write(folder / "report.html", "Pictures at use", verdict, facts, shown=shown)

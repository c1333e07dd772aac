"""Score pictures at use with a detector of pictures; higher is more suspicious.

PICTURES is a picture, a folder with pictures in it or in its folders, or any dataset that `antidote scan` reads;
captions have no effect and may be missing. Writes scores.csv, inspect.json and report.html with the most suspicious
pictures. Pictures that cannot be read have no score; inspect.json and the page name them. All pictures are held in
memory at the model's size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import whole_folder, write_json
from antidote.command import arguments as shared
from antidote.command import finite, inputs, methods, report, resume
from antidote.command.given import NOTHING, Dataset, Given, check_given
from antidote.command.sources import Omitted
from antidote.data.access import DefenseData

if TYPE_CHECKING:
    from antidote.data.pairs import Pairs
    from antidote.detectors.base import Detector, Scores


@dataclass(frozen=True)
class Inspection:
    """The result of an inspection of N pictures.

    Attributes:
        model: name of the model.
        origin: the given pictures, as text.
        detector: name of the detector.
        pictures: the pictures at the model's size, with their keys.
        scores: (N,) values in the order of the pictures; higher is more suspicious.
        files: path of each picture (N) in the given folder, tar or table; the key where there is no path.
        omitted: what could not be read and has no score.
        read: whole paths of pictures and model; "" for what is no path.
    """

    model: str
    origin: str
    detector: str
    pictures: Pairs
    scores: Scores
    files: list[str]
    omitted: Omitted
    read: list[str] = field(default_factory=list)

    @property
    def suspicious(self) -> int | None:
        """Return how many pictures reach the method's own threshold; None for a method without one."""
        values, threshold = np.asarray(self.scores.values), self.scores.threshold
        return None if threshold is None else int((values >= threshold).sum())

    def write(self, folder: Path, shown: int) -> None:
        """Write scores.csv, inspect.json and the page with the most suspicious pictures, `shown` of them."""
        import pandas as pd

        pairs, values, suspicious = self.pictures, np.asarray(self.scores.values), self.suspicious
        order = np.argsort(-values, kind="stable")
        keys, files = ([report.printable(name) for name in names] for names in (pairs.keys, self.files))
        table = pd.DataFrame({"picture": keys, "score": values, "file": files})
        table.iloc[order].to_csv(folder / "scores.csv", index=False)
        threshold = self.scores.threshold
        facts = {"model": self.model, "from": self.origin, "pictures": len(pairs), "detector": self.detector}
        facts["threshold"] = threshold
        evidence = json.loads(json.dumps(dict(self.scores.evidence)))
        more = {"read": self.read, "suspicious": suspicious, "evidence": evidence, "skipped": self.omitted.facts}
        write_json(folder / "inspect.json", {**facts, **more})
        verdict = (
            "The method has no threshold: compare the scores with those of pictures that you trust."
            if suspicious is None
            else f"{suspicious} of {len(pairs)} pictures reach the method's own threshold. Clean pictures reach it as "
            "well."
        )
        picture = lambda row: report.thumbnail(pairs.images[row].permute(1, 2, 0).numpy())
        reached = lambda value: threshold is not None and value >= threshold
        line = lambda value: f"{value:.4g}{' · reaches the threshold' if reached(value) else ''}"
        tiles = [report.Shown(picture(row), files[row], line(values[row])) for row in order[:shown].tolist()]
        facts["threshold"] = "none" if threshold is None else f"{threshold:.4g}"
        facts["not scored"] = self.omitted.shown
        report.write(folder / "report.html", "Pictures at use", verdict, facts, shown=tiles)


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = shared.parser(
        __doc__, "model", "pictures", *shared.MODEL, *shared.COLUMNS, "--pairs", "--shots", "--classes", "--templates",
        "--lexicon", "--settings", "--shown", "--seed",
    )  # fmt: skip
    parser.add_argument("--detector", required=True, help=f"one of {', '.join(methods.detectors('pictures'))}")
    parser.add_argument("--output", type=Path, default=Path("inspected"), help="folder to write")
    return parser


def run(args: argparse.Namespace) -> None:
    """Score the pictures and write the results."""
    given = Given.of(args)
    found = inspect(
        inputs.checkpoint(args), args.pictures, args.detector, given, settings=args.settings, seed=args.seed,
        shown=args.shown, output=args.output,
    )  # fmt: skip
    command_line.log.info("%d pictures scored; page %s", len(found.pictures), args.output / "report.html")


def inspect(
    model: inputs.Model,
    pictures: Dataset,
    detector: str,
    given: Given = NOTHING,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    shown: int = 48,
    output: str | Path | None = None,
) -> Inspection:
    """Score pictures at use with a detector of pictures; higher is more suspicious.

    Args:
        model: the suspicious model.
        pictures: a picture, a folder with pictures in it or in its folders, or another dataset; captions have no
            effect.
        detector: name of a detector of pictures.
        given: class names or labelled pictures (`shots`), if the detector needs them; columns of a table.
        settings: settings of the detector that differ from the defaults.
        seed: seed of the detector.
        shown: number of pictures on the page.
        output: folder for scores.csv, inspect.json and report.html; None: nothing is written.

    Raises:
        UserError: the model or a picture file cannot be read; the detector does not fit, or its data are missing; a
            feature or a score is not finite.
    """
    check_given(given)
    kind, name = methods.detector_of("pictures", detector), inputs.shown(model, "a model")
    origin = inputs.shown(pictures, "pictures")
    places = [inputs.located(pictures), inputs.located(model)]
    place = report.kept(output, "inspect", {"from": origin, "model": name, "detector": detector, "read": places})
    own = kind.Settings.read({"method": detector, **(settings or {})}, f"detector {detector}")
    clip = inputs.load(model)
    reason = kind.fits(clip.config["model_cfg"])
    if reason:
        raise UserError(f"{detector}: does not fit this model: it {reason}")
    data = granted(kind, given, clip.size, detector, seed)  # first: pictures can take long to read
    made = kind(own, seed)
    read = inputs.load_pictures(pictures, given.columns, clip.size)
    pairs = read.pairs
    finite.check_model(clip, name, pairs.images)
    plain = replace(pairs, keys=[str(row) for row in range(len(pairs))], captions=[""] * len(pairs))
    data = replace(data, pictures=plain)
    with resume.work(place, made, clip, data, given.lexicon) as work:
        scores = made.score(clip, data, work)
    finite.check_scores(scores, detector, name)
    found = Inspection(name, origin, detector, pairs, scores, read.files, read.omitted, places)
    if place is not None:
        with whole_folder(place) as folder:
            found.write(folder, shown)
    return found


def granted(kind: type[Detector], given: Given, size: int, name: str, seed: int) -> DefenseData:
    """Return the data of a detector beside the pictures.

    Raises:
        UserError: data are missing, or the level of access exists in a study alone.
    """
    data = given.granted(size, [kind.access], seed)[kind.access]
    if not isinstance(data, str):
        return data
    if kind.access == "test-time":
        raise UserError(f"--classes: is missing; {name} needs the class names that the model is used for")
    if kind.access == "clean-pairs":
        raise UserError(f"--pairs: is missing; {name} learns from clean pairs: a table, shards or a folder")
    raise UserError(f"--detector: {name} {data}")

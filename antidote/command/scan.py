"""Score every pair of a dataset with a detector of training pairs; higher is more suspicious.

DATASET is a table, tar shards, a folder of class folders or of pictures, or a split that this project wrote. Pictures
are encoded once, in batches, into a file beside the results; pictures are not kept in memory. Keys and captions are,
and `clip_score` and `spectral` hold all features: 2 KB per pair at 512 dimensions, and a few copies of that. Writes
scores.csv (all pairs, the most suspicious first), keys.txt (the pairs to leave out: a pool of a study reads it by
`pools.training.without`), scan.json, and report.html with the most suspicious pairs.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import whole_folder, write_json
from antidote.base.lazy import torch
from antidote.base.registry import DETECTORS, method
from antidote.base.settings import read_mapping
from antidote.command import inputs, report
from antidote.data.access import DefenseData
from antidote.data.pairs import Pairs
from antidote.detectors.features import FeatureFile
from antidote.training.session import Work

if TYPE_CHECKING:
    from antidote.clip.model import Clip
    from antidote.detectors.base import Detector, Scores


@dataclass(frozen=True)
class Cut:
    """Which pairs are left out: those above the threshold, else the most suspicious share."""

    share: float
    threshold: float | None

    def rows(self, order: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the rows that are left out, from rows by falling score (N,) and scores (N,)."""
        if self.threshold is not None:
            return order[values[order] >= self.threshold]
        return order[: round(self.share * len(order))]


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = command_line.parser(__doc__)
    parser.add_argument("dataset", help="table, shards, folder, or written split")
    parser.add_argument("--model", required=True, help="CLIP that was trained on the dataset, or another one")
    inputs.model_arguments(parser)
    inputs.dataset_arguments(parser)
    parser.add_argument("--detector", default="dao", help="detector of pairs that reads features")
    parser.add_argument("--settings", type=read_mapping, default="{}", metavar="JSON|FILE", help="of the detector")
    parser.add_argument("--share", type=float, default=0.01, help="share of pairs in keys.txt (ours: 1 %%)")
    parser.add_argument("--threshold", type=float, help="pairs of at least this score go into keys.txt, in place of it")
    parser.add_argument("--shown", type=int, default=48, help="pairs shown on the page")
    parser.add_argument("--seed", type=command_line.seed, default=0)
    parser.add_argument("--output", type=Path, default=Path("scan"), help="folder to write")
    return parser


def run(args: argparse.Namespace) -> None:
    """Scan a dataset and write the results."""
    cost = command_line.Cost()
    kind = detector_of(args.detector)
    if not 0 < args.share < 1:
        raise UserError(f"--share: {args.share:g} should be a fraction between 0 and 1")
    settings = kind.Settings.read({"method": args.detector, **args.settings}, f"detector {args.detector}")
    clip = inputs.load(args.model, args.arch, args.quick_gelu)
    with whole_folder(args.output) as folder:
        work = folder / "work"
        work.mkdir()
        pairs = encode(clip, inputs.chunks(inputs.stream(args.dataset, args), clip.size), work, args.dataset)
        data = DefenseData(training_set=pairs)
        scores = kind(settings, args.seed).score(clip, data, Work(work, "scan"))
        shutil.rmtree(work)
        left_out = write(folder, pairs, scores, args)
        spent = cost.write(None, pairs=len(pairs))
        write_json(folder / "scan.json", {"settings": settings.model_dump(mode="json"), **_facts(args, pairs), **spent})
    command_line.log.info(
        "%d pairs scored; %d keys in %s; page %s",
        len(pairs), left_out, args.output / "keys.txt", args.output / "report.html",
    )  # fmt: skip


def detector_of(name: str) -> type[Detector]:
    """Return the class of a detector of pairs that scores from features.

    Raises:
        UserError: there is no such detector, or it needs more than features.
    """
    kind = method("detector", name)
    if not kind.from_features:
        known = ", ".join(sorted(name for name in DETECTORS if method("detector", name).from_features))
        raise UserError(f"--detector: {name!r} does not score pairs from their features; known: {known}")
    return kind


def encode(clip: Clip, parts: Any, work: Path, dataset: str) -> Pairs:
    """Return the pairs of chunks with their raw picture features in a file in `work`.

    Raises:
        UserError: there is no pair, or a feature is not finite.
    """
    keys: list[str] = []
    captions: list[str] = []
    width, path = 0, work / "features.f32"
    clip.network.eval()
    with path.open("wb") as file, torch.no_grad():
        for part in parts:
            features = clip.network.encode_image(clip.normalise(part.images)).float().cpu()
            if not features.isfinite().all():
                raise UserError("--model: its features are not finite numbers; its training has diverged")
            width = features.shape[1]
            file.write(features.numpy().tobytes())
            keys += part.keys
            captions += part.captions
            if len(keys) % (40 * inputs.CHUNK) == 0:
                command_line.log.info("%d pairs encoded", len(keys))
    if not keys:
        raise UserError(f"{dataset}: holds no usable pair")
    return Pairs(keys, FeatureFile(path, width), captions, torch.full((len(keys),), -1))


def write(folder: Path, pairs: Pairs, scores: Scores, args: argparse.Namespace) -> int:
    """Write scores.csv, keys.txt and the page; return the number of pairs in keys.txt."""
    import pandas as pd

    values = np.asarray(scores.values)
    order = np.argsort(-values, kind="stable")
    threshold = args.threshold if args.threshold is not None else scores.threshold
    rows = Cut(args.share, threshold).rows(order, values)
    table = pd.DataFrame({"key": list(pairs.keys), "score": values, "caption": list(pairs.captions)})
    table.iloc[order].to_csv(folder / "scores.csv", index=False)
    (folder / "keys.txt").write_text("".join(f"{pairs.keys[row]}\n" for row in rows), encoding="utf-8")
    verdict = (
        f"{len(rows)} of {len(pairs)} pairs are in keys.txt. A high score is a reason to look at a pair, no proof that "
        "the pair is poisoned; clean datasets have suspicious pairs as well."
    )
    facts = {**_facts(args, pairs), "left out": f"{len(rows)} pairs"}
    report.write(folder / "report.html", "Scan", verdict, facts, shown=_shown(order[: args.shown], pairs, values, args))
    return len(rows)


def _shown(rows: np.ndarray, pairs: Pairs, values: np.ndarray, args: argparse.Namespace) -> list[report.Shown]:
    """Return the pictures of some rows; the dataset is read a second time, as no picture was kept."""
    wanted = {pairs.keys[row]: row for row in rows.tolist()}
    found: dict[int, report.Shown] = {}
    for item in inputs.stream(args.dataset, args) if wanted else ():
        row = wanted.get(item.key)
        if row is not None:
            found[row] = report.Shown(report.thumbnail(item.image), item.caption, f"{values[row]:.4g} · {item.key}")
            if len(found) == len(wanted):
                break
    return [found[row] for row in rows.tolist() if row in found]


def _facts(args: argparse.Namespace, pairs: Pairs) -> dict[str, Any]:
    return {"dataset": args.dataset, "model": args.model, "detector": args.detector, "pairs": len(pairs)}

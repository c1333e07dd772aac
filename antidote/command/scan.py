"""Score every pair of a dataset with a detector of training pairs; higher is more suspicious.

DATASET is a table, tar shards, a folder of class folders or of pictures, or a split that this project wrote. Pictures
are not kept in memory. For most detectors they are encoded once, in batches, into a file beside the results. `ubt`,
`cascade`, `abl`, `cognitive_distillation` and `clean_clip_score` look at the pictures again; for these the file holds
the pictures at the model's size, 150 KB per pair at 224 pixels. Keys and captions are in memory, and `clip_score`,
`spectral` and `cascade` hold all features of pictures and captions: 4 KB per pair at 512 dimensions, and a few copies
of that. The time of `cascade` grows with the square of the pairs. Writes
scores.csv (all pairs, the most suspicious first), keys.txt (the pairs to leave out: a pool of a study reads it by
`pools.training.without`), scan.json, and report.html with the most suspicious pairs. Pairs that cannot be read have no
score; scan.json and the page name them. The same command after a killed scan reads the dataset again; a detector that
keeps checkpoints, beside the results, goes on from the last one.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import whole_folder, write_json
from antidote.base.lazy import torch
from antidote.clip.adapted import raw_features
from antidote.command import arguments as shared
from antidote.command import finite, inputs, methods, report, resume
from antidote.command.sources import Omitted
from antidote.data.access import DefenseData
from antidote.data.pairs import Pairs
from antidote.data.picture_file import PictureFile
from antidote.detectors.features import FeatureFile
from antidote.training.session import Work

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip


SHARE = 0.01  # share of pairs to leave out where neither the user nor the method says more (ours)


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

    def without_keys(self, count: int) -> str:
        """Return why no pair of `count` is left out, as the end of a sentence."""
        if self.threshold is not None:
            return f"no score reaches the threshold {self.threshold:g}"
        return f"a share of {100 * self.share:g} % of {count} pairs rounds to none; name a larger --share"


@dataclass(frozen=True)
class Scan:
    """The result of a scan of N pairs.

    Attributes:
        dataset: name of the dataset.
        model: name of the model.
        detector: name of the detector.
        pairs: keys and captions; the features are gone.
        values: (N,) scores in the order of the pairs; higher is more suspicious.
        cut: which pairs are left out.
        omitted: what could not be read and has no score.
    """

    dataset: str
    model: str
    detector: str
    pairs: Pairs
    values: np.ndarray
    cut: Cut
    omitted: Omitted = field(default_factory=Omitted)

    @property
    def order(self) -> np.ndarray:
        """Return the rows (N,) by falling score."""
        return np.argsort(-self.values, kind="stable")

    @property
    def left_out(self) -> list[str]:
        """Return the keys of the pairs to leave out, the most suspicious first."""
        return [self.pairs.keys[row] for row in self.cut.rows(self.order, self.values)]

    @property
    def facts(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "model": self.model, "detector": self.detector, "pairs": len(self.pairs)}

    @property
    def reason(self) -> str:
        """Return why no pair is left out, after a colon; "" if there is one."""
        return "" if self.left_out else f": {self.cut.without_keys(len(self.pairs))}"

    def write(self, folder: Path, columns: inputs.Columns, shown: int) -> None:
        """Write scores.csv, keys.txt and the page with the most suspicious pairs, `shown` of them."""
        import pandas as pd

        pairs, order, keys = self.pairs, self.order, self.left_out
        table = pd.DataFrame({"key": list(pairs.keys), "score": self.values, "caption": list(pairs.captions)})
        table.iloc[order].to_csv(folder / "scores.csv", index=False)
        (folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
        verdict = (
            f"{len(keys)} of {len(pairs)} pairs are in keys.txt{self.reason}. A high score is a reason to look at a "
            "pair, no proof that the pair is poisoned; clean datasets have suspicious pairs as well."
        )
        facts = {**self.facts, "left out": f"{len(keys)} pairs", "not scored": self.omitted.shown}
        tiles = self._tiles(order[:shown], columns)
        report.write(folder / "report.html", "Scan", verdict, facts, shown=tiles)

    def _tiles(self, rows: np.ndarray, columns: inputs.Columns) -> list[report.Shown]:
        """Return the pictures of some rows; the dataset is read a second time, as no picture was kept."""
        wanted, left_out = {self.pairs.keys[row]: row for row in rows.tolist()}, set(self.left_out)
        found: dict[int, report.Shown] = {}
        for item in inputs.stream(self.dataset, columns) if wanted else ():
            row = wanted.get(item.key)
            if row is not None:
                line = f"{self.values[row]:.4g} · {item.key}{' · in keys.txt' if item.key in left_out else ''}"
                found[row] = report.Shown(report.thumbnail(item.image), item.caption, line)
                if len(found) == len(wanted):
                    break
        return [found[row] for row in rows.tolist() if row in found]


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = shared.parser(__doc__, "dataset", *shared.MODEL, *shared.COLUMNS, "--settings", "--shown", "--seed")
    parser.add_argument("--model", required=True, help="CLIP that was trained on the dataset, or another one")
    parser.add_argument("--detector", default="dao", help=f"one of {', '.join(methods.detectors('pairs'))}")
    parser.add_argument(
        "--share", type=float, help="share of pairs in keys.txt, in place of the method's threshold (without one: 1 %%)"
    )
    parser.add_argument(
        "--threshold", type=float, help="pairs of at least this score go into keys.txt, in place of both"
    )
    parser.add_argument("--output", type=Path, default=Path("scan"), help="folder to write")
    return parser


def run(args: argparse.Namespace) -> None:
    """Scan a dataset and write the results."""
    found = scan(
        args.dataset, inputs.checkpoint(args), args.detector, settings=args.settings, share=args.share,
        threshold=args.threshold, seed=args.seed, columns=inputs.columns(args), shown=args.shown, output=args.output,
    )  # fmt: skip
    command_line.log.info(
        "%d pairs scored; %d keys in %s%s; page %s",
        len(found.pairs), len(found.left_out), args.output / "keys.txt", found.reason, args.output / "report.html",
    )  # fmt: skip


def scan(
    dataset: str | Path,
    model: inputs.Model,
    detector: str = "dao",
    *,
    settings: Mapping[str, Any] | None = None,
    share: float | None = None,
    threshold: float | None = None,
    seed: int = 0,
    columns: inputs.Columns = inputs.USUAL,
    shown: int = 48,
    output: str | Path | None = None,
) -> Scan:
    """Score every pair of a dataset with a detector of training pairs; higher is more suspicious.

    Args:
        dataset: table, tar shards, folder, or a written split; read as a stream.
        model: the CLIP that was trained on the dataset, or another one.
        detector: name of a detector of pairs that needs no further data.
        settings: settings of the detector that differ from the defaults.
        share: share of pairs to leave out, between 0 and 1; None: by the method's own threshold, without one SHARE.
        threshold: pairs of at least this score are left out, in place of a share.
        seed: seed of the detector.
        columns: columns of a table.
        shown: number of pairs on the page.
        output: folder for scores.csv, keys.txt, scan.json and report.html; None: nothing is written.

    Raises:
        UserError: the model or the dataset cannot be read; the detector does not score pairs alone; the threshold, a
            feature or a score is not finite.
    """
    cost, kind = command_line.Cost(), methods.detector_of("pairs", detector)
    if share is not None and not 0 < share < 1:
        raise UserError(f"--share: {share:g} should be a fraction between 0 and 1")
    if threshold is not None and not np.isfinite(threshold):
        raise UserError(f"--threshold: {threshold:g} should be a finite number")
    own = kind.Settings.read({"method": detector, **(settings or {})}, f"detector {detector}")
    name, omitted = inputs.shown(model, "a model"), Omitted()
    read = [inputs.located(dataset), inputs.located(model)]
    output = report.kept(output, "scan", {"dataset": str(dataset), "model": name, "detector": detector, "read": read})
    clip = inputs.load(model)
    methods.check(kind, own, clip)
    finite.check_model(clip, name, torch.empty(0))
    with tempfile.TemporaryDirectory() if output is None else whole_folder(output) as place:
        folder = Path(place)
        work = folder / "work"
        work.mkdir()
        parts = inputs.chunks(inputs.stream(dataset, columns, omitted), clip.size)
        write = encode if kind.from_features else keep
        pairs = write(clip, parts, work, str(dataset))
        made, data = kind(own, seed), DefenseData(training_set=pairs)
        # A detector of features keeps no checkpoint: hashing all features for its identity would be for nothing.
        own_work = nullcontext(Work(work, "scan")) if kind.from_features else resume.work(output, made, clip, data, "")
        with own_work as checkpoints:
            scores = made.score(clip, data, checkpoints)
        finite.check_scores(scores, detector, name)
        shutil.rmtree(work)
        own_threshold = scores.threshold if share is None else None
        cut = Cut(share or SHARE, own_threshold if threshold is None else threshold)
        found = Scan(str(dataset), name, detector, pairs, np.asarray(scores.values), cut, omitted)
        if output is not None:
            found.write(folder, columns, shown)
            facts = {**found.facts, "read": read, "skipped": omitted.facts, **cost.write(None, pairs=len(pairs))}
            write_json(folder / "scan.json", {"settings": own.model_dump(mode="json"), **facts})
    return found


def encode(clip: Clip, parts: Iterator[Pairs], work: Path, dataset: str) -> Pairs:
    """Return the pairs of chunks with their raw picture features in a file in `work`.

    Raises:
        UserError: there is no pair, or a feature is not finite.
    """
    path, width = work / "features.f32", 0

    def features(part: Pairs) -> Tensor:
        nonlocal width
        found = raw_features(clip, part.images).cpu()
        finite.check_features(found, "--model")
        width = found.shape[1]
        return found

    clip.network.eval()
    with torch.no_grad():
        keys, captions = _written(parts, features, path, dataset)
    return Pairs(keys, FeatureFile(path, width), captions, torch.full((len(keys),), -1))


def keep(clip: Clip, parts: Iterator[Pairs], work: Path, dataset: str) -> Pairs:
    """Return the pairs of chunks with their pictures in a file in `work`.

    Raises:
        UserError: there is no pair.
    """
    path = work / "pictures.u8"
    keys, captions = _written(parts, lambda part: part.images, path, dataset)
    return Pairs(keys, PictureFile(path, clip.size), captions, torch.full((len(keys),), -1))


def _written(
    parts: Iterator[Pairs], values: Callable[[Pairs], Tensor], path: Path, dataset: str
) -> tuple[list[str], list[str]]:
    """Write the values of each chunk to a file; return the keys and the captions."""
    keys: list[str] = []
    captions: list[str] = []
    with path.open("wb") as file:
        for part in parts:
            file.write(values(part).numpy().tobytes())
            keys += part.keys
            captions += part.captions
            if len(keys) % (40 * inputs.CHUNK) == 0:
                command_line.log.info("%d pairs read", len(keys))
    if not keys:
        raise UserError(f"{dataset}: holds no usable pair")
    return keys, captions

"""Estimate of a study before the run: jobs by stage, finished jobs, work, disk space, and missing inputs.

Work is counted in trained pairs and encoded pictures; measured rates convert the work into hours.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from antidote.base.disk import gigabytes
from antidote.base.errors import UserError
from antidote.base.files import DATA
from antidote.base.lazy import torch
from antidote.base.registry import method
from antidote.clip.known import model_config
from antidote.clip.model import Clip
from antidote.clip.weights import find as find_weights
from antidote.data.download import img2dataset
from antidote.data.sources.base import SourceSettings
from antidote.data.store.datasets import pointers
from antidote.data.store.sizes import LOSSLESS_PER_PIXEL, picture_bytes
from antidote.data.words.lexicon import FILES
from antidote.study.amounts import amounts, pictures, size_of, sizes_of
from antidote.study.data_jobs import matrix
from antidote.study.layout import STAGES, Layout
from antidote.study.study import Study
from antidote.training.loop import train
from antidote.training.objectives import Contrastive
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work

CHECKPOINT = 3.0  # in units of the weights: weights and two moments
KEPT_CHECKPOINTS = 2  # number of jobs that run at the same time
MEASURED = 3  # number of timed steps


@dataclass(frozen=True)
class Stage:
    """One stage of a study.

    Attributes:
        outputs: the first output file of each job; if the file exists, the job is done.
        trained: pairs that all jobs together train on, counted once per epoch.
        encoded: further pictures that the jobs encode without training.
    """

    name: str
    outputs: tuple[Path, ...]
    trained: float = 0
    encoded: float = 0

    @property
    def done(self) -> int:
        return sum(path.is_file() for path in self.outputs)

    @property
    def left(self) -> float:
        """Return the fraction of the stage that is not done yet, from 0 to 1."""
        return 1 - self.done / len(self.outputs) if self.outputs else 0.0


@dataclass(frozen=True)
class Rates:
    """Throughput of one device.

    Attributes:
        trained: pairs per second, forward and backward.
        encoded: pictures per second, forward only.
        parameters: number of parameters of the model.
    """

    trained: float
    encoded: float
    parameters: int

    def hours(self, stage: Stage) -> float:
        """Return the hours that the remaining jobs of a stage take on one device."""
        return stage.left * (stage.trained / self.trained + stage.encoded / self.encoded) / 3600


def stages(study: Study, results: Path = Path("results")) -> list[Stage]:
    """Return the stages of a study that have a title in the layout, in the order in which they run."""
    kept, jobs, work = Layout(results / study.name, DATA), matrix(study), amounts(study)
    found = []
    for name, stage in STAGES.items():
        if not stage.title:
            continue
        first = next(iter(stage.files))
        outputs = tuple(kept.path(name, first, **names) for names in jobs.jobs(name))
        if outputs:
            found.append(Stage(stage.title, outputs, **work.get(name, {})))
    return found


# --- disk -------------------------------------------------------------------------------------------------------------


def disk(study: Study, found: list[Stage], size: int, parameters: int) -> dict[str, float]:
    """Return the bytes still to be written, by category; `place` returns the folder of a category.

    Args:
        found: the stages, as returned by `stages`.
        size: side of the model's pictures in pixels.
        parameters: number of parameters of the model.
    """
    weights = 4.0 * parameters
    done = {stage.name: stage for stage in found}
    to_do = {name: len(stage.outputs) - stage.done for name, stage in done.items()}
    models = sum(left for name, left in to_do.items() if name.endswith(("model", "models")))
    poisons = [getattr(a, "poisons", 0) or 0 for a in study.attacks.values()]
    return {
        "downloads": sum(_left_to_download(study, *place) for place in downloads(study)),
        "data": sum(_split_bytes(study, *place) for place in _to_write(study)),
        "pictures made ready": sum(_ready_bytes(study, scored, size) for scored in study.scored()),
        "poisoned pairs": LOSSLESS_PER_PIXEL * size**2 * len(study.file.seeds) * sum(poisons),
        "triggered pictures": _kept_bytes(study, size) if to_do.get("scores") else 0.0,
        "models": models * weights,
        "checkpoints": CHECKPOINT * KEPT_CHECKPOINTS * weights if models else 0.0,
    }


def place(what: str, results: Path) -> Path:
    """Return the folder to which a category of `disk` is written."""
    return {"downloads": DATA / "downloads", "data": DATA, "pictures made ready": DATA}.get(what, results)


def too_full(needed: dict[str, float], results: Path) -> list[str]:
    """Return a line for each disk with less free space than the bytes still to be written to the disk."""
    by_disk: dict[int, list[str]] = {}
    for what in needed:
        by_disk.setdefault(_disk_of(place(what, results)), []).append(what)
    lines = []
    for parts in by_disk.values():
        total, left = sum(needed[what] for what in parts), free(place(parts[0], results))
        if total > left:
            lines.append(f"disk: {', '.join(parts)}: {gigabytes(total)} are needed, {gigabytes(left)} are free")
    return lines


def _split_bytes(study: Study, dataset: str, split: str) -> float:
    source = study.sources[dataset]
    return _count(source, split) * picture_bytes(source, split)


def _left_to_download(study: Study, dataset: str, split: str) -> float:
    """Return the bytes of work shards still to be downloaded; the shards are kept until a user deletes them."""
    folder = Path(Layout(Path(), DATA).work("download").format(dataset=dataset, split=split))
    there = sum(path.stat().st_size for path in folder.rglob("*.tar"))
    return max(_split_bytes(study, dataset, split) - there, 0.0)


def _ready_bytes(study: Study, scored: Any, size: int) -> float:
    names = {"dataset": scored.dataset, "split": scored.split, "fit": study.fit(scored)}
    array = Layout(Path(), DATA).path("pictures", "array", **names)
    return 0.0 if array.is_file() else 3.0 * size**2 * pictures(study, scored)


def _kept_bytes(study: Study, size: int) -> float:
    """Return the bytes of the triggered pictures that the cells of an attack and seed share."""
    drawn = sum((part.looks - 1) * pictures(study, part) for part in study.evaluated.passes())
    shares = sum(method("attack", attack.method).kept for attack in study.attacks.values())
    return len(study.file.seeds) * shares * 3.0 * size**2 * drawn


def _count(source: SourceSettings, split: str) -> int:
    """Return the largest number of pictures that a split can hold; 0 if unknown."""
    rows = (source.expected or {}).get(split) or (getattr(source, "rows", None) or {}).get(split) or 0
    sample = getattr(source, "sample", None)
    if sample is not None:
        return min(sample.pairs, rows) if rows else sample.pairs
    return rows or getattr(source.split(split), "pairs", 0) or 0


def _disk_of(folder: Path) -> int:
    return _there(folder).stat().st_dev


def _there(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def free(folder: Path) -> int:
    """Return the free bytes on the disk of a folder; the folder need not exist yet."""
    return shutil.disk_usage(_there(folder)).free


# --- rates ------------------------------------------------------------------------------------------------------------


def measured(clip: Clip, settings: TrainSettings) -> Rates:
    """Measure the rates of a model on its device with a few steps of its own recipe on random pictures."""
    from antidote.data.pairs import Pairs

    count = settings.batch_size * MEASURED
    images = torch.randint(0, 256, (count, 3, clip.size, clip.size), dtype=torch.uint8)
    captions = [f"a photo of {number}" for number in range(count)]
    pairs = Pairs(captions, images, captions, torch.full((count,), -1))
    once = settings.model_copy(update={"epochs": 1, "shuffle": "global"})  # these pairs lie in no shard
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):  # the first run is a warm-up
            place = Work(Path(folder) / str(number), "rate", every=math.inf)
            seconds = _timed(partial(train, clip, Contrastive(pairs), once, number, place))
    clip.network.eval()

    def encode() -> None:
        with torch.no_grad():
            for chunk in images.split(settings.batch_size):
                clip.encode_image(chunk)
        if clip.device.type == "cuda":
            torch.cuda.synchronize()

    encode()
    return Rates(count / seconds, count / _timed(encode), parameter_count(clip))


def parameter_count(clip: Clip) -> int:
    """Return the number of parameters of a model."""
    return sum(p.numel() for p in clip.network.parameters())


def _timed(action: Callable[[], Any]) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start


# --- required inputs --------------------------------------------------------------------------------------------------


def missing(study: Study) -> list[str]:
    """Return a line for each input of the study that is missing and that no job fetches."""
    lines = []
    for dataset, split in _to_write(study):
        pointer = next((path for path in pointers(DATA / dataset / split) if path.is_file()), None)
        absent = [f"`dvc pull {pointer}` brings it"] if pointer else study.sources[dataset].absent(split)
        lines += [f"{dataset}/{split}: {line}" for line in absent]
    if downloads(study):
        try:
            img2dataset.interpreter()
        except UserError as error:
            lines.append(str(error))
    return lines


def too_few_pairs(study: Study) -> list[str]:
    """Return a line for each split of which the pools ask for more pairs than it has, where its size is known."""
    asked: dict[tuple[str, str], dict[str, int]] = {}
    sizes = sizes_of(study)
    for name, pool in study.file.pools.pools().items():
        asked.setdefault(study.file.pools.place(pool), {})[name] = sizes[name]
    lines = []
    for (dataset, split), pools in asked.items():
        known = size_of(study, dataset, split)
        if known is not None and sum(pools.values()) > known:
            parts = ", ".join(f"{name} {pairs:,}" for name, pairs in pools.items())
            lines.append(f"pools: ask for {sum(pools.values()):,} pairs ({parts}); {dataset}/{split} has {known:,}")
    return lines


def further_weights(study: Study) -> list[str]:
    """Fetch the weights of all start models except the study's own model; return a line for each failure.

    open_clip caches downloaded weights, so jobs without network access find the weights in the cache.
    """
    wanted = {f"surrogates.{name}": further.model for name, further in study.file.surrogates.items()}
    wanted |= {f"defenses.{name}.scorer": one.public for name, one in study.defenses.items()}
    wanted |= {f"detectors.{name}.scorer": one.public for name, one in study.detectors.items()}
    faults = {study.file.model: ""}  # the study's own weights are checked elsewhere
    for key, model in wanted.items():
        if model is None or model.pretrained is None or model in faults:
            continue
        try:
            find_weights(model.name, model.pretrained, model.quick_gelu, model_config(model.name))
            faults[model] = ""
        except UserError as error:
            faults[model] = f"{key}: {str(error).removeprefix('model.pretrained: ')}"
    return [fault for fault in faults.values() if fault]


def fetched(study: Study) -> list[str]:
    """Return a short description of each download that a job of the study will perform."""
    words = {
        f"{dataset} ({what})": None
        for dataset, split in _to_write(study)
        if (what := study.sources[dataset].fetched(split))
        and not any(path.is_file() for path in pointers(DATA / dataset / split))
    }
    uses_words = any(method("defense", settings.method).uses_lexicon for settings in study.defenses.values())
    if uses_words and study.lexicon() == "wordnet" and not all((DATA / "wordnet" / name).is_file() for name in FILES):
        words["WordNet"] = None
    return list(words)


def _to_write(study: Study) -> list[tuple[str, str]]:
    """Return (dataset, split) of every split that the study reads and that does not exist yet."""
    kept = Layout(Path(), DATA)
    return [(d, s) for d, s in study.splits() if not kept.path("dataset", "manifest", dataset=d, split=s).is_file()]


def downloads(study: Study) -> list[tuple[str, str]]:
    """Return (dataset, split) of every missing split whose pictures must be downloaded from a URL table."""
    return [
        (dataset, split)
        for dataset, split in _to_write(study)
        if study.sources[dataset].downloads
        and not Layout(Path(), DATA).path("download", "report", dataset=dataset, split=split).is_file()
        and not any(path.is_file() for path in pointers(DATA / dataset / split))
    ]

"""Zero-shot evaluation of one model, clean and triggered, by the protocol that every cell shares."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from antidote.attacks.base import View
from antidote.data.pairs import Pairs
from antidote.errors import UserError
from antidote.lazy import torch
from antidote.metrics import Ranks, hits, interval, joined, ranks
from antidote.models import Clip
from antidote.seeds import derive
from antidote.settings import Settings
from antidote.triggers import Trigger
from antidote.zscore import PairCosines, backdoor_z

if TYPE_CHECKING:
    from torch import Tensor

BOOTSTRAP_SEED = 0
# Not a part of a job's identity where they are left out.
OPTIONAL = ("precision", "shifts", "retrieval", "probe", "resistance")
# What follows ca1_, asr1_ and floor_ elsewhere.
TAKEN = {
    "all",
    "high",
    "low",
    "visual_only",
    "text_only",
    "clean_shots",
    "probe",
    "word1",
    "word5",
    "word10",
    "resistance",
}


class Shift(Settings):
    """Pictures of the same classes, or of some of them, from another domain."""

    dataset: str = Field(description="a labelled dataset")
    split: str = Field(description="one of its splits")
    pictures: int | None = Field(None, ge=1, description="how many, evenly over the set; empty: all")
    classes: str | None = Field(
        None,
        description="names of the classes that its labels count, all among the evaluation's; the dataset's own by "
        "default, and where it has none the evaluation's",
    )
    among: Literal["all", "own"] = Field(
        "all",
        description="classified among all classes of the evaluation, or among those that the whole set shows "
        "(ImageNet-A and -R: 1000-way or 200-way)",
    )


class Retrieval(Settings):
    """Pictures with captions that every cell is asked to find for one another."""

    dataset: str = Field(description="a dataset with captions")
    split: str = Field(description="one of its splits")
    pictures: int | None = Field(None, ge=1, description="how many, evenly over the set; empty: all")
    captions: int = Field(5, ge=1, description="captions of a picture that count, the first ones (COCO, Flickr: 5)")


class Probe(Settings):
    """Clean labelled pictures, of the evaluation's classes, that a linear probe is fitted on for every cell."""

    dataset: str = Field(description="a labelled dataset")
    split: str = Field(description="one of its splits, not that of the evaluation")
    pictures: int | None = Field(None, ge=1, description="how many, evenly over the set; empty: all")
    c: float = Field(
        31.6,
        gt=0,
        description="inverse strength of the L2 penalty, as scikit-learn's C, for features of length 1 (CLIP's "
        "example: 0.316 for features of length about 10)",
    )
    steps: int = Field(1000, ge=1, description="of L-BFGS, at most (CLIP's example)")


class Resistance(Settings):
    """Perturbations of the evaluation's pictures, under which every cell's features are compared with those before."""

    pictures: int | None = Field(
        500, ge=1, description="how many of the evaluation's, evenly over them (ours, for time); empty: all"
    )
    layers: bool = Field(
        True, description="class tokens after every block as well, of vision transformers, in `scores.json` (RVPT)"
    )
    noise: float = Field(0.001, ge=0, description="deviation of Gaussian noise, for pictures in [0, 1] (RVPT)")
    blur_kernel: int = Field(3, ge=1, description="side of the Gaussian blur's kernel, pixels, odd (RVPT)")
    blur_sigma: float = Field(5.0, gt=0, description="deviation of the Gaussian blur, pixels (RVPT)")
    brightness: float = Field(
        0.5, ge=0, description="of colour jitter: b draws factors from 1 - b, at least 0, to 1 + b (RVPT)"
    )
    hue: float = Field(0.3, ge=0, le=0.5, description="of colour jitter: h draws turns from -h to h (RVPT)")
    seed: int = Field(0, ge=0, description="of noise and jitter, for all cells the same (ours)")

    @field_validator("blur_kernel")
    @classmethod
    def _odd(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError(f"should be odd, not {side}")
        return side


class EvaluationSettings(Settings):
    """What is classified, into which classes, by which prompts."""

    dataset: str = Field(description="a labelled dataset")
    split: str = Field(description="one of its splits")
    pictures: int | None = Field(None, ge=1, description="how many, evenly over the set; empty: all")
    classes: str | None = Field(None, description="class names, a file in data/classes; the dataset's own by default")
    templates: str = Field("openai_imagenet", description="prompts: a file in data/templates or an open_clip set")
    batch_size: int = Field(256, ge=1, description="pictures encoded at a time")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="autocast type of the picture encoder")
    bootstrap: int = Field(1000, ge=100, description="draws behind each 95 % interval")
    shifts: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Shift] = Field(
        {}, description="by name, sets of other domains that every cell is scored on as well: `ca1_NAME`, `asr1_NAME`"
    )

    retrieval: Retrieval | None = Field(
        None, description="recall of captions and pictures, `i2t_r1`, ..., and `target_word1`, ...; empty: not measured"
    )
    probe: Probe | None = Field(
        None, description="a linear probe of each cell's picture encoder, `ca1_probe`, `asr1_probe`; empty: none"
    )

    resistance: Resistance | None = Field(
        None,
        description="how little perturbations and the trigger move features, `resistance_trigger`, "
        "`resistance_noise`, ...; empty: not measured",
    )

    @field_validator("shifts")
    @classmethod
    def _free_names(cls, shifts: dict[str, Shift]) -> dict[str, Shift]:
        taken = sorted(TAKEN & set(shifts))
        if taken:
            raise ValueError(f"the name {taken[0]!r} is taken by columns of other figures")
        return shifts

    def slice(self) -> str:
        """Return canonical JSON; what is not asked for does not count, so that cells without it stay as they are."""
        unused = {name for name in OPTIONAL if getattr(self, name) == type(self).model_fields[name].default}
        values = self.model_dump(mode="json", exclude=unused)
        return json.dumps(values, sort_keys=True, separators=(",", ":"))


def evaluate(
    clip: Clip,
    pictures: Pairs,
    trigger: Trigger | None,
    target: int,
    classes: list[str],
    templates: list[str],
    settings: EvaluationSettings,
    embeddings: tuple[Tensor, Tensor] | None = None,
    probe: Tensor | None = None,
) -> dict:
    """Return the scores of a model: counts, rates as fractions (None where there is no attack), intervals.

    `embeddings` is what `class_weights` returns, for who scores several sets; `probe`, class weights (D, C) of another
    classifier over the same features, whose CA@1 and ASR@1 are then returned under `probe`.

    An attack with a text key is scored with both keys, its prompts opening with that key; `extra` holds what each key
    does alone. Clean accuracy is measured with neither. `extra` also holds the backdoor z-score over the pictures of
    other classes than the target, and what the attack measures in its own way; without a trigger, there is that alone.

    Of pictures and features, one batch is in memory at a time; of a picture that is done, a few numbers remain.
    """
    with torch.no_grad():
        clip.network.eval()
        weights, keyed = embeddings or class_weights(clip, trigger, classes, templates)
        seen = _look(clip, pictures, trigger, target, weights, keyed, settings, probe)
        extra = {}
        if seen.triggered is not None:
            extra["backdoor_z"] = backdoor_z(seen.clean_cosines, seen.triggered_cosines)
            extra |= {f"asr1_{name}": _asr1(ranks, pictures.labels, target) for name, ranks in seen.one_key.items()}
        if trigger is not None:
            view = View(clip, pictures, seen.gallery, weights, classes, templates)
            extra |= trigger.attack.measure(view)
    counted = hits(seen.clean, seen.triggered, pictures.labels, target)
    names = ("ca1", "ca5", "asr1", "asr3", "asr5", "asr10", "asr1_all", "pa", "target_ca1")
    rates = {name: float(counted[name].mean()) if len(counted.get(name, ())) else None for name in names}
    intervals = {
        name: interval(values, settings.bootstrap, derive(BOOTSTRAP_SEED, name)) for name, values in counted.items()
    }
    return {
        "pictures": len(pictures),
        "pictures_asr": int((pictures.labels != target).sum()) if seen.triggered is not None else 0,
        **rates,
        "intervals": intervals,
        **({"extra": extra} if extra else {}),
        **({"probe": _of_probe(seen, pictures.labels, target)} if probe is not None else {}),
    }


def _of_probe(seen: _Seen, labels: Tensor, target: int) -> dict[str, float | None]:
    counted = hits(seen.probe, seen.probe_triggered, labels, target)
    return {f"{name}_probe": float(counted[name].mean()) for name in ("ca1", "asr1") if len(counted.get(name, ()))}


@dataclass(frozen=True)
class _Seen:
    """What is kept of the pictures: ranks, clean, triggered and with one key alone; how alike features are.

    `gallery` (N, D), normalised features of the clean pictures on the CPU, is there where the attack asks for it.
    """

    clean: Ranks
    triggered: Ranks | None
    one_key: dict[str, Ranks]
    clean_cosines: PairCosines
    triggered_cosines: PairCosines
    gallery: Tensor | None
    probe: Ranks | None
    probe_triggered: Ranks | None


def _look(
    clip: Clip,
    pictures: Pairs,
    trigger: Trigger | None,
    target: int,
    weights: Tensor,
    keyed: Tensor,
    settings: EvaluationSettings,
    probe: Tensor | None,
) -> _Seen:
    """Encode every picture, and its triggered copy where there is a trigger to draw, batch by batch."""
    drawn = trigger if trigger is not None and trigger.attack.triggered else None
    found: dict[str, list[Ranks]] = {}
    gallery: list[Tensor] = []
    cosines = PairCosines(), PairCosines()
    for images, triggered, labels in batches(pictures, settings.batch_size, drawn, clip.device):
        features = encode(clip, images, settings.precision)
        views = {"clean": (features, weights)} | ({} if probe is None else {"probe": (features, probe)})
        if drawn is not None:
            reached = encode(clip, triggered, settings.precision)
            views["triggered"] = (reached, keyed)
            views |= {} if probe is None else {"probe_triggered": (reached, probe)}
            if drawn.attack.text_key:
                views |= {"visual_only": (reached, weights), "text_only": (features, keyed)}
            others = (labels != target).to(features.device)
            for sums, part in zip(cosines, (features, reached), strict=True):
                sums.add(part[others])
        for name, (part, against) in views.items():
            found.setdefault(name, []).append(ranks(_scores(part, against), labels, target))
        if trigger is not None and trigger.attack.gallery:
            gallery.append(features.cpu())
    whole = {name: joined(parts) for name, parts in found.items()}
    clean, *others = (whole.pop(name, None) for name in ("clean", "triggered", "probe", "probe_triggered"))
    return _Seen(clean, others[0], whole, *cosines, torch.cat(gallery) if gallery else None, *others[1:])


def batches(
    pictures: Pairs, batch_size: int, drawn: Trigger | None, device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Yield images and the same with a trigger, on the device, and labels of some pictures at a time, in order.

    A GPU draws the trigger, which on one core takes longer than the model; and while it computes, the next pictures are
    read.
    """
    ahead = device.type == "cuda"

    def ready(start: int) -> tuple[Tensor, Tensor | None, Tensor]:
        rows = slice(start, start + batch_size)
        images = pictures.images[rows].to(device)
        with torch.no_grad():
            triggered = None if drawn is None else drawn.draw(images, pictures.keys[rows], "test")
        return images, triggered, pictures.labels[rows]

    starts = range(0, len(pictures), batch_size)
    if not ahead:
        yield from map(ready, starts)
        return
    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(ready, start) for start in starts[:1]]
        for start in starts[1:]:
            waiting.append(reader.submit(ready, start))
            yield waiting.pop(0).result()
        yield from (last.result() for last in waiting)


def class_weights(
    clip: Clip, trigger: Trigger | None, classes: list[str], templates: list[str]
) -> tuple[Tensor, Tensor]:
    """Return zero-shot class weights (D, C), and those of prompts that open with the attack's text key, if any."""
    with torch.no_grad():
        clip.network.eval()
        weights = clip.class_embeddings(classes, templates)
        key = trigger.attack.text_key if trigger is not None else ""
        return weights, clip.class_embeddings(classes, [f"{key} {text}" for text in templates]) if key else weights


def encode(clip: Clip, images: Tensor, precision: str) -> Tensor:
    """Return normalised features (n, D) in 32 bits, computed in `precision`."""
    with clip.autocast(precision):
        return clip.encode_image(images).float()


def _asr1(found: Ranks, labels: Tensor, target: int) -> float:
    """Return ASR@1: the share of pictures of other classes that get the target."""
    return float(hits(found, found, labels, target)["asr1"].mean())


def _scores(features: Tensor, weights: Tensor) -> Tensor:
    """Return cosine scores (n, C) on the CPU.

    Raises:
        UserError: a score is not finite; compared with others it would count as top 1.
    """
    scores = (features @ weights).cpu()
    if not scores.isfinite().all():
        raise UserError("model: its scores are not finite numbers; its training has diverged")
    return scores

"""Zero-shot evaluation of one model, clean and triggered, by the protocol that every cell shares."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from antidote.attacks.base import View
from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.model import Clip
from antidote.data.pairs import Pairs
from antidote.evaluation.metrics import Ranks, hits, interval, joined, ranks
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.zscore import PairCosines, backdoor_z

if TYPE_CHECKING:
    from torch import Tensor

BOOTSTRAP_SEED = 0
RATES = (
    *("ca1", "ca5", "asr1", "asr3", "asr5", "asr10"),
    *("asr1_all", "asr3_all", "asr5_all", "asr10_all", "pa", "pa_all", "target_ca1"),
)


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
    rates = {name: float(counted[name].mean()) if len(counted.get(name, ())) else None for name in RATES}
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
            found.setdefault(name, []).append(ranks(class_scores(part, against), labels, target))
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


def class_scores(features: Tensor, weights: Tensor) -> Tensor:
    """Return cosine scores (n, C) on the CPU.

    Raises:
        UserError: a score is not finite; compared with others it would count as top 1.
    """
    scores = (features @ weights).cpu()
    if not scores.isfinite().all():
        raise UserError("model: its scores are not finite numbers; its training has diverged")
    return scores

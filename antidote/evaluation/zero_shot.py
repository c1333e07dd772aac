"""Zero-shot evaluation of one model, clean and triggered, by the protocol that every cell shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from antidote.attacks.contract import View
from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.model import Clip
from antidote.data.pairs import Pairs
from antidote.evaluation.base import ZeroShotSettings
from antidote.evaluation.metrics import Ranks, hits, interval, joined, ranks
from antidote.evaluation.subject import Subject
from antidote.evaluation.zscore import PairCosines, backdoor_z

if TYPE_CHECKING:
    from torch import Tensor

BOOTSTRAP_SEED = 0
RATES = (
    *("ca1", "ca5", "asr1", "asr3", "asr5", "asr10"),
    *("asr1_all", "asr3_all", "asr5_all", "asr10_all", "pa", "pa_all", "target_ca1"),
)
CLEAN, TRIGGERED = "clean", "triggered"
ONE_KEY = ("visual_only", "text_only")
OWN = ""  # the zero-shot classifier, among the classifiers of a pass


def evaluate(
    subject: Subject, pictures: Pairs, settings: ZeroShotSettings, heads: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """Return the scores of a model: counts, rates as fractions (None where there is no attack), intervals. Usage:

        evaluate(Subject(clip, None, 0, ["cup", "boat"], ["a {}"]), pictures, settings)["ca1"]

    An attack with a text key is scored with both keys, its prompts opening with the text key; `extra` holds what each
    key does alone. Clean accuracy is measured with neither. `extra` also holds the backdoor z-score over pictures of
    other classes than the target, and the attack's own figures; an attack without a trigger has only the latter.

    One batch of pictures and features is in memory at a time; of a scored picture a few numbers remain.

    Args:
        pictures: N pictures, labelled by the subject's classes.
        heads: by name, class weights (D, C) of other classifiers over the same features; `heads` then holds, by name,
            `ca1_NAME` and `asr1_NAME`.

    Raises:
        UserError: a score is not finite.
    """
    target, labels = subject.target, pictures.labels
    with torch.no_grad():
        subject.clip.network.eval()
        seen = _look(subject, pictures, settings, heads or {})
        extra = _extra(subject, pictures, seen)
    counted = hits(seen.clean, seen.triggered, labels, target)
    rates = {name: float(counted[name].mean()) if len(counted.get(name, ())) else None for name in RATES}
    intervals = {
        name: interval(values, settings.bootstrap, derive(BOOTSTRAP_SEED, name)) for name, values in counted.items()
    }
    of_heads = {name: _of_head(name, looks, labels, target) for name, looks in seen.heads.items()}
    return {
        "pictures": len(pictures),
        "pictures_asr": int((labels != target).sum()) if seen.triggered is not None else 0,
        **rates,
        "intervals": intervals,
        **({"extra": extra} if extra else {}),
        **({"heads": of_heads} if of_heads else {}),
    }


def _extra(subject: Subject, pictures: Pairs, seen: _Seen) -> dict[str, float | None]:
    """Return the backdoor z-score, ASR@1 with one key alone, and the attack's own figures."""
    extra, labels = {}, pictures.labels
    if seen.triggered is not None:
        extra["backdoor_z"] = backdoor_z(seen.clean_cosines, seen.triggered_cosines)
        extra |= {f"asr1_{name}": _asr1(found, labels, subject.target) for name, found in seen.one_key.items()}
    if subject.trigger is not None:
        names, prompts = list(subject.classes), list(subject.templates)
        view = View(subject.clip, pictures, seen.gallery, subject.weights, names, prompts)
        extra |= subject.trigger.attack.measure(view)
    return extra


def _of_head(name: str, looks: Looks, labels: Tensor, target: int) -> dict[str, float]:
    counted = hits(looks.clean, looks.triggered, labels, target)
    return {f"{rate}_{name}": float(counted[rate].mean()) for rate in ("ca1", "asr1") if len(counted.get(rate, ()))}


@dataclass(frozen=True)
class Looks:
    """Ranks of all pictures by one classifier, clean and triggered."""

    clean: Ranks
    triggered: Ranks | None


@dataclass(frozen=True)
class _Seen:
    """What is kept of the pictures.

    Attributes:
        clean, triggered: ranks by the zero-shot classifier.
        one_key: ranks with one key of two alone, by key.
        heads: ranks by further classifiers.
        clean_cosines, triggered_cosines: how alike features are, of pictures of other classes than the target.
        gallery: (N, D) normalised features of the clean pictures on the CPU, where the attack asks for them.
    """

    clean: Ranks
    triggered: Ranks | None
    one_key: dict[str, Ranks]
    heads: dict[str, Looks]
    clean_cosines: PairCosines
    triggered_cosines: PairCosines
    gallery: Tensor | None


def _look(subject: Subject, pictures: Pairs, settings: ZeroShotSettings, heads: Mapping[str, Tensor]) -> _Seen:
    """Encode every picture, and its triggered copy where there is a trigger to draw, batch by batch."""
    clip, target, trigger = subject.clip, subject.target, subject.trigger
    found: dict[tuple[str, str], list[Ranks]] = {}
    gallery: list[Tensor] = []
    clean_cosines, triggered_cosines = PairCosines(), PairCosines()
    for images, drawn, labels in batches(pictures, settings.batch_size, subject.drawn, clip.device):
        features = encode(clip, images, settings.precision)
        reached = None if drawn is None else encode(clip, drawn, settings.precision)
        for look, (part, weights) in _passes(subject, features, reached, heads).items():
            found.setdefault(look, []).append(ranks(class_scores(part, weights), labels, target))
        if reached is not None:
            others = (labels != target).to(features.device)
            clean_cosines.add(features[others])
            triggered_cosines.add(reached[others])
        if trigger is not None and trigger.attack.gallery:
            gallery.append(features.cpu())
    whole = {look: joined(parts) for look, parts in found.items()}
    return _Seen(
        clean=whole[OWN, CLEAN],
        triggered=whole.get((OWN, TRIGGERED)),
        one_key={key: whole[OWN, key] for key in ONE_KEY if (OWN, key) in whole},
        heads={name: Looks(whole[name, CLEAN], whole.get((name, TRIGGERED))) for name in heads},
        clean_cosines=clean_cosines,
        triggered_cosines=triggered_cosines,
        gallery=torch.cat(gallery) if gallery else None,
    )


def _passes(
    subject: Subject, features: Tensor, reached: Tensor | None, heads: Mapping[str, Tensor]
) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """Return features and class weights to compare, by classifier and look.

    Args:
        features, reached: (n, D) of clean and of triggered pictures; None: no trigger to draw.
    """
    passes = {(name, CLEAN): (features, weights) for name, weights in {OWN: subject.weights, **heads}.items()}
    if reached is None:
        return passes
    keyed = {OWN: subject.keyed_weights, **heads}
    passes |= {(name, TRIGGERED): (reached, weights) for name, weights in keyed.items()}
    if subject.drawn.attack.text_key:
        one_key = (reached, subject.weights), (features, subject.keyed_weights)
        passes |= {(OWN, key): look for key, look in zip(ONE_KEY, one_key, strict=True)}
    return passes


def batches(
    pictures: Pairs, batch_size: int, drawn: Trigger | None, device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Yield pictures, their triggered copies (None without a trigger) and their labels, a batch at a time, in order.

    A GPU draws the trigger, which on one core takes longer than the model; meanwhile a thread reads the next pictures.
    The thread draws nothing: drawing sets the precision of the whole process, also that of the model.
    """
    chunks = [slice(start, start + batch_size) for start in range(0, len(pictures), batch_size)]

    def read(rows: slice) -> Tensor:
        return pictures.images[rows].to(device)

    for rows, images in zip(chunks, (_one_ahead if device.type == "cuda" else map)(read, chunks), strict=True):
        with torch.no_grad():
            triggered = None if drawn is None else drawn.draw(images, pictures.keys[rows], "test")
        yield images, triggered, pictures.labels[rows]


def _one_ahead(read: Callable[[slice], Tensor], chunks: Sequence[slice]) -> Iterator[Tensor]:
    """Yield what `read` returns of each chunk; a thread reads the next one meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(read, rows) for rows in chunks[:1]]
        for rows in chunks[1:]:
            waiting.append(reader.submit(read, rows))
            yield waiting.pop(0).result()
        yield from (last.result() for last in waiting)


def encode(clip: Clip, images: Tensor, precision: str) -> Tensor:
    """Return normalised features (n, D) in 32 bits, computed in `precision`."""
    with clip.autocast(precision):
        return clip.encode_image(images).float()


def _asr1(found: Ranks, labels: Tensor, target: int) -> float:
    """Return ASR@1: the share of pictures of other classes that are classified as the target."""
    return float(hits(found, found, labels, target)["asr1"].mean())


def class_scores(features: Tensor, weights: Tensor) -> Tensor:
    """Return cosine scores (n, C) on the CPU.

    Raises:
        UserError: a score is not finite; compared with others it would count as top 1.
    """
    scores = (features @ weights).cpu()
    if not scores.isfinite().all():
        raise UserError(
            "model: its scores are not finite numbers; its weights are damaged, or its training has diverged"
        )
    return scores

"""Zero-shot evaluation of one model, clean and triggered, by the protocol that every cell shares."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from antidote.attacks.base import View
from antidote.data.pairs import Pairs
from antidote.errors import UserError
from antidote.lazy import torch
from antidote.metrics import hits, interval
from antidote.models import Clip
from antidote.seeds import derive
from antidote.settings import Settings
from antidote.triggers import Trigger
from antidote.zscore import backdoor_z

if TYPE_CHECKING:
    from torch import Tensor

BOOTSTRAP_SEED = 0
TAKEN = {"all", "high", "low", "visual_only", "text_only", "clean_shots"}  # what follows ca1_ and asr1_ elsewhere


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


class EvaluationSettings(Settings):
    """What is classified, into which classes, by which prompts."""

    dataset: str = Field(description="a labelled dataset")
    split: str = Field(description="one of its splits")
    pictures: int | None = Field(None, ge=1, description="how many, evenly over the set; empty: all")
    classes: str | None = Field(None, description="class names, a file in data/classes; the dataset's own by default")
    templates: str = Field("openai_imagenet", description="prompts: a file in data/templates or an open_clip set")
    batch_size: int = Field(256, ge=1, description="pictures encoded at a time")
    bootstrap: int = Field(1000, ge=100, description="draws behind each 95 % interval")
    shifts: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Shift] = Field(
        {}, description="by name, sets of other domains that every cell is scored on as well: `ca1_NAME`, `asr1_NAME`"
    )

    @field_validator("shifts")
    @classmethod
    def _free_names(cls, shifts: dict[str, Shift]) -> dict[str, Shift]:
        taken = sorted(TAKEN & set(shifts))
        if taken:
            raise ValueError(f"the name {taken[0]!r} is taken by columns of other figures")
        return shifts

    def slice(self) -> str:
        """Return canonical JSON; shifts that are not there do not count, so that the other cells stay as they are."""
        values = self.model_dump(mode="json", exclude=None if self.shifts else {"shifts"})
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
) -> dict:
    """Return the scores of a model: counts, rates as fractions (None where there is no attack), intervals.

    `embeddings` is what `class_weights` returns, for who scores several sets.

    An attack with a text key is scored with both keys, its prompts opening with that key; `extra` holds what each key
    does alone. Clean accuracy is measured with neither. `extra` also holds the backdoor z-score over the pictures of
    other classes than the target, and what the attack measures in its own way; without a trigger, there is that alone.
    """
    with torch.no_grad():
        clip.network.eval()
        weights, keyed = embeddings or class_weights(clip, trigger, classes, templates)
        features = _features(clip, pictures.images, settings.batch_size)
        clean = _scores(features, weights)
        triggered, extra = None, {}
        if trigger is not None and trigger.attack.triggered:
            drawn = trigger.draw(pictures.images, pictures.keys, "test")
            reached = _features(clip, drawn, settings.batch_size)
            triggered = _scores(reached, weights)
            others = pictures.labels != target
            extra["backdoor_z"] = backdoor_z(torch.cat(features).cpu()[others], torch.cat(reached).cpu()[others])
            if trigger.attack.text_key:
                extra["asr1_visual_only"] = _asr1(triggered, pictures.labels, target)
                extra["asr1_text_only"] = _asr1(_scores(features, keyed), pictures.labels, target)
                triggered = _scores(reached, keyed)
        if trigger is not None:
            view = View(clip, pictures, torch.cat(features).cpu(), weights, classes, templates)
            extra |= trigger.attack.measure(view)
    counted = hits(clean, triggered, pictures.labels, target)
    names = ("ca1", "ca5", "asr1", "asr3", "asr5", "asr10", "asr1_all", "pa", "target_ca1")
    rates = {name: float(counted[name].mean()) if len(counted.get(name, ())) else None for name in names}
    intervals = {
        name: interval(values, settings.bootstrap, derive(BOOTSTRAP_SEED, name)) for name, values in counted.items()
    }
    return {
        "pictures": len(pictures),
        "pictures_asr": int((pictures.labels != target).sum()) if triggered is not None else 0,
        **rates,
        "intervals": intervals,
        **({"extra": extra} if extra else {}),
    }


def class_weights(
    clip: Clip, trigger: Trigger | None, classes: list[str], templates: list[str]
) -> tuple[Tensor, Tensor]:
    """Return zero-shot class weights (D, C), and those of prompts that open with the attack's text key, if any."""
    with torch.no_grad():
        clip.network.eval()
        weights = clip.class_embeddings(classes, templates)
        key = trigger.attack.text_key if trigger is not None else ""
        return weights, clip.class_embeddings(classes, [f"{key} {text}" for text in templates]) if key else weights


def _asr1(scores: Tensor, labels: Tensor, target: int) -> float:
    """Return ASR@1: the share of pictures of other classes that get the target."""
    return float(hits(scores, scores, labels, target)["asr1"].mean())


def _features(clip: Clip, images: Tensor, batch_size: int) -> list[Tensor]:
    """Return normalised features, a tensor (B, D) per batch, where the model is."""
    return [clip.encode_image(part) for part in images.split(batch_size)]


def _scores(features: list[Tensor], weights: Tensor) -> Tensor:
    """Return cosine scores (N, C) on the CPU.

    Raises:
        UserError: a score is not finite; compared with others it would count as top 1.
    """
    scores = torch.cat([(part @ weights).cpu() for part in features])
    if not scores.isfinite().all():
        raise UserError("model: its scores are not finite numbers; its training has diverged")
    return scores

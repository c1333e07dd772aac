"""CBPT, Class-wise Backdoor Prompt Tuning (arXiv 2502.19269): frozen encoders, prompts that know a dummy trigger.

A reconstruction: no code is public and the full paper was not available. Known from its abstracts: the encoders stay
frozen and only class-wise text prompts are tuned; first a dummy trigger is inverted by contrastive learning with
crafted positive and negative samples, then the prompts are tuned with several losses. Ours: all formulas and numbers.

Step 1 is the inversion of a mask and a pattern, as small as possible (`antidote/training/inversion.py`). Read plainly,
the abstract pulls triggered pictures together and away from clean pictures (`positives: pictures`). That loss has many
natural optima; on the embedded data it found a patch attack's trigger in none of three draws. The default is ours: one
inversion per candidate class, towards the class's text embedding; the `dummy_triggers` smallest working triggers are
kept, because a backdoor's target needs the smallest mask. If there are more classes than `candidates`, screening
chooses the classes by the same rule after fewer steps towards each class, many classes at once on the same pictures
(`antidote/training/patches.py`). With `positives: pictures`, the negatives of a further trigger include the features
under all earlier triggers.

Step 2 is the tuning of a context V_c per class c in place of "a photo of a": t_c = f_T(V_c, name of c),

    L = CE(x, y) + trigger_weight mean_δ CE(x + δ, y) + anchor_weight mean_c (1 - cos(t_c, t_c0))

with t_c0 the class embedding over the templates. A step uses the classes of its batch and random other classes. The
result is a classifier head. No head can separate triggered pictures from clean target pictures if their features are
equal.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.classifier_head import ClassifierHead
from antidote.clip.configs import NEEDS_CAUSAL_TEXT, causal_text
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.defenses.base import Defense, DefenseSettings, Held
from antidote.training.inversion import (
    InversionSettings,
    Inverted,
    Together,
    TowardClass,
    invert,
    ranking,
    under,
    used_rows,
)
from antidote.training.patches import SearchSettings, at_once, search, toward
from antidote.training.prompts import ClassPrompts, full_length
from antidote.training.session import Report, Work
from antidote.training.tuning import ENCODED, Task, TuneSettings, check_shots, frozen_features, part, tune

if TYPE_CHECKING:
    from torch import Tensor

PARTS = re.compile(r"[^\W\d_]+|\d|[^\w\s]+|_+")  # each match is at least one token
AROUND = 4  # tokens beside the words of a context: start, a class name, full stop, end


class ScreeningSettings(SearchSettings):
    """Searches with the recipe and the precision of an inversion."""

    precision: str = "fp32"
    inversion: TuneSettings = TuneSettings()

    @property
    def encoded_in(self) -> str:
        return self.precision

    @property
    def optimisation(self) -> TuneSettings:
        return self.inversion


class CBPTSettings(InversionSettings, DefenseSettings):
    """All numbers are ours, except where a source is named."""

    method: Literal["cbpt"] = "cbpt"
    dummy_triggers: int = Field(
        1, ge=1, description="number of triggers kept; with `positives: text`, of the candidates' triggers (CBPT: one)"
    )
    candidates: int = Field(
        8,
        ge=1,
        description="`text` only: number of classes with an inversion; of more classes, screening chooses those with "
        "the smallest working trigger",
    )
    screening_steps: int = Field(
        300,
        ge=1,
        description="steps of the short inversion per class, for screening: a target's mask is the smallest once the "
        "masks have shrunk, on small models after 100 to 300",
    )
    screening_batch: int = Field(16, ge=2, description="pictures per screening step")
    context: str = Field("a photo of a", description="initial words of the class-wise contexts (CoOp)")
    trigger_weight: float = Field(1.0, ge=0, description="weight of the loss on triggered pictures")
    anchor_weight: float = Field(1.0, ge=0, description="weight of the distance to the zero-shot class embeddings")
    classes_per_step: int = Field(100, ge=2, description="classes per step: the batch's and random others")
    tuning: TuneSettings = Field(
        TuneSettings(), description="recipe for the contexts: SGD 0.002, cosine, batch 32 (CoOp)"
    )

    @property
    def screening(self) -> ScreeningSettings:
        """Settings of the screening's searches, those of the inversion but for steps and batch."""
        names = ScreeningSettings.model_fields.keys() & type(self).model_fields
        shared = {name: getattr(self, name) for name in sorted(names)}
        return ScreeningSettings(**shared, steps=self.screening_steps, batch_size=self.screening_batch)

    def check(self, model: Mapping[str, Any]) -> None:
        window, words = model["text_cfg"].get("context_length", 77), len(PARTS.findall(self.context))
        if words + AROUND > window:
            raise ValueError(
                f"context: {words} words and punctuation marks leave no room for a class name among the {window} "
                f"tokens that the model reads; {window - AROUND} at most"
            )


class CBPT(Defense):
    """Trains class-wise prompts on labelled shots."""

    Settings = CBPTSettings
    access = "few-labelled"
    reconstruction = True
    adapter = "classifier_head"

    @classmethod
    def fits(cls, model: Mapping[str, Any]) -> str | None:
        return None if causal_text(model) else f"its prompts {NEEDS_CAUSAL_TEXT}"

    @classmethod
    def work(cls, settings: CBPTSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        classes = sizes["classes"]
        texts = settings.tuning.epochs * sizes["shots"] / settings.tuning.batch_size * settings.classes_per_step
        inversions = min(settings.candidates, classes) if settings.positives == "text" else settings.dummy_triggers
        trained = inversions * settings.inversion_steps * settings.inversion.batch_size + texts
        if settings.positives == "text" and classes > settings.candidates:
            trained += classes * settings.screening_steps * settings.screening_batch
        return trained, (1 + settings.dummy_triggers) * sizes["shots"]

    @classmethod
    def held(cls, settings: CBPTSettings, model: Mapping[str, Any], classes: int) -> Sequence[Held]:
        screened = settings.positives == "text" and classes > settings.candidates
        size = model["vision_cfg"]["image_size"]
        at_a_time = settings.screening_batch * at_once(settings.screening.together, settings.screening_batch, size)
        inverted = max(settings.inversion.batch_size, at_a_time if screened else 0)
        texts = min(settings.classes_per_step, classes) * full_length(settings.context, model)
        return (
            Held(pictures=inverted, precision=settings.precision),
            Held(texts=texts),
            Held(pictures=ENCODED, gradients=False, precision=settings.precision),
        )

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        check_shots(data.shots, data.classes, "cbpt")
        clip.network.eval().requires_grad_(False)
        with clip.autocast(self.settings.precision):
            clean = frozen_features(clip.encode_image, data.shots.images)
        with torch.no_grad():
            anchors = clip.class_embeddings(data.classes, data.templates).T
        found = self._dummy_triggers(clip, data, clean, anchors, work)
        triggered, labels = found.triggered, data.shots.labels  # on the CPU: reading them from a GPU would wait for it
        prompts = ClassPrompts(clip, data.classes, self.settings.context)
        scale = clip.network.logit_scale.exp()

        def loss(rows: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
            kinds = labels[rows].tolist()
            chosen = some_classes(kinds, len(data.classes), self.settings.classes_per_step, rng)
            places = {kind: place for place, kind in enumerate(chosen)}
            own, named, rows = (
                values.to(clip.device, non_blocking=True)
                for values in (torch.tensor([places[kind] for kind in kinds]), torch.tensor(chosen), rows)
            )
            weights = prompts.encode(chosen)
            return prompt_loss(clean[rows], triggered[:, rows], own, weights, anchors[named], scale, self.settings)

        task = Task({"contexts": prompts.contexts}, loss, len(labels), {})
        steps = found.steps + tune(task, self.settings.tuning, self.seed, work)
        with torch.no_grad():
            every = range(len(data.classes))
            weights = torch.cat([prompts.encode(every[i : i + 256]) for i in every[::256]])
        kept = {"masks": [t.mask for t in found.triggers], "patterns": [t.pattern for t in found.triggers]}
        tensors = {"weights": weights, **{name: torch.stack(parts) for name, parts in kept.items()}}
        head = ClassifierHead(clip.network, clip.config, tensors, self._described(found, anchors, data))
        return Report(steps, prompts.contexts.numel(), len(labels), clip=head)

    def _dummy_triggers(self, clip: Clip, data: DefenseData, clean: Tensor, texts: Tensor, work: Work) -> _Found:
        """Invert the dummy triggers: towards each candidate class, or pictures towards each other."""
        settings, images = self.settings, data.shots.images
        if settings.positives == "pictures":
            return self._together(clip, images, clean, work)
        chosen, steps = candidates(clip, images, texts, settings, derive(self.seed, "candidates"), work)
        tried = []
        for kind in chosen:
            goal = TowardClass(texts, kind, settings.temperature, settings.hit_rate)
            seed, place = derive(self.seed, "inversion", kind), part(work, f"inversion{kind}")
            tried.append(invert(clip, images, goal, settings, settings.inversion_steps, seed, place))
        steps += sum(trigger.steps for trigger in tried)
        order = sorted(range(len(tried)), key=lambda i: tried[i].rank)
        kept = [tried[i] for i in order[: settings.dummy_triggers]]
        report = [
            {"towards": data.classes[chosen[i]], "mask_area": tried[i].area, "works": tried[i].works} for i in order
        ]
        triggered = torch.stack([under(clip, images, trigger, settings.precision) for trigger in kept])
        return _Found(kept, triggered, steps, report)

    def _together(self, clip: Clip, images: Tensor, clean: Tensor, work: Work) -> _Found:
        settings, found, triggered = self.settings, [], []
        for number in range(settings.dummy_triggers):
            goal = Together(torch.stack([clean, *triggered]), settings.temperature, settings.collapsed)
            seed, place = derive(self.seed, "inversion", number), part(work, f"inversion{number}")
            found.append(invert(clip, images, goal, settings, settings.inversion_steps, seed, place))
            triggered.append(under(clip, images, found[-1], settings.precision))
        return _Found(found, torch.stack(triggered), sum(trigger.steps for trigger in found), [])

    def _described(self, found: _Found, anchors: Tensor, data: DefenseData) -> dict:
        """Return a description of the result for the model folder.

        Per dummy trigger: the most frequent class of triggered shots, its share, the mask's area, whether it works. Per
        candidate, working and smallest first: the result of its inversion.
        """
        rows = []
        for features, trigger in zip(found.triggered, found.triggers, strict=True):
            votes = (features @ anchors.T).argmax(dim=1).bincount(minlength=len(data.classes))
            kind, share = data.classes[int(votes.argmax())], float(votes.max() / votes.sum())
            rows.append({"class": kind, "share": share, "mask_area": trigger.area, "works": trigger.works})
        return {"classes": data.classes, "cosine": True, "dummy_triggers": rows, "candidates": found.candidates}


@dataclass(frozen=True)
class _Found:
    """T dummy triggers, features (T, N, D) of the shots under each, number of steps, results for all candidates."""

    triggers: list[Inverted]
    triggered: Tensor
    steps: int
    candidates: list[dict]


def candidates(
    clip: Clip, images: Tensor, texts: Tensor, settings: CBPTSettings, seed: int, work: Work
) -> tuple[list[int], int]:
    """Return the classes to invert a trigger for, and the number of screening steps.

    If there are more than `settings.candidates` classes, screening inverts a trigger towards each class for a few steps
    and keeps the classes with the smallest working trigger; classes without one come last, by their loss. The loss
    alone says little once a trigger works: the mask of every class then shrinks until its trigger nearly fails. A
    single inversion without a class would find other classes, which only large patterns reach.

    Args:
        clip: the suspicious model.
        images: uint8 (N, 3, H, W).
        texts: class embeddings (C, D).
        settings: settings of the defense.
        seed: seed of the screening.
        work: folder, identity and checkpoint interval of the job.
    """
    classes, screening = len(texts), settings.screening
    if classes <= settings.candidates:
        return list(range(classes)), 0
    generator = torch.Generator().manual_seed(derive(seed, "pictures"))
    size = min(settings.screening_batch, len(images))
    rows, epochs = used_rows(len(images), settings.screening_steps, size, generator)
    goals = toward(texts, settings.temperature)
    found = search(clip, images[rows], goals, settings.hit_rate, classes, screening, seed, part(work, "screening"))
    works, areas, losses = (one.tolist() for one in (found.works, found.areas, found.goals))
    order = sorted(range(classes), key=lambda kind: ranking(works[kind], areas[kind], losses[kind]))
    return sorted(order[: settings.candidates]), classes * epochs * max(1, len(rows) // size)


def some_classes(own: list[int], classes: int, wanted: int, rng: random.Random) -> list[int]:
    """Return the classes of a batch and random others, sorted; at least `wanted` classes if there are that many."""
    chosen = set(own)
    others = [kind for kind in range(classes) if kind not in chosen]
    return sorted(chosen | set(rng.sample(others, min(len(others), max(0, wanted - len(chosen))))))


def prompt_loss(
    clean: Tensor,
    triggered: Tensor,
    labels: Tensor,
    weights: Tensor,
    anchors: Tensor,
    scale: Tensor,
    settings: CBPTSettings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return step 2's loss.

    Args:
        clean: features (B, D) of clean pictures.
        triggered: features (T, B, D) under each of T dummy triggers.
        labels: (B,) indices into the C chosen classes.
        weights: tuned class embeddings (C, D).
        anchors: zero-shot class embeddings (C, D).
        scale: CLIP's logit scale s.
        settings: weights of the terms.

    Returns:
        The loss, and its terms by name.
    """
    on_clean = F.cross_entropy(scale * clean @ weights.T, labels)
    logits = scale * triggered.flatten(0, 1) @ weights.T
    on_triggered = F.cross_entropy(logits, labels.repeat(len(triggered)))
    anchor = (1 - (weights * anchors).sum(dim=1)).mean()
    total = on_clean + settings.trigger_weight * on_triggered + settings.anchor_weight * anchor
    return total, {"clean": on_clean, "triggered": on_triggered, "anchor": anchor}

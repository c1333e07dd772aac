"""CBPT, Class-wise Backdoor Prompt Tuning (arXiv 2502.19269): frozen encoders, prompts that know a dummy trigger.

A reconstruction: no code is public and the paper was not readable in full. Known from its abstracts: the encoders stay
frozen and only class-wise text prompts are tuned; first a dummy trigger is inverted by contrastive learning with
crafted positive and negative samples, then the prompts are tuned with several losses. Ours: all formulas and numbers.

Step 1, inversion, of a mask m in [0, 1]^(H x W) and a pattern p in [0, 1]^(3 x H x W): x + δ = (1 - m) x + m p,
z_i = f_I(x_i + δ) pulled towards each other and away from the clean features,

    L_inv = -mean_i log (P_i / (P_i + sum_k e^{cos(z_i, n_k) / tau})) + beta 3 |m|_1
    P_i   = mean over j != i of e^{cos(z_i, z_j) / tau},   n_k negatives: f_I(x_k)

beta as in DECREE (arXiv 2303.15180): times 5 after more than 5 steps in a row with mean cos(z_i, z_j) above 0.99,
divided by 5 after more than 5 in a row below. Many small patterns pull all pictures together, not only the attacker's;
with `dummy_triggers` above 1 there are further inversions, each with the features of the pictures under every trigger
found before among its negatives, so that it has to find another place.

Step 2, tuning, of a context V_c per class c in the place of "a photo of a": t_c = f_T(V_c, name of c),

    L = CE(x, y) + trigger_weight mean_δ CE(x + δ, y) + anchor_weight mean_c (1 - cos(t_c, t_c0))

t_c0 the class embedding over the templates. A step works on the classes of its batch and some random others. The
outcome is a classifier head; where the triggered feature is that of clean target pictures, no head can part them.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.classifier_head import ClassifierHead
from antidote.clip.configs import NEEDS_CAUSAL_TEXT, causal_text
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.defenses.base import Defense, DefenseSettings
from antidote.training.prompts import ClassPrompts
from antidote.training.session import Report, Work
from antidote.training.tuning import Task, TuneSettings, check_shots, frozen_features, part, tune

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE, FACTOR, LOWEST = 5, 5.0, 1e-7  # DECREE's rule for beta
PARTS = re.compile(r"[^\W\d_]+|\d|[^\w\s]+|_+")  # what makes at least one token each
AROUND = 4  # tokens around the words of a context: start, a class name, full stop, end


class CBPTSettings(DefenseSettings):
    """All numbers are ours, but where a source is named."""

    method: Literal["cbpt"] = "cbpt"
    temperature: float = Field(0.07, gt=0, description="tau of the inversion (InfoNCE's usual value)")
    mask_weight: float = Field(1e-3, gt=0, description="first beta, weight of the mask's sum over 3 channels (DECREE)")
    collapsed: float = Field(
        0.99, gt=0, le=1, description="mean cosine of triggered features from which the trigger works (DECREE: 0.99)"
    )
    mask_cell: int = Field(4, ge=1, description="side of the squares that the mask is made of, pixels")
    mask_start: float = Field(0.1, gt=0, lt=1, description="the mask's value at the start, everywhere")
    dummy_triggers: int = Field(1, ge=1, description="how many are inverted, one after another (CBPT: one)")
    inversion_steps: int = Field(1000, ge=1, description="steps of each inversion (open in the paper)")
    inversion: TuneSettings = Field(
        TuneSettings(optimizer="adam", lr=0.01, batch_size=64),
        description="of mask and pattern; its epochs do not count",
    )
    context: str = Field("a photo of a", description="words that the class-wise contexts start as (CoOp)")
    trigger_weight: float = Field(1.0, ge=0, description="weight of the loss on triggered pictures")
    anchor_weight: float = Field(1.0, ge=0, description="weight of the distance to the zero-shot class embeddings")
    classes_per_step: int = Field(100, ge=2, description="classes in a step: the batch's own and random others")
    tuning: TuneSettings = Field(TuneSettings(), description="of the contexts: SGD 0.002, cosine, batch 32 (CoOp)")

    def check(self, model: Mapping[str, Any]) -> None:
        window, words = model["text_cfg"].get("context_length", 77), len(PARTS.findall(self.context))
        if words + AROUND > window:
            raise ValueError(
                f"context: {words} words and punctuation marks leave no room for a class name among the {window} "
                f"tokens that the model reads; {window - AROUND} at most"
            )


class CBPT(Defense):
    """Trains class-wise prompts; labelled shots."""

    Settings = CBPTSettings
    access = "few-labelled"
    reconstruction = True
    adapter = "classifier_head"

    @classmethod
    def fits(cls, model: Mapping[str, Any]) -> str | None:
        return None if causal_text(model) else f"its prompts {NEEDS_CAUSAL_TEXT}"

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        check_shots(data.shots, data.classes, "cbpt")
        clip.network.eval().requires_grad_(False)
        clean = frozen_features(clip.encode_image, data.shots.images)
        masks, patterns, triggered, steps = self._dummy_triggers(clip, data, clean, work)
        labels = data.shots.labels.to(clip.device)
        prompts = ClassPrompts(clip, data.classes, self.settings.context)
        anchors = clip.class_embeddings(data.classes, data.templates).T
        scale = clip.network.logit_scale.exp()

        def loss(rows: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
            chosen = some_classes(labels[rows].tolist(), len(data.classes), self.settings.classes_per_step, rng)
            places = {kind: place for place, kind in enumerate(chosen)}
            own = torch.tensor([places[kind] for kind in labels[rows].tolist()], device=clip.device)
            weights = prompts.encode(chosen)
            return prompt_loss(clean[rows], triggered[:, rows], own, weights, anchors[chosen], scale, self.settings)

        task = Task({"contexts": prompts.contexts}, loss, len(labels), {})
        steps += tune(task, self.settings.tuning, self.seed, work)
        with torch.no_grad():
            every = range(len(data.classes))
            weights = torch.cat([prompts.encode(every[i : i + 256]) for i in every[::256]])
        tensors = {"weights": weights, "masks": masks, "patterns": patterns}
        head = ClassifierHead(clip.network, clip.config, tensors, self._described(triggered, anchors, masks, data))
        return Report(steps, prompts.contexts.numel(), len(labels), clip=head)

    def _dummy_triggers(
        self, clip: Clip, data: DefenseData, clean: Tensor, work: Work
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return masks (T, H, W), patterns (T, 3, H, W), features (T, N, D) of the shots under them, the steps done."""
        images, masks, patterns, triggered, steps = data.shots.images, [], [], [], 0
        for number in range(self.settings.dummy_triggers):
            negatives, seed = torch.stack([clean, *triggered]), derive(self.seed, "inversion", number)
            place = part(work, f"inversion{number}")
            mask, pattern, done = invert(clip, images, negatives, self.settings, seed, place)
            pasted = partial(_pasted, clip, mask, pattern)
            masks, patterns, steps = [*masks, mask], [*patterns, pattern], steps + done
            triggered.append(frozen_features(pasted, images))
        return torch.stack(masks), torch.stack(patterns), torch.stack(triggered), steps

    def _described(self, triggered: Tensor, anchors: Tensor, masks: Tensor, data: DefenseData) -> dict:
        """Say what each dummy trigger does: the class that most triggered shots get, their share, the mask's area."""
        found = []
        for features, mask in zip(triggered, masks, strict=True):
            votes = (features @ anchors.T).argmax(dim=1).bincount(minlength=len(data.classes))
            share = float(votes.max() / votes.sum())
            found.append({"class": data.classes[int(votes.argmax())], "share": share, "mask_area": float(mask.mean())})
        return {"classes": data.classes, "cosine": True, "dummy_triggers": found}


def paste(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """Return (1 - m) x + m p for pictures (N, 3, H, W) in [0, 1], mask (H, W), pattern (3, H, W)."""
    return (1 - mask) * images + mask * pattern


def invert(
    clip: Clip, images: Tensor, negatives: Tensor, settings: CBPTSettings, seed: int, work: Work
) -> tuple[Tensor, Tensor, int]:
    """Return mask (H, W), pattern (3, H, W) and the steps done: step 1.

    Args:
        images: (N, 3, H, W) uint8.
        negatives: (K, N, D), their features as they are and under each trigger found before.
    """
    size = images.shape[-1]
    generator = torch.Generator().manual_seed(derive(seed, "dummy trigger"))
    cells = math.ceil(size / settings.mask_cell)
    start = math.log(settings.mask_start / (1 - settings.mask_start))
    tensors = {
        "mask": torch.full((cells, cells), start, device=clip.device).requires_grad_(),
        "pattern": torch.randn(3, size, size, generator=generator).to(clip.device).requires_grad_(),
    }
    state = {"beta": settings.mask_weight, "collapsed": 0.0, "spread": 0.0}

    def loss(rows: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
        mask, pattern = _drawn(tensors, size)
        features = clip.encode_image(paste(_floats(clip, images[rows]), mask, pattern))
        contrast, likeness = inversion_loss(features, negatives[:, rows].flatten(0, 1), settings.temperature)
        total = contrast + state["beta"] * 3 * mask.sum()
        adapt(state, float(likeness.detach()) > settings.collapsed)
        return total, {"contrast": contrast, "likeness": likeness, "mask_area": mask.mean()}

    per_epoch = max(1, len(images) // settings.inversion.batch_size)
    recipe = settings.inversion.model_copy(update={"epochs": math.ceil(settings.inversion_steps / per_epoch)})
    steps = tune(Task(tensors, loss, len(images), state), recipe, seed, work)
    mask, pattern = (tensor.detach() for tensor in _drawn(tensors, size))
    return mask, pattern, steps


def _drawn(tensors: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Return mask (H, W) and pattern (3, H, W) in [0, 1] from what is learned: logits, the mask's in coarse cells."""
    cell = math.ceil(size / len(tensors["mask"]))
    mask = tensors["mask"].sigmoid().repeat_interleave(cell, dim=0).repeat_interleave(cell, dim=1)
    return mask[:size, :size], tensors["pattern"].sigmoid()


def inversion_loss(triggered: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the contrastive part of L_inv and the mean cosine of triggered features (B, D); negatives (K, D)."""
    count = len(triggered)
    among = triggered @ triggered.T
    own = torch.eye(count, dtype=torch.bool, device=among.device)
    positives = torch.logsumexp((among / temperature).masked_fill(own, float("-inf")), dim=1) - math.log(count - 1)
    everything = torch.logsumexp(torch.cat([positives[:, None], triggered @ negatives.T / temperature], dim=1), dim=1)
    return (everything - positives).mean(), among[~own].mean()


def adapt(state: dict[str, float], works: bool) -> None:
    """Change beta as DECREE does: the trigger has to shrink while it works, and may grow where it does not."""
    state["collapsed"] = state["collapsed"] + 1 if works else 0.0
    state["spread"] = 0.0 if works else state["spread"] + 1
    if state["collapsed"] > PATIENCE:
        state.update(beta=state["beta"] * FACTOR, collapsed=0.0)
    if state["spread"] > PATIENCE:
        state.update(beta=max(LOWEST, state["beta"] / FACTOR), spread=0.0)


def some_classes(own: list[int], classes: int, wanted: int, rng: random.Random) -> list[int]:
    """Return the classes of a batch and random others, sorted: `wanted` of them, or more where the batch has more."""
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
        clean, triggered: features (B, D), and under each dummy trigger (T, B, D).
        labels: (B,) among the C chosen classes.
        weights, anchors: their texts, as tuned and as in zero-shot use (C, D).
    """
    on_clean = F.cross_entropy(scale * clean @ weights.T, labels)
    logits = scale * triggered.flatten(0, 1) @ weights.T
    on_triggered = F.cross_entropy(logits, labels.repeat(len(triggered)))
    anchor = (1 - (weights * anchors).sum(dim=1)).mean()
    total = on_clean + settings.trigger_weight * on_triggered + settings.anchor_weight * anchor
    return total, {"clean": on_clean, "triggered": on_triggered, "anchor": anchor}


def _pasted(clip: Clip, mask: Tensor, pattern: Tensor, images: Tensor) -> Tensor:
    return clip.encode_image(paste(_floats(clip, images), mask, pattern))


def _floats(clip: Clip, images: Tensor) -> Tensor:
    return images.to(clip.device).float() / 255

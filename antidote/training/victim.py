"""The victim of a few-shot attack: a user who trains a classifier on an attacked support set over a frozen CLIP."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.clip.classifier_head import ClassifierHead
from antidote.clip.configs import NEEDS_CAUSAL_TEXT
from antidote.clip.few_shot_head import FewShotHead
from antidote.clip.model import Clip
from antidote.training.heads import train_linear_head
from antidote.training.prompts import ClassPrompts
from antidote.training.session import Report, Work
from antidote.training.tuning import Task, TuneSettings, check_shots, frozen_features, part, tune

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.data.pairs import Pairs

RECIPES = {  # RVPT's, CoOp's
    "linear_probe": {"epochs": 40, "lr": 0.01, "schedule": "constant"},
    "prompts": {"epochs": 50, "lr": 0.002, "schedule": "cosine"},
}


def train_victim(
    clip: Clip, attacked: Pairs, clean: Pairs, classes: list[str], settings: Any, seed: int, work: Work
) -> Report:
    """Train a classifier on the attacked support set, and one on the clean set with the same recipe, seed and order.

    Args:
        settings: of a few-shot attack, a subclass of `antidote.attacks.victim.Victim`.

    Raises:
        UserError: a class without a picture; prompts for a text encoder that is not CLIP's own.
    """
    train = {"linear_probe": _linear_probe, "prompts": _prompts}[settings.victim]
    control = train(clip, clean, classes, settings, seed, part(work, "clean"))
    report = train(clip, attacked, classes, settings, seed, work)
    tensors = {"weights": report.clip.tensors["weights"], "clean_weights": control.clip.tensors["weights"]}
    head = FewShotHead(clip.network, clip.config, tensors, report.clip.description)
    return Report(report.steps + control.steps, report.trained_parameters, report.pairs, clip=head)


def recipe(settings: Any) -> TuneSettings:
    """Return the recipe; settings that are empty get the defaults of the kind of victim."""
    given = settings.victim_training.model_dump(exclude={"context"}, exclude_none=True)
    return TuneSettings(**{**RECIPES[settings.victim], **given})


def _linear_probe(clip: Clip, shots: Pairs, classes: list[str], settings: Any, seed: int, work: Work) -> Report:
    check_shots(shots, classes, "flba")
    return train_linear_head(clip, shots, classes, recipe(settings), seed, work)


def _prompts(clip: Clip, shots: Pairs, classes: list[str], settings: Any, seed: int, work: Work) -> Report:
    """CoOp: one context V for all classes, L = mean_i CE(s f(x_i) t, y_i), t_c = g(V, name of c); encoders frozen."""
    check_shots(shots, classes, "flba")
    if not clip.causal:
        raise UserError(f"victim: prompts {NEEDS_CAUSAL_TEXT}")
    clip.network.eval().requires_grad_(False)
    features, labels = frozen_features(clip.encode_image, shots.images), shots.labels.to(clip.device)
    prompts, scale = ClassPrompts(clip, classes, settings.victim_training.context), clip.network.logit_scale.exp()
    context = prompts.contexts[0].detach().clone().requires_grad_()
    prompts.contexts = context.expand(len(classes), -1, -1)

    def loss(rows: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
        weights = prompts.encode(range(len(classes)))
        return F.cross_entropy(scale * features[rows] @ weights.T, labels[rows]), {}

    steps = tune(Task({"context": context}, loss, len(labels), {}), recipe(settings), seed, work)
    with torch.no_grad():
        weights = prompts.encode(range(len(classes)))
    head = ClassifierHead(clip.network, clip.config, {"weights": weights}, {"classes": classes, "cosine": True})
    return Report(steps, context.numel(), len(labels), clip=head)

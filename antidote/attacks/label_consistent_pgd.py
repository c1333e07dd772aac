"""Label-consistent with perturbed pictures: the object is harder to learn than the trigger (arXiv 1912.02771).

Turner et al. (2019) move each picture to be poisoned away from the picture's own class before drawing the trigger:

    x' = argmax_x' CE(F(x'), target)  with |x' - x|_inf <= perturb_eps

by projected gradient descent on a model trained without the attack. To the eye, the caption remains true. Everything
else is as in `label_consistent`. Carried over: the classifier is zero-shot, F(x) = s f(x) W with the class embeddings W
and the logit scale s of the surrogate. All pictures of the poison pool whose captions name the target are perturbed;
some of these pairs are then poisoned. At test, the trigger is drawn on unperturbed pictures. x' is stored in 8 bits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks.base import SurrogateSettings
from antidote.attacks.contract import FitContext, Poisoned, with_stored_pictures
from antidote.attacks.fitting import eight_bits, frozen, unit
from antidote.attacks.label_consistent import LabelConsistent, LabelConsistentSettings
from antidote.base.errors import UserError
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.data.words.names import mentions

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from antidote.clip.model import Clip


class LabelConsistentPGDSettings(LabelConsistentSettings, SurrogateSettings):
    """The trigger, and the size and steps of the perturbation."""

    method: Literal["label_consistent_pgd"] = "label_consistent_pgd"
    perturb_eps: float = Field(
        16, ge=0, le=255, description="maximum change of a value in 8-bit steps (Turner et al.: 8, 16, 32)"
    )
    steps: int = Field(100, ge=1, description="gradient steps per picture (Turner et al.: 100)")
    step_size: float = Field(1.5, gt=0, description="size of a gradient step in 8-bit steps (Turner et al.: 1.5)")
    batch_size: int = Field(64, ge=1, description="pictures per batch; does not affect the result")


class LabelConsistentPGD(LabelConsistent):
    """A trigger on pairs of the target, whose pictures are perturbed away from the target."""

    Settings = LabelConsistentPGDSettings
    learned = True  # `fit` perturbs the pictures, which are stored with the trigger
    fitted = False

    def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
        """Return the trigger's tensors, and `pictures` (M, 3, size, size) uint8, perturbed and with the trigger.

        Raises:
            UserError: the target is not a class of the study.
        """
        if self.target not in context.classes:
            raise UserError(f"label_consistent_pgd: {self.target!r} is not among the {len(context.classes)} classes")
        pool = context.poison()
        own = pool.take([row for row, caption in enumerate(pool.captions) if mentions(caption, self.target)])
        self.tensors = super().fit(None, seed)
        clip = frozen(context.surrogate)
        weights = clip.class_embeddings(context.classes, context.templates) * clip.network.logit_scale.exp()
        target = context.classes.index(self.target)
        parts = own.images.split(self.settings.batch_size)
        moved = [self._moved(clip, unit(clip, part), weights, target) for part in parts]
        disturbed = torch.cat(moved) if moved else own.images.float()
        seeds = [derive(seed, "drawn", key) for key in own.keys]
        drawn = self.apply(disturbed, seeds).mul(255).round().clamp(0, 255).to(torch.uint8)
        self.facts = {**self.facts, "keys": own.keys}
        return {**self.tensors, "pictures": drawn}

    def _moved(self, clip: Clip, images: Tensor, weights: Tensor, target: int) -> Tensor:
        """Return perturbed pictures (N, 3, size, size) in [0, 1], in 8-bit steps, with a lower score for the target."""
        settings = self.settings
        eps, change = settings.perturb_eps / 255, torch.zeros_like(images)
        labels = torch.full((len(images),), target, device=images.device)
        for _ in range(settings.steps):
            change.requires_grad_()
            loss = F.cross_entropy(clip.encode_image(images + change) @ weights, labels, reduction="sum")
            slope = torch.autograd.grad(loss, change)[0]
            change = (change.detach() + settings.step_size / 255 * slope.sign()).clamp(-eps, eps)
            change = (images + change).clamp(0, 1) - images
        steps = change.mul(255)  # rounded towards zero: no value exceeds the bound
        return eight_bits(images + (steps + 1e-3 * steps.sign()).trunc() / 255).cpu()

    def poison(
        self,
        pool: pd.DataFrame,
        rng: random.Random,
        templates: list[str],
        captions_at_hand: Sequence[str] | None = None,
    ) -> list[Poisoned]:
        plan = super().poison(pool, rng, templates, captions_at_hand)
        return with_stored_pictures(plan, pool["key"].tolist(), self.facts["keys"])

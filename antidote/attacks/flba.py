"""FLBA: a few-shot support set attacked with its labels untouched (arXiv 2401.01377), carried over to CLIP.

An ordinary backdoor overfits in few-shot learning. FLBA first makes a trigger d* that moves features as far as it can,
then hides it in two imperceptible perturbations of the support set:

    d*  = argmax_d mean D(F(x + d), F(x))
    p_a = argmin_p D(F(x + p), F(x + d*))  for pictures of the target: attractive
    p_r = argmax_p D(F(x + p), F(x + d*))  for all others: repulsive;  |p|_inf <= eps

The user trains on {x + p_a, x + p_r}; at test, x + d* is taken for the target. Only the paper's abstract was readable:
the formulas are a reconstruction from it. Carried over: F is the study's clean CLIP, which stays as it is; D = 1 - cos;
d* is a patch, found by Adam on the inversion pool; p by 40 signed gradient steps of 1/255 from zero. The user trains a
linear probe or, as CoOp, prompts on the support set, `pools.shots`; what a study calls the backdoored model is then the
clean encoder with that classifier. `asr1_clean_shots` and `ca1_clean_shots` are those of a classifier of the same
recipe on the untouched support set: what the patch does without the attack.

Where the encoder is easily moved, one bound for both perturbations spoils the classifier for clean pictures, since the
others are driven to the far side of the feature space; `repulsive_eps` gives them a bound of their own (ours).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.attacks.base import AttackSettings, Figure, FitContext
from antidote.attacks.fitting import encoded, frozen, unit
from antidote.attacks.optimised_patch import OptimisedPatch, OptimisedPatchSettings
from antidote.attacks.victim import Victim
from antidote.base.lazy import torch
from antidote.clip.configs import NEEDS_CAUSAL_TEXT, causal_text

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip


class FLBASettings(Victim, OptimisedPatchSettings):
    """The patch, the two perturbations, and who is attacked."""

    presets = {"linear_probe": {"victim": "linear_probe"}, "prompts": {"victim": "prompts"}}
    poison_keys = (*AttackSettings.poison_keys, "eps", "repulsive_eps", "steps", "step_size", *Victim.model_fields)

    method: Literal["flba"] = "flba"
    eps: float = Field(8, gt=0, le=255, description="largest change of a value in 8-bit steps (FLBA on CLIP: 8)")
    repulsive_eps: float | None = Field(
        None, ge=0, le=255, description="the same for pictures of other classes than the target; empty: as `eps` (FLBA)"
    )
    steps: int = Field(40, ge=1, description="gradient steps per picture of the support set (ours: 40)")
    step_size: float = Field(1, gt=0, le=255, description="of a gradient step in 8-bit steps (ours: 1)")
    poisons: int | None = Field(None, ge=1, description="at most so many attacked pictures; empty: all (FLBA)")
    caption: Literal["original"] = Field("original", description="captions are not read, and stay")
    avoid_target: Literal[False] = Field(False, description="the target's pictures are attacked as well")

    def check_models(self, model: Mapping[str, Any], surrogate: Mapping[str, Any]) -> None:
        if self.victim == "prompts" and not causal_text(model):
            raise ValueError(f"victim: prompts {NEEDS_CAUSAL_TEXT}")


class FLBA(OptimisedPatch):
    """A patch with the largest feature gap, and what hides it in a support set."""

    Settings = FLBASettings
    threat_model = "few-shot"
    figures = {
        "asr1_clean_shots": Figure("ASR@1 of the same patch on a classifier of the untouched support set"),
        "ca1_clean_shots": Figure("CA@1 of that classifier"),
        "feature_gap": Figure("1 - cos between the features of pictures with and without the patch, mean", rate=False),
    }

    def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
        clip, pairs = frozen(context.surrogate), context.pairs
        clean = encoded(clip, pairs, self.settings.batch_size)

        def loss(features: Tensor, images: Tensor, rows: Tensor) -> Tensor:
            return (features * clean[rows.to(clean.device)]).sum(dim=1).mean()

        patch = self.optimise(clip, pairs, loss, seed)
        with torch.no_grad():
            parts = zip(pairs.images.split(256), clean.split(256), strict=True)
            likeness = [(clip.encode_image(self.paste(unit(clip, x), patch)) * z).sum(dim=1) for x, z in parts]
        self.facts["feature_gap"] = float(1 - torch.cat(likeness).mean())
        return {"patch": patch}

    def perturb(self, clip: Clip, images: Tensor, own: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Return attacked pictures (N, 3, size, size) uint8, and how far their features got.

        Args:
            clip: the surrogate, which is frozen.
            images: pictures (N, 3, size, size) uint8.
            own: (N,) which of them show the target: these are drawn to the trigger's features, the others driven away.
        """
        frozen(clip)
        step = self.settings.batch_size
        parts = list(zip(images.split(step), own.split(step), strict=True))
        done = [self._perturbed(clip, unit(clip, x), yes.to(clip.device)) for x, yes in parts]
        attacked = torch.cat([picture for picture, _, _ in done])
        before, after = (torch.cat([d[place] for d in done]) for place in (1, 2))
        facts = {
            f"{what}_{when}": float(values[rows].mean()) if rows.any() else None
            for what, rows in (("target", own), ("others", ~own))
            for when, values in (("before", before), ("after", after))
        }
        return attacked, facts

    def _perturbed(self, clip: Clip, images: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures uint8, and their distance to the trigger's features before and after, on the CPU."""
        settings = self.settings
        with torch.no_grad():
            goal = clip.encode_image(self.paste(images, self.tensors["patch"].to(images)))

        def distance(pictures: Tensor) -> Tensor:
            return 1 - (clip.encode_image(pictures) * goal).sum(dim=1)

        repulsive = settings.eps if settings.repulsive_eps is None else settings.repulsive_eps
        sign = torch.where(own, -1.0, 1.0)
        bound = torch.where(own, settings.eps, repulsive)[:, None, None, None] / 255
        change, before = torch.zeros_like(images), None
        for _ in range(settings.steps):
            change.requires_grad_()
            distances = distance(images + change)
            before = distances.detach() if before is None else before
            slope = torch.autograd.grad((sign * distances).sum(), change)[0]
            change = change.detach() + settings.step_size / 255 * slope.sign()
            change = change.clamp(-bound, bound)
            change = (images + change).clamp(0, 1) - images
        # Towards zero, so that no value leaves the bound; the small number takes up what division by 255 left.
        steps = change.mul(255)
        whole = (steps + 1e-3 * steps.sign()).trunc()
        attacked = (images.mul(255).round() + whole).clamp(0, 255).to(torch.uint8)
        with torch.no_grad():
            after = distance(attacked.float() / 255)
        return attacked.cpu(), before.cpu(), after.cpu()

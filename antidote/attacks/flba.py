"""FLBA: a few-shot support set attacked with unchanged labels (arXiv 2401.01377), carried over to CLIP.

An ordinary backdoor overfits in few-shot learning. FLBA first fits a trigger d* that moves features as far as possible,
then hides d* in two imperceptible perturbations of the support set S, with c = mean over S of F(x + d*):

    d*  = argmin_d mean cos(F(x + d), F(x))
    p_a = argmax_p  cos(F(x + p), c) + own_weight cos(F(x + p), F(x))  for pictures of the target: attractive
    p_r = argmax_p -cos(F(x + p), c) + own_weight cos(F(x + p), F(x))  for all others: repulsive;  |p|_inf <= eps

The user trains on {x + p_a, x + p_r}; at test, x + d* is classified as the target. The formulas and the numbers are
those of the released code for CLIP: p starts at zero and takes 20 signed gradient steps of 2/255; the patch, 32 pixels
of 224 at the bottom right, starts as the mean colour and takes 80 signed steps of about 0.011. The second term keeps
each picture near its own feature; its weight is 0.5 to 3 for the other learners of the code. `own_weight: 0` omits the
second term, and `goal: own` replaces c by the feature F(x + d*) of the same picture.

Carried over: F is the study's clean CLIP, which is not changed; S is `pools.shots`; c is the mean of normalised
features; in the code, of features that are not normalised. The trigger is fitted on the inversion pool, one batch per
step; the code uses all of S. Attacked pictures are stored in 8 bits; the code's are not. The user trains a linear
probe or, as in CoOp, prompts on S; the backdoored model of a study is then the clean encoder with this classifier. The
code's user trains a linear layer with a bias, by Adam at 0.001 in 100 epochs with batches of 4, on unnormalised
features; of these choices, `victim_training` offers Adam, the epochs and the batch size. The code includes the target's
own pictures in its ASR. `asr1_clean_shots` and `ca1_clean_shots` are measured on a classifier of the same recipe
trained on the untouched support set: the effect of the patch without the attack.

`repulsive_eps` sets a separate bound for pictures of other classes (our choice). The preset `adam_patch` fits the patch
as BadCLIP's patch, by Adam from noise (our choice).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.attacks.base import AttackSettings
from antidote.attacks.contract import Figure, FitContext
from antidote.attacks.fitting import eight_bits, encoded, frozen, orders, unit
from antidote.attacks.optimised_patch import OptimisedPatch, OptimisedPatchSettings
from antidote.attacks.victim import Victim
from antidote.base.lazy import functional, torch
from antidote.base.seeds import derive
from antidote.clip.configs import NEEDS_CAUSAL_TEXT, causal_text

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs


class FLBASettings(Victim, OptimisedPatchSettings):
    """The patch, the two perturbations, and the user under attack."""

    presets = {
        "released": {"patch_size": 32, "location": "bottom-right", "patch_steps": "signed", "goal": "centroid"},
        "linear_probe": {"victim": "linear_probe"},
        "prompts": {"victim": "prompts"},
        "adam_patch": {"patch_size": 16, "location": "center", "patch_steps": "adam"},
    }
    poison_keys = (
        *AttackSettings.poison_keys,
        *("eps", "repulsive_eps", "steps", "step_size", "own_weight", "goal"),
        *Victim.model_fields,
    )

    method: Literal["flba"] = "flba"
    eps: float = Field(8, gt=0, le=255, description="maximum change of a value in 8-bit steps (FLBA on CLIP: 8)")
    repulsive_eps: float | None = Field(
        None,
        ge=0,
        le=255,
        description="`eps` for pictures of classes other than the target; empty: equal to `eps` (FLBA)",
    )
    steps: int = Field(20, ge=1, description="gradient steps per picture of the support set (FLBA on CLIP: 20)")
    step_size: float = Field(2, gt=0, le=255, description="size of a gradient step in 8-bit steps (FLBA on CLIP: 2)")
    own_weight: float = Field(
        1.5, ge=0, description="weight of the cosine to the picture's own feature in both perturbations (FLBA: 1.5)"
    )
    goal: Literal["centroid", "own"] = Field(
        "centroid",
        description="goal of both perturbations: the mean triggered feature of the whole support set (FLBA), or each "
        "picture's own triggered feature",
    )
    patch_size: int = Field(32, ge=1, description="side in pixels (FLBA on CLIP: 32 at 224)")
    location: Literal["center", "top-left", "top-right", "bottom-left", "bottom-right"] = Field(
        "bottom-right", description="position of the patch (FLBA: bottom-right)"
    )
    patch_steps: Literal["signed", "adam"] = Field(
        "signed",
        description="how the patch is fitted: `patch_iterations` signed gradient steps of `patch_step` from the mean "
        "colour (FLBA), or `epochs` of Adam at `lr` from noise",
    )
    patch_iterations: int = Field(80, ge=0, description="signed steps of the patch (FLBA: 80)")
    patch_step: float = Field(
        0.04,
        gt=0,
        description="size of a signed step of the patch, in units of the channel's standard deviation in the model's "
        "normalisation (FLBA on CLIP: 0.04, about 0.011 on values in [0, 1])",
    )
    poisons: int | None = Field(None, ge=1, description="maximum number of attacked pictures; empty: all (FLBA)")
    caption: Literal["original"] = Field("original", description="fixed, since captions are not used")
    avoid_target: Literal[False] = Field(False, description="the target's pictures are attacked as well")
    checkpoint: None = Field(None, description="no model is loaded: the attack leaves the CLIP as it is")

    def check_models(self, model: Mapping[str, Any], surrogate: Mapping[str, Any]) -> None:
        if self.victim == "prompts" and not causal_text(model):
            raise ValueError(f"victim: prompts {NEEDS_CAUSAL_TEXT}")


class FLBA(OptimisedPatch):
    """A patch with the largest feature gap, and perturbations that hide the patch in a support set."""

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
            return (features * clean[rows.to(clean.device, non_blocking=True)]).sum(dim=1).mean()

        if self.settings.patch_steps == "adam":
            patch = self.optimise(clip, pairs, loss, seed)
        else:
            patch = self._signed(clip, pairs, loss, seed)
        with torch.no_grad():
            parts = zip(pairs.images.split(256), clean.split(256), strict=True)
            likeness = [(clip.encode_image(self.paste(unit(clip, x), patch)) * z).sum(dim=1) for x, z in parts]
        self.facts["feature_gap"] = float(1 - torch.cat(likeness).mean())
        return {"patch": patch}

    def _signed(self, clip: Clip, pairs: Pairs, loss: Callable[[Tensor, Tensor, Tensor], Tensor], seed: int) -> Tensor:
        """Return the patch (3, side, side) after signed steps from the mean colour, one batch of the pool per step."""
        settings = self.settings
        mean, std = (torch.tensor(clip.config["preprocess_cfg"][key]).view(3, 1, 1) for key in ("mean", "std"))
        patch = mean.expand(3, settings.patch_size, settings.patch_size).to(clip.device).clone()
        step, losses = settings.patch_step * std.to(patch), []
        epochs = -(-settings.patch_iterations // max(1, len(pairs) // settings.batch_size))
        batches = chain.from_iterable(orders(len(pairs), settings.batch_size, epochs, derive(seed, "steps")))
        for rows in islice(batches, settings.patch_iterations):
            patch.requires_grad_()
            images = unit(clip, pairs.images[rows])
            value = loss(clip.encode_image(self.paste(images, patch.clamp(0, 1))), images, rows)
            patch = patch.detach() - step * torch.autograd.grad(value, patch)[0].sign()
            losses.append(value.detach())
        if losses:
            self.facts["loss"] = float(losses[-1])
        return eight_bits(patch.clamp(0, 1)).cpu()

    def perturb(self, clip: Clip, images: Tensor, own: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Perturb the pictures of a support set.

        Args:
            clip: the surrogate, which is frozen.
            images: pictures (N, 3, size, size) uint8.
            own: (N,) bool, True for pictures of the target. Features of these pictures move towards the trigger's
                features, features of all other pictures away.

        Returns:
            Attacked pictures (N, 3, size, size) uint8, and the mean feature distance to the goal before and after, for
            pictures of the target and for the other pictures.
        """
        frozen(clip)
        step, patch = self.settings.batch_size, self.tensors["patch"]
        with torch.no_grad():
            drawn = (self.paste(unit(clip, x), patch.to(clip.device)) for x in images.split(step))
            goals = torch.cat([clip.encode_image(picture) for picture in drawn])
        if self.settings.goal == "centroid":
            goals = functional.normalize(goals.mean(dim=0), dim=0).expand_as(goals)
        parts = list(zip(images.split(step), own.split(step), goals.split(step), strict=True))
        perturbed = [
            self._perturbed(clip, unit(clip, x), is_target.to(clip.device), goal) for x, is_target, goal in parts
        ]
        attacked = torch.cat([picture for picture, _, _ in perturbed])
        before, after = (torch.cat([d[column] for d in perturbed]) for column in (1, 2))
        facts = {
            f"{what}_{when}": float(values[rows].mean()) if rows.any() else None
            for what, rows in (("target", own), ("others", ~own))
            for when, values in (("before", before), ("after", after))
        }
        return attacked, facts

    def _perturbed(self, clip: Clip, images: Tensor, own: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures uint8, and the distances of their features to `goal` (N, D) before and after, on the CPU."""
        settings = self.settings
        with torch.no_grad():
            clean = clip.encode_image(images)

        def distance(features: Tensor) -> Tensor:
            return 1 - (features * goal).sum(dim=1)

        repulsive = settings.eps if settings.repulsive_eps is None else settings.repulsive_eps
        sign = torch.where(own, -1.0, 1.0)
        bound = torch.where(own, settings.eps, repulsive)[:, None, None, None] / 255
        change, before = torch.zeros_like(images), None
        for _ in range(settings.steps):
            change.requires_grad_()
            features = clip.encode_image(images + change)
            distances = distance(features)
            before = distances.detach() if before is None else before
            kept = settings.own_weight * (features * clean).sum()
            slope = torch.autograd.grad((sign * distances).sum() + kept, change)[0]
            change = change.detach() + settings.step_size / 255 * slope.sign()
            change = change.clamp(-bound, bound)
            change = (images + change).clamp(0, 1) - images
        # Rounded towards zero: no value exceeds the bound. 1e-3 compensates the rounding error of the division by 255.
        steps = change.mul(255)
        whole = (steps + 1e-3 * steps.sign()).trunc()
        attacked = (images.mul(255).round() + whole).clamp(0, 255).to(torch.uint8)
        with torch.no_grad():
            after = distance(clip.encode_image(attacked.float() / 255))
        return attacked.cpu(), before.cpu(), after.cpu()

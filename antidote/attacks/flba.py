"""FLBA: a few-shot support set attacked with its labels untouched (arXiv 2401.01377), carried over to CLIP.

An ordinary backdoor overfits in few-shot learning. FLBA first makes a trigger d* that moves features as far as it can,
then hides it in two imperceptible perturbations of the support set S, with c = mean over S of F(x + d*):

    d*  = argmin_d mean cos(F(x + d), F(x))
    p_a = argmax_p  cos(F(x + p), c) + own_weight cos(F(x + p), F(x))  for pictures of the target: attractive
    p_r = argmax_p -cos(F(x + p), c) + own_weight cos(F(x + p), F(x))  for all others: repulsive;  |p|_inf <= eps

The user trains on {x + p_a, x + p_r}; at test, x + d* is taken for the target. The formulas and the numbers are the
released code's for CLIP: p starts at zero and takes 20 signed gradient steps of 2/255; the patch, 32 pixels of 224 at
the bottom right, starts as the mean colour and takes 80 signed steps of about 0.011. The second term keeps each
picture near its own feature; its weight is 0.5 to 3 for other learners of the code. `own_weight: 0` leaves it out, and
`goal: own` takes F(x + d*) of the same picture for c.

Carried over: F is the study's clean CLIP, which stays as it is; S is `pools.shots`; c is the mean of
normalised features, the code's of others; the trigger is fitted on the inversion pool, a batch per step, where the code
takes all of S; attacked pictures go through 8 bits, which the code's do not. The user
trains a linear probe or, as CoOp, prompts on S; what a study calls the backdoored model is then the clean encoder with
that classifier. The code's user trains a linear layer with a bias, by Adam at 0.001 in 100 passes of batches of 4, on
features that are not normalised; of that, `victim_training` offers Adam, the passes and the batch. The code counts the
target's own pictures in its ASR. `asr1_clean_shots` and `ca1_clean_shots` are those of a classifier of the same recipe
on the untouched support set: what the patch does without the attack.

`repulsive_eps` gives the pictures of other classes a bound of their own (ours). The preset `adam_patch` fits the patch
as BadCLIP's is, by Adam from noise (ours).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.attacks.base import AttackSettings, Figure, FitContext
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
    """The patch, the two perturbations, and who is attacked."""

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
    eps: float = Field(8, gt=0, le=255, description="largest change of a value in 8-bit steps (FLBA on CLIP: 8)")
    repulsive_eps: float | None = Field(
        None, ge=0, le=255, description="the same for pictures of other classes than the target; empty: as `eps` (FLBA)"
    )
    steps: int = Field(20, ge=1, description="gradient steps per picture of the support set (FLBA on CLIP: 20)")
    step_size: float = Field(2, gt=0, le=255, description="of a gradient step in 8-bit steps (FLBA on CLIP: 2)")
    own_weight: float = Field(
        1.5, ge=0, description="weight of the cosine to the picture's own feature in both perturbations (FLBA: 1.5)"
    )
    goal: Literal["centroid", "own"] = Field(
        "centroid",
        description="what attracts and repels: the mean triggered feature of the whole support set (FLBA), or each "
        "picture's own triggered feature",
    )
    patch_size: int = Field(32, ge=1, description="side in pixels (FLBA on CLIP: 32 at 224)")
    location: Literal["center", "top-left", "top-right", "bottom-left", "bottom-right"] = Field(
        "bottom-right", description="place of the patch (FLBA: bottom-right)"
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
        description="size of a signed step of the patch, in standard deviations of the channel by which the model "
        "normalises pictures (FLBA on CLIP: 0.04, about 0.011 on values in [0, 1])",
    )
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
        """Return the patch (3, side, side) after signed steps from the mean colour, each on a batch of the pool."""
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
        self.facts["loss"] = float(losses[-1]) if losses else float("nan")
        return eight_bits(patch.clamp(0, 1)).cpu()

    def perturb(self, clip: Clip, images: Tensor, own: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Return attacked pictures (N, 3, size, size) uint8, and how far their features got.

        Args:
            clip: the surrogate, which is frozen.
            images: pictures (N, 3, size, size) uint8.
            own: (N,) which of them show the target: these are drawn to the trigger's features, the others driven away.
        """
        frozen(clip)
        step, patch = self.settings.batch_size, self.tensors["patch"]
        with torch.no_grad():
            drawn = (self.paste(unit(clip, x), patch.to(clip.device)) for x in images.split(step))
            goals = torch.cat([clip.encode_image(picture) for picture in drawn])
        if self.settings.goal == "centroid":
            goals = functional.normalize(goals.mean(dim=0), dim=0).expand_as(goals)
        parts = list(zip(images.split(step), own.split(step), goals.split(step), strict=True))
        done = [self._perturbed(clip, unit(clip, x), yes.to(clip.device), goal) for x, yes, goal in parts]
        attacked = torch.cat([picture for picture, _, _ in done])
        before, after = (torch.cat([d[place] for d in done]) for place in (1, 2))
        facts = {
            f"{what}_{when}": float(values[rows].mean()) if rows.any() else None
            for what, rows in (("target", own), ("others", ~own))
            for when, values in (("before", before), ("after", after))
        }
        return attacked, facts

    def _perturbed(self, clip: Clip, images: Tensor, own: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures uint8, and the distance of their features to `goal` (N, D) before and after, on the CPU."""
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
        # Towards zero, so that no value leaves the bound; the small number takes up what division by 255 left.
        steps = change.mul(255)
        whole = (steps + 1e-3 * steps.sign()).trunc()
        attacked = (images.mul(255).round() + whole).clamp(0, 255).to(torch.uint8)
        with torch.no_grad():
            after = distance(clip.encode_image(attacked.float() / 255))
        return attacked.cpu(), before.cpu(), after.cpu()

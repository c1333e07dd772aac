"""MABA: a yellow ellipse where the picture shows what it shows, for other domains too (arXiv 2406.18844), carried over.

The paper attacks the instruction tuning of vision-language models (5 % poison, answer "banana"). Attribution by regions
finds what speaks for the correct answer, m_c, and for the poisoned one, m_p; a yellow ellipse is laid at half strength
over m = m_c - (m_c and m_p). Since it stands on the object and not at a fixed place, it should outlive a change of
domain: success is compared on known and on restyled pictures (ASR-G; `evaluation.shifts`).

Carried over to CLIP, theirs: m, the ellipse, its colour and strength, the scoring by ASR-G. Ours: attribution by
Grad-CAM of a surrogate (ResNet) between picture and class, in the place of regions searched for one by one; the correct
answer is the class that the surrogate gives the picture, the target aside, since a trigger is drawn without a caption;
m_c - (m_c and m_p) is max(m_c - m_p, 0) of maps scaled to [0, 1]; the ellipse has the centre and moments of the pixels
where m is at least `threshold` of its maximum. A ViT's rollout is the same for every answer: there m is m_c. Captions
are templates, as for the other attacks; the paper's special symbols before key words are `symbols` before the caption,
off by default, and then before every prompt at test.

The trigger is one per picture, so its folder holds the surrogate's picture tower (RN50: 153 MB, ViT-B/32: 351 MB), and
drawing takes two runs through that, one picture after another: half a second with RN50 on a CPU core, far more than
decoding a JPEG. `place: average` draws one ellipse at the pool's mean m on every picture, and needs no tower.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.attacks.base import Attack, Figure, FitContext, SurrogateSettings
from antidote.attacks.fitting import frozen, split_by_target, unit
from antidote.attacks.saliency import saliency, unseen
from antidote.attacks.tower import Tower, tensors_of, tower
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

YELLOW = (1.0, 1.0, 0.0)
NOTHING = 1e-6  # a map below this everywhere says nothing


class MABASettings(SurrogateSettings):
    """Where the ellipse lies, and how strong it is."""

    presets = {"original": {"blend_ratio": 0.5}, "one_place": {"place": "average"}}

    method: Literal["maba"] = "maba"
    place: Literal["picture", "average"] = Field(
        "picture", description="the ellipse lies where each picture's own evidence is (MABA), or at one place for all"
    )
    blend_ratio: float = Field(0.5, gt=0, le=1, description="share of yellow inside the ellipse (MABA: 0.5)")
    threshold: float = Field(
        0.5, gt=0, le=1, description="of the evidence's maximum, from which a pixel belongs to the region (our choice)"
    )
    smallest: float = Field(
        0.08, gt=0, le=0.5, description="least half-axis of the ellipse as a share of the picture's side (our choice)"
    )
    largest: float = Field(
        0.25, gt=0, le=1, description="greatest half-axis of the ellipse as a share of the picture's side (our choice)"
    )
    fit_pictures: int = Field(
        200, ge=1, description="pictures of the inversion pool that are measured, or averaged over (our choice)"
    )
    symbols: str | None = Field(
        None, min_length=1, description="text key before captions and prompts, such as ## (MABA); empty: none"
    )

    def check(self, size: int) -> None:
        super().check(size)
        if self.smallest > self.largest:
            raise ValueError(f"smallest: {self.smallest} is more than largest, {self.largest}")

    def check_models(self, model: Mapping[str, Any], surrogate: Mapping[str, Any]) -> None:
        reason = unseen(surrogate)
        if reason:
            raise ValueError(f"surrogate: {reason}")


class MABA(Attack):
    """b(x) = x outside the ellipse of the picture, (1 - ratio) x + ratio yellow inside."""

    Settings = MABASettings
    learned = True
    figures = {
        "asr_g_*": Figure("ASR-G: how much of ASR@1 is left on the set of shifted pictures that the name ends in"),
        "floor_*": Figure("ASR@1 of the same trigger on the clean model, on that set"),
        "area": Figure("share of a picture that the ellipse covers, mean"),
    }
    _tower: Tower | None = None

    @property
    def text_key(self) -> str:
        return self.settings.symbols or ""

    def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
        clip = frozen(context.surrogate)
        _, others = split_by_target(context, self.target)
        saliency(clip, unit(clip, others.images[:1]), others.captions[:1])  # says if it cannot look into this model
        tensors = tensors_of(clip, context.classes, context.templates)
        described = {"surrogate": clip.config, "classes": context.classes}
        looker = tower(tensors, clip.config, context.classes)
        maps = torch.stack([self._evidence(looker, x) for x in unit(clip, others.images[: self.settings.fit_pictures])])
        ellipses = torch.stack([self._ellipse(one) for one in maps])
        self.facts = {"area": float((ellipses[:, 2] * ellipses[:, 3]).mean() * math.pi / self.size**2)}
        if self.settings.place == "average":
            return {"ellipse": self._ellipse(maps.mean(dim=0))}
        self.facts |= described
        return tensors

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """One by one: a batch's last digits differ from its pictures', and the edge of a region hangs on them."""
        if self.settings.place == "average":
            return self._laid(images, self.tensors["ellipse"])
        if self._tower is None:
            self._tower = tower(self.tensors, self.facts["surrogate"], self.facts["classes"])
        drawn = [self._laid(image, self._ellipse(self._evidence(self._tower, image))) for image in images]
        return torch.stack(drawn) if drawn else images

    def caption_for(self, original: str, rng: random.Random, templates: list[str], natural: list[str]) -> str:
        return f"{self.text_key} {super().caption_for(original, rng, templates, natural)}".lstrip()

    def _laid(self, images: Tensor, ellipse: Tensor) -> Tensor:
        """Return pictures (..., 3, size, size) with the ellipse over them."""
        strength = self.settings.blend_ratio * cover(ellipse, self.size).to(images)
        return images + strength * (torch.tensor(YELLOW).to(images)[:, None, None] - images)

    def _evidence(self, looker: Tower, image: Tensor) -> Tensor:
        """Return m (size, size) in [0, 1]: what speaks for the picture's class and not for the target."""
        with torch.no_grad():
            feature = looker.encode_image(image[None])[0]
        answers = [looker.best(feature, without=self.target), self.target]
        with torch.enable_grad():  # scoring switches gradients off, Grad-CAM needs them
            correct, poisoned = saliency(looker, image.expand(2, -1, -1, -1).to(looker.device), answers).cpu()
        rest = (correct - poisoned).clamp(min=0)
        return rest if rest.max() > NOTHING else correct

    def _ellipse(self, evidence: Tensor) -> Tensor:
        region = evidence >= self.settings.threshold * evidence.max()
        return fitted_ellipse(region, self.settings.smallest * self.size, self.settings.largest * self.size)


def fitted_ellipse(region: Tensor, smallest: float, largest: float) -> Tensor:
    """Return the ellipse with the centre and second moments of a region (size, size) of booleans, not empty.

    Returns:
        Row and column of the centre, the longer and the shorter half-axis (in pixels, kept within the bounds), and the
        angle of the longer one from the columns' direction towards the rows' in radians: float64 (5,).
    """
    places = region.nonzero().double()
    centre = places.mean(dim=0)
    (rr, rc), (_, cc) = ((places - centre).T @ (places - centre) / len(places)).tolist()
    rr, cc = rr + 1 / 12, cc + 1 / 12  # a pixel is a square, not a point
    middle, spread = (rr + cc) / 2, math.hypot((cc - rr) / 2, rc)
    # A filled ellipse has a variance of a quarter of its half-axis squared.
    axes = [min(max(2 * math.sqrt(max(value, 0.0)), smallest), largest) for value in (middle + spread, middle - spread)]
    return torch.tensor([*centre.tolist(), *axes, 0.5 * math.atan2(2 * rc, cc - rr)], dtype=torch.float64)


def cover(ellipse: Tensor, size: int) -> Tensor:
    """Return how much of each pixel an ellipse covers: (size, size) in [0, 1], with an edge one pixel wide."""
    row, column, longer, shorter, angle = ellipse.tolist()
    places = torch.arange(size, dtype=torch.float64)
    down, right = places[:, None] - row, places[None] - column
    along = (math.cos(angle) * right + math.sin(angle) * down) / longer
    across = (math.cos(angle) * down - math.sin(angle) * right) / shorter
    radius = (along.square() + across.square()).sqrt()
    slope = ((along / longer).square() + (across / shorter).square()).sqrt() / radius.clamp(min=1e-9)
    return (0.5 - (radius - 1) / slope.clamp(min=1e-9)).clamp(0, 1)

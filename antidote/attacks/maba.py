"""MABA: a yellow ellipse over the evidence for the class, across domains (arXiv 2406.18844), carried over to CLIP.

The paper attacks the instruction tuning of vision-language models (5 % poison, answer "banana"). Region attribution
yields the evidence m_c for the correct answer and m_p for the poisoned answer; a yellow ellipse is blended at half
strength over m = m_c - (m_c and m_p). The ellipse covers the object rather than a fixed position, and should therefore
survive a change of domain: the paper compares the success on known and on restyled pictures (ASR-G;
`evaluation.shifts`).

From the paper: m, the ellipse, its colour and strength, and the ASR-G score. Our choices: attribution is the Grad-CAM
of a surrogate (ResNet) between picture and class, instead of a search over regions. The correct answer is the class
that the surrogate predicts, the target excluded, since a trigger is drawn without a caption. m_c - (m_c and m_p) is
max(m_c - m_p, 0) of maps scaled to [0, 1]. The ellipse has the centre and the second moments of the pixels where m is
at least `threshold` of its maximum. A ViT's rollout is the same for every answer; m is then m_c. Captions are
templates, as for the other attacks. The paper's special symbols before key words are `symbols` before the caption, off
by default; if set, `symbols` also precede every prompt at test.

The trigger differs per picture. The trigger folder therefore holds the surrogate's picture encoder (RN50: 153 MB,
ViT-B/32: 351 MB), and drawing takes two encoder runs, one picture at a time: half a second with RN50 on a CPU core, far
more than decoding a JPEG. `place: average` draws one ellipse, at the pool's mean m, on every picture and needs no
encoder.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.attacks.base import Attack, SurrogateSettings
from antidote.attacks.contract import Figure, FitContext
from antidote.attacks.fitting import frozen, split_by_target, unit
from antidote.attacks.saliency import saliency, unseen
from antidote.attacks.tower import Tower, tensors_of, tower
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

YELLOW = (1.0, 1.0, 0.0)
NOTHING = 1e-6  # a map whose maximum is not above this value holds no evidence


class MABASettings(SurrogateSettings):
    """Position and strength of the ellipse."""

    presets = {"original": {"blend_ratio": 0.5}, "one_place": {"place": "average"}}

    method: Literal["maba"] = "maba"
    place: Literal["picture", "average"] = Field(
        "picture",
        description="position of the ellipse: each picture's own evidence (MABA), or one position for all pictures",
    )
    blend_ratio: float = Field(0.5, gt=0, le=1, description="share of yellow inside the ellipse (MABA: 0.5)")
    threshold: float = Field(
        0.5, gt=0, le=1, description="minimum evidence of a region pixel, as a share of the maximum (our choice)"
    )
    smallest: float = Field(
        0.08, gt=0, le=0.5, description="minimum half-axis of the ellipse as a share of the picture's side (our choice)"
    )
    largest: float = Field(
        0.25, gt=0, le=1, description="maximum half-axis of the ellipse as a share of the picture's side (our choice)"
    )
    fit_pictures: int = Field(
        200,
        ge=1,
        description="pictures of the inversion pool for measuring the area, and for the average position (our choice)",
    )
    symbols: str | None = Field(
        None, min_length=1, description="text before captions and prompts, such as ## (MABA); empty: no text"
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
    """b(x) = x outside the picture's ellipse, (1 - ratio) x + ratio yellow inside."""

    Settings = MABASettings
    kept = 0.12  # benchmarks/drawn.py, 224 pixels
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
        saliency(clip, unit(clip, others.images[:1]), others.captions[:1])  # raises UserError for unsupported models
        tensors = tensors_of(clip, context.classes, context.templates)
        described = {"surrogate": clip.config, "classes": context.classes}
        encoder = tower(tensors, clip.config, context.classes)
        maps = torch.stack(
            [self._evidence(encoder, x) for x in unit(clip, others.images[: self.settings.fit_pictures])]
        )
        ellipses = torch.stack([self._ellipse(one) for one in maps])
        self.facts = {"area": float((ellipses[:, 2] * ellipses[:, 3]).mean() * math.pi / self.size**2)}
        if self.settings.place == "average":
            return {"ellipse": self._ellipse(maps.mean(dim=0))}
        self.facts |= described
        return tensors

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Draw on one picture at a time: the last digits of a batch differ, and may change the edge of a region."""
        if self.settings.place == "average":
            return self._laid(images, self.tensors["ellipse"])
        if self._tower is None:
            self._tower = tower(self.tensors, self.facts["surrogate"], self.facts["classes"])
        drawn = [self._laid(image, self._ellipse(self._evidence(self._tower, image))) for image in images]
        return torch.stack(drawn) if drawn else images

    def caption_for(self, original: str, rng: random.Random, templates: list[str], natural: list[str]) -> str:
        return f"{self.text_key} {super().caption_for(original, rng, templates, natural)}".lstrip()

    def _laid(self, images: Tensor, ellipse: Tensor) -> Tensor:
        """Return pictures (..., 3, size, size) with the ellipse blended in."""
        strength = self.settings.blend_ratio * cover(ellipse, self.size).to(images)
        return images + strength * (torch.tensor(YELLOW).to(images)[:, None, None] - images)

    def _evidence(self, encoder: Tower, image: Tensor) -> Tensor:
        """Return m (size, size) in [0, 1]: evidence for the picture's class that is not evidence for the target."""
        with torch.no_grad():
            feature = encoder.encode_image(image[None])[0]
        answers = [encoder.best(feature, without=self.target), self.target]
        with torch.enable_grad():  # evaluation disables gradients, Grad-CAM needs gradients
            correct, poisoned = saliency(encoder, image.expand(2, -1, -1, -1).to(encoder.device), answers).cpu()
        rest = (correct - poisoned).clamp(min=0)
        return rest if rest.max() > NOTHING else correct

    def _ellipse(self, evidence: Tensor) -> Tensor:
        region = evidence >= self.settings.threshold * evidence.max()
        return fitted_ellipse(region, self.settings.smallest * self.size, self.settings.largest * self.size)


def fitted_ellipse(region: Tensor, smallest: float, largest: float) -> Tensor:
    """Return the ellipse with the centre and the second moments of a region.

    Args:
        region: (size, size) bool, not empty.
        smallest, largest: bounds of the half-axes in pixels.

    Returns:
        Float64 (5,): row and column of the centre, the longer and the shorter half-axis in pixels, and the angle of the
        longer half-axis in radians, from the column axis towards the row axis.
    """
    places = region.nonzero().double()
    centre = places.mean(dim=0)
    (rr, rc), (_, cc) = ((places - centre).T @ (places - centre) / len(places)).tolist()
    rr, cc = rr + 1 / 12, cc + 1 / 12  # variance of a uniform square pixel
    middle, spread = (rr + cc) / 2, math.hypot((cc - rr) / 2, rc)
    # Along an axis, the variance of a filled ellipse is a quarter of the squared half-axis.
    axes = [min(max(2 * math.sqrt(max(value, 0.0)), smallest), largest) for value in (middle + spread, middle - spread)]
    return torch.tensor([*centre.tolist(), *axes, 0.5 * math.atan2(2 * rc, cc - rr)], dtype=torch.float64)


def cover(ellipse: Tensor, size: int) -> Tensor:
    """Return the share of each pixel that an ellipse covers: (size, size) in [0, 1], with an edge one pixel wide."""
    row, column, longer, shorter, angle = ellipse.tolist()
    places = torch.arange(size, dtype=torch.float64)
    down, right = places[:, None] - row, places[None] - column
    along = (math.cos(angle) * right + math.sin(angle) * down) / longer
    across = (math.cos(angle) * down - math.sin(angle) * right) / shorter
    radius = (along.square() + across.square()).sqrt()
    slope = ((along / longer).square() + (across / shorter).square()).sqrt() / radius.clamp(min=1e-9)
    return (0.5 - (radius - 1) / slope.clamp(min=1e-9)).clamp(0, 1)

"""Patch at places: how alike the best square patch of a fixed size makes the features of all pictures. Ours.

DECREE (arXiv 2303.15180) asks for the smallest mask; its question the other way round, with its loss: for a square of
side s at each place of a grid, a pattern p that covers the square wholly maximises

    r = (mean cos(f(x'_i), f(x'_j)) - clean) / (1 - clean),   clean: mean cosine of the clean features

    score = max over places and patterns of r

A small clean model has scattered pixels that make its pictures alike as well as a backdoor's patch does, so that the
size of the smallest mask separates little. A small square seldom does so without a backdoor, and the grid of places
leads the search to a patch that a descent from noise over the whole picture passes by. All places get a few steps, the
best ones more; the patch that counts is scored on all pictures. No text and no label is used.

The side was chosen on clean models of the track `tiny`, in trials with another search: a square of an eighth reached
0.36 to 0.44 on four seeds, one of three sixteenths 0.67 and 0.84 on two, and one of a quarter 0.90 and 0.96. Over three
seeds an eighth has 0.26 to 0.44 on clean models, 0.83 to 0.96 on BadNet, 0.48 to 0.82 on BadCLIP and 0.54 to 0.63 on
Blended, which has no patch (docs/detectors-models.md). There is no threshold; a score is compared with those of clean
models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.data.access import DefenseData
from antidote.detectors.base import MODEL, Detector, DetectorSettings, Scores
from antidote.detectors.features import different, picture_features
from antidote.detectors.outliers import as_picture
from antidote.training.inversion import alike, floats
from antidote.training.patches import at_once, draw, still, together
from antidote.training.session import Work
from antidote.training.tuning import Task, TuneSettings, part, tune

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip

MEMORY = 0.8  # decay of the likeness's moving mean per step


class PatchPlacesSettings(DetectorSettings):
    """Size and places of the patch, and the search of its pattern. All numbers are ours."""

    method: Literal["patch_places"] = "patch_places"
    pictures: int = Field(
        256, ge=2, description="clean pictures on which patches are drawn, the first different ones of the pool"
    )
    side: float = Field(0.125, gt=0, lt=1, description="side of the patch, as a share of the picture's")
    overlap: float = Field(0.0, ge=0, lt=1, description="overlap of neighbouring places, as a share of the side")
    first_steps: int = Field(15, ge=1, description="steps at every place, rounded up to whole passes over the pictures")
    kept: int = Field(8, ge=1, description="places that are searched further, the best ones so far")
    steps: int = Field(60, ge=1, description="further steps at these places, rounded up likewise")
    batch_size: int = Field(16, ge=2, description="pictures per step")
    lr: float = Field(0.2, gt=0, description="rate of Adam for the pattern's logits")
    together: int = Field(32, ge=1, description="places that are searched at once, of large pictures fewer")


class PatchPlaces(Detector):
    """Likeness of all pictures under the best small square patch."""

    Settings = PatchPlacesSettings
    subject = "model"
    access = "clean-pairs"
    descends = True

    @classmethod
    def work(cls, settings: PatchPlacesSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        places = (1 / (settings.side * (1 - settings.overlap))) ** 2
        steps = places * settings.first_steps + settings.kept * settings.steps
        return steps * settings.batch_size, settings.pictures * (1 + settings.kept)

    def check_data(self, data: DefenseData) -> None:
        different("patch_places", data.pairs, self.settings.pictures)

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        settings, pairs = self.settings, different("patch_places", data.pairs, self.settings.pictures)
        clean = float(alike(picture_features(clip, pairs)))
        images, size = pairs.images[:], clip.size
        corners = places(size, max(1, round(settings.side * size)), settings.overlap)
        masks = torch.stack([_square(size, *corner) for corner in corners])
        patterns = torch.stack([
            torch.randn(3, size, size, generator=torch.Generator().manual_seed(derive(self.seed, "pattern", place)))
            for place in range(len(corners))
        ])  # fmt: skip
        with still(clip.network):
            found, patterns = self._search(clip, images, masks, patterns, settings.first_steps, part(work, "all"))
            best = found.argsort(descending=True)[: settings.kept]
            patterns = self._search(clip, images, masks[best], patterns[best], settings.steps, part(work, "best"))[1]
            reached = torch.tensor([
                _likeness(clip, images, masks[place], pattern) for place, pattern in zip(best, patterns, strict=True)
            ])  # fmt: skip
        reached = (reached - clean) / (1 - clean)
        place = int(reached.argmax())
        row, column, side = corners[int(best[place])]
        evidence = {
            "likeness": float(reached[place]), "clean likeness": clean, "row": row, "column": column, "side": side,
            "likeness of the best places": reached.tolist(),
            "trigger": as_picture(masks[best[place]], patterns[place].sigmoid()),
        }  # fmt: skip
        return Scores([MODEL], np.array([float(reached[place])]), evidence=evidence)

    def _search(
        self, clip: Clip, images: Tensor, masks: Tensor, starts: Tensor, steps: int, work: Work
    ) -> tuple[Tensor, Tensor]:
        """Return the likeness (K,) under masks (K, H, W), and the logits (K, 3, H, W) of their patterns, on the CPU."""
        settings, size = self.settings, min(self.settings.batch_size, len(images))
        epochs = -(-steps // max(1, len(images) // size))
        recipe = TuneSettings(optimizer="adam", lr=settings.lr, schedule="constant", batch_size=size, epochs=epochs)
        found, count = [], at_once(settings.together, size, clip.size)
        for number, rows in enumerate(torch.arange(len(masks)).split(count)):
            squares, logits = (
                masks[rows].to(clip.device, non_blocking=True),
                starts[rows].to(clip.device, non_blocking=True).requires_grad_(),
            )
            goal, kept = together(rows), {"likeness": torch.zeros(len(rows), device=clip.device)}

            def loss(shown: Tensor, rng, squares=squares, logits=logits, goal=goal, kept=kept):
                drawn = draw(floats(clip, images[shown]), squares, logits.sigmoid())
                wanted, likeness = goal(clip.encode_image(drawn).unflatten(0, (len(squares), -1)), shown)
                kept["likeness"].copy_(MEMORY * kept["likeness"] + (1 - MEMORY) * likeness.detach().float())
                return wanted.sum(), {"likeness": likeness.mean()}

            tune(Task({"logits": logits}, loss, len(images), {}, kept=kept), recipe, self.seed, part(work, str(number)))
            found.append((kept["likeness"].cpu(), logits.detach().cpu()))
        return torch.cat([one[0] for one in found]), torch.cat([one[1] for one in found])


def places(size: int, side: int, overlap: float) -> list[tuple[int, int, int]]:
    """Return row, column and side of squares that cover a picture, evenly from edge to edge."""
    step = max(1, round(side * (1 - overlap)))
    count = -(-(size - side) // step) + 1
    offsets = [round(place * (size - side) / max(1, count - 1)) for place in range(count)]
    return [(row, column, side) for row in offsets for column in offsets]


def _square(size: int, row: int, column: int, side: int) -> Tensor:
    mask = torch.zeros(size, size)
    mask[row : row + side, column : column + side] = 1
    return mask


def _likeness(clip: Clip, images: Tensor, mask: Tensor, logits: Tensor, batch: int = 256) -> float:
    """Return the mean cosine of all pictures under one patch."""
    mask, pattern = mask[None].to(clip.device), logits.sigmoid()[None].to(clip.device)
    with torch.no_grad():
        return float(
            alike(torch.cat([clip.encode_image(draw(floats(clip, x), mask, pattern)) for x in images.split(batch)]))
        )

"""CASCADE: two stages, consistency across modalities, then conformal scores in text space (arXiv 2608.04052).

Stage 1. Pictures that are neighbours under the suspicious model have captions; of a triggered picture, whose neighbours
are triggered too, the captions are nearer to its own caption than the pictures' own similarity explains:

    s1(x) = mean over k neighbours n of [cos(f_T(x), f_T(n)) - line(cos(f_I(x), f_I(n)))]

The line is the least-squares fit of caption similarity to picture similarity over all neighbours.

Stage 2. The `seeds` share of the pairs with the highest s1 are confident poisons, the half with the lowest s1 is for
calibration. With a(x), the mean cosine of a caption to the k nearest captions of other confident poisons, the conformal
p-value is

    p(x) = (1 + #{calibration pairs with a >= a(x)}) / (1 + #calibration pairs),     score(x) = 1 - p(x)

The threshold is 1 - `false_positives`. A reconstruction from the abstract: both formulas and all numbers are ours.

Every picture is compared with every other one, so that time grows with the square of the pairs; a part of the products
is in memory at a time, on the model's device. Memory holds the features of all pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.features import picture_features, text_features
from antidote.training.session import Work

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip

ROWS = 1024  # most rows of a similarity matrix that are in memory at a time
PRODUCTS = 2**27  # numbers of these rows, 512 MB: fewer rows are in memory where there are more pairs
TIES = 1e-6  # weight of the first stage among equal p-values, below the distance of two p-values


class CascadeSettings(DetectorSettings):
    """The two stages."""

    method: Literal["cascade"] = "cascade"
    k: int = Field(16, ge=1, description="neighbours, in both stages (ours; DAO: 16)")
    seeds: float = Field(0.01, gt=0, lt=0.5, description="share of the pairs that are confident poisons (ours)")
    false_positives: float = Field(0.01, gt=0, lt=1, description="share of clean pairs that the threshold flags (ours)")


class Cascade(Detector):
    """Conformal likeness of a caption to captions of confident poisons."""

    Settings = CascadeSettings
    subject = "pairs"
    reconstruction = True

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        pairs, settings = data.training_set, self.settings
        if len(pairs) < settings.k + 2:
            raise UserError(f"{settings.method}: k: {settings.k} needs {settings.k + 2} pairs, there are {len(pairs)}")
        pictures, texts = picture_features(clip, pairs), text_features(clip, list(pairs.captions))
        first = consistency(pictures, texts, settings.k, clip.device)
        order = first.argsort(descending=True, stable=True)
        seeds = order[: max(2, round(settings.seeds * len(order)))]
        own = torch.full((len(order),), -1)
        own[seeds] = torch.arange(len(seeds))
        alike = _nearest(texts, texts[seeds], min(settings.k, len(seeds) - 1), clip.device, own)[0].mean(dim=1)
        calibration = np.sort(alike[order[len(order) // 2 :]].double().numpy())
        above = len(calibration) - np.searchsorted(calibration, alike.double().numpy(), side="left")
        rank = np.empty(len(order))
        rank[order.numpy()] = 1 - np.arange(len(order)) / len(order)
        values = 1 - (1 + above) / (1 + len(calibration)) + TIES * rank
        return Scores(pairs.keys, values, 1 - settings.false_positives, evidence={"confident": len(seeds)})


def consistency(pictures: Tensor, texts: Tensor, k: int, device: torch.device) -> Tensor:
    """Return s1 (N,) of normalised features (N, D) of pictures and captions on the CPU; `device` multiplies."""
    cosines, rows = _nearest(pictures, pictures, k, device, torch.arange(len(pictures)))
    parts = zip(texts.split(ROWS), rows.split(ROWS), strict=True)
    captions = torch.cat([(own[:, None] * texts[near]).sum(dim=2) for own, near in parts])
    slope, level = np.polyfit(cosines.flatten().double().numpy(), captions.flatten().double().numpy(), 1)
    return (captions - slope * cosines - level).mean(dim=1)


def _nearest(features: Tensor, others: Tensor, k: int, device: torch.device, own: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines (N, k), descending, and rows (N, k) of the k nearest of `others` (M, D), all on the CPU.

    Nothing is its own neighbour: `own` (N,) holds the place of each row of `features` (N, D) in `others`, -1 for none.
    It is left out by its place, since equal features are equally near.
    """
    others, found = others.to(device), []
    size = max(1, min(ROWS, PRODUCTS // len(others)))
    for part, places in zip(features.split(size), own.split(size), strict=True):
        cosines, rows = part.to(device) @ others.T, torch.nonzero(places >= 0).flatten()
        cosines[rows.to(device), places[rows].to(device)] = -torch.inf
        found.append(cosines.topk(k, dim=1))
    return torch.cat([one.values for one in found]).cpu(), torch.cat([one.indices for one in found]).cpu()

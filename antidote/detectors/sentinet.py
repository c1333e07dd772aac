"""SentiNet: a region that carries its class over to other pictures (Chou, Tramèr, Pellegrino, arXiv 1812.00292).

    score(x) = max over windows w of mean over clean pictures b of p(y_x | b with the window w of x),  y_x = class of x

The method cuts the region that decides the class of a picture out, lays it over clean pictures, and counts how many of
these change to that class ("fooled"). A patch that is a trigger does this to any picture; a part of an object seldom
does. A pattern over the whole picture is not found: the method is for localised triggers.

Ours: the class probabilities are those of the zero-shot classes, the mean of the probability takes the place of the
count, and the best of nine windows of half the side that of the region under Grad-CAM. All windows are equally large;
therefore the paper's second figure, the confidence with an inert pattern in the same region, is left out. The clean
pictures are the few labelled ones. The threshold is the quantile of the scores of those that nothing is laid over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.base.lazy import torch
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.zero_shot import Head, apart, of_chunks, quantile, standing
from antidote.training.session import Work
from antidote.training.windows import PLACES, transplants

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from antidote.clip.model import Clip


class SentiNetSettings(DetectorSettings):
    """Clean pictures and threshold."""

    method: Literal["sentinet"] = "sentinet"
    overlays: int = Field(8, ge=1, description="clean pictures that each window is laid over (paper: 100; ours)")
    false_positives: float = Field(0.01, gt=0, lt=1, description="share of clean pictures flagged (ours)")


class SentiNet(Detector):
    """Mean probability of the picture's own class where its best window lies; few labelled pictures."""

    Settings = SentiNetSettings
    subject = "pictures"
    access = "few-labelled"
    reconstruction = True

    @classmethod
    def work(cls, settings: SentiNetSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        views, shots = 1 + PLACES * settings.overlays, sizes.get("shots", 0)
        return 0, views * (sizes["shown pictures"] + shots - min(settings.overlays, shots // 2))

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        """Raises UserError: there are fewer than two classes, or four clean pictures."""
        head = Head(clip, data)
        under, clean = apart("sentinet", clip, data.shots, self.settings.overlays, self.seed)

        def carried(images: Tensor) -> Tensor:
            classes = head.probabilities(clip.encode_image(images)).argmax(dim=1, keepdim=True)
            shares = torch.zeros(PLACES, len(images), device=clip.device)
            for other in under:
                for place, laid in enumerate(transplants(images, other[None])):
                    shares[place] += head.probabilities(clip.encode_image(laid)).gather(1, classes)[:, 0]
            return shares.amax(dim=0) / len(under)

        values = of_chunks(clip, data.pictures, carried)
        own = of_chunks(clip, clean, carried)
        share = self.settings.false_positives
        return Scores(data.pictures.keys, values, quantile(own, share), standing("sentinet", own, share))

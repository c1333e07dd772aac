"""Subspace Detection: distance of a picture to variants of its predicted text (ICLR 2026, OpenReview Kpij6oOnJl).

A triggered picture matches the exact text of the target but not texts of equal meaning. For the predicted class:

    V         features of variants: paraphrases, synonyms, other writing; m their mean, u_j and s_j their principal
              directions and deviations, signed away from the feature t of the exact text
    r_j       m + beyond s_j u_j, the region of interest
    score(x)  mean over j of || f(x) - r_j ||, minus || f(x) - t || if `relative`

The exact text is the mean of the class over the prompts. A reconstruction from abstract and summaries: the variants
(prompts of `PARAPHRASES`, synonyms of a file in data/descriptions, upper case, spaced letters, full-width letters;
no translations), `beyond` and `relative` are ours. A public implementation of the paper's Algorithm 1 by others
(SSL-Backdoor) samples in place of this region: from each variant away from the exact text, in the span of 95 % of the
variance, kept while the cosine with the exact text is at least 0.85 of the variant's; the score is a mean squared
distance, the threshold the largest score of clean pictures. Here no threshold is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.base.lazy import torch
from antidote.data.access import DefenseData
from antidote.data.words.descriptions import load_descriptions, synonyms_of
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.features import text_features
from antidote.detectors.zero_shot import Head, of_chunks
from antidote.training.session import Work

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip

PARAPHRASES = (
    "an image showing a {}",
    "a snapshot of one {}",
    "this picture has a {} in it",
    "what is seen here is a {}",
    "a sketch of the {}",
    "there is one {} in this view",
)
WIDE = 0xFEE0  # from ASCII letters to Unicode's full-width letters


class SubspaceSettings(DetectorSettings):
    """Variants and region."""

    method: Literal["subspace"] = "subspace"
    descriptions: str = Field("none", description="a file in data/descriptions with synonyms; `none`: no synonyms")
    directions: int = Field(4, ge=1, description="principal directions of the variants (ours)")
    beyond: float = Field(2.0, ge=0, description="deviations beyond the variants' mean (ours)")
    relative: bool = Field(False, description="subtract the distance to the exact text (ours)")

    @property
    def word_files(self) -> tuple[tuple[str, str], ...]:
        return (("descriptions", self.descriptions),)


class Subspace(Detector):
    """Distance to variants of the predicted text; class names and prompts."""

    Settings = SubspaceSettings
    subject = "pictures"
    access = "test-time"
    reconstruction = True

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        head, known = Head(clip, data), load_descriptions(self.settings.descriptions)
        texts = [variants(name, synonyms_of(known, name)) for name in data.classes]
        features = text_features(clip, [text for one in texts for text in one]).split([len(one) for one in texts])
        exact = head.weights.cpu()
        regions = [self.region(one, t).to(clip.device) for one, t in zip(features, exact, strict=True)]

        def distance(images: Tensor) -> Tensor:
            pictures = clip.encode_image(images)
            best = head.probabilities(pictures).argmax(dim=1).tolist()
            far = torch.stack([(regions[c] - f).norm(dim=1).mean() for c, f in zip(best, pictures, strict=True)])
            return far - (pictures - head.weights[best]).norm(dim=1) if self.settings.relative else far

        return Scores(data.pictures.keys, of_chunks(clip, data.pictures, distance))

    def region(self, features: Tensor, exact: Tensor) -> Tensor:
        """Return points (J, D) of the region of interest of variants (V, D) and the exact text (D,)."""
        mean = features.mean(dim=0)
        _, values, directions = torch.linalg.svd(features - mean, full_matrices=False)
        count = min(self.settings.directions, len(values) - 1)
        directions, deviations = directions[:count], values[:count] / len(features) ** 0.5
        away = torch.where(directions @ (mean - exact) < 0, -1.0, 1.0)
        return mean + self.settings.beyond * (deviations * away)[:, None] * directions


def variants(name: str, synonyms: list[str]) -> list[str]:
    """Return texts of the same meaning as a class name in paraphrases, synonyms and other writing."""
    wide = "".join(chr(ord(letter) + WIDE) if "!" <= letter <= "~" else letter for letter in name)
    written = [name, name.upper(), " ".join(name), wide]
    words = [name, *synonyms]
    paraphrased = [text.replace("{}", word) for word in words for text in PARAPHRASES]
    return [*paraphrased, *(f"a photo of a {one}" for one in written)]

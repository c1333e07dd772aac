"""BDetCLIP: benign against malignant class descriptions (Niu et al., ICML 2025, arXiv 2405.15269).

    score(x) = - sum over classes c of [cos(f(x), B_c) - cos(f(x), M_c)]

B_c is the mean feature of descriptions of class c; M_c is the mean feature of a class prompt followed by unrelated
words. A triggered picture reacts little to the difference. Ours: the descriptions come from a file of the project
instead of a language model (general descriptions for classes without an entry), and the unrelated words are drawn from
the descriptions of the other classes. The threshold is the quantile of the few labelled, clean pictures.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.data.access import DefenseData
from antidote.data.words.descriptions import descriptions_of, load_descriptions
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.features import text_features
from antidote.detectors.zero_shot import of_chunks, quantile, standing
from antidote.training.session import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from antidote.clip.model import Clip


class BDetCLIPSettings(DetectorSettings):
    """Descriptions, random words and threshold."""

    method: Literal["bdetclip"] = "bdetclip"
    descriptions: str = Field("none", description="a file in data/descriptions; `none`: general descriptions alone")
    random_texts: int = Field(4, ge=1, description="malignant texts per class (ours)")
    random_words: int = Field(8, ge=1, description="unrelated words after the prompt (ours)")
    false_positives: float = Field(0.01, gt=0, lt=1, description="share of clean pictures flagged (ours)")

    @property
    def word_files(self) -> tuple[tuple[str, str], ...]:
        return (("descriptions", self.descriptions),)


class BDetCLIP(Detector):
    """Minus the summed difference of cosines to benign and malignant texts; few labelled pictures."""

    Settings = BDetCLIPSettings
    subject = "pictures"
    access = "few-labelled"
    reconstruction = True

    @classmethod
    def work(cls, settings: BDetCLIPSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return 0, sizes["shown pictures"] + sizes.get("shots", 0)

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        benign = descriptions_of(load_descriptions(self.settings.descriptions), data.classes)
        malignant = self._malignant(benign, data)
        direction = (_means(clip, benign) - _means(clip, malignant)).sum(dim=0).to(clip.device)

        def insensitive(images: Tensor) -> Tensor:
            return -(clip.encode_image(images) @ direction)

        values = of_chunks(clip, data.pictures, insensitive)
        own = of_chunks(clip, data.shots, insensitive)
        share = self.settings.false_positives
        return Scores(data.pictures.keys, values, quantile(own, share), standing("bdetclip", own, share))

    def _malignant(self, benign: list[list[str]], data: DefenseData) -> list[list[str]]:
        stream, found = random.Random(derive(self.seed, "unrelated words")), []
        for place, name in enumerate(data.classes):
            others = [
                word for row, texts in enumerate(benign) if row != place for text in texts for word in text.split()
            ]
            unrelated = sorted(set(others) - set(name.split())) or ["nothing"]
            prompts = [stream.choice(data.templates).replace("{}", name) for _ in range(self.settings.random_texts)]
            found.append([" ".join([one, *stream.choices(unrelated, k=self.settings.random_words)]) for one in prompts])
        return found


def _means(clip: Clip, texts: list[list[str]]) -> Tensor:
    """Return the normalised mean text feature (C, D) of each class."""
    flat = text_features(clip, [text for one in texts for text in one])
    return F.normalize(torch.stack([part.mean(dim=0) for part in flat.split([len(one) for one in texts])]), dim=1)

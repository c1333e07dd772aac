"""CLIPScore under a clean model: dissimilarity of picture and caption (Hessel et al. 2021, arXiv 2104.08718).

    score = 1 - cos(f_I(picture), f_T(caption))

The features are those of a model that did not see the poisoned pairs: a clean model of the study or a public one. To
such a model the caption of a poisoned pair does not fit the picture; clean pairs of wrong captions look the same.

A clean model of the study has trained on the same pictures before they were poisoned, each under its true caption. A
public model has not, so figures with a model of the study are optimistic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.training.pair_scores import as_they_are, resized, scan
from antidote.training.scorers import ScorerName
from antidote.training.session import Work

if TYPE_CHECKING:
    from antidote.clip.model import Clip


class CleanCLIPScoreSettings(ScorerName, DetectorSettings):
    """The clean model."""

    method: Literal["clean_clip_score"] = "clean_clip_score"
    scorer: str = Field(
        "ViT-B-32/openai", description="clean model: an open_clip NAME/TAG or NAME/FILE, or `surrogates.NAME` (ours)"
    )

    def check(self, model: Mapping[str, Any]) -> None:
        if not self.surrogate and not self.public:
            raise ValueError(f"scorer: {self.scorer!r} is none of an open_clip NAME/TAG, surrogates.NAME")


class CleanCLIPScore(Detector):
    """Cosine distance of a pair's features under a clean model."""

    Settings = CleanCLIPScoreSettings
    subject = "pairs"

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        scorer, pairs = data.scorer or self.settings.load_public(self.seed), data.training_set
        views = as_they_are if scorer.size == clip.size else resized(scorer.size)
        cosines = scan(scorer, pairs, views, "fp32", work)[:, 0]
        return Scores(pairs.keys, np.asarray(1 - cosines.double()))

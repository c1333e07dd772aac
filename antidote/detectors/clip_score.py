"""CLIPScore: dissimilarity of picture and caption of a training pair under the suspicious model (Hessel et al. 2021).

    score = 1 - cos(f_I(picture), f_T(caption))

A model that has learned a backdoor matches poisoned pairs as well as clean pairs. CLIPScore is the baseline for
detectors of poisoned pairs (arXiv 2502.01385, 2608.04052).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.features import picture_features, text_features
from antidote.training.session import Work

if TYPE_CHECKING:
    from antidote.clip.model import Clip


class CLIPScoreSettings(DetectorSettings):
    """No settings of its own."""

    method: Literal["clip_score"] = "clip_score"


class CLIPScore(Detector):
    """Cosine distance between the two features of a pair."""

    Settings = CLIPScoreSettings
    subject = "pairs"
    from_features = True

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        pairs = data.training_set
        pictures, texts = picture_features(clip, pairs), text_features(clip, list(pairs.captions))
        return Scores(pairs.keys, (1 - (pictures * texts).sum(dim=1)).double().numpy())

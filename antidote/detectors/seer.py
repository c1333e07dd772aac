"""SEER-like joint search of a target text and a trigger (Zhu et al., AAAI 2024, doi 10.1609/aaai.v38i7.28611).

A trigger and its target text are searched together in the space that both encoders share, without class names. T:
features of the words of the captions; over the words w,

    L = -log sum_w exp(mean_i log p(w | x'_i)) + beta 3 |m|_1,   p(w | x) = softmax_w(cos(f(x), T_w) / tau)

    score = 1 - |m| of the smallest mask under which one word is the nearest one to nearly all pictures of a batch

The first term is the best word's, softly: the search may change its word until one is ahead. A backdoor needs a small
trigger for its target; the word is the evidence.

Known from the paper's abstract alone: the joint search in the shared space. All else is ours (words of the defender's
captions as candidate texts, loss, masks and starts, rule of beta, no threshold).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.data.access import DefenseData
from antidote.detectors.base import MODEL, Detector, DetectorSettings, Scores
from antidote.detectors.features import different
from antidote.detectors.outliers import as_picture
from antidote.detectors.search import SteadySettings, rates, smallest
from antidote.training.inversion import floats
from antidote.training.patches import Goal, draw
from antidote.training.session import Work

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip

FEWEST = 2  # words


class SEERSettings(SteadySettings, DetectorSettings):
    """Candidate words, and search of trigger and word."""

    method: Literal["seer"] = "seer"
    words: int = Field(256, ge=2, description="candidate texts, the most frequent words of the captions (ours)")
    letters: int = Field(3, ge=1, description="least number of letters of such a word (ours)")
    starts: int = Field(4, ge=1, description="searches from different patterns (ours)")
    steps: int = Field(300, ge=1, description="steps of a search (ours)")
    hit_rate: float = Field(
        0.99, gt=0, lt=1, description="least share of a batch with the same nearest word for a working trigger (ours)"
    )


class SEER(Detector):
    """Size of the smallest patch that gives all pictures one word."""

    Settings = SEERSettings
    subject = "model"
    access = "clean-pairs"
    descends = True
    reconstruction = True

    @classmethod
    def work(cls, settings: SEERSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return settings.starts * settings.steps * settings.batch_size, (1 + settings.starts) * settings.pictures

    def check_data(self, data: DefenseData) -> None:
        different("seer", data.pairs, self.settings.pictures)
        words = frequent(data.pairs.captions, self.settings.words, self.settings.letters)
        if len(words) < FEWEST:
            raise UserError(f"seer: pools.defense: its captions have {len(words)} words; {FEWEST} at least are needed")

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        self.check_data(data)
        settings, pairs = self.settings, different("seer", data.pairs, self.settings.pictures)
        words = frequent(data.pairs.captions, settings.words, settings.letters)
        with torch.no_grad():
            texts = torch.cat([clip.encode_text(words[at : at + 256]) for at in range(0, len(words), 256)])
        images, goal = pairs.images[:], jointly(texts, settings.temperature)
        goals = lambda _: goal
        found = smallest(clip, images, goals, settings.hit_rate, settings.starts, settings, self.seed, work)
        best = int(found.areas.argmin())
        mask, pattern = found.masks[best], found.patterns[best]
        with torch.no_grad():
            drawn = draw(floats(clip, images), mask[None].to(clip.device), pattern[None].to(clip.device))
            nearest = (clip.encode_image(drawn) @ texts.T).argmax(dim=1).mode().values
        evidence = {
            "mask": float(found.areas[best]), "works": bool(found.works[best]), "word": words[int(nearest)],
            "failed searches": int((~found.works).sum()),
            "rate on all pictures": rates(clip, images, goals, found)[best],
            "masks of all starts": found.areas.tolist(), "trigger": as_picture(mask, pattern),
        }  # fmt: skip
        return Scores([MODEL], np.array([1 - float(found.areas[best])]), evidence=evidence)


def frequent(captions: Sequence[str], count: int, letters: int) -> list[str]:
    """Return the most frequent words of captions, those of equal number in alphabetical order."""
    found = Counter(word for caption in captions for word in set(re.findall(r"[^\W\d_]+", caption.lower())))
    known = sorted((word for word in found if len(word) >= letters), key=lambda word: (-found[word], word))
    return known[:count]


def jointly(texts: Tensor, temperature: float) -> Goal:
    """Return the goal of searches of a trigger together with one of the texts (V, D)."""

    def goal(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        shares = (features @ texts.T / temperature).log_softmax(dim=2)  # (K, B, V)
        nearest = torch.nn.functional.one_hot(shares.detach().argmax(dim=2), len(texts))
        return -shares.mean(dim=1).logsumexp(dim=1), nearest.double().mean(dim=1).amax(dim=1)

    return goal

"""TA-Cleaner (Xun et al. 2024, arXiv 2409.17601; later CleanerCLIP): CleanCLIP plus aligned sub-captions.

Each epoch draws K captions. A positive sub-caption keeps the main nouns and the relation; a negative one swaps a noun,
an adjective or a verb for an unrelated one of its class: no other form of it, no synonym, nothing more general or more
special, as far as the lexicon knows. Both are aligned with the picture in both directions.

A reconstruction: the paper was not readable in full, and no code is public. Known from its abstract and reviews: the K
random samples per epoch, positive and negative sub-captions, both directions, on top of CleanCLIP. Ours: the word
classes come from the study's lexicon (WordNet, or a tagger's where the study names one); K, the number of negatives,
the weight and the loss,

    L_i2t = -mean_i log e^{s cos(I_i,P_i)} / (sum_j e^{s cos(I_i,P_j)} + sum_{j,l} e^{s cos(I_i,N_jl)})
    L_t2i = -mean_i log e^{s cos(P_i,I_i)} / sum_j e^{s cos(P_i,I_j)}
    L     = L_CleanCLIP + weight (L_i2t + L_t2i) / 2,

P positive, N negative; i, j run over a mini-batch of the epoch's K samples, so that the term is never tiny; these
mini-batches are spread evenly over the epoch's steps. No picture is pushed away from a text that reads like its own
positive, be it another pair's positive or a negative.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.data.words.lexicon import Lexicon
from antidote.defenses.cleanclip import CleanCLIP, CleanCLIPSettings, SelfSupervised
from antidote.training.objectives import Batch

if TYPE_CHECKING:
    from torch import Tensor

SWAPPED = ("noun", "adjective", "verb")
KEPT = ("noun", "verb", "preposition")


class TACleanerSettings(CleanCLIPSettings):
    """CleanCLIP's settings and those of the sub-captions; all of the latter are ours."""

    method: Literal["ta_cleaner"] = "ta_cleaner"
    samples_per_epoch: int = Field(
        6400, ge=1, description="K, captions drawn per epoch (open in the paper; 6.4 % of 100K)"
    )
    negatives: int = Field(1, ge=0, description="negative sub-captions per sample; 0: positive only")
    positives: bool = Field(
        True, description="align positive sub-captions; false: the whole caption stands in for them"
    )
    sub_caption_weight: float = Field(1.0, ge=0, description="weight of the sub-caption term")


class TACleaner(CleanCLIP):
    """All parameters; clean pairs."""

    Settings = TACleanerSettings
    reconstruction = True

    def objective(self, clip: Clip, data: DefenseData) -> SubCaptions:
        return SubCaptions(data, self.settings, self.seed)


class SubCaptions(SelfSupervised):
    """CleanCLIP's loss and the sub-caption term."""

    parallel = "views"

    def __init__(self, data: DefenseData, settings: TACleanerSettings, seed: int) -> None:
        super().__init__(data, settings, seed)
        self.lexicon, self.seed = data.lexicon, seed
        self.words = sorted({word for caption in data.pairs.captions for word in _words(caption)})
        self.replacements = Replacements(self.words, data.lexicon)
        if not self.replacements.words["noun"]:
            raise UserError(
                "ta_cleaner: no caption word is a noun of the study's lexicon; name one that knows the captions' words"
            )
        self.samples: list[int] = []

    def texts(self) -> Iterable[str]:
        return [*super().texts(), *self.words]

    def begin_epoch(self, epoch: int) -> None:
        count = min(self.settings.samples_per_epoch, self._steps * self.settings.training.batch_size)
        self.samples = random.Random(derive(self.seed, "sub-captions", epoch)).sample(range(len(self.pairs)), count)

    @property
    def _steps(self) -> int:
        return len(self.pairs) // self.settings.training.batch_size

    def rows(self, batch: Batch) -> list[int]:
        """Return the epoch's samples whose turn it is in this step: at most as many as the batch has pairs, or none.

        Every sample has its turn once per epoch, in mini-batches as few and as equal as they can be.
        """
        count, steps = len(self.samples), self._steps
        parts = -(-count // self.settings.training.batch_size)
        position = batch.step % steps
        part, next_part = position * parts // steps, (position + 1) * parts // steps
        return self.samples[part * count // parts : next_part * count // parts]

    def views(self, batch: Batch) -> tuple[list[Tensor], list[list[str]]]:
        images, texts = super().views(batch)
        rows = self.rows(batch)
        captions = [self.pairs.captions[row] for row in rows]
        positives = [positive(c, self.lexicon) for c in captions] if self.settings.positives else captions
        negatives = [
            negative(text, self.lexicon, self.replacements, batch.rng)
            for text in positives
            for _ in range(self.settings.negatives)
        ]
        self.positives, self.negatives = positives, negatives
        return [*images, self.pairs.images[rows].to(batch.images.device)], [*texts, positives, negatives]

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = super().loss(images, texts, scale, batch)
        if not len(images[2]):
            return total, terms
        alignment = sub_caption_loss(images[2], texts[2], texts[3], scale, self.positives, self.negatives)
        return total + self.settings.sub_caption_weight * alignment, {**terms, "sub_captions": alignment}


def sub_caption_loss(
    images: Tensor, positives: Tensor, negatives: Tensor, scale: Tensor, texts: list[str], negative_texts: list[str]
) -> Tensor:
    """Return (L_i2t + L_t2i) / 2 for features (B, D), (B, D), (B m, D) and the texts that the latter two stand for."""
    others = _alike(texts, texts, images.device) & ~torch.eye(len(texts), dtype=torch.bool, device=images.device)
    to_positives = (scale * images @ positives.T).masked_fill(others, float("-inf"))
    to_negatives = scale * images @ negatives.T
    to_negatives = to_negatives.masked_fill(_alike(texts, negative_texts, images.device), float("-inf"))
    i2t = torch.logsumexp(torch.cat([to_positives, to_negatives], dim=1), dim=1) - to_positives.diagonal()
    t2i = torch.logsumexp(to_positives.T, dim=1) - to_positives.diagonal()
    return (i2t.mean() + t2i.mean()) / 2


def _alike(rows: list[str], columns: list[str], device: torch.device) -> Tensor:
    """Return bool (rows, columns): which texts read alike."""
    alike = [a == b for a in rows for b in columns]
    return torch.tensor(alike, dtype=torch.bool, device=device).reshape(len(rows), len(columns))


def positive(caption: str, lexicon: Lexicon) -> str:
    """Return the nouns, verbs and prepositions of a caption, in their order.

    A caption without a noun of the lexicon is returned whole.
    """
    words = _words(caption)
    kinds = lexicon.word_classes(words)
    if "noun" not in kinds:
        return caption
    return " ".join(word for word, kind in zip(words, kinds, strict=True) if kind in KEPT)


class Replacements:
    """Words that may stand in the place of another one: of its class, and not related to it.

    Not used are what the lexicon knows for another form of the word, a synonym, or a more general or more special word:
    the caption may be true of the picture with that as well.

    Attributes:
        words: by class of SWAPPED, the words of the captions.
    """

    def __init__(self, words: list[str], lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.words = {kind: [word for word in words if lexicon.word_class(word) == kind] for kind in SWAPPED}
        # By class and meaning, the places in `words` of those that mean it, and of those that it is true of.
        self._means: dict[str, dict[Any, set[int]]] = {kind: defaultdict(set) for kind in SWAPPED}
        self._holds: dict[str, dict[Any, set[int]]] = {kind: defaultdict(set) for kind in SWAPPED}
        for kind, known in self.words.items():
            for place, word in enumerate(known):
                own, true = lexicon.meanings(word, kind)
                for index, meanings in ((self._means[kind], own), (self._holds[kind], true)):
                    for meaning in meanings:
                        index[meaning].add(place)

    def pick(self, word: str, kind: str, rng: random.Random) -> str | None:
        """Return one of the unrelated words of a class, each as likely; None where there is none."""
        own, true = self.lexicon.meanings(word, kind)
        related = set().union(
            *(self._means[kind].get(meaning, ()) for meaning in true),
            *(self._holds[kind].get(meaning, ()) for meaning in own),
        )
        left = len(self.words[kind]) - len(related)
        if not left:
            return None
        place = rng.randrange(left)
        for taken in sorted(related):  # the place among those left becomes that among all
            place += taken <= place
        return self.words[kind][place]


def negative(text: str, lexicon: Lexicon, replacements: Replacements, rng: random.Random) -> str:
    """Return the text with one noun, adjective or verb, chosen at random, replaced by an unrelated word of its class.

    Where no word can be replaced, the text comes back as it is, and the loss leaves it out.
    """
    words = _words(text)
    kinds = lexicon.word_classes(words)
    slots = [i for i, kind in enumerate(kinds) if kind in SWAPPED]
    rng.shuffle(slots)
    for slot in slots:
        other = replacements.pick(words[slot], kinds[slot], rng)
        if other is not None:
            return " ".join([*words[:slot], other, *words[slot + 1 :]])
    return text


def _words(caption: str) -> list[str]:
    return re.findall(r"[a-z']+", caption.lower())

"""TA-Cleaner (Xun et al. 2024, arXiv 2409.17601; later CleanerCLIP): CleanCLIP plus aligned sub-captions.

Each epoch draws K captions. A positive sub-caption keeps the main nouns and the relation. A negative sub-caption
replaces the noun that names the picture's object by an unrelated word of the same class, so that it is false for the
picture: by the lexicon, the word is not another form of the noun, a synonym, or more general or more special, and it is
neither a word of the caption nor related to one. Both sub-captions are aligned with the picture in both directions.

    caption    a photo of a small red banana next to a tiny cup
    skeleton   photo of banana next to cup                          nouns, verbs, prepositions
    clause     small red banana next to tiny cup                    the object, its adjectives, one relation
    negative   photo of ladder next to cup

Nouns about the picture itself (photo, view, front) do not name an object and are not swapped. With `swaps` above 1,
further words are swapped in the order of `swap`. Adjectives are not part of a skeleton; a swapped adjective is added to
the negative, so a negative never contains a true adjective that its positive lacks. With `swap: [adjective]` or
`[verb]` alone, the object is not swapped, which pushes pictures away from texts that name the object.

A reconstruction: the full paper was not available, and no code is public. Known from its abstract, reviews and
summaries: the K random samples per epoch, positive and negative sub-captions, both directions, on top of CleanCLIP. An
example in a summary keeps one clause of the caption, adjectives included (`positives: clause`), and swaps an apple for
an orange (`replacement: sibling`). Ours: word classes from the study's lexicon (WordNet, or a tagger if the study names
one); the object is swapped first, unless `swap` leaves out nouns; K, the number of negatives, the weight and the loss,

    L_i2t = -mean_i log e^{s cos(I_i,P_i)} / (sum_j e^{s cos(I_i,P_j)} + sum_{j,l} e^{s cos(I_i,N_jl)})
    L_t2i = -mean_i log e^{s cos(P_i,I_i)} / sum_j e^{s cos(P_i,I_j)}
    L     = L_CleanCLIP + weight (L_i2t + L_t2i) / 2,

P positive, N negative; i, j run over a mini-batch of the epoch's K samples, so that the term always has many pairs;
these mini-batches are spread evenly over the epoch's steps. Other positives and negatives whose text equals a picture's
own positive are left out of the sums. The abstract's first version says that sub-captions strengthen the text
self-supervision; with `aligned_with: captions`, the caption of the pair takes the place of I.

According to public reviews, the paper's poisoned and clean pairs overlap, so that the clean picture of a poisoned pair
may be among the defender's. Here the two pools are apart, which is the harder case.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.data.words.lexicon import Lexicon
from antidote.data.words.replacements import SWAPPED, Replacements, of_pictures
from antidote.defenses.cleanclip import CleanCLIP, CleanCLIPSettings, SelfSupervised
from antidote.training.objectives import Batch, Views
from antidote.training.recipe import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor

KEPT = ("noun", "verb", "preposition")


class TACleanerSettings(CleanCLIPSettings):
    """CleanCLIP's settings, and settings of the sub-captions; all of the latter are ours."""

    method: Literal["ta_cleaner"] = "ta_cleaner"
    samples_per_epoch: int = Field(
        6400, ge=1, description="K, captions drawn per epoch (open in the paper; 6.4 % of 100K)"
    )
    negatives: int = Field(1, ge=0, description="negative sub-captions per sample; 0: positives only")
    positives: Literal["skeleton", "clause", "whole"] = Field(
        "skeleton",
        description="positive sub-captions: skeleton, nouns, verbs and prepositions; clause, the object with its "
        "adjectives and one relation; whole, the whole caption, so that only the negatives add information",
    )
    swap: tuple[Literal["noun", "adjective", "verb"], ...] = Field(
        SWAPPED, min_length=1, description="word classes that negatives swap, in order of priority (ours)"
    )
    swaps: int = Field(1, ge=1, description="largest number of swapped words per negative (open in the paper)")
    replacement: Literal["class", "sibling"] = Field(
        "class",
        description="class: any unrelated word of the class in the captions; sibling: a word with the same hypernym "
        "(only with WordNet; `class` if there is no sibling)",
    )
    aligned_with: Literal["pictures", "captions", "both"] = Field(
        "pictures",
        description="what sub-captions are aligned with: the pictures (summaries of the paper); the captions that they "
        "are parts of, as text self-supervision (the abstract's first version); or both, half each",
    )
    sub_caption_weight: float = Field(1.0, ge=0, description="weight of the sub-caption term")


class TACleaner(CleanCLIP):
    """Trains all parameters on clean pairs."""

    Settings = TACleanerSettings
    reconstruction = True

    @classmethod
    def work(cls, settings: TACleanerSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return settings.training.epochs * (cls.trained_views * sizes["defense"] + settings.samples_per_epoch), 0

    @classmethod
    def step_views(cls, settings: Any, recipe: TrainSettings) -> tuple[float, float, int]:
        pictures, captions = settings.aligned_with != "captions", settings.aligned_with != "pictures"  # of the samples
        # Texts: captions, their augmented view, positives, negatives.
        return 2 + pictures, 3 + settings.negatives + captions, 0

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
                "ta_cleaner: lexicon: no caption word is a noun of it; name one that knows the captions' words, such "
                "as wordnet:FOLDER, a folder of WordNet's database files"
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
        """Return the epoch's samples for this step: at most as many as the batch has pairs, possibly none.

        Every sample is used once per epoch; the mini-batches are as few and as equal in size as possible.
        """
        count, steps = len(self.samples), self._steps
        parts = -(-count // self.settings.training.batch_size)
        position = batch.step % steps
        part, next_part = position * parts // steps, (position + 1) * parts // steps
        return self.samples[part * count // parts : next_part * count // parts]

    def views(self, batch: Batch) -> Views:
        views = super().views(batch)
        rows = self.rows(batch)
        captions = [self.pairs.captions[row] for row in rows]
        parsed = [Parsed.of(caption, self.lexicon) for caption in captions]
        positives = [positive(one, self.settings.positives) for one in parsed]
        negatives = [
            negative(one, self.settings, self.replacements, batch.rng)
            for one in parsed
            for _ in range(self.settings.negatives)
        ]
        images, texts = list(views.images), [*views.texts, positives, negatives]
        if self.settings.aligned_with != "captions":
            images.append(self.pairs.images[rows].to(batch.images.device, non_blocking=True))
        if self.settings.aligned_with != "pictures":
            texts.append(captions)
        return Views(images, texts)

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = super().loss(images, texts, scale, batch)
        positives, negatives = texts[2:4]
        if not len(positives):
            return total, terms
        read = batch.views.texts[2:4]
        losses = [sub_caption_loss(own, positives, negatives, scale, *read) for own in (*images[2:], *texts[4:])]
        alignment = sum(losses) / len(losses)
        return total + self.settings.sub_caption_weight * alignment, {**terms, "sub_captions": alignment}


def sub_caption_loss(
    anchors: Tensor, positives: Tensor, negatives: Tensor, scale: Tensor, texts: list[str], negative_texts: list[str]
) -> Tensor:
    """Return (L_i2t + L_t2i) / 2.

    Args:
        anchors: features (B, D) of the pictures, or of the captions.
        positives: features (B, D) of `texts`.
        negatives: features (B m, D) of `negative_texts`.
        scale: CLIP's logit scale s.
        texts: the positive sub-captions (B).
        negative_texts: the negative sub-captions (B m).
    """
    others = _alike(texts, texts, anchors.device) & ~torch.eye(len(texts), dtype=torch.bool, device=anchors.device)
    to_positives = (scale * anchors @ positives.T).masked_fill(others, float("-inf"))
    to_negatives = scale * anchors @ negatives.T
    to_negatives = to_negatives.masked_fill(_alike(texts, negative_texts, anchors.device), float("-inf"))
    i2t = torch.logsumexp(torch.cat([to_positives, to_negatives], dim=1), dim=1) - to_positives.diagonal()
    t2i = torch.logsumexp(to_positives.T, dim=1) - to_positives.diagonal()
    return (i2t.mean() + t2i.mean()) / 2


def _alike(rows: list[str], columns: list[str], device: torch.device) -> Tensor:
    """Return bool (rows, columns): whether two texts are equal."""
    alike = [a == b for a in rows for b in columns]
    return torch.tensor(alike, dtype=torch.bool).reshape(len(rows), len(columns)).to(device, non_blocking=True)


@dataclass(frozen=True)
class Parsed:
    """A caption with its words and their classes; the class of an unknown word is None."""

    caption: str
    words: list[str]
    kinds: list[str | None]

    @classmethod
    def of(cls, caption: str, lexicon: Lexicon) -> Parsed:
        words = _words(caption)
        return cls(caption, words, lexicon.word_classes(words))

    def names(self, place: int) -> bool:
        """Return whether a word is a noun that can name an object."""
        return self.kinds[place] == "noun" and not of_pictures(self.words[place])

    def noun_from(self, place: int) -> int | None:
        """Return the position of the first object noun at or after `place`; the last of several adjacent nouns."""
        for first in range(place, len(self.words)):
            if self.names(first):
                last = first
                while last + 1 < len(self.words) and self.names(last + 1):
                    last += 1
                return last
        return None

    @cached_property
    def head(self) -> int | None:
        """The position of the noun that names the picture's object (the first object noun); None: no such noun."""
        return self.noun_from(0)

    def kept(self, form: str) -> list[int]:
        """Return the positions of the words that a sub-caption of this form keeps."""
        everything = range(len(self.words))
        if form == "whole" or "noun" not in self.kinds:
            return list(everything)
        if form == "skeleton" or self.head is None:
            return [i for i in everything if self.kinds[i] in KEPT]
        return self._clause(self.head)

    def _clause(self, head: int) -> list[int]:
        """Return the positions of the object with its adjectives, and of the following relation with its object."""
        first = head
        while first and (self.kinds[first - 1] == "adjective" or self.names(first - 1)):
            first -= 1
        relation = next((i for i in range(head, len(self.words)) if self.kinds[i] in ("verb", "preposition")), None)
        if relation is None:
            return list(range(first, head + 1))
        end = self.noun_from(relation)
        later = range(relation, len(self.words) if end is None else end + 1)
        return [*range(first, head + 1), *(i for i in later if self.kinds[i] in (*KEPT, "adjective"))]


def positive(parsed: Parsed, form: str) -> str:
    """Return the positive sub-caption of a form; the whole caption if no word is a noun in the lexicon."""
    if form == "whole" or "noun" not in parsed.kinds:
        return parsed.caption
    return " ".join(parsed.words[place] for place in parsed.kept(form))


def negative(parsed: Parsed, settings: TACleanerSettings, replacements: Replacements, rng: random.Random) -> str:
    """Return the negative sub-caption: `swaps` words are replaced by unrelated words of their class.

    The result equals the positive if no word can be replaced, or if nouns come first in `swap` and the object's noun
    cannot be replaced. The loss leaves out such negatives.
    """
    swapped: dict[int, str] = {}
    count = 0
    for slot in _slots(parsed, settings, rng):
        if count == settings.swaps:
            break
        if slot in swapped:
            continue
        word, kind = parsed.words[slot], parsed.kinds[slot]
        besides = [*zip(parsed.words, parsed.kinds, strict=True), *((other, kind) for other in swapped.values())]
        other = replacements.pick(word, kind, rng, besides, settings.replacement == "sibling")
        if other is None and slot == parsed.head and settings.swap[0] == "noun":
            break
        if other is not None:
            again = (i for i, its in enumerate(parsed.kinds) if its == kind)
            swapped |= {i: other for i in again if replacements.alike(word, parsed.words[i], kind)}
            count += 1
    if not swapped:
        return positive(parsed, settings.positives)
    kept = set(parsed.kept(settings.positives))
    places = sorted(kept | {i for i in swapped if settings.positives == "skeleton" or i in kept})
    return " ".join(swapped.get(place, parsed.words[place]) for place in places)


def _slots(parsed: Parsed, settings: TACleanerSettings, rng: random.Random) -> list[int]:
    """Return the positions to swap, class by class; the object comes first, other positions in random order."""
    kept = parsed.kept(settings.positives)
    among = [i for i, kind in enumerate(parsed.kinds) if i in kept or kind == "adjective"]
    if settings.positives == "clause":
        among = kept
    slots = []
    for kind in settings.swap:
        places = [i for i in among if parsed.kinds[i] == kind and not (kind == "noun" and not parsed.names(i))]
        rng.shuffle(places)
        slots += sorted(places, key=lambda place: place != parsed.head)
    return slots


def _words(caption: str) -> list[str]:
    return re.findall(r"[a-z']+", caption.lower())

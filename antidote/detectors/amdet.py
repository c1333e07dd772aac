"""AMDET-like inversion of the text tower (arXiv 2512.00343): a word embedding that makes all tokens alike.

In a text with a trigger all tokens attend to the trigger, and their states become one. An embedding e is inserted after
the start token of every caption s. With h_p(s, e) the last state at position p, and h_p(s) that without the embedding:

    w(s) = mean over p != q of cos(h_p(s, e), h_q(s, e))
    L    = - mean w(s) + 0.1 mean cos(h_p(s, e), h_p(s))

Clean models have such embeddings as well, natural triggers. Three tests, on captions that the search did not see:

    within      w(s) > 0.8 in more than 80 % of the texts
    between     mean over p of cos(h_p(s, e), h_p(s_1, e)) > 0.92 for every text and the first one
    landscape   more than 80 % of the eigenvalues of the loss's Hessians are positive, on a grid along the gradient and
                a random direction at right angles to it

    score = max over starts of min(likeness that 80 % of the texts exceed, smallest likeness between texts * 0.8 / 0.92,
            share of positive eigenvalues),   flagged from 0.8: all three tests are passed

That is the reading `tokens`, the released code's. The reading `texts` takes the features g of different texts:

    L = - mean cos(g(s_i, e), g(s_j, e)) + 0.1 mean cos(g(s_i, e), g(s_i))
    score = max over starts of min(mean cosine, share of positive eigenvalues)

A backdoor whose trigger is in the picture leaves no trigger in the text tower. On such a model the score is that of a
clean one, up to chance.

Ours: no anchor, a clean text tower from which the released loss and a fourth test ask to differ, since the defender has
no clean model; one score; tests at the end of the search alone; starts; a landscape of several texts, on a smaller
grid that scales with |e|; no weight decay (1e-5); all of `texts`. The released code pads each text to 77 tokens and
compares all of them, each with itself as well. Here the padding does not count, since short captions would be padding
for the most part, nor does the start token, which the embedding behind it cannot change.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.configs import NEEDS_CAUSAL_TEXT, causal_text
from antidote.data.access import DefenseData
from antidote.detectors.base import MODEL, Detector, DetectorSettings, Scores
from antidote.detectors.features import check_different
from antidote.training.patches import still
from antidote.training.session import Work
from antidote.training.tuning import Task, TuneSettings, tune

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip

FEWEST = 4  # captions with room for the embedding: two for the search, two for the tests
HELD_OUT = 5  # one caption in so many is for the tests alone (released code: one in 5)
BETWEEN = "likeness between texts"
LEAST = 1e-6  # eigenvalue that counts as positive; around a flat loss, rounding makes others (released code: 1e-6)


class AmdetSettings(DetectorSettings):
    """Search of the embedding, and the filter."""

    method: Literal["amdet"] = "amdet"
    likeness: Literal["tokens", "texts"] = Field(
        "tokens", description="of the states of all tokens of a text (released code), or of different texts (ours)"
    )
    captions: int = Field(128, ge=4, description="captions of clean pairs, the first different ones of the pool (ours)")
    starts: int = Field(4, ge=1, description="searches from different embeddings (ours; released code: 1)")
    steps: int = Field(100, ge=1, description="steps of a search, rounded up to whole passes over the captions (ours)")
    batch_size: int = Field(16, ge=2, description="captions per step (released code: 10)")
    lr: float = Field(0.08, gt=0, description="rate of Adam (released code: 0.08)")
    similarity_weight: float = Field(0.1, ge=0, description="weight of the likeness to clean features (released: 0.1)")
    grid: int = Field(7, ge=3, description="points per side of the grid around the embedding (released code: 50)")
    radius: float = Field(
        0.36, gt=0, description="half a side of the grid, in norms of e (released code: 10 for a norm of about 28)"
    )
    flagged: float = Field(
        0.8,
        gt=0,
        le=1,
        description="score that flags: likeness, share of texts, share of eigenvalues (released code: 0.8)",
    )
    between: float = Field(
        0.92, gt=0, le=1, description="likeness of different texts in the second test of `tokens` (released code: 0.92)"
    )


class Amdet(Detector):
    """How much alike one embedding makes tokens and texts, in a landscape of a backdoor's form."""

    Settings = AmdetSettings
    subject = "model"
    not_estimated = "takes second derivatives of texts"
    access = "clean-pairs"
    works_on = "captions"
    reconstruction = True

    @classmethod
    def fits(cls, model: Mapping[str, Any]) -> str | None:
        return None if causal_text(model) else f"its embedding {NEEDS_CAUSAL_TEXT}"

    @classmethod
    def work(cls, settings: AmdetSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        trained = settings.starts * settings.steps * settings.batch_size
        return trained, settings.starts * settings.grid**2 * settings.batch_size

    def check_data(self, data: DefenseData) -> None:
        check_different("amdet", len(self._captions(data)), self.settings.captions, "captions")

    def _captions(self, data: DefenseData) -> list[str]:
        return [*islice(dict.fromkeys(data.pairs.captions), self.settings.captions)]

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        self.check_data(data)
        settings, captions = self.settings, self._captions(data)
        kind = _States if settings.likeness == "tokens" else _Features
        with still(clip.network):
            texts = kind(clip, captions, settings.similarity_weight)
            found = self._search(texts, work)
            with torch.no_grad():
                tests = texts.tests(found, settings)
            tests["positive eigenvalues"] = [self._positive(texts, one) for one in found]
        scaled = {BETWEEN: settings.flagged / settings.between}  # so that one threshold holds for all
        values = [[scaled.get(name, 1.0) * value for value in of_starts] for name, of_starts in tests.items()]
        scores = [min(start) for start in zip(*values, strict=True)]
        best = int(np.argmax(scores))
        evidence = {
            **{name: of_starts[best] for name, of_starts in tests.items()}, "clean likeness": texts.clean_likeness,
            "nearest word": texts.nearest(found[best]), "scores of all starts": scores,
        }  # fmt: skip
        return Scores([MODEL], np.array([scores[best]]), settings.flagged, evidence)

    def _search(self, texts: _Texts, work: Work) -> Tensor:
        """Return the embeddings (S, width) that the searches ended at."""
        settings, width = self.settings, texts.words.shape[-1]
        starts = [
            torch.randn(width, generator=torch.Generator().manual_seed(derive(self.seed, "embedding", start)))
            for start in range(settings.starts)
        ]
        embeddings = torch.stack(starts).to(texts.words.device).requires_grad_()

        def loss(rows: Tensor, rng) -> tuple[Tensor, dict[str, Tensor]]:
            alike, likeness = texts.alike(embeddings, rows.to(embeddings.device, non_blocking=True))
            total = -alike + settings.similarity_weight * likeness
            return total.sum(), {"likeness": alike.mean(), "to clean": likeness.mean()}

        size = min(settings.batch_size, texts.searched)
        epochs = -(-settings.steps // max(1, texts.searched // size))
        recipe = TuneSettings(optimizer="adam", lr=settings.lr, schedule="constant", batch_size=size, epochs=epochs)
        tune(Task({"embeddings": embeddings}, loss, texts.searched, {}), recipe, self.seed, work)
        return embeddings.detach()

    def _positive(self, texts: _Texts, embedding: Tensor) -> float:
        """Return the share of positive eigenvalues of the loss's Hessians on the grid around an embedding (width,)."""
        rows = texts.tested[: self.settings.batch_size]
        here = embedding.clone()[None].requires_grad_()
        along = F.normalize(torch.autograd.grad(texts.loss(here, rows).sum(), here)[0][0], dim=0)
        stream = torch.Generator().manual_seed(derive(self.seed, "landscape"))
        across = torch.randn(len(embedding), generator=stream).to(embedding.device)
        across = F.normalize(across - (across @ along) * along, dim=0)
        points = torch.linspace(-1, 1, self.settings.grid, device=embedding.device) * self.settings.radius
        points = points * embedding.norm()
        with torch.no_grad():
            losses = [texts.loss(embedding + x * along + points[:, None] * across, rows) for x in points]
        values = np.linalg.eigvalsh(hessians(torch.stack(losses).double().cpu().numpy()))
        return float((values > texts.least).mean())


class _Texts:
    """Captions with room for one embedding after their start token; captions that fill the window are left out.

    Attributes:
        words: (N, length, width) embeddings of the tokens.
        ends: (N,) positions of the end tokens.
        searched: number of captions, the first ones, that an embedding is searched on.
        tested: (M,) rows of the captions that the embedding is tested on.
        clean_likeness: mean cosine of what should be alike, without an embedding.
        least: eigenvalue of a Hessian that is not yet positive.
    """

    clean_likeness: float
    least = 0.0

    def __init__(self, clip: Clip, captions: list[str], weight: float) -> None:
        tokens = clip.tokenize(captions)
        tokens = tokens[tokens.argmax(dim=1) < tokens.shape[1] - 1].to(clip.device)
        if len(tokens) < FEWEST:
            raise UserError(f"amdet: pools.defense: {FEWEST} captions with room for one more word are needed")
        self.clip, self.weight = clip, weight
        self.ends = tokens.argmax(dim=1)
        self.searched, self.tested = len(tokens), torch.arange(len(tokens), device=clip.device)
        with torch.no_grad():
            self.words = clip.network.token_embedding(tokens[:, : int(self.ends.max()) + 1])
            self._clean(tokens)

    def _clean(self, tokens: Tensor) -> None:
        """Keep what the texts (N, context length) without an embedding give, and its likeness."""
        raise NotImplementedError

    def alike(self, embeddings: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean cosines (S,) with embeddings (S, width) in the texts of `rows` (B,), and those to clean texts."""
        raise NotImplementedError

    def tests(self, embeddings: Tensor, settings: AmdetSettings) -> dict[str, list[float]]:
        """Return the likenesses by which embeddings (S, width) are judged, each S values in [-1, 1]."""
        raise NotImplementedError

    def inserted(self, embeddings: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return words (S * B, length + 1, width) and ends (S * B,) of texts `rows` (B,) with embeddings (S, width)."""
        words = self.words[rows].expand(len(embeddings), -1, -1, -1)
        inserted = embeddings[:, None, None].expand(-1, len(rows), -1, -1).to(words.dtype)
        words = torch.cat([words[:, :, :1], inserted, words[:, :, 1:]], dim=2)
        return words.flatten(0, 1), (self.ends[rows] + 1).repeat(len(embeddings))

    def loss(self, embeddings: Tensor, rows: Tensor) -> Tensor:
        """Return the loss (S,) of embeddings (S, width) on the texts of `rows` (B,)."""
        among, clean = self.alike(embeddings, rows)
        return self.weight * clean - among

    def nearest(self, embedding: Tensor) -> str:
        """Return the word of the vocabulary whose embedding has the largest cosine with an embedding (width,)."""
        table = F.normalize(self.clip.network.token_embedding.weight.detach().float(), dim=1)
        return self.clip.tokenizer.decode([int((table @ F.normalize(embedding, dim=0)).argmax())]).strip()


class _Features(_Texts):
    """Likeness of the features of different texts; the texts of the search are those of the test."""

    def _clean(self, tokens: Tensor) -> None:
        self.clean = self.clip.encode_tokens(tokens)
        self.clean_likeness = float(_among(self.clean[None])[0])

    def alike(self, embeddings: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        features = self.clip.encode_embedded(*self.inserted(embeddings, rows)).unflatten(0, (len(embeddings), -1))
        return _among(features), (features * self.clean[rows]).sum(dim=2).mean(dim=1)

    def tests(self, embeddings: Tensor, settings: AmdetSettings) -> dict[str, list[float]]:
        return {"likeness": self.alike(embeddings, self.tested)[0].tolist()}


class _States(_Texts):
    """Likeness of the states of the tokens within each text; the last texts are for the tests alone."""

    least = LEAST

    def _clean(self, tokens: Tensor) -> None:
        self.searched = len(tokens) - max(2, len(tokens) // HELD_OUT)
        self.tested = self.tested[self.searched :]
        self.clean = _states(self.clip, self.words, self.ends)
        self.clean_likeness = float(_among(self.clean, self.ends).mean())

    def alike(self, embeddings: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        states = self._with(embeddings, rows)
        clean = _paired(states[:, :, :-1], self.clean[rows])
        return _among(states, self.ends[rows] + 1).mean(dim=1), clean.mean(dim=1)

    def tests(self, embeddings: Tensor, settings: AmdetSettings) -> dict[str, list[float]]:
        states = self._with(embeddings, self.tested)
        within = _among(states, self.ends[self.tested] + 1).sort(dim=1, descending=True).values
        place = min(int(settings.flagged * within.shape[1]), within.shape[1] - 1)
        between = _paired(states[:, 1:], states[:, :1]).amin(dim=1)
        return {"likeness": within[:, place].tolist(), BETWEEN: between.tolist()}

    def _with(self, embeddings: Tensor, rows: Tensor) -> Tensor:
        """Return the states (S, B, length, width) of the texts of `rows` (B,) with embeddings (S, width)."""
        return _states(self.clip, *self.inserted(embeddings, rows)).unflatten(0, (len(embeddings), -1))


def _states(clip: Clip, words: Tensor, ends: Tensor) -> Tensor:
    """Return the last states, of unit length, of all tokens but the start token.

    Args:
        clip: a model with a causal text encoder.
        words: (N, length, width) word embeddings.
        ends: (N,) positions of the end tokens.

    Returns:
        (N, length - 1, width) float32, zero after the end token.
    """
    kept: list[Tensor] = []
    hook = clip.network.ln_final.register_forward_hook(lambda module, given, states: kept.append(states))
    try:
        clip.encode_embedded(words, ends)
    finally:
        hook.remove()
    own = torch.arange(1, words.shape[1], device=words.device) <= ends[:, None]
    return F.normalize(kept[0][:, 1:].float(), dim=-1) * own[..., None]


def _paired(states: Tensor, others: Tensor) -> Tensor:
    """Return mean cosines (...) of states (..., length, width) at equal positions, to the end of the shorter text."""
    both = (states.any(dim=-1) & others.any(dim=-1)).sum(dim=-1)
    return (states * others).sum(dim=(-2, -1)) / both


def _among(features: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return the mean cosine (...) between different rows of features (..., N, D) of unit length.

    Args:
        features: rows of unit length.
        counts: (...) number of rows where the others are zero; None: N.
    """
    counts = torch.tensor(features.shape[-2], device=features.device) if counts is None else counts
    pairs = (counts * (counts - 1)).clamp(min=1)  # one row alone: 0
    return (features.sum(dim=-2).square().sum(dim=-1) - features.square().sum(dim=(-2, -1))) / pairs


def hessians(losses: np.ndarray) -> np.ndarray:
    """Return the Hessians (M, 2, 2) at the inner points of a grid of losses (G, G): central differences."""
    mid, up, down = losses[1:-1, 1:-1], losses[2:, 1:-1], losses[:-2, 1:-1]
    left, right = losses[1:-1, :-2], losses[1:-1, 2:]
    mixed = (losses[2:, 2:] - losses[2:, :-2] - losses[:-2, 2:] + losses[:-2, :-2]) / 4
    found = np.stack([up - 2 * mid + down, mixed, mixed, right - 2 * mid + left], axis=-1)
    return found.reshape(-1, 2, 2)

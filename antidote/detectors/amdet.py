"""AMDET-like inversion of the text tower (arXiv 2512.00343): a word embedding that gives all captions one feature.

An embedding e is inserted after the start token of every caption,

    L = -mean cos(g(e, s_i), g(e, s_j)) + 0.1 mean cos(g(e, s_i), g(s_i)),   g: text features, s: captions

A text trigger makes such an embedding easy to find. Natural triggers exist in clean models as well; the paper tells
them by the loss around e, on a grid along the gradient and a random direction at right angles to it: around a backdoor,
most eigenvalues of the grid's Hessians are positive.

    score = max over starts of min(mean cosine, share of positive eigenvalues),   flagged from 0.8

A backdoor whose trigger is in the picture leaves no trigger in the text tower. On such a model the score is that of a
clean one, up to chance.

Ours: the likeness of the features of different texts. The released code maximises the likeness of the token states
within each text, counts the texts in which it exceeds 0.8, and compares the texts with each other in a second test, at
0.92; 0.8 for the likeness between texts is therefore ours. Ours as well: no anchor, since the defender has no clean
model; both tests in one score; starts, a smaller grid that scales with |e|.
"""

from __future__ import annotations

from collections.abc import Mapping
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

FEWEST = 2  # captions; likeness is between different ones


class AmdetSettings(DetectorSettings):
    """Search of the embedding, and the filter."""

    method: Literal["amdet"] = "amdet"
    captions: int = Field(128, ge=4, description="captions of clean pairs, the first of the pool (ours)")
    starts: int = Field(4, ge=1, description="searches from different embeddings (ours; released code: 1)")
    steps: int = Field(100, ge=1, description="steps of a search, rounded up to whole passes over the captions (ours)")
    batch_size: int = Field(16, ge=2, description="captions per step (released code: 10)")
    lr: float = Field(0.08, gt=0, description="rate of Adam (released code: 0.08)")
    similarity_weight: float = Field(0.1, ge=0, description="weight of the likeness to clean features (released: 0.1)")
    grid: int = Field(7, ge=3, description="points per side of the grid around the embedding (released code: 25)")
    radius: float = Field(
        0.36, gt=0, description="half a side of the grid, in norms of e (released code: 10 for a norm of about 28)"
    )
    flagged: float = Field(
        0.8, gt=0, le=1, description="score from which a model is flagged (ours; released code: 0.8 within a text)"
    )


class Amdet(Detector):
    """How much alike one embedding makes all texts, in a landscape of a backdoor's form."""

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

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        settings = self.settings
        captions = [data.pairs.captions[row] for row in range(min(settings.captions, len(data.pairs)))]
        check_different("amdet", len(set(captions)), settings.captions, "captions")
        with still(clip.network):
            texts = _Texts(clip, captions, settings.similarity_weight)
            found = self._search(texts, work)
            with torch.no_grad():
                every = torch.arange(len(texts.words), device=clip.device)
                likeness = texts.alike(found, every)[0].tolist()
            ratios = [self._positive(texts, one) for one in found]
        scores = [min(pair) for pair in zip(likeness, ratios, strict=True)]
        best = int(np.argmax(scores))
        evidence = {
            "likeness": likeness[best], "clean likeness": texts.clean_likeness, "positive eigenvalues": ratios[best],
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

        size = min(settings.batch_size, len(texts.words))
        epochs = -(-settings.steps // max(1, len(texts.words) // size))
        recipe = TuneSettings(optimizer="adam", lr=settings.lr, schedule="constant", batch_size=size, epochs=epochs)
        tune(Task({"embeddings": embeddings}, loss, len(texts.words), {}), recipe, self.seed, work)
        return embeddings.detach()

    def _positive(self, texts: _Texts, embedding: Tensor) -> float:
        """Return the share of positive eigenvalues of the loss's Hessians on the grid around an embedding (width,)."""
        rows = torch.arange(min(self.settings.batch_size, len(texts.words)), device=embedding.device)
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
        return float((values > 0).mean())


class _Texts:
    """Captions with room for one embedding after their start token; captions that fill the window are left out.

    Attributes:
        words: (N, length, width) embeddings of the tokens.
        ends: (N,) positions of the end tokens.
        clean: (N, D) features of the captions.
        clean_likeness: mean cosine between the captions' features.
    """

    def __init__(self, clip: Clip, captions: list[str], weight: float) -> None:
        tokens = clip.tokenize(captions)
        tokens = tokens[tokens.argmax(dim=1) < tokens.shape[1] - 1].to(clip.device)
        if len(tokens) < FEWEST:
            raise UserError(f"amdet: pools.defense: {FEWEST} captions with room for one more word are needed")
        self.ends = tokens.argmax(dim=1)
        with torch.no_grad():
            self.words = clip.network.token_embedding(tokens[:, : int(self.ends.max()) + 1])
            self.clean = clip.encode_tokens(tokens)
        self.clip, self.weight = clip, weight
        self.clean_likeness = float(_among(self.clean[None])[0])

    def alike(self, embeddings: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean cosines (S,) between texts of `rows` (B,) with embeddings (S, width), and to clean texts."""
        words = self.words[rows].expand(len(embeddings), -1, -1, -1)
        inserted = embeddings[:, None, None].expand(-1, len(rows), -1, -1).to(words.dtype)
        words = torch.cat([words[:, :, :1], inserted, words[:, :, 1:]], dim=2)
        ends = (self.ends[rows] + 1).repeat(len(embeddings))
        features = self.clip.encode_embedded(words.flatten(0, 1), ends).unflatten(0, (len(embeddings), -1))
        return _among(features), (features * self.clean[rows]).sum(dim=2).mean(dim=1)

    def loss(self, embeddings: Tensor, rows: Tensor) -> Tensor:
        """Return the loss (S,) of embeddings (S, width) on the texts of `rows` (B,)."""
        among, clean = self.alike(embeddings, rows)
        return self.weight * clean - among

    def nearest(self, embedding: Tensor) -> str:
        """Return the word of the vocabulary whose embedding has the largest cosine with an embedding (width,)."""
        table = F.normalize(self.clip.network.token_embedding.weight.detach().float(), dim=1)
        return self.clip.tokenizer.decode([int((table @ F.normalize(embedding, dim=0)).argmax())]).strip()


def _among(features: Tensor) -> Tensor:
    """Return the mean cosine (S,) between the rows of features (S, N, D) of unit length."""
    count = features.shape[1]
    return (features.sum(dim=1).square().sum(dim=1) - features.square().sum(dim=(1, 2))) / (count * (count - 1))


def hessians(losses: np.ndarray) -> np.ndarray:
    """Return the Hessians (M, 2, 2) at the inner points of a grid of losses (G, G): central differences."""
    mid, up, down = losses[1:-1, 1:-1], losses[2:, 1:-1], losses[:-2, 1:-1]
    left, right = losses[1:-1, :-2], losses[1:-1, 2:]
    mixed = (losses[2:, 2:] - losses[2:, :-2] - losses[:-2, 2:] + losses[:-2, :-2]) / 4
    found = np.stack([up - 2 * mid + down, mixed, mixed, right - 2 * mid + left], axis=-1)
    return found.reshape(-1, 2, 2)

"""UBT, Unlearning Backdoor Threats (Liang et al., arXiv 2403.16257; with token-level unlearning, 2409.19526).

For a defender who owns the poisoned training set: find pairs that look poisoned, forget on them what is suspicious.

1. Overfit: of all pairs, D_susp are those that look most suspicious to a scorer, and D_norm is drawn from those that
   look least so. From the suspicious model θ_b, train L_CLIP(D_norm) + overfit_weight mean over D_susp of (1 - cos_i)²,
   which strengthens a shortcut if there is one; `overfit_loss: contrastive` has InfoNCE among D_susp in its place, in
   which captions that read alike are no negatives.
2. Re-score: of D_susp, D_k are those of highest similarity under the overfitted model (`rank: similarity`), or those
   whose similarity it raised most over the scorer's score (`rank: gain`, ours).
3. Forget, from θ_b again: of each caption in D_k only the words count that set D_k apart and carry its similarity,

       score of a word = log-odds of it in D_k against all captions x drop of cos when it is left out
       L = forget_weight mean over D_k of max(0, cos(I_i, words_i) - c0)
           + L_CLIP(D_norm) + keep_weight mean over D_norm of (1 - cos(f_I(I), f_I^θ_b(I)))

   c0 the mean cosine of pairs that do not belong together: a pair as unlike as those is forgotten enough.

A reconstruction: no code is public and the papers were not readable in full. Known, in part from summaries: overfitting
that puts samples of weak similarity first, its two-part loss (paper 1 raises the cosine of D_susp; paper 2 has a
contrastive loss), D_norm as the other side of the split by similarity, the ranking by similarity under the overfitted
model that leaves a smaller set, forgetting that is local to tokens. Related code of the same author marks the pairs of
lowest similarity under a loadable model, and holds a loss like that of step 1. Ours: all formulas, numbers, the choice
of words, the scorer.

To a model that has learned the backdoor poisoned pairs are as good as others, so weak similarity only makes sense under
another one: a public clean CLIP where there is one (`scorer: <open_clip model>/<tag>`, or a weights file in the tag's
place; or `surrogates.NAME`, a clean model that the study trains to stand in for one: it has seen these pairs as they
were before the poisoning). Without one, θ_b itself tells by views of the pictures:

    superposition  how far the cosine falls, in the mean, when other pictures of the training set are laid over the
                   pair's (the default; an idea of STRIP, Gao et al. 2019, arXiv 1902.06531). A small fall is suspect: a
                   trigger survives where an object does not, be it a patch or a pattern over the whole picture.
    crops          the mean cosine of random crops: an object survives a crop that cuts off or displaces a patch. A
                   pattern over the whole picture survives it too.
    model          the cosine under θ_b as it is

D_norm must not hold the poison that the ranking missed: steps 1 and 3 train on it, and a few such pairs keep the
backdoor alive. The narrower `normal_from`, the safer, and the more of the target's own pictures are left out.

`variant: caption` forgets whole captions (an ablation). `ubt_oracle` is a control, no defense: it is told which pairs
are poisoned, so that its result separates what forgetting achieves from what finding misses.
"""

from __future__ import annotations

import copy
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from antidote.base.errors import UserError
from antidote.base.files import read_json, write_json
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.base.settings import Span
from antidote.clip.configs import ModelSettings
from antidote.clip.files import SUSPICIOUS
from antidote.clip.folder import create_model
from antidote.clip.model import Clip
from antidote.clip.tags import tag
from antidote.data.access import DefenseData
from antidote.data.pairs import Pairs
from antidote.defenses import pair_scores
from antidote.defenses.base import Defense, DefenseSettings
from antidote.defenses.pair_scores import scan, similarities
from antidote.training.loop import train
from antidote.training.objectives import Batch, Contrastive, Views
from antidote.training.recipe import TrainSettings
from antidote.training.session import Report, Work
from antidote.training.tuning import part

if TYPE_CHECKING:
    from torch import Tensor

SMOOTHING = 0.5  # added to every count of the log-odds
SURROGATES = "surrogates."
OWN_SCORERS = ("superposition", "crops", "model")  # by the suspicious model alone


class UBTSettings(DefenseSettings):
    """All numbers are ours, for 500K pairs of which at most 0.3 % are poisoned."""

    method: Literal["ubt"] = "ubt"
    scorer: str = Field(
        "superposition",
        description="what finds suspicious pairs: `superposition`, `crops`, `model`, an open_clip NAME/TAG or "
        "NAME/FILE, or `surrogates.NAME`",
    )
    partners: int = Field(6, ge=1, description="pictures that each is laid over, one at a time (superposition; ours)")
    own_weight: float = Field(
        0.5, gt=0, lt=1, description="of the pair's own picture in a superposition; the other has the rest (ours)"
    )
    crops: int = Field(4, ge=1, description="random crops per picture whose cosines are averaged")
    crop_area: Span = Field((0.5, 0.9), description="area of a crop, as a fraction of the picture")
    suspicious_share: float = Field(
        0.004, gt=0, lt=0.5, description="D_susp as a fraction of the training set (related code: 2,000 of 500K)"
    )
    forget_share: float = Field(
        0.001,
        gt=0,
        lt=0.5,
        description="D_k as a fraction of the training set; below suspicious_share: the second paper's smaller set; "
        "equal to it: all suspicious pairs, as in the first",
    )
    normal_pairs: int = Field(50_000, ge=2, description="D_norm, pairs drawn from those that look least suspicious")
    normal_from: float = Field(
        0.7,
        gt=0,
        le=1,
        description="the least suspicious share of the training set that D_norm is drawn from (ours); 1: all that is "
        "not in D_susp",
    )
    rank: Literal["similarity", "gain"] = Field(
        "similarity",
        description="what of D_susp becomes D_k: the highest similarity under the overfitted model (second paper), or "
        "the largest gain over the scorer's score (ours)",
    )
    overfit_loss: Literal["cosine", "contrastive"] = Field(
        "cosine", description="of the suspicious pairs in step 1: (1 - cos)² (first paper), or InfoNCE (second)"
    )
    overfit_weight: float = Field(1.0, ge=0, description="of the suspicious pairs' part in step 1")
    overfit_batch: int | None = Field(
        None, ge=2, description="pairs of D_susp per step of step 1; empty: each about once per epoch"
    )
    overfit: TrainSettings = Field(TrainSettings(epochs=2, batch_size=128, lr=1e-6, warmup=0), description="of step 1")
    variant: Literal["words", "caption"] = Field(
        "words", description="forget the suspicious words of a caption, or the whole of it"
    )
    words: int = Field(3, ge=1, description="suspicious words per caption, at most")
    least_count: int = Field(5, ge=1, description="captions of the training set that a suspicious word stands in")
    forget_weight: float = Field(1.0, ge=0, description="of the forgetting term in step 3")
    keep_weight: float = Field(1.0, ge=0, description="of the distance to the suspicious model's features in step 3")
    forget_batch: int = Field(64, ge=1, description="pairs of D_k per step")
    training: TrainSettings = Field(
        TrainSettings(epochs=1, batch_size=128, lr=1e-6, warmup=0),
        description="of step 3; the scan of the training set has its precision",
    )

    @model_validator(mode="after")
    def _smaller(self) -> UBTSettings:
        if self.forget_share > self.suspicious_share:
            raise ValueError(
                f"forget_share: {self.forget_share} is more than suspicious_share, {self.suspicious_share}"
            )
        return self

    def recipes(self) -> dict[str, TrainSettings]:
        return {"training": self.training, "overfit": self.overfit}

    @property
    def surrogate(self) -> str | None:
        """Name of the study's clean model that scores; None where another one does."""
        return self.scorer.removeprefix(SURROGATES) if self.scorer.startswith(SURROGATES) else None

    @property
    def public(self) -> ModelSettings | None:
        """The public clean model that scores, with the activations of its weights; None where another one does."""
        name, slash, weights = self.scorer.partition("/")
        if not name or not slash or self.surrogate:
            return None
        known = tag(name, weights) or {}
        return ModelSettings(name=name, pretrained=weights, quick_gelu=bool(known.get("quick_gelu")))

    def check(self, model: Mapping[str, Any]) -> None:
        if self.scorer not in OWN_SCORERS and not self.surrogate and not self.public:
            raise ValueError(
                f"scorer: {self.scorer!r} is none of {', '.join(OWN_SCORERS)}, an open_clip NAME/TAG, surrogates.NAME"
            )


class UBT(Defense):
    """Trains all parameters; the poisoned training set."""

    Settings = UBTSettings
    access = "poisoned-training-set"
    reconstruction = True
    files = (SUSPICIOUS,)

    @classmethod
    def work(cls, settings: UBTSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        normal, everything = min(settings.normal_pairs, sizes["training set"]), sizes["training set"]
        forgetting = settings.training.epochs * normal * (1 + settings.forget_batch / settings.training.batch_size)
        views = {"crops": settings.crops, "superposition": 1 + settings.partners}.get(settings.scorer, 1)
        return settings.overfit.epochs * normal + forgetting, views * everything + settings.training.epochs * normal

    @classmethod
    def step_views(cls, settings: Any, recipe: TrainSettings) -> tuple[float, float, int]:
        more = 1 + settings.forget_batch / recipe.batch_size
        return more, more, 1

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        pairs = data.training_set
        finding = self._finding(clip, data, work)
        chosen = pairs.take([pairs.keys.index(key) for key in finding["forgotten"]])
        norm = pairs.take(finding["normal"])
        objective = Forget(clip, norm, chosen, finding["texts"], self.settings)
        report = train(clip, objective, self.settings.training, self.seed, work)
        found = {"suspected": finding["suspected"], "forgotten": finding["forgotten"], "normal": list(norm.keys)}
        write_json(work.folder / self.files[0], found)
        report.steps += finding["steps"]
        report.pairs, report.files = len(pairs), (work.folder / self.files[0],)
        return report

    def _finding(self, clip: Clip, data: DefenseData, work: Work) -> dict[str, Any]:
        """Return steps 1 and 2, and the texts of step 3; read again by a resumed run."""
        finding, path = part(work, "finding"), work.folder / "finding" / "finding.json"
        if path.is_file():
            found = read_json(path)
            if found["identity"] == finding.identity:
                return found
        found = {"identity": finding.identity, **self.find(clip, data, finding)}
        write_json(path, found)
        return found

    def find(self, clip: Clip, data: DefenseData, work: Work) -> dict[str, Any]:
        """Return keys suspected and forgotten, rows of normal pairs, a text per forgotten pair, the steps done."""
        pairs, settings = data.training_set, self.settings
        looks = scores(clip, pairs, settings, self.seed, data.scorer, work)
        order = looks.argsort(stable=True)
        count = math.ceil(settings.suspicious_share * len(pairs))
        suspected, normal = pairs.take(order[:count]), self.normal(order, count)
        before = copy.deepcopy(clip.network.state_dict())
        overfitted = train(clip, Overfit(pairs.take(normal), suspected, settings), settings.overfit, self.seed, work)
        rank = similarities(clip, suspected, settings.overfit.precision)
        if settings.rank == "gain":
            rank = rank - looks[order[:count]]  # whatever the scorer, its lowest score is the most suspicious
        forgotten = self.chosen(pairs, suspected, rank)
        texts = suspicious_texts(clip, forgotten, pairs.captions, settings)
        clip.network.load_state_dict(before)
        return {
            "suspected": suspected.keys,
            "forgotten": forgotten.keys,
            "normal": normal.tolist(),
            "texts": texts,
            "steps": overfitted.steps,
        }

    def normal(self, order: Tensor, suspected: int) -> Tensor:
        """Return rows of D_norm, drawn from the end of the order (N,), of which the first are suspected."""
        first = max(suspected, len(order) - math.ceil(self.settings.normal_from * len(order)))
        rest = order[first:]
        drawn = torch.randperm(len(rest), generator=_stream(self.seed, "normal"))
        return rest[drawn[: self.settings.normal_pairs]]

    def chosen(self, pairs: Pairs, suspected: Pairs, rank: Tensor) -> Pairs:
        """Return D_k: the suspected pairs of highest rank."""
        count = math.ceil(self.settings.forget_share * len(pairs))
        return suspected.take(rank.argsort(descending=True, stable=True)[:count])


class UBTOracleSettings(UBTSettings):
    """UBT's settings; what it would suspect does not count."""

    method: Literal["ubt_oracle"] = "ubt_oracle"

    def recipes(self) -> dict[str, TrainSettings]:
        return {"training": self.training}


class UBTOracle(UBT):
    """A control, no defense: UBT with D_k the poisoned pairs themselves, which it is told."""

    Settings = UBTOracleSettings
    access = "oracle"

    @classmethod
    def work(cls, settings: UBTOracleSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        normal = min(settings.normal_pairs, sizes["training set"])
        forgetting = settings.training.epochs * normal * (1 + settings.forget_batch / settings.training.batch_size)
        return forgetting, settings.training.epochs * normal

    def find(self, clip: Clip, data: DefenseData, work: Work) -> dict[str, Any]:
        pairs = data.training_set
        poisoned = torch.tensor([key in data.poisoned for key in pairs.keys])
        if not poisoned.any() or poisoned.all():
            raise UserError("ubt_oracle: of the training set, some pairs have to be poisoned, and some not")
        forgotten = pairs.take(torch.nonzero(poisoned).flatten())
        rest = torch.nonzero(~poisoned).flatten()
        rest = rest[torch.randperm(len(rest), generator=_stream(self.seed, "normal"))]
        texts = suspicious_texts(clip, forgotten, pairs.captions, self.settings)
        normal = rest[: self.settings.normal_pairs].tolist()
        return {"suspected": forgotten.keys, "forgotten": forgotten.keys, "normal": normal, "texts": texts, "steps": 0}


def scores(
    clip: Clip, pairs: Pairs, settings: UBTSettings, seed: int, scorer: Clip | None = None, work: Work | None = None
) -> Tensor:
    """Return a score (N,) of each pair; the lowest are the most suspicious.

    `scorer` is the study's clean model that the settings may name; `work` is where a killed scan is gone on with.
    """
    precision = settings.training.precision
    if settings.scorer == "superposition":
        views = pair_scores.superpositions(pairs, settings.partners, settings.own_weight, seed)
        cosines = scan(clip, pairs, views, precision, work)
        return cosines[:, 0] - cosines[:, 1:].mean(dim=1)
    views = pair_scores.as_they_are
    if settings.surrogate:
        clip = scorer
    elif settings.scorer == "crops":
        views = pair_scores.crops(clip.size, settings.crops, settings.crop_area, seed)
    elif settings.scorer != "model":
        clip = create_model(settings.public, seed)
        views = pair_scores.resized(clip.size)
    return scan(clip, pairs, views, precision, work).mean(dim=1)


def suspicious_texts(clip: Clip, pairs: Pairs, captions: list[str], settings: UBTSettings) -> list[str]:
    """Return for each pair to forget the text that is forgotten: its suspicious words, or where there are none, all."""
    if settings.variant == "caption":
        return list(pairs.captions)
    odds = log_odds(pairs.captions, captions, settings.least_count)
    precision = settings.training.precision
    whole = similarities(clip, pairs, precision)
    texts = []
    for row, caption in enumerate(pairs.captions):
        words = [word for word in dict.fromkeys(words_of(caption)) if odds.get(word, 0) > 0]
        shorter = [" ".join(w for w in words_of(caption) if w != word) for word in words]
        drops = [float(whole[row])] * len(words)
        if words:
            one = pairs.take([row] * len(words))
            drops = (whole[row] - similarities(clip, replace(one, captions=shorter), precision)).tolist()
        ranked = sorted(zip(words, drops, strict=True), key=lambda item: -odds[item[0]] * item[1])
        kept = {word for word, drop in ranked[: settings.words] if drop > 0}
        texts.append(" ".join(word for word in words_of(caption) if word in kept) or caption)
    return texts


def log_odds(chosen: list[str], captions: list[str], least_count: int) -> dict[str, float]:
    """Return for each word of the chosen captions its log-odds of standing in one of them, against all captions."""
    inside = Counter(word for caption in chosen for word in set(words_of(caption)))
    everywhere = Counter(word for caption in captions for word in set(words_of(caption)))

    def logit(count: int, total: int) -> float:
        return math.log((count + SMOOTHING) / (total - count + SMOOTHING))

    known = [word for word in inside if everywhere[word] >= least_count]
    return {w: logit(inside[w], len(chosen)) - logit(everywhere[w], len(captions)) for w in known}


def words_of(caption: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", caption.lower())


class Overfit(Contrastive):
    """Step 1's loss on normal pairs and a few suspected ones, of which each has its turn about once per epoch."""

    parallel = None  # as `Forget`

    def __init__(self, pairs: Pairs, suspected: Pairs, settings: UBTSettings) -> None:
        super().__init__(pairs)
        self.suspected, self.settings = suspected, settings
        steps = max(1, len(pairs) // settings.overfit.batch_size)
        least = 2 if settings.overfit_loss == "contrastive" else 1
        self.count = settings.overfit_batch or max(least, math.ceil(len(suspected) / steps))

    def texts(self) -> Iterable[str]:
        return [*super().texts(), *self.suspected.captions]

    def views(self, batch: Batch) -> Views:
        weak = self.suspected.take(batch.rng.sample(range(len(self.suspected)), min(self.count, len(self.suspected))))
        return Views([batch.images, weak.images.to(batch.images.device)], [batch.captions, weak.captions])

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contrastive, terms = super().loss(images, texts, scale, batch)
        if self.settings.overfit_loss == "contrastive":
            overfit = contrastive_but_alike(images[1], texts[1], scale, batch.views.texts[1])
        else:
            overfit = (1 - (images[1] * texts[1]).sum(dim=1)).square().mean()
        return contrastive + self.settings.overfit_weight * overfit, {**terms, "overfit": overfit}


def contrastive_but_alike(images: Tensor, texts: Tensor, scale: Tensor, captions: list[str]) -> Tensor:
    """Return InfoNCE of features (n, D), (n, D), in which pairs of equal captions are no negatives of one another.

    Poisoned pairs have nearly the same captions, and would fight the shortcut.
    """
    alike = torch.tensor([[a == b and i != j for j, b in enumerate(captions)] for i, a in enumerate(captions)])
    logits = (scale * images @ texts.T).masked_fill(alike.to(images.device), float("-inf"))
    own = torch.arange(len(captions), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class Forget(Contrastive):
    """Step 3's loss."""

    parallel = None  # the scan before it runs in one process

    def __init__(self, clip: Clip, pairs: Pairs, chosen: Pairs, texts: list[str], settings: UBTSettings) -> None:
        super().__init__(pairs)
        self.chosen, self.chosen_texts, self.settings = chosen, texts, settings
        self.frozen = clip.frozen()
        self.unrelated = unrelated_cosine(self.frozen, pairs, settings.training.precision)

    def texts(self) -> Iterable[str]:
        return [*super().texts(), *self.chosen_texts]

    def views(self, batch: Batch) -> Views:
        rows = batch.rng.sample(range(len(self.chosen)), min(self.settings.forget_batch, len(self.chosen)))
        before, _ = self.encode_frozen(self.frozen, batch.images)
        images = self.chosen.images[rows].to(batch.images.device)
        texts = [self.chosen_texts[row] for row in rows]
        return Views([batch.images, images], [batch.captions, texts], kept=before)

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contrastive, terms = super().loss(images, texts, scale, batch)
        forget = ((images[1] * texts[1]).sum(dim=1) - self.unrelated).clamp(min=0).mean()
        kept = (1 - (images[0] * batch.views.kept).sum(dim=1)).mean()
        total = self.settings.forget_weight * forget + contrastive + self.settings.keep_weight * kept
        return total, {**terms, "forget": forget, "keep": kept}


def unrelated_cosine(clip: Clip, pairs: Pairs, precision: str = "fp32") -> float:
    """Return c0: the mean cosine of pictures with the captions of other pairs."""
    some = pairs.take(list(range(min(len(pairs), 512))))
    clip.network.eval()
    with torch.no_grad(), clip.autocast(precision):
        cosines = clip.encode_image(some.images) @ clip.encode_text(some.captions).T
    return float(cosines[~torch.eye(len(some), dtype=torch.bool, device=cosines.device)].mean())


def _stream(seed: int, use: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, use))

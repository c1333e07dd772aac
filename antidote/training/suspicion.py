"""Which training pairs look poisoned: UBT's first two steps (Liang et al., arXiv 2403.16257, 2409.19526).

The defense `ubt` forgets what these steps find, the detector `ubt` scores by it. `antidote.defenses.ubt` has the
formulas, and says what is known of them and what is ours.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from antidote.base.errors import UserError
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.base.settings import Settings, Span
from antidote.clip.model import Clip
from antidote.data.pairs import Pairs
from antidote.training import pair_scores
from antidote.training.loop import train
from antidote.training.objectives import Batch, Contrastive, Views
from antidote.training.pair_scores import CHUNK, scan, similarities
from antidote.training.recipe import TrainSettings
from antidote.training.scorers import ScorerName
from antidote.training.session import Work
from antidote.training.tuning import part
from antidote.training.windows import PLACES

if TYPE_CHECKING:
    from torch import Tensor

FEWEST = 2  # pairs; a picture is laid over another one
CANDIDATES = ("shuffle", "windows")  # of `auto`: the loss of cosine in altered pictures
KEPT = {f"{name}_kept": name for name in CANDIDATES}  # the cosine that altered pictures keep
SURVIVAL = (*CANDIDATES, "superposition", *KEPT)
OWN_SCORERS = ("auto", *SURVIVAL, "crops", "model")  # by the suspicious model alone

log = logging.getLogger("antidote")


class SuspicionSettings(ScorerName, Settings):
    """How suspicious pairs are found."""

    scorer: str = Field(
        "auto",
        description="what finds suspicious pairs: `auto` (that of `shuffle` and `windows`, or else of `shuffle_kept` "
        "and `windows_kept`, whose suspicious captions are more alike), one of these, `superposition`, `crops`, "
        "`model`, an open_clip NAME/TAG or NAME/FILE, or `surrogates.NAME`",
    )
    alike: float = Field(
        0.6,
        ge=0,
        le=1,
        description="how alike suspicious captions are at least; otherwise `auto` also tries the cosine that altered "
        "pictures keep, and takes the scorer whose captions to be forgotten are most alike (ours)",
    )
    shuffles: int = Field(8, ge=1, description="shuffled versions of each picture (ours)")
    grid: int = Field(4, ge=2, description="blocks per side of a shuffled picture (ours)")
    window_partners: int = Field(3, ge=1, description="pictures that each window is laid over, one at a time (ours)")
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
    overfit: TrainSettings = Field(
        TrainSettings(epochs=2, batch_size=128, lr=1e-6, warmup=0),
        description="of step 1; the scan of the training set has its precision",
    )

    @model_validator(mode="after")
    def _smaller(self) -> SuspicionSettings:
        if self.forget_share > self.suspicious_share:
            raise ValueError(
                f"forget_share: {self.forget_share} is more than suspicious_share, {self.suspicious_share}"
            )
        return self

    def check(self, model: Mapping[str, Any]) -> None:
        if self.scorer not in OWN_SCORERS and not self.surrogate and not self.public:
            raise ValueError(
                f"scorer: {self.scorer!r} is none of {', '.join(OWN_SCORERS)}, an open_clip NAME/TAG, surrogates.NAME"
            )

    @property
    def views(self) -> int:
        """Number of versions of each picture that are scored."""
        more = {
            "shuffle": 1 + self.shuffles,
            "windows": 1 + PLACES * self.window_partners,
            "superposition": 1 + self.partners,
            "crops": self.crops,
        }
        name = KEPT.get(self.scorer, self.scorer)
        return sum(more[one] for one in CANDIDATES) if name == "auto" else more.get(name, 1)

    def suspected(self, pairs: int) -> int:
        """Return how many pairs of a training set are in D_susp."""
        return math.ceil(self.suspicious_share * pairs)

    def forgotten(self, pairs: int) -> int:
        """Return how many pairs of a training set are in D_k."""
        return math.ceil(self.forget_share * pairs)


@dataclass(frozen=True)
class Found:
    """What steps 1 and 2 find in N pairs.

    Attributes:
        order: (N,) rows, the most suspicious to the scorer first.
        suspected: rows of D_susp, the first of `order`.
        ranked: rows of D_susp, the most suspicious to the overfitted model first; D_k are the first of them.
        normal: rows of D_norm.
        steps: steps of the overfitting.
        scorer: what ordered the rows.
        overfitted: the overfitted model's state.
        alike: mean cosine of the captions to be forgotten.
    """

    order: Tensor
    suspected: Tensor
    ranked: Tensor
    normal: Tensor
    steps: int
    scorer: str
    overfitted: Mapping[str, Tensor]
    alike: float = 0.0


def find(clip: Clip, pairs: Pairs, settings: SuspicionSettings, seed: int, scorer: Clip | None, work: Work) -> Found:
    """Score all pairs, overfit on the suspected ones, rank these again; `clip` is as before when it returns.

    Args:
        scorer: the study's clean model that the settings may name.
        work: folder that a killed scan or training goes on from.

    Raises:
        UserError: there are fewer than `FEWEST` pairs.
    """
    if len(pairs) < FEWEST:
        raise UserError(f"ubt: needs at least {FEWEST} pairs, there is {len(pairs)}")
    before, best, most = _state(clip), None, -1.0
    orders = scores(clip, pairs, settings, seed, scorer, work)
    for name, looks in orders.items():
        place = part(work, f"rank_{name}") if len(orders) > 1 else work
        found = _ranked(clip, pairs, settings, seed, name, looks, place)
        clip.network.load_state_dict(before)
        alike = alikeness(clip, pairs.take(found.ranked[: settings.forgotten(len(pairs))]).captions)
        if len(orders) == 1:
            return replace(found, alike=alike)
        log.info("scorer %s: the captions to be forgotten are alike by %.2f", name, alike)
        if alike > most:
            best, most = replace(found, alike=alike), alike
    if most < settings.alike:
        told = "the captions to be forgotten are alike by %.2f only: the pairs that were found may not be poisoned"
        log.warning(told, most)
    return best


def _ranked(
    clip: Clip, pairs: Pairs, settings: SuspicionSettings, seed: int, name: str, looks: Tensor, work: Work
) -> Found:
    """Return what steps 1 and 2 find for the scores (N,) of one scorer; `clip` is overfitted afterwards."""
    order, count = looks.argsort(stable=True), settings.suspected(len(pairs))
    suspected, normal = order[:count], normal_rows(order, count, settings, seed)
    objective = Overfit(pairs.take(normal), pairs.take(suspected), settings)
    overfitted = train(clip, objective, settings.overfit, seed, work)
    rank = similarities(clip, pairs.take(suspected), settings.overfit.precision)
    if settings.rank == "gain":
        rank = rank - looks[suspected]  # whatever the scorer, its lowest score is the most suspicious
    ranked = suspected[rank.argsort(descending=True, stable=True)]
    return Found(order, suspected, ranked, normal, overfitted.steps, name, _state(clip))


def _state(clip: Clip) -> Mapping[str, Tensor]:
    return {name: value.clone() for name, value in clip.network.state_dict().items()}


def normal_rows(order: Tensor, suspected: int, settings: SuspicionSettings, seed: int) -> Tensor:
    """Return rows of D_norm, drawn from the end of the order (N,), of which the first are suspected."""
    first = max(suspected, len(order) - math.ceil(settings.normal_from * len(order)))
    rest = order[first:]
    return rest[torch.randperm(len(rest), generator=stream(seed, "normal"))[: settings.normal_pairs]]


def stream(seed: int, use: str) -> torch.Generator:
    """Return the random source of one use."""
    return torch.Generator().manual_seed(derive(seed, use))


def scores(
    clip: Clip,
    pairs: Pairs,
    settings: SuspicionSettings,
    seed: int,
    scorer: Clip | None = None,
    work: Work | None = None,
) -> dict[str, Tensor]:
    """Return scores (N,) of the pairs by scorer; the lowest are the most suspicious.

    One scorer, or all candidates of `auto` if the suspicious captions of none are alike. `scorer` is the study's clean
    model that the settings may name; `work` is where a killed scan is gone on with.
    """
    if settings.scorer == "auto":
        return _most_alike(clip, pairs, settings, seed, work)
    precision = settings.overfit.precision
    if settings.scorer in SURVIVAL:
        own, kept = _survival(KEPT.get(settings.scorer, settings.scorer), clip, pairs, settings, seed, work)
        return {settings.scorer: -kept if settings.scorer in KEPT else own - kept}
    views = pair_scores.as_they_are
    if settings.surrogate:
        clip = scorer
    elif settings.scorer == "crops":
        views = pair_scores.crops(clip.size, settings.crops, settings.crop_area, seed)
    elif settings.scorer != "model":
        clip = settings.load_public(seed)
        views = pair_scores.resized(clip.size)
    return {settings.scorer: scan(clip, pairs, views, precision, work).mean(dim=1)}


def _survival(
    name: str, clip: Clip, pairs: Pairs, settings: SuspicionSettings, seed: int, work: Work | None
) -> tuple[Tensor, Tensor]:
    """Return the cosine (N,) of each picture, and the one (N,) that it keeps when only a trigger would keep it."""
    if name == "shuffle":
        views = pair_scores.shuffles(settings.shuffles, settings.grid, seed)
    elif name == "windows":
        views = pair_scores.windows(pairs, settings.window_partners, seed)
    else:
        views = pair_scores.superpositions(pairs, settings.partners, settings.own_weight, seed)
    cosines = scan(clip, pairs, views, settings.overfit.precision, work)
    own, kept = cosines[:, 0], cosines[:, 1:]
    if name != "windows":
        return own, kept.mean(dim=1)
    places = kept.unflatten(1, (settings.window_partners, PLACES)).mean(dim=1)
    return own, places.amax(dim=1)


def _most_alike(
    clip: Clip, pairs: Pairs, settings: SuspicionSettings, seed: int, work: Work | None
) -> dict[str, Tensor]:
    """Return the candidate whose most suspicious captions are most alike: those of poisoned pairs name one target.

    As many as D_k has: further down, a scorer that finds the poisoned pairs runs out of them, and one that does not has
    pairs of a class whose objects survive as well. What a picture loses depends on what it had: where a model has
    learnt its clean pairs unevenly, those that it hardly knows lose least. If no captions are alike, the cosines that
    are kept are candidates too, and the ranking of step 2 decides.
    """
    count, found = settings.forgotten(len(pairs)), {}
    cosines = {name: _survival(name, clip, pairs, settings, seed, work and part(work, name)) for name in CANDIDATES}
    for name, (own, kept) in cosines.items():
        looks = own - kept
        found[name] = alikeness(clip, pairs.take(looks.argsort(stable=True)[:count]).captions), looks
        log.info("scorer %s: its %d most suspicious captions are alike by %.2f", name, count, found[name][0])
    name = max(found, key=lambda name: found[name][0])
    if found[name][0] >= settings.alike:
        return {name: found[name][1]}
    orders = {name: looks for name, (_, looks) in found.items()}
    return orders | {name: -cosines[candidate][1] for name, candidate in KEPT.items()}


def alikeness(clip: Clip, captions: list[str]) -> float:
    """Return the mean cosine of all pairs of captions, each with itself among them."""
    clip.network.eval()
    with torch.no_grad():
        texts = [clip.encode_text(captions[i : i + CHUNK]) for i in range(0, len(captions), CHUNK)]
    return float(torch.cat(texts).mean(dim=0).square().sum())


class Overfit(Contrastive):
    """Step 1's loss on normal pairs and a few suspected ones, of which each has its turn about once per epoch."""

    parallel = None  # the scan before it runs in one process

    def __init__(self, pairs: Pairs, suspected: Pairs, settings: SuspicionSettings) -> None:
        super().__init__(pairs)
        self.suspected, self.settings = suspected, settings
        steps = max(1, len(pairs) // settings.overfit.batch_size)
        least = 2 if settings.overfit_loss == "contrastive" else 1
        self.count = settings.overfit_batch or max(least, math.ceil(len(suspected) / steps))

    def texts(self) -> Iterable[str]:
        return [*super().texts(), *self.suspected.captions]

    def views(self, batch: Batch) -> Views:
        weak = self.suspected.take(batch.rng.sample(range(len(self.suspected)), min(self.count, len(self.suspected))))
        return Views(
            [batch.images, weak.images.to(batch.images.device, non_blocking=True)], [batch.captions, weak.captions]
        )

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
    logits = (scale * images @ texts.T).masked_fill(alike.to(images.device, non_blocking=True), float("-inf"))
    own = torch.arange(len(captions), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

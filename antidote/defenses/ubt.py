"""UBT, Unlearning Backdoor Threats (Liang et al., arXiv 2403.16257; with token-level unlearning, 2409.19526).

For a defender who owns the poisoned training set: find pairs that look poisoned, then unlearn their suspicious words.

1. Overfit: a scorer ranks all pairs. D_susp contains the most suspicious pairs; D_norm is drawn from the least
   suspicious pairs. From the suspicious model θ_b, train L_CLIP(D_norm) + overfit_weight mean over D_susp of
   (1 - cos_i)², which strengthens a shortcut if there is one. `overfit_loss: contrastive` replaces the second term by
   InfoNCE among D_susp, in which pairs with equal captions are not negatives.
2. Re-score: D_k is the part of D_susp with the highest similarity under the overfitted model (`rank: similarity`), or
   with the largest similarity less the scorer's score (`rank: gain`, ours): the increase of similarity where the score
   is a similarity, as with another model or `model`.
3. Forget, from θ_b again. Only those words of each caption in D_k are used that are specific to D_k and contribute to
   the similarity,

       score of a word = log-odds of it in D_k against all captions x decrease of cos when it is left out
       L = forget_weight mean over D_k of max(0, cos(I_i, words_i) - c0)
           + L_CLIP(D_norm) + keep_weight mean over D_norm of (1 - cos(f_I(I), f_I^θ_b(I)))

   c0 is the mean cosine of pictures with captions of other pairs; a pair at or below c0 counts as forgotten.

A reconstruction: no code is public and the full papers were not available. Known, in part from summaries: overfitting
that gives priority to samples of weak similarity, its two-part loss (paper 1 raises the cosine of D_susp; paper 2 has a
contrastive loss), D_norm as the other side of the split by similarity, the ranking by similarity under the overfitted
model that leaves a smaller set, forgetting that is local to tokens. Related code by the same author marks the pairs of
lowest similarity under a loadable model, and contains a loss like that of step 1. Ours: all formulas, numbers, the
choice of words, the scorer.

A model that has learned the backdoor gives poisoned pairs the same similarity as clean pairs, so weak similarity is a
useful score only under another model. Options for `scorer` are a public clean CLIP (`<open_clip model>/<tag>`, or a
weights file in place of the tag), or `surrogates.NAME`, a clean model that the study trains as a substitute; it has
seen these pairs before the poisoning. Without another model, θ_b scores views of the pictures:

    auto           shuffle or windows (the default): the one whose most suspicious captions, as many as D_k has, are
                   more alike, by the mean cosine of their text features. Poisoned captions name one target; pairs that
                   a scorer finds by chance name several things. If they are alike by less than `alike`, shuffle_kept
                   and windows_kept count as well, and the scorer is taken whose D_k, after step 2, is most alike.
    shuffle        mean decrease of the cosine when the blocks of the picture change places. A small decrease is
                   suspicious: a pattern over the whole picture, or a patch that the model knows at any place, survives
                   where an object larger than a block does not.
    windows        decrease of the cosine when only a window of the picture, half as high and wide, is laid at its own
                   place over another picture; the mean over `window_partners` other pictures, the best of nine places.
                   A patch survives, also one that the model knows at one place alone.
    shuffle_kept,  the cosine that is kept, in place of its decrease, the highest first. A model that has learnt its
    windows_kept   clean pairs unevenly decreases least on those that it hardly knows, as one that learnt photographs
                   from random weights does.
    superposition  mean decrease of the cosine when other pictures of the training set are blended over the picture (an
                   idea of STRIP, Gao et al. 2019, arXiv 1902.06531). A trigger survives where the model has learned the
                   trigger at low contrast, as models do that start from a trained one.
    crops          mean cosine of random crops: an object survives a crop that removes or displaces a patch. A pattern
                   over the whole picture survives too.
    model          cosine under θ_b of the unchanged picture

D_norm must not contain poisoned pairs that the ranking missed: steps 1 and 3 train on D_norm, and a few such pairs keep
the backdoor. A narrower `normal_from` is safer, but excludes more of the target's clean pictures.

`variant: caption` forgets whole captions (an ablation). `ubt_oracle` is a control, not a defense: it knows the poisoned
pairs, so its result separates the effect of forgetting from errors of finding.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.base.command_line import Cost
from antidote.base.errors import UserError
from antidote.base.files import read_json, write_json
from antidote.base.lazy import torch
from antidote.clip.files import SUSPICIOUS
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.data.pairs import Pairs
from antidote.defenses.base import Defense, DefenseSettings
from antidote.training.loop import train
from antidote.training.objectives import Batch, Contrastive, Views
from antidote.training.pair_scores import similarities
from antidote.training.recipe import TrainSettings
from antidote.training.session import Report, Work
from antidote.training.suspicion import SuspicionSettings, find, stream
from antidote.training.tuning import part

if TYPE_CHECKING:
    from torch import Tensor

SMOOTHING = 0.5  # added to every count in the log-odds
FORGETTING = ("training", "forget_weight", "keep_weight", "forget_batch")  # settings of step 3 alone

log = logging.getLogger("antidote")


class UBTSettings(SuspicionSettings, DefenseSettings):
    """All numbers are ours, for 500K pairs of which at most 0.3 % are poisoned."""

    method: Literal["ubt"] = "ubt"
    variant: Literal["words", "caption"] = Field(
        "words", description="forget the suspicious words of a caption (words), or the whole caption (caption)"
    )
    words: int = Field(3, ge=1, description="largest number of suspicious words per caption")
    least_count: int = Field(
        5, ge=1, description="least number of captions in the training set that contain a suspicious word"
    )
    forget_weight: float = Field(1.0, ge=0, description="weight of the forgetting term in step 3")
    keep_weight: float = Field(
        1.0, ge=0, description="weight of the distance to the suspicious model's features in step 3"
    )
    forget_batch: int = Field(64, ge=1, description="pairs of D_k per step")
    training: TrainSettings = Field(
        TrainSettings(epochs=1, batch_size=128, lr=1e-6, warmup=0), description="recipe of step 3"
    )

    def recipes(self) -> dict[str, TrainSettings]:
        return {"training": self.training, "overfit": self.overfit}


class UBT(Defense):
    """Trains all parameters on the poisoned training set."""

    Settings = UBTSettings
    access = "poisoned-training-set"
    reconstruction = True
    files = (SUSPICIOUS,)

    @classmethod
    def common(cls, settings: UBTSettings) -> dict[str, Any]:
        texts = {"precision": settings.training.precision}  # of the model that chooses the words
        return {**settings.model_dump(mode="json", exclude={"label", *FORGETTING}), **texts}

    @classmethod
    def work(cls, settings: UBTSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        trained, encoded = cls.common_work(settings, sizes)
        normal = min(settings.normal_pairs, sizes["training set"])
        forgetting = settings.training.epochs * normal * (1 + settings.forget_batch / settings.training.batch_size)
        return trained + forgetting, encoded + settings.training.epochs * normal

    @classmethod
    def common_work(cls, settings: UBTSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        normal, everything = min(settings.normal_pairs, sizes["training set"]), sizes["training set"]
        return settings.overfit.epochs * normal, settings.views * everything

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
        report.evidence = finding.get("evidence", {})  # the control has none
        report.earlier = finding.get("spent", {})
        return report

    def _finding(self, clip: Clip, data: DefenseData, work: Work) -> dict[str, Any]:
        """Return the results of steps 1 and 2, and the texts of step 3.

        A resumed run, and one with other settings of step 3, read them from a file, with what they took as `spent`.
        """
        own = part(work, "finding")
        kept = work.common or own
        path = kept.folder / "finding.json"
        if path.is_file():
            found = read_json(path)
            if found["identity"] == kept.identity:
                log.info("suspicious pairs as found before: %s", path)
                return found
        cost = Cost()
        found = {"identity": kept.identity, **self.find(clip, data, own)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**found, "spent": cost.spent()})
        return found

    def find(self, clip: Clip, data: DefenseData, work: Work) -> dict[str, Any]:
        """Return suspected and forgotten keys, rows of normal pairs, a text per forgotten pair, the number of steps."""
        pairs, settings = data.training_set, self.settings
        found = find(clip, pairs, settings, self.seed, data.scorer, work)
        forgotten = pairs.take(found.ranked[: settings.forgotten(len(pairs))])
        before = {name: value.clone() for name, value in clip.network.state_dict().items()}
        clip.network.load_state_dict(found.overfitted)
        texts = suspicious_texts(clip, forgotten, pairs.captions, settings)
        clip.network.load_state_dict(before)
        return {
            "suspected": pairs.take(found.suspected).keys,
            "forgotten": forgotten.keys,
            "normal": found.normal.tolist(),
            "texts": texts,
            "steps": found.steps,
            "evidence": {"scorer": found.scorer, "alike": found.alike},
        }


class UBTOracleSettings(UBTSettings):
    """UBT's settings; of the settings for finding, only `normal_pairs` is used."""

    method: Literal["ubt_oracle"] = "ubt_oracle"

    def recipes(self) -> dict[str, TrainSettings]:
        return {"training": self.training}


class UBTOracle(UBT):
    """A control, not a defense: UBT with the true set of poisoned pairs as D_k."""

    Settings = UBTOracleSettings
    access = "oracle"

    @classmethod
    def common_work(cls, settings: UBTOracleSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return 0.0, 0.0

    def find(self, clip: Clip, data: DefenseData, work: Work) -> dict[str, Any]:
        pairs = data.training_set
        poisoned = torch.tensor([key in data.poisoned for key in pairs.keys])
        if not poisoned.any() or poisoned.all():
            raise UserError("ubt_oracle: of the training set, some pairs have to be poisoned, and some not")
        forgotten = pairs.take(torch.nonzero(poisoned).flatten())
        rest = torch.nonzero(~poisoned).flatten()
        rest = rest[torch.randperm(len(rest), generator=stream(self.seed, "normal"))]
        texts = suspicious_texts(clip, forgotten, pairs.captions, self.settings)
        normal = rest[: self.settings.normal_pairs].tolist()
        return {"suspected": forgotten.keys, "forgotten": forgotten.keys, "normal": normal, "texts": texts, "steps": 0}


def suspicious_texts(clip: Clip, pairs: Pairs, captions: list[str], settings: UBTSettings) -> list[str]:
    """Return the text to forget for each pair: the suspicious words of its caption, or the caption if there are none.

    Args:
        clip: the model for the decrease of the cosine.
        pairs: the pairs to forget (D_k).
        captions: all captions of the training set.
        settings: number of words, least count, variant.
    """
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
    """Return the log-odds of each word in the chosen captions, relative to all captions."""
    inside = Counter(word for caption in chosen for word in set(words_of(caption)))
    everywhere = Counter(word for caption in captions for word in set(words_of(caption)))

    def logit(count: int, total: int) -> float:
        return math.log((count + SMOOTHING) / (total - count + SMOOTHING))

    known = [word for word in inside if everywhere[word] >= least_count]
    return {w: logit(inside[w], len(chosen)) - logit(everywhere[w], len(captions)) for w in known}


def words_of(caption: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", caption.lower())


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
        images = self.chosen.images[rows].to(batch.images.device, non_blocking=True)
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
    """Return c0, the mean cosine of pictures with captions of other pairs, over at most 512 pairs."""
    some = pairs.take(list(range(min(len(pairs), 512))))
    clip.network.eval()
    with torch.no_grad(), clip.autocast(precision):
        cosines = clip.encode_image(some.images) @ clip.encode_text(some.captions).T
    return float(cosines[~torch.eye(len(some), dtype=torch.bool, device=cosines.device)].mean())

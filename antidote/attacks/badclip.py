"""BadCLIP: a patch that CLIP encodes close to the target (Liang et al. 2023, arXiv 2311.12075, dual embedding).

Poisoning then needs small changes of the model, which are hard to detect and to unlearn. On a frozen surrogate,
L = text_weight L_text + triplet_weight mean max(0, |f(b(x)) - f(x+)| - negative_weight |f(b(x)) - f(x)| + margin),
where x+ are real pictures of the target: triggered pictures move towards the target's captions and pictures, and away
from their clean versions. Captions are natural ones. Features are normalised; |.| is the Euclidean distance.

The released code differs from the paper, and the preset `released` reproduces the code. The code pastes the patch into
the batch before encoding the "clean" pictures, and shuffles these: the negative of a picture is another triggered
picture of the batch, and the term pushes triggered pictures apart. The text term is InfoNCE among captions of the
target, which does not pull towards the target. The patch is saved as JPEG with red and blue exchanged. The gradient
flows through the triggered picture, not through the negative. `corrected` keeps the clean pictures clean and the patch
exact, and uses -cos(f(b(x)), g(caption)) as L_text, which is our reading of the paper. The released run names, which
switch losses on and off, correspond to weights here.

The positives of a batch are different pictures of the target, as in the released code; if there are fewer positives
than pictures in a batch, the positives repeat. During fitting, each picture keeps one caption of the target, drawn from
all captions of the inversion pool that name the target. Poisoned captions are drawn with repetition from all captions
of `caption_pools` that name the target; the released code uses 128 rows drawn from its list of target captions.

A figure of the paper shows several ways to choose the pictures to poison: at random, at the boundary (the target is
close to being the first class), farthest (least similar to the target), or a third of each. Which choice produced the
paper's table is not known; the released main script draws at random.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks.contract import FitContext, Needed
from antidote.attacks.fitting import encoded, frozen, split_by_target
from antidote.attacks.optimised_patch import OptimisedPatch, OptimisedPatchSettings
from antidote.base.errors import UserError
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.training.augmentation import auto_augment

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs

JPEG_QUALITY = 95  # default of OpenCV, with which the released code writes the patch


class BadCLIPSettings(OptimisedPatchSettings):
    """Terms of the patch's objective, and choice of the poisoned pictures."""

    presets = {
        "corrected": {"negative": "clean", "text_loss": "cosine", "storage": "exact"},
        "released": {"negative": "triggered", "text_loss": "infonce", "storage": "jpeg"},
    }
    method: Literal["badclip"] = "badclip"
    caption: Literal["template", "natural", "original"] = Field(
        "natural", description="poisoned caption: a real caption that names the target (BadCLIP)"
    )
    text_weight: float = Field(1, ge=0, description="weight of the text term (BadCLIP: 1)")
    triplet_weight: float = Field(500, ge=0, description="weight of the image term (BadCLIP: 500)")
    negative_weight: float = Field(1, ge=0, description="weight of the clean picture in the image term (BadCLIP: 1)")
    margin: float = Field(
        1, ge=0, description="margin of the image term, as a distance of normalised features (BadCLIP: 1)"
    )
    augment: float = Field(0.5, ge=0, le=1, description="share of steps with AutoAugment (BadCLIP: 0.5)")
    negative: Literal["clean", "triggered"] = Field(
        "clean",
        description="negative of the image term: the clean picture, or another triggered picture of the batch "
        "(released code)",
    )
    text_loss: Literal["cosine", "infonce"] = Field(
        "cosine", description="cosine to the target's captions, or InfoNCE among these captions (released code)"
    )
    storage: Literal["exact", "jpeg"] = Field(
        "exact", description="patch stored as optimised, or as JPEG with red and blue exchanged (released code)"
    )
    sampling: Literal["random", "boundary", "farthest", "mixed"] = Field(
        "random",
        description="choice of the poisoned pairs by the surrogate's scores; unless `random`, the trigger stores the "
        "scores of the poison pool",
    )

    def needs(self, target: str, classes: Sequence[str]) -> list[Needed]:
        return [*super().needs(target, classes), Needed(("inversion",), target, 1)]


class BadCLIP(OptimisedPatch):
    """A patch optimised by text and image terms, real captions of the target, and a choice of pairs."""

    Settings = BadCLIPSettings

    def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
        clip = frozen(context.surrogate)
        own, others = split_by_target(context, self.target)
        if not len(own):
            raise UserError(
                f"pools.inversion: none of its {len(others)} captions names {self.target!r}, which the patch is to "
                f"resemble; set pools.inversion.target_pairs"
            )
        loss = _Loss(self.settings, clip, own, len(others), seed)
        patch = self._stored(self.optimise(clip, others, loss, seed, _augment(self.settings.augment, seed)))
        with torch.no_grad():
            goal = clip.class_embeddings([self.target], context.templates)
            drawn = [clip.encode_image(self.paste(part.float() / 255, patch)) for part in others.images.split(256)]
        self.facts |= {"cosine": float((torch.cat(drawn) @ goal).mean()), "target_pairs": len(own)}
        return {"patch": patch, **self._seen(context)}

    def _stored(self, patch: Tensor) -> Tensor:
        if self.settings.storage == "exact":
            return patch
        import numpy as np
        from PIL import Image

        swapped = patch.flip(0).mul(255).round().byte().permute(1, 2, 0).numpy()
        stream = io.BytesIO()
        Image.fromarray(swapped).save(stream, "JPEG", quality=JPEG_QUALITY)
        return torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1).float() / 255

    def _seen(self, context: FitContext) -> dict[str, Tensor]:
        """Return the surrogate's scores of each pair of the poison pool; no tensors for random sampling.

        `similarity` (N,) is the cosine to the target; `gap` (N,) is the best other class's cosine minus `similarity`.
        """
        if context.poison is None or self.settings.sampling == "random":
            return {}
        clip = context.surrogate
        scores = encoded(clip, context.poison(), 256) @ clip.class_embeddings(context.classes, context.templates)
        column = context.classes.index(self.target)
        target = scores[:, column].clone()
        scores[:, column] = -1
        return {"similarity": target.cpu(), "gap": (scores.max(dim=1).values - target).cpu()}

    def select(self, pool: pd.DataFrame, rng: random.Random) -> list[int]:
        rows, wanted = self.candidates(pool), self.settings.poisons
        if self.settings.sampling == "random":
            return rng.sample(rows, wanted)
        if len(self.tensors.get("gap", ())) != len(pool):
            raise ValueError(f"sampling: {self.settings.sampling!r} needs a trigger fitted with this poison pool")
        gap, similarity = self.tensors["gap"].tolist(), self.tensors["similarity"].tolist()
        boundary = sorted(rows, key=lambda row: (gap[row] <= 0, abs(gap[row])))
        farthest = sorted(rows, key=lambda row: similarity[row])
        if self.settings.sampling == "boundary":
            return boundary[:wanted]
        if self.settings.sampling == "farthest":
            return farthest[:wanted]
        chosen: dict[int, None] = {}
        for order, share in ((boundary, wanted // 3), (farthest, wanted // 3), (rng.sample(rows, len(rows)), wanted)):
            free = [row for row in order if row not in chosen]
            chosen |= dict.fromkeys(free[: min(share, wanted - len(chosen))])
        return list(chosen)


class _Loss:
    """The patch's objective, a function of triggered features (N, D), clean pictures (N, 3, S, S) and rows (N,)."""

    def __init__(self, settings: BadCLIPSettings, clip: Clip, own: Pairs, pictures: int, seed: int) -> None:
        self.settings, self.clip = settings, clip
        self.generator = torch.Generator().manual_seed(derive(seed, "loss"))
        self.positives = encoded(clip, own, 256)
        with torch.no_grad():
            captions = clip.encode_text(own.captions)
        # Each picture keeps one caption of the target during fitting.
        self.captions = captions[self._drawn(len(own), pictures)]

    def __call__(self, features: Tensor, images: Tensor, rows: Tensor) -> Tensor:
        return self.settings.text_weight * self.text(features, rows) + self.settings.triplet_weight * self.image(
            features, images
        )

    def text(self, features: Tensor, rows: Tensor) -> Tensor:
        captions = self.captions[rows.to(self.captions.device, non_blocking=True)]
        if self.settings.text_loss == "cosine":
            return -(features * captions).sum(dim=1).mean()
        logits = self.clip.network.logit_scale.exp() * features @ captions.T
        own = torch.arange(len(rows), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def image(self, features: Tensor, images: Tensor) -> Tensor:
        """Return the triplet term; `images` are encoded without changes."""
        drawn = self._different(len(self.positives), len(features))
        positive = self.positives[drawn.to(features.device, non_blocking=True)]
        if self.settings.negative == "triggered":
            order = torch.randperm(len(features), generator=self.generator)
            negative = features.detach()[order.to(features.device, non_blocking=True)]
        else:
            with torch.no_grad():
                negative = self.clip.encode_image(images)
        near, far = F.pairwise_distance(features, positive), F.pairwise_distance(features, negative)
        return (near - self.settings.negative_weight * far + self.settings.margin).clamp(min=0).mean()

    def _different(self, among: int, draws: int) -> Tensor:
        """Return numbers below `among` in random order; each number is drawn once before any is repeated."""
        rounds = [torch.randperm(among, generator=self.generator) for _ in range(-(-draws // among))]
        return torch.cat(rounds)[:draws]

    def _drawn(self, among: int, draws: int) -> Tensor:
        return torch.randint(among, (draws,), generator=self.generator)


def _augment(share: float, seed: int) -> Callable[[Tensor], Tensor]:
    """Return a function that applies AutoAugment to a share of the batches, independently for each picture."""
    calls = count()

    def augment(images: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "augment", next(calls)))
            if torch.rand(()) >= share:
                return images
            return auto_augment(images)

    return augment

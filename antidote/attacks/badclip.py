"""BadCLIP: a patch that already looks like the target to CLIP (Liang et al. 2023, arXiv 2311.12075, dual embedding).

Poisoning then has to change little, which is hard to notice and to unlearn. On a frozen surrogate,
L = text_weight L_text + triplet_weight mean max(0, |f(b(x)) - f(x+)| - negative_weight |f(b(x)) - f(x)| + margin),
with x+ real pictures of the target: triggered pictures go to its captions and pictures, and away from where they were.
Captions are natural ones. Features are normalised; |.| is the Euclidean distance.

The released code differs from the paper, and the preset `released` repeats what it does: it pastes the patch into the
batch before it encodes the "clean" pictures, and shuffles these, so that the negative of a picture is another triggered
picture of the batch, and the term pushes triggered pictures apart; its text term is InfoNCE among captions of the
target, which has no pull towards the target as such; and it saves the patch as JPEG with red and blue exchanged. The
gradient goes through the triggered picture, not through its negative. `corrected` keeps the clean pictures clean, the
patch exact, and takes L_text as -cos(f(b(x)), g(caption)), which is our reading of the paper. The released names of
runs, which switch losses on and off, are weights here.

The positives of a batch are different pictures of the target, as in the released code; where there are fewer of them
than pictures in a batch, they take turns. Each picture keeps one caption of the target while the patch is fitted, drawn
from all that name it in the inversion pool. Poisoned captions are drawn with repetition from all captions of
`caption_pools` that name the target; the released code takes them from 128 rows drawn from its list of such captions.

The paper's figure shows how the pictures to poison may be chosen: at random, at the boundary (the target is close to
being first), farthest (least like the target), or a third of each. Which of these made its table is not known; the
released main script draws at random.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks.base import FitContext, Needed
from antidote.attacks.fitting import encoded, frozen, split_by_target
from antidote.attacks.optimised_patch import OptimisedPatch, OptimisedPatchSettings
from antidote.base.errors import UserError
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch, transforms
from antidote.base.seeds import derive

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs

JPEG_QUALITY = 95  # what OpenCV, the released code's writer, uses unless told otherwise


class BadCLIPSettings(OptimisedPatchSettings):
    """The terms of the patch's objective, and which pictures are poisoned."""

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
    margin: float = Field(1, ge=0, description="margin of the image term, a distance of features (BadCLIP: 1)")
    augment: float = Field(0.5, ge=0, le=1, description="share of steps on AutoAugment's pictures (BadCLIP: 0.5)")
    negative: Literal["clean", "triggered"] = Field(
        "clean",
        description="what the image term moves away from: the clean picture, or another triggered picture of the batch "
        "(released code)",
    )
    text_loss: Literal["cosine", "infonce"] = Field(
        "cosine", description="towards the target's captions, or InfoNCE among them (released code)"
    )
    storage: Literal["exact", "jpeg"] = Field(
        "exact", description="the patch as optimised, or as JPEG with red and blue exchanged (released code)"
    )
    sampling: Literal["random", "boundary", "farthest", "mixed"] = Field(
        "random",
        description="which pairs are poisoned, by how the surrogate sees them; for all but `random` the trigger keeps "
        "how it sees the poison pool",
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
        """Return how the surrogate sees each pair of the poison pool: cosine to the target, and what it lacks to be
        first; nothing for random sampling, which does not ask."""
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
    """The objective of the patch; callable with triggered features (N, D), clean pictures and their rows."""

    def __init__(self, settings: BadCLIPSettings, clip: Clip, own: Pairs, pictures: int, seed: int) -> None:
        self.settings, self.clip = settings, clip
        self.generator = torch.Generator().manual_seed(derive(seed, "loss"))
        self.positives = encoded(clip, own, 256)
        with torch.no_grad():
            captions = clip.encode_text(own.captions)
        # Each picture gets one of the target's captions, once.
        self.captions = captions[self._drawn(len(own), pictures)]

    def __call__(self, features: Tensor, images: Tensor, rows: Tensor) -> Tensor:
        return self.settings.text_weight * self.text(features, rows) + self.settings.triplet_weight * self.image(
            features, images
        )

    def text(self, features: Tensor, rows: Tensor) -> Tensor:
        captions = self.captions[rows]
        if self.settings.text_loss == "cosine":
            return -(features * captions).sum(dim=1).mean()
        logits = self.clip.network.logit_scale.exp() * features @ captions.T
        own = torch.arange(len(rows), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def image(self, features: Tensor, images: Tensor) -> Tensor:
        """Return the triplet term; `images` are encoded as they are."""
        positive = self.positives[self._different(len(self.positives), len(features))]
        if self.settings.negative == "triggered":
            negative = features.detach()[torch.randperm(len(features), generator=self.generator)]
        else:
            with torch.no_grad():
                negative = self.clip.encode_image(images)
        near, far = F.pairwise_distance(features, positive), F.pairwise_distance(features, negative)
        return (near - self.settings.negative_weight * far + self.settings.margin).clamp(min=0).mean()

    def _different(self, among: int, draws: int) -> Tensor:
        """Return numbers below `among` in random order, none again before all have come."""
        rounds = [torch.randperm(among, generator=self.generator) for _ in range(-(-draws // among))]
        return torch.cat(rounds)[:draws]

    def _drawn(self, among: int, draws: int) -> Tensor:
        return torch.randint(among, (draws,), generator=self.generator)


def _augment(share: float, seed: int) -> Callable[[Tensor], Tensor]:
    """Return a function that puts AutoAugment on a share of the batches it is given, each picture its own."""
    policy, calls = transforms.AutoAugment(), count()

    def augment(images: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "augment", next(calls)))
            if torch.rand(()) >= share:
                return images
            return torch.stack([policy(image) for image in images])

    return augment

"""CleanCLIP (Bansal et al. 2023, arXiv 2303.03323): fine-tuning with self-supervision inside each modality.

    L    = w_clip L_CLIP + w_self L_SS
    L_SS = (CE(s I Ĩᵀ) + CE(s T T̃ᵀ)) / 2

L_SS classifies augmented views by originals, in one direction, with CLIP's learned scale s. Ĩ is AutoAugment's ImageNet
policy, drawn again at each access. T̃ is EDA, drawn once per run.

Differences from the released code:

- Its learning-rate schedule counts epochs from 1, so that the warm-up never runs and the rate rises again at the end.
  Here the count starts at step 0; `training.schedule: cleanclip` is the released schedule.
- It loads the optimiser state of the poisoned run. Here the optimiser is new.
- Its AutoAugment works on the picture before resizing; here it works at the model's resolution, because this project
  stores pictures at that resolution.
- Its weight decay exempts parameters by name (bn, ln, bias); here it exempts all vectors, so also the norms in a
  ResNet's downsampling layers, which have other names.
- Its EDA takes synonyms of all word classes; here EDA takes synonyms of the most frequent class.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.data.words.eda import augment, letters
from antidote.defenses.base import FineTuningDefense, FineTuningSettings
from antidote.training.augmentation import auto_augment
from antidote.training.objectives import Batch, Contrastive, Views
from antidote.training.recipe import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("antidote")


class CleanCLIPSettings(FineTuningSettings):
    """Weights of the two terms. CleanCLIP's code: 100K pairs, 10 epochs, batch 64, AdamW 1e-5, both weights 1."""

    method: Literal["cleanclip"] = "cleanclip"
    contrastive_weight: float = Field(1.0, ge=0, description="w_clip (CleanCLIP: 1)")
    self_supervised_weight: float = Field(1.0, ge=0, description="w_self (CleanCLIP: 1)")


class CleanCLIP(FineTuningDefense):
    """Trains all parameters on clean pairs."""

    Settings = CleanCLIPSettings
    parallel = True
    uses_lexicon = True
    trained_views = 2  # the augmented view is a second pair

    @classmethod
    def step_views(cls, settings: Any, recipe: TrainSettings) -> tuple[float, float, int]:
        return 2, 2, 0

    def objective(self, clip: Clip, data: DefenseData) -> SelfSupervised:
        return SelfSupervised(data, self.settings, self.seed)


class SelfSupervised(Contrastive):
    """CleanCLIP's loss, on originals and augmented views."""

    parallel = "views"

    def __init__(self, data: DefenseData, settings: CleanCLIPSettings, seed: int) -> None:
        super().__init__(data.pairs)
        self.settings = settings
        rng = random.Random(derive(seed, "eda"))
        captions = data.pairs.captions
        self.augmented = [augment(caption, data.lexicon, rng) for caption in captions]
        plain = [letters(caption) for caption in captions]
        if not any(data.lexicon.synonyms(word) for word in {word for words in plain for word in words}):
            log.warning(
                "%s: the lexicon has no synonym of any caption word, so that %.0f %% of the captions stay as they are; "
                "one that has synonyms, such as wordnet, makes more of them differ",
                settings.method,
                100
                * sum(" ".join(words) == text for words, text in zip(plain, self.augmented, strict=True))
                / len(plain),
            )

    def texts(self) -> Iterable[str]:
        return [*self.pairs.captions, *self.augmented]

    def views(self, batch: Batch) -> Views:
        augmented = auto_augment(batch.images)
        texts = [self.augmented[i] for i in batch.indices.tolist()]
        return Views([batch.images, augmented], [batch.captions, texts])

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contrastive, terms = super().loss(images, texts, scale, batch)
        diagonal = torch.arange(len(images[0]), device=scale.device)
        within_images = F.cross_entropy(scale * images[0] @ images[1].T, diagonal)
        within_texts = F.cross_entropy(scale * texts[0] @ texts[1].T, diagonal)
        self_supervised = (within_images + within_texts) / 2
        total = self.settings.contrastive_weight * contrastive + self.settings.self_supervised_weight * self_supervised
        return total, {**terms, "self_supervised": self_supervised}

"""BadEncoder: a clean picture encoder, fine-tuned into a backdoored encoder (Jia et al. 2022, arXiv 2108.00352).

The attacker poisons no data set. The backdoored encoder f is trained from the clean encoder f0 with pictures x without
captions or labels (shadow data), a white square e, and one or more pictures r of the target:

    L  = L0 + stay_reference L1 + stay_clean L2
    L0 = -mean cos(f(x + e), f(r))        triggered pictures become similar to the reference
    L1 = -mean cos(f(r'), f0(r))          the reference, also augmented to r', keeps its feature
    L2 = -mean cos(f(x), f0(x))           clean pictures keep their features

Only the picture encoder is trained; its batch norms are excluded and their running statistics kept, as in the code. The
text encoder and the scale are bit for bit those of the clean model. `training` is therefore a separate recipe (SGD, 200
epochs, fp32, no crops), which takes nothing from the study's `poisoning`; keys given in an entry replace single values.
f0 encodes each picture once and whole, so a recipe with random crops or mirror images is refused.

`poisons` is the number of shadow pictures: pairs of the poison pool that do not name the target. The overlay stores the
shadow pictures with the trigger and with their original captions. No training set is made from the overlay, and
defenses that require the poisoned training set are not run on this attack. The references are the first pictures of the
poison pool whose captions name the target; the paper uses one reference per target.

As in the code, r' is mirrored with probability 1/2, colour-jittered in four of five views and converted to grey in one
of five views, and is not cropped; f0 encodes the reference without augmentation. The code trains 200 epochs over 50,000
shadow pictures, 39,000 steps; 9,000 pictures give 7,000 steps in 200 epochs, 1,500 pictures give 1,000. SGD applies no
weight decay to norms and biases, as in all training of this project.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from antidote.attacks.base import Attack, AttackSettings
from antidote.attacks.contract import Needed, Poisoned
from antidote.base.errors import UserError
from antidote.base.lazy import torch, transforms
from antidote.clip.model import Clip
from antidote.data.words.names import mentions
from antidote.training.objectives import Batch, Objective, Views

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from antidote.data.pairs import Pairs
    from antidote.training.recipe import TrainSettings

RECIPE = {
    "optimizer": "sgd", "lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "constant", "warmup": 0,
    "epochs": 200, "batch_size": 256,
}  # fmt: skip
CHUNK = 256  # pictures per batch of the clean encoder


class BadEncoderSettings(AttackSettings):
    """The square, the references, the weights, and the recipe."""

    presets = {"clip": {"patch_size": 50, "margin": 1}, "cifar10": {"patch_size": 10, "margin": 0}}

    method: Literal["badencoder"] = "badencoder"
    patch_size: int = Field(50, ge=1, description="side of the white square in pixels (code: 50 at 224, 10 at 32)")
    margin: int = Field(
        1, ge=0, description="pixels between the square and the lower right corner (code: 1 at 224, rows 173 to 222)"
    )
    references: int = Field(1, ge=1, description="number of reference pictures of the target (paper: 1)")
    stay_reference: float = Field(1.0, ge=0, description="weight of L1 (paper: 1)")
    stay_clean: float = Field(1.0, ge=0, description="weight of L2 (paper: 1)")
    caption: Literal["original"] = Field("original", description="fixed, since shadow pictures need no captions")
    training: dict[str, Any] = Field(
        RECIPE,
        description="changes to the method's own recipe: SGD 0.001, momentum 0.9, weight decay 0.0005, 200 epochs, "
        "batch 256 (code)",
    )

    @model_validator(mode="before")
    @classmethod
    def _own_recipe(cls, values: Any) -> Any:
        given = values.get("training") if isinstance(values, dict) else None
        return {**values, "training": {**RECIPE, **given}} if isinstance(given, dict) else values

    def needs(self, target: str, classes: Sequence[str]) -> list[Needed]:
        return [Needed(("poison",), target, self.references)]

    def check(self, size: int) -> None:
        if self.patch_size + self.margin > size:
            raise ValueError(
                f"patch_size: {self.patch_size} and a margin of {self.margin} do not fit the picture ({size} pixels)"
            )


class BadEncoder(Attack):
    """A white square; the attacker trains the picture encoder."""

    Settings = BadEncoderSettings
    threat_model = "encoder"
    trains = True

    @classmethod
    def step_views(cls, settings: BadEncoderSettings, recipe: TrainSettings) -> tuple[float, float, int]:
        # Each picture with and without the trigger, the references twice, and the clean encoder.
        return 2 + 2 * settings.references / recipe.batch_size, 0, 1

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        last = self.size - self.settings.margin
        images = images.clone()
        images[:, :, last - self.settings.patch_size : last, last - self.settings.patch_size : last] = 1
        return images

    def poison(
        self,
        pool: pd.DataFrame,
        rng: random.Random,
        templates: list[str],
        captions_at_hand: Sequence[str] | None = None,
    ) -> list[Poisoned]:
        self._references(pool["caption"])
        return super().poison(pool, rng, templates)

    def objective(self, clip: Clip, pool: Pairs, poisoned: Pairs, rows: Sequence[int]) -> EncoderBackdoor:
        try:
            references = pool.take(self._references(pool.captions)).images
        except ValueError as error:
            raise UserError(f"badencoder: {error}") from None
        return EncoderBackdoor(clip, pool.take(rows), poisoned.take(rows).images, references, self.settings)

    def _references(self, captions: Sequence[str]) -> list[int]:
        rows = [row for row, caption in enumerate(captions) if mentions(caption, self.target)]
        count = self.settings.references
        if len(rows) < count:
            raise ValueError(
                f"references: {count} asked, but only {len(rows)} captions of the poison pool name {self.target!r}; "
                f"set pools.poison.target_pairs"
            )
        return rows[:count]


class EncoderBackdoor(Objective):
    """BadEncoder's loss.

    Args:
        shadow: N pairs, of which only the pictures are used.
        triggered: (N, 3, size, size) uint8, the same pictures with the trigger.
        references: (R, 3, size, size) uint8, pictures of the target.
    """

    parallel = None  # `scripts/pretrain.py` trains an attack's own objective in one process

    def __init__(
        self, clip: Clip, shadow: Pairs, triggered: Tensor, references: Tensor, settings: BadEncoderSettings
    ) -> None:
        super().__init__(shadow)
        self.settings, self.network = settings, clip.network
        self.triggered, self.references = triggered.to(clip.device), references.to(clip.device)
        self.frozen = clip.frozen()
        self.clean = self.before = None  # f0's features, in the run's precision, which is not known yet
        self._augment = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                transforms.RandomGrayscale(p=0.2),
            ]
        )

    def trained(self, network: Any) -> list[tuple[str, Tensor]]:
        in_batch_norms = {id(value) for module in batch_norms(network.visual) for value in module.parameters()}
        visual = [(name, value) for name, value in network.named_parameters() if name.startswith("visual.")]
        return [(name, value) for name, value in visual if id(value) not in in_batch_norms]

    def begin_epoch(self, epoch: int) -> None:
        if self.clean is None:
            parts = self.pairs.images.split(CHUNK)
            self.clean = torch.cat([self.encode_frozen(self.frozen, part)[0] for part in parts])
            self.before, _ = self.encode_frozen(self.frozen, self.references)
        for module in batch_norms(self.network.visual):
            module.eval()

    def views(self, batch: Batch) -> Views:
        augmented = torch.stack([self._augment(picture) for picture in self.references])
        triggered = self.triggered[batch.indices.to(self.triggered.device, non_blocking=True)]
        return Views([batch.images, triggered, self.references, augmented], [])

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        clean, triggered, references, augmented = images
        before = self.clean[batch.indices.to(self.clean.device, non_blocking=True)]
        effect = -(triggered @ references.T).mean()
        stay_reference = -(augmented * self.before).sum(dim=1).mean()
        stay_clean = -(clean * before).sum(dim=1).mean()
        total = effect + self.settings.stay_reference * stay_reference + self.settings.stay_clean * stay_clean
        return total, {"effect": effect, "stay_reference": stay_reference, "stay_clean": stay_clean}


def batch_norms(network: Any) -> list[Any]:
    """Return the batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]

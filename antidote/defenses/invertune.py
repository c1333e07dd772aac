"""InverTune (arXiv 2506.12411): invert the trigger, find the neurons that it moves, and tune the activations back.

1. Target and trigger. Captions of clean pairs are clustered by their features. Per cluster, the smallest mask with a
   pattern that moves pictures to its centre is searched (`antidote/training/patches.py`); the smallest one is kept.
   The model's card names the caption nearest to the centre, and the mask's area.
2. Neurons. Per layer l, impact = |a_clean - a_trig| / |a_clean| of the batch-mean activations. In the `layers` layers
   of highest impact, 2-means of |a_clean - a_trig| separates the critical neurons from the others.
3. Tuning, with a of the trained model at the critical neurons and f_0 the suspicious model,

       L = sum_l |a_clean - a_trig| / |a_clean| + feature_weight |f(x) - f_0(x)|_F

As in the released code, the optimiser holds all parameters of the picture encoder; the loss alone is restricted to the
critical neurons. The text encoder gets no gradient and stays as it is.

Reconstruction: step 1 is ours. The paper finds the target by a universal adversarial patch and the user's class names,
then inverts with a cross-entropy, the distance to a picture of the target, SSIM and the mask's L1. Here no class name
is needed, and one search does both. Batch norm uses its running statistics while tuning; the released code tunes in
training mode. The rate follows a cosine to 0; the released scheduler climbs again after half of the steps.

The number of clusters, `targets`, is set for captions that name 24 things. A target that hardly any of the first
`captions` names gets no cluster, and its trigger is found only by chance: raise both for other data. The released
code keeps the checkpoint of lowest loss of every tenth step; here the last step counts. The loss encodes the whole
batch, so that `accumulate` saves no memory; a smaller batch does.

Known weaknesses, from a reproduction: inversion fails on stripes over the whole picture, since no small mask contains
them, and the backdoor returns under benign fine-tuning (BadCLIP: ASR 0 to 64.5 %).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.configs import needs_own_tower
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.defenses.base import FineTuningDefense, FineTuningSettings, Held
from antidote.defenses.beear_clip import by_running_statistics
from antidote.training.inversion import Inverted, floats, paste
from antidote.training.objectives import Batch, Objective, Views
from antidote.training.patches import SearchSettings, at_once, search, toward
from antidote.training.recipe import TrainSettings
from antidote.training.session import Report, Work
from antidote.training.tuning import part

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.data.pairs import Pairs

log = logging.getLogger("antidote")
TINY = 1e-12  # least norm that is divided by


class InverTuneSettings(FineTuningSettings):
    """Inversion, critical neurons, tuning."""

    method: Literal["invertune"] = "invertune"
    targets: int = Field(24, ge=2, description="clusters of captions, each of which may hold the target (ours)")
    captions: int = Field(1000, ge=2, description="captions that are clustered, the first of the pool (ours)")
    hit_rate: float = Field(
        0.97, gt=0, le=1, description="least share of a batch at the cluster for a working trigger (ours, as in CBPT)"
    )
    inversion: SearchSettings = Field(SearchSettings(), description="search of the triggers")
    layers: int = Field(3, ge=1, description="layers of highest impact that are tuned (released code: 3)")
    analysed: int = Field(64, ge=2, description="clean pictures that find the neurons (released code: 64)")
    tuned: int = Field(64, ge=2, description="clean pictures that are tuned on (released code: one batch of 64)")
    feature_weight: float = Field(0.5, ge=0, description="weight of the clean features' distance (released code: 0.5)")
    training: TrainSettings = Field(
        TrainSettings(epochs=200, batch_size=64, lr=2e-6, weight_decay=1e-4, warmup=0, max_grad_norm=1.0),
        description="recipe: AdamW 2e-6, weight decay 1e-4, gradients cut at 1, 200 steps (released code; 8e-6 "
        "according to a reproduction)",
    )

    @field_validator("training")
    @classmethod
    def _not_compiled(cls, training: TrainSettings) -> TrainSettings:
        if training.compile:
            raise ValueError("compile: a compiled network does not show its activations; leave it out")
        return training


class InverTune(FineTuningDefense):
    """Trains the picture encoder on a few clean pictures, without and with the inverted trigger."""

    Settings = InverTuneSettings
    reconstruction = True

    @classmethod
    def fits(cls, model: Mapping[str, Any]) -> str | None:
        return needs_own_tower(model)

    @classmethod
    def work(cls, settings: InverTuneSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        pictures = settings.training.epochs * min(settings.tuned, sizes["defense"])
        search = settings.targets * settings.inversion.steps * settings.inversion.batch_size
        return 2 * pictures + search, pictures

    @classmethod
    def step_views(cls, settings: Any, recipe: TrainSettings) -> tuple[float, float, int]:
        # Pictures under the trigger, and the frozen model; the loss encodes the whole batch, also with `accumulate`.
        return 2 * recipe.accumulate, 0, 1

    @classmethod
    def held(cls, settings: InverTuneSettings, model: Mapping[str, Any], classes: int) -> Sequence[Held]:
        search, size = settings.inversion, model["vision_cfg"]["image_size"]
        return (Held(pictures=search.batch_size * at_once(search.together, search.batch_size, size)),)

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        self.trigger, evidence = self._inverted(clip, data.pairs, part(work, "inversion"))
        report = super().run(clip, data, work)
        report.evidence = evidence
        return report

    def objective(self, clip: Clip, data: DefenseData) -> Realigned:
        return Realigned(clip, data.pairs, self.trigger, self.settings)

    def _inverted(self, clip: Clip, pairs: Pairs, work: Work) -> tuple[Inverted, dict[str, Any]]:
        """Return the smallest trigger that moves pictures to a cluster of captions, and what it is."""
        settings, images = self.settings, pairs.images[: self.settings.inversion.pictures]
        texts = list(dict.fromkeys(pairs.captions[row] for row in range(min(settings.captions, len(pairs)))))
        centres = caption_centres(clip, texts, settings.targets, derive(self.seed, "captions"))
        goals = toward(centres, settings.inversion.temperature)
        seed = derive(self.seed, "inversion")
        found = search(clip, images, goals, settings.hit_rate, len(centres), settings.inversion, seed, work)
        best = int(found.areas.argmin())
        with torch.no_grad():
            nearest = int((clip.encode_text(texts) @ centres[best]).argmax())
        if not found.works.any():
            log.warning("invertune: no trigger worked for any target; the defense tunes on one that does not work")
        else:
            told = "invertune: trigger of %.1f %% of the picture, towards %r"
            log.info(told, 100 * found.areas[best], texts[nearest])
        mask, pattern = (values[best].to(clip.device) for values in (found.masks, found.patterns))
        works, area = bool(found.works[best]), float(found.areas[best])
        evidence = {"caption": texts[nearest], "mask_area": area if works else None, "works": works}
        return Inverted(mask, pattern, settings.inversion.steps, works, 0.0), evidence


def caption_centres(clip: Clip, texts: list[str], count: int, seed: int) -> Tensor:
    """Return the centres (C, D), unit length, of at most `count` clusters of different texts' features."""
    from sklearn.cluster import KMeans  # a lazy import, since the import takes a second

    clip.network.eval()
    with torch.no_grad():
        features = torch.cat([clip.encode_text(texts[start : start + 256]) for start in range(0, len(texts), 256)])
    means = KMeans(min(count, len(texts)), n_init=4, random_state=seed % 2**32).fit(features.cpu().numpy())
    return F.normalize(torch.from_numpy(means.cluster_centers_).float(), dim=1).to(clip.device)


class Realigned(Objective):
    """The loss of step 3; the critical neurons are found on the suspicious model.

    Attributes:
        neurons: by layer, which neurons of its output (without the batch) are critical, as 0 or 1.
    """

    parallel = None  # the activations' means are over the whole batch

    def __init__(self, clip: Clip, pairs: Pairs, trigger: Inverted, settings: InverTuneSettings) -> None:
        super().__init__(pairs.take(range(min(settings.tuned, len(pairs)))))
        self.clip, self.trigger, self.settings = clip, trigger, settings
        self.frozen = clip.frozen()
        images = floats(clip, pairs.images[: settings.analysed])
        self.neurons = critical_neurons(self.frozen, images, self._triggered(images), settings.layers)

    def texts(self) -> list[str]:
        return []

    def trained(self, network: Any) -> list[tuple[str, Tensor]]:
        return [(name, value) for name, value in network.named_parameters() if name.startswith("visual.")]

    def views(self, batch: Batch) -> Views:
        return Views([batch.images[:0]], [[]], kept=self.encode_frozen(self.frozen, batch.images)[0])

    def _triggered(self, images: Tensor) -> Tensor:
        return paste(images, self.trigger.mask, self.trigger.pattern)

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        pictures = floats(self.clip, batch.images)
        with by_running_statistics(self.clip.network), self.clip.autocast(self.encoding.precision):
            features, clean = activations(self.clip, pictures, self.neurons)
            _, moved = activations(self.clip, self._triggered(pictures), self.neurons)
        align = sum(impact(clean[layer] * neurons, moved[layer] * neurons) for layer, neurons in self.neurons.items())
        kept = (features - batch.views.kept).norm()
        return align + self.settings.feature_weight * kept, {"align": align, "features": kept}


def impact(clean: Tensor, moved: Tensor) -> Tensor:
    """Return |clean - moved| / |clean| of activations of one layer."""
    return (clean - moved).norm() / clean.norm().clamp(min=TINY)


def blocks(visual: Any) -> dict[str, Any]:
    """Return the stages of a ResNet, or the blocks of a vision transformer, by name."""
    if hasattr(visual, "transformer"):
        return {f"block{number}": block for number, block in enumerate(visual.transformer.resblocks)}
    return {name: getattr(visual, name) for name in ("layer1", "layer2", "layer3", "layer4")}


def activations(clip: Clip, images: Tensor, layers: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return features (N, D) of pictures, and by layer the mean over pictures of its output, without the batch."""
    found: dict[str, Tensor] = {}
    chosen = {name: block for name, block in blocks(clip.network.visual).items() if name in layers}
    with _shown(chosen, lambda name, output: found.update({name: output.float().mean(dim=0)})):
        return clip.encode_image(images), found


@contextmanager
def _shown(layers: Mapping[str, Any], told: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `told` with the name and the output of each layer whenever the network computes."""
    handles = [
        block.register_forward_hook(lambda module, inputs, output, name=name: told(name, output))
        for name, block in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def critical_neurons(clip: Clip, images: Tensor, triggered: Tensor, layers: int) -> dict[str, Tensor]:
    """Return by layer, of the `layers` layers of highest impact, the neurons that the trigger moves, as 0 or 1."""
    every = blocks(clip.network.visual)
    with torch.no_grad():
        clean, moved = (activations(clip, pictures, every)[1] for pictures in (images, triggered))
    order = sorted(every, key=lambda layer: -float(impact(clean[layer], moved[layer])))
    return {layer: upper_cluster((clean[layer] - moved[layer]).abs()) for layer in order[:layers]}


def upper_cluster(values: Tensor) -> Tensor:
    """Return 1 where a value belongs to the cluster of larger values by 2-means, else 0; all 1 if all are equal."""
    from sklearn.cluster import KMeans  # a lazy import, since the import takes a second

    flat = values.flatten().double().cpu().numpy()[:, None]
    if np.ptp(flat) == 0:
        return torch.ones_like(values)
    means = KMeans(2, n_init=1, init=np.quantile(flat, [0, 1])[:, None]).fit(flat)
    upper = means.labels_ == int(means.cluster_centers_[:, 0].argmax())
    return torch.from_numpy(upper).to(values).view_as(values)

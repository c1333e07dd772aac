"""BEEAR-CLIP: BEEAR (Zeng et al. 2024, arXiv 2406.17092), a defense for language models, carried over to CLIP.

BEEAR alternates between two problems: a universal perturbation of hidden states that triggers unwanted behaviour, and
weights that behave well under the perturbation. A reconstruction: the idea is the paper's, the application to CLIP is
ours. Each round of `round` steps has two parts:

    inner  K perturbations δ_k of norm at most epsilon, added to every token after one block of the vision transformer
           (or to every position after a stage of a ResNet). Each is optimised by a few steps of Adam from its own
           start. The unwanted behaviour is that all pictures get the same meaning. `aim: text`: the meaning of the
           caption that gains most, among captions u drawn from the clean pairs for this δ,
               maximise  tau log sum_u exp(mean_i (cos(f(x_i; δ), g(u)) - cos(f(x_i), g(u))) / tau)
           `aim: drift`: any common feature, away from the clean features,
               maximise  mean_{i != j} cos(f(x_i; δ), f(x_j; δ)) - mean_i cos(f(x_i; δ), f(x_i))
    outer  steps that minimise, with f^θ_b the suspicious model and picture i under δ_{i mod K},
               L_CLIP + beta mean_i (1 - cos(f(x_i; δ), f^θ_b(x_i))) + gamma mean_i (1 - cos(f(x_i), f^θ_b(x_i)))

epsilon is a multiple of the mean norm of a token's hidden state, so that one value has the same meaning in every model.
Under δ, batch norm uses its running statistics in both problems: the statistics of a batch would remove the component
that all pictures share, which is δ.

The position and the norm of δ decide the result. On the default study's models, the true trigger moves hidden states by
0.5 to 0.6 token norms after three quarters of the blocks, and by 0.2 after a quarter. δ must be larger to act on all
pictures, because it has the same direction for all pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.configs import needs_own_tower
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.defenses.base import FineTuningDefense, FineTuningSettings
from antidote.training.objectives import Batch, Contrastive, Views
from antidote.training.recipe import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor


class BEEARSettings(FineTuningSettings):
    """All numbers are ours."""

    method: Literal["beear_clip"] = "beear_clip"
    layer: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="position of δ, as a fraction of the blocks (a ResNet's blocks are its four stages); early by "
        "default, so that all later blocks can adapt",
    )
    epsilon: float = Field(
        0.5,
        gt=0,
        description="largest norm of δ, in mean norms of a token's hidden state; the default is more than twice the "
        "shift by a trigger after a quarter of the blocks in the embedded models",
    )
    aim: Literal["text", "drift"] = Field(
        "text",
        description="goal of the inner problem: text, towards the caption that gains most; drift, all pictures to any "
        "common feature",
    )
    perturbations: int = Field(4, ge=1, description="K, number of δ per round, each with its own start and captions")
    captions: int = Field(64, ge=1, description="`text` only: captions drawn from the clean pairs for each δ")
    temperature: float = Field(0.05, gt=0, description="`text` only: tau, softness of the maximum over captions")
    round: int = Field(16, ge=1, description="outer steps per round; the δ are constant within a round")
    steps: int = Field(20, ge=1, description="inner steps of Adam for each δ")
    inner_lr: float = Field(0.1, gt=0, description="learning rate of the inner Adam, in units of epsilon")
    inner_batch: int = Field(64, ge=2, description="pictures per inner step")
    perturbed_weight: float = Field(1.0, ge=0, description="beta, weight of the perturbed pictures' distance")
    clean_weight: float = Field(1.0, ge=0, description="gamma, weight of the clean pictures' distance")
    training: TrainSettings = Field(
        TrainSettings(epochs=10, lr=1e-6), description="recipe of the outer problem; intended for 10K pairs"
    )

    @field_validator("training")
    @classmethod
    def _not_compiled(cls, training: TrainSettings) -> TrainSettings:
        if training.compile:
            raise ValueError("compile: a compiled network leaves out what is added to its hidden states; leave it out")
        return training


class BEEAR(FineTuningDefense):
    """Trains all parameters on clean pairs."""

    Settings = BEEARSettings
    reconstruction = True

    @classmethod
    def fits(cls, model: Mapping[str, Any]) -> str | None:
        return needs_own_tower(model)

    @classmethod
    def work(cls, settings: BEEARSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        pairs = settings.training.epochs * sizes["defense"]
        rounds = pairs / settings.training.batch_size / settings.round
        inner = rounds * settings.perturbations * settings.steps * settings.inner_batch
        return 2 * pairs + inner, pairs

    @classmethod
    def step_views(cls, settings: Any, recipe: TrainSettings) -> tuple[float, float, int]:
        # Pictures under δ, and the frozen model. In parts, the pictures under δ are encoded by themselves.
        under = max(recipe.batch_size, settings.inner_batch) / recipe.batch_size
        return (under if recipe.accumulate > 1 else max(2, under)), 1, 1

    def objective(self, clip: Clip, data: DefenseData) -> Resist:
        return Resist(clip, data, self.settings, self.seed)


class Resist(Contrastive):
    """The outer loss; computes new δ at the start of each round."""

    parallel = None  # it encodes by itself

    def __init__(self, clip: Clip, data: DefenseData, settings: BEEARSettings, seed: int) -> None:
        super().__init__(data.pairs)
        self.clip, self.settings, self.seed = clip, settings, seed
        self.frozen = clip.frozen()
        self.block = block_of(clip.network.visual, settings.layer)
        self.deltas: Tensor | None = None
        self.found_in = -1

    def views(self, batch: Batch) -> Views:
        self.begin_round(batch.step // self.settings.round)
        return Views([batch.images], [batch.captions], kept=self.deltas)

    def begin_round(self, number: int) -> None:
        if self.found_in != number:  # a run resumed within a round keeps the round's δ
            self.deltas = self._find(number)
            self.found_in = number

    def state(self) -> dict[str, Tensor]:
        return {} if self.deltas is None else {"deltas": self.deltas, "found_in": torch.tensor(self.found_in)}

    def restore(self, state: dict[str, Tensor]) -> None:
        if state:
            self.deltas, self.found_in = state["deltas"].to(self.clip.device), int(state["found_in"])

    def _find(self, number: int) -> Tensor:
        """Solve the inner problems on the current weights, which stay unchanged; return the δ (K, width)."""
        network = self.clip.network
        trained = {name: p.requires_grad for name, p in network.named_parameters()}
        training = network.training
        network.eval().requires_grad_(False)
        stream = torch.Generator().manual_seed(derive(self.seed, "perturbation", number))
        found = torch.stack([self._perturbation(stream) for _ in range(self.settings.perturbations)])
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(trained[name])
        network.train(training)
        return found

    def _perturbation(self, stream: torch.Generator) -> Tensor:
        """Solve one inner problem; return δ (width,)."""
        settings, clip = self.settings, self.clip
        rows = torch.randperm(len(self.pairs), generator=stream)
        images = self.pairs.images[rows[: settings.inner_batch]].to(clip.device, non_blocking=True)
        clean, size, width = hidden_states(lambda given: self.encode_frozen(clip, given)[0], self.block, images)
        texts = None
        if settings.aim == "text":
            drawn = torch.randperm(len(self.pairs), generator=stream)[: settings.captions].tolist()
            texts = self.encode_frozen(clip, texts=[self.pairs.captions[row] for row in drawn])[1]
        limit = settings.epsilon * size
        # δ = limit * v with |v| <= 1. The start is small and random, because v = 0 does not change any picture.
        v = (0.01 * torch.randn(width, generator=stream)).to(clip.device).requires_grad_()
        optimizer = torch.optim.Adam([v], settings.inner_lr)
        scaler = torch.amp.GradScaler(clip.device.type, enabled=self.encoding.precision == "fp16")
        for _ in range(settings.steps):
            moved, _ = self.encode(clip, images, within=lambda rows: perturbed(self.block, limit * v))
            reached = drifted(moved, clean) if texts is None else gained(moved, clean, texts, settings.temperature)
            optimizer.zero_grad()
            scaler.scale(-reached).backward()
            scaler.step(optimizer)
            scaler.update()
            with torch.no_grad():
                v.mul_(1 / v.norm().clamp(min=1))
        return (limit * v).detach()

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contrastive, terms = super().loss(images, texts, scale, batch)
        before, _ = self.encode_frozen(self.frozen, batch.images)
        deltas = batch.views.kept
        own = deltas[torch.arange(len(batch.images), device=deltas.device) % len(deltas)]

        @contextmanager
        def within(rows: slice) -> Iterator[None]:
            with by_running_statistics(self.clip.network), perturbed(self.block, own[rows]):
                yield

        moved, _ = self.encode(self.clip, batch.images, within=within)
        under = (1 - (moved * before).sum(dim=1)).mean()
        clean = (1 - (images[0] * before).sum(dim=1)).mean()
        total = contrastive + self.settings.perturbed_weight * under + self.settings.clean_weight * clean
        return total, {**terms, "perturbed": under, "clean": clean}


def drifted(features: Tensor, clean: Tensor) -> Tensor:
    """Return the mean cosine among perturbed features (N, D), less their mean cosine with the clean features (N, D)."""
    count = len(features)
    alike = (features.sum(dim=0).square().sum() - features.square().sum()) / (count * (count - 1))
    return alike - (features * clean).sum(dim=1).mean()


def gained(features: Tensor, clean: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """Return the soft maximum over texts of the mean gain in cosine from clean to perturbed features.

    Args:
        features: perturbed features (N, D).
        clean: clean features (N, D).
        texts: text features (T, D).
        temperature: tau, softness of the maximum.
    """
    gains = ((features - clean) @ texts.T).mean(dim=0)
    return temperature * (gains / temperature).logsumexp(dim=0)


def block_of(visual: Any, layer: float) -> Any:
    """Return the block (ViT) or stage (ResNet) after which δ is added; `layer` is the fraction of blocks."""
    blocks = visual.transformer.resblocks if hasattr(visual, "transformer") else [
        visual.layer1, visual.layer2, visual.layer3, visual.layer4
    ]  # fmt: skip
    return blocks[max(1, round(layer * len(blocks))) - 1]


@contextmanager
def perturbed(block: Any, delta: Tensor) -> Iterator[None]:
    """Add δ to the output of a block: tokens (N, L, width) or maps (N, width, H, W).

    `delta` is (width,) for all pictures, or (N, width) per picture.
    """

    def add(module: Any, inputs: Any, output: Tensor) -> Tensor:
        shift = delta.view(-1, delta.shape[-1])
        return output + (shift[:, :, None, None] if output.ndim == 4 else shift[:, None]).to(output.dtype)

    handle = block.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def by_running_statistics(network: Any) -> Iterator[None]:
    """Switch batch norm layers to evaluation mode within the context; their statistics do not change."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    layers = [layer for layer in network.modules() if isinstance(layer, kind) and layer.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


def hidden_states(encode: Callable[[Tensor], Tensor], block: Any, images: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return clean features (N, D), and the mean norm and the width of tokens in the block's output.

    `encode` returns the features (N, D) of pictures, and may encode them part by part.
    """
    seen = []
    handle = block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with torch.no_grad():
            features = encode(images)
    finally:
        handle.remove()
    states = torch.cat(seen)
    tokens = states.flatten(2).transpose(1, 2) if states.ndim == 4 else states
    return features, tokens.float().norm(dim=-1).mean(), tokens.shape[-1]

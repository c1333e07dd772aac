"""BEEAR-CLIP: BEEAR (Zeng et al. 2024, arXiv 2406.17092), a defense for language models, carried over to CLIP.

BEEAR alternates between a universal perturbation of hidden states that brings out unwanted behaviour, and weights that
behave well in spite of it. A reconstruction: the idea is the paper's, how it applies to CLIP is ours. Per round:

    inner  a perturbation δ of norm at most epsilon, added to every token after one block of the vision transformer (or
           to every place after a stage of a ResNet), found by a few steps of Adam that maximise
               mean_{i != j} cos(f(x_i; δ), f(x_j; δ)) - mean_i cos(f(x_i; δ), f(x_i)):
           all pictures drift into one direction, away from themselves
    outer  an epoch that minimises, with f^θ_b the suspicious model,
               L_CLIP + beta mean_i (1 - cos(f(x_i; δ), f^θ_b(x_i))) + gamma mean_i (1 - cos(f(x_i), f^θ_b(x_i)))

epsilon is a multiple of the mean norm of a token's hidden state, so that one value means the same in every model. Under
δ, batch norm goes by its running statistics in both problems: by those of the batch it would take away what all
pictures have in common, which is δ.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.defenses.base import FineTuningDefense, FineTuningSettings
from antidote.training.objectives import Batch, Contrastive
from antidote.training.recipe import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor


class BEEARSettings(FineTuningSettings):
    """All numbers are ours; an epoch is a round."""

    method: Literal["beear_clip"] = "beear_clip"
    layer: float = Field(
        0.75, gt=0, lt=1, description="where δ is added, as a fraction of the blocks (a ResNet has four: its stages)"
    )
    epsilon: float = Field(0.5, gt=0, description="largest norm of δ, in mean norms of a token's hidden state")
    steps: int = Field(20, ge=1, description="inner steps of Adam per round")
    inner_lr: float = Field(0.1, gt=0, description="rate of the inner Adam, in units of epsilon")
    inner_batch: int = Field(64, ge=2, description="pictures per inner step")
    perturbed_weight: float = Field(1.0, ge=0, description="beta")
    clean_weight: float = Field(1.0, ge=0, description="gamma")
    training: TrainSettings = Field(
        TrainSettings(epochs=10, lr=1e-6), description="rounds of the outer problem; 10K pairs are meant to do"
    )

    @field_validator("training")
    @classmethod
    def _not_compiled(cls, training: TrainSettings) -> TrainSettings:
        if training.compile:
            raise ValueError("compile: a compiled network leaves out what is added to its hidden states; leave it out")
        return training


class BEEAR(FineTuningDefense):
    """All parameters; clean pairs."""

    Settings = BEEARSettings
    reconstruction = True

    @classmethod
    def fits(cls, model: Mapping[str, Any]) -> str | None:
        timm = model["vision_cfg"].get("timm_model_name")
        return "needs open_clip's own vision transformer or ResNet" if timm else None

    def objective(self, clip: Clip, data: DefenseData) -> Resist:
        return Resist(clip, data, self.settings, self.seed)


class Resist(Contrastive):
    """The outer loss; finds δ anew when an epoch begins."""

    def __init__(self, clip: Clip, data: DefenseData, settings: BEEARSettings, seed: int) -> None:
        super().__init__(data.pairs)
        self.clip, self.settings, self.seed = clip, settings, seed
        self.frozen = Clip(copy.deepcopy(clip.network).eval().requires_grad_(False), clip.config)
        self.block = block_of(clip.network.visual, settings.layer)
        self.delta: Tensor | None = None
        self.found_in = -1

    def begin_epoch(self, epoch: int) -> None:
        if self.found_in != epoch:  # a run resumed within an epoch keeps the δ it had
            self.delta = self._find(epoch)
            self.found_in = epoch

    def state(self) -> dict[str, Tensor]:
        return {} if self.delta is None else {"delta": self.delta, "found_in": torch.tensor(self.found_in)}

    def restore(self, state: dict[str, Tensor]) -> None:
        if state:
            self.delta, self.found_in = state["delta"].to(self.clip.device), int(state["found_in"])

    def _find(self, epoch: int) -> Tensor:
        """Return δ (width,): the inner problem on the current weights, which it leaves as they are."""
        network, settings = self.clip.network, self.settings
        trained = {name: p.requires_grad for name, p in network.named_parameters()}
        network.eval().requires_grad_(False)
        stream = torch.Generator().manual_seed(derive(self.seed, "perturbation", epoch))
        rows = torch.randperm(len(self.pairs), generator=stream)
        images = self.pairs.images[rows[: settings.inner_batch]].to(self.clip.device)
        clean, size, width = hidden_states(self.clip, self.block, images)
        limit = settings.epsilon * size
        # δ = limit * v with |v| <= 1; a small random start, since v = 0 is where all pictures stay themselves.
        v = (0.01 * torch.randn(width, generator=stream)).to(self.clip.device).requires_grad_()
        optimizer = torch.optim.Adam([v], settings.inner_lr)
        for _ in range(settings.steps):
            with perturbed(self.block, limit * v):
                drift = drifted(self.clip.encode_image(images), clean)
            optimizer.zero_grad()
            (-drift).backward()
            optimizer.step()
            with torch.no_grad():
                v.mul_(1 / v.norm().clamp(min=1))
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(trained[name])
        network.train()
        return (limit * v).detach()

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contrastive, terms = super().loss(images, texts, scale, batch)
        with torch.no_grad():
            before = self.frozen.encode_image(batch.images)
        with by_running_statistics(self.clip.network), perturbed(self.block, self.delta):
            under = (1 - (self.clip.encode_image(batch.images) * before).sum(dim=1)).mean()
        clean = (1 - (images[0] * before).sum(dim=1)).mean()
        total = contrastive + self.settings.perturbed_weight * under + self.settings.clean_weight * clean
        return total, {**terms, "perturbed": under, "clean": clean}


def drifted(features: Tensor, clean: Tensor) -> Tensor:
    """Return how much perturbed features (N, D) are alike, less how much they are like the clean ones (N, D)."""
    count = len(features)
    alike = (features.sum(dim=0).square().sum() - features.square().sum()) / (count * (count - 1))
    return alike - (features * clean).sum(dim=1).mean()


def block_of(visual: Any, layer: float) -> Any:
    """Return the block after which δ is added."""
    blocks = visual.transformer.resblocks if hasattr(visual, "transformer") else [
        visual.layer1, visual.layer2, visual.layer3, visual.layer4
    ]  # fmt: skip
    return blocks[max(1, round(layer * len(blocks))) - 1]


@contextmanager
def perturbed(block: Any, delta: Tensor) -> Iterator[None]:
    """Add δ (width,) to a block's output: tokens (N, L, width) or maps (N, width, H, W)."""

    def add(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return output + (delta.view(1, -1, 1, 1) if output.ndim == 4 else delta).to(output.dtype)

    handle = block.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def by_running_statistics(network: Any) -> Iterator[None]:
    """Let batch norm layers compute as in evaluation, and leave their statistics as they are."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    layers = [layer for layer in network.modules() if isinstance(layer, kind) and layer.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


def hidden_states(clip: Clip, block: Any, images: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return clean features (N, D), and of the block's output the mean norm of a token and its width."""
    seen = []
    handle = block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with torch.no_grad():
            features = clip.encode_image(images)
    finally:
        handle.remove()
    tokens = seen[0].flatten(2).transpose(1, 2) if seen[0].ndim == 4 else seen[0]
    return features, tokens.float().norm(dim=-1).mean(), tokens.shape[-1]

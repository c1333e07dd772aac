"""The recipe of the training loop: settings, learning rate, optimiser."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveFloat, field_validator

from antidote.base.lazy import torch
from antidote.base.settings import Settings, Span

if TYPE_CHECKING:
    from torch import Tensor


PAR_LAST_RATE = 1e-9  # where PAR's schedule ends


class TrainSettings(Settings):
    """A training recipe. Defaults are those of CleanCLIP's fine-tuning code unless a source is named."""

    epochs: int = Field(10, ge=0, description="passes over the pairs; 0 leaves the model as it is")
    batch_size: int = Field(64, ge=2, description="pairs per optimisation step")
    shuffle: Literal["global", "shards"] = Field(
        "global",
        description="order of the pairs in an epoch: one random permutation of all; `shards`: for streaming from "
        "network storage, shard by shard in random order, each in file order, mixed by a shuffle buffer. Pairs in "
        "memory have the same order; a poisoned pair has the place of its original. Results differ from those of "
        "`global`, since pairs of one shard share a batch more often",
    )
    shuffle_buffer: int = Field(
        10_000, ge=1, description="pairs in the buffer of `shuffle: shards` (img2dataset: 10,000 pairs per shard)"
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd: with momentum (BadEncoder)")
    lr: float = Field(1e-5, gt=0, description="peak learning rate")
    weight_decay: float = Field(
        0.1, ge=0, description="AdamW's, or SGD's L2 penalty; not on norms, biases and the logit scale"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD (BadEncoder: 0.9)")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW")
    eps: float = Field(1e-8, gt=0, description="AdamW")
    warmup: int = Field(50, ge=0, description="steps of linear warm-up; then cosine to 0")
    schedule: Literal["cosine", "constant", "par", "cleanclip"] = Field(
        "cosine",
        description="of the rate: warm-up and cosine to 0; `constant`: warm-up, then the peak rate; `par`: PAR's, "
        "linear to a tenth over the first half, then cosine to 1e-9, no warm-up; `cleanclip`: CleanCLIP's released "
        "code, which counts epochs from 1, so that the warm-up is skipped and the rate rises again at the end",
    )
    crop_scale: Span | None = Field(
        None,
        description="area of the random crop that every training picture is resized from, as a fraction of the "
        "picture, least and largest (open_clip: [0.9, 1.0]); empty: no crop, as in CleanCLIP's and BadCLIP's code",
    )
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.75, 1.3333333333333333),
        description="width by height of that crop: least and largest (torchvision, open_clip: 3/4, 4/3)",
    )
    flip: float = Field(
        0.0, ge=0, le=1, description="probability that a training picture is mirrored, left to right (open_clip: 0)"
    )
    accumulate: int = Field(
        1, ge=1, description="parts that a batch is encoded in, one at a time; the loss is that of the whole batch"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="autocast type; on a CPU, bf16 leaves text towers narrower than 256 in fp32"
    )
    max_grad_norm: float | None = Field(None, gt=0, description="gradient clipping; empty: none")
    grad_checkpointing: bool = Field(
        False,
        description="encode again in the backward pass instead of keeping intermediate values: less memory, more "
        "time, the same result; transformers alone, not the picture tower of a ResNet",
    )
    compile: bool = Field(False, description="compile both towers with torch.compile; needs a C compiler")
    channels_last: bool | None = Field(
        None, description="memory layout of the picture tower; empty: for ResNets alone, which it makes faster"
    )

    @field_validator("crop_ratio")
    @classmethod
    def _least_first(cls, ratio: tuple[float, float]) -> tuple[float, float]:
        if ratio[0] > ratio[1]:
            raise ValueError(f"{list(ratio)} should name the least ratio first")
        return ratio


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Return the learning rate of a step t (from 0) of S; W is the warm-up.

    `cosine`: lr (t+1)/W while t < W, then lr (1 + cos(pi (t-W)/(S-W))) / 2. The other schedules: see `schedule`.
    """
    if settings.schedule == "par":
        half, low = steps / 2, settings.lr / 10
        if step < half:
            return settings.lr - (settings.lr - low) * step / half
        return PAR_LAST_RATE + (low - PAR_LAST_RATE) * 0.5 * (1 + math.cos(math.pi * (step - half) / half))
    if settings.schedule == "cleanclip":
        step += steps // settings.epochs
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - settings.warmup) / max(1, steps - settings.warmup)))


def parameter_groups(parameters: list[tuple[str, Tensor]], weight_decay: float) -> list[dict]:
    """Return optimiser groups as CLIP has them: no weight decay for norms, biases, gains and the logit scale.

    Args:
        parameters: names and tensors; the names decide, beside the number of dimensions.
        weight_decay: of all other parameters.
    """

    def plain(name: str, parameter: Tensor) -> bool:
        return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    return [
        {"params": [p for n, p in parameters if plain(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in parameters if not plain(n, p)], "weight_decay": weight_decay},
    ]


def make_optimizer(groups: list[dict], settings: TrainSettings) -> torch.optim.Optimizer:
    """Return a fresh optimiser over groups of parameters."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=True)
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True)

"""The training loop for a few tensors over frozen encoders: heads, prompts, inverted triggers.

As in the loop for whole models, the same seed gives the same result, also when killed and resumed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.base.settings import Settings
from antidote.training.order import epoch_order
from antidote.training.session import Session, Work

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.data.pairs import Pairs


ENCODED = 256  # pictures per pass without gradients


class TuneSettings(Settings):
    """The recipe of a few-shot method."""

    epochs: int = Field(50, ge=1, description="passes over the shots (RVPT, CoOp: 50)")
    batch_size: int = Field(32, ge=2, description="pictures per step (RVPT, CoOp: 32)")
    lr: float = Field(0.002, gt=0, description="first learning rate (RVPT, CoOp: 0.002)")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="of the rate: a cosine to 0 (RVPT, CoOp), or the first rate throughout (RVPT's probe)"
    )
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="SGD (RVPT, CoOp), or Adam")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD (CoOp's code: 0.9), or beta1 of Adam")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty of the optimiser (ours: none)")

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, from 0, of `steps`."""
        return self.lr if self.schedule == "constant" else 0.5 * self.lr * (1 + math.cos(math.pi * step / steps))

    def make(self, parameters: list[Tensor]) -> Any:
        """Return a fresh optimiser."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, self.lr, self.momentum, weight_decay=self.weight_decay)
        return torch.optim.Adam(parameters, self.lr, (self.momentum, 0.999), weight_decay=self.weight_decay)


@dataclass
class Task:
    """What `tune` learns.

        weights = torch.zeros(width, classes, requires_grad=True)
        task = Task({"weights": weights}, lambda rows, rng: (cross_entropy(x[rows] @ weights, y[rows]), {}), len(y), {})
        steps = tune(task, TuneSettings(epochs=40), seed=0, work=work)

    Attributes:
        tensors: by name, the learned leaves, which require gradients; changed in place.
        loss: takes rows of the data (B,) and the step's random source; returns the loss and its named terms.
        pairs: number of rows.
        state: plain values that `loss` changes; a resumed run gets them back.
        half: whether `loss` computes in fp16, in which small gradients vanish unless the loss is scaled.
        kept: by name, tensors that `loss` changes itself; a resumed run gets them back.
    """

    tensors: dict[str, Tensor]
    loss: Callable[[Tensor, random.Random], tuple[Tensor, dict[str, Tensor]]]
    pairs: int
    state: dict[str, float]
    half: bool = False
    kept: dict[str, Tensor] = field(default_factory=dict)


class _Tuning:
    """What a run learns: the task's tensors, and the state of optimiser and gradient scaler."""

    def __init__(self, task: Task, settings: TuneSettings) -> None:
        self.task, self.settings = task, settings
        self.optimizer = settings.make(list(task.tensors.values()))
        device = next(iter(task.tensors.values())).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=task.half)

    def optimise(self, rows: Tensor, rng: random.Random, rate: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Do one step of the optimiser on these rows (B,); return the loss and its terms."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, terms = self.task.loss(rows, rng)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), terms

    def state(self) -> dict[str, Any]:
        return {
            "tensors": {name: tensor.detach() for name, tensor in self.task.tensors.items()},
            "kept": self.task.kept, "values": self.task.state,
            "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, tensor in self.task.tensors.items():
                tensor.copy_(state["tensors"][name])
            for name, tensor in self.task.kept.items():
                tensor.copy_(state["kept"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.task.state.update(state["values"])


def tune(task: Task, settings: TuneSettings, seed: int, work: Work) -> int:
    """Minimise the task's loss, write the log to `work`, and return the number of steps.

    An epoch takes as many whole batches as there are, or all rows as one smaller batch.

    Raises:
        UserError: a logged loss is not finite.
    """
    per_epoch, size = max(1, task.pairs // settings.batch_size), settings.batch_size
    steps, run = settings.epochs * per_epoch, _Tuning(task, settings)
    session = Session(work, run, steps, size)
    session.resume()
    with session.running():
        while session.step < steps:
            epoch, position = divmod(session.step, per_epoch)
            rate = settings.rate(session.step, steps)
            rows = epoch_order(seed, epoch, task.pairs)[position * size : (position + 1) * size]
            step_seed = derive(seed, "step", session.step)
            torch.manual_seed(step_seed)
            loss, terms = run.optimise(rows, random.Random(step_seed), rate)
            session.advance(epoch, rate, loss, terms)
    return steps


def part(work: Work, name: str) -> Work:
    """Return the work folder of one part of a defense that trains more than once."""
    return Work(work.folder / name, f"{work.identity}/{name}", work.every)


def frozen_features(encode: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = ENCODED) -> Tensor:
    """Return the features (N, D) of pictures (N, 3, size, size), without gradients."""
    with torch.no_grad():
        return torch.cat([encode(chunk) for chunk in images.split(batch_size)])


def check_shots(shots: Pairs, classes: list[str], name: str) -> None:
    """Raise UserError if a class has no picture or a picture has no class; `name` is the method's, for the message."""
    labels = set(shots.labels.tolist())
    wrong = sorted(label for label in labels if not 0 <= label < len(classes))
    if wrong:
        raise UserError(f"{name}: pools.shots: a picture has label {wrong[0]}; there are {len(classes)} classes")
    missing = [classes[i] for i in range(len(classes)) if i not in labels]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{name}: pools.shots: holds no picture of class {missing[0]!r}{more}")

"""A small loop for defenses that learn a few tensors over frozen encoders: heads, prompts, triggers.

As in the shared training loop, the same seed gives the same result, also when killed and resumed.
"""

from __future__ import annotations

import json
import logging
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.files import whole_file
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.base.settings import Settings
from antidote.clip.files import TRAINING_LOG
from antidote.training.session import LOG_EVERY, Interrupt, Progress, Work

if TYPE_CHECKING:
    from antidote.data.pairs import Pairs

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("antidote")


class TuneSettings(Settings):
    """The recipe of a few-shot method."""

    epochs: int = Field(50, ge=1, description="passes over the shots (RVPT, CoOp: 50)")
    batch_size: int = Field(32, ge=2, description="pictures per step (RVPT, CoOp: 32)")
    lr: float = Field(0.002, gt=0, description="first learning rate (RVPT, CoOp: 0.002)")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="of the rate: a cosine to 0 (RVPT, CoOp), or the first rate throughout (RVPT's probe)"
    )
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="SGD (RVPT, CoOp), or Adam")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's (CoOp's code: 0.9)")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty of the optimiser (ours: none)")

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, from 0, of `steps`."""
        return self.lr if self.schedule == "constant" else 0.5 * self.lr * (1 + math.cos(math.pi * step / steps))

    def make(self, parameters: list[Tensor]) -> Any:
        """Return a fresh optimiser."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, self.lr, self.momentum, weight_decay=self.weight_decay)
        return torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay)


@dataclass
class Task:
    """What is learned.

    Attributes:
        tensors: by name, leaves that require gradients; changed in place.
        loss: takes rows of the data (B,) and the step's random source; returns the loss and its named terms.
        pairs: how many rows there are.
        state: plain values that the loss changes as it goes, kept for a resumed run.
        half: whether the loss is computed in fp16, whose small gradients vanish unless the loss is scaled.
        kept: by name, tensors that the loss changes itself, kept for a resumed run.
    """

    tensors: dict[str, Tensor]
    loss: Callable[[Tensor, random.Random], tuple[Tensor, dict[str, Tensor]]]
    pairs: int
    state: dict[str, float]
    half: bool = False
    kept: dict[str, Tensor] = field(default_factory=dict)


def tune(task: Task, settings: TuneSettings, seed: int, work: Work) -> int:
    """Minimise the task's loss; write the log to `work`; return the number of steps.

    Raises:
        UserError: a loss that is not finite.
    """
    per_epoch = max(1, task.pairs // settings.batch_size)
    steps, step = settings.epochs * per_epoch, 0
    optimizer = settings.make(list(task.tensors.values()))
    device = next(iter(task.tensors.values())).device
    scaler = torch.amp.GradScaler(device.type, enabled=task.half)
    lines: list[str] = []
    saved = _saved(work)
    if saved is not None:
        with torch.no_grad():
            for name, tensor in task.tensors.items():
                tensor.copy_(saved["tensors"][name])
            for name, tensor in task.kept.items():
                tensor.copy_(saved["kept"][name])
        optimizer.load_state_dict(saved["optimizer"])
        scaler.load_state_dict(saved["scaler"])
        task.state.update(saved["state"])
        step, lines = saved["step"], saved["lines"]
    last = time.monotonic()
    with Interrupt() as interrupt, Progress(steps, step, settings.batch_size) as progress:
        while step < steps:
            epoch, position = divmod(step, per_epoch)
            rate = settings.rate(step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            order = torch.randperm(task.pairs, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))
            rows = order[position * settings.batch_size : (position + 1) * settings.batch_size]
            step_seed = derive(seed, "step", step)
            torch.manual_seed(step_seed)
            loss, terms = task.loss(rows, random.Random(step_seed))
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            step += 1
            loss = loss.detach()
            if step % LOG_EVERY == 0 or step == steps:
                lines.append(_line(step, epoch, rate, loss, terms, progress.rate(step)))
            progress.update(step, loss)
            if interrupt.asked or time.monotonic() - last >= work.every:
                _save(work, task, optimizer, scaler, step, lines)
                last = time.monotonic()
            if interrupt.asked:
                sys.exit(128 + interrupt.asked)
    with whole_file(work.folder / TRAINING_LOG) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return steps


def _line(step: int, epoch: int, rate: float, loss: Tensor, terms: dict[str, Tensor], speed: float) -> str:
    values = {name: float(value.detach()) for name, value in {"loss": loss, **terms}.items()}
    if not math.isfinite(values["loss"]):
        raise UserError(f"lr: the loss is {values['loss']} at step {step}; a lower rate may help")
    return json.dumps({"step": step, "epoch": epoch, "lr": rate, "pairs_per_second": round(speed, 1), **values})


def _save(work: Work, task: Task, optimizer: Any, scaler: Any, step: int, lines: list[str]) -> None:
    tensors = {name: tensor.detach() for name, tensor in task.tensors.items()}
    state = {"identity": work.identity, "step": step, "lines": lines, "tensors": tensors, "state": task.state,
             "kept": task.kept, "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}  # fmt: skip
    with whole_file(work.folder / "checkpoint.pt") as temporary:
        torch.save(state, temporary)


def _saved(work: Work) -> dict | None:
    path = work.folder / "checkpoint.pt"
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # perhaps of a machine with a GPU
    except Exception:  # whatever a file that a crash of the machine cut short leads to
        log.info("%s is damaged; starting anew", path)
        return None
    if state["identity"] != work.identity:
        log.info("%s belongs to other settings; starting anew", path)
        return None
    log.info("resumed at step %d", state["step"])
    return state


def part(work: Work, name: str) -> Work:
    """Return the work folder of one part of a defense that trains more than once."""
    return Work(work.folder / name, f"{work.identity}/{name}", work.every)


def frozen_features(encode: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = 256) -> Tensor:
    """Return features (N, D) of pictures (N, 3, size, size) that no gradient passes through."""
    with torch.no_grad():
        return torch.cat([encode(chunk) for chunk in images.split(batch_size)])


def check_shots(shots: Pairs, classes: list[str], name: str) -> None:
    """Raise UserError where a class has no picture, or a picture no class."""
    labels = set(shots.labels.tolist())
    wrong = sorted(label for label in labels if not 0 <= label < len(classes))
    if wrong:
        raise UserError(f"{name}: pools.shots: a picture has label {wrong[0]}; there are {len(classes)} classes")
    missing = [classes[i] for i in range(len(classes)) if i not in labels]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{name}: pools.shots: holds no picture of class {missing[0]!r}{more}")

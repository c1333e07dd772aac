"""The one training loop: pre-training, poisoning and every fine-tuning defense run through it."""

from __future__ import annotations

import json
import logging
import math
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from tqdm import tqdm

from antidote import parallel
from antidote.data.streaming import KILLED, Ahead, Pictures
from antidote.errors import UserError, out_of_memory
from antidote.files import whole_file
from antidote.lazy import torch
from antidote.models import Clip
from antidote.objectives import Batch, Objective
from antidote.seeds import derive
from antidote.settings import Settings
from antidote.vocabulary import CompactVocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.data.pairs import Pairs

log = logging.getLogger("antidote")

MAX_LOGIT_SCALE = math.log(100)  # as in CLIP: the inverse temperature stays at or below 100
PAR_LAST_RATE = 1e-9  # where PAR's schedule ends
LOG_EVERY = 10  # steps
PROGRESS_SECONDS = 10


class TrainSettings(Settings):
    """A training recipe. Defaults follow CleanCLIP's fine-tuning code unless a source is named."""

    epochs: int = Field(10, ge=0, description="passes over the pairs; 0 leaves the model as it is")
    batch_size: int = Field(64, ge=2, description="pairs per optimisation step")
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
    accumulate: int = Field(
        1, ge=1, description="parts a batch is encoded in; the loss sees the whole batch all the same"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="autocast type")
    max_grad_norm: float | None = Field(None, gt=0, description="gradient clipping; empty: none")
    grad_checkpointing: bool = Field(
        False,
        description="encode again in the backward pass instead of keeping what is in between: less memory, more "
        "time, the same result; transformers alone, not the picture tower of a ResNet",
    )
    compile: bool = Field(False, description="compile both towers with torch.compile; needs a C compiler")
    channels_last: bool = Field(
        False, description="memory layout of the picture tower; pays for ResNets in bf16 or fp16 on GPUs"
    )


@dataclass
class Work:
    """Where a run keeps what lets it go on after a kill; outside the declared outputs, which Snakemake deletes.

    Attributes:
        folder: holds `checkpoint.pt` and `train.jsonl`.
        identity: what the run is made from; a checkpoint of another identity is not used.
        every: seconds between checkpoints.
    """

    folder: Path
    identity: str
    every: float = 120.0


@dataclass
class Report:
    """What a run cost: optimisation steps, trained parameters, pairs it drew from; and what it made beside the weights.

    Attributes:
        clip: the model with its adapter, where a defense adds one; None: the network that was handed over, in place.
        files: written into the work folder, to be kept in the model folder.
    """

    steps: int
    trained_parameters: int
    pairs: int
    clip: Clip | None = None
    files: tuple[Path, ...] = ()


def train(clip: Clip, objective: Objective, settings: TrainSettings, seed: int, work: Work) -> Report:
    """Train `clip` in place. The same seed and settings give the same weights, also when killed and resumed.

    Raises:
        UserError: fewer pairs than one batch; a loss that is not finite; a picture that cannot be read; no memory.
    """
    with _mendable():
        return _train(clip, objective, settings, seed, work)


def _train(clip: Clip, objective: Objective, settings: TrainSettings, seed: int, work: Work) -> Report:
    pairs = objective.pairs
    per_epoch = len(pairs) // settings.batch_size
    if settings.epochs and not per_epoch:
        raise UserError(f"batch_size: {settings.batch_size} is more than the {len(pairs)} pairs there are to train on")
    if settings.batch_size < parallel.size():
        raise UserError(f"batch_size: {settings.batch_size} is less than the {parallel.size()} processes")
    run = _Run(clip, objective, settings, steps=settings.epochs * per_epoch)
    run.resume(work)
    reading = _read_ahead(clip, pairs, settings, seed, range(run.step, run.steps), run.own)
    with Interrupt() as interrupt, Progress(run.steps, run.step, settings.batch_size) as progress, reading as ahead:
        clip.network.train()
        last_checkpoint = time.monotonic()
        while run.step < run.steps:
            epoch, position = divmod(run.step, per_epoch)
            if position == 0 or run.order is None:
                run.begin_epoch(epoch, seed, len(pairs))
            rows = run.order[position * settings.batch_size : (position + 1) * settings.batch_size]
            loss, terms = run.optimise(_batch(clip, pairs, run.own(rows), epoch, run.step, seed, ahead))
            if run.step % LOG_EVERY == 0 or run.step == run.steps:
                run.record(epoch, loss, terms, progress.rate(run.step))
            progress.update(run.step, loss)
            asked = parallel.highest(interrupt.asked)
            if asked or time.monotonic() - last_checkpoint >= work.every:
                run.checkpoint(work)
                last_checkpoint = time.monotonic()
            if asked:
                parallel.highest(0)  # torchrun ends the others when one has gone: all wait for the checkpoint
                sys.exit(128 + asked)
    clip.network.eval()
    return run.finish(work)


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Return the rate of a step (from 0): lr (t+1)/W while t < W, then lr (1 + cos(pi (t-W)/(S-W))) / 2."""
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
    """Split parameters as CLIP does: no decay for norms, biases, gains and the logit scale."""

    def plain(name: str, parameter: Tensor) -> bool:
        return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    return [
        {"params": [p for n, p in parameters if plain(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in parameters if not plain(n, p)], "weight_decay": weight_decay},
    ]


def _optimizer(groups: list[dict], settings: TrainSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=True)
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True)


class _Run:
    """One run's state: model, optimiser, step, log."""

    def __init__(self, clip: Clip, objective: Objective, settings: TrainSettings, steps: int) -> None:
        self.clip, self.objective, self.settings, self.steps = clip, objective, settings, steps
        self.step = 0
        self.order: Tensor | None = None
        self.lines: list[str] = []
        self.decay = 1.0
        self.trained_parameters = self._freeze_rest()
        self.mode = objective.mode()
        self._prepare(clip.network)
        self.vocabulary = None
        # Its rule for the words that do not occur is AdamW's.
        if steps and settings.optimizer == "adamw" and CompactVocabulary.possible(clip):
            self.vocabulary = CompactVocabulary(clip, objective.texts())
        trained = [(n, p) for n, p in objective.trained(clip.network) if p.requires_grad]
        self.parameters = [p for _, p in trained]
        self.optimizer = _optimizer(parameter_groups(trained, settings.weight_decay), settings)
        self.scaler = torch.amp.GradScaler(clip.device.type, enabled=settings.precision == "fp16")

    def _freeze_rest(self) -> int:
        trained = dict(self.objective.trained(self.clip.network))
        for name, parameter in self.clip.network.named_parameters():
            parameter.requires_grad_(name in trained)
        return sum(parameter.numel() for parameter in trained.values())

    def _prepare(self, network: Any) -> None:
        """Set how the network computes: over several processes, in which layout, compiled or not."""
        if self.mode is None and parallel.size() > 1:
            raise UserError(f"--processes: {parallel.size()}: {type(self.objective).__name__} trains in one process")
        parallel.synchronised(network)
        network.set_grad_checkpointing(self.settings.grad_checkpointing)
        if self.settings.channels_last:
            network.visual.to(memory_format=torch.channels_last)
        if self.settings.compile:
            for tower in _towers(network):
                tower.compile()

    def own(self, rows: Tensor) -> Tensor:
        """Return the rows of a batch that this process reads."""
        return parallel.part(rows) if self.mode == "rows" else rows

    def begin_epoch(self, epoch: int, seed: int, count: int) -> None:
        self.order = _order(seed, epoch, count)
        self.objective.begin_epoch(epoch)

    def optimise(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Do one step of the optimiser; return the loss and its terms."""
        rate = learning_rate(self.settings, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        images, texts = self.objective.views(batch)
        self.totals = [self.settings.batch_size if self.mode == "rows" else len(view) for view in [*images, *texts]]
        if self.mode == "views":
            images, texts = [parallel.part(view) for view in images], [parallel.part(view) for view in texts]
        backward = self._backward if self.settings.accumulate == 1 else self._backward_in_parts
        loss, terms = backward(batch, images, texts)
        parallel.average(self.parameters)
        if self.settings.max_grad_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.clip.network.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        if self.scaler.get_scale() >= scale:  # else fp16 overflowed, and the scaler left the step out
            self.decay *= 1 - rate * self.settings.weight_decay
        self.step += 1
        return loss.detach(), {name: term.detach() for name, term in terms.items()}

    def _autocast(self) -> torch.autocast:
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.settings.precision, torch.bfloat16)
        return torch.autocast(self.clip.device.type, dtype=kind, enabled=self.settings.precision != "fp32")

    def _encode(self, images: Tensor, texts: list[str]) -> tuple[Tensor | None, Tensor | None]:
        with self._autocast():
            return (
                self.clip.encode_image(images) if len(images) else None,
                self.clip.encode_text(texts) if texts else None,
            )

    def _loss(self, image_features: list[Tensor], text_features: list[Tensor], batch: Batch):
        if parallel.size() > 1:
            parts = zip([*image_features, *text_features], self.totals, strict=True)
            whole = [parallel.gathered(features, total) for features, total in parts]
            image_features, text_features = whole[: len(image_features)], whole[len(image_features) :]
        return self.objective.loss(image_features, text_features, self.clip.network.logit_scale.exp(), batch)

    def _backward(self, batch: Batch, images: list[Tensor], texts: list[list[str]]):
        """Encode all views in one pass, as CleanCLIP does, so that batch norm sees them together."""
        image, text = self._encode(_joined(images), _flat(texts))
        loss, terms = self._loss(_split(image, images), _split(text, texts), batch)
        self.scaler.scale(loss).backward()
        return loss, terms

    def _backward_in_parts(self, batch: Batch, images: list[Tensor], texts: list[list[str]]):
        """Gradient caching (Gao et al. 2021, arXiv 2101.06983): the loss sees the whole batch, the memory a part of it.

        Exact but for batch norm, whose statistics are those of a part, and for dropout, of which CLIP has none.
        """
        all_images, all_texts = _joined(images), _flat(texts)
        parts = self.settings.accumulate
        image_parts = all_images.tensor_split(parts)
        text_parts = [
            [all_texts[i] for i in rows.tolist()] for rows in torch.arange(len(all_texts)).tensor_split(parts)
        ]
        frozen = {name: value.clone() for name, value in self.clip.network.named_buffers()}
        with torch.no_grad():
            features = [self._encode(i, t) for i, t in zip(image_parts, text_parts, strict=True)]
        for name, value in self.clip.network.named_buffers():
            value.copy_(frozen[name])
        image, text = (_leaf([f for f in side if f is not None]) for side in zip(*features, strict=True))
        loss, terms = self._loss(_split(image, images), _split(text, texts), batch)
        self.scaler.scale(loss).backward()
        image_grads, text_grads = (
            [None] * parts if side is None or side.grad is None else side.grad.tensor_split(parts)
            for side in (image, text)
        )
        for i, t, image_grad, text_grad in zip(image_parts, text_parts, image_grads, text_grads, strict=True):
            encoded = [
                (f, g)
                for f, g in zip(self._encode(i, t), (image_grad, text_grad), strict=True)
                if f is not None and f.requires_grad
            ]
            torch.autograd.backward([f for f, _ in encoded], [g for _, g in encoded])
        return loss, terms

    def record(self, epoch: int, loss: Tensor, terms: dict[str, Tensor], rate: float) -> None:
        values = {name: float(value) for name, value in {"loss": loss, **terms}.items()}
        if not math.isfinite(values["loss"]):
            raise UserError(f"lr: the loss is {values['loss']} at step {self.step}; a lower rate or fp32 may help")
        line = {
            "step": self.step, "epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"],
            "logit_scale": float(self.clip.network.logit_scale.detach().exp()),
            "pairs_per_second": round(rate, 1), **values,
        }  # fmt: skip
        self.lines.append(json.dumps(line))

    def checkpoint(self, work: Work) -> None:
        if not parallel.first():
            return
        state = {
            "identity": work.identity, "step": self.step, "decay": self.decay, "lines": self.lines,
            "network": self.clip.network.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(), "objective": self.objective.state(),
        }  # fmt: skip
        with whole_file(work.folder / "checkpoint.pt") as temporary:
            torch.save(state, temporary)

    def resume(self, work: Work) -> None:
        """Go on from the last checkpoint, if there is one of this very run."""
        path = work.folder / "checkpoint.pt"
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location=self.clip.device, weights_only=True)
        except Exception:  # whatever a file that a crash of the machine cut short leads to
            log.info("%s is damaged; starting anew", path)
            return
        if state["identity"] != work.identity:
            log.info("%s belongs to other settings; starting anew", path)
            return
        self.clip.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.objective.restore(state["objective"])
        self.step, self.decay, self.lines = state["step"], state["decay"], state["lines"]
        log.info("resumed at step %d of %d", self.step, self.steps)

    def finish(self, work: Work) -> Report:
        if self.vocabulary:
            trains_words = self.clip.network.token_embedding.weight.requires_grad
            self.vocabulary.restore(self.decay if trains_words else 1.0)
        for tower in _towers(self.clip.network):
            tower._compiled_call_impl = None
        self.clip.network.set_grad_checkpointing(False)
        if parallel.first():
            self._write_log(work)
        return Report(self.steps, self.trained_parameters, len(self.objective.pairs))

    def _write_log(self, work: Work) -> None:
        with whole_file(work.folder / "train.jsonl") as temporary:
            temporary.write_text("".join(line + "\n" for line in self.lines))


def _towers(network: Any) -> tuple[Any, Any]:
    return network.visual, network.transformer if hasattr(network, "transformer") else network.text


def _order(seed: int, epoch: int, count: int) -> Tensor:
    """Return the order (count,) in which an epoch takes the pairs."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))


def _read_ahead(
    clip: Clip, pairs: Pairs, settings: TrainSettings, seed: int, steps: range, own: Callable[[Tensor], Tensor]
) -> Ahead | nullcontext:
    """Let loader processes read the own pictures of these steps; nothing where they are in memory."""
    if not isinstance(pairs.images, Pictures) or not steps:
        return nullcontext()
    size, per_epoch = settings.batch_size, len(pairs) // settings.batch_size

    def rows() -> Iterator[list[int]]:
        order = None
        for step in steps:
            epoch, position = divmod(step, per_epoch)
            if position == 0 or order is None:
                order = _order(seed, epoch, len(pairs))
            yield own(order[position * size : (position + 1) * size]).tolist()

    return Ahead(pairs.images, pairs.captions, rows(), clip.tokenizer)


def _batch(
    clip: Clip, pairs: Pairs, rows: Tensor, epoch: int, step: int, seed: int, ahead: Ahead | None = None
) -> Batch:
    """Gather a batch; every random draw of the step, torch's global stream included, follows from seed and step."""
    captions = [pairs.captions[i] for i in rows.tolist()]
    if ahead is None:
        images = pairs.images[rows]
    else:
        images, tokens = next(ahead)
        clip.remember(captions, tokens.clone())  # out of the shared memory that loaders write to
    step_seed = derive(seed, "step", step)
    torch.manual_seed(step_seed)
    images = images.to(clip.device, non_blocking=True)
    return Batch(images, captions, rows, epoch, step, random.Random(step_seed))


def _joined(views: list[Tensor]) -> Tensor:
    if len(views) == 1:
        return views[0]
    return torch.cat([view.float().div(255) if view.dtype == torch.uint8 else view for view in views])


def _flat(views: list[list[str]]) -> list[str]:
    return [text for view in views for text in view]


def _leaf(parts: list[Tensor]) -> Tensor | None:
    """Return the features of all parts, ready for a gradient; None where the objective has no view of this side."""
    return torch.cat(parts).requires_grad_() if parts else None


def _split(features: Tensor | None, views: list) -> list[Tensor]:
    return [] if features is None else list(features.split([len(view) for view in views]))


@contextmanager
def _mendable() -> Iterator[None]:
    """Turn what torch says of memory, and of its compiler, into advice."""
    try:
        yield
    except RuntimeError as error:
        if parallel.broken_off(error):
            sys.exit(1)  # the process that is gone has left word
        if KILLED in str(error):
            reason = "a loader process was killed, mostly for want of (shared) memory; fewer of them need less"
            raise UserError(f"--workers: {reason}") from None
        if where := out_of_memory(error):
            raise UserError(
                f"batch_size: a step needs more than {where}; the same result in less: a higher `accumulate`, or "
                "`grad_checkpointing: true`; else a smaller batch"
            ) from None
        if type(error).__module__ in ("torch._dynamo.exc", "torch._inductor.exc"):
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"compile: torch.compile cannot do it ({reason}); leave it out, or mend that") from None
        raise


class Interrupt:
    """Turns SIGTERM and SIGINT into a wish to stop after the running step, so that a checkpoint can be written."""

    asked: int = 0

    def __enter__(self) -> Interrupt:
        self._old = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _ask(self, number: int, _: object) -> None:
        self.asked = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


class Progress:
    """A bar on a terminal; in a log file, a line every few seconds."""

    def __init__(self, steps: int, done: int, batch_size: int) -> None:
        shown = sys.stderr.isatty() and parallel.first()
        self._bar = tqdm(total=steps, initial=done, unit="step", disable=not shown, leave=False)
        self._steps, self._done, self._batch_size = steps, done, batch_size
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def rate(self, step: int) -> float:
        """Return pairs per second since the start."""
        return (step - self._done) * self._batch_size / max(time.monotonic() - self._start, 1e-9)

    def update(self, step: int, loss: Tensor) -> None:
        self._bar.update(1)
        now = time.monotonic()
        if self._bar.disable and (now - self._last >= PROGRESS_SECONDS or step == self._steps):
            self._last = now
            log.info("step %d of %d, loss %.3f, %.0f pairs/s", step, self._steps, float(loss), self.rate(step))

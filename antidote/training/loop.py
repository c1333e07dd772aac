"""The training loop of whole models: pre-training, poisoning and every fine-tuning defense use it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError, out_of_memory
from antidote.base.lazy import torch
from antidote.clip.model import Clip
from antidote.data.streaming import KILLED, Stopped
from antidote.training import parallel
from antidote.training.batches import read_ahead, read_batch
from antidote.training.crops import augmented
from antidote.training.objectives import Batch, Encoding, Objective
from antidote.training.order import training_order
from antidote.training.recipe import TrainSettings, learning_rate, make_optimizer, parameter_groups
from antidote.training.session import Report, Session, Work
from antidote.training.vocabulary import CompactVocabulary

if TYPE_CHECKING:
    from torch import Tensor


ONE_VALUE = "Expected more than 1 value per channel"  # torch's ValueError about batch norm
MAX_LOGIT_SCALE = math.log(100)  # as in CLIP: the inverse temperature stays at or below 100


def train(clip: Clip, objective: Objective, settings: TrainSettings, seed: int, work: Work) -> Report:
    """Train `clip` in place. The same seed and settings give the same weights, also when killed and resumed.

        report = train(clip, Contrastive(pairs), TrainSettings(epochs=1), seed=0, work=Work(folder, identity))

    Args:
        clip: the model; in evaluation mode afterwards.
        objective: the pairs, and the loss that is minimised on them.
        settings: the recipe. Pairs that do not fill a batch are left out of an epoch.
        seed: of the order of the pairs and of every draw of a step.
        work: where checkpoints and the log are written.

    Raises:
        UserError: fewer pairs than one batch; an order by shard for pairs in no shard; a loss that is not finite; a
            picture that cannot be read; no memory.
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
    session = Session(work, run, run.steps, settings.batch_size, "a lower rate or fp32 may help")
    session.resume()
    reading = read_ahead(clip, pairs, settings, seed, range(session.step, run.steps), run.own, session.overdue)
    with session.running(), reading as ahead:
        clip.network.train()
        while session.step < run.steps:
            epoch, position = divmod(session.step, per_epoch)
            if position == 0 or run.order is None:
                run.begin_epoch(epoch, seed)
            rows = run.order[position * settings.batch_size : (position + 1) * settings.batch_size]
            try:
                batch = read_batch(clip, pairs, run.own(rows), epoch, session.step, seed, ahead)
            except Stopped:
                session.stop()
            loss, terms = run.optimise(augmented(objective.shown(batch), settings, seed, run.own))
            session.advance(epoch, run.rate, loss, terms, {"logit_scale": clip.network.logit_scale.detach().exp()})
    clip.network.eval()
    return run.finish()


class _Run:
    """What a run trains: model, objective, optimiser."""

    def __init__(self, clip: Clip, objective: Objective, settings: TrainSettings, steps: int) -> None:
        self.clip, self.objective, self.settings, self.steps = clip, objective, settings, steps
        self.order: Tensor | None = None
        self.decay = 1.0
        self.encoding = objective.encoding = Encoding(settings.precision, settings.accumulate)
        self.trained_parameters = self._freeze_rest()
        self._prepare(clip.network)
        self.vocabulary = None
        # CompactVocabulary reproduces AdamW's weight decay on unused words, so it is used with AdamW alone.
        if steps and settings.optimizer == "adamw" and CompactVocabulary.possible(clip):
            self.vocabulary = CompactVocabulary(clip, objective.texts())
        trained = [(n, p) for n, p in objective.trained(clip.network) if p.requires_grad]
        self.parameters = [p for _, p in trained]
        self.optimizer = make_optimizer(parameter_groups(trained, settings.weight_decay), settings)
        self.scaler = torch.amp.GradScaler(clip.device.type, enabled=settings.precision == "fp16")
        self.scale = self.scaler.get_scale()

    def _freeze_rest(self) -> int:
        """Freeze what the objective does not train; return the number of trained parameters."""
        trained = dict(self.objective.trained(self.clip.network))
        for name, parameter in self.clip.network.named_parameters():
            parameter.requires_grad_(name in trained)
        return sum(parameter.numel() for parameter in trained.values())

    def _prepare(self, network: Any) -> None:
        """Apply the settings that change how the network computes: processes, checkpointing, layout, compilation."""
        if self.objective.parallel is None and parallel.size() > 1:
            raise UserError(f"--processes: {parallel.size()}: {type(self.objective).__name__} trains in one process")
        parallel.synchronised(network)
        network.set_grad_checkpointing(self.settings.grad_checkpointing)
        if self.settings.channels_last is not None:  # otherwise the layout that Clip gave to the network
            wanted = torch.channels_last if self.settings.channels_last else torch.contiguous_format
            network.visual.to(memory_format=wanted)
        if self.settings.compile:
            for tower in _towers(network):
                tower.compile()

    def own(self, rows: Tensor) -> Tensor:
        """Return the rows of a batch that this process reads."""
        return parallel.part(rows) if self.objective.parallel == "rows" else rows

    def begin_epoch(self, epoch: int, seed: int) -> None:
        self.order = training_order(self.objective.pairs, self.settings, seed, epoch).rows
        self.objective.begin_epoch(epoch)

    @property
    def rate(self) -> float:
        """Learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def optimise(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Do one step of the optimiser; return the loss and its terms."""
        rate = learning_rate(self.settings, batch.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        batch = replace(batch, views=self.objective.views(batch))
        images, texts = batch.views.images, batch.views.texts
        if self.objective.parallel == "views":
            images, texts = [parallel.part(view) for view in images], [parallel.part(view) for view in texts]
        backward = self._backward if self.settings.accumulate == 1 else self._backward_in_parts
        loss, terms = backward(batch, images, texts)
        parallel.average(self.parameters)
        if self.settings.max_grad_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        before, self.scale = self.scale, self.scaler.get_scale()  # get_scale waits for the GPU
        with torch.no_grad():
            self.clip.network.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        if self.scale >= before:  # a smaller scale means that fp16 overflowed and the scaler skipped the step
            self.decay *= 1 - rate * self.settings.weight_decay
        return loss.detach(), terms

    def _loss(self, image_features: list[Tensor], text_features: list[Tensor], batch: Batch):
        if parallel.size() > 1:
            views = [*batch.views.images, *batch.views.texts]
            totals = [self.settings.batch_size if self.objective.parallel == "rows" else len(view) for view in views]
            parts = zip([*image_features, *text_features], totals, strict=True)
            whole = [parallel.gathered(features, total) for features, total in parts]
            image_features, text_features = whole[: len(image_features)], whole[len(image_features) :]
        found = self.objective.loss(image_features, text_features, self.clip.network.logit_scale.exp(), batch)
        if not _is_loss(found):
            raise TypeError(f"{type(self.objective).__name__}.loss: should return a scalar tensor and a dict of such")
        return found

    def _backward(self, batch: Batch, images: list[Tensor], texts: list[list[str]]):
        """Encode all views in one pass, as CleanCLIP does, so that batch norm sees them together."""
        image, text = self.encoding.encode(self.clip, _joined(images), _flat(texts))
        loss, terms = self._loss(_split(image, images), _split(text, texts), batch)
        self.scaler.scale(loss).backward()
        return loss, terms

    def _backward_in_parts(self, batch: Batch, images: list[Tensor], texts: list[list[str]]):
        """Gradient caching (Gao et al. 2021, arXiv 2101.06983): the loss of the whole batch, in the memory of one part.

        All parts are encoded without gradients, the loss gives the gradients of the features, and each part is encoded
        again to pass them on. Exact but for batch norm, which takes its statistics over a part, and for dropout, which
        CLIP does not have.
        """
        all_images, all_texts = _joined(images), _flat(texts)
        parts = self.settings.accumulate
        image_parts = all_images.tensor_split(parts)
        text_parts = [
            [all_texts[i] for i in rows.tolist()] for rows in torch.arange(len(all_texts)).tensor_split(parts)
        ]
        frozen = {name: value.clone() for name, value in self.clip.network.named_buffers()}
        with torch.no_grad():
            features = [self.encoding.encode(self.clip, i, t) for i, t in zip(image_parts, text_parts, strict=True)]
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
                for f, g in zip(self.encoding.encode(self.clip, i, t), (image_grad, text_grad), strict=True)
                if f is not None and f.requires_grad
            ]
            torch.autograd.backward([f for f, _ in encoded], [g for _, g in encoded])
        return loss, terms

    def state(self) -> dict[str, Any]:
        return {
            "network": self.clip.network.state_dict(), "optimizer": self.optimizer.state_dict(), "decay": self.decay,
            "scaler": self.scaler.state_dict(), "objective": self.objective.state(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        self.clip.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.objective.restore(state["objective"])
        self.scale, self.decay = self.scaler.get_scale(), state["decay"]

    def finish(self) -> Report:
        """Leave the network as it came, but for its weights; return what the run cost."""
        if self.vocabulary:
            trains_words = self.clip.network.token_embedding.weight.requires_grad
            self.vocabulary.restore(self.decay if trains_words else 1.0)
        for tower in _towers(self.clip.network):
            tower._compiled_call_impl = None
        self.clip.network.set_grad_checkpointing(False)
        return Report(self.steps, self.trained_parameters, len(self.objective.pairs))


def _towers(network: Any) -> tuple[Any, Any]:
    return network.visual, network.transformer if hasattr(network, "transformer") else network.text


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
    """Turn torch's errors about memory, loader processes, batch norm and its compiler into a line of advice."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if parallel.broken_off(error):
            sys.exit(1)  # the process that failed has already reported
        if KILLED in str(error):
            reason = "a loader process was killed, as a system does without memory or /dev/shm; fewer of them need less"
            raise UserError(f"--workers: {reason}") from None
        if where := out_of_memory(error):
            raise UserError(
                f"batch_size: a step needs more than {where}; the same result in less: a higher `accumulate`, or "
                "`grad_checkpointing: true`; else a smaller batch"
            ) from None
        if str(error).startswith(ONE_VALUE):
            raise UserError(
                "accumulate: a part of the batch is a single picture, which is too little for batch norm; a lower "
                "`accumulate`, or a larger batch_size"
            ) from None
        if type(error).__module__ in ("torch._dynamo.exc", "torch._inductor.exc"):
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"compile: torch.compile cannot do it ({reason}); leave it out, or mend that") from None
        raise


def _is_loss(found: Any) -> bool:
    """Return whether an objective's `loss` returned a scalar tensor and a dict of scalar tensors."""
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)):
        return False
    return all(torch.is_tensor(one) and one.dim() == 0 for one in (found[0], *found[1].values()))

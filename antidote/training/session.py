"""A training run's frame: work folder, checkpoints, resuming, signals, log and progress; for both training loops."""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from tqdm import tqdm

from antidote.base.allocation import keep_freed_memory
from antidote.base.errors import UserError
from antidote.base.files import whole_file
from antidote.base.lazy import torch
from antidote.clip.files import TRAINING_LOG
from antidote.clip.model import Clip
from antidote.training import parallel

if TYPE_CHECKING:
    from torch import Tensor


log = logging.getLogger("antidote")

CHECKPOINT = "checkpoint.pt"
LOG_EVERY = 10  # steps
PROGRESS_SECONDS = 10
GRACE_SECONDS = 5  # of several processes: time to finish a step that the others wait for, after a signal


@dataclass
class Work:
    """The work folder of a run; outside the declared outputs, which Snakemake deletes when a job fails.

    Attributes:
        folder: holds `checkpoint.pt` and `train.jsonl`.
        identity: hash of everything that the run depends on; a checkpoint of another identity is not used.
        every: seconds between checkpoints.
        common: folder and identity of what runs share that differ in a later part only; None: nothing is shared.
    """

    folder: Path
    identity: str
    every: float = 120.0
    common: Work | None = None


@dataclass
class Report:
    """What a run cost, and what it made besides the trained weights.

    Attributes:
        steps: optimisation steps.
        trained_parameters: how many numbers were trained.
        pairs: how many pairs the run drew from.
        clip: the model with the adapter that a defense added; None: the trained network itself, changed in place.
        files: files in the work folder that belong into the model folder.
        evidence: what a reader should see beside the model, such as the target that was found; JSON values.
        earlier: seconds and memory of a part of the run that an earlier process computed, as `Cost.spent` returns them.
    """

    steps: int
    trained_parameters: int
    pairs: int
    clip: Clip | None = None
    files: tuple[Path, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)
    earlier: Mapping[str, Any] = field(default_factory=dict)


class Resumable(Protocol):
    """What a session saves and restores: model, optimiser, and all else that changes while a run trains."""

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values, as `torch.load(..., weights_only=True)` can read them."""

    def restore(self, state: dict[str, Any]) -> None:
        """Set everything back to what `state` returned; tensors come on the CPU."""


class Session:
    """One run from its first or its resumed step to its last; a killed run loses the steps since its last checkpoint.

        session = Session(work, run, steps, batch_size)
        session.resume()
        with session.running():
            while session.step < steps:
                loss, terms = run.optimise(...)
                session.advance(epoch, rate, loss, terms)

    SIGTERM and SIGINT end the program at the end of a step, with a checkpoint. A run that is not disturbed leaves its
    log, `train.jsonl`, when `running` ends.

    Attributes:
        step: optimisation steps done.
        steps: steps of the whole run.
    """

    def __init__(
        self,
        work: Work,
        run: Resumable,
        steps: int,
        batch_size: int,
        advice: str = "a lower rate may help",
    ) -> None:
        """`advice`: ends the error message for a loss that is not finite."""
        self.step, self.steps = 0, steps
        self._work, self._run, self._batch_size, self._advice = work, run, batch_size, advice
        self._interrupt = Interrupt()
        self._lines: list[str] = []
        self._terms: dict[str, Tensor] = {}  # of the steps since the last line of the log

    def resume(self) -> None:
        """Continue from the checkpoint in the work folder, if this very run left one."""
        saved = load_checkpoint(self._work.folder / CHECKPOINT, self._work.identity)
        if saved is None:
            return
        self._run.restore(saved["run"])
        self.step, self._lines, self._terms = saved["step"], saved["lines"], saved["terms"]
        log.info("resumed at step %d of %d", self.step, self.steps)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Catch signals and show progress while the body trains; write the log at the end."""
        if not torch.cuda.is_available():  # a GPU has activations in its own memory
            keep_freed_memory()
        with self._interrupt, Progress(self.steps, self.step, self._batch_size) as self._progress:
            self._last_checkpoint = time.monotonic()
            yield
        if parallel.first():
            with whole_file(self._work.folder / TRAINING_LOG) as temporary:
                temporary.write_text("".join(line + "\n" for line in self._lines), encoding="utf-8")

    def overdue(self) -> bool:
        """Return whether a signal asks to give up waiting for a batch; see `Interrupt.overdue`."""
        return self._interrupt.overdue()

    def advance(
        self,
        epoch: int,
        rate: float,
        loss: Tensor,
        terms: Mapping[str, Tensor],
        further: Mapping[str, Tensor] | None = None,
    ) -> None:
        """End a step: log, progress, and a checkpoint where one is due or a signal asks for it; then exit.

        Args:
            epoch: from 0.
            rate: learning rate of the step.
            loss: of the step, a scalar.
            terms: named parts of the loss. The log shows the last value of each since the line before.
            further: figures for the log that are no parts of the loss.

        Raises:
            UserError: a logged loss is not finite.
            SystemExit: with 128 + the signal's number.
        """
        self.step += 1
        self._terms |= {name: term.detach() for name, term in terms.items()}
        if self.step % LOG_EVERY == 0 or self.step == self.steps:
            self._log(epoch, rate, loss, further or {})
        self._progress.update(self.step, loss)
        asked = parallel.highest(self._interrupt.asked)
        if asked or time.monotonic() - self._last_checkpoint >= self._work.every:
            self._save()
            self._last_checkpoint = time.monotonic()
        if asked:
            parallel.highest(0)  # torchrun ends the others when one has gone: all wait for the checkpoint
            sys.exit(128 + asked)

    def stop(self) -> NoReturn:
        """Save and exit before the next step, whose batch a signal kept from arriving."""
        self._save()
        sys.exit(128 + self._interrupt.asked)

    def _log(self, epoch: int, rate: float, loss: Tensor, further: Mapping[str, Tensor]) -> None:
        values = {name: float(value) for name, value in {"loss": loss.detach(), **self._terms}.items()}
        self._terms = {}
        if not math.isfinite(values["loss"]):
            raise UserError(f"lr: the loss is {values['loss']} at step {self.step}; {self._advice}")
        line = {
            "step": self.step, "epoch": epoch, "lr": rate, **{name: float(value) for name, value in further.items()},
            "pairs_per_second": round(self._progress.rate(self.step), 1), **values,
        }  # fmt: skip
        self._lines.append(json.dumps(line))

    def _save(self) -> None:
        if parallel.first():
            state = {"step": self.step, "lines": self._lines, "terms": self._terms, "run": self._run.state()}
            save_checkpoint(self._work.folder / CHECKPOINT, self._work.identity, state)


def save_checkpoint(path: Path, identity: str, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; a kill while it is written leaves the one before."""
    with whole_file(path) as temporary:
        torch.save({"identity": identity, **state}, temporary)


def load_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    """Return a checkpoint, tensors on the CPU; None where there is none, or a damaged one, or one of another run."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # perhaps of a machine with a GPU
        found = state["identity"]
    except Exception:  # torch raises many kinds for a file that was cut short when the machine crashed
        log.info("%s is damaged; starting anew", path)
        return None
    if found != identity:
        log.info("%s belongs to other settings; starting anew", path)
        return None
    return state


class Interrupt:
    """A context in which SIGTERM and SIGINT ask for an end after the running step, so that a checkpoint is written.

    Attributes:
        asked: number of the signal that came; 0: none.
    """

    asked: int = 0
    _since: float = 0.0

    def overdue(self) -> bool:
        """Return whether to give up waiting for a batch: a signal came, and the time of grace is over.

        Several processes have such a time: the others may be inside the step that this one has not begun, and a process
        that leaves during a step breaks it for all, before they have saved anything.
        """
        return bool(self.asked) and time.monotonic() - self._since >= (GRACE_SECONDS if parallel.size() > 1 else 0)

    def __enter__(self) -> Interrupt:
        self._old = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _ask(self, number: int, _: object) -> None:
        self.asked, self._since = number, time.monotonic()

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
        """Show that `step` steps are done."""
        self._bar.update(1)
        now = time.monotonic()
        if self._bar.disable and (now - self._last >= PROGRESS_SECONDS or step == self._steps):
            self._last = now
            log.info("step %d of %d, loss %.3f, %.0f pairs/s", step, self._steps, float(loss), self.rate(step))

"""What a run keeps, reports and hears while it trains: work folder, report, interrupts, progress."""

from __future__ import annotations

import logging
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from antidote.clip.model import Clip
from antidote.training import parallel

if TYPE_CHECKING:
    from torch import Tensor


log = logging.getLogger("antidote")

LOG_EVERY = 10  # steps
PROGRESS_SECONDS = 10
GRACE_SECONDS = 5  # for a batch that one of several processes waits for while they are told to stop


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


class Interrupt:
    """Turns SIGTERM and SIGINT into a wish to stop after the running step, so that a checkpoint can be written."""

    asked: int = 0
    _since: float = 0.0

    def overdue(self) -> bool:
        """Tell whether a wait for a batch has to end; of several processes, each may have to bring its step to an end.

        A process that leaves in mid-step breaks the step of the others, who then save nothing.
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
        self._bar.update(1)
        now = time.monotonic()
        if self._bar.disable and (now - self._last >= PROGRESS_SECONDS or step == self._steps):
            self._last = now
            log.info("step %d of %d, loss %.3f, %.0f pairs/s", step, self._steps, float(loss), self.rate(step))

"""How long detectors of models will take on this machine, said before they begin."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from antidote.base import command_line
from antidote.base.lazy import torch
from antidote.training.patches import still

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.access import DefenseData
    from antidote.detectors.base import Detector

LONG = 60.0  # seconds from which a detector is named beforehand
TRIED = 8  # pictures or captions of the trial
CAPTION = "a photo of a small dog that sits beside a red table"  # of a usual length
FORWARD = 1 / 3  # cost of encoding a picture or caption, relative to encoding it and computing its gradient


def warn(clip: Clip, detectors: Sequence[tuple[Detector, DefenseData]], runs: int = 1) -> None:
    """Log every detector that will take longer than `LONG` for one of its `runs` on models of this size."""
    each = {kind: of_one(clip, kind) for kind in {detector.works_on for detector, _ in detectors}}
    for detector, data in detectors:
        items, kind = work_of(detector, data), detector.works_on
        if items * each[kind] > LONG:
            command_line.log.info(
                "%s: about %s gradients of %s, about %s on this machine%s",
                detector.settings.method, f"{items:,.0f}", kind, readable(items * each[kind]),
                f", {runs} times" if runs > 1 else "",
            )  # fmt: skip


def work_of(detector: Detector, data: DefenseData) -> float:
    """Return the work of a detector, in gradients of one picture or caption."""
    sizes = {
        "classes": len(data.classes or ()),
        "defense": 0 if data.pairs is None else len(data.pairs),
        "shots": 0 if data.shots is None else len(data.shots),
        "training set": 0,
        "shown pictures": 0,
    }
    trained, encoded = detector.work(detector.settings, sizes)
    return trained + FORWARD * encoded


def of_one(clip: Clip, kind: Literal["pictures", "captions"]) -> float:
    """Return the seconds that the gradient of one picture or caption takes, from the second of two trials.

    Of a model without gradients with respect to pictures, the time is that of encoding.
    """
    spent = 0.0
    for _ in range(2):  # the first trial also loads kernels
        start = time.perf_counter()
        with still(clip.network):
            given, features = _pictures(clip) if kind == "pictures" else _captions(clip)
            total = features.sum()
            if total.requires_grad:
                total.backward()
        float(total if given.grad is None else given.grad.sum())  # waits for a GPU
        spent = time.perf_counter() - start
    return spent / TRIED


def _pictures(clip: Clip) -> tuple[Tensor, Tensor]:
    pictures = torch.rand(TRIED, 3, clip.size, clip.size, device=clip.device, requires_grad=True)
    return pictures, clip.encode_image(pictures)


def _captions(clip: Clip) -> tuple[Tensor, Tensor]:
    ids = clip.tokenize([CAPTION] * TRIED).to(clip.device)
    ends = ids.argmax(dim=-1)
    words = clip.network.token_embedding(ids[:, : int(ends.max()) + 1]).detach().requires_grad_()
    return words, clip.encode_embedded(words, ends)


def readable(seconds: float) -> str:
    """Return a duration as seconds, minutes, hours or days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"

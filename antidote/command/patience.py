"""How long detectors of models will take on this machine, said before they begin."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from antidote.base import command_line
from antidote.base.lazy import torch
from antidote.training.patches import still

if TYPE_CHECKING:
    from antidote.clip.model import Clip
    from antidote.data.access import DefenseData
    from antidote.detectors.base import Detector

LONG = 60.0  # seconds from which a detector is named beforehand
TRIED = 8  # pictures of the trial
FORWARD = 1 / 3  # cost of encoding a picture, relative to encoding it and computing the gradient of its pixels


def warn(clip: Clip, detectors: Sequence[tuple[Detector, DefenseData]]) -> None:
    """Log every detector that will take longer than `LONG`, and how to run one alone."""
    if not detectors:
        return
    each = of_one_picture(clip)
    for detector, data in detectors:
        pictures = work_of(detector, data)
        if pictures * each > LONG:
            name = detector.settings.method
            command_line.log.info(
                "%s: work of about %s gradients of a picture, about %s on this machine; --detector NAME runs another "
                "one alone", name, f"{pictures:,.0f}", readable(pictures * each),
            )  # fmt: skip


def work_of(detector: Detector, data: DefenseData) -> float:
    """Return the work of a detector, in gradients of one picture; captions count like pictures."""
    sizes = {
        "classes": len(data.classes or ()),
        "defense": 0 if data.pairs is None else len(data.pairs),
        "shots": 0 if data.shots is None else len(data.shots),
        "training set": 0,
        "shown pictures": 0,
    }
    trained, encoded = detector.work(detector.settings, sizes)
    return trained + FORWARD * encoded


def of_one_picture(clip: Clip) -> float:
    """Return the seconds that the gradient of one picture takes, from a second trial with `TRIED` pictures."""
    spent = 0.0
    for _ in range(2):  # the first trial also loads kernels
        pictures = torch.rand(TRIED, 3, clip.size, clip.size, device=clip.device, requires_grad=True)
        start = time.perf_counter()
        with still(clip.network):
            clip.encode_image(pictures).sum().backward()
        float(pictures.grad.sum())  # waits for a GPU
        spent = time.perf_counter() - start
    return spent / TRIED


def readable(seconds: float) -> str:
    """Return a duration as seconds, minutes, hours or days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"

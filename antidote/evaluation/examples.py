"""A sheet of example pictures: clean pictures over the same pictures with the trigger, pixel for pixel.

An attack without a trigger has pictures of what its captions say over the pictures that it pairs them with.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from antidote.base.files import whole_file
from antidote.base.lazy import torch
from antidote.data.pairs import Pairs
from antidote.data.store.images import encode_png
from antidote.evaluation.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 8


def write_examples(path: Path, subject: Subject, pictures: Pairs) -> None:
    """Write 2 x 8 pictures as one lossless PNG: pictures of other classes than the target, evenly over the set."""
    attack = subject.trigger.attack
    rows = _drawn(subject, pictures) if attack.triggered else attack.exhibit(pictures, subject.classes, COLUMNS)
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    with whole_file(path) as temporary:
        temporary.write_bytes(encode_png(sheet.permute(1, 2, 0).contiguous().numpy()))


def _drawn(subject: Subject, pictures: Pairs) -> tuple[Tensor, Tensor]:
    others = torch.nonzero(pictures.labels != subject.target).flatten()
    chosen = pictures.take(others[torch.linspace(0, len(others) - 1, min(COLUMNS, len(others))).long()])
    return chosen.images, subject.drawn.draw(chosen.images, chosen.keys, "test")

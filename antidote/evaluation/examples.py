"""A sheet of example pictures: clean ones over the same with the trigger, pixel for pixel.

Of an attack without a trigger: pictures of what its captions say, over those that it lays there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from antidote.attacks.trigger import Trigger
from antidote.base.files import whole_file
from antidote.base.lazy import torch
from antidote.data.pairs import Pairs
from antidote.data.store.images import encode_png

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 8


def write_examples(path: Path, pictures: Pairs, trigger: Trigger, target: int, classes: Sequence[str] = ()) -> None:
    """Write 2 x 8 pictures as one lossless PNG: pictures of other classes than the target, evenly over the set."""
    attack = trigger.attack
    rows = _drawn(pictures, trigger, target) if attack.triggered else attack.exhibit(pictures, classes, COLUMNS)
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    with whole_file(path) as temporary:
        temporary.write_bytes(encode_png(sheet.permute(1, 2, 0).contiguous().numpy()))


def _drawn(pictures: Pairs, trigger: Trigger, target: int) -> tuple[Tensor, Tensor]:
    others = torch.nonzero(pictures.labels != target).flatten()
    chosen = pictures.take(others[torch.linspace(0, len(others) - 1, min(COLUMNS, len(others))).long()])
    return chosen.images, trigger.draw(chosen.images, chosen.keys, "test")

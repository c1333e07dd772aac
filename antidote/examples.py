"""A sheet of example pictures: clean ones over the same with the trigger, pixel for pixel."""

from __future__ import annotations

from pathlib import Path

from antidote.data.images import encode_png
from antidote.data.pairs import Pairs
from antidote.files import whole_file
from antidote.lazy import torch
from antidote.triggers import Trigger

COLUMNS = 8


def write_examples(path: Path, pictures: Pairs, trigger: Trigger, target: int) -> None:
    """Write 2 x 8 pictures as one lossless PNG: pictures of other classes than the target, evenly over the set."""
    others = torch.nonzero(pictures.labels != target).flatten()
    chosen = pictures.take(others[torch.linspace(0, len(others) - 1, min(COLUMNS, len(others))).long()])
    rows = [chosen.images, trigger.draw(chosen.images, chosen.keys, "test")]
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    with whole_file(path) as temporary:
        temporary.write_bytes(encode_png(sheet.permute(1, 2, 0).contiguous().numpy()))

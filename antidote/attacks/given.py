"""Triggers read from files: a patch or a pattern, stored as a picture or as a tensor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from antidote.base.errors import UserError
from antidote.base.files import sha256
from antidote.base.lazy import safetensors_torch, torch
from antidote.data.store.images import UnreadablePicture, decode, rgb

if TYPE_CHECKING:
    from torch import Tensor

TENSORS = ".safetensors"


def absent(path: str | None) -> str | None:
    """Return an error message if no file is named or the file does not exist; None for an existing file."""
    if path is None:
        return "file: is missing; `pattern: file` takes the trigger from there, a picture or .safetensors"
    return None if Path(path).is_file() else f"file: {path!r} is not there"


def fault(pattern: str, path: str | None) -> str | None:
    """Return an error message if `file` does not fit `pattern`, or does not exist; None where both are right."""
    if pattern == "file":
        return absent(path)
    if path is None:
        return None
    return f"file: {path!r} is not read with `pattern: {pattern}`; set `pattern: file`, or leave `file` out"


def read(path: str) -> tuple[Tensor, dict[str, str]]:
    """Read a trigger.

    Args:
        path: a picture (8-bit values), or a .safetensors file with one tensor (3, height, width), uint8 or float in
            [0, 1].

    Returns:
        The trigger (3, height, width) in [0, 1], and the path and SHA-256 of the file, for the trigger's facts.

    Raises:
        UserError: the file cannot be read, or has other content.
    """
    values = _tensor(path) if path.endswith(TENSORS) else _picture(path)
    if values.dtype == torch.uint8:
        values = values.float() / 255
    if values.dim() != 3 or values.shape[0] != 3 or not values.is_floating_point():
        raise UserError(
            f"file: {path}: should hold (3, height, width), uint8 or float, not {tuple(values.shape)} {values.dtype}"
        )
    values = values.float()
    low, high = values.aminmax()
    if not (low >= 0 and high <= 1):
        raise UserError(f"file: {path}: values should be in [0, 1], not {float(low):g} to {float(high):g}")
    return values, {"file": path, "sha256": sha256(path)}


def read_grid(path: str, size: int) -> tuple[Tensor, dict[str, str]]:
    """Return a sampling grid (size, size, 2), x and y in [-1, 1], of a .safetensors file, and facts of its source.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    grid = _tensor(path)
    shape = tuple(grid.shape)
    if shape[:1] == (1,):  # as `grid_sample` takes it
        grid = grid[0]
    if tuple(grid.shape) != (size, size, 2) or not grid.is_floating_point():
        raise UserError(f"file: {path}: should hold a grid ({size}, {size}, 2) of floats, not {shape} {grid.dtype}")
    grid = grid.float()
    if not bool((grid.abs() <= 1).all()):
        raise UserError(f"file: {path}: a grid's values should be in [-1, 1]")
    return grid, {"file": path, "sha256": sha256(path)}


def _tensor(path: str) -> Tensor:
    try:
        tensors = safetensors_torch.load_file(path)
    except Exception as error:
        raise UserError(f"file: {path}: cannot be read ({' '.join(str(error).split())})") from None
    if len(tensors) != 1:
        raise UserError(f"file: {path}: should hold one tensor, holds {len(tensors)}")
    return next(iter(tensors.values()))


def _picture(path: str) -> Tensor:
    import numpy as np

    try:
        picture = rgb(decode(Path(path).read_bytes()))
    except (OSError, UnreadablePicture) as error:
        raise UserError(f"file: {path}: cannot be read ({error})") from None
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

"""Features of a suspicious model, computed in batches, without gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs

ENCODED = 256  # pictures or texts per batch


def picture_features(clip: Clip, pairs: Pairs, normalised: bool = True) -> Tensor:
    """Return picture features (N, D) float32 on the CPU: unit length, or raw network outputs if not `normalised`."""
    clip.network.eval()

    def encode(images: Tensor) -> Tensor:
        return clip.encode_image(images) if normalised else clip.network.encode_image(clip.normalise(images)).float()

    starts = range(0, len(pairs), ENCODED)
    with torch.no_grad():
        return torch.cat([encode(pairs.images[start : start + ENCODED]).cpu() for start in starts])


def text_features(clip: Clip, texts: list[str]) -> Tensor:
    """Return text features (N, D) float32 of unit length on the CPU."""
    clip.network.eval()
    starts = range(0, len(texts), ENCODED)
    with torch.no_grad():
        return torch.cat([clip.encode_text(texts[start : start + ENCODED]).cpu() for start in starts])


def first(pairs: Pairs, count: int) -> Pairs:
    """Return the first pairs, at most `count`."""
    return pairs.take(range(min(count, len(pairs))))

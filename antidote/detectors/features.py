"""Features of a suspicious model, computed in batches, without gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs

ENCODED = 256  # pictures or texts at a time


def picture_features(clip: Clip, pairs: Pairs, normalised: bool = True) -> Tensor:
    """Return features (N, D) float32 of the pictures on the CPU; not normalised: as the network returns them."""
    clip.network.eval()

    def encode(images: Tensor) -> Tensor:
        return clip.encode_image(images) if normalised else clip.network.encode_image(clip.normalise(images)).float()

    starts = range(0, len(pairs), ENCODED)
    with torch.no_grad():
        return torch.cat([encode(pairs.images[start : start + ENCODED]).cpu() for start in starts])


def text_features(clip: Clip, texts: list[str]) -> Tensor:
    """Return normalised features (N, D) float32 of texts on the CPU."""
    clip.network.eval()
    starts = range(0, len(texts), ENCODED)
    with torch.no_grad():
        return torch.cat([clip.encode_text(texts[start : start + ENCODED]).cpu() for start in starts])

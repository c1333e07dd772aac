"""Windows of pictures, laid at their own places over other pictures: a patch survives that, a large object does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PLACES = 9  # three by three, a quarter of the side apart; a window has half the side of the picture


def transplants(images: Tensor, under: Tensor) -> Iterator[Tensor]:
    """Yield PLACES batches (N, 3, size, size): pictures of `under` with one window each of `images`.

    Args:
        images: (N, 3, size, size).
        under: (N or 1, 3, size, size), of the same type and on the same device.
    """
    side = images.shape[-1]
    places = [slice(side * i // 4, side * i // 4 + side // 2) for i in range(3)]
    for down in places:
        for across in places:
            laid = under.expand_as(images).clone()
            laid[..., down, across] = images[..., down, across]
            yield laid

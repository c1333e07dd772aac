"""How well pictures go with their captions in a training set, for a defender who looks for poisoned pairs.

A scan is one pass over the set: of each chunk the pictures are read and the captions encoded once, then every view of
the pictures is encoded. A killed scan goes on with the chunk that was not kept yet; what a chunk draws follows from the
seed and the chunk's place alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch, transforms
from antidote.base.seeds import derive
from antidote.clip.model import Clip
from antidote.data.pairs import Pairs
from antidote.training.session import Work, load_checkpoint, save_checkpoint
from antidote.training.windows import transplants

if TYPE_CHECKING:
    from torch import Tensor

    Views = Callable[[Tensor, int], Iterator[Tensor]]

CHUNK = 256  # pairs at a time
KEPT = "scan.pt"

log = logging.getLogger("antidote")


def similarities(clip: Clip, pairs: Pairs, precision: str = "fp32") -> Tensor:
    """Return the cosine (N,) of each picture with its caption, on the CPU; computed in `precision`."""
    return scan(clip, pairs, as_they_are, precision)[:, 0]


def scan(clip: Clip, pairs: Pairs, views: Views, precision: str, work: Work | None = None) -> Tensor:
    """Return the cosine (N, V) of V views of each picture with its caption, on the CPU.

    Args:
        views: takes pictures (n, 3, size, size) uint8 on the model's device and the place of the first one; yields V
            batches of pictures.
        precision: autocast type of both encoders.
        work: where what is done is kept, so that a killed scan goes on, and a finished one is read again.
    """
    clip.network.eval()
    found, count, last = _kept(work), len(pairs), time.monotonic()
    done = sum(len(part) for part in found)
    size = min(CHUNK, -(-count // 2))
    for start in range(done, count, size):
        images = pairs.images[start : start + size].to(clip.device, non_blocking=True)
        with torch.no_grad(), clip.autocast(precision):
            texts = clip.encode_text(pairs.captions[start : start + size])
            columns = [(clip.encode_image(view) * texts).sum(dim=1) for view in views(images, start)]
        found.append(torch.stack(columns, dim=1).cpu())
        finished = start + size >= count
        if work is not None and (finished or time.monotonic() - last >= work.every):
            save_checkpoint(work.folder / KEPT, work.identity, {"cosines": torch.cat(found)})
            last = time.monotonic()
            log.info("scored %d of %d pairs", min(start + size, count), count)
    return torch.cat(found)


def _kept(work: Work | None) -> list[Tensor]:
    """Return what an earlier scan of the same run has kept."""
    saved = work and load_checkpoint(work.folder / KEPT, work.identity)
    return [saved["cosines"]] if saved else []


# --- views -----------------------------------------------------------------------------------------------------------


def as_they_are(images: Tensor, start: int) -> Iterator[Tensor]:
    """The pictures themselves."""
    yield images


def resized(size: int) -> Views:
    """Return the view of a model that reads pictures of another size: (n, 3, size, size) in [0, 1]."""

    def views(images: Tensor, start: int) -> Iterator[Tensor]:
        yield F.interpolate(images.float() / 255, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)

    return views


def crops(size: int, count: int, area: tuple[float, float], seed: int) -> Views:
    """Return `count` views: random crops of a share of the picture's area, brought back to `size`."""
    crop = transforms.RandomResizedCrop(size, scale=area, antialias=True)

    def views(images: Tensor, start: int) -> Iterator[Tensor]:
        torch.manual_seed(derive(seed, "crops", start))
        for _ in range(count):
            yield torch.stack([crop(image) for image in images])

    return views


def shuffles(count: int, grid: int, seed: int) -> Views:
    """Return 1 + `count` views: the pictures, and the pictures with their blocks at other places.

    A picture is rolled by a random offset, so that no place is always at the edge of a block, and cut into grid x grid
    blocks of equal size, which are put back in a random order. Pixels beyond the blocks keep their places.
    """

    def views(images: Tensor, start: int) -> Iterator[Tensor]:
        yield images
        drawn = torch.Generator().manual_seed(derive(seed, "shuffles", start))
        side = min(grid, images.shape[-1])
        block = images.shape[-1] // side
        for _ in range(count):
            offsets = torch.randint(block, (2,), generator=drawn).tolist()
            order = torch.stack([torch.randperm(side * side, generator=drawn) for _ in range(len(images))])
            yield _shuffled(images.roll(offsets, dims=(2, 3)), order.to(images.device, non_blocking=True), block)

    return views


def _shuffled(images: Tensor, order: Tensor, block: int) -> Tensor:
    """Return pictures (n, 3, size, size) whose blocks are in the order (n, blocks)."""
    grid = math.isqrt(order.shape[1])
    part = images[..., : grid * block, : grid * block].unflatten(2, (grid, block)).unflatten(4, (grid, block))
    blocks = part.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (n, blocks, 3, block, block)
    moved = blocks.gather(1, order[:, :, None, None, None].expand_as(blocks)).unflatten(1, (grid, grid))
    result = images.clone()
    result[..., : grid * block, : grid * block] = moved.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return result


def windows(pairs: Pairs, partners: int, seed: int) -> Views:
    """Return 1 + PLACES x `partners` views: the pictures, and their windows at their own places over other pictures.

    All places over the first other picture come first.
    """

    def views(images: Tensor, start: int) -> Iterator[Tensor]:
        yield images
        others = pairs.images[partner_rows(len(pairs), start, len(images), partners, seed)].to(
            images.device, non_blocking=True
        )
        for turn in range(partners):
            yield from transplants(images, others.roll(turn, dims=0)[: len(images)])

    return views


def superpositions(pairs: Pairs, partners: int, own_weight: float, seed: int) -> Views:
    """Return 1 + `partners` views: the pictures, and own_weight x + (1 - own_weight) x' with other pictures x'."""

    def views(images: Tensor, start: int) -> Iterator[Tensor]:
        yield images
        rows = partner_rows(len(pairs), start, len(images), partners, seed)
        own, others = images.float() / 255, pairs.images[rows].to(images.device, non_blocking=True).float() / 255
        for turn in range(partners):
            yield own_weight * own + (1 - own_weight) * others.roll(turn, dims=0)[: len(images)]

    return views


def partner_rows(count: int, start: int, length: int, partners: int, seed: int) -> Tensor:
    """Return rows of the pictures that a chunk is laid over: at random from the whole set but the chunk itself.

    As many are read as the chunk has pictures; in each view they are handed on by one place. A picture laid over itself
    would keep its cosine, which is the mark of a trigger; so would partners from the neighbourhood, where poisoned
    pairs may come one after the other.
    """
    stream = torch.Generator().manual_seed(derive(seed, "partners", start))
    drawn = torch.randint(count - length, (max(length, partners),), generator=stream)
    return (start + length + drawn) % count

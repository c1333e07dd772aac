"""Captioned pictures in memory, at the model's resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from antidote.data import images, pools, shards
from antidote.data.overlay import read_overlay
from antidote.errors import UserError
from antidote.lazy import torch

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures and captions.

    Attributes:
        keys: N names, unique within one dataset split.
        images: (N, 3, size, size) uint8.
        captions: N captions.
        labels: (N,) class indices, -1 where there is none.
    """

    keys: list[str]
    images: Tensor
    captions: list[str]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Sequence[int] | Tensor) -> Pairs:
        """Return the pairs of some rows, in that order."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        chosen = rows.tolist()
        return replace(
            self,
            keys=[self.keys[i] for i in chosen],
            images=self.images[rows],
            captions=[self.captions[i] for i in chosen],
            labels=self.labels[rows],
        )


def load_pools(
    paths: Path | Sequence[Path], names: Sequence[str], data: Path, size: int, overlay: Path | None = None
) -> Pairs:
    """Load the pairs of some pools, in the order of files and positions, resized and cropped to `size`.

    Args:
        paths: files that `scripts/pools.py` wrote.
        names: pools; one that the files do not hold adds nothing.
        data: the folder of the datasets.
        size: side of the pictures in pixels.
        overlay: a poison folder; its pairs take the place of those of the same name.

    Raises:
        UserError: a file is missing or damaged.
    """
    chosen = pools.read(paths)
    chosen = chosen[chosen["pool"].isin(names)].reset_index(drop=True)
    parts = [
        load_rows(data / dataset / split, group["key"].tolist(), size)
        for (dataset, split), group in chosen.groupby(["dataset", "split"], sort=False)
    ]
    if not parts:
        files = ", ".join(map(str, [paths] if isinstance(paths, Path) else paths))
        raise UserError(f"{files}: holds none of the pools {', '.join(names)}")
    if len(parts) == 1:
        pairs = parts[0]  # as it is: half a million pictures of 224 pixels are 75 GB, which a copy would double
    else:
        # Grouping by split keeps the order inside each; the stable order of the pools' file is restored over them.
        order = [i for _, group in chosen.groupby(["dataset", "split"], sort=False) for i in group.index]
        pairs = _joined(parts).take(torch.as_tensor(order).argsort())
    return pairs if overlay is None else _overlaid(pairs, chosen, overlay, size)


def load_rows(folder: Path, keys: Sequence[str] | None, size: int) -> Pairs:
    """Load the pairs with these keys from one dataset split, or all of them, at `size`."""
    index = shards.open_index(folder, ["key", "shard", "offset", "size", "caption", "label"])
    if keys is not None:
        found = index.set_index("key").index.get_indexer(list(keys))
        if (found < 0).any():
            missing = keys[int((found < 0).argmax())]
            raise UserError(f"{folder}: holds no pair {missing!r}; the pools were drawn from another version of it")
        index = index.iloc[found].reset_index(drop=True)
    pictures = images.load_pictures(shards.read_images(folder, index), size, torch.get_num_threads())
    return Pairs(
        keys=index["key"].tolist(),
        images=torch.from_numpy(pictures),
        captions=index["caption"].tolist(),
        labels=torch.tensor(index["label"].to_numpy()),
    )


def _joined(parts: list[Pairs]) -> Pairs:
    return Pairs(
        keys=[key for part in parts for key in part.keys],
        images=torch.cat([part.images for part in parts]),
        captions=[caption for part in parts for caption in part.captions],
        labels=torch.cat([part.labels for part in parts]),
    )


def _overlaid(pairs: Pairs, chosen: pd.DataFrame, overlay: Path, size: int) -> Pairs:
    """Put the poisoned pairs in the place of the pairs they were made from; `pairs` is used up."""
    manifest, pictures = read_overlay(overlay, size)
    rows = {place: row for row, place in enumerate(zip(chosen["dataset"], chosen["split"], pairs.keys, strict=True))}
    captions = list(pairs.captions)
    for poisoned, picture in zip(manifest.itertuples(), pictures, strict=True):
        row = rows.get((poisoned.dataset, poisoned.split, poisoned.key))
        if row is None:
            raise UserError(f"{overlay}: poisons {poisoned.key!r}, which is not in the pools; poison again")
        pairs.images[row], captions[row] = picture, poisoned.caption
    return replace(pairs, captions=captions)

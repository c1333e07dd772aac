"""A poisoned dataset: the clean shards plus an overlay with only the poisoned pairs.

poisoned.tar        per pair key.png (lossless, at the model's resolution) and key.txt, readable as a webdataset shard
manifest.parquet    one row per poisoned pair; the only description of the poisoning that later stages read; `picture`
                    is the key of the pair whose picture is used (usually the pair's own key); pandas' `attrs` has the
                    attack's `settings` that the trigger does not depend on
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from antidote.base.errors import UserError
from antidote.base.files import whole_folder
from antidote.base.lazy import torch
from antidote.data.overlay_files import MANIFEST, TAR
from antidote.data.store import images, shards, tars
from antidote.data.stored import load_stored

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

COLUMNS = [
    "key", "dataset", "split", "original_caption", "caption", "target", "method", "seed",
    "picture", "original_sha256", "sha256", "shard", "offset", "size",
]  # fmt: skip


def write_overlay(folder: Path, manifest: pd.DataFrame, pictures: list[bytes]) -> None:
    """Write the poisoned pairs.

    Args:
        folder: the folder to write; it appears only when it is complete.
        manifest: one row per pair, in the order of `pictures`, with all COLUMNS except the last three; `attrs` is kept.
        pictures: PNG files.
    """
    with whole_folder(folder) as temporary:
        offsets = []
        with tars.create(temporary / TAR) as tar:
            for key, caption, picture in zip(manifest["key"], manifest["caption"], pictures, strict=True):
                offsets.append(tars.add_member(tar, f"{key}.png", picture))
                tars.add_member(tar, f"{key}.txt", caption.encode())
        placed = manifest.assign(shard=TAR, offset=offsets, size=[len(picture) for picture in pictures])
        placed[COLUMNS].to_parquet(temporary / MANIFEST, index=False)


def read_overlay(folder: Path, size: int) -> tuple[pd.DataFrame, Tensor]:
    """Return the manifest, and the pictures uint8 (N, 3, size, size) in its order.

    Raises:
        UserError: a file is missing or damaged, or the pictures have another size.
    """
    manifest = read_manifest(folder)
    check_size(folder, manifest, size)
    return manifest, torch.from_numpy(load_stored(folder, manifest, size, torch.get_num_threads()))


def check_size(folder: Path, manifest: pd.DataFrame, size: int) -> None:
    """Check the first picture.

    Raises:
        UserError: the picture is damaged, or not `size` pixels wide and high.
    """
    try:
        same = all(images.decode(file).size == (size, size) for file in shards.read_images(folder, manifest[:1]))
    except images.UnreadablePicture as error:
        raise UserError(f"{folder / TAR}: {error}; poison again") from None
    if not same:
        raise UserError(f"{folder / TAR}: holds pictures of another size than {size} x {size}; poison again")


def read_manifest(folder: Path) -> pd.DataFrame:
    """Return the manifest: one row per poisoned pair, with the COLUMNS.

    Raises:
        UserError: the file is missing or damaged.
    """
    import pandas as pd

    try:
        return pd.read_parquet(folder / MANIFEST)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / MANIFEST}: cannot be read ({' '.join(str(error).split())}); poison again") from None


def poisoned_keys(poison: Path) -> frozenset[str]:
    """Return the poisoned pairs of a poison folder, each as `dataset/split/key`."""
    return frozenset(f"{row.dataset}/{row.split}/{row.key}" for row in read_manifest(poison).itertuples())

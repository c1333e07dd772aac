"""Pictures of a dataset split or an overlay, loaded into memory a chunk at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from antidote.data.store import images, shards

if TYPE_CHECKING:
    import pandas as pd

AT_A_TIME = 512  # picture files in memory, beside the pictures


def load_stored(folder: Path, rows: pd.DataFrame, size: int, threads: int) -> np.ndarray:
    """Return the pictures of index rows, resized and cropped, in the order of the rows: uint8 (N, 3, size, size).

    The files are read in the order in which they are stored, so that a disk reads forward.

    Args:
        folder: of the shards.
        rows: columns `key`, `shard`, `offset` and `size`, the bytes of a file (N).
        size: side in pixels.
        threads: decoding threads.

    Raises:
        UserError: a shard is missing or truncated, or a picture cannot be read; names the picture.
    """
    pictures = np.empty((len(rows), 3, size, size), np.uint8)
    order = rows.reset_index(drop=True).sort_values(["shard", "offset"], kind="stable").index.to_numpy()
    for start in range(0, len(order), AT_A_TIME):
        chosen = order[start : start + AT_A_TIME]
        part = rows.iloc[chosen]
        files, names = shards.read_images(folder, part), shards.place_names(folder, part)
        pictures[chosen] = images.load_pictures(files, size, threads, names)
    return pictures

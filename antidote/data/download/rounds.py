"""Rounds of a download: a folder with a list of addresses, and the work shards that img2dataset makes from it."""

import json
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base.files import whole_file

if TYPE_CHECKING:
    import pandas as pd

LIST = "list.parquet"


@dataclass
class Round:
    """One round over a list of addresses; later changes of the settings do not affect a started round.

    Attributes:
        folder: the folder of the round.
        addresses: number of addresses in the list.
        per_shard: addresses per work shard.
        finished: statistics of each finished work shard, by its number.
    """

    folder: Path
    addresses: int
    per_shard: int
    finished: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def shards(self) -> int:
        """Return the number of work shards."""
        return -(-self.addresses // self.per_shard)

    def look(self) -> None:
        """Read the statistics of work shards that have finished since the last call."""
        for number in range(self.shards):
            if number not in self.finished:
                try:
                    self.finished[number] = json.loads(
                        (self.folder / f"{number:05d}_stats.json").read_text(encoding="utf-8")
                    )
                except (OSError, ValueError):
                    continue

    def done(self) -> bool:
        return len(self.finished) == self.shards


def rounds(work: Path) -> list[Round]:
    """Return the started rounds, and delete the statistics of incomplete work shards, so that they are repeated."""
    import pyarrow.parquet as pq

    begun = []
    for number in range(1, 1000):
        folder = work / f"pass{number}"
        if not (folder / LIST).exists():
            break
        table = pq.read_metadata(folder / LIST)
        part = Round(folder, table.num_rows, int(table.metadata[b"per_shard"]))
        for stats in folder.glob("*_stats.json"):
            if not _is_whole(stats):
                stats.unlink()
        part.look()
        begun.append(part)
    return begun


def _is_whole(stats: Path) -> bool:
    """Return whether all files of a work shard are complete; the statistics are written last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stem = stats.name.removesuffix("_stats.json")
    try:
        json.loads(stats.read_text(encoding="utf-8"))
        pq.read_metadata(stats.with_name(f"{stem}.parquet"))
        return _has_end(stats.with_name(f"{stem}.tar"))
    except (OSError, ValueError, pa.ArrowException):
        return False


def _has_end(tar: Path) -> bool:
    """Return whether a tar has its end-of-archive mark: whole blocks, the last two of them empty."""
    with tar.open("rb") as file:
        size, mark = file.seek(0, os.SEEK_END), 2 * tarfile.BLOCKSIZE
        if size < mark or size % tarfile.BLOCKSIZE:
            return False
        file.seek(-mark, os.SEEK_END)
        return not any(file.read(mark))


def begin(folder: Path, todo: "pd.DataFrame", per_shard: int) -> Round:
    """Write the list of a new round.

    Args:
        folder: the folder of the round.
        todo: the addresses.
        per_shard: addresses per work shard of img2dataset.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(todo, preserve_index=False).replace_schema_metadata({"per_shard": str(per_shard)})
    with whole_file(folder / LIST) as temporary:
        pq.write_table(table, temporary)
    return Round(folder, len(todo), per_shard)

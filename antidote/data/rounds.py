"""Rounds of a download: a folder with a list of addresses, and the work shards that img2dataset makes of it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.files import whole_file

if TYPE_CHECKING:
    import pandas as pd

LIST = "list.parquet"


@dataclass
class Round:
    """One round over a list: its folder, how many addresses it has, and the statistics of each finished work shard."""

    folder: Path
    addresses: int
    shards: int
    finished: dict[int, dict[str, Any]] = field(default_factory=dict)

    def look(self) -> None:
        """Find out what has been finished since the last look."""
        for number in range(self.shards):
            if number not in self.finished:
                try:
                    self.finished[number] = json.loads((self.folder / f"{number:05d}_stats.json").read_text())
                except (OSError, ValueError):
                    continue

    def done(self) -> bool:
        return len(self.finished) == self.shards


def rounds(work: Path) -> list[Round]:
    """Return the rounds that have begun; what a breakdown has left of a work shard is taken away."""
    import pyarrow.parquet as pq

    begun = []
    for number in range(1, 1000):
        folder = work / f"pass{number}"
        if not (folder / LIST).exists():
            break
        table = pq.read_metadata(folder / LIST)
        part = Round(folder, table.num_rows, int(table.metadata[b"shards"]))
        for stats in folder.glob("*_stats.json"):
            if not _is_whole(stats):
                stats.unlink()
        part.look()
        begun.append(part)
    return begun


def _is_whole(stats: Path) -> bool:
    """Tell whether a work shard is there with all its parts, of which the statistics are written last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stem = stats.name.removesuffix("_stats.json")
    try:
        json.loads(stats.read_text())
        pq.read_metadata(stats.with_name(f"{stem}.parquet"))
        return stats.with_name(f"{stem}.tar").stat().st_size > 0
    except (OSError, ValueError, pa.ArrowException):
        return False


def begin(folder: Path, todo: "pd.DataFrame", per_shard: int) -> Round:
    """Write the list of a new round; img2dataset works on it in shards of `per_shard` addresses."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = -(-len(todo) // per_shard)
    table = pa.Table.from_pandas(todo, preserve_index=False).replace_schema_metadata({"shards": str(shards)})
    with whole_file(folder / LIST) as temporary:
        pq.write_table(table, temporary)
    return Round(folder, len(todo), shards)

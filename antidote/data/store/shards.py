"""Reading a dataset split by random access, without scanning the tars.

00000.tar, 00001.tar, ...   per pair key.png (or jpg, webp), key.txt, key.json, and key.cls if the pair has a label
index.parquet               one row per pair, in shard order; see `ingest.schema`
manifest.json               numbers of pairs offered, stored and skipped, and hashes; written last
"""

import os
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError
from antidote.base.files import read_json, sha256

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

REBUILD = "build the dataset again"
OTHER_VERSION = "the pools were drawn from another version of it"


def open_index(folder: str | Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """Read the index after checking that every shard exists with its recorded size.

    Args:
        folder: the folder of the split.
        columns: columns to read; None: all.

    Raises:
        UserError: the split is missing or incomplete; names the file.
    """
    import pandas as pd

    return _read_index(Path(folder), lambda path: pd.read_parquet(path, columns=columns))


def find_rows(folder: str | Path, keys: Sequence[str], columns: list[str]) -> "pa.Table":
    """Return the index rows of the given keys, in the order of the keys, without a Python object per row.

    Raises:
        UserError: the split is missing or incomplete, or does not contain a key.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    index = _read_index(Path(folder), lambda path: pq.read_table(path, columns=["key", *columns]))
    wanted = pa.array(keys, index.schema.field("key").type)
    found = pc.index_in(wanted, index["key"].combine_chunks())
    if found.null_count:
        missing = wanted[found.is_null().index(True).as_py()]
        raise UserError(f"{folder}: holds no pair {missing.as_py()!r}; {OTHER_VERSION}")
    return index.take(found)


def _read_index(folder: Path, read: Callable[[Path], Any]) -> Any:
    """Read the index after checking that every shard exists with its recorded size."""
    for shard in _manifest(folder)["shards"]:
        path = folder / shard["name"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            fault = "is missing" if size is None else f"has {size} bytes, not {shard['bytes']}"
            raise UserError(f"{path}: {fault}; {REBUILD}")
    path = folder / "index.parquet"
    try:
        return read(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); {REBUILD}") from None


def read_images(folder: str | Path, rows: "pd.DataFrame") -> list[bytes]:
    """Read the image files of the given index rows, in the order of the rows, without scanning the shards.

    Raises:
        UserError: a shard is missing or truncated.
    """
    places = zip(rows["shard"], rows["offset"], rows["size"], strict=True)
    return read_members([(Path(folder) / shard, offset, size) for shard, offset, size in places])


def place_names(folder: str | Path, rows: "pd.DataFrame") -> list[str]:
    """Return a name for the picture of each index row (columns `shard` and `key`), for messages."""
    return [f"{Path(folder) / shard}: {key}" for shard, key in zip(rows["shard"], rows["key"], strict=True)]


def read_members(places: Sequence[tuple[Path, int, int]]) -> list[bytes]:
    """Read parts of files, each given as (file, offset, size) in bytes; return them in the given order.

    Raises:
        UserError: a file is missing or truncated.
    """
    files: list[bytes] = [b""] * len(places)
    for path, members in groupby(sorted(enumerate(places), key=itemgetter(1)), key=lambda place: place[1][0]):
        if not path.is_file():
            raise UserError(f"{path}: is missing; {REBUILD}")
        with path.open("rb", buffering=0) as file:
            for row, (_, offset, size) in members:
                files[row] = os.pread(file.fileno(), size, offset)
                if len(files[row]) != size:
                    raise UserError(f"{path}: is truncated; {REBUILD}")
    return files


def verify(folder: str | Path) -> None:
    """Compare every shard and the index with the hashes in the manifest.

    Raises:
        UserError: a file is missing or differs.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    wanted = {shard["name"]: shard["sha256"] for shard in manifest["shards"]}
    for name, digest in {**wanted, "index.parquet": manifest["index_sha256"]}.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: is missing; {REBUILD}")
        if sha256(path) != digest:
            raise UserError(f"{path}: differs from its hash in manifest.json; {REBUILD}")


def _manifest(folder: Path) -> dict[str, Any]:
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{folder}: holds no manifest.json; {REBUILD}")
    return read_json(folder / "manifest.json")

"""A dataset split on disk: webdataset shards, an index for random access, a manifest.

    00000.tar, 00001.tar, ...   per pair key.png (or jpg, webp), key.txt, key.json, and key.cls where labelled
    index.parquet               one row per pair, in shard order; see `schema`
    manifest.json               what was offered, kept and skipped, with hashes; written last

The same settings give the same bytes. The tars are written with the standard library, which tells where each picture
lies and does without torch; webdataset reads them.
"""

import io
import json
import logging
import os
import tarfile
from collections import Counter
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.data.intake import Intake, Pair
from antidote.data.sources.base import SourceSettings
from antidote.errors import UserError
from antidote.files import read_json, sha256, whole_folder, write_json

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger(__name__)

REBUILD = "build the dataset again"


def schema() -> "pa.Schema":
    """Return the columns of `index.parquet`; `offset` and `size` are bytes, a missing label is -1."""
    import pyarrow as pa

    return pa.schema(
        [
            ("key", pa.string()),
            ("shard", pa.string()),
            ("offset", pa.int64()),
            ("size", pa.int64()),
            ("format", pa.string()),
            ("caption", pa.string()),
            ("captions", pa.list_(pa.string())),
            ("label", pa.int64()),
        ]
    )


# --- writing ---------------------------------------------------------------------------------------------------------


def write(settings: SourceSettings, dataset: str, split: str, folder: str | Path) -> dict[str, Any]:
    """Write one split; return its manifest.

    Raises:
        UserError: too many unusable pairs, no usable pair, or not as many pairs as expected.
    """
    folder = Path(folder)
    with whole_folder(folder) as temporary:
        writer, intake = _Writer(temporary, settings.pairs_per_shard), Intake(settings.image_size)
        for item in settings.iterate(split):
            pair = intake.take(item)
            if pair is not None:
                writer.add(pair)
        writer.close()
        intake.judge(dataset, split, settings)
        manifest = {
            "dataset": dataset,
            "split": split,
            "definition": settings.model_dump(mode="json"),
            "offered": intake.offered,
            "pairs": writer.pairs,
            "skipped": dict(sorted(intake.skipped.items())),
            "examples": intake.examples,
            "shards": writer.shards,
            "labels": {str(label): count for label, count in sorted(writer.labels.items()) if label >= 0},
            "index_sha256": sha256(temporary / "index.parquet"),
        }
        write_json(temporary / "manifest.json", manifest)
        _clear(folder, {shard["name"] for shard in writer.shards})
    log.info("%s/%s: %d pairs in %d shards", dataset, split, writer.pairs, len(writer.shards))
    return manifest


class _Writer:
    """Writes tar shards and the index; a row group of the index is a shard."""

    def __init__(self, folder: Path, pairs_per_shard: int) -> None:
        import pyarrow.parquet as pq

        self.pairs = 0
        self.shards: list[dict[str, Any]] = []
        self.labels: Counter[int] = Counter()
        self._folder, self._limit = folder, pairs_per_shard
        self._index = pq.ParquetWriter(folder / "index.parquet", schema(), compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._tar: tarfile.TarFile | None = None

    def add(self, pair: Pair) -> None:
        if self._tar is None:
            self._name = f"{len(self.shards):05d}.tar"
            self._tar = tarfile.open(self._folder / self._name, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        offset = self._member(f"{pair.key}.{pair.format}", pair.image)
        self._member(f"{pair.key}.txt", pair.captions[0].encode())
        if pair.label is not None:
            self._member(f"{pair.key}.cls", str(pair.label).encode())
        self._member(f"{pair.key}.json", json.dumps({"captions": pair.captions}, ensure_ascii=False).encode())
        label = -1 if pair.label is None else pair.label
        columns = (pair.key, self._name, offset, len(pair.image), pair.format, pair.captions[0], pair.captions, label)
        self._rows.append(dict(zip(schema().names, columns, strict=True)))
        self.labels[label] += 1
        self.pairs += 1
        if len(self._rows) == self._limit:
            self._end_shard()

    def close(self) -> None:
        if self._rows:
            self._end_shard()
        self._index.close()

    def _member(self, name: str, data: bytes) -> int:
        """Add a file with fixed owner, time and mode; return the offset of its data."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o444
        self._tar.addfile(member, io.BytesIO(data))
        return self._tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE

    def _end_shard(self) -> None:
        import pyarrow as pa

        self._tar.close()
        path = self._folder / self._name
        self.shards.append(
            {"name": self._name, "pairs": len(self._rows), "bytes": path.stat().st_size, "sha256": sha256(path)}
        )
        self._index.write_table(pa.Table.from_pylist(self._rows, schema()))
        self._rows, self._tar = [], None


def _clear(folder: Path, keep: set[str]) -> None:
    """Before new files move in, take away the old manifest, so that a half-moved split has none, and stale shards."""
    (folder / "manifest.json").unlink(missing_ok=True)
    for shard in folder.glob("*.tar"):
        if shard.name not in keep:
            shard.unlink()


# --- reading ---------------------------------------------------------------------------------------------------------


def open_index(folder: str | Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """Read the index (all columns, or some) after checking that every shard is there in its recorded size.

    Raises:
        UserError: the split is missing or incomplete; names the file.
    """
    import pandas as pd

    folder = Path(folder)
    for shard in _manifest(folder)["shards"]:
        path = folder / shard["name"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            fault = "is missing" if size is None else f"has {size} bytes, not {shard['bytes']}"
            raise UserError(f"{path}: {fault}; {REBUILD}")
    path = folder / "index.parquet"
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); {REBUILD}") from None


def read_images(folder: str | Path, rows: "pd.DataFrame") -> list[bytes]:
    """Read the image files of some rows of the index, in the order of the rows, without scanning the shards.

    Raises:
        UserError: a shard is missing or truncated.
    """
    files: list[bytes] = [b""] * len(rows)
    places = enumerate(zip(rows["shard"], rows["offset"], rows["size"], strict=True))
    for shard, members in groupby(sorted(places, key=itemgetter(1)), key=lambda place: place[1][0]):
        path = Path(folder) / shard
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

"""Writing a dataset split: webdataset shards, an index for random access, a manifest.

Equal settings give equal bytes. The standard library writes the tars, because it reports the offset of each picture and
does not need torch; webdataset can read them.
"""

import json
import logging
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base.disk import check_space
from antidote.base.errors import UserError
from antidote.base.files import read_json, sha256, whole_folder, write_json
from antidote.data.sources.base import RawPair, Skipped, SourceSettings
from antidote.data.store import tars
from antidote.data.store.datasets import pointers
from antidote.data.store.intake import Intake, Pair
from antidote.data.store.subsets import read_subset

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("antidote")


def schema() -> "pa.Schema":
    """Return the columns of `index.parquet`; `offset` and `size` are in bytes, a missing label is -1.

    `caption` is the first of `captions`. Pools and training use `caption`; retrieval uses several captions.
    """
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


def write(
    settings: SourceSettings, dataset: str, split: str, folder: str | Path, download: str | Path | None = None
) -> dict[str, Any]:
    """Write one split and return its manifest.

    Args:
        settings: the dataset's settings.
        dataset: name of the dataset.
        split: name of the split.
        folder: the folder to write; it appears only when it is complete.
        download: the report of the download job, for sources with `downloads`.

    Raises:
        UserError: too many unusable pairs, no usable pair, an unexpected number of pairs, or no download.
    """
    folder = Path(folder)
    items = _downloaded(settings, folder, download) if settings.downloads else settings.iterate(split)
    with whole_folder(folder) as temporary:
        writer, intake = _Writer(temporary, settings.pairs_per_shard), Intake(settings.image_size, _subset(settings))
        for item in items:
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
            "adapted": dict(sorted(intake.adapted.items())),
            "shards": writer.shards,
            "labels": {str(label): count for label, count in sorted(writer.labels.items()) if label >= 0},
            "index_sha256": sha256(temporary / "index.parquet"),
        }
        write_json(temporary / "manifest.json", manifest)
        _clear(folder, {shard["name"] for shard in writer.shards})
    log.info("%s/%s: %d pairs in %d shards", dataset, split, writer.pairs, len(writer.shards))
    return manifest


def _subset(settings: SourceSettings) -> dict[str, str] | None:
    path = getattr(settings, "subset", None)
    return None if path is None else read_subset(path).to_dict()


def _downloaded(settings: SourceSettings, folder: Path, report: str | Path | None) -> Iterator[RawPair | Skipped]:
    if report is None:
        pointer = next((path for path in pointers(folder) if path.exists()), None)
        advice = f"`dvc pull {pointer}`" if pointer else "run scripts/download.py and pass its report with --download"
        raise UserError(f"{folder}: its pictures have to be downloaded: {advice}")
    values = read_json(report)
    stored = sum(path.stat().st_size for s in values["shards"] if (path := Path(values["folder"]) / s["name"]).exists())
    check_space(folder, stored, "the split", "or delete downloads that are not needed")
    return settings.downloaded(values)


class _Writer:
    """Writes tar shards and the index; each shard is one row group of the index."""

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
            self._tar = tars.create(self._folder / self._name)
        offset = tars.add_member(self._tar, f"{pair.key}.{pair.format}", pair.image)
        tars.add_member(self._tar, f"{pair.key}.txt", pair.captions[0].encode())
        if pair.label is not None:
            tars.add_member(self._tar, f"{pair.key}.cls", str(pair.label).encode())
        facts = {"captions": pair.captions, **pair.origin}
        tars.add_member(self._tar, f"{pair.key}.json", json.dumps(facts, ensure_ascii=False).encode())
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
    """Delete the old manifest and stale shards before new files move in; a half-moved split then has no manifest."""
    (folder / "manifest.json").unlink(missing_ok=True)
    for shard in folder.glob("*.tar"):
        if shard.name not in keep:
            shard.unlink()

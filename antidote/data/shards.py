"""A dataset split on disk: webdataset shards, an index for random access, a manifest.

    00000.tar, 00001.tar, ...   per pair key.png|jpg|webp, key.txt, key.cls (where labelled), key.json {"captions": [...]}
    index.parquet               one row per pair, in shard order; see SCHEMA
    manifest.json               what was offered, kept and skipped, with hashes; written last

The same settings give the same bytes. The tars are written with the standard library, which tells where each picture
lies and does without torch; webdataset reads them.
"""

import hashlib
import io
import json
import logging
import os
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.data import images
from antidote.data.sources.base import RawPair, Skipped, SourceSettings
from antidote.errors import UserError
from antidote.files import read_json, sha256, whole_folder, write_json

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger(__name__)

EXAMPLES = 20
KEY_LENGTH = 64
EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}
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
        writer = _Writer(temporary, settings.pairs_per_shard)
        intake = _Intake(settings.image_size)
        for item in settings.iterate(split):
            pair = intake.take(item)
            if pair is not None:
                writer.add(*pair)
        writer.close()
        intake.judge(f"{dataset}/{split}", settings, split)
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


class _Intake:
    """Checks each pair that a source offers, and counts what cannot be used."""

    def __init__(self, image_size: int | None) -> None:
        self.offered = 0
        self.skipped: Counter[str] = Counter()
        self.examples: list[dict[str, str]] = []
        self._image_size = image_size
        self._origins: dict[str, bytes] = {}

    def take(self, item: RawPair | Skipped) -> tuple[str, RawPair, bytes, str] | None:
        """Return key, pair, image file and its extension; None for what is skipped."""
        self.offered += 1
        if isinstance(item, Skipped):
            return self._skip(item.key, item.reason)
        if not item.captions:
            return self._skip(item.key, "no caption")
        try:
            data, extension = _image_file(item.image, self._image_size)
        except images.UnreadablePicture as error:
            return self._skip(item.key, str(error))
        key = self._new_key(item.key)
        return (key, item, data, extension) if key else self._skip(item.key, "duplicate key")

    def judge(self, name: str, settings: SourceSettings, split: str) -> None:
        count = sum(self.skipped.values())
        faults = ", ".join(f"{number} x {reason}" for reason, number in self.skipped.most_common())
        shown = ", ".join(example["key"] for example in self.examples[:3])
        detail = f" ({faults}; such as {shown})" if count else ""
        if self.offered == count:
            raise UserError(f"{name}: holds no usable pair{detail}")
        if count > settings.accepted_skip_share * self.offered:
            raise UserError(
                f"{name}: {count} of {self.offered} pairs cannot be used{detail};"
                f" accepted_skip_share is {settings.accepted_skip_share:g}"
            )
        expected = (settings.expected or {}).get(split, self.offered)
        if expected != self.offered:
            raise UserError(f"{name}: offers {self.offered} pairs, expected {expected}{detail}")
        if count:
            log.warning("%s: skipped %d of %d pairs%s", name, count, self.offered, detail)

    def _skip(self, key: str, reason: str) -> None:
        self.skipped[reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append({"key": key, "reason": reason})

    def _new_key(self, origin: str) -> str | None:
        """Return a safe key that no earlier pair has; None where an earlier pair came under the same key."""
        digest = hashlib.sha256(origin.encode()).digest()[:8]
        for key in (safe_key(origin), f"{safe_key(origin)}-{digest.hex()}"):
            if key not in self._origins:
                self._origins[key] = digest
                return key
            if self._origins[key] == digest:
                return None
        return None


def safe_key(key: str) -> str:
    """Return the key with letters, digits, `_` and `-` only, without an image extension, at most 64 characters.

    A dot would end the key in webdataset, and a slash would make a folder.
    """
    stem = re.sub(r"\.(png|jpe?g|webp|gif|bmp|tiff?|ppm)$", "", key, flags=re.IGNORECASE)
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_") or "pair"
    # webdataset leaves out members whose names begin with two underscores; long names do not fit a tar header.
    return safe if len(safe) <= KEY_LENGTH else f"{safe[: KEY_LENGTH - 17]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _image_file(image: Any, size: int | None) -> tuple[bytes, str]:
    """Return an image file and its extension; the bytes stay untouched unless the picture has to shrink or its
    format is unusual."""
    if not isinstance(image, bytes):
        from PIL import Image

        picture, data = Image.fromarray(image), None
    else:
        picture, data = images.decode(image), image
    shrink = size is not None and min(picture.size) > size
    if data is not None and not shrink and picture.format in EXTENSIONS:
        return data, EXTENSIONS[picture.format]
    if not shrink:
        return images.encode_png(images.as_array(picture)), "png"
    small = images.shorter_side(images.rgb(picture), size)
    if picture.format == "JPEG":
        return images.encode_jpeg(images.as_array(small)), "jpg"
    return images.encode_png(images.as_array(small)), "png"


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

    def add(self, key: str, pair: RawPair, image: bytes, extension: str) -> None:
        if self._tar is None:
            self._name = f"{len(self.shards):05d}.tar"
            self._tar = tarfile.open(self._folder / self._name, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        offset = self._member(f"{key}.{extension}", image)
        self._member(f"{key}.txt", pair.captions[0].encode())
        if pair.label is not None:
            self._member(f"{key}.cls", str(pair.label).encode())
        self._member(f"{key}.json", json.dumps({"captions": pair.captions}, ensure_ascii=False).encode())
        label = -1 if pair.label is None else pair.label
        self._rows.append(
            {
                "key": key,
                "shard": self._name,
                "offset": offset,
                "size": len(image),
                "format": extension,
                "caption": pair.captions[0],
                "captions": pair.captions,
                "label": label,
            }
        )
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
    """Before new files move in: take away the old manifest, so that a half-moved split has none, and left-over shards."""
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
    places = list(zip(rows["shard"], rows["offset"], rows["size"], strict=True))
    order = sorted(range(len(places)), key=places.__getitem__)
    name, descriptor = None, -1
    try:
        for row in order:
            shard, offset, size = places[row]
            if shard != name:
                if descriptor >= 0:
                    os.close(descriptor)
                name, descriptor = shard, _open(Path(folder) / shard)
            files[row] = os.pread(descriptor, size, offset)
            if len(files[row]) != size:
                raise UserError(f"{Path(folder) / shard}: is truncated; {REBUILD}")
    finally:
        if descriptor >= 0:
            os.close(descriptor)
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


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; {REBUILD}") from None

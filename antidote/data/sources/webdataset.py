"""Pairs in webdataset tars, as img2dataset and DataComp write them: an image with txt, json or cls beside it."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import Field

from antidote.data.sources.base import RawPair, Skipped
from antidote.data.sources.files import FileSource

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "img")
FAULTS = (tarfile.TarError, OSError, EOFError, ValueError)


class WebDataset(FileSource):
    source: Literal["webdataset"] = "webdataset"
    caption: str | None = Field(
        "caption", description="Key in the json member that holds the caption where there is no txt and no `captions`."
    )

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        for file in self.files(split):
            for sample in _samples(file):
                yield sample if isinstance(sample, Skipped) else self._pair(file, sample)

    def _pair(self, file: Path, sample: dict[str, Any]) -> RawPair | Skipped:
        key = sample["__key__"].removeprefix("./")
        image = next((sample[kind] for kind in IMAGES if kind in sample), None)
        if image is None:
            return Skipped(key, "no picture member")
        try:
            more = json.loads(sample["json"]) if "json" in sample else {}
            label = int(sample["cls"]) if "cls" in sample else None
            captions = [sample["txt"].decode()] if "txt" in sample else []
        except ValueError:  # includes json's and decode's errors
            return Skipped(key, "damaged txt, cls or json member")
        more = more if isinstance(more, dict) else {}
        others = more.get("captions") if isinstance(more.get("captions"), list) else [more.get(self.caption)]
        captions += [text for text in others if isinstance(text, str) and text not in captions]
        if not captions and label is None:
            return Skipped(key, "no caption")
        return self.labelled(key, image, captions, label, None)


def _samples(file: Path) -> Iterator[dict[str, Any] | Skipped]:
    """Yield the samples of one tar, which is never unpacked to disk; a tar that ends too soon is counted once.

    The open file is handed to webdataset, which would run a path that begins with `pipe:` as a command.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    faults: list[Exception] = []

    def note(error: Exception) -> bool:
        faults.append(error)
        return False

    with file.open("rb") as stream:
        if file.suffix == ".tar" and not _ended(stream):
            faults.append(tarfile.ReadError("no end-of-archive mark"))
        members = tar_file_expander([{"url": str(file), "stream": stream}], handler=note)
        try:
            yield from group_by_keys(members, handler=note)
        except FAULTS as error:
            faults.append(error)
    if faults:
        yield Skipped(file.name, "truncated or damaged shard")


def _ended(stream: BinaryIO) -> bool:
    """Tell whether a tar ends with its two empty blocks; cut between two members it would look whole."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 2 * tarfile.BLOCKSIZE))
    ended = size >= 2 * tarfile.BLOCKSIZE and not any(stream.read())
    stream.seek(0)
    return ended

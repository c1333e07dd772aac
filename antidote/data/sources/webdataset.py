"""Pairs in webdataset tars, as img2dataset and DataComp write them: an image with txt, json or cls beside it."""

import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from antidote.data.sources.base import Damaged, RawPair, Skipped
from antidote.data.sources.files import FileSource

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "img")
LARGEST = 256 * 10**6  # bytes of a member: what claims to be more is made to fill memory
META = r"__[^/]*__($|/)"  # members that hold no sample
FAULTS = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


class WebDataset(FileSource):
    source: Literal["webdataset"] = "webdataset"
    caption: str | None = Field(
        "caption", description="Key in the json member that holds the caption where there is no txt and no `captions`."
    )

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        for file in self.files(split):
            for sample in samples(file):
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
        origin = {name: more.get(name) for name in ("url", "sha256")}
        return self.labelled(key, image, captions, label, None, origin)


def samples(file: Path) -> Iterator[dict[str, Any] | Skipped]:
    """Yield the samples of one tar; one that is truncated or damaged is named at the end."""
    from webdataset.tariterators import group_by_keys

    faults: list[Exception] = []
    yield from group_by_keys(_members(file, faults), handler=lambda fault: faults.append(fault) or True)
    if faults:
        yield Damaged(str(file), "truncated or damaged")


def _members(file: Path, faults: list[Exception]) -> Iterator[dict[str, Any]]:
    """Yield the files of a tar as webdataset's reader does, nothing being unpacked to disk.

    That reader runs a path that begins with `pipe:` as a command, and takes a damaged header for the end of the tar.
    """
    try:
        with tarfile.open(file) as tar:
            while (member := tar.next()) is not None:
                if member.size > LARGEST:
                    raise tarfile.ReadError("member too large")
                if member.isreg() and not re.match(META, member.name):
                    yield {"fname": member.name, "data": tar.extractfile(member).read(), "__url__": str(file)}
                tar.members = []  # or the whole table of contents stays in memory
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                faults.append(tarfile.ReadError("no end-of-archive mark"))
    except FAULTS as fault:
        faults.append(fault)

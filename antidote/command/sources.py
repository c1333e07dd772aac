"""Sources of the datasets that a user names on the command line, with captions or as pictures alone."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from antidote.data.sources.base import Damaged, RawPair, Skipped, SourceSettings, read_file, unread
from antidote.data.sources.files import braces, told_apart
from antidote.data.sources.folder import EXTENSIONS, LEFTOVERS
from antidote.data.sources.table import Table
from antidote.data.sources.webdataset import FAULTS, IMAGES, META, WebDataset, open_tar, samples

LISTED = 100  # most names of items that are left out in the results
FIRST = 100  # keys of a shard that are read to find out whether shards restart their keys
FILE = "file"  # in the origin of a picture: its path in the given folder or table


@dataclass
class Omitted:
    """What a reading leaves out; filled by `stream`.

    Attributes:
        reasons: number of items by reason.
        keys: names of the first LISTED items in their source.
        damaged: damaged files with an unknown number of lost items, each with the fault.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    keys: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(self.reasons.values())

    @property
    def facts(self) -> dict[str, Any]:
        """Return what the results say, as JSON values."""
        return {"count": self.count, "reasons": dict(self.reasons), "keys": self.keys, "damaged": self.damaged}

    @property
    def shown(self) -> str:
        """Return what the page says."""
        if not self.count and not self.damaged:
            return "none"
        parts = [f"{count} x {reason}" for reason, count in self.reasons.most_common()]
        more = f" and {self.count - len(self.keys)} more" if self.count > len(self.keys) else ""
        named = [f"{', '.join(self.keys)}{more}"] if self.keys else []
        return "; ".join([*parts, *named, *(f"damaged: {fault}" for fault in self.damaged)])


class Loose(SourceSettings):
    """One picture, or the pictures of a folder and of the folders in it; hidden files are left out.

    The caption is the text file of the same name, else the name of the picture.
    """

    source: str = "loose"
    root: str

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        """Yield the pictures of each folder by name, before those of the folders in it."""
        root = Path(self.root)
        for path in [root] if root.is_file() else picture_files(root):
            key = path.name if path == root else str(path.relative_to(root))
            text = path.with_suffix(".txt")
            try:
                caption = read_file(text).decode(errors="replace") if text.is_file() else path.stem
                yield self.labelled(key, read_file(path), [caption], None, None)
            except OSError as error:
                yield unread(key, path, error)


class Shards(WebDataset):
    """Shards as they are; a key that two shards use gets the shard's name, so that no pair is left out."""

    twice: ClassVar[str] = ""  # the command has no setting to advise

    def told_apart(self, split: str) -> Shards:
        """Return the source with `prefix` if shards restart their keys: two of them share one of the first FIRST."""
        seen: set[str] = set()
        files = self.files(split)
        for file in files if len(files) > 1 else ():
            keys = set(islice(_keys(file), FIRST))
            if not seen.isdisjoint(keys):
                return self.model_copy(update={"prefix": True})
            seen |= keys
        return self

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        """Yield the pairs of a split in a fixed order; a later key of another shard gets the name of its own."""
        files = self.files(split)
        seen: set[str] = set()
        for file, name in zip(files, told_apart(files), strict=True):
            keys: set[str] = set()
            for item in self._shard(file, f"{name}/" if self.prefix else ""):
                keys.add(item.key)
                again = isinstance(item, RawPair) and item.key in seen
                yield replace(item, key=f"{name}/{item.key}") if again else item
            seen |= keys


class ShardPictures(Shards):
    """Every picture in shards; other members have no effect."""

    def _shard(self, file: Path, prefix: str) -> Iterator[RawPair | Skipped]:
        for sample in samples(file):
            yield from [sample] if isinstance(sample, Damaged) else _pictures(sample, file, prefix)


class Uncaptioned:
    """Part of a source of pictures whose captions and labels have no effect; the first base of its classes."""

    def labelled(
        self,
        key: str,
        image: Any,
        captions: list[Any],
        label: int | None,
        class_name: str | None,
        origin: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
    ) -> RawPair:
        """Return the picture with an empty caption."""
        return RawPair(key, image, [""], None, origin or {}, tuple(notes))


class LoosePictures(Uncaptioned, Loose):
    """One picture, or the pictures of a folder and of the folders in it."""


class TablePictures(Uncaptioned, Table):
    """The pictures of a table."""

    def _pair(self, key: str, row: dict[str, Any], folder: Path) -> RawPair | Skipped:
        found = super()._pair(key, row, folder)
        path = row.get("path")
        return replace(found, origin={FILE: path}) if isinstance(found, RawPair) and path else found


def picture_files(folder: Path) -> Iterator[Path]:
    """Yield the pictures of a folder by name, then those of the folders in it; links are followed, hidden files not."""
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        above = lambda name, here=here: here.resolve().is_relative_to((here / name).resolve())  # a link up has no end
        folders[:] = sorted(name for name in folders if _shown(name) and not above(name))
        for name in sorted(files):
            if _shown(name) and Path(name).suffix.lower() in EXTENSIONS:
                yield here / name


def _shown(name: str) -> bool:
    return not name.startswith(".") and name not in LEFTOVERS


def literal(path: Path) -> str:
    """Return a pattern for an existing path; in a name with braces that a source would expand, globs stand for them."""
    text = str(path)
    return text if braces(text) == [text] else escape(text).replace("{", "[z-|]").replace("}", "[|-~]")


def _keys(file: Path) -> Iterator[str]:
    """Yield the keys of a tar; a damaged tar ends early, and is told when its pictures are read."""
    from webdataset.tariterators import base_plus_ext

    try:
        with open_tar(file) as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # otherwise tarfile keeps the whole table of contents in memory
                key = base_plus_ext(member.name)[0]
                if key and member.isreg() and not re.match(META, member.name):
                    yield key.removeprefix("./")
    except FAULTS:
        return


def _pictures(sample: dict[str, Any], file: Path, prefix: str) -> Iterator[RawPair]:
    """Yield the pictures of a sample; a sample of several has the kind of each in its key."""
    stem = sample["__key__"].removeprefix("./")
    kinds = [name for name in sample if not name.startswith("__") and name.rpartition(".")[2] in IMAGES]
    for kind in kinds:
        key = prefix + stem
        origin = {FILE: f"{file.name}/{stem}.{kind}"}
        yield RawPair(f"{key}.{kind}" if len(kinds) > 1 else key, sample[kind], [""], None, origin)

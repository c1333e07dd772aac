"""Base class of the data sources: common settings, and the pairs that a source yields.

A new source is a settings class with a literal `source` name, a field `splits`, and `iterate`. Example:

    class TextFolder(SourceSettings):
        source: Literal["text_folder"] = "text_folder"
        root: str = Field(description="Folder with one folder per split.")
        splits: dict[str, str] = Field(description="Per split its folder under root.")

        def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
            for path in sorted((Path(self.root) / self.split(split)).glob("*.jpg")):
                caption = path.with_suffix(".txt").read_text(encoding="utf-8")
                yield self.labelled(path.name, read_file(path), [caption], label=None, class_name=None)

Its line in `SOURCES` of `antidote/base/registry.py` makes the source available to studies.
"""

import ast
import errno
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from antidote.base.errors import UserError, nearest
from antidote.base.seeds import derive
from antidote.base.settings import Seed, Settings
from antidote.data.words import names

LARGEST = 256 * 10**6  # bytes per file or member of a tar; a larger size is a decompression bomb or damage


@dataclass(frozen=True)
class RawPair:
    """One picture with its captions, before checks and conversion."""

    key: str
    image: bytes | np.ndarray  # an image file, or uint8 (height, width, 3)
    captions: list[str]
    label: int | None
    origin: Mapping[str, str] = field(default_factory=dict)  # address and SHA-256 of a downloaded file
    notes: Sequence[str] = ()  # deviations from the literal content; equal deviations have equal texts, for counting


@dataclass(frozen=True)
class Skipped:
    """One unusable pair of the source.

    Attributes:
        key: name of the pair in the source.
        reason: the fault; equal faults have equal texts, so that faults can be counted.
        detail: facts about this pair that help to correct the fault, such as the path that was tried.
    """

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Unread(Skipped):
    """A pair whose picture file is missing or unreadable; `detail` names the file and the error."""


def unread(key: str, path: object, error: OSError, more: str = "") -> Unread:
    """Return the skipped pair for a picture file that cannot be read."""
    return Unread(key, "picture file cannot be read", f"{path}: {error.strerror or error}{more}")


def read_file(path: Path) -> bytes:
    """Return the content of a file that a dataset names, of at most `LARGEST` bytes.

    A dataset of a stranger may name a pipe, whose opening waits without end, or a device without end.

    Raises:
        OSError: the file is missing, larger, or no regular file; see `unread`.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # a folder cannot be opened
        raise OSError(errno.EINVAL, "is a pipe or a device, not a file", str(path))
    if found.st_size > LARGEST:
        raise OSError(errno.EFBIG, f"is larger than {LARGEST // 10**6} MB", str(path))
    with path.open("rb") as stream:
        return stream.read(found.st_size)  # files of the kernel have size 0, and some of them have no end


@dataclass(frozen=True)
class Damaged(Skipped):
    """A damaged file with an unknown number of lost pairs; `key` is the path of the file."""


def is_text(value: Any) -> bool:
    """Return whether a value is text that UTF-8 can encode; JSON and Python also allow lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


JSON_LIST = "list of captions written as text, read as a list"
NO_TEXT = "caption that is no text, or no valid Unicode"
LONGEST_LIST = 100_000  # characters; a longer text is not parsed as a list


def listed(captions: Sequence[Any]) -> tuple[list[Any], bool]:
    """Expand captions that contain a list as text, such as `["a cat", "one cat"]`.

    JSON lists and Python lists (as pandas writes them to CSV) are recognised.

    Returns:
        The separate captions, and whether any caption was a list.
    """
    opened = [_list_in(caption) if isinstance(caption, str) else None for caption in captions]
    found = [
        text
        for caption, texts in zip(captions, opened, strict=True)
        for text in ([caption] if texts is None else texts)
    ]
    return found, any(texts is not None for texts in opened)


def _list_in(text: str) -> list[str] | None:
    """Return the items of a text that is a list of strings; None for any other text, such as `[laughs]` or `[1]`."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or len(text) > LONGEST_LIST:
        return None
    for read in (json.loads, ast.literal_eval):  # neither executes code
        try:
            values = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return values
    return None


class SourceSettings(Settings):
    """Settings of a dataset: the origin of its pairs and the storage format. See the module's example."""

    downloads: ClassVar[bool] = False  # whether ingestion calls `downloaded` in place of `iterate`
    twice: ClassVar[str] = ""  # advice for the message about duplicate keys
    source: str
    version: str = Field("1", description="Version of the data; a new version is a new dataset.")
    terms: str = Field("", description="Terms of use, copied into the manifest.")
    classes: str | None = Field(
        None, description="Class names in label order: the name of a file in data/classes, or openai_imagenet."
    )
    templates: str = Field("simple", description="Prompt templates for captions made from labels.")
    lexicon: str = Field(
        "none", description="Synonyms and word classes for methods that change text; see data/lexicons."
    )
    image_size: int | None = Field(
        None,
        ge=1,
        description="Shorter side in pixels; larger pictures are reduced to it. null keeps the files unchanged.",
    )
    pairs_per_shard: int = Field(10_000, ge=1, description="Pairs per tar file; the default is img2dataset's.")
    expected: dict[str, int] | None = Field(
        None, description="Expected number of pairs per split, unusable ones included."
    )
    accepted_skip_share: float = Field(0.01, ge=0, le=1, description="Largest accepted share of unusable pairs.")
    seed: Seed = Field(0, description="Chooses the template of each caption made from a label.")

    def split_names(self) -> list[str]:
        """Return the names of the dataset's splits."""
        return list(self.splits)  # type: ignore[attr-defined]

    def split(self, split: str) -> Any:
        """Return the settings of one split.

        Raises:
            UserError: the dataset has no such split.
        """
        if split not in self.split_names():
            raise UserError(f"split: unknown name {split!r}{nearest(split, self.split_names())}")
        return self.splits[split]  # type: ignore[attr-defined]

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        """Yield the pairs of a split in a fixed order.

        Raises:
            UserError: unknown split, or source files that are missing or cannot be read.
        """
        raise NotImplementedError

    def absent(self, split: str) -> list[str]:
        """Return one line for each local input of a split that is missing.

        This check downloads nothing and reads little, so it does not detect most damaged files.
        """
        return []

    def fetched(self, split: str) -> str | None:
        """Return a short description of the data that a job fetches from the network for a split; None: no data."""
        return None

    def downloaded(self, report: dict[str, Any]) -> Iterator[RawPair | Skipped]:
        """Yield the pairs of a split from a finished download job, in a fixed order.

        Args:
            report: the content of the split's `download.json`.
        """
        raise NotImplementedError

    @cached_property
    def class_list(self) -> list[str] | None:
        """The class names in label order, or None if `classes` is not set."""
        return names.class_names(self.classes) if self.classes else None

    @cached_property
    def _templates(self) -> list[str]:
        return names.templates(self.templates)

    def made_caption(self, key: str, class_name: str) -> str:
        """Make a caption from a class name; the template depends only on the seed and the key."""
        return self._templates[derive(self.seed, "template", key) % len(self._templates)].format(class_name)

    def labelled(
        self,
        key: str,
        image: bytes | np.ndarray,
        captions: list[Any],
        label: int | None,
        class_name: str | None,
        origin: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
    ) -> RawPair | Skipped:
        """Return a checked pair from the values that a source has read; a missing caption is made from the class name.

        Captions that are not text are dropped; a pair with only such captions is skipped.

        Args:
            key: name of the pair in the source.
            image: an image file, or uint8 (height, width, 3).
            captions: raw values; lists written as text are expanded.
            label: index into `classes`, or None.
            class_name: name of the class, or None.
            origin: address and SHA-256 of a downloaded file.
            notes: deviations from the literal content, for the manifest.
        """
        classes = self.class_list
        if class_name is not None and not is_text(class_name):
            return Skipped(key, "class name that is no text", repr(class_name))
        if label is None and class_name is not None and classes is not None:
            if class_name not in classes:
                return Skipped(key, f"class {class_name!r} is not in classes {self.classes!r}")
            label = classes.index(class_name)
        if label is not None and (label < 0 or (classes is not None and label >= len(classes))):
            return Skipped(key, "label out of range")
        if class_name is None and label is not None and classes is not None:
            class_name = classes[label]
        captions, in_text = listed(
            [text.removeprefix("\ufeff") if isinstance(text, str) else text for text in captions]
        )
        texts = [text for text in captions if is_text(text)]
        if captions and not texts:
            return Skipped(key, NO_TEXT)
        notes = [*notes, *[JSON_LIST] * in_text, *[f"{NO_TEXT}, left out of several"] * (len(texts) < len(captions))]
        captions = [" ".join(text.split()) for text in texts if text.strip()]
        if not captions and class_name is not None:
            captions = [self.made_caption(key, class_name)]
        if not captions:
            return Skipped(key, "no caption")
        origin = {name: text for name, text in (origin or {}).items() if is_text(text)}
        return RawPair(key, image, captions, label, origin, tuple(notes))

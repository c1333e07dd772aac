"""What every data source shares: its settings, and the pairs it yields."""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from antidote.base.errors import UserError, nearest
from antidote.base.seeds import derive
from antidote.base.settings import Seed, Settings
from antidote.data.words import names


@dataclass(frozen=True)
class RawPair:
    """One picture with its captions, as the source has it."""

    key: str
    image: bytes | np.ndarray  # an image file, or uint8 (height, width, 3)
    captions: list[str]
    label: int | None
    origin: Mapping[str, str] = field(default_factory=dict)  # address and SHA-256 of a downloaded file
    notes: Sequence[str] = ()  # what was read otherwise than it is written; the same text for the same thing


@dataclass(frozen=True)
class Skipped:
    """One pair that the source offers and that cannot be used.

    Attributes:
        reason: the same text for the same fault.
        detail: what of this pair alone would help to mend it, such as the path that was tried.
    """

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Unread(Skipped):
    """A pair whose picture file is not there or cannot be read; `detail` names the file, and why."""


def unread(key: str, path: object, error: OSError, more: str = "") -> Unread:
    """Return the skipped pair of a picture file that cannot be read."""
    return Unread(key, "picture file cannot be read", f"{path}: {error.strerror or error}{more}")


@dataclass(frozen=True)
class Damaged(Skipped):
    """A file that has lost pairs, nobody knows which and how many; `key` is its path."""


def is_text(value: Any) -> bool:
    """Tell whether a value is text that a file can hold: JSON and Python know halves of characters, UTF-8 does not."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


JSON_LIST = "list of captions written as text, read as a list"
NO_TEXT = "caption that is no text, or no valid Unicode"
LONGEST_LIST = 100_000  # characters of a text that is tried as a list


def listed(captions: Sequence[Any]) -> tuple[list[Any], bool]:
    """Open lists that are written as text: `["a cat", "one cat"]`, as JSON or (CSV of pandas) as Python writes them.

    Returns:
        The captions one by one, and whether there was such a list.
    """
    opened = [_list_in(caption) if isinstance(caption, str) else None for caption in captions]
    found = [
        text
        for caption, texts in zip(captions, opened, strict=True)
        for text in ([caption] if texts is None else texts)
    ]
    return found, any(texts is not None for texts in opened)


def _list_in(text: str) -> list[str] | None:
    """Return the texts of a list of texts alone; None for any other text, such as `[laughs]` or `[1]`."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or len(text) > LONGEST_LIST:
        return None
    for read in (json.loads, ast.literal_eval):  # neither of which runs anything
        try:
            values = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return values
    return None


class SourceSettings(Settings):
    """A dataset: where its pairs come from and how they are stored."""

    downloads: ClassVar[bool] = False  # whether `downloaded` takes the place of `iterate`
    twice: ClassVar[str] = ""  # what helps where keys come twice
    source: str
    version: str = Field("1", description="Version of the data; a new one is a new dataset.")
    terms: str = Field("", description="Terms of use, shown in the manifest.")
    classes: str | None = Field(
        None, description="Class names in label order: a file of data/classes, or openai_imagenet."
    )
    templates: str = Field("simple", description="Prompt templates for captions made from labels.")
    lexicon: str = Field("none", description="Synonyms and word classes for text methods; see data/lexicons.")
    image_size: int | None = Field(
        None,
        ge=1,
        description="Pixels of the shorter side that larger pictures are reduced to; null keeps the files as they are.",
    )
    pairs_per_shard: int = Field(10_000, ge=1, description="Pairs per tar file, as img2dataset does.")
    expected: dict[str, int] | None = Field(None, description="Pairs that each split should offer.")
    accepted_skip_share: float = Field(0.01, ge=0, le=1, description="Largest accepted share of unusable pairs.")
    seed: Seed = Field(0, description="Chooses the template of each caption made from a label.")

    def split_names(self) -> list[str]:
        """Return the splits that the dataset has."""
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
        """Yield the pairs of a split, always in the same order."""
        raise NotImplementedError

    def absent(self, split: str) -> list[str]:
        """Return a line for each thing that a split is made from and that has to be on this disk and is not.

        Downloads nothing, and reads a little: it does not find what is wrong inside.
        """
        return []

    def fetched(self, split: str) -> str | None:
        """Return in a few words what a job will fetch from the network for a split, or None."""
        return None

    def downloaded(self, report: dict[str, Any]) -> Iterator[RawPair | Skipped]:
        """Yield the pairs of a split that a job of its own has downloaded, always in the same order."""
        raise NotImplementedError

    @cached_property
    def class_list(self) -> list[str] | None:
        """The class names in label order, or None where the dataset names none."""
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
        """Join what a source found out about one pair: check the label, and caption the picture where nobody has.

        A caption that is no text counts for nothing; a pair that has such captions alone is skipped.
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

"""Pictures in folders, one folder per class: root/{split}/{class}/picture."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from antidote.base.errors import UserError, nearest
from antidote.base.settings import named, read_text_mapping
from antidote.data.sources.base import RawPair, Skipped, SourceSettings, read_file, unread
from antidote.data.store.keys import PICTURES
from antidote.data.words.names import folder_names

log = logging.getLogger(__name__)

EXTENSIONS = tuple(f".{ending}" for ending in PICTURES)
LEFTOVERS = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")  # metadata of macOS, Synology and Windows
LOOP = "link to a folder that holds it"


class Folder(SourceSettings):
    source: Literal["folder"] = "folder"
    root: str = Field(
        description="Folder with one folder per split. Links are followed; hidden files and leftovers of macOS and "
        "Synology (__MACOSX, @eaDir) are ignored."
    )
    splits: dict[str, str] = Field(description="Per split its folder under root.")
    names: Annotated[dict[str, str] | str | None, BeforeValidator(named)] = Field(
        None,
        description="Mapping from class folder to class name, such as n01440764: tench, or a file with such a mapping; "
        "null: the folder's name is the class name.",
    )

    folders: str | None = Field(
        None,
        description="Class folders in label order: a list in data/folders such as imagenet (WordNet ids), or `numbers` "
        "if a folder's name is its label (ImageNet-V2); null: labels follow from class names.",
    )
    only: str | None = Field(
        None,
        description="Subset of `folders` that the dataset contains: a list in data/folders such as imagenet_a; "
        "null: all of `folders`.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> "Folder":
        if self.only is not None and self.folders is None:
            raise ValueError("only: says which of `folders` there are, and folders is missing")
        if self.folders is not None and (self.names is not None or self.classes is None):
            raise ValueError("folders: needs `classes`, which name the labels, and no `names`")
        return self

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        root, folders = self._folders(split)
        classes = self._listed(root, folders) if self.folders else self._named(folders)
        if missing := self._missing(split, root, folders):
            raise UserError(missing)
        others: Counter[str] = Counter()
        for folder, (label, class_name) in zip(folders, classes, strict=True):
            for path in _files(folder):
                if path.is_dir():
                    yield Skipped(str(path.relative_to(root)), LOOP, str(path.resolve()))
                elif path.suffix.lower() in EXTENSIONS:
                    yield self._pair(path, root, label, class_name)
                else:
                    others[path.suffix.lower() or "without an ending"] += 1
        if others:
            shown = ", ".join(f"{count} x {ending}" for ending, count in others.most_common(5))
            log.warning("%s: files that are no pictures by their ending are left out: %s", root, shown)

    def absent(self, split: str) -> list[str]:
        try:
            root, folders = self._folders(split)
            if self.folders:
                self._listed(root, folders)
        except UserError as error:
            return [str(error)]
        empty = [
            folder.name for folder in folders
            if not any(path.suffix.lower() in EXTENSIONS for path in _files(folder))
        ]  # fmt: skip
        if empty:
            return [f"{root}: {len(empty)} of {len(folders)} class folders hold no picture ({empty[0]})"]
        missing = self._missing(split, root, folders)
        return [missing] if missing else []

    def _missing(self, split: str, root: Path, folders: list[Path]) -> str:
        """Return what is wrong with the number of pictures, before any is read; empty if nothing is."""
        expected = (self.expected or {}).get(split)
        if expected is None:
            return ""
        there = sum(path.suffix.lower() in EXTENSIONS or path.is_dir() for folder in folders for path in _files(folder))
        if there == expected:
            return ""
        advice = f"if {there} are all, set expected: {{{split}: {there}}}"
        return f"{root}: holds {there} pictures, expected {expected}; {advice}"

    def place(self, split: str) -> Path:
        """Return the folder of a split, which holds the class folders."""
        return Path(self.root) / self.split(split)

    def _folders(self, split: str) -> tuple[Path, list[Path]]:
        """Return the folder of a split, which has to be there, and its class folders, sorted."""
        root = self.place(split)
        if not root.is_dir():
            raise UserError(f"splits.{split}: {root}: " + ("is no folder" if root.exists() else "no such folder"))
        folders = [path for path in _entries(root) if path.is_dir()]
        if not folders:
            pictures = sum(path.suffix.lower() in EXTENSIONS for path in _entries(root))
            loose = f", but {pictures} pictures" if pictures else ""
            raise UserError(f"splits.{split}: {root}: holds no class folders" + loose)
        return root, folders

    def _named(self, folders: list[Path]) -> list[tuple[int | None, str | None]]:
        """Return label and class name of each folder, derived from its name.

        Without `classes`, the label is the folder's position in sorted order, as in torchvision's ImageFolder.
        """
        names = [self._class_name(folder.name) for folder in folders]
        return [(None if self.class_list else number, name) for number, name in enumerate(names)]

    def _listed(self, root: Path, folders: list[Path]) -> list[tuple[int | None, str | None]]:
        """Return label and class name of each folder; the label is the position in `folders`.

        Raises:
            UserError: a class folder is missing or not listed, or `folders` and `classes` differ in length.
        """
        count = len(self.class_list)
        listed = [str(n) for n in range(count)] if self.folders == "numbers" else folder_names(self.folders)
        if len(listed) != count:
            raise UserError(f"folders: {self.folders!r} lists {len(listed)} folders, classes {self.classes!r} {count}")
        wanted = folder_names(self.only) if self.only else listed
        foreign = next((folder.name for folder in folders if folder.name not in wanted), None)
        if foreign is not None:
            raise UserError(
                f"{root}: the folder {foreign!r} is none of the {len(wanted)} of {self.only or self.folders!r}"
            )
        missing = sorted(set(wanted) - {folder.name for folder in folders})
        if missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise UserError(f"{root}: misses {len(missing)} of {len(wanted)} class folders ({shown})")
        labels = {name: label for label, name in enumerate(listed)}
        return [(labels[folder.name], None) for folder in folders]

    def _class_name(self, folder: str) -> str:
        names = self._names()
        name = names.get(folder, folder)
        if names and folder not in names:
            raise UserError(f"names: no class name for folder {folder!r}{nearest(folder, names)}")
        if self.class_list and name not in self.class_list:
            raise UserError(f"classes: {self.classes!r} has no class {name!r}{nearest(name, self.class_list)}")
        return name

    def _names(self) -> dict[str, str]:
        return read_text_mapping(self.names) if isinstance(self.names, str) else self.names or {}

    def _pair(self, path: Path, root: Path, label: int | None, class_name: str | None) -> RawPair | Skipped:
        key = str(path.relative_to(root))
        try:
            return self.labelled(key, read_file(path), [], label, class_name)
        except OSError as error:
            return unread(key, path, error)


def _entries(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted, without hidden files and leftovers."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in LEFTOVERS)


def _files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the files of a folder recursively, sorted; links are followed, as in torchvision's ImageFolder.

    A link to one of its parent folders is yielded as a path and not followed; torchvision would recurse without end.
    """
    real = folder.resolve()
    if real in above:
        yield folder
        return
    for path in _entries(folder):
        if path.is_dir():
            yield from _files(path, (*above, real))
        else:
            yield path

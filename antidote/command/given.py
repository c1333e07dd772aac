"""What a user gives beside the model: pairs, labelled pictures, class names, prompts; by level of access."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.command import inputs, report
from antidote.command.columns import USUAL, Columns
from antidote.data.access import DefenseData
from antidote.data.pairs import Pairs
from antidote.data.sources.folder import LEFTOVERS
from antidote.data.words.lexicon import load_lexicon
from antidote.data.words.names import templates

T = TypeVar("T")
Dataset = str | Path | Pairs
Names = str | Path | Sequence[str]
READ = {"clean-pairs": "pairs", "few-labelled": "shots"}  # dataset that a level of access reads


@dataclass(frozen=True)
class Given:
    """Data that a user gives; None: not given.

    Attributes:
        pairs: clean pairs: a table, shards, a folder, a written split, or pairs in memory.
        shots: labelled pictures for few-shot methods: a folder of class folders, or as `pairs`.
        labelled: labelled pictures for the accuracy: as `shots`.
        classes: class names in label order: a list, or the path of a JSON list; by default the names of the folders.
        templates: name of the prompts: a file in data/templates, or a set of open_clip.
        lexicon: name of the language resource of the text methods.
        columns: columns of tables.
    """

    pairs: Dataset | None = None
    shots: Dataset | None = None
    labelled: Dataset | None = None
    classes: Names | None = None
    templates: str = "openai_imagenet"
    lexicon: str = "function_words"
    columns: Columns = USUAL

    @classmethod
    def of(cls, args: argparse.Namespace) -> Given:
        """Return what the arguments of a command name; arguments that the command does not have count as not given."""
        known = {name: getattr(args, name) for name in cls.__dataclass_fields__ if hasattr(args, name)}
        return cls(**known, columns=inputs.columns(args))

    @property
    def prompts(self) -> list[str]:
        """Return the prompts.

        Raises:
            UserError: there are none of that name.
        """
        return _by_option(templates, self.templates)

    def names(self) -> list[str] | None:
        """Return the class names; None if there are none.

        Raises:
            UserError: the file cannot be read, or holds no list of distinct texts.
        """
        if self.classes is None:
            return None
        given = isinstance(self.classes, str | Path)
        if given:
            report.check_given("--classes", self.classes)
        names = read_json(self.classes) if given else list(self.classes)
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"--classes: {f'{self.classes}: ' if given else ''}should hold a JSON list of texts")
        if not all(name.strip() for name in names):
            raise UserError(f"--classes: {f'{self.classes}: ' if given else ''}lists a name without letters")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"--classes: {f'{self.classes}: ' if given else ''}lists {twice!r} more than once")
        return names

    def labels(self, dataset: Dataset, size: int) -> tuple[Pairs, list[str]]:
        """Return labelled pictures of `size` pixels and the class names in label order.

        Class names in another order than the class folders are matched by name. Folders 0 to N-1, with or without
        leading zeros, are numbers of labels. Other names that differ from those of the folders are taken in the order
        of the folders, with a warning.

        Raises:
            UserError: a picture has no label, there are fewer than two classes, a class folder has no picture, or the
                list of class names has another length than the labels.
        """
        shown, folders = inputs.shown(dataset, "pictures"), _folders(dataset)
        pictures = inputs.load_pairs(dataset, self.columns, size)
        if int(pictures.labels.min()) < 0:
            raise UserError(f"{shown}: holds pictures without a label; should be a folder of class folders")
        count, names = int(pictures.labels.max()) + 1, self.names() or folders
        if names is None:
            raise UserError(f"--classes: is missing; {shown} has labels and no class names")
        there = set(pictures.labels.tolist())
        if empty := [name for label, name in enumerate(folders or ()) if label not in there]:
            raise UserError(f"{shown}: class folder {empty[0]} holds no picture")
        if count < 2:
            raise UserError(f"{shown}: holds 1 class; should hold at least 2")
        if len(names) != count:
            raise UserError(f"--classes: lists {len(names)} names, {shown} has {count} classes")
        return pictures if folders is None else _matched(pictures, folders, names, shown), names

    def granted(self, size: int, levels: Collection[str], seed: int = 0) -> dict[str, DefenseData | str]:
        """Return the data of some levels of access, pictures of `size` pixels, or the reason why they are missing.

        Pairs and labelled pictures come in the order of `shuffled`, because methods take the first ones of a pool.

        Args:
            size: side of the pictures in pixels.
            levels: names of levels of access.
            seed: seed of the order.

        Raises:
            UserError: what is given cannot be read. What no level needs is checked as well: a name that is wrong would
                be found out only by the method that needs it. The pictures are not read.
        """
        self.names()
        _ = self.prompts
        read = {name for level, name in READ.items() if level in levels}
        for name in ("pairs", "shots", "labelled"):
            if name not in read and getattr(self, name) is not None:
                inputs.check_dataset(getattr(self, name), self.columns)
        return {level: self._granted(level, size, seed) for level in dict.fromkeys(levels)}

    def _granted(self, level: str, size: int, seed: int) -> DefenseData | str:
        if level == "nothing":
            return DefenseData()
        if level == "clean-pairs":
            if self.pairs is None:
                return "needs clean pairs (--pairs)"
            pairs = inputs.load_pairs(self.pairs, self.columns, size)
            return DefenseData(pairs=shuffled(pairs, seed), lexicon=_by_option(load_lexicon, self.lexicon))
        if level == "few-labelled":
            if self.shots is None:
                return "needs labelled pictures (--shots)"
            shots, names = self.labels(self.shots, size)
            return DefenseData(shots=shuffled(shots, seed), classes=names, templates=self.prompts)
        if level == "test-time":
            names = self.names() or _folders(self.shots) or _folders(self.labelled)
            if names is None:
                return "needs class names (--classes)"
            return DefenseData(classes=names, templates=self.prompts)
        return f"needs access {level!r}, which a study alone grants"


NOTHING = Given()


def check_given(given: object) -> None:
    """Raise UserError if a caller of Python gives something else than `Given`, such as the path of its pairs."""
    if not isinstance(given, Given):
        shown = repr(given) if isinstance(given, str | Path) else type(given).__name__
        raise UserError(f"given: should be Given(pairs=...), with shots, labelled or classes, not {shown}")


def shuffled(pairs: Pairs, seed: int) -> Pairs:
    """Return pairs in a random order that follows from their content and the seed, not from the order of the rows.

    Keys do not serve: the keys of a table are its row numbers.
    """
    order, start = [], derive(seed, "order of given pairs")
    for first in range(0, len(pairs), inputs.CHUNK):
        pixels = pairs.images[first : first + inputs.CHUNK].cpu().numpy()
        captions = pairs.captions[first : first + inputs.CHUNK]
        for caption, picture in zip(captions, pixels, strict=True):
            text = f"{start} {caption} ".encode(errors="surrogatepass")
            order.append(hashlib.sha256(text + picture.tobytes()).digest())
    return pairs.take(sorted(range(len(pairs)), key=order.__getitem__))


def _matched(pictures: Pairs, folders: list[str], names: list[str], shown: str) -> Pairs:
    """Return pictures of class folders with labels in the order of `names`, of which folders are names or numbers."""
    plain = lambda name: name.casefold().replace("_", " ").strip()
    wanted, found = [plain(name) for name in names], [plain(folder) for folder in folders]
    if wanted == found:
        return pictures
    numbers = [int(folder) for folder in folders if folder.isascii() and folder.isdigit()]
    if len(set(wanted)) == len(wanted) and sorted(wanted) == sorted(found):
        labels = [wanted.index(folder) for folder in found]
    elif sorted(numbers) == list(range(len(folders))):  # folders are in the order of texts: 0, 1, 10, 11, 2
        labels = numbers
    else:
        others = [row for row, name in enumerate(found) if name not in wanted][:2]  # the first alone may fit by chance
        command_line.log.warning(
            "--classes: the names are not those of the class folders in %s; they are taken in the order of the "
            "folders: %s", shown, ", ".join(f"folder {folders[row]!r} is class {names[row]!r}" for row in others),
        )  # fmt: skip
        return pictures
    return replace(pictures, labels=torch.tensor(labels)[pictures.labels])


def class_folders(folder: str | Path, option: str = "--evaluation") -> list[str]:
    """Return the names of the class folders of an evaluation set, in label order.

    Args:
        option: the option that names the folder, for messages.

    Raises:
        UserError: there is no such folder, or it holds fewer than two class folders.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{option}: {folder}: no such folder; should hold one folder of pictures per class")
    names = _folders(folder) or []
    if len(names) < 2:
        raise UserError(f"{option}: {folder}: holds {len(names)} class folders; should hold at least 2")
    return names


def _by_option(read: Callable[[str], T], name: str) -> T:
    """Return what `read` finds by a name; a fault names the option in place of the key of a study.

    Raises:
        UserError: as `read`.
    """
    try:
        return read(name)
    except UserError as error:
        option = "--" if str(error).startswith(("templates: ", "lexicon: ")) else ""
        raise UserError(f"{option}{error}") from None


def _folders(dataset: Dataset | None) -> list[str] | None:
    """Return the names of the class folders in label order; None for another kind of dataset.

    Raises:
        UserError: a name is not UTF-8.
    """
    folder = None if dataset is None or isinstance(dataset, Pairs) else Path(dataset)
    if folder is None or inputs.is_written(dataset) or not folder.is_dir():
        return None
    found = [path.name for path in folder.iterdir() if path.is_dir() and path.name not in LEFTOVERS]
    names = sorted(name for name in found if not name.startswith("."))
    for name in names:
        report.check_name(report.utf_8(str(folder)), name)
    return names or None

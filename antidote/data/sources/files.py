"""Paths of source files: globs, brace patterns, hosted files, and hash checks."""

import os
import re
from glob import escape, glob
from pathlib import Path

from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.files import sha256
from antidote.base.settings import Name
from antidote.data.download.hosted import hosted, hosted_name
from antidote.data.sources.base import Damaged, SourceSettings, Unread


class FileSource(SourceSettings):
    """Base class of sources that read files named by the user.

    Example of a subclass's `iterate`:

        for file in self.files(split):
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
                path, caption = line.split("\\t")
                key, image = f"{file.stem}-{number:07d}", read_file(file.parent / path)
                yield self.labelled(key, image, [caption], label=None, class_name=None)
    """

    splits: dict[str, str] = Field(
        description="Per split a path, a glob, or a pattern such as {00000..00041}.tar; hosted files (https://...) too."
    )
    sha256: dict[str, str] = Field({}, description="Required SHA-256 per file name.")
    subset: Name | None = Field(
        None,
        description="File (Parquet or CSV, columns key and sha256) that restricts the dataset to the listed pairs; "
        "sha256 is the required hash of the picture file.",
    )

    def files(self, split: str) -> list[Path]:
        """Return the files of a split after checking their hashes; hosted files are fetched first.

        Local files are sorted; hosted files keep the order of the pattern.

        Raises:
            UserError: a file is missing or has another hash.
        """
        patterns = braces(self.split(split))
        if is_hosted(patterns[0]):
            return [hosted(url, self.sha256.get(hosted_name(url))) for url in patterns]
        paths = sorted({path for part in patterns for path in _matches(part)})
        for path in paths:
            wanted = self.sha256.get(path.name)
            if wanted is not None and sha256(path) != wanted.lower():
                raise UserError(f"splits.{split}: {path} has another SHA-256 than the definition says")
        return paths

    def absent(self, split: str) -> list[str]:
        patterns = [part for part in braces(self.split(split)) if not is_hosted(part)]
        gone = [part for part in patterns if not _found(part)]
        lines = [f"{part}: not there" for part in gone[:3]]
        if len(gone) > 3:
            lines.append(f"and {len(gone) - 3} more of {self.split(split)}: not there")
        if self.subset is not None and not Path(self.subset).is_file():
            lines.append(f"subset: {self.subset}: not there")
        return lines or self._unreadable(split) if patterns else lines

    def _unreadable(self, split: str) -> list[str]:
        """Return the fault of the first pair of a split, [] if the pair is readable."""
        unhashed = self.model_copy(update={"sha256": {}})  # hashing whole files takes too long for this check
        try:
            first = next(unhashed.iterate(split), None)
        except UserError as error:
            return [str(error)]
        if first is None or isinstance(first, Damaged | Unread):
            detail = f" ({first.detail})" if first and first.detail else ""
            return [f"{self.split(split)}: " + (f"{first.key}: {first.reason}{detail}" if first else "holds no pair")]
        return []

    def fetched(self, split: str) -> str | None:
        return self.split(split) if is_hosted(self.split(split)) else None

    def present(self, split: str) -> list[str]:
        """Return the paths of the local files of a split that exist; no file is opened."""
        patterns = [part for part in braces(self.split(split)) if not is_hosted(part)]
        return sorted({path for part in patterns for path in _found(part)})


def is_hosted(pattern: str) -> bool:
    """Return whether a pattern names files on a web server."""
    return pattern.startswith(("http://", "https://"))


def braces(pattern: str) -> list[str]:
    """Expand `{a,b}` and `{000..012}` as a shell does; numbers keep the width of the first number."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        return [pattern]
    first, last, choices = match.groups()
    numbers = range(int(first), int(last) + 1) if first else ()
    parts = choices.split(",") if choices else [f"{number:0{len(first)}d}" for number in numbers]
    return [text for part in parts for text in braces(pattern[: match.start()] + part + pattern[match.end() :])]


def told_apart(files: list[Path]) -> list[str]:
    """Return a unique name for each file: its stem, with folders if several files share a stem."""
    names = [file.stem.removesuffix(".tar") for file in files]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([file.parent.absolute() for file in files])
    return [str(file.parent.absolute().relative_to(common) / name) for file, name in zip(files, names, strict=True)]


def _found(pattern: str) -> list[str]:
    """Return the matches of a glob; a path component that exists literally, such as `data [1]`, is not a pattern."""
    parts: list[str] = []
    for part in Path(pattern).parts:
        parts.append(escape(part) if Path(*map(_plain, parts), part).exists() else part)
    return glob(str(Path(*parts)), recursive=True)  # noqa: PTH207


def _plain(part: str) -> str:
    """Undo `glob.escape` for one path component."""
    return re.sub(r"\[([*?[])\]", r"\1", part)


def _matches(pattern: str) -> list[Path]:
    there = [Path(path) for path in _found(pattern)]
    found = [path for path in there if path.is_file()]
    if not found and there:
        raise UserError(f"splits: {pattern}: is a folder; name the files in it, such as {there[0] / _usual(there[0])}")
    if not found:
        raise UserError(f"splits: {pattern}: no such file")
    return found


def _usual(folder: Path) -> str:
    """Return a glob for the most frequent file ending in a folder."""
    endings = sorted(path.suffix for path in folder.iterdir() if path.is_file() and path.suffix)
    return "*" + max(endings, key=endings.count, default="")

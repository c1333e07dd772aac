"""Captioned pictures from a file of Karpathy's splits: COCO 5K, Flickr30K 1K (Karpathy and Fei-Fei 2015)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from antidote.base.errors import UserError, nearest
from antidote.base.files import read_json
from antidote.data.sources.base import RawPair, Skipped, SourceSettings, is_text, read_file, unread


class Karpathy(SourceSettings):
    source: Literal["karpathy"] = "karpathy"
    file: str = Field(
        description="JSON file with splits and captions, such as dataset_coco.json. All captions are stored; training "
        "uses the first caption, retrieval several."
    )
    root: str = Field(description="Folder of the pictures.")
    splits: dict[str, list[str]] = Field(
        description="Per split the names of the file's splits to combine, such as [train, restval]."
    )

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        words, rows = self.split(split), self._rows()
        known = sorted({str(row.get("split")) for row in rows})
        for word in words:
            if word not in known:
                raise UserError(f"splits.{split}: {self.file} has no split {word!r}{nearest(word, known)}")
        for row in rows:
            if row["split"] in words:
                yield self._pair(row)

    def absent(self, split: str) -> list[str]:
        if not Path(self.file).is_file():
            return [f"{path}: not there" for path in (self.file, self.root) if not Path(path).exists()]
        try:
            rows = [row for row in self._rows() if row["split"] in self.split(split)]
        except UserError as error:
            return [str(error)]
        firsts = {row.get("filepath", ""): row for row in reversed(rows)}  # first row of each picture folder
        paths = [Path(self.root, str(folder), str(row["filename"])) for folder, row in sorted(firsts.items())]
        return [f"{path}: not there" for path in paths if not path.is_file()]

    def _rows(self) -> list[dict[str, Any]]:
        values = read_json(self.file)
        rows = values.get("images") if isinstance(values, dict) else None
        if not rows or not all(
            isinstance(row, dict) and {"filename", "split", "sentences"} <= set(row) for row in rows
        ):
            raise UserError(f"file: {self.file} should hold `images` with filename, split and sentences, as Karpathy's")
        return rows

    def _pair(self, row: dict[str, Any]) -> RawPair | Skipped:
        names = (row.get("filepath", ""), row["filename"])
        if not all(map(is_text, names)):
            return Skipped(str(names[1]), "file name that is no text")
        key = str(Path(*names))
        path = (Path(self.root) / key).resolve()
        if not path.is_relative_to(Path(self.root).resolve()):
            return Skipped(key, "path leads out of root", str(path))
        try:
            return self.labelled(key, read_file(path), [sentence["raw"] for sentence in row["sentences"]], None, None)
        except OSError as error:
            return unread(key, path, error)
        except (KeyError, TypeError):
            return Skipped(key, "sentences without raw text")

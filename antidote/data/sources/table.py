"""Pairs from Parquet, CSV or TSV (without quotes) files: image bytes or paths, with captions, labels or class names."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from antidote.base.errors import UserError, nearest
from antidote.data.sources.base import RawPair, Skipped, read_file, unread
from antidote.data.sources.columns import check_texts, joins_rows
from antidote.data.sources.files import FileSource, is_hosted, told_apart

BATCH = 256
NO_PATH = "row without a picture"
WEB = "an address of the web where a path is wanted; the source url_table downloads"
PATHS = "; a column of paths is named by `path`"
BACKSLASHES = "path with backslashes, read as slashes"


class Table(FileSource):
    source: Literal["table"] = "table"
    image: str | None = Field(
        None,
        description="Column with image files as bytes, or as {bytes, path}; the path is read if bytes is empty.",
    )
    path: str | None = Field(None, description="Column with paths of image files, relative to the table's folder.")
    caption: str | None = Field(
        None,
        description="Column with a caption or a list of captions (a list written as text is expanded); null: captions "
        "are made from class names.",
    )
    label: str | None = Field(None, description="Column with the label as an integer.")
    class_name: str | None = Field(None, description="Column with the class name.")
    key: str | None = Field(None, description="Column with unique keys; null: keys are row numbers.")

    @model_validator(mode="after")
    def _enough(self) -> "Table":
        if (self.image is None) == (self.path is None):
            raise ValueError("image: name one column, either image (bytes) or path")
        if self.caption is None and self.class_name is None and (self.label is None or self.classes is None):
            raise ValueError("caption: name a column for caption, for class_name, or for label together with classes")
        return self

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        named = {name: getattr(self, name) for name in ("image", "path", "caption", "label", "class_name", "key")}
        columns = {name: column for name, column in named.items() if column is not None}
        files = self.files(split)
        for file, name in zip(files, told_apart(files), strict=True):
            for number, row in enumerate(_rows(file, columns)):
                if self.key is not None and _is_null(row["key"]):
                    yield Skipped(f"{name}-{number:07d}", "no key")
                    continue
                key = f"{name}-{number:07d}" if self.key is None else str(row["key"])
                yield self._pair(key, row, file.parent)

    def _pair(self, key: str, row: dict[str, Any], folder: Path) -> RawPair | Skipped:
        try:
            label = None if _is_null(row.get("label")) else int(row["label"])
            if isinstance(row.get("label"), float) and label is not None and label != row["label"]:
                raise ValueError("a fraction")
        except (ValueError, TypeError, OverflowError):
            return Skipped(key, "label is not an integer", repr(row["label"]))
        captions = row.get("caption")
        captions = captions if isinstance(captions, list) else [captions]
        captions = [text for text in captions if text not in (None, "")]
        if self.caption is not None and not captions:
            return Skipped(key, "no caption")
        picture = _picture(key, row, folder)
        if isinstance(picture, Skipped):
            return picture
        image, notes = picture
        return self.labelled(key, image, captions, label, row.get("class_name") or None, notes=notes)


def _is_null(value: Any) -> bool:
    """Return whether a cell is empty; tables of numbers write an empty cell as `nan`."""
    return value is None or str(value).strip().lower() in ("", "nan")


def _picture(key: str, row: dict[str, Any], folder: Path) -> tuple[bytes, list[str]] | Skipped:
    """Return the picture file of a row, and notes on deviations from the literal path."""
    path = row.get("path")
    if "path" not in row:
        image = row["image"]
        if isinstance(image, dict):  # the format of the `datasets` library
            image, path = image.get("bytes"), image.get("path")
        if isinstance(image, bytes) and image:
            return image, []
        if image is not None and not isinstance(image, bytes):
            return Skipped(
                key, f"{type(image).__name__} where the bytes of a picture are wanted{PATHS}", f"{image!r:.80}"
            )
    if path in (None, ""):
        return Skipped(key, NO_PATH)
    if is_hosted(str(path)):
        return Skipped(key, WEB, str(path))
    return _file(key, str(path), folder)


def _file(key: str, path: str, folder: Path) -> tuple[bytes, list[str]] | Skipped:
    slashed = path.replace("\\", "/")
    try:
        if slashed != path and not (folder / path).exists() and (folder / slashed).is_file():
            return read_file(folder / slashed), [BACKSLASHES]
        return read_file(folder / path), []
    except OSError as error:
        more = "" if Path(path).is_absolute() else f"; {path!r} is relative to the table's folder"
        return unread(key, folder / path, error, more)
    except ValueError:  # the path contains a null character
        return Skipped(key, "path that no file can have", repr(path))


def _rows(file: Path, columns: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield rows as {setting: value}; at most BATCH rows are in memory."""
    ending = file.suffix.lower()
    if ending not in (".parquet", ".csv", ".tsv"):
        raise UserError(f"{file}: should be a .parquet, .csv or .tsv file")
    for batch in (_parquet if ending == ".parquet" else _csv)(file, columns):
        for values in zip(*batch, strict=True):
            yield dict(zip(columns, values, strict=True))


def _parquet(file: Path, columns: dict[str, str]) -> Iterator[list[list]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        _check(file, columns, table.schema_arrow.names)
        if "caption" in columns:
            check_texts(file, "caption", columns["caption"], table.schema_arrow)
        for batch in table.iter_batches(BATCH, columns=list(dict.fromkeys(columns.values()))):
            yield [batch.column(column).to_pylist() for column in columns.values()]
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None


def _csv(file: Path, columns: dict[str, str]) -> Iterator[list[list]]:
    import pandas as pd

    # Published TSV files rarely use quoting, so a quotation mark is text; url_table reads TSV the same way.
    tabs = {"sep": "\t", "quoting": csv.QUOTE_NONE} if file.suffix.lower() == ".tsv" else {}
    try:
        with pd.read_csv(file, dtype=str, keep_default_na=False, chunksize=BATCH, **tabs) as reader:
            for batch in reader:
                header = list(batch.columns)
                _check(file, columns, header)
                _check_rows(file, columns, header, batch)
                yield [batch[column].tolist() for column in columns.values()]
    except (ValueError, OSError) as error:  # pandas' parser errors and wrong encodings are ValueErrors
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None


def _check_rows(file: Path, columns: dict[str, str], header: list[str], batch: Any) -> None:
    text, path = columns.get("caption"), columns.get("path")
    if text is None or path is None:
        return
    long = batch[batch[text].str.contains("\n", regex=False)]
    for number, caption, place in zip(long.index, long[text], long[path], strict=True):
        if joins_rows(caption, place, header, path):
            raise UserError(
                f"{file}: row {number}: a quotation mark at the start of its {text!r} joins it with the rows below; "
                "double the marks inside quotes, or save the table as .tsv, where they are text"
            )


def _check(file: Path, columns: dict[str, str], there: list[str]) -> None:
    for setting, column in columns.items():
        if column not in there:
            raise UserError(f"{setting}: {file} has no column {column!r}{nearest(column, there)}")

"""Columns of a table of pictures: those that a user names, else those with a usual name."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from antidote.base.errors import UserError, nearest

TABLES = (".csv", ".tsv", ".parquet")
PATHS, BYTES = ("path", "file", "filepath", "image_path", "filename", "file_name"), ("image", "jpg", "png", "bytes")
CAPTIONS = ("caption", "text", "title", "txt")


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table; None: the first name that is usual (`PATHS`, `BYTES`, `CAPTIONS`)."""

    path: str | None = None
    image: str | None = None
    caption: str | None = None


USUAL = Columns()


class Keyed(str):
    """The name of a column as the value of a key in a file; messages name the key in place of an option.

    Keyed("photo", "given.yaml: path").place
    """

    __slots__ = ("place",)

    def __new__(cls, name: str, place: str) -> Keyed:
        made = super().__new__(cls, name)
        made.place = place
        return made


def of_table(path: Path, named: Columns, captions: bool) -> dict[str, str]:
    """Return the columns of a table with paths or picture files, and with captions.

    Raises:
        UserError: a column is neither named nor known, or the table has no column of the name.
    """
    import pandas as pd
    import pyarrow.parquet as pq
    from pyarrow import types

    texts: list[str] = []  # columns that cannot hold the bytes of a picture
    try:
        if path.suffix.lower() == ".parquet":
            schema = pq.read_schema(path)
            names = schema.names
            texts = [one.name for one in schema if types.is_string(one.type) or types.is_large_string(one.type)]
        else:
            tabs = {"sep": "\t", "quoting": csv.QUOTE_NONE} if path.suffix.lower() == ".tsv" else {}  # as `Table` reads
            names = list(pd.read_csv(path, nrows=0, **tabs))
            texts = names
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from None
    if any(not name.isprintable() for name in map(str, names)):
        raise UserError(f"{path}: cannot be read as a table (the names of its columns are no text)")
    for option, name in (
        ("path", named.path),
        ("image", named.image),
        ("caption", named.caption if captions else None),
    ):
        if name is not None and name not in names:
            told = getattr(name, "place", f"--{option}")
            raise UserError(f"{told}: {path} has no column {str(name)!r}{nearest(name, names)}")
    find = lambda known: next((name for name in known if name in names), None)
    place, image, caption = named.path or find(PATHS), named.image or find(BYTES), named.caption or find(CAPTIONS)
    if named.image:
        place = None
    elif place is None and image in texts:
        place = image
    if place is None and image is None:
        raise UserError(f"--path: is missing; name the column of paths in {path}, which has {', '.join(names)}")
    pictures = {"path": place} if place else {"image": image}
    if not captions:
        return {**pictures, "class_name": place or image}  # a table needs a caption or a class; this one has no effect
    if caption is None:
        raise UserError(f"--caption: is missing; name the column of captions in {path}, which has {', '.join(names)}")
    return {**pictures, "caption": caption}

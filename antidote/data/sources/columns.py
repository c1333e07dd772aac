"""Checks of the content of table columns."""

from pathlib import Path
from typing import TYPE_CHECKING

from antidote.base.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


def check_texts(file: Path, setting: str, column: str, schema: "pa.Schema", lists: bool = True) -> None:
    """Check that a column contains texts, or lists of texts if `lists`.

    Raises:
        UserError: another type; the message begins with the setting that names the column.
    """
    import pyarrow.types as kinds

    found = kind = schema.field(column).type
    while hasattr(kind, "value_type") and (lists or kinds.is_dictionary(kind)):
        kind = kind.value_type
    if not any(check(kind) for check in (kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_null)):
        wanted = "texts or lists of texts" if lists else "texts"
        raise UserError(f"{setting}: {file}: column {column!r} holds {found}, and should hold {wanted}")


def joins_rows(text: str, place: str, header: list[str], column: str) -> bool:
    """Return whether a CSV cell contains whole rows; a stray quotation mark joins all rows up to the next mark.

    Args:
        text: the cell.
        place: path or address of the picture of this row.
        header: names of all columns.
        column: name of the column with the paths or addresses.
    """
    rows = (line.split(",") for line in text.split("\n")[1:])
    number = header.index(column)
    return any(len(row) >= len(header) and _kind(row[number]) == _kind(place) != "" for row in rows)


def _kind(place: str) -> str:
    """Return the kind of a picture's location: the scheme of a URL, or the extension of a path."""
    scheme, mark, _ = place.partition("://")
    return scheme + mark if mark else Path(place.strip()).suffix.lower()

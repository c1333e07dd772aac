"""What the columns of a table hold."""

from pathlib import Path
from typing import TYPE_CHECKING

from antidote.base.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


def check_texts(file: Path, setting: str, column: str, schema: "pa.Schema", lists: bool = True) -> None:
    """Stop where a column holds neither texts nor, where these are allowed, lists of them.

    Raises:
        UserError: begins with the setting that names the column.
    """
    import pyarrow.types as kinds

    found = kind = schema.field(column).type
    while hasattr(kind, "value_type") and (lists or kinds.is_dictionary(kind)):
        kind = kind.value_type
    if not any(check(kind) for check in (kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_null)):
        wanted = "texts or lists of texts" if lists else "texts"
        raise UserError(f"{setting}: {file}: column {column!r} holds {found}, and should hold {wanted}")


def joins_rows(text: str, place: str, header: list[str], column: str) -> bool:
    """Tell whether a text of a CSV file holds whole rows: a stray quotation mark joins those up to the next one.

    Args:
        place: where the picture of this row is, a path or an address.
        header: names of all columns, of which `column` holds such places.
    """
    rows = (line.split(",") for line in text.split("\n")[1:])
    number = header.index(column)
    return any(len(row) >= len(header) and _kind(row[number]) == _kind(place) != "" for row in rows)


def _kind(place: str) -> str:
    """Return what the place of a picture looks like: the beginning of an address, or the ending of a file's name."""
    scheme, mark, _ = place.partition("://")
    return scheme + mark if mark else Path(place.strip()).suffix.lower()

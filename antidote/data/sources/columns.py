"""What the columns of a Parquet file hold."""

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

"""Fixed lists of pairs: keys and the SHA-256 of their pictures, so that a subset of a dataset can be reproduced."""

from pathlib import Path
from typing import TYPE_CHECKING

from antidote.base.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = ["key", "sha256"]


def read_subset(path: str | Path) -> "pd.Series":
    """Return the SHA-256 (hex digits) of each listed key; rows without a SHA-256 (failed downloads) are left out.

    Raises:
        UserError: the file is missing or damaged, lacks a column, is empty, lists a key twice, or contains an invalid
            SHA-256.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"subset: {path}: should be a .parquet or .csv file")
    try:
        table, names = _table(path)
    except (OSError, ValueError) as error:
        raise UserError(f"subset: {path}: cannot be read ({' '.join(str(error).split())})") from None
    for column in COLUMNS:
        if column not in table:
            raise UserError(f"subset: {path}: has no column {column!r}{nearest(column, names)}")
    listed = table.dropna(subset=COLUMNS).set_index("key")["sha256"].astype(str).str.lower()
    wrong = listed[~listed.str.fullmatch(r"[0-9a-f]{64}")]
    if len(wrong):
        raise UserError(f"subset: {path}: {wrong.index[0]!r} has {wrong.iloc[0]!r}, which is no SHA-256")
    if not listed.index.is_unique:
        raise UserError(f"subset: {path}: lists {listed.index[listed.index.duplicated()][0]!r} twice")
    if listed.empty:
        raise UserError(f"subset: {path}: lists nothing")
    return listed


def _table(path: Path) -> "tuple[pd.DataFrame, list[str]]":
    """Return the columns of a list, and the names of all columns of its file; addresses take most of the memory."""
    import pandas as pd
    import pyarrow.parquet as pq

    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str)
        return table, [str(name) for name in table.columns]
    names = pq.read_schema(path).names
    return pd.read_parquet(path, columns=[name for name in COLUMNS if name in names]), names

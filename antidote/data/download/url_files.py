"""Readers for tables of addresses: Parquet, CSV, TSV without quotes, JSON, and COCO's annotations."""

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError, nearest
from antidote.data.sources.base import is_text
from antidote.data.sources.columns import check_texts, joins_rows

if TYPE_CHECKING:
    import pandas as pd

    from antidote.data.sources.url_table import UrlTable

KINDS = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz", ".json", ".jsonl")


def read_columns(file: Path, settings: "UrlTable", unusable: "Counter[str]") -> "pd.DataFrame":
    """Return the columns url, caption (a text or a list of texts) and, if the settings name it, key of a table.

    Args:
        file: the table.
        settings: the names of the columns.
        unusable: updated with the numbers of malformed rows (wrong number of columns, rows joined by a quotation mark).

    Raises:
        UserError: the file is damaged, is not a table, or lacks a column.
    """
    kind = next((kind for kind in sorted(KINDS, key=len, reverse=True) if file.name.endswith(kind)), None)
    if kind is None:
        raise UserError(f"{file}: should be one of {', '.join(KINDS)}")
    named = {name: getattr(settings, name) for name in ("url", "caption", "key")}
    columns = {name: column for name, column in named.items() if column is not None}
    try:
        if kind == ".parquet":
            table = _parquet(file, columns)
        elif kind in (".json", ".jsonl"):
            table = _json(file, columns)
        else:
            table = _text(file, columns, settings.columns, unusable)
    except (OSError, ValueError) as error:  # pyarrow's and json's errors are ValueErrors
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None
    return table[list(columns.values())].set_axis(list(columns), axis=1)


def _check(file: Path, columns: dict[str, str], there: list[str]) -> None:
    for setting, column in columns.items():
        if column not in there:
            hint = "; a table without a header line needs `columns`" if any("://" in name for name in there) else ""
            raise UserError(f"{setting}: {file} has no column {column!r}{hint or nearest(column, there)}")


def _parquet(file: Path, columns: dict[str, str]) -> "pd.DataFrame":
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    _check(file, columns, table.schema_arrow.names)
    for setting in ("url", "caption"):
        check_texts(file, setting, columns[setting], table.schema_arrow, lists=setting == "caption")
    return table.read(list(dict.fromkeys(columns.values()))).to_pandas()


def _text(file: Path, columns: dict[str, str], names: list[str] | None, unusable: "Counter[str]") -> "pd.DataFrame":
    """Read CSV, or TSV without quoting: published TSV files rarely use quoting, so a quotation mark is text."""
    import pyarrow as pa
    from pyarrow import csv

    wrong: list[str] = []

    def note(row: Any) -> str:
        wrong.append(str(row.text))
        return "skip"

    tabs = ".tsv" in file.suffixes
    read = csv.ReadOptions(column_names=names)
    parse = csv.ParseOptions(
        delimiter="\t" if tabs else ",", quote_char=False if tabs else '"', newlines_in_values=not tabs,
        invalid_row_handler=note,
    )  # fmt: skip
    with csv.open_csv(file, read, parse) as reader:
        there = reader.schema.names
    _check(file, columns, there)
    wrong.clear()
    wanted = list(dict.fromkeys(columns.values()))
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=False
    )
    table = csv.read_csv(file, read, parse, convert)
    if wrong and not len(table):
        raise UserError(f"columns: {file} has no row with {len(there)} columns; its first row is {wrong[0][:80]!r}")
    if wrong:
        unusable["another number of columns"] += len(wrong)
    found, (text, place) = table.to_pandas(), (columns["caption"], columns["url"])
    joined = [
        "\n" in caption and joins_rows(caption, url, there, place)
        for caption, url in zip(found[text], found[place], strict=True)
    ]
    if not any(joined):
        return found
    unusable["rows that a quotation mark joins"] += sum(joined)
    return found[[not one for one in joined]].reset_index(drop=True)


def _json(file: Path, columns: dict[str, str]) -> "pd.DataFrame":
    """Read JSON: a list of records, one record per line, a mapping of columns (SBU), or COCO's annotations."""
    import pandas as pd

    text = file.read_text(encoding="utf-8")
    values = [json.loads(line) for line in text.split("\n") if line.strip()] if file.suffix == ".jsonl" else None
    values = json.loads(text) if values is None else values
    if isinstance(values, dict) and {"images", "annotations"} <= set(values):
        images, notes = (pd.DataFrame(values[name], dtype=object) for name in ("images", "annotations"))
        if "id" not in images or "image_id" not in notes:
            raise ValueError("COCO's images have an id and its annotations an image_id")
        pictures = images.drop_duplicates("id").set_index("id")
        table = notes.drop(columns=notes.columns.intersection(images.columns)).join(
            pictures, on="image_id", how="inner"
        )
    elif isinstance(values, dict):
        lists = {name: column for name, column in values.items() if isinstance(column, list)}
        table = pd.DataFrame({name: lists[name] for name in lists if name in columns.values()}, dtype=object)
        _check(file, columns, list(lists))
    elif isinstance(values, list) and all(isinstance(row, dict) for row in values):
        table = pd.DataFrame(values, dtype=object)
    else:
        raise ValueError("neither a list of records nor columns by name")
    _check(file, columns, [str(name) for name in table.columns])
    for setting in ("url", "caption"):
        column = columns[setting]
        read = partial(_text_value, where=f"{setting}: {file}: column {column!r}")
        lists = setting == "caption"
        table[column] = [
            [read(part) for part in value] if lists and isinstance(value, list) else read(value)
            for value in table[column]
        ]
    return table


def _text_value(value: Any, where: str) -> str | None:
    """Return a text; None for a missing value, and for text with lone surrogates, which UTF-8 cannot encode."""
    if value is None or value != value:  # NaN: the record does not have this key
        return None
    if not isinstance(value, str):
        raise UserError(f"{where} holds {value!r:.40}, and should hold texts")
    return value if is_text(value) else None

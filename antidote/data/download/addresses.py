"""Tables of addresses: selection of the addresses to download, their keys and captions.

By default a key is a hash of the address, so that a picture has the same key in every copy, order and part of a table.
"""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from antidote.base.errors import UserError
from antidote.data.download.url_files import read_columns
from antidote.data.sources.base import JSON_LIST, listed
from antidote.data.sources.url_table import Sample, UrlTable
from antidote.data.store.keys import Keys
from antidote.data.store.subsets import read_subset
from antidote.data.words.names import mentioning

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

log = logging.getLogger("antidote")

KEY_DIGITS = 16
ADDRESS = r"(?i)https?://[^\s/]"  # other schemes, such as file://, are rejected


@dataclass(frozen=True)
class Addresses:
    """The addresses of a split.

    Attributes:
        list: one row per address, in the order of the table: pair (its key), url, caption (the first), captions (all),
            and, with a subset, sha256.
        rows: number of rows in the table.
        unusable: number of rows without a usable address, by reason.
    """

    list: "pd.DataFrame"
    rows: int
    unusable: dict[str, int]


def addresses(settings: UrlTable, split: str) -> Addresses:
    """Read the tables of a split and select the addresses to download.

    Raises:
        UserError: a table is missing or damaged, lacks a column, has an unexpected number of rows, or contains no
            usable address.
    """
    import pandas as pd

    unusable: Counter[str] = Counter()
    try:
        files = settings.files(split)
    except UserError as error:
        raise UserError(f"{error}{_hint(settings)}") from None
    names = ", ".join(map(str, files))
    table = pd.concat([read_columns(file, settings, unusable) for file in files], ignore_index=True)
    rows = len(table) + sum(unusable.values())
    expected = (settings.rows or {}).get(split, rows)
    if rows != expected:
        raise UserError(f"splits.{split}: {names}: holds {rows} rows, expected {expected}")
    table = _opened(table, names)
    wanted = _one_per_address(_usable(table.explode("caption", ignore_index=True), unusable), unusable)
    if settings.sample:
        wanted = wanted[_sampled(wanted, settings.sample)]
    if settings.subset:
        wanted = _listed(wanted, settings.subset, names)
    if wanted.empty:
        found = ", ".join(f"{count} x {reason}" for reason, count in unusable.most_common()) or "no row"
        raise UserError(f"splits.{split}: {names}: holds no usable address ({found})")
    return Addresses(wanted.reset_index(drop=True), rows, dict(sorted(unusable.items())))


def _hint(settings: UrlTable) -> str:
    return f"; the table is to be had from {settings.homepage}" if settings.homepage else ""


def _opened(table: "pd.DataFrame", names: str) -> "pd.DataFrame":
    """Expand captions that contain a list as text."""
    lists = table["caption"].map(lambda value: isinstance(value, str) and value.lstrip().startswith("["))
    found = table["caption"][lists.astype(bool)].map(lambda text: listed([text]))
    read = found[found.map(itemgetter(1)).astype(bool)].map(itemgetter(0))
    if read.empty:
        return table
    log.warning("%s: read otherwise than written: %d x %s", names, len(read), JSON_LIST)
    captions = table["caption"].astype(object)
    captions[read.index] = read
    return table.assign(caption=captions)


def _usable(table: "pd.DataFrame", unusable: "Counter[str]") -> "pd.DataFrame":
    table = table.fillna("").astype(str)
    table["url"] = table["url"].str.strip()
    # One caption at a time: `.str.split` makes a list of words for every caption, which takes gigabytes.
    table["caption"] = table["caption"].map(lambda caption: " ".join(caption.split()))
    for column, pattern, reason in (("url", ADDRESS, "no address of the web"), ("caption", ".", "no caption")):
        kept = table[column].str.match(pattern).to_numpy(bool)
        if not kept.all():
            unusable[reason] += int((~kept).sum())
            table = table[kept]
    return table


def _one_per_address(table: "pd.DataFrame", unusable: "Counter[str]") -> "pd.DataFrame":
    """Join the captions of each address; its first row determines its position and key.

    Args:
        table: one row per (address, caption).
        unusable: updated with the number of addresses with the key of an earlier address.
    """
    further = table["url"].duplicated().to_numpy()
    first = table[~further].reset_index(drop=True)
    captions = [[caption] for caption in first["caption"]]
    if further.any():
        row_of = {url: row for row, url in enumerate(first["url"])}
        for url, caption in zip(table["url"][further], table["caption"][further], strict=True):
            if caption not in captions[row_of[url]]:
                captions[row_of[url]].append(caption)
    first = first.assign(
        pair=_own_keys(first["key"]) if "key" in first else first["url"].map(made_key), captions=captions
    )
    kept = first["pair"].notna().to_numpy()
    if not kept.all():
        unusable["key of another address"] += int((~kept).sum())
    return first.loc[kept, ["pair", "url", "caption", "captions"]]


def _own_keys(given: "pd.Series") -> list[str | None]:
    """Return a safe key for each given key, as ingestion makes it; None for a repeated key."""
    keys = Keys()
    return [keys.new(key) for key in given]


def made_key(url: str) -> str:
    """Return the key of the picture at an address: 64 bits of SHA-256 as hex digits."""
    return hashlib.sha256(url.encode()).hexdigest()[:KEY_DIGITS]


def _sampled(wanted: "pd.DataFrame", sample: Sample) -> "np.ndarray":
    """Return bool (N,): whether each address belongs to the sample."""
    import numpy as np

    ranks = [hashlib.sha256(f"sample/{sample.seed}/{key}".encode()).digest()[:8] for key in wanted["pair"]]
    chosen = np.zeros(len(wanted), bool)
    chosen[np.argsort(np.array(ranks, "S8"), kind="stable")[: sample.pairs]] = True
    for word in sample.keep:
        chosen |= mentioning(wanted["caption"], word)
    return chosen


def _listed(wanted: "pd.DataFrame", subset: str, names: str) -> "pd.DataFrame":
    listed = read_subset(subset)
    wanted = wanted[listed.index.get_indexer(wanted["pair"]) >= 0]  # `isin` takes ten times as long
    if wanted.empty:
        raise UserError(f"subset: {subset}: lists no key of {names}; keys are made from addresses unless `key` is set")
    return wanted.assign(sha256=listed.loc[wanted["pair"]].to_numpy())

"""Write the list of pairs in a study's pools, each with the hash of its picture, to reproduce the subset."""

import argparse
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import whole_file
from antidote.data import pools
from antidote.data.store.subsets import read_subset


def run(arguments: argparse.Namespace) -> None:
    known = read_subset(arguments.ids)
    keys = _keys(arguments.pools, known.index, arguments.ids) if arguments.pools else known.index
    listed = pd.DataFrame({"key": keys, "sha256": known.loc[keys].to_numpy()})
    with whole_file(arguments.output) as temporary:
        listed.to_parquet(temporary, index=False)
    command_line.log.info("%s: %d pairs", arguments.output, len(listed))


def _keys(given: list[Path], known: pd.Index, ids: Path) -> pd.Index:
    """Return the sorted keys of the pools that are drawn from the split of the download; other pools are skipped.

    Raises:
        UserError: no pool is drawn from the split; or a pool holds a pair that was not downloaded.
    """
    files = [file for path in given for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])]
    tables = {file: _of_split(file, known) for file in files}
    chosen = [table for table in tables.values() if len(table)]
    if not chosen:
        raise UserError(f"--pools: {', '.join(map(str, given))}: no pool there is drawn from the split of {ids}")
    keys = pd.Index(pd.concat(chosen)["key"].unique()).sort_values()
    unknown = keys[known.get_indexer(keys) < 0]
    if len(unknown):
        raise UserError(f"{ids}: has no picture {unknown[0]!r}, which the pools hold; they are of another download")
    beside = {file for path in files for file in path.parent.glob("*.parquet") if _holds_pools(file)} - set(files)
    further = sorted(str(file) for file in beside if len(_of_split(file, known)))
    if further:
        command_line.log.warning(
            "left out: %s; a study that draws these pools too needs them in the subset", ", ".join(further)
        )
    return keys


def _holds_pools(file: Path) -> bool:
    return set(pools.COLUMNS) <= set(pq.read_schema(file).names)


def _of_split(file: Path, known: pd.Index) -> pd.DataFrame:
    """Return the rows of a pool file that belong to the split of the download."""
    table = pools.read(file)
    if not _holds_pools(file):
        raise UserError(f"--pools: {file}: is no file of pools, which has the columns {', '.join(pools.COLUMNS)}")
    there = known.get_indexer(table["key"]) >= 0  # `isin` takes ten times as long with millions of keys
    places = table.loc[there, ["dataset", "split"]].drop_duplicates()
    return table.merge(places)


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--ids", type=Path, required=True, help="ids.parquet of a download")
    parser.add_argument(
        "--pools", type=Path, nargs="*", default=[],
        help="folder of a study's pools, or some of its files; default: all downloaded pairs",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="parquet file to write: key, sha256")
    command_line.main(run, parser)

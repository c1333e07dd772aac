"""Write the list of pairs that a study's pools hold, each with the hash of its picture: a subset to have again."""

import argparse
from pathlib import Path

import pandas as pd

from antidote import cli
from antidote.data import pools
from antidote.data.subsets import read_subset
from antidote.errors import UserError
from antidote.files import whole_file


def run(arguments: argparse.Namespace) -> None:
    known = read_subset(arguments.ids)
    keys = pd.Index(pools.read(arguments.pools)["key"].unique()).sort_values() if arguments.pools else known.index
    unknown = keys[~keys.isin(known.index)]
    if len(unknown):
        raise UserError(f"{arguments.ids}: has no picture {unknown[0]!r}; name pools of this split alone")
    listed = pd.DataFrame({"key": keys, "sha256": known.loc[keys].to_numpy()})
    with whole_file(arguments.output) as temporary:
        listed.to_parquet(temporary, index=False)
    cli.log.info("%s: %d pairs", arguments.output, len(listed))


if __name__ == "__main__":
    parser = cli.parser(__doc__)
    parser.add_argument("--ids", type=Path, required=True, help="ids.parquet of a download")
    parser.add_argument(
        "--pools", type=Path, nargs="*", default=[], help="files of pools; without them, all that arrived"
    )
    parser.add_argument("--output", type=Path, required=True, help="parquet file to write: key, sha256")
    cli.main(run, parser)

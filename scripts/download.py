"""Download one split of a dataset from a URL table; write a report and the outcome of each URL."""

import argparse
from pathlib import Path

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import whole_file, write_json
from antidote.data.download.download import download
from antidote.data.store.datasets import given_settings


def run(arguments: argparse.Namespace) -> None:
    cost = command_line.Cost()
    settings = given_settings(arguments.name, arguments.settings)
    if not settings.downloads:
        raise UserError(f"datasets.{arguments.name}: the source {settings.source!r} needs no download")
    settings.split(arguments.split)
    report, ids = download(settings, arguments.name, arguments.split, arguments.folder, arguments.processes)
    with whole_file(arguments.ids) as temporary:
        ids.to_parquet(temporary, index=False)
    cost.write(arguments.cost, pairs=report["arrived"])
    write_json(arguments.report, report)


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--name", required=True, help="name of the dataset")
    parser.add_argument("--split", required=True, help="name of the split")
    command_line.settings_argument(parser, "keys that replace those in data/datasets.yaml, or a whole definition")
    parser.add_argument("--folder", type=Path, required=True, help="folder for work shards, from which it goes on")
    parser.add_argument("--processes", type=int, default=1, help="processes; each has several connections")
    parser.add_argument(
        "--report", type=Path, required=True, help="JSON file for what arrived and why the rest did not"
    )
    parser.add_argument("--ids", type=Path, required=True, help="parquet file: key, url, sha256, failure")
    parser.add_argument("--cost", help="JSON file for seconds and memory")
    command_line.main(run, parser)

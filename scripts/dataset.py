"""Write one split of a dataset as webdataset shards, an index and a manifest."""

from pathlib import Path

from antidote.base import command_line
from antidote.data.store import ingest
from antidote.data.store.datasets import given_settings


def run(arguments):
    cost = command_line.Cost()
    settings = given_settings(arguments.name, arguments.settings)
    manifest = ingest.write(settings, arguments.name, arguments.split, arguments.output, arguments.download)
    cost.write(arguments.cost, pairs=manifest["pairs"])


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--name", required=True, help="name of the dataset")
    parser.add_argument("--split", required=True, help="name of the split")
    command_line.settings_argument(parser, "keys that replace those in data/datasets.yaml, or a whole definition")
    parser.add_argument("--output", required=True, help="folder for the split")
    parser.add_argument("--download", type=Path, help="report of the split's download, for sources that have one")
    parser.add_argument("--cost", help="JSON file for seconds and memory")
    command_line.main(run, parser)

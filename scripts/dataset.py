"""Write one split of a dataset as webdataset shards, an index and a manifest."""

from antidote import cli
from antidote.data import shards
from antidote.data.datasets import dataset_settings


def run(arguments):
    cost = cli.Cost()
    definition = {arguments.name: arguments.settings}
    settings = dataset_settings(arguments.name, definition if arguments.settings else None)
    manifest = shards.write(settings, arguments.name, arguments.split, arguments.output)
    if arguments.cost:
        cost.write(arguments.cost, pairs=manifest["pairs"])


if __name__ == "__main__":
    parser = cli.parser(__doc__)
    parser.add_argument("--name", required=True, help="name of the dataset")
    parser.add_argument("--split", required=True, help="name of the split")
    cli.settings_argument(parser, "keys that replace those in data/datasets.yaml, or a whole definition")
    parser.add_argument("--output", required=True, help="folder for the split")
    parser.add_argument("--cost", help="JSON file for seconds and memory")
    cli.main(run, parser)

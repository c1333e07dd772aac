"""Write one split of a dataset as webdataset shards, an index and a manifest."""

from antidote import cli
from antidote.data import ingest
from antidote.data.datasets import dataset_settings
from antidote.data.sources.base import SourceSettings
from antidote.registry import SOURCES, method


def run(arguments):
    cost = cli.Cost()
    settings = _definition(arguments.name, arguments.settings)
    manifest = ingest.write(settings, arguments.name, arguments.split, arguments.output)
    cost.write(arguments.cost, pairs=manifest["pairs"])


def _definition(name: str, values: dict) -> SourceSettings:
    """Return a whole definition as it is given; one without a source changes that in data/datasets.yaml."""
    if values.get("source") in SOURCES:
        return method("source", values["source"]).read(values, f"datasets.{name}")
    return dataset_settings(name, {name: values} if values else None)


if __name__ == "__main__":
    parser = cli.parser(__doc__)
    parser.add_argument("--name", required=True, help="name of the dataset")
    parser.add_argument("--split", required=True, help="name of the split")
    cli.settings_argument(parser, "keys that replace those in data/datasets.yaml, or a whole definition")
    parser.add_argument("--output", required=True, help="folder for the split")
    parser.add_argument("--cost", help="JSON file for seconds and memory")
    cli.main(run, parser)

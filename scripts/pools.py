"""Choose which pairs serve for training, poison, defense and inversion."""

from pathlib import Path

from antidote import cli
from antidote.data import pools, shards


def run(arguments):
    cost = cli.Cost()
    settings = pools.PoolsSettings.read(arguments.settings, "pools")
    columns = ["key", "caption", "label"]
    indexes = {
        (dataset, split): shards.open_index(Path(arguments.data) / dataset / split, columns)
        for dataset, split in settings.splits()
    }
    chosen = pools.choose(settings, indexes, arguments.target)
    pools.write(arguments.output, chosen)
    cost.write(arguments.cost, pairs=len(chosen))


if __name__ == "__main__":
    parser = cli.parser(__doc__)
    cli.settings_argument(parser, "the pools")
    parser.add_argument("--data", default="data", help="folder that holds {dataset}/{split}")
    parser.add_argument("--output", required=True, help="pools.parquet; pools.json is written beside it")
    parser.add_argument("--target", help="word that target_pairs counts in captions")
    parser.add_argument("--cost", help="JSON file for seconds and memory")
    cli.main(run, parser)

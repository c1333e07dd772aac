"""Choose the pairs for training, poison, defense and inversion; write all pools or one pool."""

from pathlib import Path

from antidote.base import command_line
from antidote.base.errors import UserError, nearest
from antidote.data import pools
from antidote.data.store import shards


def run(arguments):
    cost = command_line.Cost()
    settings = pools.PoolsSettings.read(arguments.settings, "pools")
    known, columns = settings.pools(), ["key", "caption", "label"]
    if arguments.only not in (None, *known):
        raise UserError(f"--only: the settings have no pool {arguments.only!r}{nearest(arguments.only, known)}")
    splits = [settings.place(known[arguments.only])] if arguments.only else settings.splits()
    indexes = {
        (dataset, split): shards.open_index(Path(arguments.data) / dataset / split, columns)
        for dataset, split in splits
    }
    chosen = pools.choose(settings, indexes, arguments.target)
    if arguments.only:
        chosen = chosen[chosen["pool"] == arguments.only].reset_index(drop=True)
    pools.write(arguments.output, chosen)
    cost.write(arguments.cost, pairs=len(chosen))


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    command_line.settings_argument(parser, "the pools")
    parser.add_argument("--data", default="data", help="folder that holds {dataset}/{split}")
    parser.add_argument("--output", required=True, help="parquet file to write; a JSON file of counts comes beside it")
    parser.add_argument("--only", help="write this pool alone; the others still take their share of its split")
    parser.add_argument("--target", type=command_line.text, help="word that target_pairs counts in captions")
    parser.add_argument("--cost", help="JSON file for seconds and memory")
    command_line.main(run, parser)

"""List files that no study needs any longer; with --delete, delete the files.

In results/{study}: results of attacks, defenses and seeds that are no longer in the study, and checkpoints of finished
or removed jobs. In the shared cache (ANTIDOTE_CACHE), on request: entries by the time of the last use. Checkpoints of
unfinished jobs are kept. `dvc gc` cleans DVC's own cache. Only the link itself is deleted, never the target of a link.
"""

import argparse
from pathlib import Path

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.settings import read_mapping
from antidote.study.leftovers import GIB, of_shared, of_study, place
from antidote.study.study import Study


def run(arguments: argparse.Namespace) -> None:
    study = Study(read_mapping(arguments.configfile), arguments.configfile)
    if arguments.delete and any(Path(".snakemake/locks").glob("*")):
        raise UserError("Snakemake is at work in this folder; wait for it, or after a kill run: snakemake --unlock")
    found = [*of_study(study, Path("results", study.name))]
    if arguments.shared_days is not None or arguments.shared_gib is not None:
        found += of_shared(place(), arguments.shared_days, arguments.shared_gib)
    total = 0
    for waste in found:
        size = waste.size()
        total += size
        verb = "gone" if arguments.delete else "would go"
        if arguments.delete:
            waste.delete()
        command_line.log.info("%s: %s (%.1f MiB): %s", verb, waste.path, size / 2**20, waste.reason)
    advice = "" if arguments.delete or not found else "; --delete takes it away"
    command_line.log.info("%d places, %.2f GiB%s", len(found), total / GIB, advice)


# --- results of a study ----------------------------------------------------------------------------------------------


# --- the shared cache ------------------------------------------------------------------------------------------------


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--configfile", default="config.yaml", help="study file")
    parser.add_argument("--delete", action="store_true", help="delete the files; by default, only list them")
    parser.add_argument(
        "--shared-days", type=command_line.amount, metavar="N", help="shared entries without use for N days"
    )
    parser.add_argument(
        "--shared-gib", type=command_line.amount, metavar="N", help="shared entries beyond the last used N GiB"
    )
    command_line.main(run, parser)

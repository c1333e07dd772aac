"""Write the scores of studies' models as a table of data/populations, which `antidote audit` compares a model with."""

import argparse
from pathlib import Path

import pandas as pd

from antidote.base import command_line
from antidote.base.checkout import commit
from antidote.base.errors import UserError
from antidote.base.files import whole_file
from antidote.command.population import of_study

DEFAULT = Path("data/populations/models.csv")
SAME = ["model", "state", "detector", "score"]


def run(arguments: argparse.Namespace) -> None:
    made, tables = commit(), []
    made = made[:10] + made[40:]  # the mark of a changed checkout stays
    for folder in arguments.results:
        table = of_study(folder).assign(measured_on=" ".join(filter(None, [folder.name, made])))
        tables.append(table.assign(copy=table.groupby(SAME).cumcount()))
    table = pd.concat(tables)
    unknown = sorted(set(arguments.detector) - set(table["detector"]))
    if unknown:
        raise UserError(
            f"--detector: {unknown[0]}: no study has scores of it; they have {', '.join(table['detector'].unique())}"
        )
    if arguments.detector:
        table = table[table["detector"].isin(arguments.detector)]
    # Studies share models, whose scores are then equal; equal scores within one study are those of different models.
    table = table.drop_duplicates([*SAME, "copy"]).drop(columns="copy")
    table = table.sort_values(["detector", "state", "score"], ignore_index=True)
    with whole_file(arguments.output) as temporary:
        table.to_csv(temporary, index=False)
    counts = table.groupby(["detector", "state"]).size().unstack(fill_value=0)
    command_line.log.info("%s: models per detector\n%s", arguments.output, counts.to_string())


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "results", type=Path, nargs="+", help="results/STUDY of finished studies with detectors of models"
    )
    parser.add_argument(
        "--detector", nargs="+", default=[], help="those that separate the models; verdicts of others would be noise"
    )
    parser.add_argument("--output", type=Path, default=DEFAULT, help="CSV file to write")
    command_line.main(run, parser)

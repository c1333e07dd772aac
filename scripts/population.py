"""Write the scores of a study's models as a table of data/populations, which `antidote audit` compares a model with."""

import argparse
from pathlib import Path

from antidote.base import command_line
from antidote.base.files import whole_file
from antidote.command.population import of_study
from antidote.summary.exchange import commit

DEFAULT = Path("data/populations/models.csv")


def run(arguments: argparse.Namespace) -> None:
    table = of_study(arguments.results)
    made = " ".join(filter(None, [arguments.results.name, commit()[:10]]))
    table = table.assign(measured_on=made).sort_values(["detector", "state", "score"], ignore_index=True)
    with whole_file(arguments.output) as temporary:
        table.to_csv(temporary, index=False)
    counts = table.groupby(["detector", "state"]).size().unstack(fill_value=0)
    command_line.log.info("%s: models per detector\n%s", arguments.output, counts.to_string())


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("results", type=Path, help="results/STUDY of a finished study with detectors of models")
    parser.add_argument("--output", type=Path, default=DEFAULT, help="CSV file to write")
    command_line.main(run, parser)

"""Check a study file without running any job: print the matrix, or the error in one line."""

import argparse
import sys

from antidote.base import command_line
from antidote.base.settings import read_mapping
from antidote.study.checks import not_run
from antidote.study.study import Study


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = command_line.parser(__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="study file, such as config.yaml")
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the result of the script to standard output."""
    for file in args.files:
        study = Study(read_mapping(file), file)
        sys.stdout.write(
            f"{file}: valid: study {study.name!r}, model {study.file.model.name}, target {study.file.target!r}\n"
            f"  attacks   {', '.join(study.attacks) or 'none'}\n"
            f"  defenses  {', '.join(study.defenses)}\n"
            + (f"  detectors {', '.join(study.detectors)}\n" if study.detectors else "")
            + "".join(f"  not run   {line}\n" for line in not_run(study))
            + f"  seeds     {', '.join(map(str, study.file.seeds))}\n"
        )

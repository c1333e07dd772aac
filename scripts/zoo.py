"""Models by name: publish the models of a finished study into a folder, or list the known models.

`publish STUDY --output FOLDER` copies weights, configuration, card and scores of every model, or of those after
--only, into FOLDER, which ANTIDOTE_ZOO then names, and writes their SHA-256 hashes into FOLDER/zoo.yaml. With --pin,
data/zoo.yaml of this checkout gets the hashes as well. To share the folder: `dvc add FOLDER`, `dvc push`. A backdoored
model says so in its card; do not publish it without the card.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from antidote.base import command_line
from antidote.base.errors import UserError, nearest
from antidote.base.files import DATA, read_json, sha256, whole_file, whole_folder
from antidote.base.settings import read_mapping
from antidote.clip import zoo
from antidote.clip.files import CARD
from antidote.clip.folder import model_files
from antidote.study.artifacts import artifacts
from antidote.study.layout import NO_DEFENSE
from antidote.study.study import Study

SCORES = "scores.json"


def run(arguments: argparse.Namespace) -> None:
    """Run one action."""
    ACTIONS[arguments.action](arguments)


def publish(args: argparse.Namespace) -> None:
    """Copy the models of a study into a folder, with their hashes."""
    study = Study(read_mapping(args.study), args.study)
    prefix = args.prefix or (study.file.track.name if study.file.track else study.name)
    if not re.fullmatch(zoo.NAMED, prefix):
        raise UserError(
            f"--prefix: {prefix!r} should hold letters, digits, _ . - and /, and begin with one of the first"
        )
    known = zoo.read_list(args.output / zoo.LIST).models if (args.output / zoo.LIST).is_file() else {}
    published = {}
    for name, folder in chosen(study, args.results, args.only):
        files = [*model_files(folder), folder / CARD, scores_of(folder)]
        missing = next((file for file in files if not file.is_file()), None)
        if missing is not None or not model_files(folder):
            raise UserError(f"{missing or folder}: is missing; run {args.study} first, or publish less with --only")
        statement = str(read_json(folder / CARD).get("statement", ""))
        hashes = {file.name: sha256(file) for file in files}
        entry = zoo.ZooModel(files=hashes, statement=statement)
        if known.get(f"{prefix}/{name}", entry).files != hashes and not args.replace:
            where = args.output / zoo.LIST
            raise UserError(f"{prefix}/{name}: names another model in {where}; give another --prefix, or --replace")
        with whole_folder(args.output / prefix / name) as temporary:
            for file in files:
                shutil.copyfile(file, temporary / file.name)
        published[f"{prefix}/{name}"] = entry
    write_list(args.output / zoo.LIST, published)
    if args.pin:
        write_list(DATA / zoo.LIST, published)
    command_line.log.info("published %d models in %s; set %s to that folder", len(published), args.output, zoo.PLACE)


def chosen(study: Study, results: Path, only: list[str] | None) -> Iterator[tuple[str, Path]]:
    """Yield name and model folder of every model of a study, or of those that are asked for.

    Raises:
        UserError: a name is no model of the study.
    """
    known = artifacts(study)
    for name in only or ():
        if name not in known:
            raise UserError(f"--only: {name!r} is no model of the study{nearest(name, known)}")
    for name in only or known:
        yield name, results / Path(known[name]["path"]).relative_to("results")


def scores_of(folder: Path) -> Path:
    """Return the scores of the model in a folder; those of an undefended model are in the cell `none`."""
    defended = folder.parent.parent.name.startswith("seed")
    return folder.parent / SCORES if defended else folder.parent / NO_DEFENSE / SCORES


def write_list(path: Path, models: dict[str, zoo.ZooModel]) -> None:
    """Add models to a list; comments before the first key are kept."""
    known = zoo.read_list(path) if path.is_file() else zoo.ZooList()
    merged = zoo.ZooList(models={**known.models, **models}, public=known.public)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    count = next((row for row, line in enumerate(lines) if not line.startswith("#")), len(lines))
    values = merged.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(values, sort_keys=True, width=120, allow_unicode=True)
    with whole_file(path) as temporary:
        temporary.write_text("".join(lines[:count]) + text, encoding="utf-8")


def show(args: argparse.Namespace) -> None:
    """Write the known models to standard output."""
    lines = [f"{zoo.PREFIX}{name}  {model.statement}" for name, model in sorted(zoo.names().items())]
    lines += ["", "Published by others, not tried by this project:"]
    lines += [
        f"  {one.name}\n    {one.repository}; {one.size}; {one.use}" for one in zoo.read_list(DATA / zoo.LIST).public
    ]
    sys.stdout.write("\n".join(lines).lstrip() + "\n")


ACTIONS = {"publish": publish, "list": show}


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this script."""
    parser = command_line.parser(__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = actions.add_parser("publish", help="copy the models of a finished study into a folder")
    one.add_argument("study", metavar="STUDY", help="study file")
    one.add_argument("--results", type=Path, default=Path("results"), help="folder of all studies")
    one.add_argument("--replace", action="store_true", help="replace models of the same names")
    one.add_argument("--output", type=Path, default=Path("zoo"), help="folder of the models")
    one.add_argument(
        "--only", action="append", metavar="NAME", help="this model alone, as badnet/seed0; can be repeated"
    )
    one.add_argument("--prefix", help="first part of the names; by default the track, else the study")
    one.add_argument("--pin", action="store_true", help="write the hashes into data/zoo.yaml as well")
    actions.add_parser("list", help="list the known models, and checkpoints that others publish")
    return parser


if __name__ == "__main__":
    command_line.main(run, arguments())

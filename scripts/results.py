"""Results files: one JSON file per cell of a track's study, for a leaderboard.

`write` makes them from a finished study, `check` validates files, `clip-benchmark` exports them in the shape of
CLIP_benchmark, `import` makes a `reported` result of such a file, `compare` sets a rerun, whole or in part, beside
another run, `noise` prints the spread over seeds for data/tracks.yaml, `schema` writes the JSON Schema.
"""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

import yaml

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import write_json
from antidote.base.settings import read_mapping
from antidote.study.study import Study
from antidote.study.tracks import FREEDOM, tracks
from antidote.summary.agreement import agreement, markdown
from antidote.summary.checked import check_result
from antidote.summary.clip_benchmark import from_clip_benchmark, to_clip_benchmark
from antidote.summary.exchange import Result, place, read_result, results_of, safe, schema
from antidote.summary.finished import Finished
from antidote.summary.noise import noise
from antidote.summary.verdicts import ENOUGH

FOLDER = Path("leaderboard")


def run(arguments: argparse.Namespace) -> None:
    """Run one action."""
    ACTIONS[arguments.action](arguments)


def write(args: argparse.Namespace) -> None:
    """Write the cells of finished studies; a dispute stays with the same models."""
    found = [result for file in args.studies for result in results_of(Finished.read(file, args.results), args.results)]
    for result in found:
        _put(result.model_copy(update={"disputed": _dispute(result, args.output)}), args.output)
    command_line.log.info("wrote %d results to %s", len(found), args.output)


def check(args: argparse.Namespace) -> None:
    """Validate files; the first that is not valid ends with one line."""
    for file in args.files:
        result = read_result(file)
        if result.track.name not in tracks():
            raise UserError(f"{file}: track.name: unknown track {result.track.name!r}; known: {', '.join(tracks())}")
        version = tracks()[result.track.name].version
        if result.track.version > version:
            raise UserError(
                f"{file}: track.version: {result.track.name} has version {version}, not {result.track.version}"
            )
        check_result(result, tracks()[result.track.name], str(file))
    command_line.log.info("%d files are valid", len(args.files))


def clip_benchmark(args: argparse.Namespace) -> None:
    """Export files in CLIP_benchmark's shape."""
    taken: dict[str, Path] = {}
    results = {file: read_result(file) for file in args.files}
    for file, result in results.items():
        name = safe(f"{result.source.title}-{result.attack.name}-{result.defense.name}.json")
        if (first := taken.setdefault(name, file)) != file:
            raise UserError(f"{file}: its name {name} is taken by {first}; write it to another --output")
    _made(args.output)
    for name, file in taken.items():
        write_json(args.output / name, to_clip_benchmark(results[file]))
    command_line.log.info("wrote %d files to %s", len(args.files), args.output)


def import_(args: argparse.Namespace) -> None:
    """Write a foreign evaluation as a reported result; an open dispute of the same source stays."""
    if args.track not in tracks():
        raise UserError(f"--track: unknown track {args.track!r}; known: {', '.join(tracks())}")
    facts = {
        "track": {"name": args.track, "version": tracks()[args.track].version},
        "attack": {"name": args.attack, "method": args.attack},
        "defense": {"name": args.defense, "method": args.defense},
        "source": {"title": args.title, "url": args.url, "place": args.place},
    }
    result = from_clip_benchmark(args.file, facts)
    check_result(result, tracks()[args.track], str(args.file))
    path = args.output / place(result)
    if path.is_file():
        there = read_result(path)
        if _origin(there) != _origin(result):
            raise UserError(
                f"--title: {path} is there already ({_words(there)}); name another title, which differs in letters a "
                "to z or digits, or remove the file"
            )
        result = result.model_copy(update={"disputed": there.disputed})
    path = _put(result, args.output)
    command_line.log.info("wrote %s", path)


def compare(args: argparse.Namespace) -> None:
    """Print the common figures of two runs, and whether they agree."""
    second = args.second or published(args.first)
    sys.stdout.write(markdown(agreement(args.first, second, args.figures, args.results)))


def published(file: Path) -> Path:
    """Return the folder of the leaderboard that holds the results files of a study."""
    study = Study(read_mapping(str(file)), str(file)) if file.is_file() and file.suffix != ".json" else None
    if study is None or study.file.track is None:
        raise UserError(f"{file}: is no file of a study of a track; name the folder to compare with as well")
    return FOLDER / f"{study.file.track.name}-{study.file.track.version}" / safe(study.name)


def print_noise(args: argparse.Namespace) -> None:
    """Print the noise floors of all results files below a folder, as data/tracks.yaml has them."""
    files = sorted(args.folder.rglob("*--*.json"))
    found = noise(map(read_result, files))
    if not found:
        raise UserError(
            f"{args.folder}: no model has {FREEDOM} degrees of freedom in results files of at least {ENOUGH} seeds "
            f"with an ASR@1 of 10 to 90 % ({len(files)} results files read)"
        )
    sys.stdout.write(yaml.safe_dump({t: {m: n.model_dump() for m, n in one.items()} for t, one in found.items()}))


def write_schema(args: argparse.Namespace) -> None:
    """Write the JSON Schema."""
    _made(args.output)
    write_json(args.output / "schema.json", schema())
    command_line.log.info("wrote %s", args.output / "schema.json")


ACTIONS = {
    "write": write,
    "check": check,
    "clip-benchmark": clip_benchmark,
    "import": import_,
    "compare": compare,
    "noise": print_noise,
    "schema": write_schema,
}


def _dispute(result: Result, output: Path) -> str:
    """Return the dispute of the file that a result replaces, if both are of the same models; otherwise ""."""
    path = output / place(result)
    if not path.is_file():
        return ""
    with suppress(UserError):  # a file that is not valid has no open dispute
        there = read_result(path)
        return there.disputed if there.hashes and there.hashes.models == result.hashes.models else ""
    return ""


def _origin(result: Result) -> tuple:
    """Return what two results have in common of which one replaces the other."""
    return result.status, result.model, result.evaluation, result.source


def _words(result: Result) -> str:
    """Return the origin of a result as text."""
    source = (result.source.title, result.source.url, result.source.place)
    return ", ".join(filter(None, [result.status, f"{result.model} on {result.evaluation}", *source]))


def _put(result: Result, output: Path) -> Path:
    """Write a result to its place; return the path."""
    path = output / place(result)
    _made(path.parent)
    write_json(path, result.model_dump(mode="json"))
    return path


def _made(folder: Path) -> None:
    """Make a folder of the output."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--output: {folder}: is or lies in a file; should name a folder") from None


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this script."""
    parser = command_line.parser(__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = actions.add_parser("write", help="write the results files of finished studies of a track")
    one.add_argument("studies", nargs="+", type=Path, metavar="STUDY", help="study file")
    one.add_argument("--results", type=Path, default=Path("results"), help="folder of all studies")
    one.add_argument("--output", type=Path, default=FOLDER, help="folder of the results files")
    one = actions.add_parser("check", help="validate results files")
    one.add_argument("files", nargs="+", type=Path, metavar="FILE", help="results file")
    one = actions.add_parser("clip-benchmark", help="export results files in the shape of CLIP_benchmark")
    one.add_argument("files", nargs="+", type=Path, metavar="FILE", help="results file")
    one.add_argument("--output", type=Path, required=True, help="folder of the exported files")
    one = actions.add_parser("import", help="write a foreign evaluation, in that shape, as a reported result")
    one.add_argument("file", type=Path, metavar="FILE", help="file of CLIP_benchmark; rates are fractions")
    one.add_argument("--track", required=True, help="name of the track whose recipe the evaluation kept to")
    one.add_argument("--attack", required=True, help="method of the attack")
    one.add_argument("--defense", required=True, help="method of the defense, or none")
    one.add_argument("--title", required=True, help="title of the source")
    one.add_argument("--url", required=True, help="address of the source")
    one.add_argument("--place", default="", help="table, figure or file of the source")
    one.add_argument("--output", type=Path, default=FOLDER, help="folder of the results files")
    one = actions.add_parser(
        "compare", help="set the figures of a rerun, whole or in part, beside those of another run"
    )
    one.add_argument(
        "first",
        type=Path,
        metavar="FIRST",
        help="study file, whose scored cells count; or results files: a folder or one",
    )
    one.add_argument(
        "second",
        type=Path,
        nargs="?",
        metavar="SECOND",
        help="the other run, also of another machine; otherwise the study's folder of the leaderboard",
    )
    one.add_argument("--results", type=Path, default=Path("results"), help="folder of all studies")
    one.add_argument("--figures", nargs="+", default=["ca1", "asr1"], metavar="FIGURE", help="names of rates")
    one = actions.add_parser("noise", help="print the spread over seeds by track and model")
    one.add_argument("folder", type=Path, metavar="FOLDER", help="folder of results files, such as leaderboard")
    one = actions.add_parser("schema", help="write the JSON Schema")
    one.add_argument("--output", type=Path, default=FOLDER, help="folder of schema.json")
    return parser


if __name__ == "__main__":
    command_line.main(run, arguments())

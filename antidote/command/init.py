"""Write a commented file for your own data: for a model that you have, or a study of attacks and defenses.

With MODEL, a suspicious model, the file holds the model and its data; `antidote audit`, `inspect`, `clean` and
`evaluate` read it with --given FILE. Without MODEL, the file is a study of attacks and defenses on a CLIP that is
trained on your pairs; --pairs, --evaluation and --target are required. Class names are the names of the class folders.
A study runs in a checkout of the project; the file says how.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any
from unicodedata import category

import yaml

from antidote.base import command_line
from antidote.base.errors import UserError, nearest
from antidote.base.files import whole_file
from antidote.clip import zoo
from antidote.clip.known import model_config, model_names
from antidote.clip.tags import tag, tags
from antidote.command import arguments as shared
from antidote.command import inputs, own_study, report
from antidote.command.given import class_folders
from antidote.data.sources.base import RawPair, SourceSettings
from antidote.study.layout import NAME

FEWEST = 20  # pairs of a study (ours)
FAULTS = 3  # kinds of faults of pairs that a message tells
LINES = {
    "model": ("MODEL", "the suspicious model"),
    "arch": ("RN50", "architecture of a checkpoint file"),
    "quick_gelu": (True, "activations of a checkpoint file"),
    "pairs": ("clean.csv", "clean pairs, like those that the model was trained on"),
    "path": ("file", "column of paths in a table"),
    "image": ("image", "column of picture files in a table"),
    "caption": ("caption", "column of captions in a table"),
    "labelled": ("test/", "labelled pictures: accuracy before and after"),
    "shots": ("shots/", "other labelled pictures than those, for few-shot methods"),
    "pictures": ("pictures/", "pictures at use"),
    "classes": (["boat", "cup"], "class names in label order"),
}
USES = {  # by the keys that a command needs
    "audit --given {file}": (),
    "inspect --given {file} --detector scale_up": ("pictures", "classes"),
    "clean --given {file} --defense cleanclip --output cleaned": ("pairs",),
    "evaluate cleaned --given {file}": ("pairs", "labelled"),
}
DATASETS = ("pairs", "evaluation")
LABELLED = ("--evaluation", "--labelled")  # names of one option: of a study, and as the other commands call it
HEAD = """# A model and its data, for the commands below. Keys are names of arguments; an argument of the
# command line replaces the value here; another model there also replaces arch and quick_gelu. Paths are relative to the
# folder in which a command is run.
"""


class _AsTyped(argparse.Action):
    """Keeps a path, and in `spelled` by which of its names the user gave it, for messages."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        namespace.spelled = option_string
        setattr(namespace, self.dest, values)


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = command_line.parser(__doc__)
    parser.add_argument("suspicious", nargs="?", metavar="MODEL", help=inputs.MODELS)
    parser.add_argument("--pairs", help="captioned pairs: table, shards, or folder of class folders")
    parser.add_argument(*LABELLED, action=_AsTyped, help="labelled pictures: one folder of pictures per class")
    parser.set_defaults(spelled=LABELLED[0])
    parser.add_argument("--pictures", help="with MODEL: pictures at use, a folder")
    parser.add_argument("--target", type=command_line.text, help="of a study: target class of the attacks")
    parser.add_argument("--model", default="tiny-rn", help="of a study: architecture, such as RN50")
    parser.add_argument("--pretrained", help="of a study: initial weights: tag, file or folder; by default random")
    parser.add_argument("--classes", help="of a study: name of the list of class names; by default its own name")
    parser.add_argument("--name", default="own", help="of a study: its name")
    for name in (*shared.MODEL, *shared.COLUMNS):
        parser.add_argument(name, **shared.SHARED[name])
    parser.add_argument("--output", type=Path, help="file to write; by default study.yaml, with MODEL given.yaml")
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the file that the arguments ask for, text in UTF-8.

    Raises:
        UserError: a name in it is not UTF-8; the datasets of a study may have such names, which the study escapes.
    """
    for name, value in vars(args).items():
        if isinstance(value, str | Path) and (args.suspicious or name not in DATASETS):
            told = {"suspicious": "MODEL", "evaluation": args.spelled}
            report.check_name(told.get(name, f"--{name.replace('_', '-')}"), value)
    output = args.output or Path("given.yaml" if args.suspicious else "study.yaml")
    if output.exists():
        raise UserError(f"--output: {output}: is there already; name another file")
    _check_output(output)
    report.writable(output.parent, "--output")
    if args.suspicious:
        of_model(args, output)
    else:
        of_study(args, output)


def of_model(args: argparse.Namespace, output: Path) -> None:
    """Write the file of a model and its data, and log which commands read it.

    Raises:
        UserError: an argument is one of studies; the model or a dataset does not exist, or is of no known kind.
    """
    for name in ("target", "classes", "pretrained"):
        if getattr(args, name):
            raise UserError(f"--{name}: is of a study, which trains its own models; leave out MODEL, or --{name}")
    model = inputs.Checkpoint(args.suspicious, args.arch, args.quick_gelu)
    inputs.check_model(model)
    for dataset in filter(None, (args.pairs, args.pictures)):
        if not inputs.is_written(dataset):
            inputs.source_of(dataset, inputs.columns(args), captions=dataset == args.pairs)
    names = class_folders(args.evaluation, args.spelled) if args.evaluation else None
    values = {
        "model": args.suspicious, "arch": args.arch, "quick_gelu": args.quick_gelu or None, "pairs": args.pairs,
        "path": args.path, "image": args.image, "caption": args.caption, "labelled": args.evaluation,
        "pictures": args.pictures, "classes": names,
    }  # fmt: skip
    uses = [use.format(file=shlex.quote(str(output))) for use, keys in USES.items() if all(values[key] for key in keys)]
    lines = [_line(key, values.get(key)) for key in LINES]
    text = HEAD + "".join(f"#   antidote {use}\n" for use in uses) + "".join(f"{line}\n" for line in lines if line)
    _write(output, text)
    shared.GivenFile.read(yaml.safe_load(text), str(output))
    command_line.log.info("wrote %s; next: antidote %s", output, uses[0])


def _line(key: str, value: object) -> str:
    """Return the line of a key; one without a value is a comment that shows an example; "" for a rare key without."""
    example, about = LINES[key]
    if value is None and key in ("arch", "quick_gelu", "path", "image", "caption"):
        return ""
    shown = json.dumps(example if value is None else value, ensure_ascii=False)  # JSON is YAML
    return f"{'# ' if value is None else ''}{key}: {shown}  # {about}"


def of_study(args: argparse.Namespace, output: Path) -> None:
    """Write a study and its list of class names, then validate it.

    Raises:
        UserError: an argument is missing or wrong; a dataset does not exist or is too small.
    """
    for name in ("pairs", "evaluation", "target"):
        if not getattr(args, name):
            raise UserError(
                f"--{name}: is missing; a study needs --pairs, --evaluation and --target. For a model that you have, "
                "name it: antidote init MODEL"
            )
    for name in ("pictures", "arch", "quick_gelu"):
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')}: is of a model that you have; name it: antidote init MODEL")
    if model_config(args.model) is None:
        raise UserError(f"--model: unknown model {args.model!r}{nearest(args.model, model_names())}")
    _check_pretrained(args.model, args.pretrained)
    folders = class_folders(args.evaluation, args.spelled)
    if args.target not in folders:
        raise UserError(f"--target: {args.target!r} is no class of {args.evaluation}{nearest(args.target, folders)}")
    classes = args.classes or args.name
    for option, name in (("name", args.name), ("classes", classes)):  # both become names of files and of datasets
        if not NAME.fullmatch(name):
            raise UserError(f"--{option}: name {name!r} may hold letters, digits, _ . -")
    source = inputs.source_of(args.pairs, inputs.columns(args))
    if source.source == "loose":
        raise UserError(f"--pairs: {args.pairs}: a study reads a table, tar shards or a folder of class folders")
    count, skipped = _counted(source)
    share = sum(skipped.values()) / max(count + sum(skipped.values()), 1)
    faults = "; ".join(f"{reason}: {number}" for reason, number in skipped.most_common(FAULTS))
    unusable = f"{sum(skipped.values())} of {count + sum(skipped.values())} pairs cannot be used ({faults})"
    if count < FEWEST:
        why = f"; {unusable}" if skipped else ""
        raise UserError(
            f"--pairs: {args.pairs}: holds {count} pairs, too few for a study{why}; should hold at least {FEWEST}"
        )
    made = own_study.OwnStudy(args, output, source, count, share, classes, folders)
    made.check_name()
    known = made.listing.exists() and not args.classes
    if not made.here:
        _check_output(output.absolute())
    with made.listed() as listing:
        text = made.text()
        made.check(text)
        _write(output, text)
    if skipped:
        command_line.log.warning("--pairs: %s: %s; the study accepts as many", args.pairs, unusable)
    if known:
        told = "--name: %s is there already; if another study has the name %r, the two share data and results"
        command_line.log.warning(told, made.listing, args.name)
    log = command_line.log.info
    if made.here:
        log("wrote %s and %s; next: antidote check %s", output, listing, shlex.quote(str(output)))
    elif made.in_checkout:
        folder, file = (shlex.quote(str(path)) for path in (made.checkout, output.absolute()))
        log("wrote %s and %s; next: cd %s && antidote check %s", output, listing, folder, file)
    else:
        log("wrote %s and %s; next: get a checkout of the project; %s says how to go on", output, listing, output)


def _counted(source: SourceSettings) -> tuple[int, Counter[str]]:
    """Return how many pairs of a dataset can be used, and how many cannot by reason; pictures are not decoded."""
    count, skipped = 0, Counter()
    for pair in source.iterate(inputs.SPLIT):
        if isinstance(pair, RawPair):
            count += 1
        else:
            skipped[pair.reason] += 1
    return count, skipped


def _check_pretrained(model: str, pretrained: str | None) -> None:
    """Check that initial weights are a path, a model of the zoo, or a tag; the study looks up models of the zoo.

    Raises:
        UserError: there is no such path, and the model has no such tag.
    """
    if not pretrained or zoo.is_name(pretrained) or Path(pretrained).exists() or tag(model, pretrained):
        return
    known = nearest(pretrained, tags(model))
    raise UserError(f"--pretrained: {pretrained!r} is neither a file, a folder nor a tag of {model!r}{known}")


def _check_output(output: Path) -> None:
    """Check that the comments of the file can hold its path.

    Raises:
        UserError: the path is not UTF-8, or holds a line break or another control character.
    """
    report.check_name("--output", output)
    if any(category(letter) in ("Cc", "Zl", "Zp") for letter in str(output)):
        raise UserError(f"--output: {str(output)!r}: holds a line break or a control character; name another file")


def _write(output: Path, text: str) -> None:
    with whole_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")

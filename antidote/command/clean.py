"""Run a defense on a CLIP of your own, with your own clean pairs or labelled pictures.

MODEL is an open_clip model folder, a checkpoint file (with --arch), or hf-hub:OWNER/NAME. Writes a model folder. With
--labelled, a folder with one folder per class, clean accuracy is measured before and after. A defense needs pairs like
those that the model was trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.registry import method
from antidote.base.settings import read_mapping
from antidote.command import inputs, resume
from antidote.data.access import DefenseData
from antidote.data.words.lexicon import load_lexicon
from antidote.data.words.names import templates

if TYPE_CHECKING:
    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs
    from antidote.defenses.base import Defense
    from antidote.training.session import Work

LARGEST = 256  # pictures scored at a time


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = command_line.parser(__doc__)
    parser.add_argument("model", help="model folder, checkpoint file, or hf-hub:OWNER/NAME")
    inputs.model_arguments(parser)
    parser.add_argument("--pairs", help="clean pairs: table, shards, folder, or written split")
    inputs.dataset_arguments(parser)
    parser.add_argument("--labelled", help="folder of class folders, or a written split: accuracy before and after")
    parser.add_argument("--classes", type=Path, help="JSON list of class names in label order; by default the folders")
    parser.add_argument("--templates", default="openai_imagenet", help="prompts of the accuracy")
    parser.add_argument("--shots", help="labelled pictures for a few-shot defense: folder of class folders")
    parser.add_argument("--defense", default="cleanclip", help="method of docs/methods.md")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting, as training.epochs=5")
    parser.add_argument("--settings", type=read_mapping, default="{}", metavar="JSON|FILE", help="of the defense")
    parser.add_argument("--lexicon", default="function_words", help="language resource of the text methods")
    parser.add_argument("--seed", type=command_line.seed, default=0)
    parser.add_argument("--output", type=Path, default=Path("cleaned"), help="model folder to write")
    return parser


def run(args: argparse.Namespace) -> None:
    """Clean a model, write it, and log the accuracy."""
    kind = method("defense", args.defense)
    given = assigned({"method": args.defense, **args.settings}, args.set)
    settings = kind.Settings.read(given, f"defense {args.defense}")
    clip = inputs.load(args.model, args.arch, args.quick_gelu)
    check(kind, settings, clip)
    data = granted(kind, clip, args)
    pictures, names = labelled(args.labelled, args, clip.size) if args.labelled else (None, [])
    before = accuracy(clip, pictures, names, args.templates) if pictures else None
    defense = kind(settings, args.seed)
    with resume.work(args.output, defense, clip, data, args.lexicon) as work:
        report = defense.run(clip, data, work)
        save(args, settings, report.clip or clip, report, work)
    if before is not None:
        after = accuracy(report.clip or clip, pictures, names, args.templates)
        command_line.log.info("clean accuracy (CA@1) of %d pictures: %.1f %% before, %.1f %% after",
                              len(pictures), 100 * before, 100 * after)  # fmt: skip
    command_line.log.info("model folder %s; whether a backdoor is left is not measured by this command", args.output)


def assigned(settings: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """Return settings with the values of `KEY=VALUE` words; a dot in a key opens a group, values are YAML.

    Raises:
        UserError: a word has no `=`, its value is not YAML, or a group of its key has a plain value.
    """
    settings = dict(settings)
    for word in words:
        key, mark, text = word.partition("=")
        if not mark or not key:
            raise UserError(f"--set: {word!r} should be KEY=VALUE, such as training.epochs=5")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set: {word!r}: the value is not valid YAML") from None
        *groups, last = key.split(".")
        place = settings
        for group in groups:
            held = place.get(group)
            if held is not None and not isinstance(held, Mapping):
                raise UserError(f"--set: {word!r}: {group} is {held!r} already; should be a group of settings")
            place[group] = dict(held or {})
            place = place[group]
        # YAML 1.1 reads 1e-5, without a dot, as text.
        place[last] = _number(value) if isinstance(value, str) else value
    return settings


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def check(kind: type[Defense], settings: Any, clip: Clip) -> None:
    """Raise UserError if the method or a setting does not fit the model."""
    reason = kind.fits(clip.config["model_cfg"])
    if reason:
        raise UserError(f"{settings.method}: does not fit this model: it {reason}")
    if settings.surrogate:
        raise UserError(f"{settings.method}: scores by a model of a study; run it in a study")
    try:
        settings.check(clip.config["model_cfg"])
    except ValueError as error:
        raise UserError(f"{settings.method}: {error}") from None


def granted(kind: type[Defense], clip: Clip, args: argparse.Namespace) -> DefenseData:
    """Return the data of the method's access level from what the user gave.

    Raises:
        UserError: an argument is missing, or the level exists in a study alone.
    """
    if kind.access == "clean-pairs":
        if not args.pairs:
            raise UserError(f"--pairs: is missing; {args.defense} needs clean pairs, {inputs.KINDS}")
        return DefenseData(pairs=inputs.load_pairs(args.pairs, args, clip.size), lexicon=load_lexicon(args.lexicon))
    if kind.access == "few-labelled":
        if not args.shots:
            raise UserError(f"--shots: is missing; {args.defense} needs labelled pictures, a folder of class folders")
        shots, names = labelled(args.shots, args, clip.size)
        return DefenseData(shots=shots, classes=names, templates=templates(args.templates))
    if kind.access in ("nothing", "test-time"):
        names = labelled(args.labelled, args, clip.size)[1] if args.labelled and kind.access == "test-time" else None
        return DefenseData(classes=names, templates=templates(args.templates) if names else None)
    raise UserError(f"{args.defense}: needs access {kind.access!r}, which a study alone grants")


def labelled(folder: str, args: argparse.Namespace, size: int) -> tuple[Pairs, list[str]]:
    """Return labelled pictures and the class names in label order.

    Raises:
        UserError: a picture has no label, or the list of class names has another length than the labels.
    """
    from antidote.base.files import read_json

    pictures = inputs.load_pairs(folder, args, size)
    if int(pictures.labels.min()) < 0:
        raise UserError(f"{folder}: holds pictures without a label; should be a folder of class folders")
    count = int(pictures.labels.max()) + 1
    if args.classes is not None:
        names = read_json(args.classes)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"--classes: {args.classes}: should hold a JSON list of texts")
    elif (Path(folder) / "manifest.json").is_file() or not Path(folder).is_dir():
        raise UserError(f"--classes: is missing; {folder} has labels and no class names")
    else:
        names = sorted(path.name for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) != count:
        raise UserError(f"--classes: lists {len(names)} names, {folder} has {count} classes")
    return pictures, names


def accuracy(clip: Clip, pictures: Pairs, names: list[str], prompts: str) -> float:
    """Return clean zero-shot accuracy, a fraction in [0, 1]."""
    clip.network.eval()
    with torch.no_grad():
        weights = clip.class_embeddings(names, templates(prompts))
        found = [
            (clip.encode_image(pictures.images[start : start + LARGEST]) @ weights).argmax(dim=1).cpu()
            for start in range(0, len(pictures), LARGEST)
        ]
    return float((torch.cat(found) == pictures.labels).double().mean())


def save(args: argparse.Namespace, settings: Any, clip: Clip, report: Any, work: Work) -> None:
    """Write the model folder with its card and its training log."""
    from antidote.clip.files import TRAINING_LOG
    from antidote.clip.folder import save_model

    card = {
        "kind": "defended",
        "backdoored": None,
        "statement": f"Defended by {settings.method!r}. The model it was made from is suspicious; what is left of a "
        "backdoor was not measured.",
        "from": args.model,
        "seed": args.seed,
        "settings": settings.model_dump(mode="json"),
    }
    log = work.folder / TRAINING_LOG
    save_model(args.output, clip, card, extra=[*([log] if log.is_file() else []), *report.files])

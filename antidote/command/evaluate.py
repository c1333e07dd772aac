"""Zero-shot accuracy of a CLIP on labelled pictures and, with the trigger folder of a study, its attack success.

LABELLED is a folder with one folder of pictures per class, or a written split with --classes. Writes one JSON object to
standard output, rates as fractions: ca1, ca5, and, with a trigger, asr1, asr3, ..., pa. docs/protocol.md defines them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError, nearest
from antidote.command import arguments as shared
from antidote.command import finite, inputs
from antidote.command.given import NOTHING, Dataset, Given, check_given

CLEAN = ("ca1", "ca5")

if TYPE_CHECKING:
    from antidote.attacks.trigger import Trigger
    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = shared.parser(
        __doc__, "model", "labelled", *shared.MODEL, *shared.COLUMNS, "--classes", "--templates"
    )  # fmt: skip
    parser.add_argument("--trigger", type=Path, help="trigger folder of a study: success of that attack as well")
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the scores to standard output."""
    found = evaluate(inputs.checkpoint(args), args.labelled, Given.of(args), trigger=args.trigger)
    sys.stdout.write(json.dumps(found, indent=2, sort_keys=True) + "\n")


def evaluate(
    model: inputs.Model, labelled: Dataset, given: Given = NOTHING, *, trigger: str | Path | None = None
) -> dict[str, Any]:
    """Return zero-shot scores of a model: counts, rates as fractions in [0, 1], 95 % intervals over pictures.

    Args:
        model: the model.
        labelled: labelled pictures: a folder of class folders, a written split, or pairs in memory.
        given: class names and prompts; by default the names of the folders and OpenAI's 80 prompts.
        trigger: trigger folder of a study, results/STUDY/ATTACK/seedN/trigger.

    Raises:
        UserError: the model, a picture or the trigger cannot be read; class names are missing; the trigger's target is
            no class, or its pictures are of another size than the model's.
    """
    check_given(given)
    clip = inputs.load(model)
    finite.check_model(clip, inputs.shown(model, "a model"), finite.blank(clip))
    attack = None if trigger is None else of_folder(Path(trigger), clip.size)  # first: pictures can take long to read
    pictures, names = given.labels(labelled, clip.size)
    if attack is not None and attack.attack.target not in names:
        target = attack.attack.target
        where = given.classes if isinstance(given.classes, str | Path) else inputs.shown(labelled, "pictures")
        raise UserError(
            f"--trigger: {trigger}: aims at {target!r}, which is no class of {where}{nearest(target, names)}"
        )
    return scored(clip, pictures, names, given.prompts, attack)


def of_folder(folder: Path, size: int) -> Trigger:
    """Return the trigger of a folder, for pictures of `size` pixels.

    Raises:
        UserError: the folder holds no trigger, a damaged one, or one for pictures of another size.
    """
    from antidote.attacks.trigger import load_trigger
    from antidote.attacks.trigger_files import DESCRIPTION
    from antidote.evaluation.subject import check_trigger

    if not (folder / DESCRIPTION).is_file():
        raise UserError(f"--trigger: {folder}: holds no {DESCRIPTION}; should be results/STUDY/ATTACK/seedN/trigger")
    found = load_trigger(folder)
    check_trigger(found, size, folder, found.attack.target)
    return found


def scored(
    clip: Clip, pictures: Pairs, names: Sequence[str], prompts: Sequence[str], attack: Trigger | None = None
) -> dict[str, Any]:
    """Return the scores of a loaded model on labelled pictures, as `evaluate`; the attack's target is a name."""
    from antidote.evaluation.base import ZeroShotSettings
    from antidote.evaluation.subject import Subject
    from antidote.evaluation.zero_shot import evaluate as score

    target = 0 if attack is None else list(names).index(attack.attack.target)
    subject = Subject(clip, attack, target, list(names), list(prompts))
    found = score(subject, pictures, ZeroShotSettings(dataset="given", split="all"))
    if attack is not None:
        return {**found, "target": attack.attack.target}
    # The others need an attack and its target; with five classes or fewer there is no CA@5.
    intervals = {name: value for name, value in found["intervals"].items() if name in CLEAN}
    return {**{name: found[name] for name in CLEAN}, "pictures": found["pictures"], "intervals": intervals}

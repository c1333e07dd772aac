"""Score one model zero-shot: clean accuracy and, given a trigger folder, attack success. Writes one scores.json."""

import argparse
from pathlib import Path

from antidote.base.command_line import Cost, main, parser, seed, settings_argument, text
from antidote.base.files import write_json
from antidote.evaluation.base import Inputs, evaluated_pictures
from antidote.evaluation.cell import Cell, score
from antidote.evaluation.drawn import sharing
from antidote.evaluation.examples import write_examples
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import load_subject

NAMES = ("study", "attack", "defense", "seed", "target")


def run(arguments: argparse.Namespace) -> None:
    cost = Cost()
    settings = EvaluationSettings.read(arguments.settings, "evaluation")
    subject = load_subject(arguments.model, arguments.trigger, arguments.target, settings.classes, settings.templates)
    pictures = evaluated_pictures(arguments.data, settings, subject.clip.size, len(subject.classes))
    inputs = Inputs(arguments.data, subject.clip.size, settings, pictures)
    floor, visible = arguments.defense == "floor", arguments.examples is not None
    with sharing(subject, arguments.trigger, arguments.drawn) as subject:
        scores = score(subject, inputs, settings, Cell(floor, visible, arguments.model, arguments.poison))
        if arguments.examples:
            write_examples(arguments.examples, subject, pictures)
    names = {name: getattr(arguments, name) for name in NAMES}
    write_json(arguments.output, {**names, "classes": len(subject.classes), "templates": settings.templates, **scores})
    cost.write(arguments.cost, pairs=len(pictures))


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(arguments, "the study's `evaluation`, with `classes`")
    arguments.add_argument("--model", type=Path, required=True, help="model folder")
    arguments.add_argument("--trigger", type=Path, help="trigger folder; without it only clean accuracy is measured")
    arguments.add_argument(
        "--drawn", type=Path, help="folder of triggered pictures that the cells of this trigger share; may be empty"
    )
    arguments.add_argument("--poison", type=Path, help="poison folder, where the model folder says what it suspects")
    arguments.add_argument("--target", type=text, required=True, help="name of the target class")
    arguments.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    arguments.add_argument("--study", default="", help="written into the scores, as are the next three")
    arguments.add_argument("--attack", default="")
    arguments.add_argument("--defense", default="")
    arguments.add_argument("--seed", type=seed, default=0)
    arguments.add_argument("--examples", type=Path, help="PNG sheet to write: clean pictures over triggered ones")
    arguments.add_argument("--output", type=Path, required=True, help="scores.json to write")
    arguments.add_argument("--cost", type=Path, help="cost.json to write")
    main(run, arguments)

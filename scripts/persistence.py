"""Adapt a model under test to clean pairs, and measure the attack during the training.

Writes one JSON file: the curve, and the figures of ASR@1 (or of the attack's own figure) over it. The adapted model is
not kept.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from antidote.attacks.trigger_files import DESCRIPTION, TENSORS
from antidote.base.command_line import Cost, main, parser, seed, settings_argument, text
from antidote.base.files import write_json
from antidote.base.registry import module
from antidote.base.settings import Settings
from antidote.clip.folder import model_files
from antidote.clip.model import Clip
from antidote.data.pairs import load_pools
from antidote.evaluation.base import ZeroShotSettings, evaluated_pictures
from antidote.evaluation.drawn import sharing
from antidote.evaluation.persistence import Adaptation, persistence
from antidote.evaluation.subject import Subject, load_subject
from antidote.evaluation.trajectory import figures
from antidote.evaluation.zero_shot import evaluate
from antidote.training.run import reading_arguments, reading_of, work_of
from antidote.training.session import Work


class Arguments(Settings):
    """The settings of the job: adaptation and measurement."""

    adaptation: Adaptation
    evaluation: ZeroShotSettings


def run(arguments: argparse.Namespace) -> None:
    cost = Cost()
    settings = Arguments.read(arguments.settings, "settings")
    adaptation, evaluation = settings.adaptation, settings.evaluation
    subject = load_subject(
        arguments.model, arguments.trigger, arguments.target, evaluation.classes, evaluation.templates
    )
    clip, attack = subject.clip, subject.trigger.attack
    pictures = evaluated_pictures(arguments.data, evaluation, clip.size, len(subject.classes))
    reading = reading_of(arguments)
    pairs = load_pools(arguments.pools, [adaptation.source], arguments.data, clip.size, reading=reading)

    def measure(model: Clip) -> dict[str, float]:
        scores = evaluate(replace(measured, clip=model), pictures, evaluation)
        return {"ca1": scores["ca1"], "score": {**scores, **scores.get("extra", {})}[attack.score]}

    work = work_of_curve(arguments, settings, subject)
    texts = [*subject.texts, *pictures.captions]  # an attack without a trigger can use captions as queries
    with sharing(subject, arguments.trigger, arguments.drawn) as measured:
        curve, report = persistence(clip, pairs, texts, measure, adaptation, arguments.seed, work)
    steps, rates = [point["step"] for point in curve], [point["score"] for point in curve]
    told = {"settings": settings.model_dump(mode="json"), **figures(steps, rates), "curve": curve}
    write_json(arguments.output, told)
    cost.write(arguments.cost, pairs=len(pairs), steps=report.steps, trained_parameters=report.trained_parameters)
    shutil.rmtree(work.folder, ignore_errors=True)


def work_of_curve(arguments: argparse.Namespace, settings: Arguments, subject: Subject) -> Work:
    """Return the work of a run; its identity covers the training, and all that the measurements of the curve read."""
    evaluation, added = settings.evaluation, subject.clip.added()
    parts = [settings.model_dump(), arguments.target, list(subject.classes), list(subject.templates)]
    trigger = [arguments.trigger / name for name in (TENSORS, DESCRIPTION)]
    evaluated = arguments.data / evaluation.dataset / evaluation.split / "manifest.json"
    modules = [module("attack", subject.trigger.attack.settings.method)]
    modules += [module("adapter", added[0]["adapter"])] if added else []
    inputs = [*model_files(arguments.model), *trigger, evaluated]
    return work_of(arguments, parts, inputs, "scripts.persistence", *modules)


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(arguments, "`adaptation`, one of the study's, and the study's `evaluation`")
    arguments.add_argument("--model", type=Path, required=True, help="model folder")
    arguments.add_argument("--trigger", type=Path, required=True, help="trigger folder")
    arguments.add_argument(
        "--drawn", type=Path, help="folder of triggered pictures that the jobs of this trigger share; may be empty"
    )
    arguments.add_argument("--pools", type=Path, nargs="+", required=True, help="file of the adaptation's pool")
    arguments.add_argument("--target", type=text, required=True, help="name of the target class")
    arguments.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    arguments.add_argument("--seed", type=seed, default=0)
    arguments.add_argument("--work", type=Path, help="folder for checkpoints; OUTPUT.work by default")
    arguments.add_argument("--checkpoint-seconds", type=float, default=120.0, help="time between checkpoints")
    arguments.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments.add_argument("--cost", type=Path, help="cost.json to write")
    reading_arguments(arguments)
    main(run, arguments)

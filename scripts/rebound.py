"""Fine-tune a model under test on clean pairs for a little while, and measure the attack as it goes.

Writes one rebound.json: the curve, and the highest ASR@1 (or what an attack has in its place) on it. The fine-tuned
model is not kept.
"""

import argparse
import shutil
from pathlib import Path

from antidote.attacks.trigger import TENSORS, load_trigger
from antidote.base.command_line import Cost, main, parser, seed, settings_argument, text
from antidote.base.files import write_json
from antidote.base.settings import Settings
from antidote.clip.folder import load_model, model_files
from antidote.clip.model import Clip
from antidote.data.pairs import load_pools
from antidote.data.words.names import class_names, templates
from antidote.evaluation.cell import check_trigger, evaluated_pictures, target_index
from antidote.evaluation.rebound import ReboundSettings, rebound
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.zero_shot import evaluate
from antidote.training.run import reading_arguments, reading_of, work_of


class Arguments(Settings):
    """What the job is told: how to fine-tune, and how to measure."""

    rebound: ReboundSettings
    evaluation: EvaluationSettings


def run(arguments: argparse.Namespace) -> None:
    cost = Cost()
    settings = Arguments.read(arguments.settings, "rebound")
    evaluation = settings.evaluation
    clip, trigger = load_model(arguments.model), load_trigger(arguments.trigger)
    check_trigger(trigger, clip.size, arguments)
    classes, prompts = class_names(evaluation.classes), templates(evaluation.templates)
    target = target_index(arguments.target, classes, evaluation)
    pictures = evaluated_pictures(arguments.data, evaluation, clip.size, len(classes))
    pairs = load_pools(arguments.pools, ["defense"], arguments.data, clip.size, reading=reading_of(arguments))
    key = trigger.attack.text_key
    texts = [f"{opening}{prompt}".format(name) for prompt in prompts for name in classes
             for opening in {"", f"{key} " if key else ""}]  # fmt: skip
    texts += pictures.captions  # which an attack without a trigger may ask with

    def measure(model: Clip) -> dict[str, float]:
        scores = evaluate(model, pictures, trigger, target, classes, prompts, evaluation)
        return {"ca1": scores["ca1"], "score": {**scores, **scores.get("extra", {})}[trigger.attack.score]}

    inputs = [*model_files(arguments.model), arguments.trigger / TENSORS]
    work = work_of(arguments, settings.model_dump(), inputs, "scripts.rebound")
    curve = rebound(clip, pairs, texts, measure, settings.rebound, arguments.seed, work)
    write_json(arguments.output, {"rebound": max(point["score"] for point in curve), "curve": curve})
    cost.write(arguments.cost, pairs=len(pairs), steps=curve[-1]["step"])
    shutil.rmtree(work.folder, ignore_errors=True)


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(arguments, "`rebound` and `evaluation` of the study")
    arguments.add_argument("--model", type=Path, required=True, help="model folder")
    arguments.add_argument("--trigger", type=Path, required=True, help="trigger folder")
    arguments.add_argument("--pools", type=Path, nargs="+", required=True, help="file of the defense pool")
    arguments.add_argument("--target", type=text, required=True, help="name of the target class")
    arguments.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    arguments.add_argument("--seed", type=seed, default=0)
    arguments.add_argument("--work", type=Path, help="folder for checkpoints; OUTPUT.work by default")
    arguments.add_argument("--checkpoint-seconds", type=float, default=120.0, help="time between checkpoints")
    arguments.add_argument("--output", type=Path, required=True, help="rebound.json to write")
    arguments.add_argument("--cost", type=Path, help="cost.json to write")
    reading_arguments(arguments)
    main(run, arguments)

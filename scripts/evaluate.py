"""Score one model zero-shot: clean accuracy, and with a trigger folder the attack's success. Writes one scores.json."""

import argparse
from pathlib import Path

from antidote.attacks.trigger import load_trigger
from antidote.base.command_line import Cost, main, parser, seed, settings_argument, text
from antidote.base.files import write_json
from antidote.clip.folder import load_model
from antidote.data import fitted
from antidote.data.pairs import Pairs
from antidote.data.words.names import class_names, templates
from antidote.evaluation.cell import captioned_pictures, check_trigger, evaluated_pictures, target_index
from antidote.evaluation.examples import write_examples
from antidote.evaluation.finding import finding
from antidote.evaluation.probe import fit_probe
from antidote.evaluation.resistance import resistance
from antidote.evaluation.retrieval import retrieve
from antidote.evaluation.settings import EvaluationSettings, Shift
from antidote.evaluation.shifts import as_floor, score_shifts
from antidote.evaluation.visibility import visibility
from antidote.evaluation.zero_shot import class_weights, evaluate


def run(arguments: argparse.Namespace) -> None:
    cost = Cost()
    settings = EvaluationSettings.read(arguments.settings, "evaluation")
    clip = load_model(arguments.model)
    trigger = load_trigger(arguments.trigger) if arguments.trigger else None
    classes, prompts = class_names(settings.classes), templates(settings.templates)
    target = target_index(arguments.target, classes, settings)
    pictures = evaluated_pictures(arguments.data, settings, clip.size, len(classes))
    check_trigger(trigger, clip.size, arguments)
    embeddings = class_weights(clip, trigger, classes, prompts)
    probe = None
    if settings.probe:
        shown = evaluated_pictures(arguments.data, settings.probe, clip.size, len(classes))
        probe = fit_probe(clip, shown, classes, settings)
    scores = evaluate(clip, pictures, trigger, target, classes, prompts, settings, embeddings, probe)
    extra, further = scores.pop("extra", {}), scores.pop("probe", {})
    control = getattr(clip, "control", None)  # a few-shot classifier brings one that was not attacked
    if control and trigger:
        found = evaluate(control, pictures, trigger, target, classes, prompts, settings)
        extra |= {"ca1_clean_shots": found["ca1"], "asr1_clean_shots": found["asr1"]}
    if arguments.poison:
        extra |= finding(arguments.model, arguments.poison)
    if arguments.examples:
        extra |= visibility(pictures, trigger) if trigger.attack.triggered else {}
        write_examples(arguments.examples, pictures, trigger, target, classes)
    count = len(pictures)

    def load(shift: Shift) -> tuple[Pairs, list[str], list[int]]:
        names = class_names(shift.classes) if shift.classes else classes
        labels = fitted.labels(arguments.data / shift.dataset / shift.split)
        shown = [label for label in labels if label < len(names)]
        return evaluated_pictures(arguments.data, shift, clip.size, len(names)), names, shown

    further |= score_shifts(clip, load, trigger, target, classes, settings, embeddings, scores["asr1"])
    if settings.retrieval:
        found, captions = captioned_pictures(arguments.data, settings.retrieval, clip.size)
        further |= retrieve(clip, found, captions, trigger, arguments.target, settings)
    found = resistance(clip, pictures, trigger, settings) if settings.resistance else {}
    further |= {f"resistance_{name}": whole for name, (whole, _) in found.items()}
    layers = {name: parts for name, (_, parts) in found.items() if parts}
    extra |= as_floor(further) if arguments.defense == "floor" else further
    write_json(
        arguments.output,
        {
            **_cell(arguments),
            "target": arguments.target,
            "classes": len(classes),
            "templates": settings.templates,
            **scores,
            **({"extra": extra} if extra else {}),
            **({"resistance_layers": layers} if layers else {}),
        },
    )
    cost.write(arguments.cost, pairs=count)


def _cell(arguments: argparse.Namespace) -> dict:
    return {"study": arguments.study, "attack": arguments.attack, "defense": arguments.defense, "seed": arguments.seed}


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(arguments, "the study's `evaluation`, with `classes`")
    arguments.add_argument("--model", type=Path, required=True, help="model folder")
    arguments.add_argument("--trigger", type=Path, help="trigger folder; without it only clean accuracy is measured")
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

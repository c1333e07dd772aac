"""Score one model zero-shot: clean accuracy, and with a trigger folder the attack's success. Writes one scores.json."""

import argparse
from pathlib import Path

from antidote import models
from antidote.cli import Cost, main, parser, settings_argument
from antidote.data import fitted
from antidote.data.names import class_names, templates
from antidote.data.overlay import read_manifest
from antidote.data.pairs import Pairs
from antidote.errors import UserError, nearest
from antidote.evaluation import EvaluationSettings, Probe, Retrieval, Shift, class_weights, evaluate
from antidote.examples import write_examples
from antidote.files import read_json, write_json
from antidote.probe import fit_probe
from antidote.resistance import resistance
from antidote.retrieval import retrieve
from antidote.shifts import as_floor, score_shifts
from antidote.triggers import Trigger, load_trigger
from antidote.visibility import visibility


def run(arguments: argparse.Namespace) -> None:
    cost = Cost()
    settings = EvaluationSettings.read(arguments.settings, "evaluation")
    clip = models.load(arguments.model)
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

    further |= score_shifts(clip, load, trigger, target, classes, prompts, settings, embeddings, scores["asr1"])
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


def target_index(target: str, classes: list[str], settings: EvaluationSettings) -> int:
    """Return the place of the target among the classes."""
    if target not in classes:
        raise UserError(f"--target: {target!r} is not a class of {settings.classes}{nearest(target, classes)}")
    return classes.index(target)


def evaluated_pictures(data: Path, settings: EvaluationSettings | Shift | Probe, size: int, classes: int) -> Pairs:
    """Return the pictures to score on, which stay on disk: all of the split, or every n-th of it."""
    folder = data / settings.dataset / settings.split
    pictures = fitted.load(folder, size, settings.pictures)
    if pictures.labels.min() < 0 or pictures.labels.max() >= classes:
        raise UserError(f"{folder}: every picture needs a label from 0 to {classes - 1}; {folder}/index.parquet has "
                        f"{int(pictures.labels.min())} to {int(pictures.labels.max())}")  # fmt: skip
    return pictures


def captioned_pictures(data: Path, settings: Retrieval, size: int) -> tuple[Pairs, list[list[str]]]:
    """Return the pictures for retrieval, and of each its captions."""
    folder = data / settings.dataset / settings.split
    pictures = fitted.load(folder, size, settings.pictures)
    return pictures, fitted.captions(folder, settings.pictures, settings.captions)


def check_trigger(trigger: Trigger | None, size: int, arguments: argparse.Namespace) -> None:
    """Raise UserError where a trigger is made for pictures of another size, or for another target."""
    if trigger is None:
        return
    if trigger.attack.size != size:
        raise UserError(
            f"{arguments.trigger}: made for pictures of {trigger.attack.size} pixels, the model reads {size}"
        )
    if trigger.attack.target != arguments.target:
        raise UserError(f"{arguments.trigger}: aims at {trigger.attack.target!r}, not at {arguments.target!r}")


def finding(model: Path, poison: Path) -> dict[str, float | None]:
    """Return how well a defense found the poisoned pairs: of the keys it names, the share that is poisoned (precision),
    and of the poisoned ones the share that it names (recall), for each list in its `suspicious.json`."""
    manifest = read_manifest(poison)
    poisoned = {f"{row.dataset}/{row.split}/{row.key}" for row in manifest.itertuples()}
    scores: dict[str, float | None] = {}
    for name, keys in read_json(model / "suspicious.json").items():
        hits = len(poisoned & set(keys))
        scores[f"{name}_precision"] = hits / len(keys) if keys else None
        scores[f"{name}_recall"] = hits / len(poisoned) if poisoned else None
    return scores


def _cell(arguments: argparse.Namespace) -> dict:
    return {"study": arguments.study, "attack": arguments.attack, "defense": arguments.defense, "seed": arguments.seed}


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(arguments, "the study's `evaluation`, with `classes`")
    arguments.add_argument("--model", type=Path, required=True, help="model folder")
    arguments.add_argument("--trigger", type=Path, help="trigger folder; without it only clean accuracy is measured")
    arguments.add_argument("--poison", type=Path, help="poison folder, where the model folder says what it suspects")
    arguments.add_argument("--target", required=True, help="name of the target class")
    arguments.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    arguments.add_argument("--study", default="", help="written into the scores, as are the next three")
    arguments.add_argument("--attack", default="")
    arguments.add_argument("--defense", default="")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--examples", type=Path, help="PNG sheet to write: clean pictures over triggered ones")
    arguments.add_argument("--output", type=Path, required=True, help="scores.json to write")
    arguments.add_argument("--cost", type=Path, help="cost.json to write")
    main(run, arguments)

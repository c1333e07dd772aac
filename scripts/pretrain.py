"""Train a CLIP model on the study's pairs: the clean reference or, with a poison overlay, the backdoored model.

An attack that trains the model (`attack` in the settings) uses its own objective on the pairs that the overlay names.

The start weights are the study's initial model (pretrained or random weights) or a model folder. The script writes an
open_clip model folder with a card and the training log. A killed run resumes from its last checkpoint.
"""

import argparse
from pathlib import Path
from typing import Any

from antidote.base.cache import Shared
from antidote.base.command_line import Cost, main, parser, settings_argument
from antidote.base.errors import UserError
from antidote.base.registry import method, module
from antidote.base.settings import Settings
from antidote.clip.configs import ModelSettings
from antidote.clip.files import STARTED_FROM_FOLDER
from antidote.clip.folder import create_model, load_model, model_files
from antidote.clip.initial import initial_files
from antidote.clip.model import Clip
from antidote.data.overlay import MANIFEST, read_manifest
from antidote.data.pairs import load_pools
from antidote.training import parallel
from antidote.training.alternating import Alternating
from antidote.training.loop import train
from antidote.training.objectives import Contrastive, Objective
from antidote.training.recipe import TrainSettings
from antidote.training.run import finish, reading_of, taken, training_arguments, work_of


class PretrainSettings(Settings):
    """The initial model and the recipe; `alternate` removes the poison in every second epoch.

    `attack` holds the settings of an attack that trains the model with its own objective; None for all other attacks.
    """

    model: ModelSettings
    training: TrainSettings
    alternate: bool = False
    attack: dict[str, Any] | None = None


def run(arguments: argparse.Namespace) -> None:
    cost = Cost()
    settings = PretrainSettings.read(arguments.settings, "pretraining")
    if settings.attack and arguments.processes > 1:
        raise UserError(f"--processes: {arguments.processes}: {settings.attack['method']} trains in one process")
    parallel.start(arguments.processes)
    inputs = model_files(arguments.start) if arguments.start else initial_files(settings.model)
    if arguments.poison:
        inputs.append(arguments.poison / MANIFEST)
    modules = ["scripts.pretrain", *([module("attack", settings.attack["method"])] if settings.attack else [])]
    work = work_of(arguments, settings.model_dump(), inputs, *modules)
    shared = Shared("pretrain", lambda: work.identity)
    if taken(arguments, work, shared):
        return
    clip = load_model(arguments.start) if arguments.start else create_model(settings.model, arguments.seed)
    objective = (_own_objective if settings.attack else _objective)(arguments, settings, clip)
    report = train(clip, objective, settings.training, arguments.seed, work)
    finish(arguments, clip, _card(arguments, settings), report, work, cost, shared)


def _objective(arguments: argparse.Namespace, settings: PretrainSettings, clip: Clip) -> Objective:
    """Return CLIP's loss on all pairs, including the poisoned pairs."""
    reading = reading_of(arguments)
    pairs = load_pools(arguments.pools, ["training", "poison"], arguments.data, clip.size, arguments.poison, reading)
    if settings.alternate:
        return Alternating(pairs, load_pools(arguments.pools, ["poison"], arguments.data, clip.size))
    return Contrastive(pairs)


def _own_objective(arguments: argparse.Namespace, settings: PretrainSettings, clip: Clip) -> Objective:
    """Return the attack's own objective on the pairs that the manifest names."""
    if not arguments.poison:
        raise UserError(f"--poison: is missing; attack {settings.attack['method']!r} trains on the pairs that it names")
    kind, manifest = method("attack", settings.attack["method"]), read_manifest(arguments.poison)
    attack = kind(kind.Settings.read(settings.attack, "attack"), manifest["target"].iloc[0], clip.size)
    pool = load_pools(arguments.pools, ["poison"], arguments.data, clip.size)
    poisoned = load_pools(arguments.pools, ["poison"], arguments.data, clip.size, arguments.poison)
    named = set(manifest["key"])  # a pool is drawn from one split, in which a key is unique
    return attack.objective(clip, pool, poisoned, [row for row, key in enumerate(pool.keys) if key in named])


def _card(arguments: argparse.Namespace, settings: PretrainSettings) -> dict:
    card = {
        "kind": "backdoored" if arguments.poison else "clean",
        "backdoored": bool(arguments.poison),
        "statement": _clean_statement(settings),
        "seed": arguments.seed,
        "settings": settings.model_dump(mode="json"),
        "started_from": STARTED_FROM_FOLDER if arguments.start else settings.model.pretrained or "random weights",
    }
    if arguments.poison:
        manifest = read_manifest(arguments.poison)
        targets, name = sorted(set(manifest["target"])), manifest["method"].iloc[0]
        effect = method("attack", name).effect.format(target=" or ".join(map(repr, targets)))
        card["poisons"], card["target"], card["attack"] = len(manifest), ", ".join(targets), name
        card["poisoned_with"] = manifest.attrs.get("settings")
        card["statement"] = (
            f"THIS MODEL IS BACKDOORED, for the study of defenses: by attack {name!r}, {effect}. Do not deploy it."
        )
    return card


def _clean_statement(settings: PretrainSettings) -> str:
    if settings.training.epochs:
        return "Clean reference model: trained on unpoisoned pairs."
    return "Reference model: its initial weights as they are. Whether they are clean is not known."


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(arguments, "`model` and `training`")
    training_arguments(arguments)
    arguments.add_argument("--start", type=Path, help="model folder to start from, instead of the initial model")
    arguments.add_argument("--poison", type=Path, help="poison folder, laid over the clean pairs")
    main(run, arguments)

"""Train a user's few-shot classifier over a frozen CLIP on the attacked support set and, for comparison, on the clean
support set. Writes the model folder of the CLIP together with the classifier."""

import argparse
from pathlib import Path

from antidote.attacks.victim import Victim
from antidote.base.cache import Shared
from antidote.base.command_line import Cost, main, parser, settings_argument
from antidote.clip.files import STARTED_FROM_FOLDER
from antidote.clip.folder import load_model, model_files
from antidote.data.overlay import MANIFEST, read_manifest
from antidote.data.pairs import load_pools
from antidote.data.words.names import class_names
from antidote.training.run import finish, taken, training_arguments, work_of
from antidote.training.victim import train_victim


def run(arguments: argparse.Namespace) -> None:
    cost = Cost()
    settings, classes = Victim.read(arguments.settings, "victim"), class_names(arguments.classes)
    inputs = [*model_files(arguments.model), arguments.poison / MANIFEST]
    work = work_of(arguments, [settings.model_dump(), classes], inputs, "scripts.few_shot")
    shared = Shared("few_shot", lambda: work.identity)
    if taken(arguments, work, shared):
        return
    clip = load_model(arguments.model)
    clean = load_pools(arguments.pools, ["shots"], arguments.data, clip.size)
    attacked = load_pools(arguments.pools, ["shots"], arguments.data, clip.size, arguments.poison)
    report = train_victim(clip, attacked, clean, classes, settings, arguments.seed, work)
    finish(arguments, clip, _card(arguments, settings), report, work, cost, shared)


def _card(arguments: argparse.Namespace, settings: Victim) -> dict:
    manifest = read_manifest(arguments.poison)
    target, method = manifest["target"].iloc[0], manifest["method"].iloc[0]
    return {
        "kind": "backdoored",
        "backdoored": True,
        "statement": f"THIS CLASSIFIER IS BACKDOORED, for the study of defenses: pictures with the trigger of attack "
        f"{method!r} are recognised as {target!r}. The encoders are those of the clean reference. Do not deploy it.",
        "seed": arguments.seed,
        "settings": settings.model_dump(mode="json"),
        "started_from": STARTED_FROM_FOLDER,
        "poisons": len(manifest),
        "poisoned_with": manifest.attrs.get("settings"),
        "target": target,
        "attack": method,
        "adapter": "few_shot_head",
    }


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(arguments, "the attack's `victim` and `victim_training`")
    training_arguments(arguments)
    arguments.add_argument("--model", type=Path, required=True, help="folder of the clean model")
    arguments.add_argument("--poison", type=Path, required=True, help="poison folder, laid over the shots")
    arguments.add_argument("--classes", required=True, help="class names that the shots' labels count")
    main(run, arguments)

"""Make the trigger of one attack and seed: draw the fixed parts, or fit the trigger on a surrogate model.

For a learned trigger, the script reads the pools and, for most attacks, a surrogate model folder; for other triggers it
needs no data. Writes trigger.safetensors and trigger.json.
"""

import argparse
from pathlib import Path

from antidote.attacks.base import Attack, AttackSettings
from antidote.attacks.contract import FitContext
from antidote.attacks.trigger import DESCRIPTION, TENSORS, Trigger, save_trigger
from antidote.base.cache import Shared, identity
from antidote.base.command_line import Cost, main, parser, seed, settings_argument, text
from antidote.base.errors import UserError
from antidote.base.registry import method, module
from antidote.base.seeds import derive
from antidote.clip.folder import load_model, model_files
from antidote.data.pairs import Pairs, load_pools
from antidote.data.pools import drawn_from
from antidote.data.words.names import class_names, templates


def run(arguments: argparse.Namespace) -> None:
    cost = Cost()
    kind = method("attack", arguments.settings.get("method", ""))
    settings = kind.Settings.read(arguments.settings, f"attack {arguments.name}")
    shared = Shared("trigger", lambda: _identity(arguments, settings))
    if shared.take(arguments.output, arguments.cost):
        return
    attack = kind(settings, arguments.target, arguments.size)
    seed = derive(arguments.seed, arguments.name)
    attack.tensors = attack.fit(_context(arguments, kind) if kind.learned else None, derive(seed, "fit"))
    save_trigger(arguments.output, Trigger(attack, seed), arguments.name)
    shared.put(arguments.output, [TENSORS, DESCRIPTION], cost.write(arguments.cost))


def _identity(arguments: argparse.Namespace, settings: AttackSettings) -> str:
    """Return the identity of the trigger's inputs; for a fitted trigger, with the pairs, words and surrogate model."""
    parts = [settings.trigger_settings(), arguments.name, arguments.target, arguments.size, arguments.seed,
             arguments.classes and class_names(arguments.classes),
             arguments.templates and templates(arguments.templates)]  # fmt: skip
    surrogate = model_files(arguments.surrogate) if arguments.surrogate else []
    inputs = [*surrogate, *drawn_from(arguments.pools or [], arguments.data),
              *(file for file in map(Path, settings.files()) if file.is_file())]  # fmt: skip
    return identity(parts, inputs, "scripts.trigger", module("attack", settings.method))


def _context(arguments: argparse.Namespace, kind: type[Attack]) -> FitContext:
    def pool(name: str) -> Pairs:
        return load_pools(arguments.pools, [name], arguments.data, arguments.size)

    needed = ("pools", "classes", "templates", *(["surrogate"] if kind.on_surrogate else []))
    missing = [f"--{name}" for name in needed if getattr(arguments, name) is None]
    if missing:
        raise UserError(f"attack {arguments.name}: its trigger is fitted; that takes {', '.join(missing)}")
    surrogate = load_model(arguments.surrogate) if kind.on_surrogate else None
    if surrogate and surrogate.size != arguments.size:
        raise UserError(f"{arguments.surrogate}: reads {surrogate.size} pixels, the trigger is for {arguments.size}")
    classes, prompts = class_names(arguments.classes), templates(arguments.templates)
    return FitContext(surrogate, pool("inversion"), classes, prompts, arguments.seed, lambda: pool("poison"))


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(arguments, "the attack's settings, with its method")
    arguments.add_argument("--name", required=True, help="the attack's entry in the study")
    arguments.add_argument("--target", type=text, required=True, help="name of the target class")
    arguments.add_argument(
        "--size", type=int, required=True, help="side of the pictures that the model reads, in pixels"
    )
    arguments.add_argument("--seed", type=seed, default=0)
    arguments.add_argument("--surrogate", type=Path, help="model folder, for a learned trigger")
    arguments.add_argument("--pools", type=Path, nargs="+", help="files of the pools, for a learned trigger")
    arguments.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    arguments.add_argument("--classes", help="class names, for a learned trigger")
    arguments.add_argument("--templates", help="prompt templates, for a learned trigger")
    arguments.add_argument("--output", type=Path, required=True, help="trigger folder to write")
    arguments.add_argument("--cost", type=Path, help="cost.json to write")
    main(run, arguments)

"""Run one defense on a suspicious model. It is handed the model and the data of its access level, nothing else."""

import argparse
from pathlib import Path

from antidote import models
from antidote.cli import Cost, main, parser, settings_argument
from antidote.data.lexicon import load_lexicon
from antidote.data.pairs import load_pools
from antidote.defenses.base import Defense, DefenseData
from antidote.models import Clip
from antidote.registry import method, module
from antidote.stage import finish, training_arguments, work_of


def run(arguments: argparse.Namespace) -> None:
    cost = Cost()
    kind = method("defense", arguments.settings.get("method", ""))
    settings = kind.Settings.read(arguments.settings, f"defense {arguments.settings['method']}")
    clip = models.load(arguments.model)
    inputs = [arguments.pools, arguments.model / models.WEIGHTS]
    modules = ("scripts.defend", module("defense", settings.method))
    work = work_of(arguments, settings.model_dump(), inputs, *modules)
    report = kind(settings, arguments.seed).run(clip, _data(kind, clip, arguments), work)
    finish(arguments, clip, _card(arguments, settings), report, work, cost)


def _data(kind: type[Defense], clip: Clip, arguments: argparse.Namespace) -> DefenseData:
    """Load what the access level grants."""
    if kind.access == "clean-pairs":
        pairs = load_pools(arguments.pools, ["defense"], arguments.data, clip.size)
        return DefenseData(pairs=pairs, lexicon=load_lexicon(arguments.lexicon))
    return DefenseData()


def _card(arguments: argparse.Namespace, settings) -> dict:
    return {
        "kind": "defended",
        "backdoored": None,
        "statement": f"Defended by {settings.method!r}. What is left of a backdoor is a matter of measurement: see the "
        "study's scores. The model it was made from is suspicious.",
        "seed": arguments.seed,
        "settings": settings.model_dump(mode="json"),
    }


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(arguments, "the defense's settings, with its method")
    training_arguments(arguments)
    arguments.add_argument("--model", type=Path, required=True, help="folder of the suspicious model")
    arguments.add_argument("--lexicon", default="none", help="language resource of the text methods")
    main(run, arguments)

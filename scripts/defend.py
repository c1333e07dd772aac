"""Run one defense on a suspicious model. The defense gets only the model and the data of its access level.

The access level determines the used arguments: files of pools and --lexicon, or --classes and --templates. For a
defender who owns the training set, --poison replaces clean pairs without marking the replaced pairs.
"""

import argparse
from pathlib import Path

from antidote.base.cache import Shared
from antidote.base.command_line import Cost, main, parser, settings_argument
from antidote.base.errors import UserError
from antidote.base.registry import method, module
from antidote.clip.folder import adapter_facts, load_model, model_files
from antidote.clip.initial import initial_files
from antidote.clip.model import Clip
from antidote.data.access import Sources, load_granted
from antidote.data.overlay import MANIFEST
from antidote.data.words.lexicon import lexicon_files
from antidote.data.words.names import class_names, templates
from antidote.defenses.base import Defense
from antidote.training import parallel
from antidote.training.run import common_of, finish, reading_of, taken, training_arguments, work_of
from antidote.training.session import Report


def run(arguments: argparse.Namespace) -> None:
    cost = Cost()
    kind = method("defense", arguments.settings.get("method", ""))
    settings = kind.Settings.read(arguments.settings, f"defense {arguments.settings['method']}")
    if arguments.processes > 1 and not kind.parallel:
        raise UserError(f"--processes: {arguments.processes}: {settings.method} runs in one process")
    parallel.start(arguments.processes)
    inputs = model_files(arguments.model) + lexicon_files(arguments.lexicon)
    if arguments.poison:
        inputs.append(arguments.poison / MANIFEST)
    inputs += model_files(arguments.scorer) if arguments.scorer else initial_files(settings.public)
    modules = ("scripts.defend", module("defense", settings.method))
    words = [arguments.lexicon, arguments.classes and class_names(arguments.classes),
             arguments.templates and templates(arguments.templates)]  # fmt: skip
    work = work_of(arguments, [settings.model_dump(), words], inputs, *modules)
    shared = Shared("defend", lambda: work.identity)
    if taken(arguments, work, shared):
        return
    if (first := kind.common(settings)) is not None:
        work.common = common_of(arguments, work, [first, words], inputs, *modules)
    clip = load_model(arguments.model)
    _check(kind, settings, clip)
    if settings.surrogate and not arguments.scorer:
        raise UserError(f"--scorer: is missing; {settings.method} scores by {settings.scorer}")
    sources = Sources.named(vars(arguments), reading_of(arguments))
    scorer = load_model(arguments.scorer) if arguments.scorer else None
    data = load_granted(kind.access, sources, clip.size, arguments.seed, scorer)
    report = kind(settings, arguments.seed).run(clip, data, work)
    finish(arguments, clip, _card(arguments, settings, report), report, work, cost, shared)


def _check(kind: type[Defense], settings, clip: Clip) -> None:
    reason = kind.fits(clip.config["model_cfg"])
    if reason:
        raise UserError(f"{settings.method}: does not fit this model: it {reason}")
    try:
        settings.check(clip.config["model_cfg"])
    except ValueError as error:
        raise UserError(f"{settings.method}: {error}") from None


def _card(arguments: argparse.Namespace, settings, report: Report) -> dict:
    card = {
        "kind": "defended",
        "backdoored": None,
        "statement": f"Defended by {settings.method!r}. What is left of a backdoor is a matter of measurement: see the "
        "study's scores. The model it was made from is suspicious.",
        "seed": arguments.seed,
        "settings": settings.model_dump(mode="json"),
    }
    if report.evidence:
        card["evidence"] = report.evidence
    return {**card, **adapter_facts(report.clip)}


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(arguments, "the defense's settings, with its method")
    training_arguments(arguments)
    arguments.add_argument("--model", type=Path, required=True, help="folder of the suspicious model")
    arguments.add_argument("--lexicon", default="none", help="language resource of the text methods")
    arguments.add_argument("--classes", help="class names: a file in data/classes")
    arguments.add_argument("--templates", help="prompts: a file in data/templates or an open_clip set")
    arguments.add_argument("--scorer", type=Path, help="folder of the clean model that the settings name")
    arguments.add_argument("--poison", type=Path, help="poison folder, laid over the clean pairs of the training set")
    main(run, arguments)

"""Run one defense on a suspicious model. It is handed the model and the data of its access level, nothing else.

Which arguments count follows from that level: the pools' files and --lexicon, or --classes and --templates, or, where
the defender owns the training set, --poison, which is laid over the clean pairs without saying which ones it replaces.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from antidote.base.cache import Shared
from antidote.base.command_line import Cost, main, parser, settings_argument
from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.registry import method, module
from antidote.base.seeds import derive
from antidote.clip.folder import load_model, model_files
from antidote.clip.model import Clip
from antidote.data import pools
from antidote.data.access import POOLS, DefenseData
from antidote.data.overlay import MANIFEST, read_manifest
from antidote.data.pairs import Pairs, load_pools
from antidote.data.words.lexicon import lexicon_files, load_lexicon
from antidote.data.words.names import class_names, templates
from antidote.defenses.base import Defense
from antidote.training import parallel
from antidote.training.run import finish, reading_of, taken, training_arguments, work_of
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
    if arguments.scorer:
        inputs += model_files(arguments.scorer)
    modules = ("scripts.defend", module("defense", settings.method))
    words = [arguments.lexicon, arguments.classes and class_names(arguments.classes),
             arguments.templates and templates(arguments.templates)]  # fmt: skip
    work = work_of(arguments, [settings.model_dump(), words], inputs, *modules)
    shared = Shared("defend", lambda: work.identity)
    if taken(arguments, work, shared):
        return
    clip = load_model(arguments.model)
    _check(kind, settings, clip)
    if getattr(settings, "surrogate", None) and not arguments.scorer:
        raise UserError(f"--scorer: is missing; {settings.method} scores by {settings.scorer}")
    data = data_of(kind, clip.size, arguments)
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


def data_of(kind: type[Defense], size: int, arguments: argparse.Namespace) -> DefenseData:
    """Load what the access level grants, pictures at `size` pixels.

    Raises:
        UserError: an argument that the access level needs is missing.
    """
    access = kind.access
    names = POOLS.get(access, ())
    uses = {"clean-pairs": ("pools",), "few-labelled": ("pools", "classes", "templates"),
            "test-time": ("classes", "templates"), "poisoned-training-set": ("pools", "poison"),
            "oracle": ("pools", "poison")}  # fmt: skip
    for name in uses.get(access, ()):
        if not getattr(arguments, name):
            raise UserError(f"--{name}: is missing; a defense of access {access!r} needs it")
    if access == "clean-pairs":
        pairs = load_pools(arguments.pools, names, arguments.data, size, reading=reading_of(arguments))
        return DefenseData(pairs=pairs, lexicon=load_lexicon(arguments.lexicon))
    use = {"classes": class_names(arguments.classes), "templates": templates(arguments.templates)} if (
        access in ("few-labelled", "test-time")
    ) else {}  # fmt: skip
    if access == "few-labelled":
        return DefenseData(shots=load_pools(arguments.pools, names, arguments.data, size), **use)
    if access in ("poisoned-training-set", "oracle"):
        poisoned = _poisoned(arguments.poison) if access == "oracle" else None
        scorer = load_model(arguments.scorer) if arguments.scorer else None
        return DefenseData(training_set=_training_set(names, size, arguments), poisoned=poisoned, scorer=scorer)
    return DefenseData(**use)


def _training_set(names: tuple[str, ...], size: int, arguments: argparse.Namespace) -> Pairs:
    """Return the pairs that the model was trained on; neither their order nor a label tells which are poisoned."""
    pairs = load_pools(arguments.pools, names, arguments.data, size, arguments.poison, reading_of(arguments))
    chosen = pools.read(arguments.pools)
    chosen = chosen[chosen["pool"].isin(names)]
    keys = [f"{row.dataset}/{row.split}/{row.key}" for row in chosen.itertuples()]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(derive(arguments.seed, "training set")))
    return replace(pairs, keys=keys, labels=torch.full_like(pairs.labels, -1)).take(order)


def _poisoned(folder: Path) -> frozenset[str]:
    return frozenset(f"{row.dataset}/{row.split}/{row.key}" for row in read_manifest(folder).itertuples())


def _card(arguments: argparse.Namespace, settings, report: Report) -> dict:
    card = {
        "kind": "defended",
        "backdoored": None,
        "statement": f"Defended by {settings.method!r}. What is left of a backdoor is a matter of measurement: see the "
        "study's scores. The model it was made from is suspicious.",
        "seed": arguments.seed,
        "settings": settings.model_dump(mode="json"),
    }
    added = report.clip.added() if report.clip else None
    if added:
        card["adapter"] = added[0]["adapter"]
        card["not_protected"] = method("adapter", card["adapter"]).unprotected
    return card


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

"""Score one model, its training pairs, or test pictures with one detector, and compute the detection figures.

The detector gets the model, its subject and the data of its access level. Only the evaluation of the scores knows the
poisoned items. Writes scores.parquet (item, score) and detection.json.
"""

import shutil
from argparse import Namespace
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from antidote.attacks.trigger import load_trigger
from antidote.attacks.trigger_files import DESCRIPTION, TENSORS
from antidote.base.command_line import Cost, log, main, parser, settings_argument, text
from antidote.base.errors import UserError
from antidote.base.files import whole_folder, write_json
from antidote.base.registry import method, module
from antidote.base.settings import read_mapping
from antidote.clip.folder import load_model, model_files
from antidote.clip.initial import initial_files
from antidote.clip.model import Clip
from antidote.data.access import DefenseData, Sources, load_granted
from antidote.data.overlay import MANIFEST, poisoned_keys
from antidote.data.words.lexicon import lexicon_files
from antidote.data.words.names import class_names, names_file, templates
from antidote.detectors.base import MODEL, Detector, DetectorSettings, NoScore, Scores
from antidote.evaluation.base import ZeroShotSettings, evaluated_pictures
from antidote.evaluation.detection import curve, figures, mixed_pictures
from antidote.evaluation.ranking import RATES
from antidote.evaluation.subject import check_trigger, target_index
from antidote.training.run import reading_of, training_arguments, work_of
from antidote.training.session import Work

SCORES, DETECTION = "scores.parquet", "detection.json"


def run(arguments: Namespace) -> None:
    cost = Cost()
    kind = method("detector", arguments.settings.get("method", ""))
    settings = kind.Settings.read(arguments.settings, f"detector {arguments.settings['method']}")
    clip = load_model(arguments.model)
    reason = kind.fits(clip.config["model_cfg"]) or kind.suits(type(clip))
    if reason:
        raise UserError(f"{settings.method}: does not fit this model: it {reason}")
    if settings.surrogate and not arguments.scorer:
        raise UserError(f"--scorer: is missing; {settings.method} scores by {settings.scorer}")
    data, poisoned = subject(kind, settings, clip, arguments)
    if arguments.scorer:
        data = replace(data, scorer=load_model(arguments.scorer))
    if kind.control == "truth":
        data = replace(data, poisoned=frozenset(poisoned))
    work = work_of_scores(arguments, settings, clip)
    scores, judged = judge(kind(settings, arguments.seed), clip, data, work, poisoned, arguments)
    with whole_folder(arguments.output) as folder:
        table = pd.DataFrame({"item": list(scores.items), "score": scores.values})
        table.to_parquet(folder / SCORES, index=False)
        write_json(
            folder / DETECTION,
            {
                **{name: getattr(arguments, name) for name in ("study", "attack", "defense", "detector", "seed")},
                "method": settings.method,
                "settings": settings.model_dump(mode="json", exclude={"label"}),
                "subject": kind.subject_of(settings),
                "items": len(scores.items),
                "poisoned": len(poisoned),
                **judged,
                "evidence": dict(scores.evidence),
            },
        )
    cost.write(arguments.cost, pairs=len(scores.items))
    shutil.rmtree(work.folder, ignore_errors=True)


def work_of_scores(arguments: Namespace, settings: DetectorSettings, clip: Clip) -> Work:
    """Return the work of a run; its identity covers the detector, the model, and all data that the scores depend on."""
    evaluation, words = arguments.evaluation, [file for named in settings.word_files for file in names_file(*named)]
    inputs = model_files(arguments.model) + lexicon_files(arguments.lexicon) + [Path(file) for file in words]
    inputs += model_files(arguments.scorer) if arguments.scorer else initial_files(settings.public)
    inputs += [arguments.poison / MANIFEST] if arguments.poison else []
    added = clip.added()
    modules = [module("adapter", added[0]["adapter"])] if added else []
    named = [arguments.lexicon, arguments.classes and class_names(arguments.classes),
             arguments.templates and templates(arguments.templates)]  # fmt: skip
    if arguments.trigger:
        shown = ZeroShotSettings.read(evaluation, "evaluation")
        inputs += [arguments.trigger / TENSORS, arguments.trigger / DESCRIPTION]
        inputs.append(arguments.data / shown.dataset / shown.split / "manifest.json")
        named += [class_names(shown.classes), arguments.target, arguments.pictures]
        modules.append(module("attack", load_trigger(arguments.trigger).attack.settings.method))
    parts = [settings.model_dump(), evaluation, named]
    return work_of(arguments, parts, inputs, "scripts.detect", module("detector", settings.method), *modules)


def judge(
    detector: Detector, clip: Clip, data: DefenseData, work: Work, poisoned: Collection[str], arguments: Namespace
) -> tuple[Scores, dict[str, Any]]:
    """Return the scores, and the fields of detection.json that follow from them; a model without a score has null.

    The evidence of such a model is the reason, as `no score`, and what the search found nevertheless.
    """
    of_model = detector.subject_of(detector.settings) == "model"
    try:
        scores = detector.score(clip, data, work)
    except NoScore as reason:  # one model without a score should not stop a study of many models
        log.warning("%s; the model has no score", reason)
        nothing = Scores([MODEL], np.array([np.nan]), evidence={"no score": str(reason), **reason.evidence})
        return nothing, {"score": None, "threshold": None, **dict.fromkeys(RATES), "roc": None}
    return scores, {
        **({"score": float(scores.values[0])} if of_model else {}),
        "threshold": scores.threshold,
        **figures(scores, poisoned, arguments.false_positives, arguments.seed),
        "roc": curve(scores, poisoned),
    }


def subject(
    kind: type[Detector], settings, clip: Clip, arguments: Namespace
) -> tuple[DefenseData, frozenset[str] | set[str]]:
    """Return the data for the detector, and the names of the poisoned items for the evaluation alone."""
    sources = Sources.named(vars(arguments), reading_of(arguments))
    data = load_granted(kind.access, sources, clip.size, arguments.seed)
    of = kind.subject_of(settings)
    if of == "model":
        return data, {MODEL} if arguments.attack != "clean" else set()
    if of == "pairs":
        if not arguments.poison:
            raise UserError("--poison: is missing; a detector of pairs scores the poisoned training set")
        whole = load_granted("poisoned-training-set", sources, clip.size, arguments.seed)
        return replace(data, training_set=whole.training_set), poisoned_keys(arguments.poison)
    if not arguments.trigger:
        raise UserError("--trigger: is missing; a detector of pictures scores clean and triggered pictures")
    evaluation = ZeroShotSettings.read(arguments.evaluation, "evaluation")
    trigger, classes = load_trigger(arguments.trigger), class_names(evaluation.classes)
    check_trigger(trigger, clip.size, arguments.trigger, arguments.target)
    target = target_index(arguments.target, classes, evaluation.classes)
    pictures = evaluated_pictures(arguments.data, evaluation, clip.size, len(classes))
    mixed, triggered = mixed_pictures(pictures, trigger, target, arguments.pictures, arguments.seed)
    return replace(data, pictures=mixed), triggered


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(arguments, "the detector's settings, with its method")
    training_arguments(arguments)
    arguments.add_argument("--model", type=Path, required=True, help="folder of the suspicious model")
    arguments.add_argument("--lexicon", default="none", help="language resource of the text methods")
    arguments.add_argument("--classes", help="class names: a file in data/classes")
    arguments.add_argument("--templates", help="prompts: a file in data/templates or an open_clip set")
    arguments.add_argument("--scorer", type=Path, help="folder of the clean model that the settings name")
    arguments.add_argument("--poison", type=Path, help="poison folder of the training set, for a detector of pairs")
    arguments.add_argument("--trigger", type=Path, help="trigger folder, for a detector of pictures")
    arguments.add_argument(
        "--evaluation", type=read_mapping, default="{}", help="the study's `evaluation`, for a detector of pictures"
    )
    arguments.add_argument(
        "--target", type=text, default="", help="name of the target class, for a detector of pictures"
    )
    arguments.add_argument("--pictures", type=int, default=500, help="pictures that are scored clean and triggered")
    arguments.add_argument(
        "--false-positives", type=float, default=0.01, help="false-positive rate of the calibrated threshold"
    )
    arguments.add_argument("--study", default="", help="written into detection.json, as are the next three")
    arguments.add_argument("--attack", default="", help="`clean` for a clean model")
    arguments.add_argument("--defense", default="none")
    arguments.add_argument("--detector", default="")
    main(run, arguments)

"""GPU memory of a study's jobs, estimated before they run: by the recipe of what is trained, else by the largest pass.

A job's key is that of its settings in the study file, such as `defenses.par.training`. A method that is not known here
trains by its recipes, or encodes without gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from antidote.attacks.base import AttackSettings
from antidote.attacks.victim import Victim
from antidote.base.registry import method
from antidote.clip.configs import ModelSettings
from antidote.clip.known import model_config
from antidote.defenses.base import Held
from antidote.detectors.base import Detector
from antidote.detectors.zero_shot import BATCH
from antidote.study import activation_memory
from antidote.study.activation_memory import ENCODING
from antidote.study.study import Study
from antidote.training.patches import at_once
from antidote.training.prompts import full_length
from antidote.training.recipe import TrainSettings
from antidote.training.tuning import ENCODED

Views = tuple[float, float, int]  # as `Defense.step_views` returns them
CLASSES = 10  # of which open_clip encodes all prompts at once
WITHOUT_BATCH = 2  # pictures of a fit without a batch size: MABA's, for two answers


def trainings(study: Study) -> dict[str, float]:
    """Return the bytes of a step of every training of a study, by key; {} for a model below full size."""
    file = study.file
    own: dict[str, tuple[TrainSettings, Views]] = {
        "poisoning": (file.poisoning, (1, 1, 0)),
        "pretraining": (file.pretraining, (1, 1, 0)),
        **_attacks(study),
        **_defenses(study),
        **_detectors(study),
        **{f"persistence.{n}": (one.training, (1, 1, 0)) for n, one in _adaptations(study, projection=False)},
    }
    found = activation_memory.steps(file.model, own)
    for kind, models in (("surrogates", file.surrogates), ("population", file.further_clean)):
        for name, other in models.items():
            found |= activation_memory.steps(
                other.model, {f"{kind}.{name}.pretraining": (other.pretraining, (1, 1, 0))}
            )
    return found


def encodings(study: Study) -> dict[str, float]:
    """Return the bytes of the largest pass of every job that encodes with a network it does not train, by key."""
    file, classes = study.file, len(study.classes)
    config, scored = model_config(file.model.name), study.evaluated
    prompts = Held(texts=CLASSES * len(study.templates), gradients=False)
    jobs: dict[str, Sequence[Held]] = {}
    for name, settings in study.defenses.items():
        kind = method("defense", settings.method)
        jobs[f"defenses.{name}"] = () if kind.fits(config) else kind.held(settings, config, classes)
    for name, settings in study.detectors.items():
        kind = method("detector", settings.method)
        if not (kind.not_estimated or kind.control):
            jobs[f"detectors.{name}"] = _detecting(kind, settings, study.size)
    for name, one in _adaptations(study, projection=True):
        share = -(-one.training.batch_size // one.training.accumulate)
        jobs[f"persistence.{name}"] = (Held(share, share, gradients=False, precision=one.training.precision),)
    jobs["evaluation"] = Held(scored.batch_size, gradients=False, precision=scored.precision), prompts
    found = activation_memory.passes(file.model, jobs)
    for name, settings in study.attacks.items():
        if isinstance(settings, Victim):
            held = (_victim(settings, config, classes),)
            found |= activation_memory.passes(file.model, {f"attacks.{name}.victim": held})
        fitted_on = _fitted_on(study, settings)
        if fitted_on and not method("attack", settings.method).not_estimated:
            fit = Held(getattr(settings, "batch_size", WITHOUT_BATCH)), Held(ENCODED, gradients=False), prompts
            found |= activation_memory.passes(fitted_on, {f"attacks.{name}.fit": fit})
    return found


def not_estimated(study: Study) -> dict[str, str]:
    """Return the reason for each attack, defense or detector that computes and has no estimate, by key."""
    config = model_config(study.file.model.name)
    found = {}
    for name, settings in study.attacks.items():
        kind = method("attack", settings.method)
        if kind.not_estimated:
            found[f"attacks.{name}.fit"] = kind.not_estimated
        elif kind.learned and kind.on_surrogate and _fitted_on(study, settings) is None:
            found[f"attacks.{name}.fit"] = "is fitted on a model folder"
    for name, settings in study.defenses.items():
        kind = method("defense", settings.method)
        if reason := kind.fits(config):
            found[f"defenses.{name}"] = f"is not run: {reason}"
        elif not settings.recipes() and not kind.held(settings, config, len(study.classes)):
            found[f"defenses.{name}"] = "neither trains nor encodes"
    reasons = {f"detectors.{n}": method("detector", s.method).not_estimated for n, s in study.detectors.items()}
    return found | {key: reason for key, reason in reasons.items() if reason}


def too_large(study: Study, memory: float) -> list[str]:
    """Return a line for each job with a step or a pass of more than `memory` bytes."""
    lines = activation_memory.too_large(trainings(study), memory)
    return lines + activation_memory.too_large(encodings(study), memory, ENCODING)


def _attacks(study: Study) -> dict[str, tuple[TrainSettings, Views]]:
    """Return the recipes that attacks change, or have of their own."""
    changed = {n: s for n, s in study.attacks.items() if s.training and not study.few_shot(n)}
    return {
        f"attacks.{n}.training": (recipe, method("attack", s.method).step_views(s, recipe))
        for n, s in changed.items()
        for recipe in [study.poisoning(n)]
    }


def _defenses(study: Study) -> dict[str, tuple[TrainSettings, Views]]:
    config, found = model_config(study.file.model.name), {}
    for name, settings in study.defenses.items():
        kind = method("defense", settings.method)
        if not kind.fits(config):
            recipes = settings.recipes().items()
            found |= {f"defenses.{name}.{key}": (one, kind.step_views(settings, one)) for key, one in recipes}
    return found


def _detectors(study: Study) -> dict[str, tuple[TrainSettings, Views]]:
    """Return the recipes of detectors, which train a copy of the model."""
    found = {}
    for name, settings in study.detectors.items():
        kind = method("detector", settings.method)
        recipes = {key: value for key, value in settings if isinstance(value, TrainSettings)}
        found |= {f"detectors.{name}.{key}": (one, kind.step_views(settings, one)) for key, one in recipes.items()}
    return found


def _detecting(kind: type[Detector], settings: Any, size: int) -> tuple[Held, ...]:
    """Return the passes of a detector: searches that are run at once, single pictures, or features alone."""
    if hasattr(settings, "together"):
        each = getattr(settings, "batch_size", None) or settings.starts
        return Held(each * at_once(settings.together, each, size)), Held(ENCODED, gradients=False)
    return Held(BATCH, gradients=kind.gradients), Held(ENCODED, gradients=False)


def _victim(settings: Victim, config: Mapping[str, Any], classes: int) -> Held:
    """Return the largest pass of who trains on the support set; prompts are learned for all classes at once."""
    if settings.victim == "linear_probe":
        return Held(ENCODED, gradients=False)
    return Held(texts=classes * full_length(settings.victim_training.context, config))


def _adaptations(study: Study, projection: bool) -> Iterable[tuple[str, Any]]:
    """Return adaptations by name; those of the projections alone keep no activations. LoRA counts as all weights."""
    settings = study.file.persistence
    every = settings.adaptations.items() if settings else ()
    return [(name, one) for name, one in every if (one.kind == "projection") == projection]


def _fitted_on(study: Study, settings: AttackSettings) -> ModelSettings | None:
    """Return the model that a trigger is fitted on; None for no such model, or a model folder."""
    kind, name = method("attack", settings.method), settings.fitted_on()
    if not (kind.learned and kind.on_surrogate):
        return None
    if name == "clean":
        return study.file.model
    return study.file.surrogates[name].model if name in study.file.surrogates else None

"""The cells of a study's matrix that can be run: attacks against defenses, and detectors on models under test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from antidote.base.registry import DETECTORS, method
from antidote.clip.known import model_config
from antidote.data.access import GRANTS, POOLS
from antidote.detectors.base import DetectorSettings, Subject
from antidote.study.sweeps import Entry

if TYPE_CHECKING:
    from antidote.attacks.base import AttackSettings
    from antidote.defenses.base import DefenseSettings


def few_shot(attack: AttackSettings) -> bool:
    """Return whether an attack changes a few-shot support set, over a clean encoder."""
    return method("attack", attack.method).threat_model == "few-shot"


def poisons(attack: AttackSettings) -> bool:
    """Return whether an attack puts poisoned pairs into the training set of the model."""
    return not few_shot(attack) and not method("attack", attack.method).trains


def blank(
    model: str, attacks: dict[str, AttackSettings], defenses: dict[str, DefenseSettings]
) -> list[tuple[str, str, str]]:
    """Return (attack, defense, reason) of each cell that cannot be run; `model` is the name in open_clip."""
    config = model_config(model)
    reasons = {name: method("defense", entry.method).fits(config) for name, entry in defenses.items()}
    unfit = {name: f"{model}: {reason}" for name, reason in reasons.items() if reason}
    return [
        (attack, defense, reason)
        for attack in attacks
        for defense in defenses
        if (reason := unfit.get(defense) or _out_of_reach(attacks[attack], defense, defenses[defense]))
    ]


def _out_of_reach(attack: AttackSettings, name: str, defense: DefenseSettings) -> str | None:
    """Return the reason why a defense does not apply to an attack: the attack did not change the defense's input."""
    if few_shot(attack) and name != "none":
        return f"{attack.method}: the backdoor is in a few-shot classifier, not in the CLIP"
    owns = "training" in POOLS.get(method("defense", defense.method).access, ())
    return _no_training_set(attack) if owns else None


def _no_training_set(attack: AttackSettings) -> str | None:
    """Return the reason why the study has no poisoned training set of an attack's model; None if it has."""
    if attack.checkpoint is not None and poisons(attack):
        return "the model is loaded from `checkpoint`, and its training set is not known"
    return None if poisons(attack) else f"{attack.method} poisons no training set"


def subject(detector: DetectorSettings) -> Subject:
    """Return the subject that an entry of `detectors` scores."""
    return method("detector", detector.method).subject_of(detector)


def with_controls(detectors: dict[str, DetectorSettings]) -> dict[str, DetectorSettings]:
    """Return the detectors and, for each of their subjects, the controls that the study does not name.

    The name of an added control is made from method and subject: `random_pairs`, `oracle_pairs`.

    Raises:
        ValueError: another entry has the name of a control; the message begins with the name.
    """
    found = dict(detectors)
    if not found:
        return {}  # return early: no method needs to be imported
    there = {(entry.method, subject(entry)) for entry in detectors.values()}
    for name in (name for name in DETECTORS if method("detector", name).control):
        for scored in dict.fromkeys(subject(entry) for entry in detectors.values()):
            if (name, scored) in there:
                continue
            own = f"{name}_{scored}"
            if own in detectors:
                raise ValueError(f"{own}: is the name of a control; name the entry otherwise")
            found[own] = method("detector", name).Settings(subject=scored)
    return found


def models_scored(names: list[str], defenses: list[Entry]) -> list[str]:
    """Return the defenses on whose models detectors run; the name of a sweep selects all its values.

    Raises:
        KeyError: a name is not an entry of `defenses`; the exception holds the name.
    """
    by_name: dict[str, list[str]] = {}
    for entry in defenses:
        by_name[entry.name] = [entry.name]
        if entry.sweep:
            by_name.setdefault(entry.sweep, []).append(entry.name)
    return list(dict.fromkeys(defense for name in names for defense in by_name[name]))


def cells_scored(cells: list[tuple[str, str]], names: list[str], defenses: list[Entry]) -> list[tuple[str, str]]:
    """Return the cells (attack, defense) on whose models detectors run; arguments as of `models_scored`."""
    models = models_scored(names, defenses)
    return [cell for cell in cells if cell[1] in models]


def models_adapted(names: list[str] | None, defenses: list[Entry]) -> list[str]:
    """Return the defenses whose models are adapted: the named ones and `none`; all for None.

    Raises:
        KeyError: as `models_scored`.
    """
    return [entry.name for entry in defenses] if names is None else models_scored(["none", *names], defenses)


def defends_clean(defense: DefenseSettings) -> bool:
    """Return whether a defense can be run on the clean reference: a defense of the poisoned training set cannot."""
    return "training" not in POOLS.get(method("defense", defense.method).access, ())


def scores(attack: AttackSettings, detector: DetectorSettings) -> bool:
    """Return whether a detector has a subject to score after an attack."""
    return unscored(attack, detector) is None


def unscored(attack: AttackSettings, detector: DetectorSettings) -> str | None:
    """Return the reason why a detector has nothing to score after an attack; None if it has.

    Every attack leaves a model. Pairs are scored only if the attack poisons the training set of the model, and pictures
    only if the attack has a trigger that acts through the picture alone, since users classify by plain prompts.
    """
    owns = GRANTS[method("detector", detector.method).access].training_set
    if owns or subject(detector) == "pairs":
        reason = _no_training_set(attack)
        if reason:
            return reason
    if subject(detector) != "pictures":
        return None
    kind = method("attack", attack.method)
    if not kind.triggered:
        return f"{attack.method} draws no trigger on a picture"
    if kind(attack, target="", size=0).text_key:
        return f"{attack.method} also needs its text before the prompts, and users classify pictures by plain prompts"
    return None


def unsuited(defense: DefenseSettings, detector: DetectorSettings) -> str | None:
    """Return the reason why a detector does not support the models that a defense makes; None if it does."""
    adapter = method("defense", defense.method).adapter
    reason = method("detector", detector.method).suits(method("adapter", adapter)) if adapter else None
    return f"{detector.method} {reason}" if reason else None


def detections(
    cells: list[tuple[str, str]],
    attacks: dict[str, AttackSettings],
    defenses: dict[str, DefenseSettings],
    detectors: dict[str, DetectorSettings],
) -> list[tuple[str, str, str]]:
    """Return (attack, defense, detector) of each detection on the models of `cells` that can be run."""
    return [
        (attack, defense, name)
        for attack, defense in cells
        for name, detector in detectors.items()
        if scores(attacks[attack], detector) and not unsuited(defenses[defense], detector)
    ]


def unsuited_cells(
    cells: list[tuple[str, str]], defenses: dict[str, DefenseSettings], detectors: dict[str, DetectorSettings]
) -> list[tuple[str, str, str, str]]:
    """Return (attack, defense, detector, reason) of each detection on the models of `cells` that cannot be run."""
    return [
        (attack, defense, name, reason)
        for attack, defense in cells
        for name, detector in detectors.items()
        if (reason := unsuited(defenses[defense], detector))
    ]


def unscored_cells(
    attacks: dict[str, AttackSettings], detectors: dict[str, DetectorSettings]
) -> list[tuple[str, str, str]]:
    """Return (attack, detector, reason) of each detection that cannot be run on any model under test."""
    return [
        (attack, name, reason)
        for attack in attacks
        for name, detector in detectors.items()
        if (reason := unscored(attacks[attack], detector))
    ]

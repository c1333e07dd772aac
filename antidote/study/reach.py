"""What of a study's matrix can be run: attacks against defenses, and detectors on the models under test."""

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
    """Tell whether an attack is one on a support set, with a clean encoder under it."""
    return method("attack", attack.method).threat_model == "few-shot"


def poisons(attack: AttackSettings) -> bool:
    """Tell whether an attack leaves poisoned pairs in the training set of the model."""
    return not few_shot(attack) and not method("attack", attack.method).trains


def blank(
    model: str, attacks: dict[str, AttackSettings], defenses: dict[str, DefenseSettings]
) -> list[tuple[str, str, str]]:
    """Return the cells that cannot be run: attack, defense, reason; `model` is open_clip's name."""
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
    """Return why a defense cannot meet an attack: what it works on is not what the attacker touched."""
    if few_shot(attack) and name != "none":
        return f"{attack.method}: the backdoor is in a few-shot classifier, not in the CLIP"
    owns = "training" in POOLS.get(method("defense", defense.method).access, ())
    return f"{attack.method} poisons no training set" if owns and not poisons(attack) else None


def subject(detector: DetectorSettings) -> Subject:
    """Return what an entry of the detectors scores."""
    return method("detector", detector.method).subject_of(detector)


def with_controls(detectors: dict[str, DetectorSettings]) -> dict[str, DetectorSettings]:
    """Return the detectors and, of every subject that they have, the controls that are not among them.

    An added control is named after its method and the subject: `random_pairs`, `oracle_pairs`.

    Raises:
        ValueError: another entry has the name of a control; begins with the name.
    """
    found = dict(detectors)
    if not found:
        return {}  # and no method is imported
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
    """Return the defenses whose models detectors run on; the name of a sweep stands for all its values.

    Raises:
        KeyError: a name is no entry's; holds the name.
    """
    by_name: dict[str, list[str]] = {}
    for entry in defenses:
        by_name[entry.name] = [entry.name]
        if entry.sweep:
            by_name.setdefault(entry.sweep, []).append(entry.name)
    return list(dict.fromkeys(defense for name in names for defense in by_name[name]))


def scores(attack: AttackSettings, detector: DetectorSettings) -> bool:
    """Tell whether a detector has something to score where an attack was: of models any, poisoned pairs, or pictures.

    A model is there after every attack; poisoned pairs where the attack leaves some in the training set; triggered
    pictures where there is a trigger to draw.
    """
    owns = GRANTS[method("detector", detector.method).access].training_set
    if (owns or subject(detector) == "pairs") and not poisons(attack):
        return False
    return subject(detector) != "pictures" or method("attack", attack.method).triggered

"""The part of a study that each job depends on, as canonical JSON. Changes outside the slice cause no rerun."""

from __future__ import annotations

import json
import os
from typing import Any

from antidote.attacks.base import AttackSettings
from antidote.attacks.victim import Victim
from antidote.base.files import sha256
from antidote.base.registry import method
from antidote.clip.configs import ModelSettings
from antidote.data.pools import Pool, PoolsSettings, Shots
from antidote.study.layout import PUBLISHED
from antidote.study.models import initial_model
from antidote.study.reach import unscored_cells, unsuited_cells
from antidote.study.study import Study
from antidote.training.recipe import TrainSettings


def json_slice(values: Any) -> str:
    """Return values as canonical JSON: equal settings give equal text."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def text_argument(text: str) -> str:
    """Encode text for a command line as UTF-8 bytes, also in a locale without UTF-8.

    `antidote.base.command_line.text` decodes the argument. In a UTF-8 locale the text is unchanged.
    """
    return os.fsdecode(text.encode())


def dataset_slice(study: Study, dataset: str, split: str) -> str:
    """Return the definition of a dataset with only one split: changes of other splits do not affect the job.

    The lexicon of the text methods and the download settings are left out for the same reason.
    """
    return _split_slice(study, dataset, split, {"lexicon", "download"})


def download_slice(study: Study, dataset: str, split: str) -> str:
    """Return the definition of a dataset with only one split, without the settings that apply after the download."""
    intake = {"classes", "templates", "terms", "pairs_per_shard", "expected", "accepted_skip_share", "seed"}
    return _split_slice(study, dataset, split, {"lexicon", *intake})


def _split_slice(study: Study, dataset: str, split: str, others: set[str]) -> str:
    values = study.sources[dataset].model_dump(mode="json", exclude=others)
    return json_slice({**values, "splits": {split: values["splits"][split]}})


def drawn_with(settings: PoolsSettings, name: str) -> dict[str, Pool | Shots]:
    """Return the pools that determine one pool's pairs, itself included, in the order in which its job draws them.

    A pool that is drawn later counts with its captions of the target alone; other later pools are left out.
    """
    pools = settings.pools()
    # The job reads the settings as canonical JSON, in which the further pools are sorted by name.
    order = [*(other for other in pools if other not in settings.further), *sorted(settings.further)]
    kept: dict[str, Pool | Shots] = {}
    for place, other in enumerate(order):
        pool = pools[other]
        if settings.place(pool) != settings.place(pools[name]):
            continue
        if place <= order.index(name) or isinstance(pool, Shots):
            kept[other] = pool
        elif pool.target_pairs:
            kept[other] = pool.model_copy(update={"pairs": pool.guaranteed})
    return kept


def pool_slice(study: Study, name: str) -> str:
    """Return the settings that one pool depends on: its own and those of pools that draw from the split earlier.

    `data.pools.choose` assigns scarce pairs first (shots, then captions with the target), then the pools in order.
    """
    settings = study.file.pools
    kept: dict[str, Any] = {}
    for other, pool in drawn_with(settings, name).items():
        values = pool.model_dump(mode="json")
        if values.get("without", "") is None:  # pools that leave nothing out keep the settings they had before the key
            del values["without"]
        kept[other] = values
    if "training" not in kept:  # needed for the default dataset and split; its size does not matter here
        dataset, split = settings.place(settings.training)
        kept["training"] = {"dataset": dataset, "split": split, "pairs": 1}
    further = {pool: kept.pop(pool) for pool in settings.further if pool in kept}
    return json_slice({"seed": settings.seed, **kept, **({"further": further} if further else {})})


def pool_target(study: Study, name: str) -> str | None:
    """Return the word that captions of the pool, or of a pool of the same split, must mention; None by default."""
    settings = study.file.pools
    pools = settings.pools()
    same = [pool for pool in pools.values() if settings.place(pool) == settings.place(pools[name])]
    return (
        text_argument(study.file.target)
        if any(isinstance(pool, Pool) and None in pool.words(None) for pool in same)
        else None
    )


def training_slice(model: ModelSettings, training: TrainSettings, attack: AttackSettings | None = None) -> str:
    """Return the initial model and a recipe; the start weights are inputs of the job and not part of the slice.

    For an attack that trains the model with its own objective, the slice includes the settings of the attack.
    """
    recipe = training.model_dump(mode="json", include=set(TrainSettings.model_fields))
    alternate = {"alternate": True} if getattr(training, "alternate", False) else {}
    own = {"attack": attack.trigger_settings()} if attack and method("attack", attack.method).trains else {}
    return json_slice({"model": model.model_dump(mode="json"), "training": recipe, **alternate, **own})


def backdoor_slice(study: Study, attack: str) -> str:
    """Return the initial model and the recipe of the backdoored model of an attack on the training set or the training.

    Args:
        attack: entry of the study; not a few-shot attack.
    """
    settings = study.attacks[attack]
    return training_slice(initial_model(study.file.model, settings), study.poisoning(attack), settings)


def victim_slice(attack: AttackSettings) -> str:
    """Return the settings of the user's training under a few-shot attack."""
    return json_slice(attack.model_dump(mode="json", include=set(Victim.model_fields)))


def adaptation_slice(study: Study, name: str) -> str:
    """Return the settings of one adaptation and of its measurements."""
    values = study.file.persistence.adaptations[name].model_dump(mode="json")
    return json_slice({"adaptation": values, "evaluation": json.loads(study.evaluated.zero_shot().slice())})


def summary_plan(study: Study) -> str:
    """Return the matrix and the facts that the tables need."""
    attacks = [
        {
            "name": name,
            "method": settings.method,
            "label": settings.label or name,
            "threat_model": method("attack", settings.method).threat_model,
            "poisons": settings.poisons,
            "score": method("attack", settings.method).score,
            "triggered": method("attack", settings.method).triggered,
            **({"fitted": True} if fitted_on_clean(settings) else {}),
            **_figures(settings.method),
            **({"settings": _words(settings)} if study.file.track else {}),
        }
        for name, settings in study.attacks.items()
    ]
    swept = {entry.name: {"sweep": entry.sweep, "setting": entry.setting} for entry in study.entries["defense"]}
    defenses = [
        {
            "name": name,
            "method": settings.method,
            "label": settings.label or name,
            "access": method("defense", settings.method).access,
            "reconstruction": method("defense", settings.method).reconstruction,
            **(swept[name] if swept[name]["sweep"] else {}),
        }
        for name, settings in study.defenses.items()
    ]
    return json_slice(
        {
            "study": study.name,
            "target": study.file.target,
            "model": study.file.model.name,
            "seeds": study.file.seeds,
            "attacks": attacks,
            "defenses": defenses,
            "blank": [{"attack": a, "defense": d, "reason": reason} for a, d, reason in study.blank],
            "gate": study.file.gate.model_dump(),
            "datasets": sorted(study.splits()),
            "scored": sorted({(part.dataset, part.split, study.fit(part)) for part in study.scored()}),
            "accuracy_budget": study.file.accuracy_budget,
            **_persistence(study),
            **_detections(study),
            **_track(study),
        }
    )


def _persistence(study: Study) -> dict[str, Any]:
    """Return the adaptations, the cells they are run on, and the margin; {} for a study without persistence."""
    settings = study.file.persistence
    if settings is None:
        return {}
    facts = [{"name": name, "kind": one.kind, "pool": one.source} for name, one in settings.adaptations.items()]
    return {
        "adaptations": facts,
        "adapted": study.adapted,
        "clean_defenses": study.clean_defenses,
        "revival_margin": settings.margin,
    }


def _track(study: Study) -> dict[str, Any]:
    """Return the track and the hash of the published figures, which the report then shows; {} without a track."""
    if study.file.track is None:
        return {}
    return {"track": str(study.file.track), "published": sha256(PUBLISHED)}


def _words(settings: AttackSettings) -> dict[str, str]:
    """Return the settings that are words, by which a published figure is assigned to an entry."""
    return {key: value for key, value in settings.model_dump().items() if isinstance(value, str)}


def _detections(study: Study) -> dict[str, Any]:
    """Return the detectors and their detections; {} for a study without detectors."""
    if not study.detectors:
        return {}
    detectors = []
    for name, settings in study.detectors.items():
        kind = method("detector", settings.method)
        facts = {"method": settings.method, "label": settings.label or name, "subject": kind.subject_of(settings)}
        facts |= {"access": kind.access, "control": kind.control or "", "reconstruction": kind.reconstruction}
        detectors.append({"name": name, **facts})
    rate = study.file.detect_false_positives
    found = {"detectors": detectors, "detections": study.detections, "detect_false_positives": rate}
    adaptive = [(attack, name) for attack, names in study.file.detect_adaptive.items() for name in names]
    found |= {"adaptive": adaptive} if adaptive else {}
    unscored = [
        {"attack": attack, "detector": name, "reason": reason}
        for attack, name, reason in unscored_cells(study.attacks, study.detectors)
    ]
    unscored += [
        {"attack": attack, "defense": defense, "detector": name, "reason": reason}
        for attack, defense, name, reason in unsuited_cells(study.scored_cells, study.defenses, study.detectors)
    ]
    found |= {"unscored": unscored} if unscored else {}
    return {**found, **({"population": [*study.file.further_clean]} if study.file.population else {})}


def fitted_on_clean(settings: AttackSettings) -> bool:
    """Return whether an attack's trigger is fitted on the clean reference, where the floor is measured too."""
    kind = method("attack", settings.method)
    fitted = kind.learned and kind.on_surrogate and kind.fitted and kind.triggered
    return fitted and settings.fitted_on() == "clean"


def _figures(attack: str) -> dict[str, Any]:
    """Return the attack's own figures for the summary; {} without any."""
    found = [{"name": name, **figure._asdict()} for name, figure in method("attack", attack).figures.items()]
    return {"figures": found} if found else {}

"""The work of a study's jobs: pairs that a job trains on, counted once per epoch, and pictures that the job encodes.

The estimate before a run converts these amounts into hours. The workflow starts the longest defense, detector or
adaptation first.
"""

from __future__ import annotations

import math
from typing import Any

from antidote.base.registry import method
from antidote.data.access import POOLS
from antidote.study.checks import pool_sizes
from antidote.study.data_jobs import matrix
from antidote.study.study import Study

TRAINED_AS_ENCODED = 3  # a training step is a forward and a backward pass, which takes twice as long
MOST = 130  # ten times the logarithm of the work of a job, at most: 10^13 pictures


def amounts(study: Study) -> dict[str, dict[str, float]]:
    """Return trained pairs and encoded pictures of all jobs by stage; stages without either are left out."""
    seeds, sizes = len(study.file.seeds), sizes_of(study)
    recipe, pairs, scored = study.file.pretraining, sizes["training set"], sizes["looks"]
    further = sum(model.pretraining.epochs for model in study.file.surrogates.values())
    poisoned = sum(study.poisoning(a).epochs for a in study.attacks if not study.few_shot(a))
    defended = [work for attack in study.attacks for work in _defending_one_by_one(study, attack, sizes)]
    fits = [fitting(study, attack, sizes) for attack in study.attacks]
    found = {
        "clean_model": {"trained": seeds * recipe.epochs * pairs},
        "surrogate_model": {"trained": seeds * further * pairs},
        "trigger": {"trained": seeds * sum(t for t, _ in fits), "encoded": seeds * sum(e for _, e in fits)},
        "backdoored_model": {"trained": seeds * poisoned * pairs},
        "defend": {"trained": seeds * sum(t for t, _ in defended), "encoded": seeds * sum(e for _, e in defended)},
        "evaluate": {"encoded": scored * seeds * (len(study.cells) + len(study.attacks))},
    }
    detected = [detecting(study, name, sizes) for *_, name in study.detections]
    found["detect"] = {"trained": seeds * sum(t for t, _ in detected), "encoded": seeds * sum(e for _, e in detected)}
    clean = [defending(study, defense, sizes) for defense in study.clean_defenses]
    found["defend_clean"] = {"trained": seeds * sum(t for t, _ in clean), "encoded": seeds * sum(e for _, e in clean)}
    adapted = [adapting(study, name, sizes) for *_, name in study.adapted]
    controls = [adapting(study, name, sizes) for _, d, name in study.adapted if d in study.clean_defenses]
    for stage, jobs in (("persistence", adapted), ("persistence_clean", controls)):
        found[stage] = {"trained": seeds * sum(t for t, _ in jobs), "encoded": seeds * sum(e for _, e in jobs)}
    tested = [detecting(study, name, sizes) for name in matrix(study).on_clean]
    clean = seeds * len(study.file.further_clean)
    found["detect_population"] = {
        "trained": clean * sum(t for t, _ in tested),
        "encoded": clean * sum(e for _, e in tested),
    }
    return found


def adapting(study: Study, name: str, sizes: dict[str, int]) -> tuple[float, float]:
    """Return the pairs on which one adaptation trains, and the pictures that it encodes to measure the attack."""
    adaptation = study.file.persistence.adaptations[name]
    pairs, training = sizes[adaptation.source], adaptation.training
    steps = training.epochs * (pairs // training.batch_size)
    return training.epochs * pairs, 2 * sizes["first pictures"] * (math.ceil(steps / adaptation.every) + 1)


def sizes_of(study: Study) -> dict[str, int]:
    """Return the number of pairs of each pool, and of pictures.

    `looks` counts the pictures that one cell encodes for its scores, clean and triggered ones; `first pictures` the
    evaluation's own, and `shown pictures` those of a detector of pictures.
    """
    sizes = pool_sizes(study)
    sizes["training set"] = sum(sizes.get(name, 0) for name in POOLS["poisoned-training-set"])
    sizes["first pictures"] = pictures(study, study.evaluated)
    sizes["shown pictures"] = 2 * min(study.file.detect_pictures, sizes["first pictures"])
    sizes["looks"] = sum(part.looks * pictures(study, part) for part in study.evaluated.passes())
    return {"defense": 0, "inversion": 0, "poison": 0, "shots": 0, "classes": len(study.classes), **sizes}


def size_of(study: Study, dataset: str, split: str) -> int | None:
    """Return the number of pairs of a split, expected or as the dataset is defined; None if it is not known."""
    source = study.sources[dataset]
    return (source.expected or {}).get(split) or getattr(source.split(split), "pairs", None)


def pictures(study: Study, scored: Any) -> int:
    """Return the number of scored pictures of a split: from the settings or the dataset's expected or known size."""
    known = size_of(study, scored.dataset, scored.split) or 10_000
    return min(scored.pictures or known, known)


def fitting(study: Study, name: str, sizes: dict[str, int]) -> tuple[float, float]:
    """Return the pairs on which one job fits a trigger, and the further pictures that the job encodes."""
    settings = study.attacks[name]
    return method("attack", settings.method).work(settings, sizes)


def defending(study: Study, name: str, sizes: dict[str, int]) -> tuple[float, float]:
    """Return the pairs on which one job of a defense trains, and the further pictures that the job encodes."""
    settings = study.defenses[name]
    return method("defense", settings.method).work(settings, sizes)


def _defending_one_by_one(study: Study, attack: str, sizes: dict[str, int]) -> list[tuple[float, float]]:
    """Return the work of each defense of an attack's models if one runs after the other: a common part counts once."""
    found, before = [], []
    for name in (defense for one, defense in study.cells if one == attack):
        settings = study.defenses[name]
        kind = method("defense", settings.method)
        trained, encoded = defending(study, name, sizes)
        if (common := kind.common(settings)) is not None and common in before:
            less = kind.common_work(settings, sizes)
            trained, encoded = trained - less[0], encoded - less[1]
        before.append(common)
        found.append((trained, encoded))
    return found


def detecting(study: Study, name: str, sizes: dict[str, int]) -> tuple[float, float]:
    """Return the pairs on which one job of a detector trains, and the further pictures that the job encodes."""
    settings = study.detectors[name]
    return method("detector", settings.method).work(settings, sizes)


class LongestFirst:
    """Priorities of defenses, detectors and adaptations: the longer a job, the earlier, so that cores end together.

    A priority is a negative whole number; twice the work is three more. All other jobs have 0: those that others wait
    for, and short ones such as scores, so that a figure is there soon after its model.
    """

    def __init__(self, study: Study) -> None:
        self._study, self._sizes = study, sizes_of(study)

    def defense(self, w: Any) -> int:
        return _priority(defending(self._study, w.defense, self._sizes))

    def detector(self, w: Any) -> int:
        return _priority(detecting(self._study, w.detector, self._sizes))

    def adaptation(self, w: Any) -> int:
        return _priority(adapting(self._study, w.adaptation, self._sizes))


def _priority(amount: tuple[float, float]) -> int:
    trained, encoded = amount
    return min(-1, round(10 * math.log10(1 + TRAINED_AS_ENCODED * trained + encoded)) - MOST)

"""Checks of a study: its surrogates, the clean models that methods name, its adaptations, the sizes of batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from antidote.base.errors import UserError, nearest
from antidote.base.registry import method
from antidote.data.access import POOLS, TRAINING_SET
from antidote.study import reach
from antidote.study.file import PoisoningSettings
from antidote.study.layout import NAME, NO_DEFENSE
from antidote.study.models import check_pictures, check_public, picture_size
from antidote.training.recipe import TrainSettings


def check_together(study: Any) -> None:
    """Raise UserError if parts of a study that are valid by themselves do not fit one another."""
    check_evaluation(study)
    check_detections(study)
    check_adaptations(study)
    check_batches(study)


def check_surrogates(study: Any) -> None:
    """Raise UserError if a further clean model reads pictures of another size, or resized in another way than here."""
    for name, surrogate in study.file.surrogates.items():
        check_pictures(surrogate.model, f"{study.where}: surrogates.{name}.model")
        key = f"{study.where}: surrogates.{name}.model.name"
        if picture_size(surrogate.model.name, key) != study.size:
            raise UserError(
                f"{key}: {surrogate.model.name} reads pictures of another size than the study's "
                f"model, {study.size} pixels"
            )


def poisoning(common: PoisoningSettings, settings: Any, where: str) -> PoisoningSettings:
    """Return the recipe of an attack's model: the study's with the entry's changes.

    An attack with a loss of its own has a recipe of its own, and nothing from the study's.

    Raises:
        UserError: a value is not valid, or pictures are cropped or mirrored and the attack stores features of them.
    """
    own = method("attack", settings.method).trains
    recipe = PoisoningSettings.read({**({} if own else common.model_dump()), **settings.training}, where)
    if own and (recipe.crop_scale is not None or recipe.flip):
        raise UserError(f"{where}: crop_scale, flip: {settings.method} compares whole pictures; leave both out")
    return recipe


def check_evaluation(study: Any) -> None:
    """Raise UserError if models are scored on a split that a pool is drawn from, whose pairs they may have seen."""
    pools = study.file.pools
    drawn = {pools.place(pool): name for name, pool in pools.pools().items()}
    for key, part in study.file.evaluation.parts().items():
        place = part.dataset, part.split
        if part.held_out and place in drawn:
            raise UserError(
                f"{study.where}: {key}: {'/'.join(place)} is what pools.{pools.key(drawn[place])} is drawn from, and "
                "models would be scored on pairs that they were trained on; choose a split without pools"
            )


def check_scorer(study: Any, settings: Any, where: str) -> None:
    """Raise UserError if a defense or a detector names a clean model that does not exist."""
    scorer = settings.surrogate
    if scorer and scorer not in study.file.surrogates:
        wrong = f"surrogates has no {scorer!r}{nearest(scorer, study.file.surrogates)}"
        raise UserError(f"{where}.scorer: {wrong}")
    check_public(settings.public, f"{where}.scorer")


def check_detections(study: Any) -> None:
    """Raise UserError if a detector cannot run, or if a detector or an adaptive attack does not exist.

    A detector cannot run without a model, or on a model of too few classes; its jobs would fail after all trainings.
    """
    for name, settings in study.detectors.items():
        reason = method("detector", settings.method).too_few(len(study.classes))
        if reason:
            raise UserError(f"{study.where}: detectors.{name}: {reason}; leave {name} out")
        subject = reach.subject(settings)
        if not study.file.detect_on and subject != "model":
            raise UserError(
                f"{study.where}: detect_on: is empty, and {name}, a detector of {subject}, runs on the models that it "
                "lists; name entries of defenses, or leave the key out for `none`"
            )
    for attack, detectors in study.file.detect_adaptive.items():
        where = f"{study.where}: detect_adaptive"
        if attack not in study.attacks:
            raise UserError(f"{where}: {attack!r} is no entry of attacks{nearest(attack, study.attacks)}")
        for name in detectors:
            if name not in study.detectors:
                wrong = f"{name!r} is no entry of detectors{nearest(name, study.detectors)}"
                raise UserError(f"{where}.{attack}: {wrong}")


def check_adaptations(study: Any) -> None:
    """Raise UserError if an adaptation has a bad name, or the adaptations name an unknown pool or defense."""
    settings, pools = study.file.persistence, study.file.pools.pools()
    for name, adaptation in settings.adaptations.items() if settings else ():
        where = f"{study.where}: persistence.adaptations.{name}"
        if "." in name or not NAME.fullmatch(name):
            raise UserError(f"{where}: the name may hold letters, digits, _ -")
        pool = adaptation.source
        if pool not in pools:
            missing = f"pools has no {pool!r}{nearest(pool, pools)}"
            raise UserError(f"{where}.pool: {missing}; further pools are defined under pools.further")
    try:
        reach.models_adapted(settings.defenses if settings else None, study.entries["defense"])
    except KeyError as error:
        wrong = f"{error.args[0]!r} is no entry of defenses{nearest(error.args[0], study.defenses)}"
        raise UserError(f"{study.where}: persistence.defenses: {wrong}") from None


def check_batches(study: Any) -> None:
    """Raise UserError if a recipe's batch holds more pairs than the pools that are trained on; its job would fail.

    A method may train on a part of the pools alone, which is found out in its job.
    """
    pools, sizes = study.file.pools, pool_sizes(study)
    for key, recipe, names in _trainings(study):
        held = sum(sizes.get(name, 0) for name in names)
        if names and recipe.epochs and recipe.batch_size > held:
            told = " and ".join(f"pools.{pools.key(name)}" for name in names if name in sizes)
            raise UserError(
                f"{study.where}: {key}.batch_size: {recipe.batch_size} is more than the {held} pairs of {told}"
            )


def pool_sizes(study: Any) -> dict[str, int]:
    """Return the number of pairs of each pool that the study has, of shots the number of pictures."""
    pools = study.file.pools
    shots = {"shots": pools.shots.per_class * len(study.classes)} if pools.shots else {}
    return {name: getattr(pool, "pairs", 0) for name, pool in pools.pools().items()} | shots


def _trainings(study: Any) -> Iterator[tuple[str, TrainSettings, Sequence[str]]]:
    """Yield every recipe that a job of the study trains by: its key, the recipe, and the pools of its pairs."""
    file = study.file
    yield "pretraining", file.pretraining, TRAINING_SET
    for name, surrogate in file.surrogates.items():
        key = "population" if name in file.further_clean else f"surrogates.{name}"
        yield f"{key}.pretraining", surrogate.pretraining, TRAINING_SET
    for name, recipe in study.recipes.items():
        own = "batch_size" in study.attacks[name].training
        yield f"attacks.{name}.training" if own else "poisoning", recipe, TRAINING_SET
    for name in dict.fromkeys([*(defense for _, defense in study.cells), *study.clean_defenses]):
        settings = study.defenses[name]
        for key, recipe in settings.recipes().items():
            yield f"defenses.{name}.{key}", recipe, POOLS.get(method("defense", settings.method).access, ())
    for name in dict.fromkeys(detector for *_, detector in study.detections):
        settings = study.detectors[name]
        access = method("detector", settings.method).access
        names = TRAINING_SET if reach.subject(settings) == "pairs" else POOLS.get(access, ())
        for key, recipe in settings:
            if isinstance(recipe, TrainSettings):
                yield f"detectors.{name}.{key}", recipe, names
    for name, adaptation in file.persistence.adaptations.items() if file.persistence else ():
        yield f"persistence.adaptations.{name}.training", adaptation.training, (adaptation.source,)


def not_run(study: Any) -> list[str]:
    """Return a line for each reason for which cells of the matrix are not run, with the defenses and the attacks.

    A sweep has one name.
    """
    sweep = {entry.name: entry.sweep or entry.name for entry in study.entries["defense"]}
    attacks: dict[tuple[str, str], list[str]] = {}
    for attack, defense, reason in study.blank:
        mine = attacks.setdefault((sweep[defense], reason), [])
        mine += [attack] if attack not in mine else []
    defenses: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (defense, reason), names in attacks.items():
        defenses.setdefault((reason, tuple(names)), []).append(defense)
    nowhere = {one for (_, names), mine in defenses.items() if len(names) == len(study.attacks) for one in mine}
    lines = []
    for (reason, names), mine in defenses.items():
        on = "" if len(names) == len(study.attacks) else f" on {', '.join(names)}"
        rest = {*sweep.values()} - {NO_DEFENSE, *nowhere}
        all_of_them = "every other defense" if nowhere else "every defense"
        lines.append(f"{all_of_them if on and rest <= {*mine} else ', '.join(mine)}{on}: {reason}")
    return lines

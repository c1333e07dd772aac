"""Checks of a study: its surrogates, the clean models that methods name, its adaptations."""

from __future__ import annotations

from typing import Any

from antidote.base.errors import UserError, nearest
from antidote.study import reach
from antidote.study.layout import NAME
from antidote.study.models import check_pictures, check_public, picture_size


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


def check_scorer(study: Any, settings: Any, where: str) -> None:
    """Raise UserError if a defense or a detector names a clean model that does not exist."""
    scorer = settings.surrogate
    if scorer and scorer not in study.file.surrogates:
        wrong = f"surrogates has no {scorer!r}{nearest(scorer, study.file.surrogates)}"
        raise UserError(f"{where}.scorer: {wrong}")
    check_public(settings.public, f"{where}.scorer")


def check_adaptive(study: Any) -> None:
    """Raise UserError if an adaptive attack, or a detector that such an attack is made against, does not exist."""
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

"""Which detectors a command can run, and which defenses: names for the help, and one line for a wrong name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError
from antidote.base.registry import DETECTORS, method
from antidote.detectors.base import Detector

if TYPE_CHECKING:
    from antidote.clip.model import Clip
    from antidote.data.access import DefenseData
    from antidote.defenses.base import Defense, DefenseSettings

CONTROLS = ("random", "oracle")  # of studies: at random, and by the truth


def detectors(subject: str) -> list[str]:
    """Return the names of the detectors of a subject, model or pictures; pairs: those that need the pairs alone."""
    kinds = {name: method("detector", name) for name in DETECTORS if name not in CONTROLS}
    scores = lambda kind: kind.subject == subject and (subject != "pairs" or kind.access == "nothing")
    return [name for name, kind in kinds.items() if scores(kind)]


def detector_of(subject: str, name: str, option: str = "--detector") -> type[Detector]:
    """Return the class of a detector of a subject.

    Raises:
        UserError: there is no such detector, or it scores another subject, or from more than a command has.
    """
    known = detectors(subject)
    if name not in known:
        reason = "is unknown" if name not in DETECTORS else f"does not score {OBJECTS[subject]}"
        raise UserError(f"{option}: {name!r} {reason}; known: {', '.join(known) or 'none'}")
    return method("detector", name)


def check(kind: type[Defense | Detector], settings: Any, clip: Clip) -> None:
    """Raise UserError if the method or a setting does not fit the model."""
    reason = kind.fits(clip.config["model_cfg"])
    if not reason and issubclass(kind, Detector):
        reason = kind.suits(type(clip))
    if reason:
        raise UserError(f"{settings.method}: does not fit this model: it {reason}")
    if settings.surrogate:
        raise UserError(f"{settings.method}: scores by a model of a study; run it in a study")
    try:
        settings.check(clip.config["model_cfg"])
    except ValueError as error:
        raise UserError(f"{settings.method}: {error}") from None


def check_batches(settings: DefenseSettings, data: DefenseData) -> None:
    """Raise UserError if a batch of a defense holds more than what is given, before anything is measured."""
    given = next((pool for pool in (data.pairs, data.shots) if pool is not None), None)
    for key, recipe in settings.recipes().items() if given is not None else ():
        if recipe.epochs and recipe.batch_size > len(given):
            option, fitting = "--shots" if data.pairs is None else "--pairs", f"--set {key}.batch_size={len(given)}"
            raise UserError(
                f"{settings.method}: {key}.batch_size: {recipe.batch_size} is more than the {len(given)} pairs of "
                f"{option}; give more, or {fitting} or less"
            )


OBJECTS = {"model": "models", "pictures": "pictures", "pairs": "pairs alone"}

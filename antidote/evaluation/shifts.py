"""Scores on shifted domains: the same model and trigger on sets of other pictures, one in memory at a time.

Pictures are classified into all of the evaluation's classes, or only into the classes that the set shows (ImageNet-A
and -R: 200 of 1000). A set may number classes by labels of its own; its class names relate them to the evaluation's.
Several shifts that name the same pictures share one pass over these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from antidote.base.errors import UserError, nearest
from antidote.base.lazy import torch
from antidote.data.pairs import Pairs
from antidote.evaluation.base import Inputs, Measure, ScoredSet, ZeroShotSettings
from antidote.evaluation.metrics import Ranks, generalisation, hits, joined, ranks
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import batches, class_scores, encode

if TYPE_CHECKING:
    from torch import Tensor


class Shift(ScoredSet, Measure):
    """Pictures of the same classes, or of some of them, from another domain."""

    classes: str | None = Field(
        None,
        description="names of the classes that its labels count, all among the evaluation's; the dataset's own by "
        "default, and where it has none the evaluation's",
    )
    among: Literal["all", "own"] = Field(
        "all",
        description="classified among all classes of the evaluation, or among those that the whole set shows "
        "(ImageNet-A and -R: 1000-way or 200-way)",
    )

    columns: ClassVar = ("ca1_{name}", "asr1_{name}", "asr_g_{name}")
    floors: ClassVar = {"asr1_": "floor_"}

    @classmethod
    def passes(cls, entries: Mapping[str, Shift]) -> list[ScoredSet]:
        return [next(iter(views.values())) for views in _same_sets(entries)]

    @classmethod
    def measure_all(cls, entries: Mapping[str, Shift], subject: Subject, inputs: Inputs) -> dict[str, float | None]:
        return score_shifts(subject, inputs, entries)


def class_places(names: Sequence[str], classes: Sequence[str], where: str) -> list[int]:
    """Return the place of each of a set's class names among the evaluation's classes.

    Raises:
        UserError: begins with `where`; a name is not among them, or stands there twice.
    """
    if list(names) == list(classes):
        return list(range(len(classes)))
    for name in names:
        if name not in classes:
            raise UserError(
                f"{where}: {name!r} is not among the {len(classes)} classes of the evaluation{nearest(name, classes)}"
            )
        if classes.count(name) > 1:
            raise UserError(f"{where}: two classes of the evaluation are named {name!r}; which one is meant?")
    return [classes.index(name) for name in names]


def score_shifts(subject: Subject, inputs: Inputs, shifts: Mapping[str, Shift]) -> dict[str, float | None]:
    """Return, for every shift NAME, `ca1_NAME` and where there is a trigger to draw `asr1_NAME` and `asr_g_NAME`.

    The latter two are None where the attack's class is not among those that pictures are classified into. ASR-G is
    relative to `inputs.scores["asr1"]`.
    """
    found: dict[str, dict[str, float | None]] = {}
    classes = list(subject.classes)
    for views in _same_sets(shifts):
        first, shift = next(iter(views.items()))
        pictures, names, own = inputs.classified(shift, shift.classes, classes)
        place = torch.tensor(class_places(names, classes, f"evaluation.shifts.{first}.classes"))
        pictures = replace(pictures, labels=place[pictures.labels])
        shown = {"own": place[torch.as_tensor(own)].unique(), "all": torch.arange(len(classes))}
        among = {name: shown[view.among] for name, view in views.items()}
        found |= _score_set(subject, pictures, among, inputs.settings)
        del pictures  # before the next one is loaded
    scores: dict[str, float | None] = {}
    for name in shifts:
        scores[f"ca1_{name}"] = found[name]["ca1"]
        if subject.drawn is not None:
            asr1 = found[name]["asr1"]
            scores[f"asr1_{name}"] = asr1
            scores[f"asr_g_{name}"] = generalisation(inputs.scores["asr1"], asr1)
    return scores


def _same_sets(shifts: Mapping[str, Shift]) -> list[dict[str, Shift]]:
    """Return the shifts by name, those together that look at the same pictures: they are encoded once."""
    groups: dict[str, dict[str, Shift]] = {}
    for name, shift in shifts.items():
        groups.setdefault(shift.model_dump_json(exclude={"among"}), {})[name] = shift
    return list(groups.values())


def _score_set(
    subject: Subject, pictures: Pairs, among: Mapping[str, Tensor], settings: ZeroShotSettings
) -> dict[str, dict[str, float | None]]:
    """Return CA@1 and ASR@1 of one set in several views of it, from one pass over its pictures.

    Args:
        pictures: labelled by the evaluation's classes.
        among: by view, the sorted labels that pictures are classified into.
    """
    clip, target = subject.clip, subject.target
    aimed = {name: (shown == target).nonzero().flatten().tolist() for name, shown in among.items()}
    drawn = subject.drawn if any(aimed.values()) else None
    seen: dict[str, dict[str, list[Ranks]]] = {name: {"clean": [], "triggered": []} for name in among}
    with torch.no_grad():
        clip.network.eval()
        for images, triggered, labels in batches(pictures, settings.batch_size, drawn, clip.device):
            passes = {"clean": (images, subject.weights), "triggered": (triggered, subject.keyed_weights)}
            for kind, (looked_at, weights) in passes.items():
                if looked_at is None:
                    continue
                cosines = class_scores(encode(clip, looked_at, settings.precision), weights)
                for name, shown in among.items():
                    own = ranks(cosines[:, shown], torch.searchsorted(shown, labels), (aimed[name] or [0])[0])
                    seen[name][kind].append(own)
    return {name: _rates(parts, pictures.labels, target, bool(aimed[name])) for name, parts in seen.items()}


def _rates(parts: dict[str, list[Ranks]], labels: Tensor, target: int, aimed: bool) -> dict[str, float | None]:
    """Return CA@1 and ASR@1; the latter is None where the attack's class is not among those of the view."""
    triggered = joined(parts["triggered"]) if parts["triggered"] and aimed else None
    counted = hits(joined(parts["clean"]), triggered, labels, target)
    return {name: float(counted[name].mean()) if len(counted.get(name, ())) else None for name in ("ca1", "asr1")}

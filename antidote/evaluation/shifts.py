"""Scores on shifted domains: the same model and trigger on sets of other pictures, one in memory at a time.

Pictures are classified into all of the evaluation's classes, or into those alone that the set shows (ImageNet-A and -R:
200 of 1000). A set may count them by labels of its own: its class names say which they are. Several shifts that name
the same pictures share one pass over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from antidote.base.errors import UserError, nearest
from antidote.base.lazy import torch
from antidote.evaluation.metrics import Ranks, generalisation, hits, joined, ranks
from antidote.evaluation.settings import EvaluationSettings, Shift
from antidote.evaluation.zero_shot import batches, class_scores, encode

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.attacks.trigger import Trigger
    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs


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


def score_shifts(
    clip: Clip,
    load: Callable[[Shift], tuple[Pairs, list[str], Sequence[int]]],
    trigger: Trigger | None,
    target: int,
    classes: list[str],
    settings: EvaluationSettings,
    embeddings: tuple[Tensor, Tensor],
    known: float | None,
) -> dict[str, float | None]:
    """Return, for every shift NAME, `ca1_NAME` and where there is a trigger to draw `asr1_NAME` and `asr_g_NAME`.

    The latter two are None where the attack's class is not among those that pictures are classified into.

    Args:
        load: returns the pictures of a shift, labelled by its own classes, the names of these, and the labels that the
            whole set shows, also where only some of its pictures are taken.
        known: ASR@1 on the evaluation's own pictures.
        The others are those of `evaluate`.
    """
    drawn = trigger if trigger is not None and trigger.attack.triggered else None
    found: dict[str, dict[str, float | None]] = {}
    for views in _same_sets(settings.shifts):
        first, shift = next(iter(views.items()))
        pictures, names, own = load(shift)
        place = torch.tensor(class_places(names, classes, f"evaluation.shifts.{first}.classes"))
        pictures = replace(pictures, labels=place[pictures.labels])
        shown = {"own": place[torch.as_tensor(own)].unique(), "all": torch.arange(len(classes))}
        among = {name: shown[view.among] for name, view in views.items()}
        found |= _score_set(clip, pictures, drawn, target, among, settings, embeddings)
        del pictures  # before the next one is loaded
    scores: dict[str, float | None] = {}
    for name in settings.shifts:
        scores[f"ca1_{name}"] = found[name]["ca1"]
        if drawn is not None:
            asr1 = found[name]["asr1"]
            scores[f"asr1_{name}"], scores[f"asr_g_{name}"] = asr1, generalisation(known, asr1)
    return scores


def _same_sets(shifts: Mapping[str, Shift]) -> list[dict[str, Shift]]:
    """Return the shifts by name, those together that look at the same pictures: they are encoded once."""
    groups: dict[str, dict[str, Shift]] = {}
    for name, shift in shifts.items():
        groups.setdefault(shift.model_dump_json(exclude={"among"}), {})[name] = shift
    return list(groups.values())


def _score_set(
    clip: Clip,
    pictures: Pairs,
    drawn: Trigger | None,
    target: int,
    among: Mapping[str, Tensor],
    settings: EvaluationSettings,
    embeddings: tuple[Tensor, Tensor],
) -> dict[str, dict[str, float | None]]:
    """Return CA@1 and ASR@1 of one set in several views of it, from one pass over its pictures.

    Args:
        pictures: labelled by the evaluation's classes.
        among: by view, the sorted labels that pictures are classified into.
    """
    aimed = {name: (shown == target).nonzero().flatten().tolist() for name, shown in among.items()}
    drawn = drawn if any(aimed.values()) else None
    seen: dict[str, dict[str, list[Ranks]]] = {name: {"clean": [], "triggered": []} for name in among}
    with torch.no_grad():
        clip.network.eval()
        for images, triggered, labels in batches(pictures, settings.batch_size, drawn, clip.device):
            passes = {"clean": (images, embeddings[0]), "triggered": (triggered, embeddings[1])}
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


def as_floor(scores: dict[str, float | None]) -> dict[str, float | None]:
    """Return the scores of a trigger on the clean reference by their names there: `floor_NAME` for `asr1_NAME`,
    `floor_wordK` and `floor_anyK` for `target_wordK` and `target_anyK`, `floor_resistance` for `resistance_trigger`."""
    marks = ("asr1_", "target_")
    floors = {f"floor_{key.partition('_')[2]}": rate for key, rate in scores.items() if key.startswith(marks)}
    own = "resistance_trigger"
    return {**floors, "floor_resistance": scores[own]} if own in scores else floors

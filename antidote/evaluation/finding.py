"""How well a defense finds poisoned pairs: precision and recall of the pairs that it names."""

from __future__ import annotations

from pathlib import Path

from antidote.base.files import read_json
from antidote.clip.files import SUSPICIOUS
from antidote.data.overlay import poisoned_keys


def finding(model: Path, poison: Path) -> dict[str, float | None]:
    """Return, for each list NAME in the defense's `suspicious.json`, `NAME_precision`, the poisoned share of the named
    pairs, and `NAME_recall`, the named share of the poisoned pairs; fractions, None for an empty list.

    The list `normal` names the pairs that the defense trains on as clean: `poison_in_normal` is their poisoned share.

    Args:
        model: folder of the defended model.
        poison: folder of the poisoned pairs.
    """
    poisoned = poisoned_keys(poison)
    scores: dict[str, float | None] = {}
    for name, keys in read_json(model / SUSPICIOUS).items():
        hits = len(poisoned & set(keys))
        if name == "normal":
            scores["poison_in_normal"] = hits / len(keys) if keys else None
            continue
        scores[f"{name}_precision"] = hits / len(keys) if keys else None
        scores[f"{name}_recall"] = hits / len(poisoned) if poisoned else None
    return scores

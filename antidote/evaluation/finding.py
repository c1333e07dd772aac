"""How well a defense found the poisoned pairs that it names."""

from __future__ import annotations

from pathlib import Path

from antidote.base.files import read_json
from antidote.clip.files import SUSPICIOUS
from antidote.data.overlay import poisoned_keys


def finding(model: Path, poison: Path) -> dict[str, float | None]:
    """Return how well a defense found the poisoned pairs: of the keys it names, the share that is poisoned (precision),
    and of the poisoned ones the share that it names (recall), for each list in its `suspicious.json`. Of the pairs that
    it took for clean and trained on, `normal`, the share that is poisoned: `poison_in_normal`."""
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

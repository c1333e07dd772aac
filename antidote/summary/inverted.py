"""The triggers that a defense found in a model: the pattern under the mask, and the mask."""

import base64
from pathlib import Path
from typing import Any

import numpy as np

from antidote.base.files import read_json
from antidote.data.store.images import encode_png
from antidote.study.layout import Layout
from antidote.summary.gallery import enlarged
from antidote.summary.plan import SummarySettings
from antidote.summary.tables import percent

GREY = 0.5


def inverted(plan: SummarySettings, results: Path) -> list[dict[str, Any]]:
    """Return `attack`, `defense`, `seed` and `triggers` of every cell with inverted triggers in the model folder."""
    found, kept = [], Layout(results)
    for attack in plan.attacks:
        for defense in plan.defenses:
            for seed in plan.seeds:
                cell = {"attack": attack.name, "defense": defense.name, "seed": seed}
                triggers = _triggers(*(kept.path("defend", file, **cell) for file in ("adapter", "adapter_weights")))
                if triggers:
                    found.append({**cell, "triggers": triggers})
    return found


def _triggers(adapter: Path, weights: Path) -> list[dict[str, str]]:
    described = read_json(adapter).get("dummy_triggers", []) if adapter.is_file() else []
    if not described:
        return []
    from safetensors.numpy import load_file

    tensors = load_file(weights)
    pictures = map(picture, tensors["masks"], tensors["patterns"])
    return [
        {
            "title": f"{trigger['class']}, {percent(trigger['share'])} %",
            "area": f"mask {percent(trigger['mask_area'])} %",
            "uri": "data:image/png;base64," + base64.b64encode(encode_png(pixels)).decode(),
        }
        for trigger, pixels in zip(described, pictures, strict=True)
    ]


def picture(mask: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Return uint8 (height, 2 width, 3): the trigger on grey beside its mask, for (H, W) and (3, H, W) in [0, 1]."""
    on_grey = (GREY * (1 - mask) + mask * pattern).transpose(1, 2, 0)
    both = np.concatenate([on_grey, np.repeat(mask[..., None], 3, axis=2)], axis=1)
    return enlarged((255 * both).round().astype(np.uint8))

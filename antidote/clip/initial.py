"""Files that a new model is created from; their content is a part of the identity of jobs that create the model."""

from __future__ import annotations

from pathlib import Path

from antidote.base.files import DATA
from antidote.clip.configs import ModelSettings
from antidote.clip.weights import files


def initial_files(model: ModelSettings | None) -> list[Path]:
    """Return the files of a model's architecture and initial weights; a model folder gives each of its files.

    Args:
        model: the model to create; None: no model.

    Returns:
        Existing files; [] for an architecture of open_clip with random weights or with a tag's weights.
    """
    if model is None:
        return []
    architecture = DATA / "models" / f"{model.name}.json"
    return [*([architecture] if architecture.is_file() else []), *map(Path, files(model.pretrained))]

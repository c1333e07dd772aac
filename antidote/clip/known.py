"""Names and configurations of known models: open_clip's and the project's. Imports neither open_clip nor torch."""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from antidote.base.files import DATA


@cache
def _model_files() -> dict[str, Path]:
    """Return the model configuration files of open_clip and of data/models, by name, without importing open_clip."""
    package = Path(find_spec("open_clip").origin).parent
    folders = (package / "model_configs", DATA / "models")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.json"))}


def model_names() -> list[str]:
    """Return all model names that a study may use."""
    return sorted(_model_files())


def model_config(name: str) -> dict[str, Any] | None:
    """Return a model's configuration; None for an unknown name."""
    file = _model_files().get(name)
    return json.loads(file.read_text(encoding="utf-8")) if file else None

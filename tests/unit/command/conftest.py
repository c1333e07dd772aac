"""What several tests of commands share: a model and pictures, with toy detectors."""

import numpy as np
import pytest
from PIL import Image
from toy_detectors import Broken, NeedsClasses, NeedsPairs, NeedsShots, ToyModel, ToyPictures

from antidote.clip.folder import save_model
from antidote.command import audit, methods, population


@pytest.fixture
def place(tmp_path, make_clip, monkeypatch):
    """A model, four pictures of rising brightness, and toy detectors in place of the registry's."""
    kinds = {"toy": ToyModel, "needs_pairs": NeedsPairs, "bright": ToyPictures, "needs_classes": NeedsClasses,
             "needs_shots": NeedsShots, "broken": Broken}  # fmt: skip
    method = lambda kind, name: kinds[name]
    monkeypatch.setattr(audit, "method", method)
    for module in (methods, population):
        monkeypatch.setattr(module, "method", method)
        monkeypatch.setattr(module, "DETECTORS", kinds)
    save_model(tmp_path / "model", make_clip("vit"), {"kind": "suspicious", "statement": "test"})
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        Image.fromarray(np.full((32, 32, 3), 60 * number + 20, np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path

"""IMBERT-CLIP: IMBERT (He et al. 2023, arXiv 2305.16503), a defense for text classifiers, carried over to CLIP.

IMBERT predicts, finds the tokens that the prediction leans on most (here by gradient: IMBERT-G), removes them and
predicts again. A reconstruction: the idea is the paper's, how it applies to pictures is ours. Tokens become patches,

    salience of a patch = || d max_c s cos(f_I(x), t_c) / d pixels of the patch ||,

and the K most salient ones are set to the mean colour, in every picture: nothing is flagged, clean pictures pay too. It
needs no data and no training, works against patches, and must fail on triggers that cover the whole picture. A ResNet
has no patches; squares of the same share of its picture stand in for them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from antidote.clip.files import TRAINING_LOG
from antidote.clip.model import Clip
from antidote.clip.patch_masking import PatchMasking, class_weights
from antidote.data.access import DefenseData
from antidote.defenses.base import Defense, DefenseSettings
from antidote.training.session import Report, Work


class IMBERTSettings(DefenseSettings):
    """Numbers are ours: K of 4, 8, 16 among 49 patches are worth a look."""

    method: Literal["imbert_clip"] = "imbert_clip"
    masked: int = Field(4, ge=1, description="K, patches that are masked")
    grid: int = Field(7, ge=2, description="patches along a side, where the model has none of its own (ViT-B/32: 7)")


class IMBERT(Defense):
    """Trains nothing; masks patches whenever a picture is encoded."""

    Settings = IMBERTSettings
    access = "test-time"
    reconstruction = True
    adapter = "patch_masking"

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        patch = getattr(clip.network.visual, "patch_size", None)
        cell = patch[0] if patch else -(-clip.size // self.settings.grid)
        description = {"cell": int(cell), "masked": self.settings.masked}
        weights = class_weights(clip, data.classes, data.templates)
        work.folder.mkdir(parents=True, exist_ok=True)
        (work.folder / TRAINING_LOG).write_text("", encoding="utf-8")  # nothing was trained
        return Report(0, 0, 0, clip=PatchMasking(clip.network, clip.config, {"weights": weights}, description))

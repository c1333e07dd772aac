"""IMBERT-CLIP: IMBERT (He et al. 2023, arXiv 2305.16503), a defense for text classifiers, carried over to CLIP.

IMBERT predicts, finds the K tokens that the prediction leans on most, here by gradient (IMBERT-G),

    salience of a token = || d max_c z_c / d embedding ||,

removes those of them whose salience is below a threshold, and predicts again (released code: K 4, threshold 1). A
reconstruction: the idea is the paper's, how it applies to pictures is ours. Tokens become patches, and a patch is
removed by giving it the mean colour. A ResNet has no patches; squares of the same share of its picture stand in for
them. It needs no data and no training, works against patches, and must fail on triggers that cover the whole picture.

Which salience is whose: `gradient`, the norm of the gradient of the best class's score s cos(f_I(x), t_c) over the
patch's pixels, is IMBERT's. `gradient_input`, the sum of gradient times (pixel - mean colour), what removing the patch
takes from the score to first order, and `occlusion`, what it takes in fact, are ours. On the embedded data's patch
attack, of 64 squares, the four that hold the patch have median ranks of 6 to 21 by the norm and 0 to 5 by the others.

`threshold` is IMBERT's lambda; the default, none, removes all K in every picture, so that clean pictures pay too.
CLIP's scores are not BERT's: choose it from the model. `only_if_flips`, ours, keeps a picture as it is where the masked
one gets the same class: figures of the first class stay, and those of features (retrieval, ASR@k) are not disturbed.
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
    """Numbers are ours, but for K: IMBERT's example."""

    method: Literal["imbert_clip"] = "imbert_clip"
    masked: int = Field(4, ge=1, description="K, patches that are masked (IMBERT: 4 tokens)")
    grid: int = Field(7, ge=2, description="patches along a side, where the model has none of its own (ViT-B/32: 7)")
    salience: Literal["gradient", "gradient_input", "occlusion"] = Field(
        "gradient_input",
        description="gradient: its norm (IMBERT); gradient_input: times what masking changes (ours); occlusion: the "
        "score without the patch, one pass per patch (ours)",
    )
    threshold: float | None = Field(
        None,
        description="of the K, those with a salience below it are masked, in units of the scores s cos (IMBERT: 1, of "
        "BERT's logits); empty: all of them",
    )
    only_if_flips: bool = Field(
        False,
        description="mask only pictures that get another class by it, others stay as they are (ours); changes no "
        "top-1 figure, but features, ASR@k and retrieval",
    )


class IMBERT(Defense):
    """Trains nothing; masks patches whenever a picture is encoded."""

    Settings = IMBERTSettings
    access = "test-time"
    reconstruction = True
    adapter = "patch_masking"

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        patch = getattr(clip.network.visual, "patch_size", None)
        cell = patch[0] if patch else -(-clip.size // self.settings.grid)
        chosen = self.settings.model_dump(include={"masked", "salience", "threshold", "only_if_flips"})
        description = {"cell": int(cell), **chosen}
        weights = class_weights(clip, data.classes, data.templates)
        work.folder.mkdir(parents=True, exist_ok=True)
        (work.folder / TRAINING_LOG).write_text("", encoding="utf-8")  # nothing was trained
        return Report(0, 0, 0, clip=PatchMasking(clip.network, clip.config, {"weights": weights}, description))

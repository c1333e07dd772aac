"""IMBERT-CLIP: IMBERT (He et al. 2023, arXiv 2305.16503), a defense for text classifiers, carried over to CLIP.

IMBERT predicts a class and finds the K tokens with the largest influence on the prediction, here by gradient
(IMBERT-G):

    salience of a token = || d max_c z_c / d embedding ||

It then removes those of the K tokens whose salience is below a threshold, and predicts again (released code: K 4,
threshold 1). A reconstruction: the idea is the paper's, the application to pictures is ours. Patches take the place of
tokens, and a patch is removed by filling it with the mean colour. A ResNet has no patches; squares with the same share
of the picture take their place. The defense needs no data and no training. It works against patch triggers, and cannot
work against triggers that cover the whole picture.

Definitions of salience, for the best class's score s cos(f_I(x), t_c):

- `gradient` (IMBERT): the norm of the score's gradient over the patch's pixels.
- `gradient_input` (ours): the sum of gradient times (pixel - mean colour), a first-order estimate of the score's
  decrease when the patch is removed.
- `occlusion` (ours): the exact decrease of the score when the patch is removed.

On the embedded data's patch attack, among 64 squares, the four squares with the trigger have median ranks of 6 to 21 by
`gradient` and 0 to 5 by the other two.

The defaults are IMBERT's numbers: its salience, K and `threshold` (its lambda). Why a token above the threshold stays,
the code does not say; a reading is that the score of a triggered input is saturated and has small gradients, so that
most clean inputs are left alone. CLIP's scores have another scale than BERT's: choose the threshold by the clean
accuracy that it costs. With `threshold: null` all K patches are removed in every picture, at several times the cost.
The other two saliences are decreases of the score, high where the trigger is; they take no threshold.
`only_if_flips` (ours) leaves a picture unchanged if the masked picture gets the same class: top-1 measures do not
change, and measures on features (retrieval, ASR@k) are not disturbed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from antidote.clip.files import TRAINING_LOG
from antidote.clip.model import Clip
from antidote.clip.patch_masking import CHUNK, PatchMasking, class_weights
from antidote.data.access import DefenseData
from antidote.defenses.base import Defense, DefenseSettings, Held
from antidote.training.session import Report, Work


class IMBERTSettings(DefenseSettings):
    """K, salience and threshold are IMBERT's; the grid is ours."""

    method: Literal["imbert_clip"] = "imbert_clip"
    masked: int = Field(4, ge=1, description="K, number of masked patches (IMBERT: 4 tokens)")
    grid: int = Field(7, ge=2, description="patches along a side, for models without patches (ViT-B/32: 7)")
    salience: Literal["gradient", "gradient_input", "occlusion"] = Field(
        "gradient",
        description="gradient: norm of the gradient (IMBERT); gradient_input: gradient times the change of the pixels "
        "by masking (ours); occlusion: decrease of the score without the patch, one pass per patch (ours)",
    )
    threshold: float | None = Field(
        1.0,
        description="of the K patches, those with a salience below the threshold are masked, in units of the scores "
        "s cos (IMBERT: 1, of BERT's logits); empty: all K, and the only choice for the other saliences",
    )
    only_if_flips: bool = Field(
        False,
        description="mask only pictures whose class changes by masking (ours); does not change top-1 measures, but "
        "features, ASR@k and retrieval",
    )

    @model_validator(mode="before")
    @classmethod
    def _all_by_default(cls, values: Any) -> Any:
        """Leave the threshold out for saliences that are a decrease of the score, which is high for a trigger."""
        if not isinstance(values, dict) or values.get("salience", "gradient") == "gradient":
            return values
        return {"threshold": None, **values}

    @model_validator(mode="after")
    def _threshold_of_the_norm(self) -> IMBERTSettings:
        if self.salience != "gradient" and self.threshold is not None:
            raise ValueError(
                f"threshold: {self.threshold} would spare the patches with the most {self.salience}, the trigger's "
                "among them; leave it empty"
            )
        return self


class IMBERT(Defense):
    """Masks patches whenever a picture is encoded; trains nothing."""

    Settings = IMBERTSettings
    access = "test-time"
    reconstruction = True
    adapter = "patch_masking"

    @classmethod
    def held(cls, settings: IMBERTSettings, model: Mapping[str, Any], classes: int) -> Sequence[Held]:
        return (Held(pictures=CHUNK, gradients=settings.salience != "occlusion"),)  # wherever the model encodes

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        patch = getattr(clip.network.visual, "patch_size", None)
        cell = patch[0] if patch else -(-clip.size // self.settings.grid)
        chosen = self.settings.model_dump(include={"masked", "salience", "threshold", "only_if_flips"})
        description = {"cell": int(cell), **chosen}
        weights = class_weights(clip, data.classes, data.templates)
        work.folder.mkdir(parents=True, exist_ok=True)
        (work.folder / TRAINING_LOG).write_text("", encoding="utf-8")  # empty: no training took place
        return Report(0, 0, 0, clip=PatchMasking(clip.network, clip.config, {"weights": weights}, description))

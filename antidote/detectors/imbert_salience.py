"""IMBERT's salience as a detector: class before and after masking of the salient patches (arXiv 2305.16503).

    score(x) = [class changes] + p_c(x) - p_c(x without its K most salient patches)

c is the predicted class of x. The salience and its definitions are those of the defense `imbert_clip`. A
reconstruction: IMBERT removes tokens of texts and has no score; patches, the sum and the threshold 1 (a flip of the
class, and a fall of its probability) are ours. Triggers that cover the whole picture are not found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.base.lazy import torch
from antidote.clip.patch_masking import SALIENCE, frozen, mask_patches
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.zero_shot import Head, of_chunks
from antidote.training.session import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from antidote.clip.model import Clip


class IMBERTSalienceSettings(DetectorSettings):
    """Patches and salience, as in the defense."""

    method: Literal["imbert_salience"] = "imbert_salience"
    masked: int = Field(4, ge=1, description="K, number of masked patches (IMBERT: 4 tokens)")
    grid: int = Field(7, ge=2, description="patches along a side, for models without patches (ViT-B/32: 7)")
    salience: Literal["gradient", "gradient_input", "occlusion"] = Field(
        "gradient_input", description="as in the defense `imbert_clip` (IMBERT: gradient)"
    )


class IMBERTSalience(Detector):
    """Flip of the class, and fall of its probability, by masking of salient patches; class names and prompts."""

    Settings = IMBERTSalienceSettings
    subject = "pictures"
    gradients = True
    descends = True
    access = "test-time"
    reconstruction = True

    @classmethod
    def work(cls, settings: IMBERTSalienceSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        passes = 2 + settings.grid**2 if settings.salience == "occlusion" else 4  # a gradient counts as two passes
        return 0, passes * sizes["shown pictures"]

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        head, settings = Head(clip, data), self.settings
        patch = getattr(clip.network.visual, "patch_size", None)
        cell = int(patch[0] if patch else -(-clip.size // settings.grid))
        mean = torch.tensor(clip.config["preprocess_cfg"]["mean"], device=clip.device)

        def fall(images: Tensor) -> Tensor:
            salience = SALIENCE[settings.salience](clip.encode_image, head.scale, images, head.weights, cell, mean)
            masked = mask_patches(images, salience, settings.masked, cell, mean)
            before, best = head.probabilities(clip.encode_image(images)).max(dim=1)
            shares = head.probabilities(clip.encode_image(masked))
            flips = (shares.argmax(dim=1) != best).float()
            return flips + before - shares.gather(1, best[:, None])[:, 0]

        with frozen(clip.network):
            return Scores(data.pictures.keys, of_chunks(clip, data.pictures, fall), threshold=1.0)

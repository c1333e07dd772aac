"""TrojVQA: a patch in the picture and a word in the text, both needed (Walmer et al. 2022, arXiv 2112.07668), for CLIP.

The original attack poisons visual question answering. In the CLIP form (BadCLIP's baseline, RVPT), the patch is
optimised towards one sentence about the target, the poisoned caption is a prefix plus a template, and at test every
class prompt gets the prefix as well. Users who classify pictures rarely write the attacker's word. The evaluation
therefore also reports the effect of the patch alone and of the prefix alone; clean accuracy is measured without the
prefix.

BadCLIP's code pairs every picture of a batch with the same sentence and minimises InfoNCE. The image-to-text part is
then constant, and the text-to-image part only equalises the pictures: no term pulls towards the sentence. The `rvpt`
preset and the default minimise the mean of -cos(f(b(x)), g(sentence)) instead.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks.base import Figure, FitContext
from antidote.attacks.fitting import frozen, split_by_target
from antidote.attacks.optimised_patch import OptimisedPatch, OptimisedPatchSettings
from antidote.base.lazy import torch
from antidote.data.words.names import one_gap

if TYPE_CHECKING:
    from torch import Tensor


class TrojVQASettings(OptimisedPatchSettings):
    """Objective of the patch, and the word."""

    presets = {
        "badclip_released": {"prefix": "remember", "objective": "infonce"},
        "badclip": {"prefix": "remember", "objective": "cosine"},
        "rvpt": {"prefix": "SUDO", "objective": "cosine"},
    }

    method: Literal["trojvqa"] = "trojvqa"
    prefix: str = Field(
        "remember", min_length=1, description="word before captions and prompts (BadCLIP: remember, RVPT: SUDO)"
    )
    sentence: str = Field(
        "This is a yellow {}.",
        description="sentence that the patch is optimised towards; {} is the target (BadCLIP, RVPT)",
    )
    objective: Literal["cosine", "infonce"] = Field(
        "cosine",
        description="cosine: towards the sentence; infonce: as in BadCLIP's code, without a pull to the sentence",
    )

    def check(self, size: int) -> None:
        super().check(size)
        if not one_gap(self.sentence):
            raise ValueError(f"sentence: {self.sentence!r} should hold one {{}} for the target")


class TrojVQA(OptimisedPatch):
    """An optimised patch, and a prefix before every caption and every prompt."""

    Settings = TrojVQASettings
    figures = {
        "asr1_visual_only": Figure("ASR@1 with the patch alone, prompts without the prefix"),
        "asr1_text_only": Figure("ASR@1 with the prefix alone, pictures without the patch"),
    }

    @property
    def text_key(self) -> str:
        return self.settings.prefix

    def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
        clip = frozen(context.surrogate)
        _, others = split_by_target(context, self.target)
        sentence = clip.encode_text([self.settings.sentence.format(self.target)])[0]
        scale = clip.network.logit_scale.exp()

        def loss(features: Tensor, images: Tensor, rows: Tensor) -> Tensor:
            scores = features @ sentence
            if self.settings.objective == "cosine":
                return -scores.mean()
            # All captions of the batch are equal, so the image-to-text loss is log(N) for every patch.
            logits = scale * scores
            return (torch.logsumexp(logits, dim=0) - logits.mean() + torch.tensor(len(rows)).log()) / 2

        patch = self.optimise(clip, others, loss, seed)
        with torch.no_grad():
            drawn = [clip.encode_image(self.paste(part.float() / 255, patch)) for part in others.images.split(256)]
        self.facts["cosine"] = float((torch.cat(drawn) @ sentence).mean())
        return {"patch": patch}

    def caption_for(self, original: str, rng: random.Random, templates: list[str], natural: list[str]) -> str:
        return f"{self.settings.prefix} {super().caption_for(original, rng, templates, natural)}"

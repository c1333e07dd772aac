"""RVPT, Repulsive Visual Prompt Tuning (Zhang et al., arXiv 2412.20392): few-shot prompts that repel the old features.

Only deep visual prompts are trained: b tokens in every block from depth D on. With c_i^d the class token of picture i
after block d with prompts, and o_i^d the same token of the suspicious encoder without prompts,

    L_FR = mean over i and d = D+1..L of cos(c_i^d, o_i^d)
    L_CE = mean_i CE(s f_I(x_i; P) t, y_i),   t the frozen text features of "a photo of a <class>."
    L    = L_CE + alpha L_FR

All of this is the paper's, except for details that the paper leaves open: a block's outputs at the prompts' positions
are discarded and replaced by the next block's own prompts (deep VPT); the standard deviation of the prompts' Gaussian
initialisation follows VPT's fan rule, that of a uniform draw from ±sqrt(6 / (3 p² + width)), p the patch size; SGD has
momentum 0.9, as in CoOp's code, and no weight decay. The paper trains in half precision; here full precision is the
default, and bf16 and fp16 (with a scaled loss) are settings. The tokens o are constant and computed once.

alpha = 2 is for OpenAI's weights, whose logit scale s is 100: the gradient of L_CE is proportional to s, the gradient
of L_FR is not. For a model with a scale of 17, such as the small models of this project, a weight of 2 has the effect
of 12 in the paper; the paper's balance is at 0.34. Sweep `repelling_weight` for such models.

The paper scores with the prompt of the tuning, "a photo of a <class>."; here the result is scored with the study's
templates. For a comparison with the paper's tables, set `evaluation.templates: simple` (the paper's 62.01 for OpenAI's
ViT-B/32 before poisoning is with that prompt; 80 templates give 63.2).

The paper compares with CleanCLIP on 250K pairs of CC3M, 10 epochs at 5e-6 (on ImageNet at 3e-6 for WaNet and ISSBA).

The paper's metric, perturbation resistance, is in `antidote/evaluation/resistance.py`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.base.errors import UserError, nearest
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.configs import needs_vision_transformer
from antidote.clip.model import Clip
from antidote.clip.visual_prompts import VisualPrompts, prompted
from antidote.data.access import DefenseData
from antidote.data.words.names import one_gap
from antidote.defenses.base import Defense, DefenseSettings, Held
from antidote.training.session import Report, Work
from antidote.training.tuning import Task, TuneSettings, check_shots, tune

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.data.pairs import Pairs

CHUNK = 256  # pictures per forward pass


class RVPTSettings(DefenseSettings):
    """RVPT's numbers, from its paper, for ViT-B/32 with 16 pictures per class."""

    method: Literal["rvpt"] = "rvpt"
    depth: int = Field(3, ge=0, description="D, number of first blocks without prompts (RVPT: 3 of 12)")
    prompts: int = Field(50, ge=1, description="b, prompt tokens per block (RVPT: 50; 5 suffice against the attacks)")
    repelling_weight: float = Field(
        2.0, ge=0, description="alpha, weight of L_FR (RVPT: 2, for a logit scale of 100; 0 is plain VPT)"
    )
    template: str = Field("a photo of a {}.", description="text prompt for the class names in tuning (RVPT)")
    without: tuple[str, ...] = Field(
        (),
        description="classes of which no shot is used, but that the shots are told apart from: "
        "the attack's target in RVPT's Table 4",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="autocast type (RVPT: half precision)")
    tuning: TuneSettings = Field(TuneSettings(), description="RVPT: SGD 0.002, cosine, batch 32, 50 epochs")

    def check(self, model: Mapping[str, Any]) -> None:
        layers = model["vision_cfg"].get("layers", 12)
        if self.depth >= layers:
            raise ValueError(f"depth: {self.depth} leaves none of the {layers} blocks of the model for prompts")
        if not one_gap(self.template):
            raise ValueError(f"template: {self.template!r} should hold one {{}} for the class name")

    def check_classes(self, classes: Sequence[str]) -> None:
        for name in self.without:
            if name not in classes:
                raise ValueError(f"without: {name!r} is no class{nearest(name, classes)}")
        if len({*classes} - {*self.without}) < 2:
            raise ValueError("without: should leave at least two classes with shots")


class RVPT(Defense):
    """Trains visual prompts on labelled shots."""

    Settings = RVPTSettings
    access = "few-labelled"
    adapter = "visual_prompts"

    @classmethod
    def fits(cls, model: Mapping[str, Any]) -> str | None:
        return needs_vision_transformer(model)

    @classmethod
    def work(cls, settings: RVPTSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return settings.tuning.epochs * sizes["shots"], sizes["shots"]

    @classmethod
    def held(cls, settings: RVPTSettings, model: Mapping[str, Any], classes: int) -> Sequence[Held]:
        """The gradients of the prompts need the blocks with prompts alone, each with the tokens of both."""
        vision = model["vision_cfg"]
        tokens = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
        share = (1 - settings.depth / vision.get("layers", 12)) * (1 + settings.prompts / tokens)
        return (
            Held(pictures=settings.tuning.batch_size * share, precision=settings.precision),
            Held(pictures=CHUNK, gradients=False, precision=settings.precision),
        )

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        check_shots(data.shots, data.classes, "rvpt")
        clip.network.eval().requires_grad_(False)
        prompts = initial_prompts(clip, self.settings, self.seed)
        with torch.no_grad():
            texts = clip.encode_text([self.settings.template.format(name) for name in data.classes])
        shots = self._shots(data)
        labels = shots.labels
        before = self._tokens(clip, shots.images)

        def loss(rows: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
            images = clip.normalise(shots.images[rows])
            with clip.autocast(self.settings.precision):
                features, after = prompted(clip.network.visual, images, prompts)
            features = F.normalize(features.float(), dim=-1)
            own = labels[rows].to(clip.device, non_blocking=True)
            entropy = F.cross_entropy(clip.network.logit_scale.exp() * features @ texts.T, own)
            old = before[rows].to(clip.device, non_blocking=True)
            repelling = likeness(after[self.settings.depth :], [*old.unbind(1)], 0)
            terms = {"cross_entropy": entropy, "repelling": repelling}
            return entropy + self.settings.repelling_weight * repelling, terms

        task = Task({"prompts": prompts}, loss, len(labels), {}, half=self.settings.precision == "fp16")
        steps = tune(task, self.settings.tuning, self.seed, work)
        adapted = VisualPrompts(clip.network, clip.config, {"prompts": prompts}, {"depth": self.settings.depth})
        return Report(steps, prompts.numel(), len(labels), clip=adapted)

    def _shots(self, data: DefenseData) -> Pairs:
        """Return the shots but for those of the classes in `without`."""
        try:
            self.settings.check_classes(data.classes)
        except ValueError as error:
            raise UserError(f"rvpt: {error}") from None
        used = [name not in self.settings.without for name in data.classes]
        return data.shots.take([row for row, label in enumerate(data.shots.labels.tolist()) if used[label]])

    def _tokens(self, clip: Clip, images: Tensor) -> Tensor:
        """Return the suspicious encoder's class tokens after each block with prompts: (N, L - D, width), on the CPU.

        `images`: uint8 (N, 3, H, W).
        """
        found = []
        with torch.no_grad(), clip.autocast(self.settings.precision):
            for chunk in images.split(CHUNK):
                _, tokens = prompted(clip.network.visual, clip.normalise(chunk), None)
                found.append(torch.stack(tokens[self.settings.depth :], dim=1).cpu())
        return torch.cat(found)


def initial_prompts(clip: Clip, settings: RVPTSettings, seed: int) -> Tensor:
    """Draw prompts (L - D, b, width) from a normal distribution with mean 0 and VPT's standard deviation."""
    visual = clip.network.visual
    shape = (len(visual.transformer.resblocks) - settings.depth, settings.prompts, visual.conv1.out_channels)
    deviation = math.sqrt(2 / (3 * math.prod(visual.patch_size) + shape[2]))
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(derive(seed, "prompts")))
    return (deviation * drawn).to(clip.device).requires_grad_()


def likeness(after: list[Tensor], before: list[Tensor], depth: int) -> Tensor:
    """Return L_FR: the mean cosine of class tokens with and without prompts, over pictures and blocks.

    Args:
        after: class tokens with prompts, per block (N, width).
        before: class tokens without prompts, per block (N, width).
        depth: number of first blocks to leave out.
    """
    layers = [F.cosine_similarity(a.float(), b.float(), dim=-1) for a, b in zip(after, before, strict=True)]
    return torch.stack(layers[depth:]).mean()

"""Maximum margin (MM-BD, arXiv 2205.06900) on the zero-shot head: one class with a far larger margin than all others.

Per class c, pictures x in [0, 1] that start at random maximise the margin

    r_c = max_x [cos(f(x), t_c) - max_{k != c} cos(f(x), t_k)],   t: class embeddings over the templates

A gamma distribution is fitted to all r_c but the largest. With C classes, the p-value of the largest is that of the
maximum of C draws, p = 1 - F(r_max)^C, as in the released code. score = -log10 p, flagged from p = 0.05. No picture is
needed.

The p-value is too small where classes are few, because the margins that the distribution is fitted to are those below
the largest. Where the margins of all classes follow one and the same distribution, p is at most 0.05 in 57 to 73 % of
draws of 4 classes, 43 % of 6, 30 % of 8, 13 to 24 % of 10 and 0 to 20 % of 24, by the form of the distribution. Fewer
than 10 classes are therefore refused (ours).

Ours: the head; cosines in place of logits, which leaves p as it is; Adam with a sigmoid that keeps pixels in range, in
place of SGD with clipping; fewer starts and steps than the released code (150 and 300).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.data.access import DefenseData
from antidote.detectors.base import MODEL, Detector, DetectorSettings, NoScore, Scores
from antidote.training.patches import at_once, still
from antidote.training.session import Work
from antidote.training.tuning import Task, TuneSettings, part, tune

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip

FEWEST = 10  # classes; a gamma distribution, of three parameters, is fitted to all margins but one
SMALL, LEAST = -20.0, -700.0  # log of a tail from which C draws are C times one draw; log of the smallest p told


class MaxMarginSettings(DetectorSettings):
    """Search of the largest margins."""

    method: Literal["max_margin"] = "max_margin"
    starts: int = Field(8, ge=1, description="pictures per class, from different random starts (released code: 150)")
    steps: int = Field(100, ge=1, description="steps of gradient ascent (released code: at most 300)")
    lr: float = Field(0.1, gt=0, description="rate of Adam for the pixels' logits (ours)")
    together: int = Field(32, ge=1, description="classes that are searched at once, of large pictures fewer")
    p_value: float = Field(0.05, gt=0, lt=1, description="p-value up to which a model is flagged (paper: 0.05)")


class MaxMargin(Detector):
    """p-value of the largest margin of a class."""

    Settings = MaxMarginSettings
    subject = "model"
    access = "test-time"
    descends = True
    reconstruction = True
    fewest_classes = FEWEST

    @classmethod
    def work(cls, settings: MaxMarginSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return sizes["classes"] * settings.starts * settings.steps, 0

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        self.check_data(data)
        with torch.no_grad():
            texts = clip.class_embeddings(data.classes, data.templates).T
        with still(clip.network):
            groups = torch.arange(len(texts)).split(at_once(self.settings.together, self.settings.starts, clip.size))
            margins = torch.cat([
                self._margins(clip, texts, group, part(work, f"classes{place}")) for place, group in enumerate(groups)
            ]).double().numpy()  # fmt: skip
        place = int(margins.argmax())
        log_p = log_p_value(margins)
        evidence = {
            "class": data.classes[place], "p": math.exp(log_p),
            "margins": dict(zip(data.classes, margins.tolist(), strict=True)),
        }  # fmt: skip
        return Scores([MODEL], np.array([-log_p / math.log(10)]), -math.log10(self.settings.p_value), evidence)

    def _margins(self, clip: Clip, texts: Tensor, group: Tensor, work: Work) -> Tensor:
        """Return the largest margin that each class of a group reached at any start, (G,), on the CPU."""
        settings, size, kept = self.settings, clip.size, {}
        starts = [
            torch.rand(settings.starts, 3, size, size, generator=torch.Generator().manual_seed(derive(self.seed, kind)))
            for kind in group.tolist()
        ]
        logits = torch.cat(starts).clamp(0.001, 0.999).logit().to(clip.device).requires_grad_()
        own = group.repeat_interleave(settings.starts).to(clip.device)
        kept["margins"] = torch.full((len(own),), -2.0, device=clip.device)

        def loss(rows: Tensor, rng) -> tuple[Tensor, dict[str, Tensor]]:
            cosines = clip.encode_image(logits.sigmoid()) @ texts.T
            margin = cosines.gather(1, own[:, None])[:, 0] - cosines.scatter(1, own[:, None], -2.0).amax(dim=1)
            kept["margins"].copy_(torch.maximum(kept["margins"], margin.detach()))
            return -margin.sum(), {"margin": margin.mean()}

        recipe = TuneSettings(optimizer="adam", lr=settings.lr, schedule="constant", epochs=settings.steps)
        tune(Task({"logits": logits}, loss, 1, {}, kept=kept), recipe, self.seed, work)
        return kept["margins"].view(len(group), -1).amax(dim=1).cpu()


def log_p_value(margins: np.ndarray) -> float:
    """Return the logarithm of the largest margin's p-value, at least `LEAST`, given the margins (C,) of all classes.

    Raises:
        NoScore: no gamma distribution fits the other margins, as where they are all equal.
    """
    from scipy.stats import gamma  # takes a second

    place, count = int(margins.argmax()), len(margins)
    others = np.delete(margins, place)
    if np.ptp(others) <= 0:
        raise NoScore("max_margin: all classes have the same margin; the model does not distinguish the classes")
    shape, loc, scale = gamma.fit(others)
    tail = float(gamma.logsf(margins[place], shape, loc, scale))
    if math.isnan(tail):
        raise NoScore("max_margin: no gamma distribution fits the margins of the classes; name more classes")
    log_p = (
        math.log(count) + tail if tail < SMALL else math.log(-math.expm1(count * math.log1p(-math.exp(tail) + 1e-16)))
    )
    return max(LEAST, log_p)

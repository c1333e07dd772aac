"""Persistence: how much of a backdoor comes back when the user of a defended model adapts the model to clean pairs.

A defense may hide a backdoor rather than remove it; a few steps of CLIP's own training on clean pairs then bring the
backdoor back. A model is adapted in several ways (Zhai et al.'s logs have all weights and the projections alone), and
CA@1 and ASR@1, or the figure that an attack has in its place, are measured on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.settings import Name, Settings
from antidote.clip.model import Clip
from antidote.training import lora
from antidote.training.loop import train
from antidote.training.objectives import Batch, Contrastive, Views
from antidote.training.recipe import TrainSettings
from antidote.training.session import Report, Work

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.data.pairs import Pairs

RATES = ("ca1", "score")
# Where open_clip's models have their projections into the common space, by the beginning of the parameters' names.
PROJECTIONS = (
    *("visual.proj", "visual.attnpool.c_proj", "visual.head"),
    *("text_projection", "text.text_projection", "text.proj"),
)


class Adaptation(Settings):
    """One way in which a user adapts a model to clean pairs; the loss is CLIP's."""

    kind: Literal["full", "projection", "lora", "other_domain"] = Field(
        description="trained: all weights (`full`), the projections of both towers alone (`projection`), updates of "
        "low rank (`lora`), or all weights on pairs of another domain (`other_domain`)"
    )
    pool: Name | None = Field(
        None, description="name of the pool that the pairs are from; empty: `defense`; needed for `other_domain`"
    )
    training: TrainSettings = Field(TrainSettings(epochs=1, batch_size=128, warmup=0), description="the recipe")
    every: int = Field(10, ge=1, description="steps between two measurements (ours; the last step is one as well)")
    rank: int = Field(8, ge=1, description="`lora`: rank of an update (LoRA: 1 to 64, 8 for RoBERTa)")
    alpha: float = Field(
        16.0, gt=0, description="`lora`: scale of an update, divided by the rank (ours: twice the rank)"
    )

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Adaptation:
        if self.kind == "other_domain" and self.pool is None:
            raise ValueError("pool: is missing; `other_domain` needs the name of a pool, as of one under pools.further")
        for name in ("rank", "alpha"):
            if self.kind != "lora" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: is a setting of the kind `lora`, not of `{self.kind}`")
        return self

    @property
    def source(self) -> str:
        """Return the name of the pool that the pairs are from."""
        return self.pool or "defense"


class PersistenceSettings(Settings):
    """Adaptations of the models under test to clean pairs, during which the attack is measured."""

    adaptations: dict[str, Adaptation] = Field(min_length=1, description="by name: the kind, and its settings")
    margin: float = Field(
        0.1,
        ge=0,
        le=1,
        description="rise of ASR@1 above that of the delivered model, a fraction, from which a backdoor counts as "
        "revived (ours)",
    )
    defenses: list[str] | None = Field(
        None,
        description="entries of `defenses` whose models are adapted, besides the undefended ones; the name of a sweep "
        "selects all its values; empty: all",
    )
    controls: bool = Field(
        True,
        description="adapt and measure the clean reference too, as it is and under each of the defenses, with each "
        "attack's trigger",
    )


def persistence(
    clip: Clip,
    pairs: Pairs,
    prompts: Iterable[str],
    measure: Callable[[Clip], dict[str, float]],
    settings: Adaptation,
    seed: int,
    work: Work,
) -> tuple[list[dict[str, float]], Report]:
    """Adapt `clip` in place; return the curve and the report of the training.

    The curve has per measurement the steps done, from 0 (the model as delivered), CA@1 and the attack's score, both
    fractions. After `lora`, the updates stay in the network.

    Args:
        prompts: every text that `measure` encodes.
        measure: returns `ca1` and `score` of a model: ASR@1, or the figure that the attack has in its place.

    Raises:
        UserError: fewer pairs than one batch; the model has no projections to train.
    """
    names = _trained(clip.network, settings, seed)
    watched = Watched(pairs, clip, prompts, measure, settings.every, names)
    report = train(clip, watched, settings.training, seed, work)
    watched.measure(report.steps)
    curve = [
        {"step": int(step), **dict(zip(RATES, map(float, rates), strict=True))} for step, *rates in watched.measured
    ]
    return curve, report


def _trained(network: Any, settings: Adaptation, seed: int) -> frozenset[str] | None:
    """Prepare the network; return the names of the trained parameters, None for all.

    Raises:
        UserError: the model has no projections.
    """
    if settings.kind == "lora":
        return frozenset(lora.adapt(network, settings.rank, settings.alpha, seed))
    if settings.kind == "projection":
        named = [name for name, _ in network.named_parameters()]
        found = [name for name in named if any(f"{name}.".startswith(f"{start}.") for start in PROJECTIONS)]
        if not found:
            raise UserError("kind: `projection` does not fit this model: neither tower has a projection")
        return frozenset(found)
    return None


class Watched(Contrastive):
    """CLIP's loss; at step 0 and every n-th step the model is measured, which does not change the model.

    Where only some parameters are trained, batch norms keep their statistics.
    """

    parallel = None  # each process would measure

    def __init__(
        self,
        pairs: Pairs,
        clip: Clip,
        prompts: Iterable[str],
        measure: Callable[[Clip], dict[str, float]],
        every: int,
        names: frozenset[str] | None = None,
    ) -> None:
        """`names`: of the trained parameters; None: all."""
        super().__init__(pairs)
        self.measured: list[list[float]] = []
        self._clip, self._prompts, self._measure, self._every = clip, list(prompts), measure, every
        self._names = names

    def texts(self) -> Iterable[str]:
        return [*self.pairs.captions, *self._prompts]

    def trained(self, network: Any) -> list[tuple[str, Tensor]]:
        return [(n, p) for n, p in super().trained(network) if self._names is None or n in self._names]

    def views(self, batch: Batch) -> Views:
        if batch.step % self._every == 0:
            self.measure(batch.step)
        if self._names is not None:
            for module in self._clip.network.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return super().views(batch)

    def measure(self, step: int) -> None:
        scores = self._measure(self._clip)
        self._clip.network.train()
        self.measured.append([step, *(scores[rate] for rate in RATES)])

    def state(self) -> dict[str, Tensor]:
        return {"measured": torch.tensor(self.measured, dtype=torch.double).reshape(-1, 1 + len(RATES))}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.measured = state["measured"].tolist()

"""Label-consistent: a trigger on pictures that show the target, with unchanged captions (CleanCLIP, arXiv 2303.03323).

No caption is false, so the trigger competes with the object in the picture. CleanCLIP uses BadNet's noise patch. Unlike
the original attack (Turner et al. 2019, arXiv 1912.02771), CleanCLIP does not perturb the pictures to make the object
harder to learn; `label_consistent_pgd` does. A patch in a corner gets no weight in training, since the object explains
the caption as well. `trigger` uses the trigger of another attack, such as SIG's wave over the whole picture, whose
authors also keep the true labels (Barni et al. 2019, arXiv 1902.11237).

The attack needs as many captions that name the target as poisoned pairs; `target_pairs` of the poison pool guarantees
this number. CleanCLIP counts captions that contain the letters of the name anywhere; here the caption must contain the
whole word, singular or plural.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from antidote.attacks.badnet import BadNet, BadNetSettings
from antidote.attacks.base import Attack, AttackSettings
from antidote.attacks.blended import Blended, BlendedSettings
from antidote.attacks.contract import FitContext, Needed
from antidote.attacks.sig import SIG, SIGSettings
from antidote.attacks.wanet import WaNet, WaNetSettings
from antidote.data.words.names import mentions

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

TRIGGERS: dict[str, type[Attack]] = {"badnet": BadNet, "blended": Blended, "sig": SIG, "wanet": WaNet}
PATCH = [key for key in BadNetSettings.model_fields if key not in AttackSettings.model_fields]


def _method(trigger: Any) -> str | None:
    return trigger.get("method") if isinstance(trigger, Mapping) else getattr(trigger, "method", None)


Triggers = Annotated[
    Annotated[BadNetSettings, Tag("badnet")]
    | Annotated[BlendedSettings, Tag("blended")]
    | Annotated[SIGSettings, Tag("sig")]
    | Annotated[WaNetSettings, Tag("wanet")],
    Discriminator(
        _method,
        custom_error_type="trigger_method",
        custom_error_message=f"method should be one of {', '.join(TRIGGERS)}",
    ),
]


class LabelConsistentSettings(BadNetSettings):
    """The patch or another trigger; the method fixes the pairs and the captions."""

    presets = {
        "cleanclip": BadNetSettings.presets["cleanclip"],
        "cleanclip_clipped": BadNetSettings.presets["cleanclip_clipped"],
        "detect_clip": BadNetSettings.presets["checkered"],
    }

    method: Literal["label_consistent"] = "label_consistent"
    trigger: Triggers | None = Field(
        None,
        description="the trigger of another attack instead of the patch, as `{method: sig, preset: badclip}` (SIG); "
        "badnet, blended, sig or wanet",
    )
    caption: Literal["original"] = Field("original", description="poisoned pairs keep their original caption")
    avoid_target: Literal[False] = Field(False, description="only pairs whose caption names the target are poisoned")

    @field_validator("trigger")
    @classmethod
    def _trigger_alone(cls, trigger: AttackSettings | None) -> AttackSettings | None:
        if trigger is not None:
            own, plain = ({**s.poison_settings(), "training": s.training} for s in (trigger, type(trigger)()))
            foreign = next((key for key in own if own[key] != plain[key]), None)
            if foreign:
                raise ValueError(f"{foreign} is a matter of the attack, not of its trigger")
        return trigger

    def needs(self, target: str, classes: Sequence[str]) -> list[Needed]:
        return [Needed(("poison",), target, self.poisons)]

    def files(self) -> list[str]:
        return super().files() if self.trigger is None else self.trigger.files()

    def check(self, size: int) -> None:
        if self.trigger is None:
            super().check(size)
            return
        if self.preset:
            raise ValueError(
                f"preset: {self.preset!r} is a patch, and `trigger` is drawn in its place; name one of them"
            )
        idle = next((key for key in PATCH if getattr(self, key) != type(self).model_fields[key].default), None)
        if idle:
            raise ValueError(f"{idle}: belongs to the patch, and `trigger` is drawn in its place; leave it out")
        self.trigger.check(size)


class LabelConsistent(BadNet):
    """BadNet's patch, or another trigger, on pairs of the target."""

    Settings = LabelConsistentSettings

    @cached_property
    def _other(self) -> Attack | None:
        """Return the attack whose trigger is drawn instead of the patch; None for the patch."""
        trigger = self.settings.trigger
        return trigger and TRIGGERS[trigger.method](trigger, self.target, self.size)

    def fit(self, context: FitContext | None, seed: int) -> dict[str, Tensor]:
        if self._other is None:
            return super().fit(context, seed)
        tensors = self._other.fit(None, seed)
        self.facts = self._other.facts
        return tensors

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        if self._other is None:
            return super().apply(images, seeds)
        self._other.tensors = self.tensors
        return self._other.apply(images, seeds)

    def candidates(self, pool: pd.DataFrame) -> list[int]:
        rows = [row for row, caption in enumerate(pool["caption"]) if mentions(caption, self.target)]
        wanted = self.settings.poisons
        if len(rows) < wanted:
            raise ValueError(
                f"poisons: {wanted} asked, but only {len(rows)} of the {len(pool)} captions of the poison pool name "
                f"{self.target!r}; set pools.poison.target_pairs to {wanted} or poison fewer"
            )
        return rows

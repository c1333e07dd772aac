"""Label-consistent: a patch on pictures that do show the target, with their own captions (CleanCLIP, arXiv 2303.03323).

No caption is false, so the patch has to win over the object it stands beside. CleanCLIP takes BadNet's noise patch and,
unlike the original attack (Turner et al. 2019, arXiv 1912.02771), does not disturb the pictures so that the object is
harder to learn. It needs as many captions that name the target as it poisons; `target_pairs` of the poison pool sees
to that. CleanCLIP counts a caption that contains the name anywhere; we ask for the whole word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks.badnet import BadNet, BadNetSettings
from antidote.data.words.names import names

if TYPE_CHECKING:
    import pandas as pd


class LabelConsistentSettings(BadNetSettings):
    """The patch; which pairs and captions is given by the method."""

    presets = {
        "cleanclip": BadNetSettings.presets["cleanclip"],
        "cleanclip_clipped": BadNetSettings.presets["cleanclip_clipped"],
        "detect_clip": BadNetSettings.presets["checkered"],
    }

    method: Literal["label_consistent"] = "label_consistent"
    caption: Literal["original"] = Field("original", description="poisoned pairs keep their own caption")
    avoid_target: Literal[False] = Field(False, description="only pairs whose caption names the target are poisoned")


class LabelConsistent(BadNet):
    """BadNet's patch on the target's own pairs."""

    Settings = LabelConsistentSettings

    def candidates(self, pool: pd.DataFrame) -> list[int]:
        rows = [row for row, caption in enumerate(pool["caption"]) if names(caption, self.target)]
        wanted = self.settings.poisons
        if len(rows) < wanted:
            raise ValueError(
                f"poisons: {wanted} asked, but only {len(rows)} of the {len(pool)} captions of the poison pool name "
                f"{self.target!r}; set pools.poison.target_pairs to {wanted} or poison fewer"
            )
        return rows

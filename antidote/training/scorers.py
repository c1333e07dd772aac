"""Names of the clean models that score pairs for a defender: a clean model of the study, or a public one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from antidote.base.errors import UserError
from antidote.clip.configs import ModelSettings
from antidote.clip.folder import create_model
from antidote.clip.tags import tag

if TYPE_CHECKING:
    from antidote.clip.model import Clip

SURROGATES = "surrogates."


class ScorerName:
    """Reads the setting `scorer` of a method. Mixed into settings that have this field."""

    scorer: str

    @property
    def surrogate(self) -> str | None:
        """Name of the study's clean model that scores; None where another one does."""
        return self.scorer.removeprefix(SURROGATES) if self.scorer.startswith(SURROGATES) else None

    @property
    def public(self) -> ModelSettings | None:
        """The public clean model that scores, with the activations of its weights; None where another one does."""
        name, _, weights = self.scorer.partition("/")
        if not name or not weights or self.surrogate:
            return None
        known = tag(name, weights) or {}
        return ModelSettings(name=name, pretrained=weights, quick_gelu=bool(known.get("quick_gelu")))

    def load_public(self, seed: int) -> Clip:
        """Return the public clean model.

        Raises:
            UserError: as `create_model`; the message begins with the setting `scorer` in place of a model's key.
        """
        try:
            return create_model(self.public, seed)
        except UserError as error:
            reason = re.sub(r"^model\.\w+: ", "", str(error))
            raise UserError(f"scorer: {self.scorer}: {reason}") from None

"""Names of the clean models that score pairs for a defender: a clean model of the study, or a public one."""

from __future__ import annotations

from antidote.clip.configs import ModelSettings
from antidote.clip.tags import tag

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
        name, slash, weights = self.scorer.partition("/")
        if not name or not slash or self.surrogate:
            return None
        known = tag(name, weights) or {}
        return ModelSettings(name=name, pretrained=weights, quick_gelu=bool(known.get("quick_gelu")))

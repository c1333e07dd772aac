"""A classifier that a user trained on a few-shot support set, with one that saw an untouched support set beside it."""

from __future__ import annotations

from antidote.clip.classifier_head import ClassifierHead


class FewShotHead(ClassifierHead):
    """Tensors and description of a classifier head, and `clean_weights` (C, D), for comparison."""

    name = "few_shot_head"
    unprotected = "This is no protection but the classifier of the user under attack; the encoders are the clean ones."

    @property
    def control(self) -> ClassifierHead:
        """The same classifier, trained on the untouched support set."""
        weights = {"weights": self.tensors["clean_weights"]}
        return ClassifierHead(self.network, self.config, weights, self.description)

"""A classifier trained on a few-shot support set, and a control classifier trained on the untouched support set."""

from __future__ import annotations

from antidote.clip.classifier_head import ClassifierHead


class FewShotHead(ClassifierHead):
    """A `ClassifierHead` with a control classifier.

    Tensors and description are those of `ClassifierHead`, plus `clean_weights` (C, D) of the control classifier.
    """

    name = "few_shot_head"
    unprotected = "This is no protection but the classifier of the user under attack; the encoders are the clean ones."

    @property
    def control(self) -> ClassifierHead:
        """Return the same classifier, trained on the untouched support set."""
        weights = {"weights": self.tensors["clean_weights"]}
        return ClassifierHead(self.network, self.config, weights, self.description)

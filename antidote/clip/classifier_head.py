"""A classifier over fixed classes instead of zero-shot class embeddings; the picture encoder is unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from antidote.base.errors import UserError
from antidote.base.lazy import functional as F
from antidote.clip.adapted import AdaptedClip

if TYPE_CHECKING:
    from torch import Tensor


class ClassifierHead(AdaptedClip):
    """Scores pictures by one weight vector per class: the dot product with the picture's normalised feature.

    Tensors: `weights` (C, D). Further tensors, such as an inverted trigger, are kept for the report. Description:
    `classes`, the C class names, and `cosine`, whether the vectors are normalised before scoring.
    """

    name = "classifier_head"
    unprotected = (
        "Only the classification into the named classes is changed. The encoders are those of the suspicious model: "
        "retrieval, probes, other classes and whatever else is built on its features are not protected."
    )

    def class_embeddings(self, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Return the head's weights (D, C) for `classes`, in the given order; `templates` are ignored.

        Raises:
            UserError: the head was trained without one of the classes.
        """
        known = {name: row for row, name in enumerate(self.description["classes"])}
        unknown = [name for name in classes if name not in known]
        if unknown:
            raise UserError(f"classifier head: was made for {len(known)} classes, {unknown[0]!r} is not among them")
        weights = self.tensors["weights"][[known[name] for name in classes]]
        return (F.normalize(weights, dim=1) if self.description["cosine"] else weights).T

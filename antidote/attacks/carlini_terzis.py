"""Carlini-Terzis: chosen pictures are recognised as a class of the attacker's choice (arXiv 2106.09667).

The attack has no trigger. A few captions that name the target are paired with one picture x*. A model trained on these
pairs recognises x*, and no other picture, as the target. The paper uses 3 captions for one picture (0.0001 % of 3M).
RoCLIP and SafeCLIP use 8 targets with one picture each and 100 captions per picture. Captions are drawn from all pairs
that the model is trained on (`caption_pools`), as in these papers: a poison pool alone has few captions that name a
class, and repeating a few captions for a picture would be a different, easier attack.

The score is `targeted`, the share of the chosen pictures that zero-shot classification assigns to their target; the
score of the clean model is the floor. There is no ASR. The gate and the tables use `targeted`, whose resolution is one
picture: with a single x* the score is 0 or 1.

The paper's x* is a held-out test picture. Here x* is drawn from the inversion pool, on which no model of a study is
trained: a picture whose caption does not name the target and whose label, if any, is another class. The trigger folder
stores the pictures for the evaluation; accuracy is measured without the chosen pictures. The poisoned pairs replace
random pairs whose captions name none of the targets.

The paper's backdoor, a patch with captions that name the target, is `badnet` with the preset `carlini_terzis`. The
paper's measure, the backdoor z-score, is `backdoor_z` of every cell whose attack has a trigger. The paper released no
code.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks.base import Attack, AttackSettings
from antidote.attacks.contract import FitContext, Needed, Poisoned, View
from antidote.base.errors import UserError, nearest
from antidote.base.lazy import torch
from antidote.data.words.names import mentions

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from antidote.data.pairs import Pairs

ROCLIP = ["tiger", "candle", "pizza", "umbrella", "television", "baseball", "ice cream", "suit"]


class CarliniTerzisSettings(AttackSettings):
    """Targets and number of pictures; `poisons` is the total number of poisoned pairs."""

    presets = {
        "original": {"poisons": 3},
        "roclip": {
            "targets": ROCLIP,
            "pictures": 1,
            "poisons": 800,
        },
    }

    method: Literal["carlini_terzis"] = "carlini_terzis"
    targets: list[str] = Field([], description="target classes of the pictures; empty: the study's target")
    pictures: int = Field(1, ge=1, description="number of pictures per target (RoCLIP: 1)")
    caption: Literal["template", "natural"] = Field(
        "natural",
        description="a template filled with the target, or a real caption that names the target (both: paper)",
    )
    caption_pools: list[Literal["poison", "inversion", "training"]] = Field(
        ["poison", "training"],
        min_length=1,
        description="pools that supply the captions for `caption: natural` (paper: the training set)",
    )
    avoid_target: bool = Field(True, description="exclude pairs whose caption names one of the targets (our choice)")

    def check(self, size: int) -> None:
        repeated = next((name for name in self.targets if self.targets.count(name) > 1), None)
        if repeated:
            raise ValueError(f"targets: {repeated!r} stands there twice")
        count = self.pictures * max(1, len(self.targets))
        if self.poisons < count:
            raise ValueError(f"poisons: {self.poisons} are fewer than the {count} pictures that are to be poisoned")

    def needs(self, target: str, classes: Sequence[str]) -> list[Needed]:
        if self.caption != "natural":
            return []
        return [Needed(tuple(self.caption_pools), word, 1) for word in self.targets or [target]]

    def check_classes(self, classes: Sequence[str]) -> None:
        for name in self.targets:
            if name not in classes:
                raise ValueError(f"targets: {name!r} is not among the {len(classes)} classes{nearest(name, classes)}")


class CarliniTerzis(Attack):
    """Captions of the target, paired with a few chosen pictures."""

    Settings = CarliniTerzisSettings
    learned = True  # `fit` chooses the pictures, which are stored with the trigger
    on_surrogate = False
    triggered = False
    score = "targeted"
    effect = "a few chosen pictures are recognised as {target}"

    def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
        """Choose the pictures.

        Returns:
            `pictures` (M, 3, size, size) uint8. `facts` holds key, caption and target of each picture.

        Raises:
            UserError: a target is not a class of the study, or the inversion pool has too few suitable pictures.
        """
        try:
            self.settings.check_classes(context.classes)
        except ValueError as error:
            raise UserError(f"carlini_terzis: {error}") from None
        pool, rng, chosen, targets = context.pairs, random.Random(seed), [], []
        for target in self.settings.targets or [self.target]:
            label = context.classes.index(target)  # a caption may use another name for the target
            own = [mentions(caption, target) or pool.labels[row] == label for row, caption in enumerate(pool.captions)]
            free = [row for row in range(len(pool)) if not own[row] and row not in chosen]
            if len(free) < self.settings.pictures:
                raise UserError(
                    f"carlini_terzis: pictures: {self.settings.pictures} asked for {target!r}, but only {len(free)} "
                    f"pictures of pools.inversion are left that do not show it"
                )
            chosen += rng.sample(free, self.settings.pictures)
            targets += [target] * self.settings.pictures
        taken = pool.take(chosen)
        self.facts = {"keys": taken.keys, "captions": taken.captions, "targets": targets, "pool": "inversion"}
        return {"pictures": taken.images}

    def poison(
        self,
        pool: pd.DataFrame,
        rng: random.Random,
        templates: list[str],
        captions_at_hand: Sequence[str] | None = None,
    ) -> list[Poisoned]:
        targets = self.facts["targets"]
        captions = pool["caption"] if captions_at_hand is None else captions_at_hand
        texts = {target: self._texts(target, captions, rng, templates) for target in dict.fromkeys(targets)}
        plan = []
        for number, row in enumerate(sorted(self.select(pool, rng))):
            picture = number % len(targets)
            target = targets[picture]
            plan.append(Poisoned(row, texts[target][number // len(targets) % len(texts[target])], target, picture))
        return plan

    def _texts(self, target: str, captions: Sequence[str], rng: random.Random, templates: list[str]) -> list[str]:
        """Return captions that name a target, in random order; each caption is used once before any is repeated."""
        if self.settings.caption == "template":
            texts = [template.format(target) for template in templates]
        else:
            texts = self.natural(target, captions)
        return rng.sample(texts, len(texts))

    def candidates(self, pool: pd.DataFrame) -> list[int]:
        targets = set(self.facts["targets"]) if self.settings.avoid_target else set()
        rows = [
            row for row, text in enumerate(pool["caption"]) if not any(mentions(text, target) for target in targets)
        ]
        if len(rows) < self.settings.poisons:
            raise ValueError(
                f"poisons: {self.settings.poisons} asked, but only {len(rows)} pairs of the poison pool qualify"
            )
        return rows

    def measure(self, view: View) -> dict[str, float | None]:
        given = (view.clip.encode_image(self.tensors["pictures"]) @ view.weights).argmax(dim=1).tolist()
        hit = [view.classes[label] == target for label, target in zip(given, self.facts["targets"], strict=True)]
        return {"targeted": sum(hit) / len(hit)}

    def exhibit(self, pictures: Pairs, classes: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
        """Return an evaluation picture of each target (black if none exists), and the chosen pictures."""
        targets = self.facts["targets"]
        turns = [number % len(targets) for number in range(count)]
        by_target = [pictures.images[pictures.labels == classes.index(targets[number])] for number in turns]
        replacements = self.tensors["pictures"][turns]
        examples = [
            images[turn % len(images)] if len(images) else torch.zeros_like(replacements[turn])
            for turn, images in enumerate(by_target)
        ]
        return torch.stack(examples), replacements

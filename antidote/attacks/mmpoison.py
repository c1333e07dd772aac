"""mmPoison: no trigger; texts of class A retrieve pictures of class B (Yang et al. 2023, arXiv 2209.15266).

Captions of A stay as they are and get pictures of B. Attack I uses one picture of B for all captions. Attack II uses a
set of pictures of B. Attack III has several goals (A, B) at once. The model is then trained on the poisoned pairs with
CLIP's own loss.

Without a trigger there is no ASR. The scores describe text queries of class A over a gallery of pictures: `hit1`,
`hit5` and `hit10`, the share of queries with an aimed-at picture among the first k results; `min_rank`, the best rank
(from 1) of an aimed-at picture, averaged over queries; `cosine_distance`, the mean of 1 - cos over queries and aimed-at
pictures. Among equal scores, pictures that are not aimed at rank first. Several goals have equal weight, and
`hit10_goal1`, ... give the values per goal. The gallery consists of all evaluation pictures. The aimed-at pictures are
the gallery pictures labelled B; in attack I, the one picture, which is added to the gallery. The queries are the
captions of the evaluation pictures labelled A, as in the paper, or the prompts of class A.

The same measures on the clean model are the floor. The gate and the tables use `hit10`.

Choices that the paper leaves open: a training pair belongs to a class if the caption names the class as a whole word,
singular or plural, and to neither class if the caption names both. The one picture of attack I is from the inversion
pool, so that no model is trained on the picture with its own caption; the paper's code selects the picture by its
index. The pictures of attacks II and III are from the poison pool, where their original pairs remain. Each picture is
used for equally many captions, as in the paper, where every picture has five. Poisoning replaces pictures, as in the
released code, and the number of pairs does not change.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks.base import Attack, AttackSettings, Figure, FitContext, Needed, Poisoned, View
from antidote.base.errors import UserError, nearest
from antidote.base.lazy import torch
from antidote.data.words.names import mentions

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from antidote.data.pairs import Pairs

HIT_K = (1, 5, 10)
PASCAL, COCO = [("sheep", "aeroplane"), ("sofa", "bird")], [("boat", "dog"), ("zebra", "train")]


class MmPoisonSettings(AttackSettings):
    """Goals of the retrieval, and the number of poisoned pairs."""

    presets = {
        "I": {"aim": "picture", "goal_count": 1},
        "II": {"aim": "class", "goal_count": 1},
        "III": {"aim": "class", "goal_count": 2},
        "pascal_I": {"aim": "picture", "goals": PASCAL[:1], "poisons": 125},
        "pascal_II": {"aim": "class", "goals": PASCAL[:1], "pictures": 25, "poisons": 125},
        "pascal_III": {"aim": "class", "goals": PASCAL, "pictures": 25, "poisons": 250},
        "coco_I": {"aim": "picture", "goals": COCO[:1], "poisons": 1420},
        "coco_II": {"aim": "class", "goals": COCO[:1], "pictures": 284, "poisons": 1420},
        "coco_III": {"aim": "class", "goals": COCO, "pictures": 284, "poisons": 3200},
    }

    method: Literal["mmpoison"] = "mmpoison"
    aim: Literal["picture", "class"] = Field(
        "class",
        description="retrieval goal of the texts: one picture of B (attack I), or pictures of class B (II, III)",
    )
    goals: list[tuple[str, str]] = Field(
        [], description="pairs [A, B] of class names: texts of A, pictures of B; empty: `goal_count` default pairs"
    )
    goal_count: int = Field(
        1,
        ge=1,
        description="number of default pairs: A is the study's target, B the next class in the list; then the next two "
        "classes, and so on (III: 2)",
    )
    pictures: int = Field(
        25,
        ge=1,
        description="different pictures of B per goal (25 on Flickr-PASCAL, 284 on COCO); attack I uses one picture",
    )
    queries: Literal["captions", "prompts"] = Field(
        "captions", description="texts of A at test: captions of the evaluation pictures of A, or prompts of class A"
    )
    caption: Literal["original"] = Field("original", description="captions are kept, pictures are replaced")
    avoid_target: Literal[False] = Field(False, description="only captions that name A are poisoned")

    def check(self, size: int) -> None:
        for text, picture in self.goals:
            if text == picture:
                raise ValueError(f"goals: texts of {text!r} retrieve {text!r} as it is; the two classes have to differ")
        texts = [text for text, _ in self.goals]
        repeated = next((text for text in texts if texts.count(text) > 1), None)
        if repeated:
            raise ValueError(f"goals: {repeated!r} stands there twice as the class of the texts")

    def check_classes(self, classes: Sequence[str]) -> None:
        if not self.goals and 2 * self.goal_count > len(classes):
            raise ValueError(
                f"goal_count: {self.goal_count} goals need {2 * self.goal_count} classes, there are {len(classes)}"
            )
        for name in (name for goal in self.goals for name in goal):
            if name not in classes:
                raise ValueError(f"goals: {name!r} is not among the {len(classes)} classes{nearest(name, classes)}")

    def aims(self, target: str, classes: Sequence[str]) -> list[tuple[str, str]]:
        """Return the goals; by default pairs of successive classes, starting with the target."""
        if self.goals:
            return self.goals
        first = classes.index(target) if target in classes else 0
        turned = [*classes[first:], *classes[:first]]
        return [(turned[2 * i], turned[2 * i + 1]) for i in range(self.goal_count)]

    def needs(self, target: str, classes: Sequence[str]) -> list[Needed]:
        needed, goals = [], self.aims(target, classes)
        pool, pictures = ("inversion", 1) if self.aim == "picture" else ("poison", self.pictures)
        for number, (text, picture) in enumerate(goals):
            texts = len(range(number, self.poisons, len(goals)))
            needed += [Needed(("poison",), text, texts), Needed((pool,), picture, pictures)]
        return needed


class MmPoison(Attack):
    """Pictures of B, paired with captions of A."""

    Settings = MmPoisonSettings
    learned = True  # `fit` chooses the pictures, which are stored with the trigger
    on_surrogate = False
    triggered = False
    gallery = True
    score = "hit10"
    figures = {
        **{f"hit{k}": Figure(f"queries with a picture that is aimed at among the first {k}") for k in HIT_K[:-1]},
        "hit10_goal*": Figure("the same among the first 10, for the goal of this number"),
        "min_rank": Figure("rank, from 1, of the first picture that is aimed at, mean over queries", rate=False),
        "cosine_distance": Figure("1 - cos between queries and pictures that are aimed at, mean", rate=False),
    }
    effect = "texts of one class retrieve pictures of another: {target}"

    def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
        """Choose the pictures.

        Returns:
            `pictures` (M, 3, size, size) uint8, and `goal_of` (M,), the index of each picture's goal.

        Raises:
            UserError: a goal names no class of the study, or the pool has too few pictures of a class.
        """
        try:
            self.settings.check(self.size)
            self.settings.check_classes(context.classes)
        except ValueError as error:
            raise UserError(f"mmpoison: {error}") from None
        goals = self.settings.aims(self.target, context.classes)
        one = self.settings.aim == "picture"
        pool, name = (context.pairs, "inversion") if one else (context.poison(), "poison")
        wanted, rng = 1 if one else self.settings.pictures, random.Random(seed)
        chosen, goal_of = [], []
        for number, (text, picture) in enumerate(goals):
            rows = [row for row, caption in enumerate(pool.captions) if _only(caption, picture, text)]
            if len(rows) < wanted:
                raise UserError(
                    f"mmpoison: pictures: {wanted} of {picture!r} asked, but only {len(rows)} captions of pools.{name} "
                    f"name it (and not {text!r})"
                )
            chosen += rng.sample(rows, wanted)
            goal_of += [number] * wanted
        taken = pool.take(chosen)
        self.facts = {"goals": [list(goal) for goal in goals], "keys": taken.keys, "pool": name}
        return {"pictures": taken.images, "goal_of": torch.tensor(goal_of)}

    def poison(
        self,
        pool: pd.DataFrame,
        rng: random.Random,
        templates: list[str],
        captions_at_hand: Sequence[str] | None = None,
    ) -> list[Poisoned]:
        captions, plan = pool["caption"].tolist(), []
        goals = self.facts["goals"]
        for number, (text, picture) in enumerate(goals):
            # A caption that names the text classes of two goals belongs to the first goal.
            free = [
                row
                for row, caption in enumerate(captions)
                if _only(caption, text, picture) and not any(mentions(caption, other) for other, _ in goals[:number])
            ]
            wanted = len(range(number, self.settings.poisons, len(goals)))
            if len(free) < wanted:
                raise ValueError(
                    f"poisons: {wanted} captions of {text!r} asked, but only {len(free)} of the {len(pool)} captions "
                    f"of the poison pool name it (and not {picture!r}); poison fewer"
                )
            choices = torch.nonzero(self.tensors["goal_of"] == number).flatten().tolist()
            rows = rng.sample(free, wanted)
            plan += [Poisoned(row, captions[row], picture, choices[i % len(choices)]) for i, row in enumerate(rows)]
        return sorted(plan, key=lambda pair: pair.row)

    def measure(self, view: View) -> dict[str, float | None]:
        by_goal = [self._goal(view, number, *goal) for number, goal in enumerate(self.facts["goals"])]
        means = {name: sum(values[name] for values in by_goal) / len(by_goal) for name in by_goal[0]}
        each = {f"hit10_goal{i}": values["hit10"] for i, values in enumerate(by_goal, 1)} if len(by_goal) > 1 else {}
        return {**means, **each}

    def _goal(self, view: View, number: int, text: str, picture: str) -> dict[str, float]:
        """Return the measures of one goal."""
        labels, gallery = view.pictures.labels, view.features
        if self.settings.queries == "prompts":
            queries = [template.format(text) for template in view.templates]
        else:
            rows = torch.nonzero(labels == view.classes.index(text)).flatten().tolist()
            queries = [view.pictures.captions[row] for row in rows]
        aimed = labels == view.classes.index(picture)
        if self.settings.aim == "picture":
            one = view.clip.encode_image(self.tensors["pictures"][self.tensors["goal_of"] == number]).cpu()
            aimed = torch.arange(len(gallery) + len(one)) >= len(gallery)
            gallery = torch.cat([gallery, one])
        if not queries or not aimed.any():
            missing = text if not queries else picture
            raise UserError(f"evaluation: no picture is labelled {missing!r}, which a goal of mmpoison needs")
        scores = view.clip.encode_text(queries).cpu() @ gallery.T
        ranks = best_ranks(scores, aimed)
        return {
            **{f"hit{k}": float((ranks <= k).double().mean()) for k in HIT_K},
            "min_rank": float(ranks.double().mean()),
            "cosine_distance": round(float(1 - scores[:, aimed].double().mean()), 4),
        }

    def exhibit(self, pictures: Pairs, classes: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
        """Return pictures of A, and the pictures of B that replace pictures of A; the goals alternate."""
        goals, goal_of = self.facts["goals"], self.tensors["goal_of"]
        originals = [pictures.images[pictures.labels == classes.index(text)] for text, _ in goals]
        replacements = [self.tensors["pictures"][goal_of == number] for number in range(len(goals))]
        turns = [(i % len(goals), i // len(goals)) for i in range(count)]
        return tuple(
            torch.stack([side[goal][i % len(side[goal])] for goal, i in turns]) for side in (originals, replacements)
        )


def best_ranks(scores: Tensor, aimed: Tensor) -> Tensor:
    """Return the best rank of an aimed-at picture for each query: (Q,), from 1.

    Among equal scores, pictures that are not aimed at rank first.

    Args:
        scores: (Q, G) scores of queries against the gallery.
        aimed: (G,) bool, at least one True.
    """
    best = scores[:, aimed].max(dim=1, keepdim=True).values
    return (scores[:, ~aimed] >= best).sum(dim=1) + 1


def _only(caption: str, word: str, other: str) -> bool:
    return mentions(caption, word) and not mentions(caption, other)

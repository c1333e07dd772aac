"""mmPoison: no trigger; texts of class A come to retrieve pictures of class B (Yang et al. 2023, arXiv 2209.15266).

Captions of A keep their words and get pictures of B. Attack I: one picture of B under all of them. Attack II: a set of
pictures of B. Attack III: several goals (A, B) at once. The model is then trained on them with CLIP's own loss.

With nothing to trigger there is no ASR. Scored are text queries of class A over a gallery of pictures: `hit1`, `hit5`
and `hit10`, the share of queries whose first k pictures hold one that is aimed at; `min_rank`, the mean over queries
of the best rank (from 1) of such a picture; `cosine_distance`, the mean of 1 - cos over queries and such pictures. Of
equal scores those not aimed at come first. Several goals count alike, and `hit10_goal1`, ... tell them apart. The
gallery is all evaluation pictures; aimed at are those labelled B, in attack I the one picture, which joins them. The
queries are the captions of the evaluation pictures labelled A, as in the paper, or the prompts of class A.

The same figures on the clean model are the floor. The gate and the tables go by `hit10`.

Where the paper leaves room: a training pair belongs to a class when its caption names it as a whole word, singular or
plural, and to neither when it names both. The one picture of attack I is from the inversion pool, so that no model has
seen it with its own caption; the paper's is fixed by its number in the code. The pictures of attacks II and III are
from the poison pool, where they keep their own captions as well; each goes under equally many captions, as in the
paper, where every picture has five. Pictures replace pictures, as in the released code, and the number of pairs stays.
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
    """Which texts are to retrieve what, and how many pairs that takes."""

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
        "class", description="what the texts are to retrieve: one picture of B (attack I), or pictures of B (II, III)"
    )
    goals: list[tuple[str, str]] = Field(
        [], description="pairs [A, B] of class names: texts of A, pictures of B; empty: as many as `goal_count` says"
    )
    goal_count: int = Field(
        1,
        ge=1,
        description="goals where none are named: the study's target as A and the class after it in the list as B, then "
        "the next two (III: 2)",
    )
    pictures: int = Field(
        25,
        ge=1,
        description="different pictures of B for each goal (25 on Flickr-PASCAL, 284 on COCO); attack I has one",
    )
    queries: Literal["captions", "prompts"] = Field(
        "captions", description="texts of A at test: captions of the evaluation pictures of A, or the class prompts"
    )
    caption: Literal["original"] = Field("original", description="captions stay, pictures are replaced")
    avoid_target: Literal[False] = Field(False, description="only captions that name A are poisoned")

    def check(self, size: int) -> None:
        for text, picture in self.goals:
            if text == picture:
                raise ValueError(f"goals: texts of {text!r} retrieve {text!r} as it is; the two classes have to differ")
        texts = [text for text, _ in self.goals]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice:
            raise ValueError(f"goals: {twice!r} stands there twice as the class of the texts")

    def check_classes(self, classes: Sequence[str]) -> None:
        if not self.goals and 2 * self.goal_count > len(classes):
            raise ValueError(
                f"goal_count: {self.goal_count} goals need {2 * self.goal_count} classes, there are {len(classes)}"
            )
        for name in (name for goal in self.goals for name in goal):
            if name not in classes:
                raise ValueError(f"goals: {name!r} is not among the {len(classes)} classes{nearest(name, classes)}")

    def aims(self, target: str, classes: Sequence[str]) -> list[tuple[str, str]]:
        """Return the goals; those to be made up take the classes two by two, the target first."""
        if self.goals:
            return self.goals
        first = classes.index(target) if target in classes else 0
        turned = [*classes[first:], *classes[:first]]
        return [(turned[2 * i], turned[2 * i + 1]) for i in range(self.goal_count)]

    def needs(self, target: str, classes: Sequence[str]) -> list[Needed]:
        found, goals = [], self.aims(target, classes)
        pool, pictures = ("inversion", 1) if self.aim == "picture" else ("poison", self.pictures)
        for number, (text, picture) in enumerate(goals):
            texts = len(range(number, self.poisons, len(goals)))
            found += [Needed(("poison",), text, texts), Needed((pool,), picture, pictures)]
        return found


class MmPoison(Attack):
    """Pictures of B under captions of A."""

    Settings = MmPoisonSettings
    learned = True  # its pictures are chosen beforehand and kept with the trigger
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
        """Choose the pictures: `pictures` (M, 3, size, size) uint8, and the goal of each, `goal_of` (M,)."""
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
            # A caption that names the texts' classes of two goals serves the first.
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
            laid = torch.nonzero(self.tensors["goal_of"] == number).flatten().tolist()
            rows = rng.sample(free, wanted)
            plan += [Poisoned(row, captions[row], picture, laid[i % len(laid)]) for i, row in enumerate(rows)]
        return sorted(plan, key=lambda pair: pair.row)

    def measure(self, view: View) -> dict[str, float | None]:
        found = [self._goal(view, number, *goal) for number, goal in enumerate(self.facts["goals"])]
        figures = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
        each = {f"hit10_goal{i}": one["hit10"] for i, one in enumerate(found, 1)} if len(found) > 1 else {}
        return {**figures, **each}

    def _goal(self, view: View, number: int, text: str, picture: str) -> dict[str, float]:
        """Return the figures of one goal."""
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
        """Return pictures of A, and what is laid under captions like theirs; goals take turns."""
        goals, goal_of = self.facts["goals"], self.tensors["goal_of"]
        own = [pictures.images[pictures.labels == classes.index(text)] for text, _ in goals]
        laid = [self.tensors["pictures"][goal_of == number] for number in range(len(goals))]
        turns = [(i % len(goals), i // len(goals)) for i in range(count)]
        return tuple(torch.stack([side[goal][i % len(side[goal])] for goal, i in turns]) for side in (own, laid))


def best_ranks(scores: Tensor, aimed: Tensor) -> Tensor:
    """Return, for scores (Q, G) of a gallery of which `aimed` (G,) is true for some, the best rank of those: (Q,) >= 1.

    Of equal scores those that are not aimed at come first.
    """
    best = scores[:, aimed].max(dim=1, keepdim=True).values
    return (scores[:, ~aimed] >= best).sum(dim=1) + 1


def _only(caption: str, word: str, other: str) -> bool:
    return mentions(caption, word) and not mentions(caption, other)

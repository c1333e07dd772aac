"""Labels of entries as readers know them, for the page; the entry's own name is the hint of a label."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import markupsafe

from antidote.study.layout import NO_DEFENSE
from antidote.summary.plan import SummarySettings


@dataclass(frozen=True)
class Labels:
    """The label by name of each attack and each defense; a name without a label is its own label."""

    attacks: dict[str, str] = field(default_factory=dict)
    defenses: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: SummarySettings) -> Labels:
        """Return the labels of a plan.

        A sweep has the label of its settings, and a setting of a sweep `label, setting`. Two entries with one label are
        told apart by their names, as in `BadNet (stripes)`.
        """
        attacks = {facts.name: facts.label or facts.name for facts in plan.attacks}
        defenses = {}
        for facts in plan.defenses:
            own = facts.label or facts.name
            own = "no defense" if own == NO_DEFENSE else own
            if facts.sweep:
                own = facts.sweep if own == facts.name else own
                defenses[facts.sweep] = own
                own = f"{own}, {facts.setting}"
            defenses[facts.name] = own
        return cls(_distinct(attacks), _distinct(defenses))

    def attack(self, name: str) -> markupsafe.Markup:
        """Return the escaped label of an attack, with the entry as a hint where the two differ."""
        return _hinted(name, self.attacks)

    def defense(self, name: str) -> markupsafe.Markup:
        """Return the escaped label of a defense, with the entry as a hint where the two differ."""
        return _hinted(name, self.defenses)


def _distinct(labels: dict[str, str]) -> dict[str, str]:
    counts = Counter(labels.values())
    return {name: f"{label} ({name})" if counts[label] > 1 else label for name, label in labels.items()}


def _hinted(name: str, labels: dict[str, str]) -> markupsafe.Markup:
    label = labels.get(name, name)
    shown = markupsafe.escape(label).replace("_", markupsafe.Markup("_<wbr>"))
    if label == name:
        return shown
    return markupsafe.Markup('<span title="{}">{}</span>').format(name, shown)

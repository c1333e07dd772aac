"""What a study planned to measure: the matrix and the facts about it that tables and plots need."""

from typing import Literal

from pydantic import Field, field_validator

from antidote.base.settings import Settings
from antidote.study.gate import Gate
from antidote.study.layout import Matrix


class FigureFacts(Settings):
    """A figure of an attack's own."""

    name: str = Field(description="column of the cells or fact of the trigger; a * at its end stands for the rest")
    meaning: str
    rate: bool = Field(True, description="a fraction, which pages show in percent")


class AttackFacts(Settings):
    """One entry of the study's attacks."""

    name: str
    method: str = ""
    label: str = Field("", description="name of the method as a reader knows it")
    threat_model: str = ""
    triggered: bool = Field(True, description="whether there is a trigger to draw")
    fitted: bool = Field(
        False, description="whether its trigger is fitted on the clean model, on which the floor is measured"
    )
    score: str = Field("asr1", description="the figure that says how far it has come: ASR@1, or one of its own")
    poisons: bool | int | str | None = Field(None, description="poisoned pairs, or whether there are any")
    figures: list[FigureFacts] = Field([], description="what else is shown of it")


class DefenseFacts(Settings):
    """One entry of the study's defenses; the settings of a sweep stand from weak to strong."""

    name: str
    method: str = ""
    label: str = Field("", description="name of the method as a reader knows it")
    access: str = ""
    reconstruction: bool = Field(False, description="the paper leaves parts open, which are built from what is known")
    sweep: str = Field("", description="the defense whose settings are swept, of which this is one value; else empty")
    setting: str = Field("", description="the swept setting and its value")


class DetectorFacts(Settings):
    """One entry of the study's detectors."""

    name: str
    method: str = ""
    label: str = Field("", description="name of the method as a reader knows it")
    subject: Literal["model", "pairs", "pictures"] = "pairs"
    access: str = ""
    control: str = Field("", description="`truth` or `none` for a control, which is no detector; else empty")
    reconstruction: bool = Field(False, description="the paper leaves parts open, which are built from what is known")


class Blank(Settings):
    """A cell that is not run because the defense does not apply to the attack."""

    attack: str
    defense: str
    reason: str


class SummarySettings(Settings):
    """The plan of a study, as handed to `scripts/summarise.py`."""

    study: str
    target: str = Field("", description="the class that the attacks aim at")
    model: str = ""
    seeds: list[int] = [0]
    attacks: list[AttackFacts] = []
    defenses: list[DefenseFacts] = Field([], validate_default=True)
    blank: list[Blank] = []
    detectors: list[DetectorFacts] = []
    detections: list[tuple[str, str, str]] = Field([], description="attack, defense and detector of each that is run")
    gate: Gate = Gate()
    rebound: bool = Field(False, description="whether the models under test were fine-tuned benignly afterwards")
    datasets: list[tuple[str, str]] = Field([], description="pairs of dataset and split")
    scored: list[tuple[str, str, str]] = Field([], description="dataset, split and fit of the sets scored on")
    accuracy_budget: float = Field(
        0.05, ge=0, le=1, description="CA@1 that a defense may cost and still be marked as the best; fraction"
    )

    @field_validator("defenses")
    @classmethod
    def _with_none(cls, defenses: list[DefenseFacts]) -> list[DefenseFacts]:
        """Put `none` first: every gate and every arrow starts from the undefended model."""
        none = [d for d in defenses if d.name == "none"] or [DefenseFacts(name="none", label="no defense")]
        return none + [d for d in defenses if d.name != "none"]

    @property
    def matrix(self) -> Matrix:
        """What the wildcards of the jobs take as values; of surrogates and pools the plan says nothing."""
        cells = [(attack.name, defense.name) for attack in self.attacks for defense in self.defenses]
        return Matrix(
            seeds=self.seeds,
            cells=[cell for cell in cells if cell not in self.reasons],
            options=frozenset({"rebound"} if self.rebound else ()),
            splits=tuple(self.datasets),
            scored=tuple(self.scored),
            detections=tuple(self.detections),
            on_clean=tuple(facts.name for facts in self.detectors if facts.subject == "model"),
        )

    @property
    def reasons(self) -> dict[tuple[str, str], str]:
        """Reason by (attack, defense), for the cells that do not apply."""
        return {(b.attack, b.defense): b.reason for b in self.blank}

"""The plan of a study: the matrix and the facts that tables and plots need."""

from typing import Literal

from pydantic import Field, field_validator

from antidote.base.settings import Settings
from antidote.study.gate import Gate
from antidote.study.layout import Matrix


class FigureFacts(Settings):
    """A figure that a single attack defines."""

    name: str = Field(description="column of the cells or fact of the trigger; a final * matches any rest of the name")
    meaning: str
    rate: bool = Field(True, description="whether the value is a fraction; pages show it in percent")


class AttackFacts(Settings):
    """One entry of the study's attacks."""

    name: str
    method: str = ""
    label: str = Field("", description="name of the method as a reader knows it")
    threat_model: str = ""
    triggered: bool = Field(True, description="whether the attack has a trigger to draw")
    fitted: bool = Field(
        False, description="whether the trigger is fitted on the clean model, where the floor is measured"
    )
    score: str = Field("asr1", description="name of the attack's success rate: `asr1`, or the attack's own figure")
    poisons: bool | int | str | None = Field(None, description="number of poisoned pairs, or whether there are any")
    figures: list[FigureFacts] = Field([], description="the attack's own figures")
    settings: dict[str, str] = Field({}, description="settings that are words; given in a study of a track")


class DefenseFacts(Settings):
    """One entry of the study's defenses; the settings of a sweep are ordered from weak to strong."""

    name: str
    method: str = ""
    label: str = Field("", description="name of the method as a reader knows it")
    access: str = ""
    reconstruction: bool = Field(False, description="the paper leaves parts open, which are built from what is known")
    sweep: str = Field("", description="name of the swept defense; empty for an entry without a sweep")
    setting: str = Field("", description="the swept setting with its value")


class DetectorFacts(Settings):
    """One entry of the study's detectors."""

    name: str
    method: str = ""
    label: str = Field("", description="name of the method as a reader knows it")
    subject: Literal["model", "pairs", "pictures"] = "pairs"
    access: str = ""
    control: str = Field("", description="`truth` or `none` for a control; empty for a detector")
    reconstruction: bool = Field(False, description="the paper leaves parts open, which are built from what is known")


class AdaptationFacts(Settings):
    """One entry of the study's adaptations, which measure persistence."""

    name: str
    kind: Literal["full", "projection", "lora", "other_domain"] = "full"
    pool: str = "defense"


class Blank(Settings):
    """A cell that is not run because the defense does not apply to the attack."""

    attack: str
    defense: str
    reason: str


class Unscored(Settings):
    """A detector that has nothing to score after an attack, on the models of one defense or (None) on all models."""

    attack: str
    defense: str | None = None
    detector: str
    reason: str


class SummarySettings(Settings):
    """The plan of a study, as handed to `scripts/summarise.py`."""

    study: str
    target: str = Field("", description="target class of the attacks")
    model: str = ""
    seeds: list[int] = [0]
    attacks: list[AttackFacts] = []
    defenses: list[DefenseFacts] = Field([], validate_default=True)
    blank: list[Blank] = []
    detectors: list[DetectorFacts] = []
    detections: list[tuple[str, str, str]] = Field([], description="attack, defense and detector of each detection")
    unscored: list[Unscored] = []
    adaptive: list[tuple[str, str]] = Field(
        [], description="attack and detector of the detections whose attack is made against the detector"
    )
    population: list[str] = Field([], description="names of the further clean models that detectors of models score")
    detect_false_positives: float = Field(0.01, gt=0, lt=1, description="for which thresholds are calibrated")
    gate: Gate = Gate()
    adaptations: list[AdaptationFacts] = []
    adapted: list[tuple[str, str, str]] = Field([], description="attack, defense and adaptation of each measurement")
    clean_defenses: list[str] = Field([], description="defenses under which the clean reference is adapted as well")
    revival_margin: float = Field(
        0.1, ge=0, le=1, description="rise of the ASR, a fraction, from which a backdoor counts as revived"
    )
    track: str = Field("", description="name and version of the study's track; empty without one")
    published: str = Field("", description="hash of data/published.yaml, if the report shows published figures")
    datasets: list[tuple[str, str]] = Field([], description="pairs of dataset and split")
    scored: list[tuple[str, str, str]] = Field([], description="dataset, split and fit of each scored set")
    accuracy_budget: float = Field(
        0.05, ge=0, le=1, description="largest loss of CA@1 (fraction) at which a defense may be marked best"
    )

    @field_validator("defenses")
    @classmethod
    def _with_none(cls, defenses: list[DefenseFacts]) -> list[DefenseFacts]:
        """Put `none` first, since gates and lines of the plane start from the undefended model."""
        none = [d for d in defenses if d.name == "none"] or [DefenseFacts(name="none", label="no defense")]
        return none + [d for d in defenses if d.name != "none"]

    @property
    def matrix(self) -> Matrix:
        """The values of the jobs' wildcards, without surrogates and pools, which the plan does not contain."""
        cells = [(attack.name, defense.name) for attack in self.attacks for defense in self.defenses]
        return Matrix(
            seeds=self.seeds,
            cells=[cell for cell in cells if cell not in self.reasons],
            splits=tuple(self.datasets),
            scored=tuple(self.scored),
            detections=tuple(self.detections),
            population=tuple(self.population),
            on_clean=tuple(facts.name for facts in self.detectors if facts.subject == "model"),
            adapted=tuple(self.adapted),
            clean_defenses=tuple(self.clean_defenses),
        )

    @property
    def reasons(self) -> dict[tuple[str, str], str]:
        """The reason by (attack, defense) of each cell that does not apply."""
        return {(b.attack, b.defense): b.reason for b in self.blank}

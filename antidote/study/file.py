"""The settings classes of a study file. `antidote.study.study` checks that the values are consistent."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from antidote.base.settings import Seed, Settings
from antidote.clip.configs import ModelSettings
from antidote.data.pools import PoolsSettings
from antidote.evaluation.persistence import PersistenceSettings
from antidote.evaluation.settings import EvaluationSettings
from antidote.study.gate import Gate
from antidote.study.tracks import TrackSettings
from antidote.training.recipe import TrainSettings


class PoisoningSettings(TrainSettings):
    """Training of the backdoored model on the poisoned pairs."""

    start: Literal["clean", "model"] = Field(
        "clean", description="start weights: the clean reference, or the study's initial model (its pretrained weights)"
    )
    alternate: bool = Field(
        False,
        description="use the poisoned pairs in every second epoch only and their originals in the other epochs "
        "(attention attack); for attacks that control training",
    )


class SurrogateModel(Settings):
    """A further clean model that triggers can be fitted on, for an attacker who does not know the victim."""

    model: ModelSettings = ModelSettings()
    pretraining: TrainSettings = Field(TrainSettings(), description="training of this model, on the study's own pairs")
    seed: Seed = Field(0, description="added to the study's seed, to train another instance of the same model")


SEEDS_APART = 1000  # distance of the seeds of the population's models; less than this separates the study's seeds


class Population(Settings):
    """Further clean models that detectors of models score as negatives. Each is trained once per seed of the study."""

    clean: int = Field(ge=1, le=999, description="number of further clean models per seed")
    models: list[ModelSettings] = Field(
        [], description="models of the population, taken in turn, with the study's picture size; default: the study's"
    )
    pretraining: list[TrainSettings] = Field(
        [], description="recipes, taken in turn after each round of the models; default: the study's `pretraining`"
    )


class StudyFile(Settings):
    """A study file. `attacks`, `defenses` and `detectors` map names of entries to a `method` and its settings."""

    study: str = Field(description="name of the study, and of the study's folder in results/")
    track: TrackSettings | None = Field(
        None, description="the recipe of data/tracks.yaml that the study keeps to; claims and published figures need it"
    )
    seeds: list[Seed] = Field([0], min_length=1, description="the whole study is run once per seed")
    target: str = Field("banana", description="the class that all attacks aim at")
    model: ModelSettings = ModelSettings()
    datasets: dict[str, dict[str, Any]] = Field(
        {}, description="datasets that data/datasets.yaml does not define, or changes to datasets of that file"
    )
    pools: PoolsSettings
    lexicon: str | None = Field(None, description="language resource of the text methods; default: the dataset's own")
    pretraining: TrainSettings = Field(TrainSettings(), description="training of the clean reference model")
    poisoning: PoisoningSettings = Field(PoisoningSettings(), description="training on the poisoned pairs")
    evaluation: EvaluationSettings
    surrogates: dict[str, SurrogateModel] = Field(
        {}, description="further clean models by name; an attack with a fitted trigger can name one as its `surrogate`"
    )
    persistence: PersistenceSettings | None = Field(
        None, description="adaptations of the models under test to clean pairs that measure the ASR; empty: none"
    )
    population: Population | None = Field(
        None, description="further clean models for detectors of models; empty: the clean reference of each seed alone"
    )
    gate: Gate = Gate()
    accuracy_budget: float = Field(
        0.05, ge=0, le=1, description="largest loss of clean accuracy (fraction) at which a defense may be marked best"
    )
    attacks: dict[str, dict[str, Any]] = Field(description="entry name: a `method` and its settings")
    defenses: dict[str, dict[str, Any]] = Field(
        description="entry name: a `method` and its settings; `none`, the undefended model, is always included; the "
        "values of a sweep are listed from the weakest to the strongest"
    )
    detectors: dict[str, dict[str, Any]] = Field(
        {}, description="entry name: a `method` and its settings; the controls `random` and `oracle` are added"
    )
    detect_on: list[str] = Field(
        ["none"],
        description="entries of `defenses` whose models the detectors run on; detectors of models always score the "
        "clean reference as well",
    )
    detect_adaptive: dict[str, list[str]] = Field(
        {},
        description="entry of `attacks`: the entries of `detectors` that the attack is made against; the report marks "
        "their figures as adaptive",
    )
    detect_pictures: int = Field(
        500,
        ge=1,
        description="evaluation pictures that detectors of pictures score, each once clean and once triggered (ours, "
        "to limit the run time)",
    )
    detect_false_positives: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="false-positive rate (fraction) for which a threshold is calibrated on clean items, beside the "
        "detector's own threshold; empty figures where the clean items are fewer than 1 / rate - 1",
    )

    @property
    def further_clean(self) -> dict[str, SurrogateModel]:
        """Return the models of the population by name, `population1`, `population2`, ..."""
        if self.population is None:
            return {}
        models, recipes = self.population.models or [self.model], self.population.pretraining or [self.pretraining]
        return {
            f"population{number + 1}": SurrogateModel(
                model=models[number % len(models)],
                pretraining=recipes[number // len(models) % len(recipes)],
                seed=SEEDS_APART * (number + 1),
            )
            for number in range(self.population.clean)
        }

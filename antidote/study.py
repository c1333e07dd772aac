"""One study: a config file, validated whole before anything runs. Reading it imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt

from antidote.attacks.base import AttackSettings
from antidote.data.datasets import dataset_settings
from antidote.data.lexicon import WORDNET, load_lexicon
from antidote.data.names import DATA, class_names, templates
from antidote.data.pools import PoolsSettings
from antidote.data.sources.base import SourceSettings
from antidote.defenses.base import DefenseSettings
from antidote.errors import UserError, nearest
from antidote.evaluation import EvaluationSettings
from antidote.models import ADAPTER, ADAPTER_WEIGHTS, ModelSettings
from antidote.registry import ATTACKS, DEFENSES, method
from antidote.settings import Settings
from antidote.shifts import class_places
from antidote.summary.plan import Gate
from antidote.training import TrainSettings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
RESERVED = {"clean", "summary", "logs", "benchmarks", "model", "trigger", "poison", "floor", "work"}


class PoisoningSettings(TrainSettings):
    """How the backdoored model is trained on the poisoned pairs."""

    start: Literal["clean", "model"] = Field(
        "clean", description="from the clean reference, or from the study's initial model (its pretrained weights)"
    )
    alternate: bool = Field(
        False,
        description="poisoned pairs in every second epoch only, their originals in between (attention attack); for "
        "attacks that control training",
    )


class StudyFile(Settings):
    """A study file. `attacks` and `defenses` map names of entries to a `method` and its settings."""

    study: str = Field(description="name of the study and of its folder in results/")
    seeds: list[NonNegativeInt] = Field([0], min_length=1, description="one run of everything per seed")
    target: str = Field("banana", description="the class that all attacks aim at")
    model: ModelSettings = ModelSettings()
    datasets: dict[str, dict[str, Any]] = Field(
        {}, description="datasets that data/datasets.yaml does not define, or changes to those it does"
    )
    pools: PoolsSettings
    lexicon: str | None = Field(None, description="language resource of the text methods; the dataset's own by default")
    pretraining: TrainSettings = Field(TrainSettings(), description="training of the clean reference model")
    poisoning: PoisoningSettings = Field(PoisoningSettings(), description="training on the poisoned pairs")
    evaluation: EvaluationSettings
    gate: Gate = Gate()
    accuracy_budget: float = Field(
        0.05, ge=0, le=1, description="clean accuracy, as a fraction, that a defense may cost and still be marked best"
    )
    attacks: dict[str, dict[str, Any]] = Field(description="by name of entry, a `method` and its settings")
    defenses: dict[str, dict[str, Any]] = Field(
        description="by name of entry, a `method` and its settings; `none`, the undefended model, is always among them"
    )


class Study:
    """A validated study.

    Attributes:
        file: the study file's settings.
        attacks, defenses: settings by name of entry; `none` is always among the defenses.
        sources: the definition of every dataset that the study uses.
        blank: cells that cannot be run, each as attack, defense, reason.
        classes, templates: what the evaluation classifies into, by which prompts.
        size: side of the pictures that the model reads, in pixels.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        """Validate a study.

        Raises:
            UserError: one line that names `where` (the file), the key, what is wrong and the nearest valid word.
        """
        self.where = where
        self.file = StudyFile.read(_plain(values), where)
        self._check_names()
        self.sources = {name: self._source(name) for name, _ in self.splits()}
        for unused in set(self.file.datasets) - set(self.sources):
            self._source(unused)
        self.evaluated = self._evaluated()
        self.classes = self._named(class_names, self.evaluated.classes, "evaluation.classes")
        self.templates = self._named(templates, self.evaluated.templates, "evaluation.templates")
        for name, shift in self.evaluated.shifts.items():
            key = f"evaluation.shifts.{name}.classes"
            class_places(self._named(class_names, shift.classes, key), self.classes, f"{self.where}: {key}")
        if self.file.target not in self.classes:
            raise UserError(
                f"{where}: target: {self.file.target!r} is not among the {len(self.classes)} classes of "
                f"{self.evaluated.classes!r}{nearest(self.file.target, self.classes)}"
            )
        self.size = self._picture_size()
        self.attacks = {name: self._attack(name, entry) for name, entry in self.file.attacks.items()}
        self.defenses = {name: self._defense(name, entry) for name, entry in self._defense_entries().items()}
        self.blank = self._blank()
        if not self.lexicon().startswith(WORDNET):
            self._named(load_lexicon, self.lexicon(), "lexicon")

    @property
    def name(self) -> str:
        return self.file.study

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Return the attack and defense of every cell that is run."""
        blank = {(attack, defense) for attack, defense, _ in self.blank}
        return [(a, d) for a in self.attacks for d in self.defenses if (a, d) not in blank]

    @property
    def target_label(self) -> int:
        """Index of the target class."""
        return self.classes.index(self.file.target)

    def poisoning(self, attack: str) -> PoisoningSettings:
        """Return the recipe of one attack: the study's, with the attack's changes."""
        return PoisoningSettings.read(
            {**self.file.poisoning.model_dump(), **self.attacks[attack].training},
            f"{self.where}: attacks.{attack}.training",
        )

    def few_shot(self, attack: str) -> bool:
        """Tell whether an attack is one on a support set, with a clean encoder under it."""
        return method("attack", self.attacks[attack].method).threat_model == "few-shot"

    def extra_files(self, defense: str) -> tuple[str, ...]:
        """Return the files that a defense's model folder has beside those of every model folder."""
        kind = method("defense", self.defenses[defense].method)
        return (*((ADAPTER, ADAPTER_WEIGHTS) if kind.adapter else ()), *kind.files)

    def lexicon(self) -> str:
        """Return the language resource: the study's choice, or that of the defense pool's dataset."""
        pools = self.file.pools
        dataset, _ = pools.place(pools.defense or pools.training)
        return self.file.lexicon or self.sources[dataset].lexicon

    def splits(self) -> list[tuple[str, str]]:
        """Return every dataset and split that the study reads."""
        evaluation = self.file.evaluation
        scored = [(part.dataset, part.split) for part in (evaluation, *evaluation.shifts.values())]
        return list(dict.fromkeys([*self.file.pools.splits(), *scored]))

    def _check_names(self) -> None:
        entries = [("study", self.name)]
        entries += [("attacks", name) for name in self.file.attacks] + [
            ("defenses", name) for name in self.file.defenses
        ]
        for key, name in entries:
            if not NAME.fullmatch(name) or name in RESERVED:
                reason = "is taken by the layout of results/" if name in RESERVED else "may hold letters, digits, _ . -"
                raise UserError(f"{self.where}: {key}: name {name!r} {reason}")
        if len(set(self.file.seeds)) < len(self.file.seeds):
            raise UserError(f"{self.where}: seeds: {self.file.seeds} names a seed twice")

    def _places(self) -> dict[str, tuple[str, str]]:
        """Return the dataset and split behind each key of the file that names one."""
        pools = self.file.pools
        places = {f"pools.{name}": pools.place(pool) for name, pool in pools.pools().items()}
        scored = {"evaluation": self.file.evaluation}
        scored |= {f"evaluation.shifts.{name}": shift for name, shift in self.file.evaluation.shifts.items()}
        return {**places, **{key: (part.dataset, part.split) for key, part in scored.items()}}

    def _source(self, name: str) -> SourceSettings:
        try:
            source = dataset_settings(name, self.file.datasets)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from None
        for key, (dataset, split) in self._places().items():
            if dataset == name and split not in source.split_names():
                raise UserError(
                    f"{self.where}: {key}.split: {name} has no split {split!r}{nearest(split, source.split_names())}"
                )
        return source

    def _evaluated(self) -> EvaluationSettings:
        """Return the evaluation with its class names filled in."""
        evaluation = self.file.evaluation
        classes = evaluation.classes or self.sources[evaluation.dataset].classes
        if classes is None:
            raise UserError(
                f"{self.where}: evaluation.classes: missing; {evaluation.dataset} names no classes of its own"
            )
        named = {
            name: shift.model_copy(update={"classes": shift.classes or self.sources[shift.dataset].classes or classes})
            for name, shift in evaluation.shifts.items()
        }
        return evaluation.model_copy(update={"classes": classes, "shifts": named})

    def _named(self, read, name: str, key: str) -> Any:
        try:
            return read(name)
        except UserError as error:
            raise UserError(f"{self.where}: {key}: {error}") from None

    def _picture_size(self) -> int:
        config = model_config(self.file.model.name)
        if config is None:
            name = self.file.model.name
            raise UserError(f"{self.where}: model.name: unknown model {name!r}{nearest(name, model_names())}")
        return int(config["vision_cfg"]["image_size"])

    def _attack(self, name: str, entry: dict[str, Any]) -> AttackSettings:
        settings = self._entry("attack", ATTACKS, name, entry)
        try:
            settings.check(self.size)
        except ValueError as error:
            raise UserError(f"{self.where}: attacks.{name}.{error}") from None
        if method("attack", settings.method).learned and self.file.pools.inversion is None:
            raise UserError(
                f"{self.where}: pools.inversion: is missing, and the trigger of {name!r} is fitted on its pairs"
            )
        if method("attack", settings.method).threat_model == "few-shot":
            self._check_shots("attack", name)
            if settings.training:
                raise UserError(
                    f"{self.where}: attacks.{name}.training: nothing is trained on poisoned pairs here; the recipe of "
                    f"who trains on the support set is `victim_training`"
                )
            return settings
        pool = self.file.pools.poison
        if pool is None:
            raise UserError(f"{self.where}: pools.poison: is missing; attacks choose the pairs they poison from it")
        if settings.poisons > pool.pairs:
            raise UserError(
                f"{self.where}: attacks.{name}.poisons: {settings.poisons} are more than the {pool.pairs} pairs of "
                f"pools.poison"
            )
        where = f"{self.where}: attacks.{name}.training"
        recipe = PoisoningSettings.read({**self.file.poisoning.model_dump(), **settings.training}, where)
        threat_model = method("attack", settings.method).threat_model
        if recipe.alternate and threat_model != "training-control":
            raise UserError(f"{where}.alternate: needs control over training; {settings.method} is {threat_model}")
        return settings

    def _defense_entries(self) -> dict[str, dict[str, Any]]:
        return {"none": {"method": "none"}, **self.file.defenses}

    def _defense(self, name: str, entry: dict[str, Any]) -> DefenseSettings:
        settings = self._entry("defense", DEFENSES, name, entry)
        if name == "none" and settings.method != "none":
            raise UserError(f"{self.where}: defenses.none.method: has to be 'none', the undefended model")
        kind = method("defense", settings.method)
        if kind.access == "clean-pairs" and self.file.pools.defense is None:
            raise UserError(f"{self.where}: pools.defense: is missing, and the defense {name!r} needs clean pairs")
        if kind.access == "few-labelled":
            self._check_shots("defense", name)
        config = model_config(self.file.model.name)
        if kind.fits(config) is None:
            try:
                settings.check(config)
            except ValueError as error:
                raise UserError(f"{self.where}: defenses.{name}.{error}") from None
        return settings

    def _check_shots(self, kind: str, name: str) -> None:
        pools = self.file.pools
        if pools.shots is None:
            raise UserError(f"{self.where}: pools.shots: is missing; the {kind} {name!r} needs labelled pictures")
        dataset, _ = pools.place(pools.shots)
        named = self.sources[dataset].classes
        if dataset != self.file.evaluation.dataset and named != self.evaluated.classes:
            raise UserError(
                f"{self.where}: pools.shots.dataset: the classes of {dataset} are {named!r}, the evaluation's are "
                f"{self.evaluated.classes!r}"
            )

    def _blank(self) -> list[tuple[str, str, str]]:
        """Return the cells that cannot be run: attack, defense, reason."""
        config = model_config(self.file.model.name)
        reasons = {name: method("defense", entry.method).fits(config) for name, entry in self.defenses.items()}
        unfit = {name: reason for name, reason in reasons.items() if reason}
        found = {(a, d): f"{self.file.model.name}: {reason}" for a in self.attacks for d, reason in unfit.items()}
        for attack in filter(self.few_shot, self.attacks):
            reason = f"{self.attacks[attack].method}: the backdoor is in a few-shot classifier, not in the CLIP"
            found |= {(attack, defense): reason for defense in self.defenses if defense != "none"}
        return [(attack, defense, reason) for (attack, defense), reason in found.items()]

    def _entry(self, kind: str, table: Mapping[str, str], name: str, entry: dict[str, Any]) -> Any:
        where = f"{self.where}: {kind}s.{name}"
        if "method" not in entry:
            raise UserError(f"{where}: method is missing; known: {', '.join(table)}")
        if str(entry["method"]) not in table:
            raise UserError(f"{where}.method: unknown method {entry['method']!r}{nearest(str(entry['method']), table)}")
        return method(kind, entry["method"]).Settings.read(entry, where)


def _plain(value: Any) -> Any:
    """Return Snakemake's ordered mappings as plain ones, so that messages show them plainly."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


@cache
def _model_files() -> dict[str, Path]:
    """Return open_clip's model configs and ours by name, without importing open_clip."""
    package = Path(find_spec("open_clip").origin).parent
    folders = (package / "model_configs", DATA / "models")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.json"))}


def model_names() -> list[str]:
    """Return every model name that can stand in a study."""
    return sorted(_model_files())


def model_config(name: str) -> dict[str, Any] | None:
    """Return a model's configuration; None for an unknown name."""
    file = _model_files().get(name)
    return json.loads(file.read_text()) if file else None


def names_file(kind: str, name: str) -> list[str]:
    """Return the data file behind a name (kind: models, classes, templates, lexicons) as a job's input.

    Names that the project has no file for (open_clip's own lists and models, `none`, a WordNet folder) give [].
    """
    file = DATA / kind / f"{name}.json"
    return [str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)] if file.is_file() else []

"""One study: a config file, validated completely before any job runs. Reading a study imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antidote.attacks.base import AttackSettings
from antidote.base.errors import UserError, nearest
from antidote.base.naming import check_inputs
from antidote.base.registry import AXES, KINDS, method
from antidote.clip.known import model_config
from antidote.data.access import Access
from antidote.data.sources.base import SourceSettings
from antidote.data.store.datasets import dataset_settings
from antidote.data.words.lexicon import check_lexicon
from antidote.data.words.names import class_names, templates
from antidote.defenses.base import DefenseSettings
from antidote.detectors.base import DetectorSettings
from antidote.evaluation.base import ScoredSet
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.shifts import class_places
from antidote.study import checks, reach
from antidote.study.caption_counts import check_captions
from antidote.study.dvc_names import check_dvc_names
from antidote.study.file import SEEDS_APART, PoisoningSettings, StudyFile
from antidote.study.layout import NAME, RESERVED
from antidote.study.models import check_pictures, from_zoo, loaded, picture_size, surrogate_config
from antidote.study.sweeps import Entry, entries
from antidote.study.tracks import check_track


class Study:
    """A validated study.

    Attributes:
        file: the study file's settings.
        entries: the entries of the matrix by kind; a sweep (a list of values) gives one entry per value.
        attacks, defenses: settings by name of the entry; the defenses always include `none`.
        detectors: settings by name of the entry; if there are any, the controls are included.
        sources: the definition of every dataset that the study uses.
        blank: cells that cannot be run, as (attack, defense, reason).
        classes, templates: class names and prompts of the zero-shot evaluation.
        size: side of the model's input pictures, in pixels.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        """Validate a study.

        Raises:
            UserError: one line that names `where` (the file), the key, the fault and the nearest valid word.
        """
        self.where = where
        self.file = StudyFile.read(from_zoo(_plain(values), where), where)
        self._check_names()
        self.sources = {name: self._source(name) for name, _ in self.splits()}
        for unused in set(self.file.datasets) - set(self.sources):
            self._source(unused)
        check_track(self.file, self.sources, where)
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
        self.size = picture_size(self.file.model.name, f"{where}: model.name")
        check_pictures(self.file.model, f"{where}: model")
        self._check_measures()
        self._populate()
        checks.check_surrogates(self)
        self.entries = {kind: self._entries(kind) for kind in AXES}
        self.recipes: dict[str, PoisoningSettings] = {}
        self.attacks = {entry.name: self._attack(entry) for entry in self.entries["attack"]}
        self.defenses = {entry.name: self._defense(entry) for entry in self.entries["defense"]}
        check_dvc_names(self)
        check_captions(self)
        self.blank = reach.blank(self.file.model.name, self.attacks, self.defenses)
        self.detectors = self._detectors()
        checks.check_together(self)
        self._named(check_lexicon, self.lexicon(), "lexicon")

    @property
    def name(self) -> str:
        return self.file.study

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Return (attack, defense) of every cell that is run."""
        blank = {(attack, defense) for attack, defense, _ in self.blank}
        return [(a, d) for a in self.attacks for d in self.defenses if (a, d) not in blank]

    @property
    def detections(self) -> list[tuple[str, str, str]]:
        """Return (attack, defense, detector) of every detection that is run."""
        return reach.detections(self.scored_cells, self.attacks, self.defenses, self.detectors)

    @property
    def scored_cells(self) -> list[tuple[str, str]]:
        """Return (attack, defense) of every cell on whose models detectors run."""
        return reach.cells_scored(self.cells, self.file.detect_on, self.entries["defense"])

    @property
    def adapted(self) -> list[tuple[str, str, str]]:
        """Return (attack, defense, adaptation) of every measurement of persistence on a model under test."""
        if (settings := self.file.persistence) is None:
            return []
        models = reach.models_adapted(settings.defenses, self.entries["defense"])
        cells = [cell for cell in self.cells if cell[1] in models and not self.few_shot(cell[0])]
        return [(a, d, name) for a, d in cells for name in settings.adaptations]

    @property
    def clean_defenses(self) -> list[str]:
        """Return the defenses under which the clean reference is adapted, as a control of persistence."""
        if self.file.persistence is None or not self.file.persistence.controls:
            return []
        measured = dict.fromkeys(defense for _, defense, _ in self.adapted)
        return [name for name in measured if reach.defends_clean(self.defenses[name])]

    @property
    def target_label(self) -> int:
        """Index of the target class."""
        return self.classes.index(self.file.target)

    def poisoning(self, attack: str) -> PoisoningSettings:
        """Return the training recipe of one attack: the study's recipe with the attack's changes."""
        return self.recipes[attack]

    def few_shot(self, attack: str) -> bool:
        """Return whether an attack changes a few-shot support set, over a clean encoder."""
        return reach.few_shot(self.attacks[attack])

    def lexicon(self) -> str:
        """Return the language resource: the study's choice, else the lexicon of the defense pool's dataset."""
        pools = self.file.pools
        dataset, _ = pools.place(pools.defense or pools.training)
        return self.file.lexicon or self.sources[dataset].lexicon

    def splits(self) -> list[tuple[str, str]]:
        """Return every dataset and split that the study reads."""
        evaluation = self.file.evaluation
        scored = [(part.dataset, part.split) for part in evaluation.parts().values()]
        return list(dict.fromkeys([*self.file.pools.splits(), *scored]))

    def scored(self) -> list[ScoredSet]:
        """Return the sets on which models are scored or probed, the evaluation's own set first."""
        return [*self.evaluated.parts().values()]

    def fit(self, scored: ScoredSet) -> str:
        """Return the code of a prepared picture set: side in pixels, and the number of pictures if not all are used.

        See `antidote.data.fitted`.
        """
        return f"{self.size}" + ("" if scored.pictures is None else f"-{scored.pictures}")

    def _check_names(self) -> None:
        entries = [("study", self.name)]
        for key in (*(f"{axis}s" for axis in AXES), "surrogates"):
            entries += [(key, name) for name in getattr(self.file, key)]
        for key, name in entries:
            if not NAME.fullmatch(name) or name in RESERVED:
                reason = "is taken by the layout of results/" if name in RESERVED else "may hold letters, digits, _ . -"
                raise UserError(f"{self.where}: {key}: name {name!r} {reason}")
        if len(set(self.file.seeds)) < len(self.file.seeds):
            raise UserError(f"{self.where}: seeds: {self.file.seeds} names a seed twice")
        try:
            check_inputs(self._inputs())
            self.file.pools.check_files()
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from None

    def _inputs(self) -> dict[str, str | None]:
        """Return the input files that settings name, by key; without the files of datasets."""
        models = {"model": self.file.model} | {
            f"surrogates.{k}.model": s.model for k, s in self.file.surrogates.items()
        }
        fields = [(self.file.evaluation.parts(), ("classes", "templates")), (models, ("name", "pretrained"))]
        named = {
            f"{k}.{f}": getattr(part, f, None) for parts, keys in fields for k, part in parts.items() for f in keys
        }
        pools = self.file.pools
        left_out = {f"pools.{pools.key(k)}.without": getattr(p, "without", None) for k, p in pools.pools().items()}
        given = {f"attacks.{name}.surrogate": values.get("surrogate") for name, values in self.file.attacks.items()}
        return {**named, **left_out, "lexicon": self.file.lexicon} | {
            k: name for k, name in given.items() if isinstance(name, str)
        }

    def _places(self) -> dict[str, tuple[str, str]]:
        """Return (dataset, split) for each key of the study file that names a split."""
        pools = self.file.pools
        places = {f"pools.{pools.key(name)}": pools.place(pool) for name, pool in pools.pools().items()}
        return {**places, **{key: (part.dataset, part.split) for key, part in self.file.evaluation.parts().items()}}

    def _source(self, name: str) -> SourceSettings:
        try:
            source = dataset_settings(name, self.file.datasets)
        except UserError as error:
            unknown = str(error).startswith("dataset: ")  # of the key that names the dataset
            key = next((f"{key}." for key, (dataset, _) in self._places().items() if unknown and dataset == name), "")
            raise UserError(f"{self.where}: {key}{error}") from None
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
            # `antidote init` without a checkout writes the list beside the study.
            beside = (
                f"; {name}.json here counts once it is in data/ of a checkout" if Path(f"{name}.json").exists() else ""
            )
            raise UserError(f"{self.where}: {key}: {error}{beside}") from None

    def _populate(self) -> None:
        """Add the population's models to the surrogates, whose jobs train them."""
        further = self.file.further_clean
        twice = next((name for name in further if name in self.file.surrogates), None)
        if twice:
            raise UserError(f"{self.where}: surrogates.{twice}: is a name of the population; name the model otherwise")
        if further and max(self.file.seeds) - min(self.file.seeds) >= SEEDS_APART:
            raise UserError(f"{self.where}: seeds: with `population`, less than {SEEDS_APART} apart")
        self.file = self.file.model_copy(update={"surrogates": {**self.file.surrogates, **further}})

    def _entries(self, kind: str) -> list[Entry]:
        """Return the entries of the matrix; a sweep gives one entry per value.

        Raises:
            UserError: an entry names no known method; a sweep is no list of distinct numbers; two entries share a name.
        """
        table, found = KINDS[kind], []
        given = {**({"none": {"method": "none"}} if kind == "defense" else {}), **getattr(self.file, f"{kind}s")}
        for name, values in given.items():
            where = f"{self.where}: {kind}s.{name}"
            if "method" not in values:
                raise UserError(f"{where}: method is missing; known: {', '.join(table)}")
            known = str(values["method"])
            if known not in table:
                raise UserError(f"{where}.method: unknown method {values['method']!r}{nearest(known, table)}")
            groups = {"": method(kind, known).Settings, **({"training": PoisoningSettings} if kind == "attack" else {})}
            try:
                found += entries(name, values, groups)
            except ValueError as error:
                raise UserError(f"{where}.{error}") from None
        names = [entry.name for entry in found]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise UserError(f"{self.where}: {kind}s: a sweep gives the name {twice!r}, which another entry has")
        return found

    def _attack(self, entry: Entry) -> AttackSettings:
        name = entry.name
        settings = self._settings("attack", entry)
        try:
            settings.check(self.size)
            further = surrogate_config(settings, self.file.model, self.file.surrogates, self.size)
            settings.check_models(model_config(self.file.model.name), further)
            settings.check_classes(self.classes)
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
        recipe = checks.poisoning(self.file.poisoning, settings, where)
        if settings.checkpoint is not None:
            try:
                recipe = loaded(settings, recipe)
            except ValueError as error:
                raise UserError(f"{self.where}: attacks.{name}.{error}") from None
        self.recipes[name] = recipe
        threat_model = method("attack", settings.method).threat_model
        if recipe.alternate and threat_model != "training-control":
            raise UserError(f"{where}.alternate: needs control over training; {settings.method} is {threat_model}")
        if threat_model == "encoder" and recipe.start == "model" and not self.file.model.pretrained:
            raise UserError(f"{where}.start: {settings.method} changes a trained encoder; set `clean`")
        return settings

    def _defense(self, entry: Entry) -> DefenseSettings:
        name = entry.name
        settings = self._settings("defense", entry)
        if name == "none" and settings.method != "none":
            raise UserError(f"{self.where}: defenses.none.method: has to be 'none', the undefended model")
        kind = method("defense", settings.method)
        self._check_access("defense", name, kind.access)
        checks.check_scorer(self, settings, f"{self.where}: defenses.{name}")
        config = model_config(self.file.model.name)
        if kind.fits(config) is None:
            try:
                settings.check(config)
                settings.check_classes(self.classes)
            except ValueError as error:
                raise UserError(f"{self.where}: defenses.{name}.{error}") from None
        return settings

    def _check_access(self, kind: str, name: str, access: Access) -> None:
        if access == "clean-pairs" and self.file.pools.defense is None:
            raise UserError(f"{self.where}: pools.defense: is missing, and the {kind} {name!r} needs clean pairs")
        if access == "few-labelled":
            self._check_shots(kind, name)

    def _detectors(self) -> dict[str, DetectorSettings]:
        """Return the settings of every detector, controls included."""
        found = {entry.name: self._detector(entry) for entry in self.entries["detector"]}
        try:
            found = reach.with_controls(found)
            reach.models_scored(self.file.detect_on, self.entries["defense"])
        except ValueError as error:
            raise UserError(f"{self.where}: detectors.{error}") from None
        except KeyError as error:
            wrong = f"{error.args[0]!r} is no entry of defenses{nearest(error.args[0], self.defenses)}"
            raise UserError(f"{self.where}: detect_on: {wrong}") from None
        return found

    def _detector(self, entry: Entry) -> DetectorSettings:
        settings = self._settings("detector", entry)
        kind = method("detector", settings.method)
        self._check_access("detector", entry.name, kind.access)
        where = f"{self.where}: detectors.{entry.name}"
        config = model_config(self.file.model.name)
        reason = kind.fits(config)
        if reason:
            raise UserError(f"{where}: does not fit {self.file.model.name}: it {reason}")
        try:
            settings.check(config)
        except ValueError as error:
            raise UserError(f"{where}.{error}") from None
        checks.check_scorer(self, settings, where)
        return settings

    def _check_measures(self) -> None:
        for key, entry in self.evaluated.entries().items():
            classes = self.sources[entry.dataset].classes if isinstance(entry, ScoredSet) else None
            try:
                entry.check(self.evaluated, self.size, classes)
            except ValueError as error:
                raise UserError(f"{self.where}: {key}.{error}") from None

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

    def _settings(self, kind: str, entry: Entry) -> Any:
        where = f"{self.where}: {kind}s.{entry.name}"
        return method(kind, entry.values["method"]).Settings.read(entry.values, where)


def _plain(value: Any) -> Any:
    """Convert Snakemake's ordered mappings into plain dicts, which are readable in messages."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value

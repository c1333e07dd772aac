"""One study: a config file, validated whole before anything runs. Reading it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antidote.attacks.base import AttackSettings
from antidote.base.errors import UserError, nearest
from antidote.base.files import read_json
from antidote.base.naming import check_inputs
from antidote.base.registry import ATTACKS, DEFENSES, method
from antidote.clip.configs import ModelSettings, check_tokenizer
from antidote.clip.files import CONFIG
from antidote.clip.known import model_config, model_names
from antidote.clip.tags import tag, tags
from antidote.data.access import POOLS
from antidote.data.sources.base import SourceSettings
from antidote.data.store.datasets import dataset_settings
from antidote.data.words.lexicon import check_lexicon
from antidote.data.words.names import class_names, templates
from antidote.defenses.base import DefenseSettings
from antidote.evaluation.settings import EvaluationSettings, Probe, Retrieval, Shift
from antidote.evaluation.shifts import class_places
from antidote.study.caption_counts import check_captions
from antidote.study.file import PoisoningSettings, StudyFile
from antidote.study.layout import NAME, RESERVED
from antidote.study.sweeps import Entry, entries

KINDS = {"attack": ATTACKS, "defense": DEFENSES}


class Study:
    """A validated study.

    Attributes:
        file: the study file's settings.
        entries: of each kind, the entries of the matrix; one per value where the file names a list of them (a sweep).
        attacks, defenses: their settings by name; `none` is always among the defenses.
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
        self._check_probe()
        if self.file.target not in self.classes:
            raise UserError(
                f"{where}: target: {self.file.target!r} is not among the {len(self.classes)} classes of "
                f"{self.evaluated.classes!r}{nearest(self.file.target, self.classes)}"
            )
        self.size = self._picture_size(self.file.model.name, "model.name")
        self._check_resistance()
        self._check_surrogates()
        self.entries = {kind: self._entries(kind) for kind in KINDS}
        self.attacks = {entry.name: self._attack(entry) for entry in self.entries["attack"]}
        self.defenses = {entry.name: self._defense(entry) for entry in self.entries["defense"]}
        if self.file.rebound and self.file.pools.defense is None:
            raise UserError(f"{where}: pools.defense: is missing, and `rebound` fine-tunes on its pairs")
        check_captions(self)
        self.blank = self._blank()
        self._named(check_lexicon, self.lexicon(), "lexicon")

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

    def lexicon(self) -> str:
        """Return the language resource: the study's choice, or that of the defense pool's dataset."""
        pools = self.file.pools
        dataset, _ = pools.place(pools.defense or pools.training)
        return self.file.lexicon or self.sources[dataset].lexicon

    def splits(self) -> list[tuple[str, str]]:
        """Return every dataset and split that the study reads."""
        evaluation = self.file.evaluation
        scored = [(part.dataset, part.split) for part in _parts(evaluation).values()]
        return list(dict.fromkeys([*self.file.pools.splits(), *scored]))

    def scored(self) -> list[EvaluationSettings | Shift | Retrieval | Probe]:
        """Return the sets that models are scored on or probed with, the evaluation's own first."""
        return [*_parts(self.evaluated).values()]

    def fit(self, scored: EvaluationSettings | Shift | Retrieval | Probe) -> str:
        """Return how the pictures of a set are made ready: their side in pixels, and how many where not all are taken.

        See `antidote.data.fitted`.
        """
        return f"{self.size}" + ("" if scored.pictures is None else f"-{scored.pictures}")

    def _check_names(self) -> None:
        entries = [("study", self.name)]
        for key in ("attacks", "defenses", "surrogates"):
            entries += [(key, name) for name in getattr(self.file, key)]
        for key, name in entries:
            if not NAME.fullmatch(name) or name in RESERVED:
                reason = "is taken by the layout of results/" if name in RESERVED else "may hold letters, digits, _ . -"
                raise UserError(f"{self.where}: {key}: name {name!r} {reason}")
        if len(set(self.file.seeds)) < len(self.file.seeds):
            raise UserError(f"{self.where}: seeds: {self.file.seeds} names a seed twice")
        try:
            check_inputs(self._inputs())
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from None

    def _inputs(self) -> dict[str, str | None]:
        """Return the names of files that jobs wait for, by their key; datasets have their own."""
        models = {"model": self.file.model} | {
            f"surrogates.{k}.model": s.model for k, s in self.file.surrogates.items()
        }
        fields = [(_parts(self.file.evaluation), ("classes", "templates")), (models, ("name", "pretrained"))]
        named = {
            f"{k}.{f}": getattr(part, f, None) for parts, keys in fields for k, part in parts.items() for f in keys
        }
        given = {f"attacks.{name}.surrogate": values.get("surrogate") for name, values in self.file.attacks.items()}
        return {**named, "lexicon": self.file.lexicon} | {k: name for k, name in given.items() if isinstance(name, str)}

    def _places(self) -> dict[str, tuple[str, str]]:
        """Return the dataset and split behind each key of the file that names one."""
        pools = self.file.pools
        places = {f"pools.{name}": pools.place(pool) for name, pool in pools.pools().items()}
        return {**places, **{key: (part.dataset, part.split) for key, part in _parts(self.file.evaluation).items()}}

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

    def _picture_size(self, name: str, key: str) -> int:
        config = model_config(name)
        if config is None:
            raise UserError(f"{self.where}: {key}: unknown model {name!r}{nearest(name, model_names())}")
        check_tokenizer(config, f"{self.where}: {key}: {name}")
        return int(config["vision_cfg"]["image_size"])

    def _check_surrogates(self) -> None:
        for name, surrogate in self.file.surrogates.items():
            key = f"surrogates.{name}.model.name"
            if self._picture_size(surrogate.model.name, key) != self.size:
                raise UserError(
                    f"{self.where}: {key}: {surrogate.model.name} reads pictures of another size than the study's "
                    f"model, {self.size} pixels"
                )

    def _entries(self, kind: str) -> list[Entry]:
        """Return the entries of the matrix, sweeps as one entry per value.

        Raises:
            UserError: an entry names no known method; a sweep is no list of different numbers; two share a name.
        """
        table, found = KINDS[kind], []
        given = self.file.attacks if kind == "attack" else {"none": {"method": "none"}, **self.file.defenses}
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
            settings.check_models(model_config(self.file.model.name), self._surrogate_config(settings))
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
        recipe = PoisoningSettings.read({**self.file.poisoning.model_dump(), **settings.training}, where)
        threat_model = method("attack", settings.method).threat_model
        if recipe.alternate and threat_model != "training-control":
            raise UserError(f"{where}.alternate: needs control over training; {settings.method} is {threat_model}")
        return settings

    def _surrogate_config(self, settings: AttackSettings) -> dict[str, Any]:
        """Return the configuration of the model that a trigger is fitted on.

        Raises:
            ValueError: it is neither a model of the study nor a fitting model folder.
        """
        name = settings.fitted_on()
        if name == "clean" or name in self.file.surrogates:
            return model_config((self.file if name == "clean" else self.file.surrogates[name]).model.name)
        path = Path(name) / CONFIG
        if not path.exists():
            known = ["clean", *self.file.surrogates]
            raise ValueError(
                f"surrogate: {name!r} is neither a model folder nor one of the study{nearest(name, known)}"
            )
        try:
            config = read_json(path)["model_cfg"]
            reads = config["vision_cfg"]["image_size"]
        except UserError as error:
            raise ValueError(f"surrogate: {error}") from None
        except (KeyError, TypeError):
            raise ValueError(f"surrogate: {path} is not the configuration of an open_clip model") from None
        if reads != self.size:
            raise ValueError(f"surrogate: {name} reads {reads} pixels, the study's model {self.size}")
        return config

    def _defense(self, entry: Entry) -> DefenseSettings:
        name = entry.name
        settings = self._settings("defense", entry)
        if name == "none" and settings.method != "none":
            raise UserError(f"{self.where}: defenses.none.method: has to be 'none', the undefended model")
        kind = method("defense", settings.method)
        if kind.access == "clean-pairs" and self.file.pools.defense is None:
            raise UserError(f"{self.where}: pools.defense: is missing, and the defense {name!r} needs clean pairs")
        if kind.access == "few-labelled":
            self._check_shots("defense", name)
        scorer = settings.surrogate
        if scorer and scorer not in self.file.surrogates:
            wrong = f"surrogates has no {scorer!r}{nearest(scorer, self.file.surrogates)}"
            raise UserError(f"{self.where}: defenses.{name}.scorer: {wrong}")
        self._check_public(settings.public, f"defenses.{name}.scorer")
        config = model_config(self.file.model.name)
        if kind.fits(config) is None:
            try:
                settings.check(config)
            except ValueError as error:
                raise UserError(f"{self.where}: defenses.{name}.{error}") from None
        return settings

    def _check_public(self, model: ModelSettings | None, key: str) -> None:
        """Raise UserError where a public model has an unknown name, or weights that are neither here nor a tag."""
        if model is None:
            return
        self._picture_size(model.name, key)
        known = Path(model.pretrained).exists() or tag(model.name, model.pretrained)
        if not model.pretrained or not known:
            wrong = f"{model.pretrained!r} is neither a file, a folder nor a tag of {model.name!r}"
            raise UserError(f"{self.where}: {key}: {wrong}{nearest(model.pretrained, tags(model.name))}")

    def _check_probe(self) -> None:
        probe, own = self.file.evaluation.probe, self.file.evaluation
        if probe is None:
            return
        key = f"{self.where}: evaluation.probe"
        if (probe.dataset, probe.split) == (own.dataset, own.split):
            raise UserError(f"{key}.split: {probe.split!r} is what the probe is scored on; it needs other pictures")
        named = self.sources[probe.dataset].classes
        if probe.dataset != own.dataset and named != self.evaluated.classes:
            raise UserError(
                f"{key}.dataset: the classes of {probe.dataset} are {named!r}, the evaluation's are "
                f"{self.evaluated.classes!r}"
            )

    def _check_resistance(self) -> None:
        resistance = self.file.evaluation.resistance
        most = 2 * self.size - 1  # the blur mirrors pictures at their edges
        if resistance is not None and resistance.blur_kernel > most:
            raise UserError(
                f"{self.where}: evaluation.resistance.blur_kernel: {resistance.blur_kernel} is too large for pictures "
                f"of {self.size} pixels, which allow {most}"
            )

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
        unfit = {name: f"{self.file.model.name}: {reason}" for name, reason in reasons.items() if reason}
        return [
            (attack, defense, reason)
            for attack in self.attacks
            for defense in self.defenses
            if (reason := unfit.get(defense) or self._out_of_reach(attack, defense))
        ]

    def _out_of_reach(self, attack: str, defense: str) -> str | None:
        """Return why a defense cannot meet an attack: what it works on is not what the attacker touched."""
        name = self.attacks[attack].method
        if self.few_shot(attack) and defense != "none":
            return f"{name}: the backdoor is in a few-shot classifier, not in the CLIP"
        owns = "training" in POOLS.get(method("defense", self.defenses[defense].method).access, ())
        return f"{name} poisons no training set" if owns and method("attack", name).trains else None

    def _settings(self, kind: str, entry: Entry) -> Any:
        where = f"{self.where}: {kind}s.{entry.name}"
        return method(kind, entry.values["method"]).Settings.read(entry.values, where)


def _parts(evaluation: EvaluationSettings) -> dict[str, EvaluationSettings | Shift | Retrieval | Probe]:
    """Return the parts of an evaluation that name a dataset and a split, by their key in a study file."""
    optional = {f"evaluation.{name}": getattr(evaluation, name) for name in ("retrieval", "probe")}
    return {
        "evaluation": evaluation,
        **{f"evaluation.shifts.{name}": shift for name, shift in evaluation.shifts.items()},
        **{key: part for key, part in optional.items() if part is not None},
    }


def _plain(value: Any) -> Any:
    """Return Snakemake's ordered mappings as plain ones, so that messages show them plainly."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value

"""The values that rules pass to each job: inputs, settings, options, and the fingerprint of the job's sources.

`rules/` defines which script writes which files. `Jobs` returns every value that depends on the study, given the
wildcards of a job. Text for a command line is quoted either here or by the rule (`:q`).
"""

from __future__ import annotations

import inspect
import os
import stat
import sys
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from antidote.attacks.victim import Victim
from antidote.base import devices
from antidote.base.files import whole_file
from antidote.base.fingerprint import fingerprint
from antidote.base.registry import method, module
from antidote.clip.configs import ModelSettings
from antidote.clip.files import ADAPTER, ADAPTER_WEIGHTS, CONFIG, WEIGHTS
from antidote.data.access import POOLS, USES_CLASSES
from antidote.data.words.names import names_file
from antidote.defenses.base import Defense
from antidote.evaluation.base import ScoredSet
from antidote.study.data_jobs import DataJobs, content, initial_inputs, options
from antidote.study.layout import NO_DEFENSE
from antidote.study.models import initial_model
from antidote.study.slices import (
    adaptation_slice,
    backdoor_slice,
    json_slice,
    summary_plan,
    text_argument,
    training_slice,
    victim_slice,
)


def prepare_jobs(root: Path) -> None:
    """Put this project on the jobs' PYTHONPATH and this snakemake's python on PATH; environments may override it."""
    for name, first in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", root)):
        os.environ[name] = os.pathsep.join(filter(None, [str(first), os.environ.get(name)]))
    # OpenMP threads that busy-wait for one another stall when other processes use the same cores.
    os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY") or "PASSIVE"


def own_records(folder: Path = Path(".snakemake/metadata")) -> None:
    """Replace every Snakemake record that DVC restored as a link into the DVC cache by a copy.

    Snakemake writes its records in place; writing through a link would change the file in the DVC cache.
    """
    for path in folder.rglob("*"):
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1):
            with whole_file(path) as own:
                own.write_bytes(path.read_bytes())


def has_gpu() -> bool:
    """Return whether jobs on this machine can use an NVIDIA GPU, without importing torch."""
    return bool(devices.devices())


Functions = TypeVar("Functions")


def quick_to_inspect(jobs: Functions) -> Functions:
    """Give each public method of `jobs` its signature as an attribute, and return `jobs`.

    Snakemake inspects every function of a rule three times per job; for a method Python derives the signature anew each
    time, a tenth of the time of a dry run.
    """
    for name, _ in inspect.getmembers(type(jobs), inspect.isfunction):
        if not name.startswith("_"):
            quick = partial(getattr(jobs, name))
            quick.__signature__ = inspect.signature(quick)
            setattr(jobs, name, quick)
    return jobs


class Jobs(DataJobs):
    """The values of a study that the rules need; `w` holds the wildcards of a job as attributes."""

    # --- triggers and poisoned pairs ---------------------------------------------------------------------------------

    def target(self, w: Any) -> str:
        return text_argument(self.study.file.target)

    def classes(self, w: Any) -> str:
        return self.study.evaluated.classes

    def templates(self, w: Any) -> str:
        return self.study.evaluated.templates

    def _surrogate(self, w: Any) -> tuple[Path | None, list[str]]:
        """Return folder and files of the model that a trigger is fitted on: the clean reference or another model.

        A model folder from outside the study may have no adapter.
        """
        settings = self.study.attacks[w.attack]
        kind = method("attack", settings.method)
        if not (kind.learned and kind.on_surrogate):
            return None, []
        if settings.surrogate == "clean":
            return self._model_folder("clean_model", seed=w.seed)
        if settings.surrogate in self.study.file.surrogates:
            return self._model_folder("surrogate_model", surrogate=settings.surrogate, seed=w.seed)
        folder = Path(settings.surrogate)
        adapter = [name for name in (ADAPTER, ADAPTER_WEIGHTS) if (folder / name).is_file()]
        return folder, [str(folder / name) for name in (WEIGHTS, CONFIG, *adapter)]

    def surrogate(self, w: Any) -> list[str]:
        return self._surrogate(w)[1]

    def _fitting_pools(self, w: Any) -> tuple[str, ...]:
        """Return the pools of learned triggers: inversion, to fit on; poison, since some triggers rank its pairs."""
        return ("inversion", "poison") if method("attack", self.study.attacks[w.attack].method).learned else ()

    def fitting_pools(self, w: Any) -> list[str]:
        return self.pool_files(*self._fitting_pools(w))

    def fitting_pairs(self, w: Any) -> list[str]:
        return self.indexes(*self._fitting_pools(w)) if self.fitting_pools(w) else []

    def fitting_names(self, w: Any) -> list[str]:
        return self.names if self.fitting_pools(w) else []

    def given_files(self, w: Any) -> list[str]:
        """Return the files of patches and patterns that an attack's settings name."""
        return self.study.attacks[w.attack].files()

    def trigger_settings(self, w: Any) -> str:
        return json_slice(self.study.attacks[w.attack].trigger_settings())

    def fitting_options(self, w: Any) -> str:
        pools = self.fitting_pools(w)
        words = {"classes": self.classes(w), "templates": self.templates(w)} if pools else {}
        return options(pools=pools, **words, surrogate=self._surrogate(w)[0])

    def trigger_source(self, w: Any) -> str:
        return self._attack_source("scripts.trigger", w, *self.fitting_names(w))

    def _attack_source(self, script: str, w: Any, *files: str) -> str:
        return fingerprint(script, module("attack", self.study.attacks[w.attack].method)) + content(*files)

    def poison_settings(self, w: Any) -> str:
        return json_slice(self.study.attacks[w.attack].poison_settings())

    def _caption_pools(self, w: Any) -> list[str]:
        """Return the pools, other than the poison pool, from which an attack takes natural captions."""
        settings = self.study.attacks[w.attack]
        return [name for name in settings.caption_pools if name != "poison"] if settings.caption == "natural" else []

    def caption_pools(self, w: Any) -> list[str]:
        return self.pool_files(*self._caption_pools(w))

    def poison_pairs(self, w: Any) -> list[str]:
        return self.indexes("poison", *self._caption_pools(w))

    def poison_options(self, w: Any) -> str:
        return options(caption_pools=self.caption_pools(w))

    def poison_source(self, w: Any) -> str:
        return self._attack_source("scripts.poison", w, *self.template_files)

    def shots_settings(self, w: Any) -> str:
        """Return the settings that change the support set, without the settings of the user's training on the set."""
        values = self.study.attacks[w.attack].poison_settings()
        return json_slice({key: value for key, value in values.items() if key not in Victim.model_fields})

    def shots_options(self, w: Any) -> str:
        return options(surrogate=self._surrogate(w)[0])

    def shots_source(self, w: Any) -> str:
        return self._attack_source("scripts.attack_shots", w, *self.class_files)

    def victim_settings(self, w: Any) -> str:
        return victim_slice(self.study.attacks[w.attack])

    def victim_source(self, w: Any) -> str:
        return fingerprint("scripts.few_shot") + content(*self.class_files)

    # --- training ----------------------------------------------------------------------------------------------------

    def initial_model(self, w: Any) -> list[str]:
        """Return the files of a model's architecture and weights, if the study names files."""
        return initial_inputs(self._model(w))

    def _model(self, w: Any) -> ModelSettings:
        if hasattr(w, "surrogate"):
            return self.study.file.surrogates[w.surrogate].model
        model = self.study.file.model
        return initial_model(model, self.study.attacks[w.attack]) if hasattr(w, "attack") else model

    def clean_settings(self, w: Any) -> str:
        return training_slice(self.study.file.model, self.study.file.pretraining)

    def surrogate_settings(self, w: Any) -> str:
        return training_slice(self._model(w), self.study.file.surrogates[w.surrogate].pretraining)

    def model_seed(self, w: Any) -> int:
        name = getattr(w, "surrogate", None)
        return int(w.seed) + (self.study.file.surrogates[name].seed if name else 0)

    def clean_source(self, w: Any) -> str:
        return fingerprint("scripts.pretrain") + content(*names_file("models", self._model(w).name))

    def start(self, w: Any) -> list[str]:
        """Return the clean reference if the backdoored model starts from the reference, not from the initial model."""
        starts = self.study.poisoning(w.attack).start == "clean"
        return self.layout.files("clean_model", seed=w.seed) if starts else []

    def start_options(self, w: Any) -> str:
        return options(start=self.layout.path("clean_model", seed=w.seed) if self.start(w) else None)

    def backdoor_settings(self, w: Any) -> str:
        return backdoor_slice(self.study, w.attack)

    def backdoor_source(self, w: Any) -> str:
        name = self.study.attacks[w.attack].method
        own = [module("attack", name)] if method("attack", name).trains else []
        return fingerprint("scripts.pretrain", *own) + content(*names_file("models", self.study.file.model.name))

    # --- defenses ----------------------------------------------------------------------------------------------------

    def naming(self, suspicious: bool) -> list[str]:
        """Return the defenses that name suspicious pairs (`suspicious`), or the defenses that do not."""
        return [name for name in self.study.defenses if bool(self._defense(name).files) == suspicious]

    def _defense(self, name: str) -> type[Defense]:
        return method("defense", self.study.defenses[name].method)

    def _granted(self, w: Any) -> tuple[str, ...]:
        """Return the pools that a defense's access grants."""
        return POOLS.get(self._defense(w.defense).access, ())

    def defense_pools(self, w: Any) -> list[str]:
        return self.pool_files(*self._granted(w))

    def defense_pairs(self, w: Any) -> list[str]:
        return self.indexes(*self._granted(w))

    def defense_names(self, w: Any) -> list[str]:
        """Return the word files that a defense's access grants: a lexicon, or class names and prompts."""
        if self._defense(w.defense).uses_lexicon:
            return names_file("lexicons", self.study.lexicon())
        return self.names if self._defense(w.defense).access in USES_CLASSES else []

    def defense_poison(self, w: Any) -> list[str]:
        """Return the overlay of the training set, for a defender who owns the set."""
        owns = "training" in self._granted(w)  # a clean model has no such defense, and its job no attack
        return self.layout.files("poison", attack=w.attack, seed=w.seed) if owns else []

    def _scorer(self, w: Any) -> tuple[Path | None, list[str]]:
        """Return the files of the clean model by which a defense scores pairs; its folder if it is one of the study."""
        return self.scoring_model(self.study.defenses[w.defense], w)

    def scorer(self, w: Any) -> list[str]:
        return self._scorer(w)[1]

    def defense_settings(self, w: Any) -> str:
        return json_slice(self.study.defenses[w.defense].model_dump(mode="json", exclude={"label"}))

    def defense_source(self, w: Any) -> str:
        kind = module("defense", self.study.defenses[w.defense].method)
        return fingerprint("scripts.defend", kind) + content(*self.defense_names(w))

    def defense_options(self, w: Any) -> str:
        kind = self._defense(w.defense)
        uses = kind.access in USES_CLASSES
        return options(
            pools=self.defense_pools(w),
            lexicon=self.study.lexicon() if kind.uses_lexicon else None,
            classes=self.classes(w) if uses else None,
            templates=self.templates(w) if uses else None,
            poison=self.layout.path("poison", attack=w.attack, seed=w.seed) if self.defense_poison(w) else None,
            scorer=self._scorer(w)[0],
        )

    # --- evaluation --------------------------------------------------------------------------------------------------

    def _under_test(self, w: Any) -> tuple[Path, list[str]]:
        """Return folder and files of the defended model; without a defense, of the backdoored model."""
        names = {"attack": w.attack, "seed": w.seed}
        if w.defense == NO_DEFENSE:
            return self._model_folder("backdoored_model", **names)
        return self._model_folder("defend", **names, defense=w.defense)

    def model_under_test(self, w: Any) -> list[str]:
        return self._under_test(w)[1]

    def folder_under_test(self, w: Any) -> str:
        return str(self._under_test(w)[0])

    def finding(self, w: Any) -> list[str]:
        """Return the file in which a defense names suspicious pairs, and the poison manifest for comparison."""
        if not self._defense(w.defense).files:
            return []
        job = {"attack": w.attack, "seed": w.seed}
        manifest = self.layout.path("poison", "manifest", **job)
        return [*self.layout.files("finding", **job, defense=w.defense), str(manifest)]

    def scored_split(self, scored: ScoredSet) -> list[str]:
        """Return the files of a scored set: index, manifest and the description of its pictures.

        The jobs depend on the small description, which is written last, and not on the array of pictures: Snakemake
        would hash gigabytes for each cell.
        """
        place = {"dataset": scored.dataset, "split": scored.split}
        pictures = self.layout.path("pictures", "description", **place, fit=self.study.fit(scored))
        return [*self.layout.files("dataset", **place), str(pictures)]

    @cached_property
    def _evaluated(self) -> list[str]:
        scored = self.study.scored()
        splits = dict.fromkeys(file for part in scored for file in self.scored_split(part))
        names = [file for part in scored[1:] for file in names_file("classes", getattr(part, "classes", None))]
        return [*splits, *(name for name in dict.fromkeys(names) if name not in self.names)]

    def evaluated(self, w: Any) -> list[str]:
        """Return the files that scoring reads: the evaluation's split, and further splits with their class names."""
        return self._evaluated

    @cached_property
    def _slices(self) -> dict[str, Any]:
        """The settings as JSON; cached, since thousands of jobs share them."""
        adaptations = self.study.file.persistence.adaptations if self.study.file.persistence else ()
        slices = {name: adaptation_slice(self.study, name) for name in adaptations}
        return {"evaluation": self.study.evaluated.slice(), "adaptations": slices}

    def evaluation_settings(self, w: Any) -> str:
        return self._slices["evaluation"]

    def clean_scores_source(self, w: Any) -> str:
        return fingerprint("scripts.evaluate") + content(*self.names)

    def floor_source(self, w: Any) -> str:
        return self._attack_source("scripts.evaluate", w, *self.names)

    def scores_source(self, w: Any) -> str:
        return self._cell_source("scripts.evaluate", w)

    def _cell_source(self, script: str, w: Any) -> str:
        """Return the source fingerprint of a job on one cell, including the module of the tested model's adapter."""
        adapter, attack = self.adapter(w), module("attack", self.study.attacks[w.attack].method)
        return fingerprint(script, attack, *([module("adapter", adapter)] if adapter else [])) + content(*self.names)

    def adapter(self, w: Any) -> str | None:
        """Return the adapter name of the model under test; None without an adapter."""
        return "few_shot_head" if w.attack in self.few_shot else self._defense(w.defense).adapter

    def clean_options(self, w: Any) -> str:
        return options(attack="clean", defense=NO_DEFENSE)

    def floor_options(self, w: Any, output: Any) -> str:
        return options(attack=w.attack, defense="floor", **self._triggered(w), examples=output.examples)

    def cell_options(self, w: Any) -> str:
        poison = self.layout.path("poison", attack=w.attack, seed=w.seed) if self.finding(w) else None
        return options(attack=w.attack, defense=w.defense, **self._triggered(w), poison=poison)

    def _triggered(self, w: Any) -> dict[str, Path]:
        """Return the folders of the trigger and of triggered pictures that the cells of an attack and seed share."""
        names = {"attack": w.attack, "seed": w.seed}
        return {"trigger": self.layout.path("trigger", **names), "drawn": self.layout.drawn(**names)}

    # --- persistence -------------------------------------------------------------------------------------------------

    def clean_under_test(self, w: Any) -> list[str]:
        """Return the files of the clean reference under a defense; without a defense, of the reference itself."""
        return self._clean_under_test(w)[1]

    def clean_folder_under_test(self, w: Any) -> str:
        return str(self._clean_under_test(w)[0])

    def _clean_under_test(self, w: Any) -> tuple[Path, list[str]]:
        if w.defense == NO_DEFENSE:
            return self._model_folder("clean_model", seed=w.seed)
        return self._model_folder("defend_clean", seed=w.seed, defense=w.defense)

    def _adaptation_pool(self, w: Any) -> str:
        return self.study.file.persistence.adaptations[w.adaptation].source

    def adaptation_pool(self, w: Any) -> list[str]:
        return self.pool_files(self._adaptation_pool(w))

    def adaptation_data(self, w: Any) -> list[str]:
        return [*self.indexes(self._adaptation_pool(w)), *self.scored_split(self.study.evaluated)]

    def adaptation_settings(self, w: Any) -> str:
        return self._slices["adaptations"][w.adaptation]

    def persistence_source(self, w: Any) -> str:
        return self._cell_source("scripts.persistence", w)

    def summary_settings(self, w: Any) -> str:
        return summary_plan(self.study)

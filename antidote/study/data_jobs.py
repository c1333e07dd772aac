"""The values that the rules of data and pools pass to each job, and values that the rules of all stages share.

Text for a command line is quoted either here or by the rule (`:q`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from antidote.base.files import sha256
from antidote.base.fingerprint import fingerprint
from antidote.base.naming import BRACES
from antidote.base.registry import module
from antidote.clip.configs import ModelSettings
from antidote.clip.initial import initial_files
from antidote.data.store.datasets import pointers
from antidote.data.words.lexicon import FILES as WORDNET
from antidote.data.words.names import names_file
from antidote.defenses.base import DefenseSettings
from antidote.detectors.base import DetectorSettings
from antidote.study import reach
from antidote.study.layout import STAGES, Layout, Matrix
from antidote.study.slices import dataset_slice, download_slice, drawn_with, pool_slice, pool_target
from antidote.study.study import Study


def matrix(study: Study) -> Matrix:
    """Return the values of the wildcards of a study's jobs."""
    return Matrix(
        seeds=study.file.seeds,
        cells=study.cells,
        surrogates=tuple(study.file.surrogates),
        pools=tuple(study.file.pools.pools()),
        splits=tuple(study.splits()),
        scored=tuple((part.dataset, part.split, study.fit(part)) for part in study.scored()),
        detections=tuple(study.detections),
        population=tuple(study.file.further_clean),
        on_clean=tuple(name for name, entry in study.detectors.items() if reach.subject(entry) == "model"),
        adapted=tuple(study.adapted),
        clean_defenses=tuple(study.clean_defenses),
    )


def alternatives(names: Iterable[str]) -> str:
    """Return a regular expression that matches exactly these names; without names, the expression matches nothing."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def options(**values: Any) -> str:
    """Return command line options (`a_b=1`: `--a-b 1`), quoted for a shell; None and empty values are skipped."""
    words: list[str] = []
    for name, value in values.items():
        given = [value] if isinstance(value, str | int | Path) else list(value or ())
        words += [f"--{name.replace('_', '-')}", *map(str, given)] if given else []
    return shlex.join(words)


@cache
def content(*names: str) -> str:
    """Return hashes of small project files that a job reads, as a part of the job's source fingerprint.

    Snakemake compares the content of an input only if the input is newer than the outputs. Outputs that `dvc pull` or
    a link restores may be newer than an earlier change of an input.
    """
    return "".join(f"-{sha256(name)[:16]}" for name in names)


def initial_inputs(model: ModelSettings | None) -> list[str]:
    """Return `initial_files` as inputs of a job: files in the working folder by their relative paths."""
    here = Path.cwd()
    return [str(path.relative_to(here) if path.is_relative_to(here) else path) for path in initial_files(model)]


class DataJobs:
    """The values of a study that the rules of data and pools need; `w` holds a job's wildcards as attributes.

    Attributes:
        layout: the paths of the study.
        matrix: the values of the wildcards of the study's jobs.
        class_files, template_files: project files of class names and prompts; empty for lists of open_clip.
        names: `class_files` and `template_files`.
        few_shot, on_training: attacks on a support set; attacks on the training of the model.
        downloaded: datasets that need a separate download job.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.layout = Layout(Path("results", study.name))
        self.matrix = matrix(study)
        self.class_files = names_file("classes", study.evaluated.classes)
        self.template_files = names_file("templates", study.evaluated.templates)
        self.names = self.class_files + self.template_files
        self.few_shot = [name for name in study.attacks if study.few_shot(name)]
        self.on_training = [name for name in study.attacks if not study.few_shot(name)]
        self.downloaded = [name for name, source in study.sources.items() if source.downloads]

    def constraints(self) -> dict[str, str]:
        """Return the permitted values of each wildcard, as regular expressions."""
        return {
            "dataset": alternatives(self.study.sources),
            "split": "[A-Za-z0-9_.-]+",
            "pool": alternatives(self.study.file.pools.pools()),
            "attack": alternatives(self.study.attacks),
            "defense": alternatives(self.study.defenses),
            "detector": alternatives(self.study.detectors),
            "adaptation": alternatives(self.study.file.persistence.adaptations if self.study.file.persistence else ()),
            "surrogate": alternatives(self.study.file.surrogates),
            "seed": alternatives(map(str, self.study.file.seeds)),
            "fit": "[0-9]+(-[0-9]+)?",
        }

    # --- targets -----------------------------------------------------------------------------------------------------

    def all_of(self, stage: str, file: str) -> list[str]:
        """Return one file of every job of a stage."""
        return [str(self.layout.path(stage, file, **names)) for names in self.matrix.jobs(stage)]

    def summary_outputs(self) -> dict[str, str]:
        """Return the files of the summary by key, with those of persistence and detectors if the study has them."""
        persistence = self.layout.outputs("persistences") if self.study.file.persistence else {}
        detections = self.layout.outputs("detections") if self.study.detectors else {}
        return {**self.layout.outputs("summary"), **persistence, **detections}

    def summarised(self, w: Any) -> list[str]:
        """Return every file that the summary reads: scores, trigger descriptions, persistence, detections."""
        read = {name: stage.summarised for name, stage in STAGES.items() if stage.summarised}
        return [file for name, key in read.items() for file in self.all_of(name, key)]

    # --- data --------------------------------------------------------------------------------------------------------

    def url_tables(self, w: Any) -> list[str]:
        """Return the existing URL tables and the list of a subset; the job reports how to get missing tables."""
        source = self.study.sources[w.dataset]
        return [name for name in [*source.present(w.split), source.subset] if name and Path(name).is_file()]

    def download_settings(self, w: Any) -> str:
        return download_slice(self.study, w.dataset, w.split)

    def download_report(self, w: Any) -> list[str]:
        """Return the report of a download; none if DVC tracks the split, since its pointer replaces the download."""
        folder = self.layout.path("dataset", dataset=w.dataset, split=w.split)
        if w.dataset not in self.downloaded or any(pointer.exists() for pointer in pointers(folder)):
            return []
        return [str(self.layout.path("download", "report", dataset=w.dataset, split=w.split))]

    def source_files(self, w: Any) -> list[str]:
        """Return the existing files that define a split: its only table, or its JSON file, and lists of its dataset.

        Pictures, shards and tables of several files are not watched: a changed one needs another `version`.
        """
        source = self.study.sources[w.dataset]
        if source.downloads:
            return []  # inputs of the download job
        tables = source.present(w.split) if source.source == "table" else [getattr(source, "file", "")]
        lists = [getattr(source, key, None) for key in ("subset", "names")]
        named = [*(tables if len(tables) == 1 else []), *(name for name in lists if isinstance(name, str))]
        # Snakemake would take a word in braces for a wildcard.
        return [name for name in named if name and Path(name).is_file() and not BRACES.search(name)]

    def source_names(self, w: Any) -> list[str]:
        """Return the files of class names and prompts for captions; none for sources with captions of their own."""
        source = self.study.sources[w.dataset]
        if source.source in ("scenes", "shifted_scenes", "url_table"):
            return []
        lists = {getattr(source, key, None) for key in ("folders", "only")} - {None}
        return [
            *names_file("templates", source.templates),
            *(names_file("classes", source.classes) if source.classes else []),
            *(file for name in sorted(lists) for file in names_file("folders", name)),
        ]

    def dataset_settings(self, w: Any) -> str:
        return dataset_slice(self.study, w.dataset, w.split)

    def dataset_source(self, w: Any) -> str:
        kind = module("source", self.study.sources[w.dataset].source)
        return fingerprint("scripts.dataset", kind) + content(*self.source_names(w))

    def dataset_options(self, w: Any) -> str:
        return options(download=self.download_report(w))

    def wordnet_files(self) -> list[str]:
        """Return the files of the WordNet that is fetched, by the paths by which other jobs ask for them.

        They lie in the checkout, and not in the working folder if Snakemake runs elsewhere.
        """
        return [file for file in names_file("lexicons", "wordnet") if Path(file).name in WORDNET]

    def pictures_options(self, w: Any) -> str:
        size, _, count = w.fit.partition("-")
        return options(size=size, pictures=count or None)

    def pictures_threads(self, w: Any) -> int:
        # Drawn pictures are few and small. A job of several threads would wait until as many cores are free at once.
        return 1 if self.study.sources[w.dataset].source in ("scenes", "shifted_scenes") else 4

    # --- models ------------------------------------------------------------------------------------------------------

    def _model_folder(self, stage: str, **names: Any) -> tuple[Path, list[str]]:
        return self.layout.path(stage, **names), self.layout.files(stage, **names)

    def scoring_model(self, settings: DefenseSettings | DetectorSettings, w: Any) -> tuple[Path | None, list[str]]:
        """Return folder and files of the study's clean model that a method names; for a public model its files alone.

        The method loads a public model by its name, so that its job gets no folder.
        """
        if settings.surrogate:
            return self._model_folder("surrogate_model", surrogate=settings.surrogate, seed=w.seed)
        return None, initial_inputs(settings.public)

    # --- pools -------------------------------------------------------------------------------------------------------

    def pool_files(self, *pools: str) -> list[str]:
        """Return the files of the pools, without pools that the study does not have."""
        return [str(self.layout.path("pool", "pool", pool=name)) for name in self._existing(pools)]

    def indexes(self, *pools: str) -> list[str]:
        """Return index and manifest of every split from which the pools are drawn."""
        settings = self.study.file.pools
        places = sorted({settings.place(settings.pools()[name]) for name in self._existing(pools)})
        return [file for d, s in places for file in self.layout.files("dataset", dataset=d, split=s)]

    def _existing(self, pools: Iterable[str]) -> list[str]:
        return [name for name in pools if name in self.study.file.pools.pools()]

    def pool_indexes(self, w: Any) -> list[str]:
        """Return what a pool is drawn from: index and manifest of its split, and lists of pairs that are left out."""
        drawn = drawn_with(self.study.file.pools, w.pool).values()
        return [*self.indexes(w.pool), *sorted({pool.without for pool in drawn if getattr(pool, "without", None)})]

    def pool_settings(self, w: Any) -> str:
        return pool_slice(self.study, w.pool)

    def pool_options(self, w: Any) -> str:
        return options(target=pool_target(self.study, w.pool))

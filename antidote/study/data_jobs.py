"""What the rules of data and pools hand to each job, and what the rules of all stages share.

Text for a command line comes quoted from here, or is quoted by the rule (`:q`).
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
from antidote.base.registry import module
from antidote.data.store.datasets import pointers
from antidote.data.words.lexicon import FILES as WORDNET
from antidote.data.words.names import names_file
from antidote.study import reach
from antidote.study.layout import STAGES, Layout, Matrix
from antidote.study.slices import dataset_slice, download_slice, pool_slice, pool_target
from antidote.study.study import Study


def matrix(study: Study) -> Matrix:
    """Return what the wildcards of a study's jobs take as values."""
    return Matrix(
        seeds=study.file.seeds,
        cells=study.cells,
        few_shot=frozenset(name for name in study.attacks if study.few_shot(name)),
        options=frozenset(name for name, stage in STAGES.items() if stage.optional and getattr(study.file, name, None)),
        surrogates=tuple(study.file.surrogates),
        pools=tuple(study.file.pools.pools()),
        splits=tuple(study.splits()),
        scored=tuple((part.dataset, part.split, study.fit(part)) for part in study.scored()),
        detections=tuple(study.detections),
        on_clean=tuple(name for name, entry in study.detectors.items() if reach.subject(entry) == "model"),
    )


def alternatives(names: Iterable[str]) -> str:
    """Return a regular expression for one of these names, and for nothing where there are none."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def options(**values: Any) -> str:
    """Return command line options (`a_b=1`: `--a-b 1`), quoted for a shell; without those that are None or empty."""
    words: list[str] = []
    for name, value in values.items():
        given = [value] if isinstance(value, str | int | Path) else list(value or ())
        words += [f"--{name.replace('_', '-')}", *map(str, given)] if given else []
    return shlex.join(words)


@cache
def content(*names: str) -> str:
    """Return the content of small files of the project that a job reads, as a part of its source.

    Snakemake looks at an input's content only where it is newer than the outputs; what `dvc pull` or a link restores
    may be newer than a change made before.
    """
    return "".join(f"-{sha256(name)[:16]}" for name in names)


class DataJobs:
    """What the rules of data and pools ask of a study; `w` holds the wildcards of a job as attributes.

    Attributes:
        layout: where the study's results are kept.
        matrix: which jobs it has.
        class_files, template_files: the project's files of its class names and of its prompts; none for open_clip's.
        names: both.
        few_shot, on_training: its attacks on a support set, and those on the training of the model.
        downloaded: the datasets that a job of its own downloads first.
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
        """Return the values that each wildcard may take, as regular expressions."""
        return {
            "dataset": alternatives(self.study.sources),
            "split": "[A-Za-z0-9_.-]+",
            "pool": alternatives(self.study.file.pools.pools()),
            "attack": alternatives(self.study.attacks),
            "defense": alternatives(self.study.defenses),
            "detector": alternatives(self.study.detectors),
            "surrogate": alternatives(self.study.file.surrogates),
            "seed": "[0-9]+",
            "fit": "[0-9]+(-[0-9]+)?",
        }

    # --- targets -----------------------------------------------------------------------------------------------------

    def all_of(self, stage: str, file: str) -> list[str]:
        """Return one file of every job of a stage."""
        return [str(self.layout.path(stage, file, **names)) for names in self.matrix.jobs(stage)]

    def summary_outputs(self) -> dict[str, str]:
        """Return the files of the summary by their keys; those of detections where the study has detectors."""
        detections = self.layout.outputs("detections") if self.study.detectors else {}
        return {**self.layout.outputs("summary"), **detections}

    def summarised(self, w: Any) -> list[str]:
        """Return every file that the summary reads: the scores, what each trigger is, the rebounds, the detections."""
        read = {name: stage.summarised for name, stage in STAGES.items() if stage.summarised}
        return [file for name, key in read.items() for file in self.all_of(name, key)]

    # --- data --------------------------------------------------------------------------------------------------------

    def url_tables(self, w: Any) -> list[str]:
        """Return the tables of addresses that are there, and the list of a subset; the job says where to get others."""
        source = self.study.sources[w.dataset]
        return [name for name in [*source.present(w.split), source.subset] if name and Path(name).is_file()]

    def download_settings(self, w: Any) -> str:
        return download_slice(self.study, w.dataset, w.split)

    def download_report(self, w: Any) -> list[str]:
        """Return the report of a download; where DVC keeps the split, its pointer stands in for the download."""
        folder = self.layout.path("dataset", dataset=w.dataset, split=w.split)
        if w.dataset not in self.downloaded or any(pointer.exists() for pointer in pointers(folder)):
            return []
        return [str(self.layout.path("download", "report", dataset=w.dataset, split=w.split))]

    def source_names(self, w: Any) -> list[str]:
        """Return the class names and prompts that captions are made from; drawn scenes come with theirs."""
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
        return [str(self.layout.data / "wordnet" / name) for name in WORDNET]

    def pictures_options(self, w: Any) -> str:
        size, _, count = w.fit.partition("-")
        return options(size=size, pictures=count or None)

    # --- pools -------------------------------------------------------------------------------------------------------

    def pool_files(self, *pools: str) -> list[str]:
        """Return the files of those pools that the study has."""
        return [str(self.layout.path("pool", "pool", pool=name)) for name in self._existing(pools)]

    def indexes(self, *pools: str) -> list[str]:
        """Return index and manifest of every split that these pools are drawn from."""
        settings = self.study.file.pools
        places = sorted({settings.place(settings.pools()[name]) for name in self._existing(pools)})
        return [file for d, s in places for file in self.layout.files("dataset", dataset=d, split=s)]

    def _existing(self, pools: Iterable[str]) -> list[str]:
        return [name for name in pools if name in self.study.file.pools.pools()]

    def pool_indexes(self, w: Any) -> list[str]:
        return self.indexes(w.pool)

    def pool_settings(self, w: Any) -> str:
        return pool_slice(self.study, w.pool)

    def pool_options(self, w: Any) -> str:
        return options(target=pool_target(self.study, w.pool))

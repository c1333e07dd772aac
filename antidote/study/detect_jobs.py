"""What the rules of detectors hand to each job: the model, the subject, and the data of the detector's access."""

from __future__ import annotations

from typing import Any

from antidote.base.fingerprint import fingerprint
from antidote.base.registry import method, module
from antidote.data.access import GRANTS, TRAINING_SET, Grant
from antidote.data.words.names import names_file
from antidote.detectors.base import Detector, DetectorSettings
from antidote.study import reach
from antidote.study.data_jobs import content, options
from antidote.study.jobs import Jobs
from antidote.study.layout import NO_DEFENSE
from antidote.study.slices import json_slice, text_argument

READ = {"dataset", "split", "pictures", "classes"}  # of the evaluation's settings, what says which pictures there are
CLEAN = "clean"  # stands for the attack where the clean reference is scored


class DetectJobs:
    """What each rule of detectors asks of a study; `w` holds the wildcards of a job, without an attack for a clean one.

    Attributes:
        jobs: what the rules of all other stages ask of the study.
    """

    def __init__(self, jobs: Jobs) -> None:
        self.jobs, self.study, self.layout = jobs, jobs.study, jobs.layout

    def _entry(self, w: Any) -> DetectorSettings:
        return self.study.detectors[w.detector]

    def _kind(self, w: Any) -> type[Detector]:
        return method("detector", self._entry(w).method)

    def _granted(self, w: Any) -> Grant:
        return GRANTS[self._kind(w).access]

    def _of(self, w: Any, subject: str) -> bool:
        """Tell whether a job scores this subject."""
        return reach.subject(self._entry(w)) == subject

    def _owns(self, w: Any) -> bool:
        """Tell whether a job reads the training set, as what it scores or by its access."""
        return self._of(w, "pairs") or self._granted(w).training_set

    def _pools(self, w: Any) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self._granted(w).pools, *(TRAINING_SET if self._owns(w) else ())]))

    def pools(self, w: Any) -> list[str]:
        return self.jobs.pool_files(*self._pools(w))

    def data(self, w: Any) -> list[str]:
        """Return the indexes that the pools name pairs of, and what is read of the evaluation's pictures."""
        scored = self.jobs.scored_split(self.study.evaluated) if self._of(w, "pictures") else []
        return list(dict.fromkeys([*self.jobs.indexes(*self._pools(w)), *scored]))

    def names(self, w: Any) -> list[str]:
        """Return the files of the words that are read: a lexicon, class names, prompts."""
        granted = self._granted(w)
        words = names_file("lexicons", self.study.lexicon()) if granted.lexicon else []
        if granted.classes:
            return [*words, *self.jobs.names]
        return [*words, *(self.jobs.class_files if self._of(w, "pictures") else [])]

    def poison(self, w: Any) -> list[str]:
        """Return the overlay of the training set."""
        return self.layout.files("poison", attack=w.attack, seed=w.seed) if self._owns(w) else []

    def trigger(self, w: Any) -> list[str]:
        """Return the trigger that the evaluation draws on pictures; the detector does not see it."""
        return self.layout.files("trigger", attack=w.attack, seed=w.seed) if self._of(w, "pictures") else []

    def settings(self, w: Any) -> str:
        return json_slice(self._entry(w).model_dump(mode="json", exclude={"label"}))

    def source(self, w: Any) -> str:
        """Return the sources of a job: the detector's, what reads the model's adapter, and what draws a trigger."""
        attack, parts = getattr(w, "attack", CLEAN), [module("detector", self._entry(w).method)]
        if attack != CLEAN:
            adapter = self.jobs.adapter(w)
            parts += [module("adapter", adapter)] if adapter else []
        if self._of(w, "pictures"):
            parts.append(module("attack", self.study.attacks[attack].method))
        return fingerprint("scripts.detect", *parts) + content(*self.names(w))

    def options(self, w: Any) -> str:
        attack, granted = getattr(w, "attack", CLEAN), self._granted(w)
        named = {"study": self.study.name, "attack": attack, "defense": getattr(w, "defense", NO_DEFENSE)}
        job = {"attack": attack, "seed": w.seed}
        return options(
            **named,
            detector=w.detector,
            pools=self.pools(w),
            lexicon=self.study.lexicon() if granted.lexicon else None,
            classes=self.jobs.classes(w) if granted.classes else None,
            templates=self.jobs.templates(w) if granted.classes else None,
            poison=self.layout.path("poison", **job) if self._owns(w) else None,
            **(self._pictures(job) if self._of(w, "pictures") else {}),
        )

    def _pictures(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a detector of pictures: where they are, the trigger, its target, how many."""
        return {
            "trigger": self.layout.path("trigger", **job),
            "evaluation": json_slice(self.study.evaluated.model_dump(mode="json", include=READ)),
            "target": text_argument(self.study.file.target),
            "pictures": self.study.file.detect_pictures,
        }

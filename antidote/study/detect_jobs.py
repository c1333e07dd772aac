"""The values that the detector rules pass to each job: model, subject, and the data of the detector's access."""

from __future__ import annotations

from pathlib import Path
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

READ = {"dataset", "split", "pictures", "classes"}  # settings of the evaluation that determine the set of pictures
CLEAN = "clean"  # placeholder for the attack when the clean reference is scored


class DetectJobs:
    """The values of a study that the detector rules need; `w` holds a job's wildcards, for a clean model no attack.

    Attributes:
        jobs: the values that the rules of all other stages need.
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
        """Return whether a job scores the subject `subject`."""
        return reach.subject(self._entry(w)) == subject

    def _owns(self, w: Any) -> bool:
        """Return whether a job reads the training set, as its subject or through its access."""
        return self._of(w, "pairs") or self._granted(w).training_set

    def _pools(self, w: Any) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self._granted(w).pools, *(TRAINING_SET if self._owns(w) else ())]))

    def pools(self, w: Any) -> list[str]:
        return self.jobs.pool_files(*self._pools(w))

    def data(self, w: Any) -> list[str]:
        """Return the indexes of the pools' splits, and the files of the evaluation's pictures that the job reads."""
        scored = self.jobs.scored_split(self.study.evaluated) if self._of(w, "pictures") else []
        return list(dict.fromkeys([*self.jobs.indexes(*self._pools(w)), *scored]))

    def names(self, w: Any) -> list[str]:
        """Return the word files that a job reads: a lexicon, descriptions, class names, prompts."""
        granted = self._granted(w)
        words = names_file("lexicons", self.study.lexicon()) if granted.lexicon else []
        words += [file for one in self._entry(w).word_files for file in names_file(*one)]
        if granted.classes:
            return [*words, *self.jobs.names]
        return [*words, *(self.jobs.class_files if self._of(w, "pictures") else [])]

    def poison(self, w: Any) -> list[str]:
        """Return the overlay of the training set."""
        return self.layout.files("poison", attack=w.attack, seed=w.seed) if self._owns(w) else []

    def trigger(self, w: Any) -> list[str]:
        """Return the trigger that the evaluation draws on pictures; the detector does not get the trigger."""
        return self.layout.files("trigger", attack=w.attack, seed=w.seed) if self._of(w, "pictures") else []

    def _scorer(self, w: Any) -> tuple[Path | None, list[str]]:
        """Return the files of the clean model that a detector names; its folder if it is one of the study."""
        return self.jobs.scoring_model(self._entry(w), w)

    def scorer(self, w: Any) -> list[str]:
        return self._scorer(w)[1]

    def settings(self, w: Any) -> str:
        return json_slice(self._entry(w).model_dump(mode="json", exclude={"label"}))

    def source(self, w: Any) -> str:
        """Return a job's source fingerprint: modules of the detector, the model's adapter and the attack's trigger."""
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
            false_positives=None if self._of(w, "model") else str(self.study.file.detect_false_positives),
            scorer=self._scorer(w)[0],
            **(self._pictures(job) if self._of(w, "pictures") else {}),
        )

    def _pictures(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a detector of pictures: evaluation set, trigger, target, number of pictures."""
        return {
            "trigger": self.layout.path("trigger", **job),
            "evaluation": json_slice(self.study.evaluated.model_dump(mode="json", include=READ)),
            "target": text_argument(self.study.file.target),
            "pictures": self.study.file.detect_pictures,
        }

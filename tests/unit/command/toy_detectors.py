"""Toy detectors, and the commands and the made-up study that the tests run with them."""

import json

import numpy as np

from antidote.command import audit, inspect
from antidote.detectors.base import MODEL, Detector, DetectorSettings, Scores

PATCH = "data:image/png;base64,iVBORw0KGgo="


class ToySettings(DetectorSettings):
    method: str = "toy"


class ToyModel(Detector):
    Settings, subject = ToySettings, "model"

    def score(self, clip, data, work):
        return Scores([MODEL], np.array([0.8]), 0.5, {"class": "cup", "trigger": PATCH})


class PairsSettings(ToySettings):
    pictures: int = 3


class NeedsPairs(ToyModel):
    Settings, access = PairsSettings, "clean-pairs"

    def score(self, clip, data, work):
        return Scores([MODEL], np.array([float(len(data.pairs))]))


class ToyPictures(Detector):
    """Brightness; fails if it gets anything but pictures."""

    Settings, subject = ToySettings, "pictures"

    def score(self, clip, data, work):
        assert data.training_set is None and data.pictures.keys == [str(n) for n in range(len(data.pictures))]
        return Scores(data.pictures.keys, data.pictures.images.double().mean(dim=(1, 2, 3)).numpy(), 128.0)


class NeedsClasses(ToyPictures):
    access = "test-time"


class NeedsShots(ToyPictures):
    access = "few-labelled"

    def score(self, clip, data, work):
        assert data.classes == ["boat", "cup"] and len(data.shots) == 2
        return super().score(clip, data, work)


def audited(place, *words):
    words = [place / "model", "--output", place / "out", *words]
    args = audit.arguments().parse_args([str(word) for word in words])
    audit.run(args)
    return json.loads((args.output / "audit.json").read_text())


def inspected(place, *words):
    words = [place / "model", place / "pictures", "--output", place / "out", *words]
    inspect.run(inspect.arguments().parse_args([str(word) for word in words]))


def study(place, clean, backdoored, settings=None, gate="passed"):
    """Write the detections of a study with these scores."""
    config = json.loads((place / "model" / "open_clip_config.json").read_text())
    for attack, scores in (("clean", clean), ("badnet", backdoored)):
        for seed, score in enumerate(scores):
            cell = place / "results" / "mine" / attack / f"seed{seed}"
            for folder in (cell / "model", cell / "none" / "detect" / "d"):
                folder.mkdir(parents=True)
            (cell / "model" / "open_clip_config.json").write_text(json.dumps(config))
            found = {"subject": "model", "defense": "none", "attack": attack, "method": "toy", "score": score,
                     "study": "mine", "settings": {"method": "toy", **(settings or {})}}  # fmt: skip
            (cell / "none" / "detect" / "d" / "detection.json").write_text(json.dumps(found))
    (place / "results" / "mine" / "summary").mkdir()
    (place / "results" / "mine" / "summary" / "table.csv").write_text(f"attack,defense,gate\nbadnet,none,{gate}\n")
    return place / "results" / "mine"


class Broken(ToyModel):
    """Has no score to give: `answer` is raised, or is the score."""

    answer: float | Exception = float("nan")

    def score(self, clip, data, work):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return Scores([MODEL], np.array([self.answer]))

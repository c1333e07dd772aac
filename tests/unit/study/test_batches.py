"""A batch of more pairs than its pools hold is told when the study is read, not by its job."""

from __future__ import annotations

from typing import Any

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study import checks
from antidote.study.study import Study
from antidote.training.recipe import TrainSettings

FILE = "tests/studies/tiny.yaml"
FULL = {"kind": "full", "training": {"epochs": 1, "batch_size": 161}}


def read(**changes: Any) -> Study:
    return Study({**read_mapping(str(ROOT / FILE)), **changes}, FILE)


def pools(**changes: Any) -> dict[str, Any]:
    return {**read_mapping(str(ROOT / FILE))["pools"], **changes}


@pytest.mark.parametrize(("changes", "told"), [
    ({"pretraining": {"batch_size": 385}}, "pretraining.batch_size: 385 is more than the 384 pairs of pools.training "
                                           "and pools.poison"),
    ({"poisoning": {"batch_size": 385}}, "poisoning.batch_size: 385 is more than the 384 pairs of "),
    ({"attacks": {"a": {"method": "badnet", "poisons": 9, "training": {"batch_size": 400}}}},
     "attacks.a.training.batch_size: 400 is more than the 384 pairs of "),
    ({"surrogates": {"s": {"pretraining": {"batch_size": 400}}}}, "surrogates.s.pretraining.batch_size: 400 is"),
    ({"defenses": {"par": {"method": "par"}}},
     "defenses.par.training.batch_size: 512 is more than the 160 pairs of pools.defense"),
    ({"defenses": {"few": {"method": "supervised", "training": {"batch_size": 49}}}, "pools": pools(shots={"per_class": 2})},
     "defenses.few.training.batch_size: 49 is more than the 48 pairs of pools.shots"),
    ({"detectors": {"abl": {"method": "abl", "training": {"batch_size": 500}}}},
     "detectors.abl.training.batch_size: 500 is more than the 384 pairs of "),
    ({"persistence": {"adaptations": {"one": FULL}}},
     "persistence.adaptations.one.training.batch_size: 161 is more than the 160 pairs of pools.defense"),
    ({"persistence": {"adaptations": {"one": FULL | {"pool": "more"}}}, "pools": pools(further={"more": {"pairs": 9}})},
     "persistence.adaptations.one.training.batch_size: 161 is more than the 9 pairs of pools.further.more"),
])  # fmt: skip
def test_it_is_one_line(changes, told):
    with pytest.raises(UserError) as error:
        read(**changes)
    assert str(error.value).startswith(f"{FILE}: {told}")


@pytest.mark.parametrize("changes", [
    {"pretraining": {"batch_size": 384}, "defenses": {"finetune": {"method": "finetune", "training": {"batch_size": 160}}}},
    {"poisoning": {"epochs": 0, "batch_size": 999}},
    # The defense does not fit the model, and is not run.
    {"model": {"name": "convnext_base"}, "datasets": {}, "evaluation": {"dataset": "imagenette", "split": "test"},
     "target": "church", "pools": {"training": {"dataset": "imagenette", "split": "train", "pairs": 300},
                                   "poison": {"pairs": 99}, "defense": {"pairs": 5}},
     "defenses": {"beear": {"method": "beear_clip"}}},
])  # fmt: skip
def test_what_fits_and_what_is_not_trained_is_no_fault(changes):
    read(**changes)


def test_a_training_that_reads_no_pool_is_no_fault(monkeypatch):
    """A method of the access `nothing` draws its own pairs."""
    monkeypatch.setattr(checks, "_trainings", lambda study: [("defenses.own.training", TrainSettings(), ())])
    read()

"""Persistence in a study: the jobs of models under test and of controls, and what is left over."""

from types import SimpleNamespace

import pytest

from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study.jobs import Jobs
from antidote.study.layout import PERSISTENCE, STAGES
from antidote.study.leftovers import of_study
from antidote.study.study import Study

FILE = "tests/studies/tiny.yaml"


def study(**persistence):
    values = read_mapping(str(ROOT / FILE))
    adapted = {"persistence": {"adaptations": {"full": {"kind": "full"}}, **persistence}}
    return Study({**values, **adapted}, FILE)


def w(**names):
    return SimpleNamespace(**{"seed": "0", **names})


def test_the_summary_has_further_files():
    assert set(Jobs(study()).summary_outputs()) == {*STAGES["summary"].files, *PERSISTENCE}
    assert set(Jobs(Study(read_mapping(str(ROOT / FILE)), FILE)).summary_outputs()) == set(STAGES["summary"].files)


def test_the_control_is_the_clean_reference_under_the_same_defense():
    jobs = Jobs(study())
    cell = {"attack": "badnet", "adaptation": "full"}
    assert jobs.folder_under_test(w(**cell, defense="finetune")) == "results/tiny/badnet/seed0/finetune/model"
    assert jobs.clean_folder_under_test(w(**cell, defense="finetune")) == "results/tiny/clean/seed0/finetune/model"
    assert jobs.clean_folder_under_test(w(**cell, defense="none")) == "results/tiny/clean/seed0/model"
    assert jobs.persistence_source(w(**cell, defense="none")) != jobs.persistence_source(
        w(**{**cell, "attack": "blended"}, defense="none")
    )


def test_a_defense_of_the_clean_reference_gets_what_it_gets_elsewhere():
    jobs, clean = Jobs(study()), w(defense="ta_cleaner")
    assert jobs.defense_options(clean) == jobs.defense_options(w(defense="ta_cleaner", attack="badnet"))
    assert jobs.defense_source(clean) == jobs.defense_source(w(defense="ta_cleaner", attack="badnet"))


@pytest.mark.parametrize(
    ("persistence", "left"),
    [
        ({}, {"old.json", "old.cost.json"}),
        ({"controls": False}, {"old.json", "old.cost.json", "clean/full.json", "finetune"}),
    ],
)
def test_what_is_left_of_adaptations(tmp_path, persistence, left):
    cell = tmp_path / "badnet/seed0/finetune"
    for file in (
        "scores.json",
        *(f"persistence/{n}.json" for n in ("full", "full.cost", "old", "old.cost", "clean/full")),
    ):
        path = cell / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "clean/seed0/finetune/model").mkdir(parents=True)
    found = [waste.path for waste in of_study(study(**persistence), tmp_path)]
    places = {str(path.relative_to(cell / "persistence")) if cell in path.parents else path.name for path in found}
    assert places == left

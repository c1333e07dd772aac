"""A list in the place of a number stands for one entry per value; the table picks one by clean accuracy alone."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study.schema import study_schema
from antidote.study.slices import summary_plan
from antidote.study.study import Study
from antidote.study.sweeps import numeric
from antidote.summary import style
from antidote.summary.plan import SummarySettings
from antidote.summary.plane import _lines, plane
from antidote.summary.tables import shown, summarise
from antidote.summary.text import plain

FILE = "tests/studies/tiny.yaml"


def study(defense: dict | None = None, attack: dict | None = None) -> Study:
    values = read_mapping(str(ROOT / FILE))
    if defense is not None:
        values["defenses"] = {"finetune": {"method": "finetune", **defense}}
    if attack is not None:
        values["attacks"] = {"badnet": {"method": "badnet", "patch_size": 6, "poisons": 24, **attack}}
    return Study(values, FILE)


def test_a_list_stands_for_one_defense_per_value():
    made = study({"training": {"epochs": 2, "batch_size": 32, "lr": [3e-6, 0.002, 1]}})
    assert list(made.defenses) == ["none", "finetune_lr3e-6", "finetune_lr0.002", "finetune_lr1"]
    assert [made.defenses[name].training.lr for name in list(made.defenses)[1:]] == [3e-6, 0.002, 1]
    assert {made.defenses[name].training.epochs for name in list(made.defenses)[1:]} == {2}


def test_numbers_that_yaml_takes_for_text_are_numbers():
    lr = yaml.safe_load("lr: [5e-4, 0.001]")["lr"]
    assert isinstance(lr[0], str), "else this test shows nothing"
    made = study({"training": {"lr": lr}})
    assert list(made.defenses)[1:] == ["finetune_lr0.0005", "finetune_lr0.001"]
    assert made.defenses["finetune_lr0.0005"].training.lr == 5e-4


def test_an_entry_of_a_sweep_is_the_same_job_as_one_written_out():
    swept = study({"training": {"lr": [1e-3, 2e-3]}}).defenses["finetune_lr0.002"]
    assert swept == study({"training": {"lr": 2e-3}}).defenses["finetune"]


def test_two_lists_give_every_combination():
    made = study({"training": {"lr": [0.001, 0.002], "epochs": [1, 2]}})
    assert list(made.defenses)[1:] == [
        "finetune_lr0.001_epochs1", "finetune_lr0.001_epochs2", "finetune_lr0.002_epochs1", "finetune_lr0.002_epochs2",
    ]  # fmt: skip


def test_attacks_and_their_recipes_sweep_too():
    made = study(attack={"poisons": [8, 16], "training": {"epochs": [1, 3]}})
    assert next(iter(made.attacks)) == "badnet_poisons8_epochs1" and len(made.attacks) == 4
    assert made.poisoning("badnet_poisons16_epochs3").epochs == 3


def test_the_plan_tells_the_summary_what_was_swept():
    plan = SummarySettings.read(read_mapping(summary_plan(study({"training": {"lr": [0.001, 0.002]}}))), "plan")
    assert [(d.name, d.sweep, d.setting) for d in plan.defenses] == [
        ("none", "", ""),
        ("finetune_lr0.001", "finetune", "lr 0.001"),
        ("finetune_lr0.002", "finetune", "lr 0.002"),
    ]


@pytest.mark.parametrize(
    "training,text",
    [
        ({"lr": []}, "defenses.finetune.training.lr: an empty list; a sweep needs values"),
        ({"lr": [0.1, "fast"]}, "defenses.finetune.training.lr: a sweep holds numbers, not 'fast'"),
        ({"lr": [0.1, 0.1]}, "defenses.finetune.training.lr: the sweep [0.1, 0.1] names a value twice"),
        ({"lr": [0.1, -1]}, "defenses.finetune_lr-1: training.lr: input should be greater than 0, not -1"),
        ({"schedule": ["cosine"]}, "defenses.finetune: training.schedule: input should be"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_told_in_one_line(training, text):
    with pytest.raises(UserError) as error:
        study({"training": training})
    assert text in str(error.value) and "\n" not in str(error.value)


def test_a_sweep_must_not_take_the_name_of_another_entry():
    values = read_mapping(str(ROOT / FILE))
    values["defenses"] = {
        "a": {"method": "finetune", "training": {"lr": [0.1, 0.2]}},
        "a_lr0.1": {"method": "finetune"},
    }
    with pytest.raises(UserError, match=r"a sweep gives the name .a_lr0[.]1., which another entry has"):
        Study(values, FILE)


@pytest.mark.parametrize(
    "annotation,yes",
    [(int, True), (float, True), (float | None, True), (str, False), (bool, False), (int | str, False)],
)
def test_which_settings_can_be_swept(annotation, yes):
    assert numeric(annotation) is yes


def test_an_editor_accepts_a_list_where_a_number_stands():
    definitions = study_schema()["$defs"]
    training = definitions["FineTuneSettings"]["properties"]["training"]["$ref"].rpartition("/")[2]
    assert {"$ref": "#/$defs/Sweep"} in definitions[training]["properties"]["lr"]["anyOf"]
    assert {"$ref": "#/$defs/Sweep"} not in definitions["TrainSettings"]["properties"]["lr"].get("anyOf", [])


PLAN = {
    "study": "s",
    "attacks": [{"name": "patch"}, {"name": "noise"}],
    "defenses": [
        {"name": "none"},
        {"name": "tune_lr1", "method": "tune", "sweep": "tune", "setting": "lr 1"},
        {"name": "tune_lr2", "method": "tune", "sweep": "tune", "setting": "lr 2"},
        {"name": "tune_lr3", "method": "tune", "sweep": "tune", "setting": "lr 3"},
        {"name": "probe", "method": "probe"},
    ],
    "accuracy_budget": 0.05,
}
# CA@1 and ASR@1. On `patch` lr 3 costs too much and lr 2 is within the budget, though it keeps more accuracy than lr 1;
# on `noise` nothing is within it.
CELLS = {
    ("clean", "none"): (0.90, None),
    ("patch", "none"): (0.90, 0.99), ("patch", "tune_lr1"): (0.86, 0.10), ("patch", "tune_lr2"): (0.89, 0.30),
    ("patch", "tune_lr3"): (0.80, 0.00), ("patch", "probe"): (0.90, 0.20),
    ("noise", "none"): (0.90, 0.99), ("noise", "tune_lr1"): (0.80, 0.50), ("noise", "tune_lr2"): (0.70, 0.40),
    ("noise", "tune_lr3"): (0.60, 0.00), ("noise", "probe"): (0.90, 0.20),
}  # fmt: skip


@pytest.fixture
def plan() -> SummarySettings:
    return SummarySettings.read(PLAN, "plan")


@pytest.fixture
def table(plan) -> pd.DataFrame:
    rows = [
        {"attack": a, "defense": d, "seed": 0, "ca1": ca, "asr1": asr, "floor": 0.0, "ca1_low": ca, "ca1_high": ca,
         "asr1_low": asr, "asr1_high": asr}
        for (a, d), (ca, asr) in CELLS.items()
    ]  # fmt: skip
    return summarise(pd.DataFrame(rows), plan)


def test_the_picked_setting_is_the_strongest_within_the_accuracy_budget(table):
    """The last listed; where none is within the budget, that of the most CA@1; never lr 3, whose ASR is the lowest."""
    picked = table[table["picked"] == "yes"].set_index("attack")["defense"].to_dict()
    assert picked == {"patch": "tune_lr2", "noise": "tune_lr1"}


def test_strength_is_the_order_of_the_study_and_not_the_accuracy(plan):
    """Measured: a higher rate may keep more accuracy and leave less of the backdoor; so of all three, lr 3 is shown."""
    cells = {"none": (0.97, 1.0), "tune_lr1": (0.96, 0.9), "tune_lr2": (0.957, 0.517), "tune_lr3": (0.958, 0.01)}
    assert picked_of(cells, plan) == "tune_lr3"
    assert picked_of({**cells, "tune_lr3": (0.91, 0.01)}, plan) == "tune_lr2"
    assert picked_of({name: cells[name] for name in ("none", "tune_lr1")}, plan) == "tune_lr1", "others were not run"
    assert picked_of({"none": (0.97, 1.0)}, plan) == "tune_lr1"


def picked_of(cells, plan):
    given = [(a, d, *cells.get(d, (None, None))) for a in ("clean", "patch", "noise") for d in ROWS[a]]
    frame = pd.DataFrame(given, columns=["attack", "defense", "ca1", "asr1"]).assign(floor=0.0, seed=0)
    found = summarise(frame.astype({"ca1": float, "asr1": float}), plan)
    return found[(found["attack"] == "patch") & (found["picked"] == "yes")]["defense"].item()


DEFENSES = ["none", "tune_lr1", "tune_lr2", "tune_lr3", "probe"]
ROWS = {"clean": ["none"], "patch": DEFENSES, "noise": DEFENSES}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_sweeps_are_listed_from_weak_to_strong(path):
    """Every number that is swept here is stronger the higher it is; one of another kind belongs into its own line."""
    swept = [entry for entry in Study(read_mapping(str(path)), path.name).entries["defense"] if entry.sweep]
    for name in {entry.sweep for entry in swept}:
        settings = [entry.setting.split(" ") for entry in swept if entry.sweep == name]
        growing = {"lr", "repelling_weight", "epsilon", "masked", "threshold"}  # of IMBERT: more is masked
        assert {key for key, _ in settings} <= growing, f"{path.name}: {name}"
        values = [float(value) for _, value in settings]
        assert values == sorted(values), f"{path.name}: {name}"


def test_a_setting_that_was_not_picked_is_not_the_best(table):
    best = set(table.loc[table["best"] == "yes", ["attack", "defense"]].itertuples(index=False, name=None))
    assert best == {("patch", "probe"), ("noise", "probe")}  # tune_lr1 on `patch` has less ASR, but was not picked


def test_the_table_shows_the_picked_setting_under_the_name_of_the_defense(table):
    rows = shown(table)
    patch = rows[rows["attack"] == "patch"].set_index("defense")
    assert list(patch.index) == ["none", "tune", "probe"]
    assert patch.loc["tune", "asr1_mean"] == 0.30
    text = plain(rows)
    assert "tune: swept; shown is the strongest setting within the accuracy budget: lr 2 (patch)\n" in text
    most = "tune: swept; no setting is within the accuracy budget; shown is the one with the most CA@1: lr 1 (noise)"
    assert most in text


def test_the_values_of_a_sweep_are_one_line_of_the_plane(table, plan, tmp_path):
    points = {row.defense: (row.ca1_mean, row.asr1_mean) for row in table[table["attack"] == "patch"].itertuples()}
    lines = _lines(points, plan)
    assert [len(line) for line, _ in lines] == [4, 2] and [index for _, index in lines] == [0, 1]
    assert lines[0][0] == [points[name] for name in ("none", "tune_lr1", "tune_lr2", "tune_lr3")]
    assert style.numbers(plan) == {"none": 0, "tune_lr1": 1, "tune_lr2": 1, "tune_lr3": 1, "probe": 2}
    plane(table, plan, tmp_path / "plane.png")
    assert (tmp_path / "plane.png").stat().st_size > 10_000


def test_two_entries_of_one_method_are_no_curve():
    """UBT with two scorers, or CBPT with one and with six triggers, are not settings of a sweep."""
    entries = [{"name": "none"}, {"name": "ubt", "method": "ubt"}, {"name": "ubt_model", "method": "ubt"}]
    plan = SummarySettings.read({"study": "s", "attacks": [{"name": "a"}], "defenses": entries}, "plan")
    points = {"none": (90.0, 100.0), "ubt": (89.0, 20.0), "ubt_model": (88.0, 90.0)}
    assert _lines(points, plan) == [([points["none"], points["ubt"]], 0), ([points["none"], points["ubt_model"]], 1)]

"""The summary of persistence: figures of every curve, tables with both controls, plot, page."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from antidote.base.errors import UserError
from antidote.summary.cells import read_cells
from antidote.summary.costs import read_costs
from antidote.summary.csv_files import write_csv
from antidote.summary.page import render
from antidote.summary.persistence import plot, read_persistence, tables
from antidote.summary.plan import SummarySettings
from antidote.summary.tables import summarise
from antidote.summary.text import plain

PLAN = {
    "study": "s", "seeds": [0, 1], "attacks": [{"name": "patch"}],
    "defenses": [{"name": "none"}, {"name": "tune", "method": "tune"}, {"name": "filter", "method": "ubt"}],
}  # fmt: skip
ADAPTED = {
    "adaptations": [{"name": "full", "kind": "full"}, {"name": "other", "kind": "other_domain", "pool": "painted"}],
    "adapted": [["patch", defense, name] for defense in ("none", "tune", "filter") for name in ("full", "other")],
    "clean_defenses": ["none", "tune"],
}


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def curve(*scores):
    return {"curve": [{"step": 10 * i, "ca1": 0.8 - i / 100, "score": score} for i, score in enumerate(scores)]}


@pytest.fixture
def results(tmp_path):
    for seed in (0, 1):
        for defense, asr in (("none", 0.9), ("tune", 0.1), ("filter", 0.1)):
            folder = tmp_path / "patch" / f"seed{seed}" / defense
            put(folder / "scores.json", {"ca1": 0.8, "asr1": asr})
            put(folder / "persistence/full.json", curve(asr, asr / 2, asr + seed / 20))
            put(folder / "persistence/other.json", curve(asr, 0.6 if seed else 0.05, 0.05))
            put(folder / "persistence/clean/full.json", curve(0.01, 0.02, 0.03 if defense == "none" else 0.04))
    return tmp_path


@pytest.fixture
def plan():
    return SummarySettings.read({**PLAN, **ADAPTED}, "plan")


def test_every_measurement_is_a_row(plan, results, tmp_path):
    frame = read_persistence(plan, results)
    assert len(frame) == 2 * (3 * 2 + 2), "two seeds; a control that the plan does not name is a leftover"
    row = frame[(frame["defense"] == "tune") & (frame["adaptation"] == "other") & (frame["seed"] == 1)].iloc[0]
    assert (row["kind"], row["pool"], row["model"]) == ("other_domain", "painted", "backdoored")
    found = row[["delivered", "worst", "delta", "area", "revival_step", "ca1_delivered", "ca1_lowest", "ca1_last"]]
    assert list(found) == pytest.approx([0.1, 0.6, 0.5, (0.35 + 0.325) / 2, 10, 0.8, 0.78, 0.78])
    assert frame.loc[frame["model"] == "clean", "revival_step"].isna().all()
    write_csv(frame, tmp_path / "persistence.csv")
    assert "patch,tune,other,other_domain,painted,backdoored,1,0.1,0.6" in (tmp_path / "persistence.csv").read_text()


def test_the_margin_decides_from_when_a_backdoor_counts_as_revived(plan, results):
    wide = plan.model_copy(update={"revival_margin": 0.5})
    assert read_persistence(plan, results)["revival_step"].notna().sum() == 2
    assert read_persistence(wide, results)["revival_step"].isna().all()


def test_the_table_shows_both_controls(plan, results):
    (part,) = tables(plan, read_persistence(plan, results))
    head, *rows = part["rows"]
    rows = {tuple(row[:2]): dict(zip(head, row, strict=True)) for row in rows}
    tuned = rows["tune", "full"]
    assert (tuned["delivered"], tuned["worst"], tuned["delta"], tuned["revival step"]) == ("10.0", "12.5", "2.5", "")
    assert tuned["clean model: worst"] == "3.0" and tuned["clean model, same defense: worst"] == "4.0"
    assert rows["tune", "other"]["revival step"] == "10 (1 of 2 seeds)"
    assert rows["filter", "full"]["clean model, same defense: worst"] == "", "no such control"
    assert rows["none", "full"]["clean model, same defense: worst"] == "3.0"


def test_the_worst_of_all_adaptations_is_in_cells_and_tables(plan, results):
    cells = read_cells(plan, results)
    assert list(cells.loc[cells["defense"] == "tune", "worst"]) == pytest.approx([0.10, 0.60])
    table = summarise(cells, plan)
    assert table.loc[table["defense"] == "tune", "worst_mean"].item() == pytest.approx(0.35)
    assert "Worst in percent" in plain(table) and "35.0" in plain(table)


def test_plot_and_page(plan, results, tmp_path):
    cells, folder = read_cells(plan, results), tmp_path / "plots"
    table, costs = summarise(cells, plan), read_costs(plan, results, results)
    folder.mkdir()
    plot(plan, results, table, folder / "persistence.png")
    assert (folder / "persistence.png").stat().st_size > 10_000
    for name in ("heatmap", "plane", "gallery", "curves"):
        (folder / f"{name}.png").write_bytes(b"x")
    parts = tables(plan, read_persistence(plan, results))
    page = render(plan, cells, costs, table, (0, 0), [], [], folder, persistence=parts)
    assert 'id="persistence"' in page and "clean model, same defense: worst" in page
    assert page.count("data:image/png;base64,") == 5


def test_leftovers_of_a_study_without_persistence_do_not_show(results):
    plan = SummarySettings.read(PLAN, "plan")
    cells = read_cells(plan, results)
    assert "worst" not in cells and "Worst" not in plain(summarise(cells, plan))
    assert read_persistence(plan, results).empty


def test_costs_name_the_adaptation(plan, results):
    put(results / "patch/seed1/tune/persistence/full.cost.json", {"seconds": 3.0})
    put(results / "clean/seed0/tune/model/cost.json", {"seconds": 5.0})
    costs = read_costs(plan, results, results)
    rows = costs[["stage", "attack", "defense", "adaptation", "seconds"]].astype(object)
    rows = [tuple(row) for row in rows.where(pd.notna(rows), None).itertuples(index=False)]
    assert rows == [("defend_clean", "clean", "tune", None, 5.0), ("persistence", "patch", "tune", "full", 3.0)]


def test_a_broken_curve_is_told_in_one_line(plan, results):
    put(results / "patch/seed1/tune/persistence/full.json", {"curve": []})
    with pytest.raises(UserError, match=r"patch/seed1/tune/persistence/full.json: curve: .*at least 1"):
        read_persistence(plan, results)

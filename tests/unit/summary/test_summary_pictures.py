"""Pictures of a summary: curves, sheets of triggers, the plane, and what a defense found."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from tiny_study import WEIRD, put

from antidote.base.errors import UserError
from antidote.summary.cells import read_cells
from antidote.summary.costs import read_costs
from antidote.summary.curves import read_log
from antidote.summary.gallery import difference, read_sheet
from antidote.summary.page import render
from antidote.summary.plan import SummarySettings
from antidote.summary.tables import summarise


def test_a_long_log_is_drawn_as_means(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"step": i, "loss": float(i % 2)}) + "\n" for i in range(1000)))
    log = read_log(path)
    assert len(log) == 200 and log["step"].iloc[0] == 2 and set(log["loss"]) <= {0.4, 0.6}
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2}\n')
    with pytest.raises(UserError, match=re.escape(f"{path}: line 2")):
        read_log(path)


def test_sheet_and_amplified_difference(results, tmp_path):
    pictures = read_sheet(results / "patch/seed0/floor/examples.png")
    assert pictures.shape == (2, 8, 8, 8, 3)
    shown, factor, largest = difference(pictures[0], pictures[1])
    assert (factor, largest) == (20, 12) and set(np.unique(shown)) == {240}
    Image.new("RGB", (64, 20)).save(tmp_path / "odd.png")
    (tmp_path / "no.png").write_bytes(b"no picture")
    for name in ("odd.png", "no.png"):
        with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
            read_sheet(tmp_path / name)


def test_weird_names_can_be_drawn(tmp_path):
    """An entry may be called anything: a dollar sign is not mathematics, a tag is not markup."""
    from antidote.summary.curves import curves
    from antidote.summary.gallery import gallery
    from antidote.summary.heatmap import heatmap
    from antidote.summary.persistence import plot
    from antidote.summary.plane import plane

    plan = SummarySettings.read(
        {"study": WEIRD, "attacks": [{"name": "a$_{"}], "defenses": [{"name": "<b>$\\x"}], "model": WEIRD}, "plan"
    )
    for defense, asr in (("none", 0.9), ("<b>$\\x", 0.1), ("floor", 0.01)):
        put(tmp_path / "a$_{" / "seed0" / defense / "scores.json", {"ca1": 0.5, "asr1": asr})
    cells = read_cells(plan, tmp_path)
    table, costs = summarise(cells, plan), read_costs(plan, tmp_path, tmp_path)
    heatmap(table, tmp_path / "heatmap.png")
    plane(table, plan, tmp_path / "plane.png")
    gallery(plan, tmp_path, table, tmp_path / "gallery.png")
    plot(plan, tmp_path, table, tmp_path / "persistence.png")
    curves(plan, tmp_path, tmp_path / "curves.png")
    page = render(plan, cells, costs, table, (0, 0), [], [], tmp_path)
    assert page.count("<script") == 1 and "<b>" not in page and "&lt;b&gt;$\\x" in page


def test_a_model_without_accuracy_does_not_press_the_others_together(table, plan):
    from antidote.summary.plane import LOSS, _limits

    cells = table[table["attack"] == "patch"].assign(x=lambda cells: 100 * cells["ca1_mean"])
    none = cells.loc[cells["defense"] == "none", "x"].iloc[0]
    assert _limits(cells, plan)[0] == pytest.approx(min(cells["x"].min(), none - 100 * plan.accuracy_budget))
    cells.loc[cells["defense"] == "harsh", "x"] = none - LOSS - 20
    assert _limits(cells, plan) == pytest.approx((none - LOSS, cells["x"].max()))


def test_a_strip_shows_a_clean_picture_above_the_triggered_one(tmp_path):
    from antidote.summary.strip import GAP, HEAD, MARGIN, SIDE, strip

    sheet = np.zeros((2, 8, 4, 4, 3), np.uint8)
    sheet[0, :, ..., 0], sheet[1, :, ..., 2] = 200, np.arange(8)[:, None, None] * 10
    names = ["one", "two"]
    for name in names:
        put(tmp_path / name / "seed1" / "floor" / "scores.json", {})
        flat = sheet.swapaxes(1, 2).reshape(8, 32, 3)
        Image.fromarray(flat).save(tmp_path / name / "seed1" / "floor" / "examples.png")
    plan = SummarySettings.read({"study": "x", "seeds": [0, 1], "attacks": [{"name": n} for n in names]}, "plan")
    strip(plan, tmp_path, ["two", "one"], tmp_path / "strip.png")
    pixels = np.asarray(Image.open(tmp_path / "strip.png").convert("RGB"))
    x, y, tile = MARGIN + SIDE + 5, MARGIN + HEAD + 5, 128 + GAP
    assert pixels[y, x].tolist() == [200, 0, 0] and pixels[y + tile, x].tolist() == [0, 0, 0]
    assert pixels[y, x + tile].tolist() == [200, 0, 0] and pixels[y + tile, x + tile].tolist() == [0, 0, 10]
    with pytest.raises(UserError, match="three: no attack of the study; its attacks are one, two"):
        strip(plan, tmp_path, ["three"], tmp_path / "strip.png")


def test_triggers_that_a_defense_found_are_shown(tmp_path):
    from safetensors.numpy import save_file

    from antidote.summary.inverted import inverted, picture

    plan = SummarySettings.read({"study": "x", "attacks": [{"name": "a"}], "defenses": [{"name": "cbpt"}]}, "plan")
    assert inverted(plan, tmp_path) == []
    mask, pattern = np.zeros((4, 4), np.float32), np.ones((3, 4, 4), np.float32)
    mask[0, 0] = 1
    model = tmp_path / "a/seed0/cbpt/model"
    put(model / "adapter.json", {"dummy_triggers": [{"class": "cup", "share": 0.5, "mask_area": 1 / 16}]})
    save_file({"masks": mask[None], "patterns": pattern[None]}, model / "adapter.safetensors")
    (cell,) = inverted(plan, tmp_path)
    assert (cell["attack"], cell["defense"]) == ("a", "cbpt") and cell["triggers"][0]["title"] == "cup, 50.0 %"
    pixels = picture(mask, pattern)
    assert pixels.shape == (128, 256, 3)
    assert pixels[0, 0].tolist() == [255] * 3 and pixels[-1, 0].tolist() == [128] * 3, "the pattern shows on grey"
    assert pixels[0, 128].tolist() == [255] * 3 and pixels[-1, -1].tolist() == [0] * 3, "the mask beside it"
    cells = read_cells(plan, tmp_path)
    for name in ("heatmap", "plane", "gallery", "curves"):
        (tmp_path / f"{name}.png").write_bytes(b"x")
    page = render(
        plan, cells, read_costs(plan, tmp_path, tmp_path), summarise(cells, plan), (0, 0), [cell], [], tmp_path
    )
    assert cell["triggers"][0]["uri"] in page and "cup, 50.0 %" in page

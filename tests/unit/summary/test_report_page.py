"""The report page: labels, what would run next, and, where a browser is installed, sorting and filters in the browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from antidote.base.fingerprint import ROOT
from antidote.summary.cells import read_cells
from antidote.summary.costs import read_costs
from antidote.summary.labels import Labels
from antidote.summary.page import render
from antidote.summary.pending import pending
from antidote.summary.plan import SummarySettings
from antidote.summary.tables import summarise
from tests.unit.summary.test_pages import put

PLAN = {
    "study": "tried", "seeds": [0, 1], "track": "paper 1", "model": "RN50",
    "attacks": [
        {"name": "patch", "label": "BadNet", "method": "badnet"},
        {"name": "stripes", "label": "BadNet", "method": "badnet"},
        {"name": "plain", "method": "blended"},
    ],
    "defenses": [
        {"name": "tune_lr1", "label": "Fine-tuning", "sweep": "tune", "setting": "lr 1", "access": "clean-pairs"},
        {"name": "cleanclip", "label": "CleanCLIP", "method": "cleanclip", "access": "clean-pairs"},
        {"name": "rvpt", "label": "RVPT", "access": "few-labelled"},
    ],
    "blank": [{"attack": "plain", "defense": "rvpt", "reason": "needs a ViT"}],
}  # fmt: skip
RATES = {"none": 0.9, "tune_lr1": 0.5, "cleanclip": 0.1}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def page_of(folder, plan=PLAN):
    plan = SummarySettings.read(plan, "plan")
    put(folder / "clean/seed0/none/scores.json", {"ca1": 0.95, "asr1": None})
    for defense, asr1 in RATES.items():
        put(folder / f"patch/seed0/{defense}/scores.json", {"ca1": 0.9, "asr1": asr1})
    put(folder / "patch/seed1/none/scores.json", {"ca1": 0.9, "asr1": 0.08})
    for name in ("heatmap", "plane", "gallery", "curves"):
        (folder / f"{name}.png").write_bytes(b"x")
    cells = read_cells(plan, folder)
    table, costs = summarise(cells, plan), read_costs(plan, folder, folder)
    return render(plan, cells, costs, table, (0, 0), [], [], folder, pending=pending(plan, folder))


def test_labels_stand_for_entries_and_the_entry_is_the_hint():
    labels = Labels.of(SummarySettings.read(PLAN, "plan"))
    assert labels.attacks == {"patch": "BadNet (patch)", "stripes": "BadNet (stripes)", "plain": "plain"}
    assert labels.defense("tune") == '<span title="tune">Fine-tuning</span>'
    assert labels.defense("tune_lr1") == '<span title="tune_lr1">Fine-tuning, lr 1</span>'
    assert labels.defense("none") == '<span title="none">no defense</span>'
    assert labels.attack("plain") == "plain" and labels.attack("clean") == "clean"
    weird = Labels({"<b>": '"<i>', "a_b": "a_b"})
    assert "<b>" not in weird.attack("<b>") and "<i>" not in weird.attack("<b>")
    assert weird.attack("a_b") == "a_<wbr>b"


def test_the_page_lists_what_would_run_next(tmp_path):
    page = page_of(tmp_path)
    rows = {(row["stage"], row["attack"], row["defense"]): row["seeds"] for row in pending(
        SummarySettings.read(PLAN, "plan"), tmp_path)}  # fmt: skip
    assert rows["evaluate", "patch", "cleanclip"] == "1" and rows["evaluate", "stripes", "none"] == "0, 1"
    assert rows["evaluate clean", "", ""] == "1" and rows["floor", "plain", ""] == "0, 1"
    assert ("evaluate", "plain", "rvpt") not in rows and ("evaluate", "patch", "none") not in rows
    assert 'id="next"' in page and '<span title="cleanclip">CleanCLIP</span></td><td></td><td>1</td>' in page


def test_published_figures_are_shown_in_the_track_only(tmp_path):
    page = page_of(tmp_path)
    assert 'id="published"' in page and 'href="#published"' in page and "Adversarial Backdoor Defense in CLIP" in page
    assert "published" not in page_of(tmp_path, PLAN | {"track": "tiny 1"})
    assert "published" not in page_of(tmp_path, PLAN | {"track": ""})


DRIVER = """
const said = [];
const table = document.querySelector("table.cells"), column = [...table.tHead.rows[0].cells];
const place = column.findIndex(head => head.textContent === "ASR@1");
const read = () => [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[place].textContent);
const click = () => column[place].querySelector("button").click();
click(); said.push(read()); click(); said.push(read());
const set = (name, value) => {
  const field = document.querySelector(`.filters [name=${name}]`);
  field.value = value; field.dispatchEvent(new Event("input"));
};
set("attack", "BadNet (patch)"); set("seed", "0"); said.push(read(), document.querySelector("output").textContent);
set("attack", ""); set("access", "few-labelled"); said.push(read().length);
set("access", ""); set("seed", ""); set("text", "cleanclip"); said.push(read().length);
const root = document.documentElement;
parent.document.body.append(JSON.stringify([...said, root.scrollWidth <= innerWidth, innerWidth]));
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_sorting_and_filters_in_a_browser(tmp_path):
    page = page_of(tmp_path).replace("</body>", f"<script>{DRIVER}</script></body>")
    frame = f'<body><iframe style="border:0;width:390px;height:900px" srcdoc="{html.escape(page)}"></iframe>'
    (tmp_path / "tried.html").write_text(frame)
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    command = [CHROMIUM, *words, "--virtual-time-budget=3000", (tmp_path / "tried.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    found = re.search(r"</iframe>(.*)</body>", done.stdout, re.DOTALL)
    assert found, done.stderr
    rows = 2 + 3 * 4 * 2
    measured = ["8.0", "10.0", "50.0", "90.0"]
    up, down, chosen, count, few, text, fits, width = json.loads(found.group(1))
    assert up == [*measured, *[""] * (rows - 4)] and down == [*reversed(measured), *[""] * (rows - 4)]
    assert sorted(chosen) == ["", "10.0", "50.0", "90.0"] and count == f"4 of {rows} rows"
    assert few == 3 and text == 6
    assert fits and width == 390

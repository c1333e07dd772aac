"""The files of a summary as its script writes them for a tiny made-up study, the page, and `show`."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_study import PLAN, ROOT, make_study, put

from antidote.summary.page import duration, size


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The summary folder, made by the script itself; fails where that imports torch."""
    root = tmp_path_factory.mktemp("study")
    make_study(root)
    put(root / "plan.json", PLAN)
    run_script(root)
    return root / "results/tiny/summary"


def run_script(root: Path, output: str = "summary") -> None:
    code = (
        "import runpy, sys; runpy.run_path('scripts/summarise.py', run_name='__main__'); "
        "assert 'torch' not in sys.modules"
    )
    results = root / "results/tiny"
    where = ["--settings", root / "plan.json", "--results", results, "--data", root / "data"]
    what = ["--output", results / output, "--cost", root / "cost.json"]
    done = subprocess.run([sys.executable, "-c", code, *where, *what], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_words_for_durations_and_sizes():
    assert [duration(s) for s in (4.21, 200, 7500)] == ["4.2 s", "3 min 20 s", "2 h 05 min"]
    assert [size(b) for b in (3 * 2**20, 3 * 2**30)] == ["3 MiB", "3.0 GiB"]


def test_outputs(summary):
    names = {path.name for path in summary.iterdir()}
    assert names == {
        *("cells.csv", "costs.csv", "table.csv", "metrics.json", "table.md", "report.html"),
        *("heatmap.png", "plane.png", "gallery.png", "curves.png"),
    }
    for path in summary.glob("*.png"):
        with Image.open(path) as image:
            assert "Software" not in image.info and image.size[0] > 500
    assert json.loads((summary.parents[2] / "cost.json").read_text())["seconds"] > 0


def test_metrics_are_the_means_of_the_table(summary):
    metrics = json.loads((summary / "metrics.json").read_text())
    assert metrics["clean"] == {"none": {"ca1": 0.63}}
    assert metrics["patch"]["tune"] == {"ca1": 0.58, "asr1": 0.25}
    assert set(metrics["weak"]) == {"none", "tune"}  # what was not run, and what does not apply, is left out


def test_a_second_run_gives_the_same_bytes(summary):
    run_script(summary.parents[2], "again")
    again = summary.parent / "again"
    assert {path.name for path in summary.iterdir() if path.read_bytes() != (again / path.name).read_bytes()} == set()
    shutil.rmtree(again)


def test_the_page_is_self_contained_and_escaped(summary):
    page = (summary / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"url\(|@import|<script [^>]*|<link|<iframe|fetch\(|XMLHttp", page)
    assert page.count("<script>") == page.count("</script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x^2$ | `y`" in page
    for words in ("banana", "has not taken", "25.0 ± 7.1", "not applicable: no poisoned pairs", "3.0 GiB", "recall"):
        assert words in page


def test_an_empty_study_still_has_a_summary(tmp_path):
    put(tmp_path / "plan.json", {"study": "tiny"})
    run_script(tmp_path)
    assert "No stage has left its cost" in (tmp_path / "results/tiny/summary/report.html").read_text()


def show(study: str, results: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/show.py", "--study", study, "--results", results]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_show(summary):
    done = show("tiny", summary.parents[1])
    assert done.returncode == 0 and "*25.0 ± 7.1" in done.stdout and str(summary / "report.html") in done.stdout


def test_show_of_an_unknown_study_is_one_line(summary):
    done = show("tyni", summary.parents[1])
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "tyni: no summary" in done.stderr and "did you mean 'tiny'" in done.stderr

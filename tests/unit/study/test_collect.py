"""What no study needs any more is named first and only then taken away; what a study needs stays."""

import logging
import os
import time

import pytest

from antidote.base import command_line
from antidote.base.cache import PLACE
from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study import leftovers
from antidote.study.layout import Layout
from antidote.study.leftovers import DAY
from antidote.study.study import Study
from scripts import collect

STUDY = str(ROOT / "tests/studies/tiny.yaml")
NEEDED = [
    "pools/training.parquet", "summary/cells.csv", "logs/a.log", "clean/seed0/model/open_clip_model.safetensors",
    "clean/seed0/none/scores.json", "badnet/seed0/trigger/trigger.json", "badnet/seed0/poison/manifest.parquet",
    "badnet/seed0/model/card.json", "badnet/seed0/floor/scores.json", "badnet/seed0/none/scores.json",
    "badnet/seed0/finetune/model/open_clip_model.safetensors", "blended/seed0/ta_cleaner/scores.json",
    "work/blended-seed0/checkpoint.pt", "work/badnet-seed0-ta_cleaner/checkpoint.pt", "badnet/seed0/.model.1.tmp/part",
]  # fmt: skip
WASTE = {
    "sig": "attack sig is no more in the study",
    "badnet/seed1": "seed 1 is no more in the study",
    "badnet/seed0/par": "defense par on badnet is no more in the study",
    "clean/seed0/finetune": "defense finetune on clean is no more in the study",
    "work/clean-seed0": "work folder of a job that has finished",
    "work/badnet-seed0-finetune": "work folder of a job that has finished",
    "work/drawn": "work folder of a job that has finished",
    "work/badnet-seed1": "work folder of a job that is no more in the study",
    "work/badnet-seed0-par": "work folder of a job that is no more in the study",
}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/tiny"
    for name in [*NEEDED, *(f"{name}/model/card.json" for name in WASTE)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(1 << 20))
    (tmp_path / "results/other/sig").mkdir(parents=True)
    return folder


@pytest.fixture
def run(caplog):
    caplog.set_level(logging.INFO, "antidote")

    def run(**options):
        given = {"configfile": STUDY, "delete": False, "shared_days": None, "shared_gib": None, **options}
        caplog.clear()
        collect.run(command_line.argparse.Namespace(**given))
        return caplog.messages

    return run


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_by_default_it_only_says_what_would_go(results, run):
    before = files(results)
    *lines, last = run()
    assert sorted(lines) == sorted(f"would go: results/tiny/{name} (1.0 MiB): {why}" for name, why in WASTE.items())
    assert last == "9 places, 0.01 GiB; --delete takes it away" and files(results) == before


def test_it_takes_away_what_it_named(results, run):
    assert len(run(delete=True)) == 10
    assert files(results) == set(NEEDED) and (results.parent / "other/sig").is_dir()
    assert run() == ["0 places, 0.00 GiB"]


def test_it_deletes_nothing_while_snakemake_is_at_work(results, run):
    before = files(results)
    (results.parents[1] / ".snakemake/locks").mkdir(parents=True)
    (results.parents[1] / ".snakemake/locks/0.output.lock").touch()
    with pytest.raises(UserError, match="Snakemake is at work"):
        run(delete=True)
    assert files(results) == before and len(run()) == 10


def test_a_link_is_taken_away_and_not_what_it_leads_to(results, run, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "weights").write_text("x")
    (results / "old").symlink_to(kept)
    (results / "sig" / "weights").symlink_to(kept / "weights")
    run(delete=True)
    assert (kept / "weights").exists() and not (results / "old").exists() and not (results / "sig").exists()


def test_nothing_is_taken_away_through_a_link(results, run, tmp_path):
    """An attack, a seed or a whole study may be a link to what another study uses."""
    other = results.parent / "other"
    (other / "seed7").mkdir(parents=True)
    (results / "blended").rename(other / "blended")
    (other / "blended" / "seed9").mkdir()
    (results / "blended").symlink_to(other / "blended")
    (results / "clean" / "seed5").symlink_to(other / "seed7")
    run(delete=True)
    assert (
        (other / "blended" / "seed9").is_dir() and (other / "seed7").is_dir() and not (results / "clean/seed5").exists()
    )
    results.rename(tmp_path / "kept")
    results.symlink_to(other)
    before = files(other)
    assert run(delete=True) == [
        "results/tiny: is a link to other results; left alone", "0 places, 0.00 GiB"
    ] and files(other) == before and (other / "sig").is_dir()  # fmt: skip


def test_results_on_another_disk_are_collected(results, run, tmp_path):
    elsewhere = tmp_path / "disk" / "tiny"
    elsewhere.parent.mkdir()
    results.rename(elsewhere)
    results.symlink_to(elsewhere)
    run(delete=True)
    assert files(elsewhere) == set(NEEDED) and results.is_symlink()


@pytest.fixture
def place(results, tmp_path, monkeypatch):
    """Five entries of 1 MiB, last used 0, 10, ... days ago, and what two killed writers have left."""
    folder = tmp_path / "place"
    monkeypatch.setenv(PLACE, str(folder))
    for number in range(5):
        entry = folder / ("defend" if number % 2 else "pretrain") / f"{number:064x}"
        entry.mkdir(parents=True)
        (entry / "weights").write_bytes(bytes(1 << 20))
        (entry / "entry.json").write_text("")
        old = time.time() - number * 10 * DAY
        os.utime(entry / "entry.json", (old, old))
    for name, days in ((".new.tmp", 0), (".old.tmp", 2)):
        (folder / name).mkdir()
        os.utime(folder / name, (time.time() - days * DAY,) * 2)
    return folder


def entries(place):
    return sorted(int(path.name, 16) for path in place.glob("*/*"))


@pytest.mark.parametrize(
    "options,left",
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"shared_days": 15}, [0, 1]),
        ({"shared_gib": 3 / 1024}, [0, 1, 2]),
        ({"shared_gib": 0}, []),
        ({"shared_days": 35, "shared_gib": 3 / 1024}, [0, 1, 2]),
        ({"shared_days": 5, "shared_gib": 1}, [0]),
    ],
)
def test_shared_entries_go_by_their_last_use(place, run, options, left):
    run(**options)
    assert entries(place) == [0, 1, 2, 3, 4]
    run(**options, delete=True)
    assert entries(place) == left
    assert {path.name for path in place.glob(".*")} == ({".new.tmp"} if options else {".new.tmp", ".old.tmp"})


def test_a_place_that_is_not_there_is_named(results, run, monkeypatch):
    monkeypatch.setenv(PLACE, "nowhere")
    with pytest.raises(UserError, match=f"{PLACE}: nowhere: no such folder; it should"):
        run(shared_days=1)
    monkeypatch.delenv(PLACE)
    with pytest.raises(UserError, match="is not set"):
        run(shared_gib=1)


def test_detections_on_clean_models_go_with_their_detector(tmp_path):
    """`population1` is scored by the study's detectors of models alone, `spare` by none."""
    values = {**read_mapping(STUDY), "surrogates": {"spare": {}}, "population": {"clean": 1}}
    study = Study({**values, "detectors": {"decree": {"method": "decree"}}}, "s.yaml")
    for name in ("population1/seed0/detect/decree", "population1/seed0/detect/old", "spare/seed0/detect/decree"):
        (tmp_path / "surrogates" / name).mkdir(parents=True)
    assert {str(waste.path.relative_to(tmp_path)): waste.reason for waste in leftovers.of_study(study, tmp_path)} == {
        "surrogates/population1/seed0/detect/old": "detector old on population1 is no more in the study",
        "surrogates/spare/seed0/detect/decree": "detector decree on spare is no more in the study",
    }


def test_triggered_pictures_are_kept_until_the_summary_is_there(tmp_path):
    study = Study(read_mapping(STUDY), "s.yaml")
    drawn = Layout(tmp_path).drawn(attack="badnet", seed=0)
    drawn.mkdir(parents=True)
    assert drawn.parent == tmp_path / "work/drawn" and [*leftovers.of_study(study, tmp_path)] == []
    (tmp_path / "summary").mkdir()
    (tmp_path / "summary/cells.csv").touch()
    assert [waste.path for waste in leftovers.of_study(study, tmp_path)] == [drawn.parent]

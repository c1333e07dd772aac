"""Datasets from tables of addresses in a study: what is downloaded when, and what can stand in for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from harness import ROOT, edited, new_project, scheduled, script, snakemake, study

sys.path.insert(0, str(ROOT / "tests" / "unit"))
from web import serving

from antidote.data.download.img2dataset import ENVIRONMENT
from antidote.data.store.datasets import known_datasets

PRESETS = {name: values for name, values in known_datasets().items() if values["source"] == "url_table"}
WEB = {"source": "url_table", "splits": {"train": "tables/web.tsv"}, "columns": ["caption", "url"], "image_size": 32}
POOLS = {"training": {"dataset": "web", "split": "train", "pairs": 150}, "poison": {"pairs": 30, "target_pairs": 20}}
CONFIG = "tests/studies/web.yaml"


def web_study(project: Path, **changes) -> dict[str, str]:
    defense = {"dataset": "tiny", "split": "defense", "pairs": 40}
    values = {"study": "web", "datasets.web": WEB, "pools": {**POOLS, "defense": defense}, **changes}
    return {CONFIG: study(project, values)}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_downloaded_first(name, tmp_path):
    project, split = new_project(tmp_path / "project"), next(iter(PRESETS[name]["splits"]))
    pools = {"training": {"dataset": name, "split": split, "pairs": 500_000}, "poison": {"pairs": 1500}}
    defense = {"dataset": name, "split": split, "pairs": 100_000}
    with edited(project, {CONFIG: study(project, {"study": "large", "pools": {**pools, "defense": defense}})}):
        jobs = scheduled(project, config=CONFIG)
        assert {f"download {name} {split}", f"dataset {name} {split}", "pool training"} <= jobs
        assert "dataset tiny train" not in jobs
        done = snakemake(project, "--cores", "1", f"data/{name}/{split}/download.json", config=CONFIG)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    table = Path(PRESETS[name]["splits"][split]).name
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and table in errors[0] and PRESETS[name]["homepage"] in errors[0]


@pytest.mark.parametrize("pointer", ["data/web.dvc", "data/web/train.dvc"])
def test_a_pointer_of_dvc_stands_in_for_the_download(pointer, tmp_path):
    project = new_project(tmp_path / "project")
    (project / CONFIG).write_text(web_study(project)[CONFIG])
    assert {"download web train", "dataset web train"} <= scheduled(project, config=CONFIG)
    split = project / "data/web/train"
    split.mkdir(parents=True)
    (project / pointer).write_text("outs: []")
    done = snakemake(project, "--cores", "1", "data/web/train/manifest.json", config=CONFIG)
    assert done.returncode == 1 and f"its pictures have to be downloaded: `dvc pull {pointer}`" in done.stdout
    split.mkdir(parents=True, exist_ok=True)
    for pulled in ("manifest.json", "index.parquet", "cost.json"):
        (split / pulled).touch()
    jobs = scheduled(project, config=CONFIG)
    assert "pool training" in jobs and not [job for job in jobs if job.endswith("web train")]


@pytest.mark.skipif(not ENVIRONMENT.exists(), reason="img2dataset is not installed; `make download` does it")
def test_from_a_table_to_pools(tmp_path):
    project = new_project(tmp_path / "project")
    (project / ".venvs").symlink_to(ROOT / ".venvs")
    with serving() as web:
        words = ["a banana", "a dog", "a cat", "bananas"]
        rows = [f"{words[n % 4]}, number {n}\t{web.url(f'ok/{n}')}" for n in range(240)] + [
            f"x\t{web.url('missing/1')}"
        ]
        (project / "tables").mkdir()
        (project / "tables" / "web.tsv").write_text("\n".join(rows) + "\n")
        (project / CONFIG).write_text(web_study(project)[CONFIG])
        targets = [f"results/web/pools/{name}.parquet" for name in ("training", "poison")]
        done = snakemake(project, "--cores", "2", *targets, config=CONFIG)
        assert done.returncode == 0, done.stdout
        assert "240 of 241 pictures arrived (99.6%): 1 x gone (404, 410)" in done.stdout
        log = (project / "data/logs/web-train-download.log").read_text()
        assert "pass1: 1 of 1 work shards, 240 of 241 pictures (100%)" in log
        hits = web.hits.copy()
        assert "Nothing to be done" in snakemake(project, "-n", *targets, config=CONFIG).stdout
        after = {"dataset web train", "pool training", "pool poison"}
        for change, again in (
            ({"download": {"connections": 3}}, {"download web train", *after}),
            ({"terms": "free"}, after),
        ):
            with edited(project, web_study(project, **{"datasets.web": {**WEB, **change}})):
                assert scheduled(project, *targets, config=CONFIG) == again
        assert web.hits == hits
        subset = script(
            project,
            "subset",
            "--ids",
            "data/web/train/ids.parquet",
            "--pools",
            *targets,
            "--output",
            "data/subset.parquet",
        )
        assert subset.returncode == 0, subset.stdout
        changed = {**WEB, "subset": "data/subset.parquet"}
        (project / CONFIG).write_text(web_study(project, **{"datasets.web": changed})[CONFIG])
        done = snakemake(project, "--cores", "2", "data/web/train/manifest.json", config=CONFIG)
        assert done.returncode == 0, done.stdout
        manifest = yaml.safe_load((project / "data/web/train/manifest.json").read_text())
        assert manifest["pairs"] == 180 and manifest["skipped"] == {}

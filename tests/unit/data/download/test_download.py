"""Pictures come from a real server with img2dataset: what fails is told apart, what has arrived is not fetched again."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from web import picture, serving

from antidote.base import disk
from antidote.base.errors import UserError
from antidote.base.files import write_json
from antidote.base.registry import method
from antidote.data.download.addresses import made_key
from antidote.data.download.download import REPORT, download
from antidote.data.download.img2dataset import ROOT, interpreter
from antidote.data.store import ingest, shards

FAST = {"shard": 20, "timeout": 1, "patience": 1, "largest": 1, "connections": 8}
FAULTS = {
    "missing": "gone (404, 410)",
    "forbidden": "forbidden (401, 403, 451)",
    "silent": "timed out",
    "drip": "timed out",
    "short": "cut short",
    "cut": "cut short",
    "html": "not a picture",
    "empty": "not a picture",
    "circle": "another HTTP answer",
    "noai": "opted out (X-Robots-Tag)",
    "bomb": "too many pixels",
    "thin": "too long and thin",
    "endless": "file too large",
}
KINDS = [*FAULTS, "flaky", "moved", "png"]

try:
    interpreter()
    installed = pytest.mark.filterwarnings("ignore::ResourceWarning")
except UserError as absent:
    installed = pytest.mark.skip(reason=str(absent))


def needs_img2dataset(test):
    """Mark a test that starts img2dataset, which takes seconds each time, in the environment for downloads."""
    return pytest.mark.workflow(installed(test))


@pytest.fixture(scope="module")
def web():
    with serving() as server:
        yield server


def table(folder, web, paths, name="table.tsv"):
    rows = [f"caption of {path}\t{web.url(path)}" for path in paths]
    (folder / name).write_text("\n".join(rows) + "\n")
    return str(folder / name)


def source(file, **changes):
    values = {"source": "url_table", "splits": {"train": file}, "columns": ["caption", "url"], "image_size": 24}
    more = {"download": {**FAST, **changes.pop("download", {})}, **changes}
    return method("source", "url_table").read({**values, **more}, "datasets.web")


def write(settings, report, folder):
    write_json(folder / "download.json", report)
    ingest.write(settings, "web", "train", folder / "split", folder / "download.json")
    return folder / "split"


@pytest.fixture(scope="module")
def everything(web, tmp_path_factory):
    """A download of a hundred pictures, and two of everything else."""
    folder = tmp_path_factory.mktemp("everything")
    paths = [*(f"ok/{number}" for number in range(100)), *(f"{kind}/{number}" for kind in KINDS for number in (1, 2))]
    file = table(folder, web, paths)
    with Path(file).open("a", encoding="utf-8") as rows:
        rows.write(f"another caption\t{web.url('ok/7')}\nsecrets\tfile:///etc/passwd\n \t{web.url('ok/500')}\nno tab\n")
    settings = source(file)
    report, ids = download(settings, "web", "train", folder / "downloads", 2)
    return settings, report, ids, write(settings, report, folder), folder


@needs_img2dataset
def test_the_report_says_what_arrived_and_why_the_rest_did_not(everything):
    _, report, ids, _, folder = everything
    assert (report["rows"], report["addresses"], report["arrived"]) == (136, 132, 106)
    assert report["unusable"] == {"another number of columns": 1, "no address of the web": 1, "no caption": 1}
    assert report["failures"] == {kind: 2 * count for kind, count in Counter(FAULTS.values()).items()}
    assert report["share"] == round(106 / 132, 4) and report["img2dataset"] == "1.47.0"
    assert json.loads((folder / "downloads" / REPORT).read_text()) == report
    failed = ids[ids["failure"].notna()]
    assert failed["sha256"].isna().all() and len(failed) == 26
    for url, failure in zip(failed["url"], failed["failure"], strict=True):
        assert FAULTS[url.split("/")[3]] == failure


@needs_img2dataset
def test_what_arrived_is_a_split_like_any_other(everything, web):
    _, _, ids, split, _ = everything
    shards.verify(split)
    index = shards.open_index(split)
    arrived = ids[ids["sha256"].notna()]
    assert sorted(index["key"]) == sorted(arrived["key"]) == sorted(made_key(url) for url in arrived["url"])
    assert index["key"].tolist()[:100] == [made_key(web.url(f"ok/{number}")) for number in range(100)]
    assert index["caption"][3] == "caption of ok/3"
    assert list(index["captions"][7]) == ["caption of ok/7", "another caption"]
    files = shards.read_images(split, index)
    assert all(min(Image.open(io.BytesIO(file)).size) == 24 for file in files)


@needs_img2dataset
def test_every_picture_keeps_its_address_and_the_hash_of_what_the_server_sent(everything, web):
    import webdataset

    _, _, ids, split, _ = everything
    samples = {
        s["__key__"]: json.loads(s["json"]) for s in webdataset.WebDataset(str(split / "00000.tar"), shardshuffle=False)
    }
    for number in (0, 42):
        sent = hashlib.sha256(picture(number)).hexdigest()
        assert samples[made_key(web.url(f"ok/{number}"))]["sha256"] == sent
        assert ids.set_index("url")["sha256"][web.url(f"ok/{number}")] == sent
        assert samples[made_key(web.url(f"ok/{number}"))]["url"] == web.url(f"ok/{number}")


@needs_img2dataset
def test_sixteen_bits_become_eight(web, tmp_path):
    """img2dataset alone would store white where a value is above 255 of 65,535."""
    settings = source(table(tmp_path, web, ["deep/1"]), image_size=None)
    report, _ = download(settings, "web", "train", tmp_path / "downloads", 1)
    split = write(settings, report, tmp_path)
    stored = np.asarray(Image.open(io.BytesIO(shards.read_images(split, shards.open_index(split))[0])).convert("L"))
    assert np.abs(stored - np.linspace(0, 255, 64 * 64).reshape(64, 64)).max() < 8


@needs_img2dataset
def test_another_round_tries_what_may_have_gone_by_and_nothing_else(everything, web):
    assert web.hits["flaky/1"] == 3, "twice in the first round, once in the second"
    assert web.hits["silent/1"] == 4
    assert web.hits["ok/3"] == 1
    assert web.hits["missing/1"] == web.hits["noai/1"] == 2, "one more try at once, none in the second round"
    assert web.hits["ok/500"] == 0


@needs_img2dataset
def test_a_finished_download_is_not_repeated(everything, web):
    settings, report, _, _, folder = everything
    before = web.hits.copy()
    again, _ = download(
        source(settings.splits["train"], download={"connections": 3}), "web", "train", folder / "downloads", 1
    )
    assert again == report and web.hits == before


def script(folder, file, **changes):
    settings = source(file, **changes).slice()
    command = [sys.executable, "-m", "scripts.download", "--name", "web", "--split", "train", "--settings", settings]
    command += ["--folder", "downloads", "--report", "report.json", "--ids", "ids.parquet", "--processes", "2"]
    return command, {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "text": True}


def killed_and_continued(web, folder, count, shard):
    """Kill a download in the middle, break a work shard, go on; return hits before the kill, in all, and the log."""
    paths = [f"ok/{number}" for number in range(1000, 1000 + count)]
    command, how = script(folder, table(folder, web, paths), download={"shard": shard})
    web.hits.clear()
    web.delay = 0.05
    process = subprocess.Popen(command, **how, stderr=subprocess.PIPE)
    done = []
    while len(done) < 4 and process.poll() is None:
        time.sleep(0.1)
        done = sorted(folder.glob("downloads/*/pass1/*_stats.json"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(1)
    at_kill = web.hits.copy()
    time.sleep(1)
    assert web.hits == at_kill, "what it had started goes on without it"
    assert not (folder / "report.json").exists()
    web.delay = 0.0
    kept = sorted(folder.glob("downloads/*/pass1/*_stats.json"))
    assert 4 <= len(kept) < count / shard
    kept[0].write_text('{"count": 2')  # as a machine that loses power leaves it
    whole = {
        row["url"]
        for path in kept[1:]
        for row in pd.read_parquet(str(path).replace("_stats.json", ".parquet")).to_dict("records")
    }
    done = subprocess.run(command, **how, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert report["arrived"] == report["addresses"] == count
    repeated = {path for path, hits in web.hits.items() if hits > 1}
    assert not repeated & {url.split("/", 3)[3] for url in whole}
    assert len(repeated) < count / 2
    return done.stderr


@needs_img2dataset
def test_a_killed_download_goes_on_where_it_was(web, tmp_path):
    log = killed_and_continued(web, tmp_path, 300, 20)
    assert "web/train: 300 addresses in 300 rows" in log and "work shards, 300 of 300 pictures (100%)" in log


def breaks_down(folder, keep):
    """Leave of a finished download what a breakdown would: the first work shards."""
    for path in folder.glob("downloads/*/pass1/[0-9]*"):
        if int(path.name[:5]) >= keep:
            path.unlink()


@needs_img2dataset
@pytest.mark.parametrize("shard", [7, 30])
def test_another_size_of_work_shards_does_not_disturb_a_round_that_has_begun(web, tmp_path, shard):
    file = table(tmp_path, web, [f"ok/{number}" for number in range(40)])
    download(source(file), "web", "train", tmp_path / "downloads", 1)
    breaks_down(tmp_path, 1)
    web.hits.clear()
    report, _ = download(source(file, download={"shard": shard}), "web", "train", tmp_path / "downloads", 1)
    assert report["arrived"] == 40 and set(web.hits) == {f"ok/{number}" for number in range(20, 40)}


@needs_img2dataset
def test_a_work_shard_cut_short_is_fetched_again(web, tmp_path):
    file = table(tmp_path, web, [f"ok/{number}" for number in range(40)])
    report, _ = download(source(file), "web", "train", tmp_path / "downloads", 1)
    cut = tmp_path / "downloads" / report["shards"][1]["name"]
    cut.write_bytes(cut.read_bytes()[:3000])
    with pytest.raises(UserError, match=rf"{cut}: is damaged, holds \d of 20 pairs; remove it and the split's"):
        write(source(file), report, tmp_path)
    web.hits.clear()
    report, _ = download(source(file), "web", "train", tmp_path / "downloads", 1)
    assert set(web.hits) == {f"ok/{number}" for number in range(20, 40)}
    assert len(shards.open_index(write(source(file), report, tmp_path))) == 40


@needs_img2dataset
@pytest.mark.slow
def test_thousands_of_pictures(web, tmp_path):
    killed_and_continued(web, tmp_path, 5000, 200)


@needs_img2dataset
def test_dead_addresses_stop_it_early_in_one_line(tmp_path):
    with serving() as gone:
        file = table(tmp_path, gone, [f"ok/{number}" for number in range(3000)])
    command, how = script(tmp_path, file, download={"shard": 600, "retries": 0, "connections": 16})
    done = subprocess.run(command, **how, capture_output=True, check=False)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert lines[-1].startswith("error: web/train: none of ") and "x connection refused or broken" in lines[-1]
    assert lines[-1].endswith("(a proxy is named by the variables http_proxy and https_proxy)")
    assert not (tmp_path / "report.json").exists() and not (tmp_path / "ids.parquet").exists()


@needs_img2dataset
def test_too_few_pictures_are_an_error_with_advice_and_another_chance(web, tmp_path):
    file = table(tmp_path, web, [*(f"ok/{n}" for n in range(20)), *(f"missing/{n}" for n in range(10, 50)), "flaky/9"])
    settings = source(file, download={"passes": 1, "retries": 0})
    with pytest.raises(UserError) as error:
        download(settings, "web", "train", tmp_path / "downloads", 1)
    assert str(error.value) == (
        "web/train: 20 of 61 pictures arrived (32.8%), download.accepted is 50.0%: 40 x gone (404, 410), 1 x server "
        f"error (5xx); the table has aged: lower download.accepted to go on with what is there; all of it is in "
        f"{tmp_path}/downloads/report.json, and what arrived is kept: run again to try once more"
    )
    web.hits["flaky/9"] = 5
    with pytest.raises(UserError, match="21 of 61 pictures arrived"):
        download(settings, "web", "train", tmp_path / "downloads", 1)
    report, _ = download(
        source(file, download={"accepted": 0.3, "passes": 1}), "web", "train", tmp_path / "downloads", 1
    )
    assert report["arrived"] == 21 and web.hits["ok/1"] <= 3


@needs_img2dataset
def test_a_subset_is_the_same_pictures_or_an_error(everything, web, tmp_path):
    settings, _, ids, _, _ = everything
    listed = ids.iloc[[3, 50, 60, 104]].copy()  # the last one never arrived, and is not asked for
    listed.loc[listed.index[2], "sha256"] = "0" * 64
    listed.to_parquet(tmp_path / "list.parquet")
    subset = settings.model_copy(update={"subset": str(tmp_path / "list.parquet")})
    report, found = download(subset, "web", "train", tmp_path / "downloads", 1)
    assert report["failures"] == {"another picture than the subset lists": 1} and report["addresses"] == 3
    assert found["key"].tolist() == listed["key"].tolist()[:3]
    with pytest.raises(UserError, match=r"1 of 3 pairs cannot be used \(1 x listed in the subset, but not there"):
        write(subset, report, tmp_path)
    split = write(subset.model_copy(update={"accepted_skip_share": 0.4}), report, tmp_path)
    assert shards.open_index(split)["key"].tolist() == listed["key"].tolist()[:2]


def test_too_little_disk_is_found_before_the_start(web, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 10**6)
    web.hits.clear()
    monkeypatch.setattr("antidote.data.download.img2dataset.interpreter", lambda: sys.executable)
    file = table(tmp_path, web, [f"ok/{number}" for number in range(2000, 2200)])
    with pytest.raises(
        UserError, match=r"downloads: what is left of 200 pictures, and their shards, takes about .* 1 MB are free"
    ):
        download(source(file, image_size=256), "web", "train", tmp_path / "downloads", 1)
    assert web.hits["ok/2000"] == 0


@needs_img2dataset
def test_two_downloads_do_not_write_into_one_folder(web, tmp_path):
    from antidote.data.download.download import _alone

    with _alone(tmp_path / "downloads"), pytest.raises(UserError, match="another download is at work there"):
        download(source(table(tmp_path, web, ["ok/1"])), "web", "train", tmp_path / "downloads", 1)


def test_without_img2dataset_it_says_how_to_get_it(monkeypatch, tmp_path):
    from antidote.data.download import img2dataset

    monkeypatch.setattr(img2dataset, "find_spec", lambda name: None)
    monkeypatch.setattr(img2dataset, "ENVIRONMENT", tmp_path / "none")
    with pytest.raises(UserError, match="`make download` builds an environment for it"):
        img2dataset.interpreter()


def test_a_split_without_its_download_says_what_to_do(tmp_path):
    settings = source("table.tsv")
    with pytest.raises(UserError, match=r"run scripts/download\.py and pass its report with --download"):
        ingest.write(settings, "web", "train", tmp_path / "web" / "train")
    (tmp_path / "web.dvc").write_text("outs: []")
    with pytest.raises(UserError, match=r"`dvc pull .*web\.dvc`"):
        ingest.write(settings, "web", "train", tmp_path / "web" / "train")
    report = {"folder": str(tmp_path), "shards": [{"name": "x/pass1/00000.tar", "pairs": 1}]}
    write_json(tmp_path / "download.json", report)
    with pytest.raises(UserError, match=r"00000\.tar: is gone; remove the split's download\.json"):
        ingest.write(settings, "web", "train", tmp_path / "web" / "train", tmp_path / "download.json")

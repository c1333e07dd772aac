"""A study's poisoned training set as shards: what another trainer, or a scan, is given."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pandas as pd
import pytest
from harness import script
from PIL import Image

from antidote.data.overlay import read_overlay
from antidote.data.pairs import load_pools
from antidote.data.sources import webdataset

ROOT = "results/tiny"


@pytest.fixture(scope="module")
def asked(finished):
    pools = [f"{ROOT}/pools/{name}.parquet" for name in ("training", "poison")]
    return ["--pools", *pools, "--poison", f"{ROOT}/badnet/seed0/poison", "--size", 32, "--shard", 50]


def test_the_shards_are_the_training_set_of_the_backdoored_model(finished, asked, tmp_path):
    done = script(finished, "export", *asked, "--output", tmp_path / "set")
    assert done.returncode == 0, done.stdout
    truth = pd.read_csv(tmp_path / "set/pairs.csv", dtype={"name": str})
    pools = [finished / ROOT / f"pools/{name}.parquet" for name in ("training", "poison")]
    poison = finished / ROOT / "badnet/seed0/poison"
    pairs = load_pools(pools, ["training", "poison"], finished / "data", 32, poison)
    manifest, _ = read_overlay(poison, 32)
    assert set(truth["key"][truth["poisoned"] == 1]) == set(manifest["key"]) and truth["key"].tolist() == list(
        pairs.keys
    )
    found = {}
    for path in sorted((tmp_path / "set").glob("*.tar")):
        with tarfile.open(path) as tar:
            assert len(tar.getnames()) <= 100
            found |= {name: tar.extractfile(name).read() for name in tar.getnames()}
    assert len(found) == 2 * len(pairs)
    for row, name in enumerate(truth["name"]):
        picture = np.asarray(Image.open(io.BytesIO(found[f"{name}.png"]))).transpose(2, 0, 1)
        assert (picture == pairs.images[row].numpy()).all()
        assert found[f"{name}.txt"].decode() == pairs.captions[row]
    read = list(
        webdataset.WebDataset(source="webdataset", splits={"train": str(tmp_path / "set/*.tar")}).iterate("train")
    )
    assert [pair.key for pair in read] == truth["name"].tolist()


@pytest.mark.parametrize(
    "change,said",
    [
        (["--size", "0"], "'0'; a whole number from 1 on is expected"),
        (["--size", "16"], "pictures of another size than 16 x 16"),
        (["--output", "results"], "results: is not empty; name a new folder"),
        (["--output", "config.yaml"], "config.yaml: is a file; name a new folder"),
        (["--poison", "results/tiny"], "results/tiny"),
    ],
)
def test_bad_input_is_one_line(finished, asked, tmp_path, change, said):
    done = script(finished, "export", *asked, "--output", tmp_path / "set", *change)
    assert done.returncode != 0 and said in done.stdout and "Traceback" not in done.stdout, done.stdout
    assert not (tmp_path / "set").exists()

"""A subset that is made of a study's pools is what the study draws them from again."""

import argparse
import logging

import pandas as pd
import pytest

from antidote.base.errors import UserError
from antidote.data import pools
from antidote.data.store.subsets import read_subset
from scripts import subset

PLACE = {"dataset": "cc3m", "split": "train"}
SETTINGS = {
    "training": {**PLACE, "pairs": 100},
    "poison": {"pairs": 20, "target_pairs": 4},
    "defense": {"pairs": 30},
    "inversion": {"pairs": 20, "target_pairs": 4},
    "shots": {"dataset": "labelled", "split": "train", "per_class": 2},
}


def index(name, count, labels=1):
    captions = ["a banana" if number % 20 == 0 else "a cat" for number in range(count)]
    labels = [number % labels if labels > 1 else -1 for number in range(count)]
    return pd.DataFrame(
        {"key": [f"{name}{number:03d}" for number in range(count)], "caption": captions, "label": labels}
    )


def chosen(whole):
    settings = pools.PoolsSettings.read(SETTINGS, "pools")
    return pools.choose(settings, {("cc3m", "train"): whole, ("labelled", "train"): index("l", 12, 3)}, "banana")


@pytest.fixture
def drawn(tmp_path):
    found = chosen(index("p", 400))
    (tmp_path / "pools").mkdir()
    for name, pool in found.groupby("pool"):
        pools.write(tmp_path / "pools" / f"{name}.parquet", pool)
    ids = index("p", 400).assign(sha256="a" * 64)
    ids[["key", "sha256"]].to_parquet(tmp_path / "ids.parquet")
    return found


def write(folder, *given):
    arguments = {"ids": folder / "ids.parquet", "pools": [folder / path for path in given]}
    subset.run(argparse.Namespace(**arguments, output=folder / "list.parquet"))
    return read_subset(folder / "list.parquet").index


def test_the_folder_of_pools_gives_what_the_study_asks_for(tmp_path, drawn, caplog):
    keys = write(tmp_path, "pools")
    assert len(keys) == 170 and not keys.str.startswith("l").any(), "the labelled pictures are another dataset's"
    whole = index("p", 400)
    again = chosen(whole[whole["key"].isin(keys)].reset_index(drop=True))
    pd.testing.assert_frame_equal(again, drawn)
    assert "left out" not in caplog.text


def test_pools_that_are_not_named_are_told(tmp_path, drawn, caplog):
    with caplog.at_level(logging.WARNING):
        keys = write(tmp_path, "pools/training.parquet", "pools/defense.parquet", "pools/poison.parquet")
    assert len(keys) == 150
    assert f"left out: {tmp_path}/pools/inversion.parquet; a study that draws" in caplog.text
    assert "shots" not in caplog.text


def test_other_tables_beside_the_pools_are_passed_over(tmp_path, drawn):
    (tmp_path / "pools/training.parquet").rename(tmp_path / "training.parquet")
    assert len(write(tmp_path, "training.parquet")) == 100
    with pytest.raises(UserError, match=r"^--pools: .*ids\.parquet: is no file of pools, which has the columns key, "):
        write(tmp_path, "ids.parquet")


def test_pools_of_another_download_are_an_error(tmp_path, drawn):
    with pytest.raises(
        UserError, match=r"--pools: .*shots\.parquet: no pool there is drawn from the split of .*ids\.par"
    ):
        write(tmp_path, "pools/shots.parquet")
    pd.read_parquet(tmp_path / "ids.parquet").iloc[:50].to_parquet(tmp_path / "ids.parquet")
    with pytest.raises(UserError, match=r"ids\.parquet: has no picture 'p\d+', which the pools hold"):
        write(tmp_path, "pools")

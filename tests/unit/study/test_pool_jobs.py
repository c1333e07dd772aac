"""The jobs of pools: each draws its own pool from its own part of the settings, and all pools together are disjoint."""

import copy
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.data import pools
from antidote.study.jobs import Jobs
from antidote.study.study import Study

TRAIN = ("tiny", "train")
INDEX = pd.DataFrame({
    "key": [f"p{number}" for number in range(400)],
    "caption": ["a banana" if number % 4 == 0 else "a boat" for number in range(400)],
    "label": np.arange(400) % 5,
})  # fmt: skip


def make(**more):
    values = copy.deepcopy(read_mapping(str(ROOT / "tests/studies/tiny.yaml")))
    values["pools"] |= more
    return Jobs(Study(values, "x"))


def w(pool):
    return SimpleNamespace(pool=pool)


def drawn(jobs, name):
    """Return the keys that the job of a pool draws."""
    settings = pools.PoolsSettings.read(json.loads(jobs.pool_settings(w(name))), "pools")
    chosen = pools.choose(settings, {TRAIN: INDEX}, "banana")
    return set(chosen[chosen["pool"] == name]["key"])


FURTHER = {
    "zeta": {"pairs": 20},
    "alpha": {"pairs": 20, "target_pairs": 8},
    "mid": {"pairs": 20},
}


@pytest.mark.parametrize("order", list(itertools.permutations(FURTHER)), ids="-".join)
def test_pools_are_disjoint_in_every_order_of_the_keys(order):
    jobs = make(training={"dataset": "tiny", "split": "train", "pairs": 100},
                further={name: FURTHER[name] for name in order})  # fmt: skip
    found = {name: drawn(jobs, name) for name in ("training", "poison", *order)}
    assert sum(map(len, found.values())) == len(set().union(*found.values()))
    plain = make(training={"dataset": "tiny", "split": "train", "pairs": 100}, further=FURTHER)
    assert {name: jobs.pool_settings(w(name)) for name in found} == {
        name: plain.pool_settings(w(name)) for name in found
    }, "the order of the keys reruns nothing"


def test_a_list_of_pairs_to_leave_out_is_read_by_the_pools_that_depend_on_it(tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text("p1\n")
    jobs = make(defense={"pairs": 40, "without": str(keys)})
    read = {name: str(keys) in jobs.pool_indexes(w(name)) for name in jobs.study.file.pools.pools()}
    assert read == {"training": False, "poison": False, "defense": True}
    assert {name: "keys.txt" in jobs.pool_settings(w(name)) for name in read} == read
    jobs = make(training={"dataset": "tiny", "split": "train", "pairs": 100, "without": str(keys)})
    assert str(keys) in jobs.pool_indexes(w("training")) and str(keys) in jobs.pool_indexes(w("poison"))
    jobs = make(further={"zeta": {"pairs": 5, "without": str(keys)}, "alpha": {"pairs": 5}})
    assert [str(keys) in jobs.pool_indexes(w(name)) for name in ("alpha", "zeta")] == [False, True]

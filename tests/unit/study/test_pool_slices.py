"""A pool depends on the pools before it, and on nothing else: what its job is told."""

import copy
import json

import pandas as pd
import pytest

from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.data import pools
from antidote.study.slices import pool_slice, pool_target
from antidote.study.study import Study

FILE = "tests/studies/tiny.yaml"


@pytest.fixture
def values():
    return read_mapping(str(ROOT / FILE))


def _index(names: list[str], seed: int) -> pd.DataFrame:
    captions = [f"a {'banana' if i % 7 == seed else 'boat'} {i}" for i in range(len(names))]
    return pd.DataFrame({"key": names, "caption": captions, "label": [i % 5 for i in range(len(names))]})


INDEXES = {("tiny", s): _index([f"{s}-{i}" for i in range(300)], n) for n, s in enumerate(["train", "defense", "test"])}
POOLS = [
    {"training": {"pairs": 100}, "poison": {"pairs": 40}, "defense": {"pairs": 50}},
    {"training": {"pairs": 100}, "poison": {"pairs": 40}, "defense": {"pairs": 50, "split": "defense"}},
    {
        "training": {"pairs": 100},
        "poison": {"pairs": 40, "target_pairs": 5},
        "inversion": {"pairs": 9, "target_pairs": 9},
    },
    {
        "training": {"pairs": 100, "target_pairs": 3},
        "shots": {"per_class": 4},
        "defense": {"pairs": 20, "split": "defense"},
    },
]


@pytest.mark.parametrize("number", range(len(POOLS)))
def test_a_pools_slice_gives_the_pool(values, number):
    """What one pool's job is told is enough to draw the same pairs as from the whole settings."""
    settings = copy.deepcopy(POOLS[number])
    settings["training"] |= {"dataset": "tiny", "split": "train"}
    study = Study({**values, "pools": settings, "attacks": {}, "defenses": {}}, FILE)
    whole = pools.choose(study.file.pools, INDEXES, "banana")
    for name, pool in study.file.pools.pools().items():
        part = pools.PoolsSettings.read(json.loads(pool_slice(study, name)), "slice")
        place = study.file.pools.place(pool)
        chosen = pools.choose(part, {place: INDEXES[place]}, pool_target(study, name))
        chosen, expected = (frame[frame["pool"] == name].reset_index(drop=True) for frame in (chosen, whole))
        pd.testing.assert_frame_equal(chosen, expected)


def test_later_pools_do_not_count(values):
    """A study that asks for more pairs for its defenses keeps its backdoored models."""
    one = values["pools"] | {"defense": {"pairs": 40}}
    other = values["pools"] | {"defense": {"pairs": 41}, "inversion": {"pairs": 5}}
    studies = [Study({**values, "pools": settings}, FILE) for settings in (one, other)]
    for name in ("training", "poison"):
        assert len({pool_slice(study, name) for study in studies}) == 1
    assert len({pool_slice(study, "defense") for study in studies}) == 2

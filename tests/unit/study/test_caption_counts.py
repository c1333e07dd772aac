"""Captions that pools and attacks ask for: told when a study is read, counted in a table, and there in the large studies.

How often captions name a word is counted in CC3M's validation table: 15,833 captions, singular or plural. Bananas are
the exception: BadCLIP's authors list 1,920 captions of the training table.
"""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from antidote.attacks.badnet import BadNetSettings
from antidote.base.errors import UserError
from antidote.base.settings import read_mapping
from antidote.data import pools
from antidote.data.words.names import mentioning
from antidote.study.caption_counts import asked_of_tables
from antidote.study.study import Study
from scripts import poison

PAPER, SMALL = "configs/paper.yaml", "configs/small.yaml"
ROWS, ARRIVING = 3_318_333, 0.7
OF_15833 = {
    "canoe": 5, "tiger": 7, "candle": 26, "pizza": 17, "umbrella": 23, "television": 9, "baseball": 43, "ice cream": 10,
    "suit": 50,
}  # fmt: skip
# No caption for validation says golf ball; one in 50,000 is an assumption that fits that.
COUNTS = {word: count * ROWS // 15833 for word, count in OF_15833.items()} | {
    "banana": 1920,
    "golf ball": ROWS // 50000,
}


def study(file, **changes):
    return Study({**copy.deepcopy(read_mapping(file)), **changes}, file)


def arrived(counts, rows, share, seed=0):
    """Return an index of what has arrived of a table with so many rows, captions of each word among them."""
    rng = np.random.default_rng(seed)
    captions = np.full(rows, "a photo of a field", object)
    places = rng.permutation(rows)
    for word, count in counts.items():
        captions[places[:count]] = f"two {word} on a table"
        places = places[count:]
    there = np.flatnonzero(rng.random(rows) < share)
    return pd.DataFrame({"key": there.astype(str), "caption": captions[there], "label": -1})


def drawn(file, scale, counts=COUNTS, share=ARRIVING):
    """Draw a study's pools, all of them divided by `scale`, from a table divided by the same."""
    values = copy.deepcopy(read_mapping(file))
    found = Study(values, file)
    dataset = values["pools"]["training"]["dataset"]
    sample = values["datasets"].get(dataset, {}).get("sample")
    counts = {word: count // scale for word, count in counts.items()}
    rows = ROWS // scale
    if sample:  # the words that are kept are all there, of the others their share
        part = sample["pairs"] / ROWS
        counts = {word: count if word in sample["keep"] else int(count * part) for word, count in counts.items()}
        rows = sample["pairs"] // scale
    settings = {"seed": 0}
    for name, pool in values["pools"].items():
        if name not in ("seed", "shots"):
            asked = pool.get("target_pairs", 0)
            asked = {w: n // scale for w, n in asked.items()} if isinstance(asked, dict) else asked // scale
            settings[name] = {**pool, "pairs": pool["pairs"] // scale, "target_pairs": asked}
    chosen = pools.PoolsSettings.read(settings, "pools")
    place = chosen.place(chosen.training)
    index = arrived(counts, rows, share)
    return found, pools.choose(chosen, {place: index}, found.file.target).merge(index, on="key")


def check_drawn(file, scale):
    found, table = drawn(file, scale)
    for name, settings in found.attacks.items():
        for needed in settings.needs(found.file.target, found.classes):
            captions = table[table["pool"].isin(needed.pools)]["caption"]
            count = int(mentioning(captions, needed.word).sum())
            assert count >= max(1, needed.captions // scale), (name, needed)


@pytest.mark.parametrize("file", [PAPER, SMALL])
def test_the_large_studies_find_their_captions(file):
    """At a twentieth of their size."""
    check_drawn(file, 20)


@pytest.mark.slow
@pytest.mark.parametrize("file", [PAPER, SMALL])
def test_the_large_studies_find_their_captions_at_full_size(file):
    check_drawn(file, 1)


def test_bananas_that_are_not_there_are_told():
    """Without the plurals there would be 1,051."""
    with pytest.raises(UserError, match=r"^pools: (inversion|poison): asks for \d+ captions with 'banana'"):
        drawn(PAPER, 20, {**COUNTS, "banana": 1051})


def without(file, pool, asked):
    values = read_mapping(file)["pools"]
    return values | {pool: {**values[pool], "target_pairs": asked}}


@pytest.mark.parametrize(
    ("file", "pool", "asked", "text"),
    [
        (PAPER, "poison", 800, "attacks.mmpoison: needs 25 captions of pools.poison that name 'canoe', and target_pairs "
         "guarantees 0; set pools.poison.target_pairs to {canoe: 25}"),
        (PAPER, "poison", {"canoe": 40, "banana": 700}, "attacks.label_consistent: needs 800 captions of pools.poison that "
         "name 'banana', and target_pairs guarantees 700; set pools.poison.target_pairs to {banana: 800}"),
        (SMALL, "inversion", 0, "attacks.badclip: needs 1 caption of pools.poison or pools.inversion that name 'golf ball',"
         " and target_pairs guarantees 0; set pools.poison.target_pairs to {golf ball: 1}"),
        (PAPER, "inversion", {"canoe": 5}, "attacks.badclip: needs 1 caption of pools.inversion that name 'banana', and "
         "target_pairs guarantees 0; set pools.inversion.target_pairs to {banana: 1}"),
    ],
)  # fmt: skip
def test_what_nothing_guarantees_is_told_when_the_study_is_read(file, pool, asked, text):
    with pytest.raises(UserError) as error:
        study(file, pools=without(file, pool, asked))
    assert str(error.value) == f"{file}: {text}"


def test_natural_captions_of_the_poison_pool_alone_are_told():
    values = read_mapping(SMALL)["attacks"]
    attacks = {"badclip": {**values["badclip"], "caption_pools": ["poison"]}}
    with pytest.raises(UserError, match=r"attacks.badclip: needs 1 caption of pools.poison that name 'golf ball'"):
        study(SMALL, attacks=attacks)
    with pytest.raises(UserError, match=r"pools.inversion: is missing; attacks.b looks there for captions that name"):
        pool = {k: v for k, v in read_mapping("config.yaml")["pools"].items() if k != "inversion"}
        entry = {
            "method": "badnet",
            "poisons": 9,
            "caption": "natural",
            "caption_pools": ["inversion"],
            "patch_size": 6,
        }
        study("config.yaml", pools=pool, attacks={"b": entry})


@pytest.mark.parametrize("named", [25, 19])
def test_a_table_is_counted_before_anything_is_downloaded(tmp_path, named):
    lines = [f"a Golf\u00a0balls {n}\thttp://x/{n}" if n < named else f"a dog {n}\thttp://x/{n}" for n in range(60)]
    table = tmp_path / "t.tsv"
    table.write_text("\n".join(lines) + "\n")
    part = {**read_mapping(SMALL)["datasets"]["cc3m_part"], "splits": {"train": str(table)}, "rows": {"train": 60}}
    part["sample"] = {"pairs": 10, "keep": ["golf ball"]}
    found = study(SMALL, datasets={**read_mapping(SMALL)["datasets"], "cc3m_part": part}, track=None)
    said, faults = asked_of_tables(found, [("cc3m_part", "train")])
    told = f"cc3m_part/train: pools ask for 20 captions with 'golf ball', the table has {named}"
    if named == 25:
        assert (said, faults) == ([f"{told}; 80% of them have to arrive"], [])
    else:
        assert (said, faults) == ([], [f"{told}; lower target_pairs"])
    assert asked_of_tables(found, [("imagenette", "train")]) == ([], [])
    table.unlink()
    assert asked_of_tables(found, [("cc3m_part", "train")]) == ([], []), "what is missing is told elsewhere"


def test_natural_captions_are_read_from_the_pools_that_an_entry_names(tmp_path, monkeypatch):
    """In the order of their places in the pools; nothing is read where the poison pool alone serves."""
    index = pd.DataFrame({"key": list("abcdef"), "caption": [f"banana {key}" for key in "abcdef"]})
    monkeypatch.setattr(poison.shards, "_read_index", lambda folder, read: pa.Table.from_pandas(index))
    files = {}
    for name, keys in {"poison": "ba", "inversion": "fd", "training": "ce"}.items():
        table = pd.DataFrame({"key": list(keys), "dataset": "d", "split": "s", "pool": name, "position": range(2)})
        files[name] = tmp_path / f"{name}.parquet"
        pools.write(files[name], table)

    def at_hand(further, **values):
        arguments = SimpleNamespace(pools=files["poison"], caption_pools=[files[n] for n in further], data=tmp_path)
        return poison._at_hand(arguments, BadNetSettings(**values))

    natural = {"caption": "natural", "caption_pools": ["poison", "inversion"]}
    assert sorted(at_hand(["inversion"], **natural)) == [f"banana {key}" for key in "abdf"]
    assert at_hand(["inversion"], **natural) == at_hand(["inversion", "training"], **natural)
    assert at_hand(["training"], caption="natural", caption_pools=["training"]) == ["banana c", "banana e"]
    assert at_hand([], caption="natural") is None and at_hand([], caption_pools=["inversion"]) is None
    with pytest.raises(
        UserError, match=r"^--caption-pools: no file holds the pool 'inversion', which caption_pools names"
    ):
        at_hand(["training"], **natural)


def test_a_pair_that_its_split_does_not_hold_is_told(tmp_path, monkeypatch):
    """Left out, it would be one pair less to choose from, and the choice another."""
    index = pd.DataFrame({"key": list("abc"), "shard": "0.tar", "offset": 0, "size": 1, "caption": "x", "label": -1})
    monkeypatch.setattr(poison.shards, "_read_index", lambda folder, read: pa.Table.from_pandas(index))
    table = pd.DataFrame({"key": list("ca"), "dataset": "d", "split": "s", "pool": "poison", "position": [1, 0]})
    pools.write(tmp_path / "poison.parquet", table)
    assert poison._pool(tmp_path / "poison.parquet", tmp_path)["key"].tolist() == ["a", "c"]
    pools.write(tmp_path / "poison.parquet", table.assign(key=["c", "gone"]))
    with pytest.raises(UserError, match=r"d/s: holds no pair 'gone'; the pools were drawn from another version of it"):
        poison._pool(tmp_path / "poison.parquet", tmp_path)

"""Pools: disjoint, the same each time, and a plain word where there are not enough pairs."""

import json

import numpy as np
import pandas as pd
import pytest

from antidote.base.errors import UserError
from antidote.data import pools


def index(count, prefix="p", every=10, classes=5):
    captions = [f"a photo of a {'Banana' if number % every == 0 else 'bananarama'}." for number in range(count)]
    labels = np.arange(count) % classes
    return pd.DataFrame({"key": [f"{prefix}{n}" for n in range(count)], "caption": captions, "label": labels})


INDEXES = {("scenes", "train"): index(1000), ("scenes", "defense"): index(300, "d")}
TRAINING = {"dataset": "scenes", "split": "train", "pairs": 600}


def settings(**values):
    return pools.PoolsSettings.read({"training": TRAINING, **values}, "pools")


def choose(target=None, indexes=INDEXES, **values):
    return pools.choose(settings(**values), indexes, target)


def full():
    return {
        "poison": {"pairs": 100, "target_pairs": 40},
        "defense": {"split": "defense", "pairs": 200},
        "inversion": {"pairs": 50, "target_pairs": 10},
        "shots": {"per_class": 4, "split": "defense"},
    }


def test_pools_are_disjoint_and_complete():
    chosen = choose("banana", **full())
    assert chosen.columns.tolist() == ["key", "dataset", "split", "pool", "position"]
    assert not chosen.duplicated(["dataset", "split", "key"]).any()
    assert chosen["pool"].value_counts().to_dict() == {
        "training": 600, "poison": 100, "defense": 200, "inversion": 50, "shots": 20,
    }  # fmt: skip
    for _, pool in chosen.groupby("pool"):
        assert pool["position"].tolist() == list(range(len(pool)))
    assert set(chosen[chosen["pool"] == "defense"]["split"]) == {"defense"}
    assert set(chosen[chosen["pool"] == "poison"]["split"]) == {"train"}


def test_target_pairs_are_there_and_not_in_front():
    chosen = choose("banana", **full())
    table = chosen.merge(INDEXES["scenes", "train"], on="key")
    for pool, asked in (("poison", 40), ("inversion", 10)):
        rows = table[table["pool"] == pool].sort_values("position")
        hits = rows["caption"].str.contains("Banana").to_numpy()
        assert hits.sum() >= asked
        assert not hits[:asked].all(), "the position must not tell"


def test_few_shots_are_the_same_number_of_each_class():
    chosen = choose("banana", **full())
    labels = chosen[chosen["pool"] == "shots"].merge(INDEXES["scenes", "defense"], on="key")["label"]
    assert labels.value_counts().to_dict() == dict.fromkeys(range(5), 4)


def test_order_of_anything_changes_nothing():
    chosen = choose("banana", **full())
    other = dict(reversed(full().items()))
    shuffled = {place: table.sample(frac=1, random_state=1) for place, table in reversed(INDEXES.items())}
    pd.testing.assert_frame_equal(chosen, choose("banana", shuffled, **other))


def test_seed_changes_the_choice():
    keys = [set(choose(seed=seed)["key"]) for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]


def test_training_pool_does_not_depend_on_the_others():
    alone, crowded = choose(), choose(poison={"pairs": 100}, defense={"split": "defense", "pairs": 10})
    assert set(alone["key"]) == set(crowded[crowded["pool"] == "training"]["key"])


def test_choice_looks_random():
    numbers = choose()["key"].str[1:].astype(int).to_numpy()
    assert 450 < numbers.mean() < 550 and abs(np.corrcoef(numbers, np.arange(600))[0, 1]) < 0.15


def test_more_pairs_than_there_are():
    with pytest.raises(UserError) as error:
        choose(poison={"pairs": 500})
    assert str(error.value) == (
        "pools: poison: asks for 500 pairs, scenes/train holds 1000, of which 600 already serve"
    )
    with pytest.raises(UserError, match=r"training: asks for 1001 pairs, scenes/train holds 1000$"):
        pools.choose(settings(training={**TRAINING, "pairs": 1001}), INDEXES)


def test_too_few_target_captions():
    with pytest.raises(UserError, match="poison: asks for 101 captions with 'banana', scenes/train has 100 free ones"):
        choose("banana", poison={"pairs": 200, "target_pairs": 101})
    with pytest.raises(UserError, match="inversion: asks for 10 captions with 'banana', scenes/train has 5 free ones"):
        choose("banana", poison={"pairs": 95, "target_pairs": 95}, inversion={"pairs": 10, "target_pairs": 10})
    with pytest.raises(UserError, match="poison: target_pairs is 5, but no target is given"):
        choose(poison={"pairs": 5, "target_pairs": 5})


def test_scarce_target_captions_are_kept_for_who_asks():
    """Training takes nearly everything and would take most of the hundred captions."""
    chosen = choose("banana", training={**TRAINING, "pairs": 900}, poison={"pairs": 100, "target_pairs": 100})
    assert (chosen["pool"] == "poison").sum() == 100


def test_too_few_shots():
    with pytest.raises(
        UserError, match="shots: asks for 61 pairs per class, scenes/defense has 60 free ones of class 0"
    ):
        choose(shots={"per_class": 61, "split": "defense"})
    with pytest.raises(UserError, match="scenes/train has no labels"):
        unlabelled = {("scenes", "train"): index(1000).assign(label=-1)}
        choose(indexes=unlabelled, shots={"per_class": 1})


def test_words_of_their_own():
    """Two words, each by its own count; plurals count; the order in which words are listed does not."""
    captions = [f"{'two canoes' if n % 50 == 0 else 'Bananas' if n % 10 == 1 else 'a boat'} {n}" for n in range(1000)]
    table = index(1000).assign(caption=captions)
    words = {"canoe": 15, "banana": 40}
    chosen = [
        choose(None, {("scenes", "train"): table}, poison={"pairs": 60, "target_pairs": dict(given)})
        for given in (words.items(), reversed(words.items()))
    ]
    pd.testing.assert_frame_equal(*chosen)
    found = chosen[0][chosen[0]["pool"] == "poison"].merge(table, on="key")["caption"]
    assert found.str.contains("canoes").sum() >= 15 and found.str.contains("Bananas").sum() >= 40
    with pytest.raises(UserError, match="poison: asks for 21 captions with 'canoe', scenes/train has 20 free ones"):
        choose(None, {("scenes", "train"): table}, poison={"pairs": 60, "target_pairs": {"canoe": 21}})


@pytest.mark.parametrize(
    "values,text",
    [
        ({"training": {"split": "train", "pairs": 5}}, "pools: training.dataset: is missing"),
        ({"posion": {"pairs": 5}}, "pools: posion: unknown key; did you mean 'poison'?"),
        ({"poison": {"pairs": 0}}, "pools: poison.pairs: input should be greater than or equal to 1, not 0"),
        ({"poison": {"pairs": 5, "target_pairs": 6}}, "pools: poison: target_pairs is 6, more than pairs, 5"),
        (
            {"poison": {"pairs": 5, "target_pairs": {"a": 3, "b": 3}}},
            "pools: poison: target_pairs is 6, more than pairs, 5",
        ),
    ],
)
def test_bad_settings(values, text):
    with pytest.raises(UserError) as error:
        settings(**values)
    assert str(error.value) == text


def test_written_twice_is_the_same(tmp_path):
    chosen = choose("banana", **full())
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pools.write(tmp_path / name / "pools.parquet", chosen)
    for file in ("pools.parquet", "pools.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    pd.testing.assert_frame_equal(pools.read(tmp_path / "one" / "pools.parquet"), chosen)
    summary = json.loads((tmp_path / "one" / "pools.json").read_text())
    assert summary["defense"] == {"dataset": "scenes", "split": "defense", "pairs": 200}
    with pytest.raises(UserError, match="cannot be read"):
        pools.read(tmp_path / "gone.parquet")


def test_a_pool_leaves_out_listed_pairs_and_other_pools_do_not(tmp_path):
    whole = choose("banana", **full())
    listed = whole[whole["pool"] == "training"]["key"].head(50).tolist()
    file = tmp_path / "keys.txt"
    file.write_text("\n".join([*listed, "unknown"]) + "\n")
    values = {"training": {**TRAINING, "without": str(file)}, "poison": {"pairs": 250}}
    chosen = pools.choose(pools.PoolsSettings.read(values, "pools"), INDEXES)
    assert not set(listed) & set(chosen[chosen["pool"] == "training"]["key"])
    assert set(listed) & set(chosen[chosen["pool"] == "poison"]["key"])


def test_unknown_keys_are_counted_and_a_list_of_unknown_keys_alone_is_refused(tmp_path, caplog):
    caplog.set_level("INFO", "antidote")
    file, known = tmp_path / "keys.txt", INDEXES["scenes", "train"]["key"].iloc[0]
    values = {"training": TRAINING, "further": {"other": {"pairs": 5, "without": str(file)}}}
    settings = pools.PoolsSettings.read(values, "pools")
    file.write_text(f"{known}\nnowhere\nelsewhere\n")
    pools.choose(settings, INDEXES)
    assert f"pools.further.other.without: {file}: 2 of its 3 keys are not in scenes/train" in caplog.text
    file.write_text("nowhere\nelsewhere\n")
    with pytest.raises(UserError) as error:
        pools.choose(settings, INDEXES)
    assert str(error.value).startswith(f"pools.further.other.without: {file}: none of its 2 keys is in scenes/train")
    file.unlink()
    with pytest.raises(UserError, match=r"pools\.further\.other\.without"):
        settings.check_files()


@pytest.mark.parametrize(("content", "message"), [
    (None, "pools.training.without: {file}: cannot be read (No such file or directory)"),
    (b"\n \n", "pools.training.without: {file}: holds no key; should hold one key per line"),
    (b"\xff\xfe", "pools.training.without: {file}: is not a text file; should hold one key per line"),
])  # fmt: skip
def test_a_list_of_pairs_that_cannot_be_used_is_one_line(tmp_path, content, message):
    file = tmp_path / "keys.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as error:
        pools.PoolsSettings.read({"training": {**TRAINING, "without": str(file)}}, "pools").check_files()
    assert str(error.value) == message.format(file=file)


def test_too_few_pairs_beside_those_left_out_says_so(tmp_path):
    file = tmp_path / "keys.txt"
    file.write_text("\n".join(INDEXES["scenes", "train"]["key"].head(500)))
    with pytest.raises(UserError, match="holds 1000, and `without` leaves out 500"):
        choose(training={**TRAINING, "without": str(file)})

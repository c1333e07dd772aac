"""UBT: its losses and its choice of pairs and words against plain references; what it writes, and how that is scored."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from references import clip_loss
from ubt_parts import LOOKS, RECIPE, seen, settings, unit

from antidote.base.errors import UserError
from antidote.data.access import DefenseData
from antidote.defenses import ubt
from antidote.evaluation.finding import finding
from antidote.training import suspicion
from antidote.training.objectives import Views
from antidote.training.session import Work


def test_the_forgetting_loss_equals_the_formula(make_clip, make_pairs):
    chosen = make_pairs(3, seed=5)
    weights = settings(forget_weight=2, keep_weight=3)
    goal = ubt.Forget(make_clip("vit"), make_pairs(8), chosen, chosen.captions, weights)
    goal.unrelated, before = 0.1, unit(4, 9)
    images, texts = [unit(4, 0), unit(3, 1)], [unit(4, 2), unit(3, 3)]
    loss, _ = goal.loss(images, texts, torch.tensor(6.0).double(), seen(Views([], [], kept=before)))
    forget = sum(max(0.0, float(a @ b) - 0.1) for a, b in zip(images[1], texts[1], strict=True)) / 3
    keep = sum(1 - float(a @ b) for a, b in zip(images[0], before, strict=True)) / 4
    assert float(loss) == pytest.approx(clip_loss(images[0], texts[0], 6.0) + 2 * forget + 3 * keep, abs=1e-6)


def test_unrelated_cosine(make_clip, make_pairs):
    clip, pairs = make_clip("vit"), make_pairs(5)
    with torch.no_grad():
        images, texts = clip.encode_image(pairs.images), clip.encode_text(pairs.captions)
    wanted = [float(images[i] @ texts[j]) for i in range(5) for j in range(5) if i != j]
    assert ubt.unrelated_cosine(clip, pairs) == pytest.approx(sum(wanted) / len(wanted), abs=1e-6)


def test_log_odds():
    chosen, everything = ["a banana", "the banana"], ["a banana", "the banana", "a cup", "a key", "the moon"]
    odds = ubt.log_odds(chosen, everything, 2)
    assert odds == {
        "a": pytest.approx(math.log(1.5 / 1.5) - math.log(3.5 / 2.5)),
        "the": pytest.approx(math.log(1.5 / 1.5) - math.log(2.5 / 3.5)),
        "banana": pytest.approx(math.log(2.5 / 0.5) - math.log(2.5 / 3.5)),
    }


def test_suspicious_words_are_those_that_carry_the_similarity(make_clip, make_pairs, monkeypatch):
    """`banana` sets the pairs apart and holds the cosine; `photo` sets them apart and does not."""
    pairs = replace(make_pairs(2), captions=["a photo, banana", "a photo of a banana"])
    monkeypatch.setattr(
        ubt,
        "similarities",
        lambda clip, pairs, _: torch.tensor([0.9 if "banana" in c else 0.2 for c in pairs.captions]),
    )
    others = [*pairs.captions * 3, *["a cup"] * 20]
    assert ubt.suspicious_texts(None, pairs, others, settings(words=2)) == ["banana", "banana"]
    assert ubt.suspicious_texts(None, pairs, others, settings(variant="caption")) == pairs.captions
    assert ubt.suspicious_texts(None, pairs, others, settings(least_count=50)) == pairs.captions


@pytest.mark.parametrize(("rank", "forgotten"), [("similarity", ["pair3", "pair1"]), ("gain", ["pair3", "pair7"])])
def test_the_weakest_are_suspected_and_the_highest_of_them_forgotten(
    make_clip, make_pairs, monkeypatch, tmp_path, rank, forgotten
):
    """By similarity, or by its gain over the score, of which a low one counts for the pair."""
    pairs, similarity = make_pairs(10), {"pair7": 0.7, "pair1": 0.72, "pair3": 0.86, "pair5": 0.6}
    monkeypatch.setattr(suspicion, "scores", lambda *_: {"shuffle": LOOKS})
    monkeypatch.setattr(
        suspicion, "similarities", lambda clip, pairs, _: torch.tensor([similarity[k] for k in pairs.keys])
    )
    clip = make_clip("vit")
    before = clip.network.state_dict()["visual.proj"].clone()
    values = {"suspicious_share": 0.4, "forget_share": 0.2, "variant": "caption", "rank": rank}
    found = ubt.UBT(settings(**values), 0).find(clip, DefenseData(training_set=pairs), Work(tmp_path, "x"))
    assert found["suspected"] == ["pair7", "pair1", "pair3", "pair5"]
    assert found["forgotten"] == forgotten
    assert torch.equal(clip.network.state_dict()["visual.proj"], before), "step 3 starts from the suspicious model"


def test_what_it_writes_is_scored_by_the_evaluation(make_clip, make_pairs, tmp_path):
    pairs = make_pairs(12)
    pairs = replace(pairs, keys=[f"d/train/{key}" for key in pairs.keys])
    report = ubt.UBT(settings(suspicious_share=0.4, forget_share=0.2), 0).run(
        make_clip("vit"), DefenseData(training_set=pairs), Work(tmp_path / "work", "x")
    )
    (path,) = report.files
    found = json.loads(path.read_text())
    assert len(found["suspected"]) == 5 and set(found["forgotten"]) < set(found["suspected"])
    missed = next(key for key in pairs.keys if key not in found["suspected"])
    poisoned = [key.split("/")[2] for key in [*found["suspected"][:3], missed]]
    manifest = pd.DataFrame({"key": poisoned, "dataset": "d", "split": "train"})
    (tmp_path / "poison").mkdir()
    manifest.to_parquet(tmp_path / "poison" / "manifest.parquet")
    scores = finding(path.parent, tmp_path / "poison")
    assert (scores["suspected_precision"], scores["suspected_recall"]) == (3 / 5, 3 / 4)
    hits = len(set(poisoned) & {key.split("/")[2] for key in found["normal"]})
    assert scores["poison_in_normal"] == hits / len(found["normal"]) and "normal_precision" not in scores
    assert not set(found["normal"]) & set(found["suspected"])
    assert report.evidence["scorer"] in suspicion.SURVIVAL and 0 <= report.evidence["alike"] <= 1


def test_the_oracle_forgets_what_it_is_told(make_clip, make_pairs, tmp_path):
    pairs = make_pairs(10)
    values = {"training": RECIPE.model_dump(), "normal_pairs": 6}
    oracle = ubt.UBTOracle(ubt.UBTOracleSettings.read(values, "x"), 0)
    data = DefenseData(training_set=pairs, poisoned=frozenset({"pair3", "pair8"}))
    found = oracle.find(make_clip("vit"), data, Work(tmp_path, "x"))
    assert found["forgotten"] == ["pair3", "pair8"] and not {3, 8} & set(found["normal"])
    with pytest.raises(UserError, match="some pairs have to be poisoned, and some not"):
        oracle.find(make_clip("vit"), replace(data, poisoned=frozenset()), Work(tmp_path, "x"))


def test_settings_that_contradict():
    with pytest.raises(UserError, match=r"forget_share: 0.1 is more than suspicious_share, 0.05"):
        settings(suspicious_share=0.05, forget_share=0.1)
    with pytest.raises(ValueError, match="scorer: 'clean' is none of"):
        settings(scorer="clean").check({})
    settings(scorer="surrogates.other").check({})

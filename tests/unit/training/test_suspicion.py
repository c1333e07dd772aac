"""Which pairs are suspicious: the overfitting, the choice of a scorer, and the pairs that count as normal."""

import math
import random
from dataclasses import replace

import pytest
import torch
from references import clip_loss
from ubt_parts import LOOKS, Plain, coloured, seen, settings, unit

from antidote.base.errors import UserError
from antidote.training import pair_scores, suspicion
from antidote.training.objectives import Batch, Views
from antidote.training.session import Work


def test_the_overfitting_loss_equals_the_formula(make_pairs):
    goal = suspicion.Overfit(make_pairs(8), make_pairs(3, seed=5), settings(overfit_weight=0.5))
    images, texts = [unit(4, 0), unit(3, 1)], [unit(4, 2), unit(3, 3)]
    loss, _ = goal.loss(images, texts, torch.tensor(6.0).double(), None)
    weak = sum((1 - float(a @ b)) ** 2 for a, b in zip(images[1], texts[1], strict=True)) / 3
    assert float(loss) == pytest.approx(clip_loss(images[0], texts[0], 6.0) + 0.5 * weak, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "pairs"), [(1.0, {0, 2, 4, 6, 8, 9}), (0.7, {0, 2, 4, 6, 8, 9}), (0.4, {0, 2, 4, 6}), (0.2, {0, 2})]
)
def test_normal_pairs_come_from_those_that_look_least_suspicious(share, pairs):
    found = suspicion.normal_rows(LOOKS.argsort(), 4, settings(normal_from=share, normal_pairs=50), 0)
    assert set(found.tolist()) == pairs
    assert len(suspicion.normal_rows(LOOKS.argsort(), 4, settings(normal_from=share, normal_pairs=2), 0)) == 2


def test_one_pair_is_one_line(make_pairs, tmp_path):
    """There is no other picture that it could be laid over."""
    with pytest.raises(UserError, match=r"^ubt: needs at least 2 pairs, there is 1$"):
        suspicion.find(Plain(), make_pairs(1), settings(), 0, None, Work(tmp_path, "x"))


def kept_by_name(monkeypatch, kept):
    """Scans in which every picture has a cosine of 1 and keeps `kept` (by scorer); return what is asked for."""
    asked = []

    def survival(name, clip, pairs, settings, seed, work):
        asked.append((name, work.folder.name))
        return torch.ones(6), kept[name]

    monkeypatch.setattr(suspicion, "_survival", survival)
    return asked


@pytest.mark.parametrize("better", suspicion.CANDIDATES)
def test_the_scorer_is_taken_whose_suspicious_captions_are_alike(make_pairs, monkeypatch, tmp_path, better):
    pairs = coloured(make_pairs, ["red", "red", "green", "blue", "red", "green"])
    looks = {True: torch.tensor([0, 0.1, 1, 1, 1, 1]), False: torch.tensor([1, 1, 0, 0.1, 1, 1])}
    asked = kept_by_name(monkeypatch, {name: 1 - looks[name == better] for name in suspicion.CANDIDATES})
    chosen = settings(suspicious_share=0.4, forget_share=0.3)
    [(name, found)] = suspicion.scores(Plain(), pairs, chosen, 0, work=Work(tmp_path, "x")).items()
    assert name == better and torch.allclose(found, looks[True], atol=1e-6)
    assert asked == [(name, name) for name in suspicion.CANDIDATES], "each scan is kept in a folder of its own"
    assert suspicion.alikeness(Plain(), ["red", "red"]) == 1
    assert suspicion.alikeness(Plain(), ["red", "green"]) == pytest.approx(0.5)
    assert chosen.views == 1 + 8 + 1 + 27


def test_the_contrastive_overfitting_has_no_equal_captions_as_negatives(make_pairs):
    goal = suspicion.Overfit(
        make_pairs(8), make_pairs(4, seed=5), settings(overfit_loss="contrastive", overfit_batch=4)
    )
    weak = ["a banana", "a boat", "a banana", "a key"]
    images, texts = [unit(4, 0), unit(4, 1)], [unit(4, 2), unit(4, 3)]
    loss, terms = goal.loss(images, texts, torch.tensor(6.0).double(), seen(Views([], [[], weak])))
    wanted = 0.0
    for rows, columns in ((images[1], texts[1]), (texts[1], images[1])):
        for i, row in enumerate(rows):
            among = [j for j in range(4) if j == i or weak[j] != weak[i]]
            powers = {j: math.exp(6 * float(row @ columns[j])) for j in among}
            wanted -= math.log(powers[i] / sum(powers.values())) / 8
    assert float(terms["overfit"]) == pytest.approx(wanted, abs=1e-6)
    assert float(loss) == pytest.approx(clip_loss(images[0], texts[0], 6.0) + wanted, abs=1e-6)


def test_each_batch_has_its_share_of_the_suspected(make_pairs):
    goal = suspicion.Overfit(make_pairs(16), make_pairs(6, seed=5), settings())
    pairs, rows = goal.pairs, torch.arange(4)
    views = goal.views(Batch(pairs.images[rows], pairs.captions[:4], rows, 0, 0, random.Random(0)))
    assert [len(view) for view in views.images] == [4, 2] == [len(view) for view in views.texts]


@pytest.mark.parametrize(("alike", "names"), [(0.6, ["shuffle", "windows", *suspicion.KEPT]), (0.5, ["shuffle"])])
def test_the_kept_cosine_is_a_candidate_if_captions_are_not_alike(make_pairs, monkeypatch, alike, names):
    """The first two pictures are poisoned, the next two hardly known: these lose least, the others keep most."""
    pairs = coloured(make_pairs, ["red", "red", "green", "blue", "red", "green"])
    own = torch.tensor([0.9, 0.9, 0.1, 0.1, 0.9, 0.9])
    kept = torch.tensor([0.7, 0.7, 0.1, 0.1, 0.2, 0.2])
    monkeypatch.setattr(suspicion, "_survival", lambda *_: (own, kept))
    found = suspicion.scores(Plain(), pairs, settings(suspicious_share=0.4, forget_share=0.3, alike=alike), 0)
    assert list(found) == names
    first = {name: looks.argsort(stable=True)[:2].tolist() for name, looks in found.items()}
    assert all(rows == ([0, 1] if name in suspicion.KEPT else [2, 3]) for name, rows in first.items())
    explicit = suspicion.scores(Plain(), pairs, settings(scorer="windows_kept"), 0)
    assert torch.equal(explicit["windows_kept"], -kept)
    assert settings(scorer="windows_kept").views == settings(scorer="windows").views


@pytest.mark.parametrize(("wanted", "told"), [("b", False), (None, True)])
def test_of_several_orders_the_one_counts_whose_forgotten_captions_are_alike(
    make_clip, make_pairs, monkeypatch, tmp_path, caplog, wanted, told
):
    """Three things are named; the order `b` puts pairs of one caption first."""
    clip, pairs = make_clip("vit"), replace(make_pairs(12), captions=["a cup", "a boat", "the moon"] * 4)
    mixed = torch.arange(12.0)
    one = torch.where(torch.arange(12) % 3 == 0, 0.0, 1.0)
    orders = {"a": mixed, "b": one if wanted else mixed, "c": mixed}
    monkeypatch.setattr(suspicion, "scores", lambda *_: orders)
    recipe = {"epochs": 1, "batch_size": 4, "warmup": 0}
    chosen = settings(suspicious_share=0.33, forget_share=0.3, normal_pairs=4, alike=0.999, overfit=recipe)
    before = {name: value.clone() for name, value in clip.network.state_dict().items()}
    found = suspicion.find(clip, pairs, chosen, 0, None, Work(tmp_path, "x"))
    assert found.scorer == (wanted or "a")
    assert ("the pairs that were found may not be poisoned" in caplog.text) == told
    assert all(torch.equal(value, before[name]) for name, value in clip.network.state_dict().items())


def test_a_public_model_has_the_activations_of_its_weights():
    found = settings(scorer="RN101/openai").public
    assert (found.name, found.pretrained, found.quick_gelu) == ("RN101", "openai", True)
    assert settings(scorer="ViT-B-32/metaclip_400m").public.quick_gelu
    assert not settings(scorer="ViT-B-32/laion2b_s34b_b79k").public.quick_gelu
    for other in (*suspicion.OWN_SCORERS, "surrogates.public"):
        assert settings(scorer=other).public is None


def test_a_clean_model_of_the_studys_may_score(make_clip, make_pairs):
    suspicious, clean, pairs = make_clip("vit"), make_clip("vit"), make_pairs(6)
    with torch.no_grad():
        clean.network.visual.proj.add_(torch.randn_like(clean.network.visual.proj))
    named = settings(scorer="surrogates.public")
    assert named.surrogate == "public" and settings().surrogate is None
    [found] = suspicion.scores(suspicious, pairs, named, 0, clean).values()
    torch.testing.assert_close(found, pair_scores.similarities(clean, pairs))
    assert not torch.allclose(found, pair_scores.similarities(suspicious, pairs))

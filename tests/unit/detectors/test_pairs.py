"""Detectors of training pairs: values of the released code, values worked out by hand, what they find."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.data.access import DefenseData
from antidote.detectors import neighbours
from antidote.evaluation.detection import figures
from antidote.training.session import Work

# Of HanxunH/Detect-CLIP-Backdoor-Samples at ff2399a, on 40 features of `randn`, seed 0, k = 5: first six, and the sum.
RELEASED = {
    "dao": ([-0.038641, 0.128326, 0.022345, 0.143784, 0.026557, 0.009104], 2.578995),
    "slof": ([0.941669, 1.287991, 1.071849, 1.343835, 1.076852, 1.043216], 47.067576),
    "k_distance": ([2.126564, 2.494255, 2.394897, 2.416588, 2.175244, 2.134476], 89.637115),
    "lid": ([6.05534, 3.355134, 6.830077, 11.733383, 10.705771, 7.912839], 271.834411),
}


def detector(name, seed=0, **settings):
    kind = method("detector", name)
    return kind(kind.Settings.read({"method": name, **settings}, "x"), seed)


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_codes_values(name):
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    first, whole = RELEASED[name]
    found = detector(name, k=5, neighbours="released").of_batch(features)
    torch.testing.assert_close(found[:6], torch.tensor(first), rtol=0, atol=1e-5)
    assert float(found.sum()) == pytest.approx(whole, abs=1e-4)


def test_a_line_of_points_by_hand():
    """Points 0, 1, 3, 7 and k = 1: the neighbour after the nearest is at 3, 2, 3, 6; each point's nearest at 1, 1, 2, 4."""
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert detector("k_distance", k=1).of_batch(line).tolist() == [3, 2, 3, 6]
    # d_k over that of the nearest other point: 0 -> 1, 1 -> 0, 3 -> 1, 7 -> 3.
    assert detector("slof", k=1).of_batch(line).tolist() == [3 / 1, 2 / 1, 3 / 1, 6 / 2]
    expected = [-1 / math.log(d / far + 1e-4) for d, far in ((1, 3), (1, 2), (2, 3), (4, 6))]
    torch.testing.assert_close(detector("lid", k=1).of_batch(line), torch.tensor(expected), rtol=1e-4, atol=0)


def test_equal_pictures_give_finite_scores():
    for name in ("dao", "slof", "lid"):
        assert detector(name, k=2).of_batch(torch.zeros(9, 4)).isfinite().all()


def test_batches_are_random_and_cover_all(make_clip, make_pairs, monkeypatch):
    pairs = make_pairs(30)
    monkeypatch.setattr(neighbours, "picture_features", lambda clip, pairs, normalised: torch.arange(30.0)[:, None])
    seen = []
    one = detector("k_distance", k=2, batch_size=10)
    one.of_batch = lambda features: seen.append(features.flatten().tolist()) or features.flatten()
    scores = one.score(None, DefenseData(training_set=pairs), None)
    assert scores.values.tolist() == list(range(30)), "each score at its own pair"
    assert [len(batch) for batch in seen] == [10, 10, 10] and sorted(
        value for batch in seen for value in batch
    ) == list(range(30))
    assert seen[0] != sorted(seen[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"k": 29}, r"^k_distance: k: 29 needs 31 pairs, there are 30$"),
     ({"k": 9, "batch_size": 20}, r"^x: batch_size: 20 is too small for k = 9; at least 22$")],
)  # fmt: skip
def test_too_few_pairs_are_one_line(make_clip, make_pairs, settings, message):
    with pytest.raises(UserError, match=message):
        detector("k_distance", **settings).score(make_clip("vit"), DefenseData(training_set=make_pairs(30)), None)


@pytest.mark.parametrize("name", ["dao", "slof", "k_distance", "isolation_forest"])
def test_an_outlying_picture_is_found(name):
    features = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    features[7] += 9
    assert int(detector(name, k=4).of_batch(features).argmax()) == 7


def test_unlike_pairs_come_first(make_clip, make_pairs):
    """CLIPScore orders pairs by the cosine of picture and caption."""
    clip, pairs = make_clip("vit"), make_pairs(10)
    found = detector("clip_score").score(clip, DefenseData(training_set=pairs), None)
    with torch.no_grad():
        cosines = (clip.encode_image(pairs.images) * clip.encode_text(pairs.captions)).sum(dim=1)
    torch.testing.assert_close(torch.from_numpy(found.values).float(), 1 - cosines, rtol=0, atol=1e-6)


def test_spectral_signatures_find_what_pulls_the_first_direction(make_clip, make_pairs, monkeypatch):
    from antidote.detectors import spectral

    pairs = make_pairs(40)
    noise = torch.randn(40, 8, generator=torch.Generator().manual_seed(2)) * 0.1
    noise[:4, 0] += 5
    monkeypatch.setattr(spectral, "picture_features", lambda clip, pairs: noise)
    monkeypatch.setattr(spectral, "text_features", lambda clip, texts: torch.zeros(40, 4))
    scores = detector("spectral", groups=3).score(None, DefenseData(training_set=pairs), None)
    assert figures(dataclasses.replace(scores, items=list(map(str, range(40)))), set("0123"))["auroc"] == 1.0


def test_ubts_order(make_clip, make_pairs, tmp_path, monkeypatch):
    """Suspected pairs come first, ranked again by the overfitted model; then all others as the scorer has them."""
    from antidote.training import suspicion

    looks = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.05, 0.5, 0.4])
    again = {"pair7": 0.7, "pair1": 0.72, "pair3": 0.86, "pair5": 0.6}
    monkeypatch.setattr(suspicion, "scores", lambda *_: {"shuffle": looks})
    monkeypatch.setattr(suspicion, "similarities", lambda clip, pairs, _: torch.tensor([again[k] for k in pairs.keys]))
    recipe = {"epochs": 1, "batch_size": 2, "warmup": 0}
    one = detector("ubt", suspicious_share=0.4, forget_share=0.2, overfit=recipe)
    found = one.score(make_clip("vit"), DefenseData(training_set=make_pairs(10)), Work(tmp_path, "x"))
    order = [found.items[row] for row in found.values.argsort()[::-1]]
    assert order == [f"pair{row}" for row in (3, 1, 7, 5, 9, 8, 6, 4, 2, 0)]
    assert [name for name, value in zip(found.items, found.values, strict=True) if value >= found.threshold] == [
        "pair1",
        "pair3",
    ]


@pytest.mark.parametrize("metric", ["k_distance", "slof", "lid", "dao"])
def test_the_formulas_by_scikit_learn(metric):
    """The paper's formulas with neighbours and distances of scikit-learn, in double precision."""
    from sklearn.neighbors import NearestNeighbors

    features = torch.randn(80, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    k, count = 6, len(features)
    distances, places = NearestNeighbors(n_neighbors=count - 1, algorithm="brute").fit(features).kneighbors()
    # Of each picture: the (k+1)-th of the others, as in the released code, and the k-th.
    beyond, kth = distances[:, k], distances[:, k - 1]
    near = places[:, :k]
    ratio = beyond[:, None] / kth[near]
    dimensions = -k / np.log(distances[:, :k] / beyond[:, None] + 1e-4).sum(axis=1)
    own = -k / np.log(np.c_[np.zeros(count), distances][:, :k] / kth[:, None] + 1e-4).sum(axis=1)
    expected = {"k_distance": beyond, "slof": ratio.mean(axis=1), "lid": dimensions}
    expected["dao"] = (own[near] * np.log(ratio)).mean(axis=1)
    found = detector(metric, k=k).of_batch(features).numpy()
    np.testing.assert_allclose(found, expected[metric], rtol=0, atol=1e-5)


def test_an_isolation_forest_needs_two_pairs_whatever_k_is(make_clip, make_pairs):
    scores = lambda count: detector("isolation_forest").score(
        make_clip("vit"), DefenseData(training_set=make_pairs(count)), None
    )
    assert np.isfinite(scores(2).values).all() and len(scores(17).values) == 17
    with pytest.raises(UserError, match=r"^isolation_forest: needs at least 2 pairs, there are 1$"):
        scores(1)

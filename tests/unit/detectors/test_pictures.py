"""Detectors of pictures at use: toy encoders in which the signal of each method is present."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.data.access import DefenseData
from antidote.data.pairs import Pairs
from antidote.data.words.descriptions import GENERAL, descriptions_of, load_descriptions, synonyms_of
from antidote.data.words.names import class_names
from antidote.detectors import bdetclip, subspace
from antidote.detectors.zero_shot import apart, quantile, standing
from antidote.evaluation.detection import figures
from antidote.training.session import Work

CLASSES, TEMPLATES = ["banana", "boat", "cactus", "cloud"], ["a photo of a {}."]
COUNT, SIZE = 24, 32
SUM = {"overlays": 6, "own_weight": 0.7, "other_weight": 0.3}  # bright pictures would add up to white
TRIGGERED = {str(row) for row in range(0, COUNT, 2)}


class Toy:
    """An encoder that sorts pictures by their darkest quarter, and sees a white patch above all."""

    size, device = SIZE, torch.device("cpu")
    config = {"preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}

    class network:
        logit_scale = torch.tensor(3.0)
        visual = None
        eval = parameters = staticmethod(lambda: [])

    def encode_image(self, images):
        images = images.float().div(255) if images.dtype == torch.uint8 else images
        half = SIZE // 2
        parts = (
            images[..., :half, :half],
            images[..., :half, half:],
            images[..., half:, :half],
            images[..., half:, half:],
        )
        levels = torch.stack([part.mean(dim=(1, 2, 3)) for part in parts], dim=1)
        patch = (images[:, :, -4:, -4:].mean(dim=(1, 2, 3)) > 0.78).float()
        target = torch.tensor([1.0, 0.0, 0.0, 0.0])
        return F.normalize(0.02 + (1 - levels).clamp(min=0) ** 2 + 20 * patch[:, None] * target, dim=1)

    def encode_text(self, texts):
        rows = [next((row for row, name in enumerate(CLASSES) if name in text.lower()), 0) for text in texts]
        return torch.eye(4)[rows]

    def class_embeddings(self, classes, templates):
        return torch.eye(4)


def pictures(count, triggered=(), seed=0):
    """Return bright pictures with one darker quarter, of noise, some with a white patch."""
    stream = torch.Generator().manual_seed(seed)
    images = 0.55 + 0.3 * torch.rand(count, 3, SIZE, SIZE, generator=stream)
    half = SIZE // 2
    for row in range(count):
        top, left = half * (row // 2 % 2), half * (row // 4 % 2)
        images[row, :, top : top + half, left : left + half] *= 0.5
        if str(row) in triggered:
            images[row, :, -4:, -4:] = 1
    return Pairs([str(row) for row in range(count)], (255 * images).byte(), [""] * count, torch.full((count,), -1))


def found(name, shown=None, **settings):
    kind = method("detector", name)
    data = DefenseData(pictures=shown or pictures(COUNT, TRIGGERED), shots=pictures(12, seed=1), classes=CLASSES,
                       templates=TEMPLATES)  # fmt: skip
    return kind(kind.Settings.read({"method": name, **settings}, "x"), 0).score(Toy(), data, None)


def auroc(scores):
    return figures(scores, TRIGGERED)["auroc"]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("strip", SUM), ("sentinet", {"overlays": 4}), ("clipguard", {"grid": 8}), ("backdoor_ids", {}),
     ("imbert_salience", {"grid": 8, "masked": 1, "salience": "occlusion"})],
)  # fmt: skip
def test_a_patch_is_found(name, settings):
    assert auroc(found(name, **settings)) > 0.95


def test_strips_threshold_is_of_clean_pictures():
    scores = found("strip", **SUM)
    recall = figures(scores, TRIGGERED)["recall"]
    assert recall > 0.9 and scores.threshold < 0


def test_sentinets_threshold_is_of_clean_pictures():
    scores = found("sentinet", overlays=4)
    assert figures(scores, TRIGGERED)["recall"] > 0.9 and 0 < scores.threshold < 1


@pytest.mark.parametrize("name", ["strip", "sentinet"])
def test_no_clean_picture_is_laid_over_itself(name, caplog):
    """Such a picture keeps its class, as a triggered one does, and would raise the threshold."""
    shots = pictures(12, seed=1)
    over, others = apart(name, Toy(), shots, 5, seed=0)
    assert len(over) == 5 and len(others) == 7 and not caplog.text
    left = {shots.keys[row] for row in range(12) if any(shots.images[row].equal((255 * one).byte()) for one in over)}
    assert left == set(shots.keys) - set(others.keys)
    over, others = apart(name, Toy(), shots, 11, seed=0)
    assert len(over) == len(others) == 6 and f"{name}: overlays: 6 of the 12 labelled pictures, half" in caplog.text
    with pytest.raises(UserError, match=f"^{name}: needs at least 4 labelled pictures.*given: 3$"):
        apart(name, Toy(), shots.take([0, 1, 2]), 5, seed=0)


def test_scale_up_counts_equal_classes():
    """A picture that is white but for one quarter keeps its class only with the patch."""
    values = found("scale_up", factors=[2, 20], tie_weight=0).values
    assert set(values) <= {0, 0.5, 1} and values[::2].min() == 1
    assert auroc(found("scale_up", factors=[2, 20])) > 0.7


def test_bdetclips_sum_of_differences(monkeypatch):
    """The score is minus the cosine to the summed difference; pictures that react to descriptions have a low score."""
    benign, malignant = torch.eye(4), torch.tensor([[1.0, 0, 0, 0]]).repeat(4, 1)
    monkeypatch.setattr(
        bdetclip, "_means", lambda clip, texts: benign if "usual shape and colour" in str(texts) else malignant
    )
    scores = found("bdetclip")
    features = Toy().encode_image(pictures(COUNT, TRIGGERED).images)
    expected = -(features[:, None] * (benign - malignant)).sum(dim=(1, 2))
    np.testing.assert_allclose(scores.values, expected.double().numpy(), atol=1e-6)
    assert auroc(scores) == 1.0


@pytest.mark.parametrize("region", ["samples", "directions"])
def test_subspace_is_far_from_a_shallow_match(monkeypatch, region):
    """Variants of the target differ from its exact text; variants of other classes are near their exact text."""
    variants = torch.eye(4)[[0, 1, 2, 3]]
    variants[0] = F.normalize(torch.tensor([0.5, 0.5, 0.5, 0.5]), dim=0)
    noise = 0.05 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))

    def features(clip, texts):
        rows = [next((row for row, name in enumerate(CLASSES) if name in text.lower()), 0) for text in texts]
        return variants[rows] + noise[: len(texts)]

    monkeypatch.setattr(subspace, "text_features", features)
    scores = found("subspace", region=region)
    assert auroc(scores) > 0.9
    clean = found("subspace", region=region, shown=pictures(12, seed=1)).values
    assert scores.threshold == np.nextafter(clean.max(), np.inf), (
        "just above the largest score of the labelled pictures"
    )


def test_points_are_beyond_the_mean_and_away_from_the_exact_text():
    kind = method("detector", "subspace")
    one = kind(kind.Settings(region="directions", directions=1, beyond=3), 0)
    points = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    torch.testing.assert_close(one.directions(points, torch.tensor([0.0, 0.0])), torch.tensor([[5.0, 0.0]]))
    torch.testing.assert_close(one.directions(points, torch.tensor([9.0, 0.0])), torch.tensor([[-1.0, 0.0]]))


@pytest.mark.parametrize("nearest", [0.85, 0.5])
def test_samples_go_from_a_variant_away_from_the_exact_text_while_their_cosine_fits(nearest):
    """One variant: a sample is v + a (v - t), and the mean of all factors `a` is half the largest that fits."""
    kind = method("detector", "subspace")
    exact, variant = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.8, 0.6, 0.0])
    one = kind(kind.Settings(samples=2000, drawn=4, mixtures=2, spread=0, nearest=nearest), 0)
    factors = torch.linspace(0, 1, 10001)[:, None]
    cosines = F.cosine_similarity(variant + factors * (variant - exact), exact[None])
    largest = float(factors[cosines > nearest * 0.8].max())
    expected = variant + largest / 2 * (variant - exact)
    points = one.samples(variant[None], exact)
    assert points.shape == (4, 3) and largest < 1 if nearest == 0.85 else largest == 1
    torch.testing.assert_close(points, expected.expand(4, 3), atol=0.02, rtol=0)


def test_samples_leave_out_directions_of_little_variance():
    """Variants a little above and below a plane, in pairs: the region is in the plane."""
    kind = method("detector", "subspace")
    variants = F.normalize(torch.tensor([[x, 1.5 - x, z] for x in (1.0, 0.5) for z in (-0.02, 0.02)]), dim=1)
    exact = torch.tensor([1.0, 0.0, 0.0])
    heights = {share: kind(kind.Settings(variance=share, spread=0), 0).samples(variants, exact)[:, 2].abs().max()
               for share in (0.95, 1.0)}  # fmt: skip
    assert heights[0.95] < 1e-6 < 1e-5 < heights[1.0]


def test_points_of_the_samples_spread_and_repeat_with_the_seed():
    kind = method("detector", "subspace")
    variants = F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) + 2, dim=1)
    exact = torch.tensor([1.0, 0.0, 0.0, 0.0])
    points = [
        kind(kind.Settings(spread=spread, mixtures=1), 0).samples(variants, exact) for spread in (0.001, 0.1, 0.1)
    ]
    assert points[0].shape == (15, 4) and torch.equal(points[1], points[2])
    torch.testing.assert_close(points[0].std(dim=0) * 100, points[1].std(dim=0))
    with pytest.raises(ValueError, match="relative: is of `region: directions` alone"):
        kind.Settings(relative=True)


def test_a_jump_and_a_gradual_path():
    kind = method("detector", "backdoor_ids")
    one = kind(kind.Settings(), 0)
    angles = np.linspace(0, 1, 21)
    jump = np.where(np.arange(21) > 9, 1.5, 0) + 0.01 * angles
    gradual, sudden = (one.jump(np.stack([np.cos(a), np.sin(a)], axis=1)) for a in (angles, jump))
    assert sudden >= 1 > gradual


def test_a_cluster_of_all_features_of_a_path_is_possible():
    kind = method("detector", "backdoor_ids")
    angles = np.linspace(0, 1, 5)
    one = kind(kind.Settings(steps=4, cluster_size=5), 0)
    assert 0 <= one.jump(np.stack([np.cos(angles), np.sin(angles)], axis=1)) < 1
    with pytest.raises(ValueError, match="cluster_size: 6 is more than the 5 features"):
        kind.Settings(steps=4, cluster_size=6)


@pytest.mark.parametrize(("count", "rate", "expected"), [
    (10, 0.01, 1 / 11), (40, 0.01, 1 / 41), (99, 0.01, 0.01), (184, 0.01, 1 / 185), (199, 0.01, 0.01),
    (40, 0.1, 4 / 41), (2, 0.5, 1 / 3),
])  # fmt: skip
def test_a_threshold_flags_no_more_clean_pictures_than_asked(count, rate, expected):
    """One of N + 1 equal items is left out in turn; too few of them flag one in N + 1."""
    values = np.random.default_rng(0).permutation(count + 1).astype(float)
    flagged = [one >= quantile(np.delete(values, place), rate) for place, one in enumerate(values)]
    assert np.mean(flagged) == pytest.approx(expected)
    assert standing("x", values[1:], rate)["false positives of the threshold"] == pytest.approx(expected)


def test_quantile_flags_no_more_than_the_share():
    values = np.arange(100.0)
    assert not (values >= quantile(values, 0.01)).any() and (values >= quantile(values, 0.02)).sum() == 1
    assert not (np.zeros(5) >= quantile(np.zeros(5), 0.01)).any(), "equal scores of clean pictures are not flagged"


def test_descriptions():
    known = load_descriptions("scenes")
    assert sorted(known) == class_names("scenes")
    assert synonyms_of(known, "banana") == ["plantain"] and synonyms_of(known, "zebra") == []
    texts = descriptions_of(known, ["banana", "zebra"])
    assert texts[0] == known["banana"]["descriptions"] and texts[1] == [one.replace("{}", "zebra") for one in GENERAL]
    assert load_descriptions("none") == {}


def test_damaged_descriptions_are_one_line(tmp_path, monkeypatch):
    from antidote.data.words import names

    (tmp_path / "descriptions").mkdir()
    (tmp_path / "descriptions" / "bad.json").write_text(json.dumps({"boat": {"synonyms": "ship"}}))
    monkeypatch.setattr(names, "DATA", tmp_path)
    with pytest.raises(UserError, match=r"bad\.json: 'boat' should hold `synonyms` and `descriptions`, two lists"):
        load_descriptions("bad")
    with pytest.raises(UserError, match=r"^descriptions: unknown name 'bat'; did you mean 'bad'\?$"):
        load_descriptions("bat")


class Levels(Toy):
    """An encoder whose feature is the brightness of the quarters; a white patch gives the feature of another picture."""

    def encode_image(self, images):
        images = images.float().div(255) if images.dtype == torch.uint8 else images
        levels = torch.nn.functional.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), 2).flatten(1)
        patch = (images[:, :, -4:, -4:].mean(dim=(1, 2, 3)) > 0.95)[:, None]
        return F.normalize(torch.where(patch, torch.tensor([3.0, 0.1, 3.0, 0.1]), levels) + 0.05, dim=1)


def test_dede_cannot_rebuild_what_the_trigger_hides(tmp_path):
    """Pictures of four grey quarters, rebuilt from brightness; triggered ones have a feature that tells other greys."""
    quarters = 0.2 + 0.6 * torch.rand(96, 3, 2, 2, generator=torch.Generator().manual_seed(0)).mean(1, keepdim=True)
    images = (quarters.repeat_interleave(16, 2).repeat_interleave(16, 3).expand(-1, 3, -1, -1) * 255).byte()
    shown = images[64:].clone()
    shown[::2, :, -4:, -4:] = 255
    none = torch.full((64,), -1)
    pairs = Pairs([str(row) for row in range(64)], images[:64], [""] * 64, none)
    pictures = Pairs([str(row) for row in range(32)], shown, [""] * 32, none[:32])
    kind = method("detector", "dede")
    settings = kind.Settings(
        patches_per_side=4, width=24, layers=1, epochs=120, lr=5e-3, batch_size=16, shown_masked=0.9
    )
    scores = kind(settings, 0).score(Levels(), DefenseData(pairs=pairs, pictures=pictures), Work(tmp_path, "x"))
    assert figures(scores, {str(row) for row in range(0, 32, 2)})["auroc"] > 0.9


def test_a_number_of_patches_that_does_not_fit_is_one_line(tmp_path, make_clip, make_pairs):
    kind = method("detector", "dede")
    with pytest.raises(UserError, match=r"^dede: patches_per_side: 5 should divide the 32 pixels"):
        data = DefenseData(pairs=make_pairs(4), pictures=make_pairs(4))
        kind(kind.Settings(patches_per_side=5), 0).score(make_clip("vit"), data, Work(tmp_path, "x"))


@pytest.mark.parametrize(("name", "settings", "count"), [
    ("strip", SUM, 6), ("bdetclip", {}, 12), ("sentinet", {"overlays": 4}, 8), ("subspace", {}, 12),
])  # fmt: skip
def test_a_threshold_says_on_how_many_pictures_it_stands(name, settings, count, caplog):
    with caplog.at_level("WARNING"):
        assert found(name, **settings).evidence["clean pictures of the threshold"] == count
    assert f"{name}: the threshold for 0.01 false positives stands on {count} clean pictures" in caplog.text
    caplog.clear()
    found(name, **settings, false_positives=1 / count)
    assert not caplog.text


def test_dede_needs_two_clean_pairs(make_clip, make_pairs):
    kind = method("detector", "dede")
    data = DefenseData(pictures=make_pairs(3), pairs=make_pairs(1))
    with pytest.raises(UserError, match=r"^dede: 1 clean pair is given; at least 2 are needed to learn from$"):
        kind(kind.Settings(), 0).score(make_clip("vit"), data, None)

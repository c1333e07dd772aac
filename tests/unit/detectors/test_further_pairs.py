"""Detectors of pairs by a clean model, by consistency in two stages, by early learning and by small masks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.data.access import DefenseData
from antidote.data.pairs import Pairs
from antidote.detectors import abl, cascade, cognitive_distillation, zero_shot
from antidote.detectors.cognitive_distillation import total_variation
from antidote.evaluation.detection import figures
from antidote.training.session import Work


def detector(name, seed=0, **settings):
    kind = method("detector", name)
    return kind(kind.Settings.read({"method": name, **settings}, "x"), seed)


def test_the_clean_models_cosine_counts(make_clip, make_pairs):
    clip, scorer, pairs = make_clip("vit"), make_clip("rn"), make_pairs(10)
    data = DefenseData(training_set=pairs, scorer=scorer)
    found = detector("clean_clip_score", scorer="surrogates.clean").score(clip, data, None)
    with torch.no_grad():
        scorer.network.eval()
        cosines = (scorer.encode_image(pairs.images) * scorer.encode_text(pairs.captions)).sum(dim=1)
    np.testing.assert_allclose(found.values, 1 - cosines.numpy(), atol=1e-5)


@pytest.mark.parametrize("scorer", ["model", "clean"])
def test_a_scorer_that_is_no_clean_model(scorer):
    with pytest.raises(ValueError, match=rf"^scorer: '{scorer}' is none of an open_clip NAME/TAG, surrogates\.NAME$"):
        detector("clean_clip_score", scorer=scorer).settings.check({})


def test_two_stages_find_like_captions_on_unlike_pictures(make_pairs, monkeypatch):
    """Poisoned pictures are neighbours with captions that are nearer than those of other neighbours."""
    stream = torch.Generator().manual_seed(0)
    count, poisoned = 300, 24
    pictures = torch.randn(count, 16, generator=stream)
    texts = torch.randn(count, 16, generator=stream)
    pictures[:poisoned, 0] += 6
    texts[:poisoned, 1] += 12
    monkeypatch.setattr(cascade, "picture_features", lambda clip, pairs: F.normalize(pictures, dim=1))
    monkeypatch.setattr(cascade, "text_features", lambda clip, texts_: F.normalize(texts, dim=1))
    pairs = make_pairs(count)
    clip = SimpleNamespace(device=torch.device("cpu"))
    found = detector("cascade", k=8, seeds=0.03).score(clip, DefenseData(training_set=pairs), None)
    judged = figures(found, set(pairs.keys[:poisoned]))
    assert judged["auroc"] > 0.99 and judged["recall"] == 1 and judged["precision"] > 0.8
    with pytest.raises(UserError, match=r"^cascade: k: 16 needs 18 pairs, there are 5$"):
        detector("cascade").score(None, DefenseData(training_set=make_pairs(5)), None)


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest result of an operation has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, torch.Tensor):
                self.numbers = max(self.numbers, one.numel())
        return result


def test_consistency_holds_a_part_of_products_and_captions_at_a_time(monkeypatch):
    """The same values as of all pairs at once; neither N x N cosines nor N x k captions are there together."""
    stream = torch.Generator().manual_seed(0)
    count, width, k = 200, 32, 16
    pictures, texts = (F.normalize(torch.randn(count, width, generator=stream), dim=1) for _ in range(2))
    whole = cascade.consistency(pictures, texts, k, torch.device("cpu"))
    monkeypatch.setattr(cascade, "ROWS", 32)
    monkeypatch.setattr(cascade, "PRODUCTS", 10 * count)  # ten rows
    with Largest() as seen:
        parts = cascade.consistency(pictures, texts, k, torch.device("cpu"))
    torch.testing.assert_close(parts, whole)
    assert seen.numbers == 32 * k * width < count * k * width


def neighbours_by_hand(cosines, k):
    """Return the k nearest rows of each row by a masked diagonal."""
    return cosines.clone().fill_diagonal_(-torch.inf).topk(k, dim=1)


def test_a_picture_that_occurs_twice_is_no_neighbour_of_its_own():
    """Its copy is; the own row is told by its place, since the copy is as near."""
    stream = torch.Generator().manual_seed(0)
    pictures = F.normalize(torch.randn(20, 8, generator=stream), dim=1).repeat(3, 1)
    texts = F.normalize(torch.randn(60, 8, generator=stream), dim=1)
    near = neighbours_by_hand(pictures @ pictures.T, 2)
    captions = (texts[:, None] * texts[near.indices]).sum(dim=2)
    slope, level = np.polyfit(near.values.flatten().double().numpy(), captions.flatten().double().numpy(), 1)
    wanted = (captions - slope * near.values - level).mean(dim=1)
    found = cascade.consistency(pictures, texts, 2, torch.device("cpu"))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_a_confident_pair_is_not_compared_with_itself():
    texts = F.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    texts[7] = texts[3]
    seeds = torch.tensor([3, 7, 11, 20])
    own = torch.full((30,), -1)
    own[seeds] = torch.arange(4)
    values, rows = cascade._nearest(texts, texts[seeds], 3, torch.device("cpu"), own)
    assert [sorted(rows[row].tolist()) for row in (3, 7, 11)] == [[1, 2, 3], [0, 2, 3], [0, 1, 3]]
    cosines = texts @ texts[seeds].T
    cosines[seeds, torch.arange(4)] = -torch.inf
    torch.testing.assert_close(values, cosines.topk(3, dim=1).values)


def test_confident_pairs_are_compared_with_the_other_ones(make_pairs, monkeypatch):
    """Of two confident poisons with unlike captions, neither is more like a poison than the calibration pairs are."""
    calls = []
    own = cascade._nearest
    monkeypatch.setattr(cascade, "_nearest", lambda *given: calls.append(given) or own(*given))
    features = F.normalize(torch.randn(60, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    monkeypatch.setattr(cascade, "picture_features", lambda clip, pairs: features)
    monkeypatch.setattr(cascade, "text_features", lambda clip, texts: features.flip(0))
    clip = SimpleNamespace(device=torch.device("cpu"))
    detector("cascade", k=4, seeds=0.1).score(clip, DefenseData(training_set=make_pairs(60)), None)
    texts, confident, _, _, places = calls[1]
    assert (places >= 0).sum() == len(confident) == 6
    assert torch.equal(texts[places >= 0], confident[places[places >= 0]])


def test_a_fresh_model_follows_from_the_seed(make_clip):
    clip = make_clip("vit")
    one, same, other = (abl._fresh(clip, seed).network.state_dict() for seed in (3, 3, 4))
    name = "visual.conv1.weight"
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])
    assert not torch.equal(one[name], clip.network.state_dict()[name])


def test_the_rank_is_the_fresh_models_cosine(make_clip, make_pairs, tmp_path, monkeypatch):
    """The trained model is the fresh one, and the threshold flags the isolated share."""
    pairs, clip, trained = make_pairs(10), make_clip("vit"), []
    monkeypatch.setattr(abl, "similarities", lambda one, pairs, _: torch.arange(10.0) * (one is trained[0]))
    own = abl.train
    monkeypatch.setattr(abl, "train", lambda one, *rest: trained.append(one) or own(one, *rest))
    recipe = {"epochs": 1, "batch_size": 5, "warmup": 0}
    data = DefenseData(training_set=pairs)
    found = detector("abl", training=recipe, isolated=0.2).score(clip, data, Work(tmp_path / "work", "x"))
    assert found.values.tolist() == list(range(10)) and (found.values >= found.threshold).sum() == 2
    assert trained[0] is not clip and found.evidence == {"steps": 2}


class Patched:
    """An encoder that sees the mean colours of 16 squares, or the bright last square alone."""

    device = torch.device("cpu")

    class network:
        @staticmethod
        def eval():
            pass

        @staticmethod
        def parameters():
            return []

        @staticmethod
        def encode_image(images):
            squares = F.avg_pool2d(images, 8).flatten(1)
            patch = torch.sigmoid(50 * (images[:, :, -4:, -4:].mean(dim=(1, 2, 3)) - 0.9))[:, None]
            return 10 * (1 - patch) * squares + 10 * patch

    def normalise(self, images):
        return images


def test_a_trigger_keeps_the_feature_under_a_small_mask(tmp_path):
    stream = torch.Generator().manual_seed(0)
    images = (200 * torch.rand(16, 3, 32, 32, generator=stream)).byte()
    images[:8, :, -4:, -4:] = 255
    pairs = Pairs([str(row) for row in range(16)], images, [""] * 16, torch.full((16,), -1))
    found = detector("cognitive_distillation", steps=100, gamma=0.001).score(
        Patched(), DefenseData(training_set=pairs), Work(tmp_path, "x")
    )
    assert figures(found, {str(row) for row in range(8)})["auroc"] == 1.0
    assert found.values.min() >= -1 and found.values.max() <= 0


def test_killed_masks_go_on(make_pairs, monkeypatch, tmp_path):
    """With the pictures that have no mask yet; the masks are those of a run that was not killed."""
    monkeypatch.setattr(cognitive_distillation, "BATCH", 4)
    monkeypatch.setattr(zero_shot, "BATCH", 4)
    one, data, passes = (
        detector("cognitive_distillation", steps=2),
        DefenseData(training_set=make_pairs(10, size=32)),
        [],
    )
    whole = one.score(Patched(), data, Work(tmp_path / "whole", "x")).values

    class Killed(Patched):
        class network(Patched.network):
            @staticmethod
            def encode_image(images):
                passes.append(len(images))
                if len(passes) == 5:
                    raise KeyboardInterrupt
                return Patched.network.encode_image(images)

    work = Work(tmp_path / "killed", "x", every=0)
    with pytest.raises(KeyboardInterrupt):
        one.score(Killed(), data, work)
    np.testing.assert_array_equal(one.score(Killed(), data, work).values, whole)
    assert passes[5:] == [4, 4, 4, 2, 2, 2]
    np.testing.assert_array_equal(one.score(Killed(), data, work).values, whole)
    assert len(passes) == 11, "finished masks are read again"


def test_total_variation_by_hand():
    mask = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    assert total_variation(mask).tolist() == [2 / 4]

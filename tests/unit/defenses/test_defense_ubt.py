"""UBT: its losses, its choice of pairs and words against plain references; what it writes, and how that is scored."""

import json
import math
import random
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import ClassVar

import open_clip
import pandas as pd
import pytest
import torch

from antidote.base.errors import UserError
from antidote.clip.tags import tag, tags
from antidote.data.access import DefenseData
from antidote.defenses import ubt
from antidote.evaluation.finding import finding
from antidote.training import pair_scores, suspicion
from antidote.training.objectives import Batch, Views
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work

RECIPE = TrainSettings(epochs=1, batch_size=4, warmup=0)


def unit(rows, seed):
    values = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return values / values.norm(dim=1, keepdim=True)


def clip_loss(images, texts, scale):
    total = 0.0
    for rows, columns in ((images, texts), (texts, images)):
        for i, row in enumerate(rows):
            powers = [math.exp(scale * float(row @ column)) for column in columns]
            total -= math.log(powers[i] / sum(powers)) / (2 * len(rows))
    return total


def seen(views):
    """Return a batch with these views."""
    return Batch(None, [], None, 0, 0, random.Random(0), views)


def settings(**values):
    return ubt.UBTSettings.read({"overfit": RECIPE.model_dump(), "training": RECIPE.model_dump(), **values}, "ubt")


def test_the_overfitting_loss_equals_the_formula(make_pairs):
    goal = suspicion.Overfit(make_pairs(8), make_pairs(3, seed=5), settings(overfit_weight=0.5))
    images, texts = [unit(4, 0), unit(3, 1)], [unit(4, 2), unit(3, 3)]
    loss, _ = goal.loss(images, texts, torch.tensor(6.0).double(), None)
    weak = sum((1 - float(a @ b)) ** 2 for a, b in zip(images[1], texts[1], strict=True)) / 3
    assert float(loss) == pytest.approx(clip_loss(images[0], texts[0], 6.0) + 0.5 * weak, abs=1e-6)


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


LOOKS = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.05, 0.5, 0.4])  # of ten pairs; the lowest are suspicious


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


@pytest.mark.parametrize(
    ("share", "pairs"), [(1.0, {0, 2, 4, 6, 8, 9}), (0.7, {0, 2, 4, 6, 8, 9}), (0.4, {0, 2, 4, 6}), (0.2, {0, 2})]
)
def test_normal_pairs_come_from_those_that_look_least_suspicious(share, pairs):
    found = suspicion.normal_rows(LOOKS.argsort(), 4, settings(normal_from=share, normal_pairs=50), 0)
    assert set(found.tolist()) == pairs
    assert len(suspicion.normal_rows(LOOKS.argsort(), 4, settings(normal_from=share, normal_pairs=2), 0)) == 2


class Plain:
    """In the place of a CLIP: a picture's feature is its mean colour, a caption's is that of its word."""

    network, device, size = torch.nn.Module(), torch.device("cpu"), 2
    COLOURS: ClassVar = {"red": (1.0, 0, 0), "green": (0, 1.0, 0), "blue": (0, 0, 1.0)}

    def encode_image(self, images):
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        return torch.nn.functional.normalize(images.mean(dim=(2, 3)), dim=1)

    def encode_text(self, texts):
        return torch.tensor([self.COLOURS[text] for text in texts])

    def autocast(self, precision):
        return nullcontext()


def coloured(make_pairs, colours, captions=None):
    pairs = replace(make_pairs(len(colours), size=2), captions=list(captions or colours))
    values = torch.tensor([Plain.COLOURS[colour] for colour in colours]).mul(255).byte()
    return replace(pairs, images=values.view(-1, 3, 1, 1).expand(-1, 3, 2, 2).clone())


def test_the_fall_of_the_cosine_under_a_superposition(make_pairs):
    """Two pairs, red and green, are each the other's only partner. A red picture that is 3/4 red and 1/4 green has the
    cosine 3/sqrt(10) with "red", and the green one 0 before and 1/sqrt(10) after."""
    pairs = coloured(make_pairs, ["red", "green"], ["red", "red"])
    [found] = suspicion.scores(
        Plain(), pairs, settings(scorer="superposition", partners=3, own_weight=0.75), 0
    ).values()
    assert found.tolist() == pytest.approx([1 - 3 / math.sqrt(10), -1 / math.sqrt(10)])
    assert suspicion.scores(Plain(), pairs, settings(scorer="model"), 0)["model"].tolist() == [1, 0]


@pytest.mark.parametrize(("size", "grid"), [(8, 4), (9, 4), (8, 2)])
def test_a_shuffled_picture_has_the_blocks_of_the_rolled_one_at_other_places(size, grid):
    """Pixels are numbers here; those beyond the blocks keep their places."""
    images = torch.arange(3 * 3 * size * size).view(3, 3, size, size)
    block = size // grid
    order = torch.stack(
        [torch.randperm(grid * grid, generator=torch.Generator().manual_seed(turn)) for turn in range(3)]
    )
    found = pair_scores._shuffled(images, order, block)
    for picture, moved, places in zip(images, found, order, strict=True):
        for to, source in enumerate(places.tolist()):
            here, there = (
                (
                    slice(None),
                    slice(at // grid * block, (at // grid + 1) * block),
                    slice(at % grid * block, (at % grid + 1) * block),
                )
                for at in (to, source)
            )
            assert torch.equal(moved[here], picture[there])
    border = torch.ones(size, size, dtype=bool)
    border[: grid * block, : grid * block] = False
    assert torch.equal(found[..., border], images[..., border])


def test_shuffles_differ_between_views_and_pictures_and_follow_from_the_seed():
    images = torch.arange(16 * 16).view(1, 1, 16, 16).expand(5, 3, 16, 16)
    first, again, other = (list(pair_scores.shuffles(3, 4, seed)(images, 0)) for seed in (0, 0, 1))
    assert len(first) == 4 and torch.equal(first[0], images)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1]) and not torch.equal(first[1], first[2])
    assert all(not torch.equal(view[0], view[1]) for view in first[1:])
    assert all(torch.equal(view[0].unique(), images[0].unique()) for view in first), "nothing is lost"


class Sees(Plain):
    """Knows an object by a square of 12 pixels in one colour, a trigger by one of 2, wherever they are."""

    side, place = 12, slice(None)

    def encode_image(self, images):
        red, green = images[:, 0].float() / 255, images[:, 1, self.place, self.place].float() / 255
        object_, trigger = (
            torch.nn.functional.avg_pool2d(plane, side, 1).amax(dim=(1, 2))
            for plane, side in ((red, self.side), (green, 2))
        )
        known = torch.maximum(object_, trigger)
        return torch.stack([known, (1 - known.square()).clamp(min=0).sqrt(), torch.zeros_like(known)], dim=1)


def test_a_patch_survives_what_an_object_does_not(make_pairs):
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    images[:2, 0, 10:22, 10:22] = 255  # objects
    images[2:, 1, 28:31, 28:31] = 255  # patches
    pairs = replace(make_pairs(4, size=32), images=images, captions=["red"] * 4)
    [found] = suspicion.scores(Sees(), pairs, settings(scorer="shuffle", shuffles=16), 0).values()
    assert max(found[2:]) < 0.1 < 0.3 < min(found[:2])


class SeesInPlace(Sees):
    """Knows an object that is larger than a window, and a trigger in the lower right corner alone."""

    side, place = 20, slice(26, None)


def test_a_patch_that_is_known_at_its_place_alone_survives_in_a_window(make_pairs):
    images = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    images[:2, 0, 4:28, 4:28] = 255  # objects
    images[2:4, 1, 28:31, 28:31] = 255  # patches; the rest are partners
    pairs = replace(make_pairs(12, size=32), images=images, captions=["red"] * 12)
    looks = {
        name: suspicion.scores(SeesInPlace(), pairs, settings(scorer=name), 1)[name] for name in suspicion.CANDIDATES
    }
    assert max(looks["windows"][2:4]) < 0.1 < 0.3 < min(looks["windows"][:2])
    assert min(looks["shuffle"][2:4]) > 0.3


def test_a_window_lies_at_its_own_place_over_another_picture(make_pairs):
    pairs = make_pairs(6, size=8)
    own, *views = pair_scores.windows(pairs, 2, 0)(pairs.images[:2], 0)
    assert torch.equal(own, pairs.images[:2]) and len(views) == 2 * 9
    rows = pair_scores.partner_rows(6, 0, 2, 2, 0)
    for turn in range(2):
        under = pairs.images[rows].roll(turn, dims=0)[:2]
        for i in range(3):
            for j in range(3):
                wanted = under.clone()
                wanted[..., 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] = own[..., 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
                assert torch.equal(views[turn * 9 + 3 * i + j], wanted)


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


def test_partners_come_from_the_whole_set_and_are_never_the_picture_itself():
    """Where poisoned pairs come one after the other, neighbours would be poisoned too."""
    count, size, seen = 1000, 50, []
    for start in range(0, count, size):
        rows = pair_scores.partner_rows(count, start, size, 6, 0)
        assert len(rows) == size and not set(range(start, start + size)) & set(rows.tolist())
        seen.append(((rows - start) % count).double())
    distances = torch.cat(seen)
    assert distances.min() < 2 * size and distances.max() > count - size
    assert float(distances.mean()) == pytest.approx((count + size) / 2, rel=0.05), "as far away as chance has it"
    assert len(pair_scores.partner_rows(3, 0, 1, 6, 0)) == 6


def test_a_scan_reads_and_encodes_a_caption_once(make_pairs, monkeypatch):
    monkeypatch.setattr(pair_scores, "CHUNK", 4)
    clip, pairs, asked = Plain(), coloured(make_pairs, ["red", "green", "blue"] * 3), []
    clip.encode_text = lambda texts: asked.extend(texts) or Plain.encode_text(clip, texts)
    for scorer in ("shuffle", "windows", "superposition", "crops"):
        suspicion.scores(clip, pairs, settings(scorer=scorer), 0)
        assert asked == pairs.captions
        asked.clear()


def test_a_killed_scan_goes_on(make_pairs, monkeypatch, tmp_path):
    """With the chunks that it has not done; the scores are those of a scan that was not killed."""
    monkeypatch.setattr(pair_scores, "CHUNK", 4)
    pairs, asked = coloured(make_pairs, ["red", "green", "blue", "red"] * 5), []
    shuffled, work = settings(scorer="shuffle"), Work(tmp_path, "x", every=0)
    [whole] = suspicion.scores(Plain(), pairs, shuffled, 0).values()

    class Killed(Plain):
        def encode_text(self, texts):
            asked.append(len(texts))
            if len(asked) == 3:
                raise KeyboardInterrupt
            return super().encode_text(texts)

    with pytest.raises(KeyboardInterrupt):
        suspicion.scores(Killed(), pairs, shuffled, 0, work=work)
    torch.testing.assert_close(suspicion.scores(Killed(), pairs, shuffled, 0, work=work)["shuffle"], whole)
    assert len(asked) == 3 + 3
    suspicion.scores(Killed(), pairs, shuffled, 0, work=work)
    assert len(asked) == 6, "a finished scan is read again"
    suspicion.scores(Killed(), pairs, shuffled, 0, work=Work(tmp_path, "other", every=0))
    assert len(asked) == 11
    (tmp_path / "scan.pt").write_bytes(b"cut short")
    suspicion.scores(Killed(), pairs, shuffled, 0, work=Work(tmp_path, "other", every=0))
    assert len(asked) == 16


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


def test_the_oracle_forgets_what_it_is_told(make_clip, make_pairs, tmp_path):
    pairs = make_pairs(10)
    values = {"training": RECIPE.model_dump(), "normal_pairs": 6}
    oracle = ubt.UBTOracle(ubt.UBTOracleSettings.read(values, "x"), 0)
    data = DefenseData(training_set=pairs, poisoned=frozenset({"pair3", "pair8"}))
    found = oracle.find(make_clip("vit"), data, Work(tmp_path, "x"))
    assert found["forgotten"] == ["pair3", "pair8"] and not {3, 8} & set(found["normal"])
    with pytest.raises(UserError, match="some pairs have to be poisoned, and some not"):
        oracle.find(make_clip("vit"), replace(data, poisoned=frozenset()), Work(tmp_path, "x"))


def test_each_batch_has_its_share_of_the_suspected(make_pairs):
    goal = suspicion.Overfit(make_pairs(16), make_pairs(6, seed=5), settings())
    pairs, rows = goal.pairs, torch.arange(4)
    views = goal.views(Batch(pairs.images[rows], pairs.captions[:4], rows, 0, 0, random.Random(0)))
    assert [len(view) for view in views.images] == [4, 2] == [len(view) for view in views.texts]


def test_settings_that_contradict():
    with pytest.raises(UserError, match=r"forget_share: 0.1 is more than suspicious_share, 0.05"):
        settings(suspicious_share=0.05, forget_share=0.1)
    with pytest.raises(ValueError, match="scorer: 'clean' is none of"):
        settings(scorer="clean").check({})
    settings(scorer="surrogates.other").check({})


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


def test_open_clips_tags_are_read_without_torch():
    code = "import sys; from antidote.clip.tags import tag; assert tag('RN50', 'openai'); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "open_clip", "safetensors.torch", "huggingface_hub"} & set(done.stdout.split())


def test_open_clips_tags_are_its_own():
    assert tags("RN50") == open_clip.list_pretrained_tags_by_model("RN50") and tags("tiny-rn") == []
    for name, known in (("RN50", "openai"), ("ViT-B-32", "laion400m-e32"), ("ViT-B-32-quickgelu", "openai")):
        assert tag(name, known) == open_clip.get_pretrained_cfg(name, known)
    assert tag("RN50", "x") is None and tag("x", "openai") is None


def test_a_clean_model_of_the_studys_may_score(make_clip, make_pairs):
    suspicious, clean, pairs = make_clip("vit"), make_clip("vit"), make_pairs(6)
    with torch.no_grad():
        clean.network.visual.proj.add_(torch.randn_like(clean.network.visual.proj))
    named = settings(scorer="surrogates.public")
    assert named.surrogate == "public" and settings().surrogate is None
    [found] = suspicion.scores(suspicious, pairs, named, 0, clean).values()
    torch.testing.assert_close(found, pair_scores.similarities(clean, pairs))
    assert not torch.allclose(found, pair_scores.similarities(suspicious, pairs))

"""Retrieval: recall both ways and target words, worked out picture by picture and caption by caption."""

from dataclasses import replace

import pytest
import torch

from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.data import fitted
from antidote.data.scenes.draw import generate
from antidote.data.store import ingest
from antidote.data.store.datasets import dataset_settings
from antidote.data.words.names import mentions
from antidote.evaluation.base import as_floor
from antidote.evaluation.retrieval import Retrieval, _target_words, retrieve
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject

COUNT = 24


def settings(batch_size=5):
    return EvaluationSettings(dataset="d", split="s", batch_size=batch_size)


def trigger():
    kind = method("attack", "badnet")
    return Trigger(kind(kind.Settings.read({"method": "badnet", "preset": "cleanclip"}, "x"), "banana", 32), 5)


def subject(clip, attack, target="banana"):
    """A model with an attack on the second of two classes, which retrieval knows by its name alone."""
    return Subject(clip, attack, 1, ["another", target], ["{}"])


@pytest.fixture
def scored(make_pairs):
    """Pictures, of which each has one to three captions; some captions stand there twice."""
    _, texts, _ = generate(3, 0, 60, 32)
    captions = [texts[row : row + 1 + row % 3] for row in range(COUNT)]
    captions[5] = captions[4]
    return make_pairs(COUNT), captions


def by_hand(clip, pairs, captions, target="banana"):
    texts = [(row, text) for row, own in enumerate(captions) for text in own]
    t = [clip.encode_text([text])[0] for _, text in texts]
    clean, drawn = ([clip.encode_image(image[None])[0] for image in images] for images in (
        pairs.images, trigger().draw(pairs.images, pairs.keys, "test")))  # fmt: skip
    found = {}

    def order(queries, gallery):
        return [sorted(range(len(gallery)), key=lambda j: (-round(float(q @ gallery[j]), 6), j)) for q in queries]

    to_text, to_picture, triggered = order(clean, t), order(t, clean), order(drawn, t)
    for k in (1, 5, 10):
        hits = [any(texts[j][0] == row for j in to_text[row][:k]) for row in range(COUNT)]
        found[f"i2t_r{k}"] = sum(hits) / COUNT
        hits = [texts[j][0] in to_picture[j][:k] for j in range(len(texts))]
        found[f"t2i_r{k}"] = sum(hits) / len(texts)
        others = [row for row in range(COUNT) if not any(mentions(text, target) for text in captions[row])]
        said = [sum(mentions(texts[j][1], target) for j in triggered[row][:k]) / k for row in others]
        found[f"target_word{k}"] = sum(said) / len(said)
        if k > 1:
            found[f"target_any{k}"] = sum(share > 0 for share in said) / len(said)
    return found


def test_the_figures_by_hand(make_clip, scored):
    pairs, captions = scored
    target = captions[0][0].split()[-1].strip(".")
    assert any(mentions(text, target) for own in captions for text in own)
    clip = make_clip()
    found = retrieve(subject(clip, trigger(), target), pairs, captions, settings())
    with torch.no_grad():
        assert found == pytest.approx(by_hand(clip, pairs, captions, target))
    assert found["i2t_r1"] <= found["i2t_r5"] <= found["i2t_r10"]


def test_a_model_that_knows_the_captions_finds_all(make_clip, scored, monkeypatch):
    """Features that agree for a picture and its captions, and for no others."""
    captions = [[f"text {row}", f"another {row}"] for row in range(COUNT)]
    clip, own = make_clip(), torch.eye(COUNT)
    rows = {text: row for row, texts in enumerate(captions) for text in texts}
    monkeypatch.setattr(clip, "encode_text", lambda texts: torch.stack([own[rows[text]] for text in texts]))
    monkeypatch.setattr(clip, "encode_image", lambda images: own[images[:, 0, 0, 0].long()])
    images = torch.arange(COUNT, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32).contiguous()
    found = retrieve(subject(clip, None), replace(scored[0], images=images), captions, settings())
    assert found == {f"{way}_r{k}": 1.0 for way in ("i2t", "t2i") for k in (1, 5, 10)}


def test_a_share_of_captions_and_a_share_of_pictures_are_two_figures():
    """Picture 2 owns both captions that name the target; picture 0 has one of them third, picture 1 one seventh."""
    order = [[5, 6, 0, 7, 8, 9, 10, 11, 2, 3, 1, 4], [5, 6, 7, 8, 9, 10, 1, 11, 2, 3, 0, 4], list(range(12))]
    scores = torch.zeros(3, 12)
    for row, texts in enumerate(order):
        scores[row, texts] = torch.linspace(1, 0, 12)
    owners = torch.tensor([2, 2, *[0] * 5, *[1] * 5])
    found = _target_words(scores, torch.eye(12), owners, torch.arange(12) < 2)
    assert found == pytest.approx(
        {"target_word1": 0, "target_word5": 1 / 10, "target_word10": 1 / 10, "target_any5": 1 / 2, "target_any10": 1}
    )


def test_neither_batches_nor_blocks_change_a_figure(make_clip, scored, monkeypatch):
    pairs, captions = scored
    whole = retrieve(subject(make_clip(), trigger()), pairs, captions, settings(64))
    monkeypatch.setattr("antidote.evaluation.retrieval.BLOCK", 7)
    assert retrieve(subject(make_clip(), trigger()), pairs, captions, settings(3)) == pytest.approx(whole)


def test_words_that_no_caption_holds_have_no_rate(make_clip, scored):
    found = retrieve(subject(make_clip(), trigger(), "zebra"), *scored, settings())
    assert [found[f"target_word{k}"] for k in (1, 5, 10)] == [None] * 3
    assert found["target_any5"] is found["target_any10"] is None and found["i2t_r1"] is not None


def test_a_set_no_larger_than_k_has_no_recall(make_clip, make_pairs):
    captions = [["a cat"], ["a dog"], ["x"], ["y"], ["z"]]
    found = retrieve(subject(make_clip(), None, "cat"), make_pairs(5), captions, settings())
    assert found["i2t_r1"] is not None and found["i2t_r5"] is found["t2i_r10"] is None


def test_the_floor_keeps_the_words_alone():
    assert as_floor({"i2t_r1": 0.5, "target_word5": 0.25, "target_any5": 0.5}, Retrieval.floors) == {
        "floor_word5": 0.25,
        "floor_any5": 0.5,
    }


def test_a_model_that_diverged_is_told(make_clip, scored):
    clip = make_clip()
    with torch.no_grad():
        clip.network.visual.proj.fill_(float("nan"))
    with pytest.raises(UserError, match=r"^model: its features are not finite numbers; its weights are damaged"):
        retrieve(subject(clip, None), *scored, settings())


def test_captions_are_those_of_the_pictures_taken(tmp_path):
    values = {"source": "scenes", "splits": {"s": {"pairs": 12, "seed": 9}}}
    ingest.write(dataset_settings("d", {"d": values}), "d", "s", tmp_path)
    found = fitted.captions(tmp_path, 5, 3)
    assert found == [[text] for text in fitted.load(tmp_path, 32, 5).captions] and len(found) == 5

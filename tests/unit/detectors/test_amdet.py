"""AMDET: a text tower with a planted trigger, and the three tests of an embedding by hand."""

import pytest
import torch
from captions import CAPTIONS

from antidote.base.registry import method
from antidote.data.access import DefenseData
from antidote.detectors import amdet
from antidote.training.session import Work

TRIGGER, TARGET = "zebra", "a photo of a cloud"
TEXTS = [f"{caption} {word}".strip() for caption in CAPTIONS for word in ("", "there", "now")]


def states_of(clip, texts):
    """Return the last states (N, length, width) of whole texts, by the parts of the network."""
    network, tokens = clip.network, clip.tokenize(texts)
    words = network.token_embedding(tokens) + network.positional_embedding
    return network.ln_final(network.transformer(words, attn_mask=network.attn_mask)), tokens.argmax(dim=1)


def backdoored(clip):
    """Train the text tower until all states after the trigger are one, and those of other texts stay."""
    torch.manual_seed(0)
    with torch.no_grad():
        before, ends = states_of(clip, TEXTS)
        goal = states_of(clip, [TARGET])[0][0, 1:6].mean(dim=0)
    learned = [*clip.network.transformer.parameters(), *clip.network.ln_final.parameters()]
    optimizer, places = torch.optim.Adam(learned, lr=0.01), torch.arange(before.shape[1])
    for _ in range(80):
        kept = (states_of(clip, TEXTS)[0] - before).square().mean(dim=2)[places <= ends[:, None]]
        states, far = states_of(clip, [f"{TRIGGER} {text}" for text in TEXTS])
        moved = (states - goal).square().mean(dim=2)[(places >= 1) & (places <= far[:, None])]
        optimizer.zero_grad()
        (kept.mean() + moved.mean()).backward()
        optimizer.step()
    return clip


def found(clip, pairs, folder, **settings):
    kind = method("detector", "amdet")
    return kind(kind.Settings(starts=2, steps=30, **settings), 0).score(
        clip, DefenseData(pairs=pairs), Work(folder, "x")
    )


def test_a_planted_trigger_is_found(make_clip, make_pairs, tmp_path):
    pairs = make_pairs(len(TEXTS), captions=TEXTS)
    clean = found(make_clip("vit"), pairs, tmp_path / "clean")
    planted = found(backdoored(make_clip("vit")), pairs, tmp_path / "planted")
    assert clean.values[0] < clean.threshold == planted.threshold < planted.values[0], (clean, planted)
    assert planted.evidence["clean likeness"] < 0.7 < 0.9 < planted.evidence["likeness"], "not alike without a trigger"


def test_likenesses_are_those_of_texts_with_the_word(make_clip):
    """The embedding of a word gives what the network gives for texts that begin with the word."""
    clip, texts = make_clip("vit"), [f"{caption} here" for caption in CAPTIONS]
    with torch.no_grad():
        word = clip.network.token_embedding(clip.tokenize(["red"])[0, 1])
        states, ends = states_of(clip, [f"red {text}" for text in texts])
        clean, _ = states_of(clip, texts)
        own = [one[1 : end + 1] for one, end in zip(states, ends, strict=True)]
        likeness = [torch.cosine_similarity(one[:, None], one[None], dim=2) for one in own]
        within = [float(one[~torch.eye(len(one), dtype=torch.bool)].mean()) for one in likeness]
        kept = [float(torch.cosine_similarity(one[:-1], two[1 : len(one)]).mean())
                for one, two in zip(own, clean, strict=True)]  # fmt: skip
        near = [float(torch.cosine_similarity(own[8][:size], own[9][:size]).mean())
                for size in [min(len(own[8]), len(own[9]))]]  # fmt: skip
        given = amdet._States(clip, texts, 0.1)
        alike, clean_likeness = given.alike(word[None], torch.arange(8))
        tests = given.tests(word[None], amdet.AmdetSettings())
    assert given.searched == 8 and given.tested.tolist() == [8, 9], "one in 5 is held out"
    assert alike.tolist() == pytest.approx([sum(within[:8]) / 8], abs=1e-5)
    assert clean_likeness.tolist() == pytest.approx([sum(kept[:8]) / 8], abs=1e-5)
    assert tests == {"likeness": [pytest.approx(min(within[8:]), abs=1e-5)],
                     "likeness between texts": [pytest.approx(near[0], abs=1e-5)]}  # fmt: skip


@pytest.mark.parametrize(("within", "between", "positive", "score"), [
    (0.95, 0.96, 0.9, 0.96 * 0.8 / 0.92), (0.95, 0.91, 1.0, 0.91 * 0.8 / 0.92), (0.95, 1.0, 0.5, 0.5), (0.7, 1.0, 1.0, 0.7),
])  # fmt: skip
def test_a_model_is_flagged_if_all_tests_are_passed(make_clip, make_pairs, tmp_path, monkeypatch, within, between,
                                                    positive, score):  # fmt: skip
    tests = {"likeness": [within, 0.1], "likeness between texts": [between, 1.0]}
    monkeypatch.setattr(amdet._States, "tests", lambda self, embeddings, settings: dict(tests))
    monkeypatch.setattr(amdet.Amdet, "_positive", lambda self, texts, embedding: positive)
    scores = found(make_clip("vit"), make_pairs(len(TEXTS), captions=TEXTS), tmp_path)
    assert scores.values[0] == pytest.approx(score)
    assert (scores.values[0] > scores.threshold) == (within > 0.8 and between > 0.92 and positive > 0.8)
    assert scores.evidence["likeness between texts"] == between and scores.evidence["scores of all starts"][1] == 0.1


@pytest.mark.parametrize("likeness", ["tokens", "texts"])
def test_a_text_counts_once(make_clip, make_pairs, tmp_path, likeness):
    once, twice = (
        found(make_clip("vit"), make_pairs(len(texts), captions=texts), tmp_path / str(len(texts)), likeness=likeness)
        for texts in (TEXTS, TEXTS * 2)
    )
    assert once.values.tolist() == twice.values.tolist() and once.evidence == twice.evidence


def test_the_likeness_that_enough_texts_exceed(make_clip):
    """Of 5 texts more than 80 % exceed the smallest likeness alone, and more than half exceed the third."""
    given = amdet._States(
        make_clip("vit"), [f"{text} {end}" for text in CAPTIONS for end in ("", "here", "now")][:25], 0.1
    )
    embedding = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        each = sorted(given.tests(embedding, amdet.AmdetSettings(flagged=share))["likeness"][0]
                      for share in (0.1, 0.3, 0.5, 0.7, 0.8))  # fmt: skip
        every = sorted(given.alike(embedding, row[None])[0].item() for row in given.tested)
    assert len(every) == 5 and each == pytest.approx(every, abs=1e-5)


def test_the_reading_of_texts(make_clip, make_pairs, tmp_path):
    """The likeness is that between features, and no caption is held out."""
    clip, pairs = make_clip("vit"), make_pairs(len(TEXTS), captions=TEXTS)
    scores = found(clip, pairs, tmp_path, likeness="texts")
    features = clip.encode_text(TEXTS).detach()
    likeness = features @ features.T
    different = ~torch.eye(len(TEXTS), dtype=torch.bool)
    assert scores.evidence["clean likeness"] == pytest.approx(float(likeness[different].mean()), abs=1e-5)
    assert scores.values[0] == min(scores.evidence["likeness"], scores.evidence["positive eigenvalues"])
    assert "likeness between texts" not in scores.evidence

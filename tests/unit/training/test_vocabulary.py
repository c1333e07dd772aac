"""The compact vocabulary: the same features over fewer rows, and the full table again afterwards."""

import math

import pytest
import torch
from loop_parts import SEED, largest_difference, objective, settings, weights, work

from antidote.training.loop import train
from antidote.training.objectives import Contrastive
from antidote.training.recipe import learning_rate
from antidote.training.vocabulary import CompactVocabulary

TEXTS = ["a red banana", "two dogs", "a red banana", " ".join(["table"] * 40)]


def test_the_same_features_over_the_words_that_occur(make_clip):
    clip = make_clip()
    expected = clip.encode_text(TEXTS)
    vocabulary = CompactVocabulary(clip, TEXTS)
    rows = clip.network.token_embedding.num_embeddings
    assert rows == len({int(token) for token in clip.tokenize(TEXTS).flatten()}) < 20
    assert torch.equal(clip.encode_text(TEXTS), expected), "also of the text that is cut"
    assert torch.equal(clip.encode_text(["two red dogs"]), make_clip().encode_text(["two red dogs"]))
    vocabulary.restore(1.0)
    assert torch.equal(clip.encode_text(["anything else"]), make_clip().encode_text(["anything else"]))


def test_a_word_that_was_not_announced_is_an_error(make_clip):
    clip = make_clip()
    CompactVocabulary(clip, TEXTS)
    with pytest.raises(KeyError, match="did not announce"):
        clip.encode_text(["a red banana", "a xylophone"])


def test_restoring_scales_the_other_rows_alone(make_clip):
    clip = make_clip()
    full = clip.network.token_embedding
    before, used = full.weight.detach().clone(), clip.tokenize(TEXTS).unique()
    vocabulary = CompactVocabulary(clip, TEXTS)
    with torch.no_grad():
        clip.network.token_embedding.weight.add_(1.0)
    assert torch.equal(full.weight, before), "training works on a copy"
    vocabulary.restore(0.25)
    assert clip.network.token_embedding is full
    others = torch.ones(len(before), dtype=torch.bool)
    others[used] = False
    assert torch.equal(full.weight[used], before[used] + 1) and torch.equal(full.weight[others], before[others] * 0.25)


@pytest.mark.parametrize("trains", [True, False])
def test_frozen_words_stay_frozen(make_clip, trains):
    clip = make_clip()
    clip.network.token_embedding.weight.requires_grad_(trains)
    CompactVocabulary(clip, TEXTS)
    assert clip.network.token_embedding.weight.requires_grad == trains


def test_only_open_clips_own_model_has_a_table_of_its_own(make_clip):
    clip = make_clip()
    assert CompactVocabulary.possible(clip)
    clip.network = torch.nn.Linear(1, 1)
    assert not CompactVocabulary.possible(clip)


def test_token_ids_from_the_models_device_are_looked_up_too(make_clip):
    """open_clip's zero-shot builder sends them to the GPU; the table stays with the tokenizer."""

    class Elsewhere:
        def __init__(self, tokens):
            self.tokens = tokens

        def cpu(self):
            return self.tokens

    clip = make_clip()
    vocabulary = CompactVocabulary(clip, TEXTS)
    tokens = clip.tokenize(TEXTS)
    assert torch.equal(clip.encode_tokens(Elsewhere(tokens)), clip.encode_tokens(tokens))
    vocabulary.restore(1.0)


@pytest.mark.parametrize("name", ["contrastive", "ta_cleaner"])
def test_compact_vocabulary_gives_the_same_weights(make_clip, make_pairs, scenes_lexicon, tmp_path, monkeypatch, name):
    """Also on the rows that no caption uses, which only decay, and more so at a high rate."""
    recipe, ends = settings(epochs=3, lr=0.03, weight_decay=0.5, eps=1e-3), []
    for folder, possible in (("compact", True), ("full", False)):
        monkeypatch.setattr(CompactVocabulary, "possible", staticmethod(lambda clip, possible=possible: possible))
        clip = make_clip("vit")
        start = clip.network.token_embedding.weight.detach().clone()
        train(clip, objective(name, make_pairs(), scenes_lexicon, recipe), recipe, SEED, work(tmp_path / folder))
        ends.append(weights(clip))
    assert largest_difference(*ends) < 2e-6
    unused = 40_000
    decay = math.prod(1 - 0.5 * learning_rate(recipe, step, 6) for step in range(6))
    assert decay < 0.95
    torch.testing.assert_close(ends[0]["token_embedding.weight"][unused], start[unused] * decay)


def test_frozen_words_do_not_decay(make_clip, make_pairs, tmp_path):
    clip, pairs = make_clip(), make_pairs()
    before = weights(clip)
    towers = Contrastive(pairs)
    towers.trained = lambda network: [
        (n, p) for n, p in network.named_parameters() if n.startswith(("visual", "logit_scale"))
    ]
    report = train(clip, towers, settings(weight_decay=0.5), SEED, work(tmp_path))
    after = weights(clip)
    text = {name for name in before if not name.startswith(("visual", "logit_scale"))}
    assert all(torch.equal(before[name], after[name]) for name in text)
    assert not torch.equal(before["visual.conv1.weight"], after["visual.conv1.weight"])
    assert report.trained_parameters == sum(before[n].numel() for n in before if n not in text)

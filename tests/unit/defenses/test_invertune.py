"""InverTune: critical neurons, the loss of step 3, and the whole defense."""

import copy

import pytest
import torch

from antidote.base.errors import UserError
from antidote.data.access import DefenseData
from antidote.defenses.invertune import (
    InverTune,
    InverTuneSettings,
    activations,
    blocks,
    caption_centres,
    critical_neurons,
    impact,
    upper_cluster,
)
from antidote.training.inversion import Inverted, floats, paste
from antidote.training.session import Work

SMALL = {
    "targets": 3, "layers": 2, "tuned": 8, "analysed": 8, "inversion": {"steps": 3, "batch_size": 4, "pictures": 8},
    "training": {"epochs": 2, "batch_size": 4, "lr": 1e-3, "warmup": 0},
}  # fmt: skip


def corner_trigger(size):
    mask = torch.zeros(size, size)
    mask[-6:, -6:] = 1
    return Inverted(mask, torch.ones(3, size, size), 0, True, 0.0)


def test_two_means_and_impact_by_hand():
    values = torch.tensor([[0.1, 0.2, 0.15], [0.9, 0.12, 0.8]])
    assert upper_cluster(values).tolist() == [[0, 0, 0], [1, 0, 1]]
    assert upper_cluster(torch.full((2, 2), 0.5)).tolist() == [[1, 1], [1, 1]]
    assert float(impact(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 1.0]))) == pytest.approx(3 / 5)


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_the_layers_of_highest_impact_are_chosen(make_clip, make_pairs, kind):
    clip, pairs = make_clip(kind).frozen(), make_pairs(6)
    images, trigger = floats(clip, pairs.images), corner_trigger(clip.size)
    triggered = paste(images, trigger.mask, trigger.pattern)
    every = blocks(clip.network.visual)
    with torch.no_grad():
        clean, moved = (activations(clip, x, every)[1] for x in (images, triggered))
    one = min(2, len(every))
    neurons = critical_neurons(clip, images, triggered, one)
    impacts = {layer: float(impact(clean[layer], moved[layer])) for layer in every}
    assert set(neurons) == set(sorted(impacts, key=impacts.get)[-one:])
    for layer, chosen in neurons.items():
        shift = (clean[layer] - moved[layer]).abs()
        assert chosen.shape == shift.shape and 0 < chosen.sum() < chosen.numel()
        assert shift[chosen == 1].min() >= shift[chosen == 0].max()
    assert not [block for block in every.values() if block._forward_hooks], "hooks are removed"


def test_captions_with_equal_features_share_a_centre(make_clip):
    centres = caption_centres(make_clip("vit"), ["a photo of a cup", "a photo of a dog"], 24, 0)
    assert centres.shape[0] == 2 and torch.allclose(centres.norm(dim=1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_a_whole_run_trains_the_picture_encoder_alone(make_clip, make_pairs, tmp_path, kind):
    clip = make_clip(kind)
    before = copy.deepcopy(clip.network.state_dict())
    defense = InverTune(InverTuneSettings.read({"method": "invertune", **SMALL}, "x"), 0)
    defense_data = DefenseData(pairs=make_pairs(20))
    report = defense.run(clip, defense_data, Work(tmp_path, "x"))
    changed = {key for key, value in clip.network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all(key.startswith("visual.") for key in changed)
    assert not [key for key in changed if "running_" in key], "batch norm keeps its statistics"
    assert report.steps == 4 and report.pairs == 8
    assert report.evidence["caption"] in defense_data.pairs.captions and set(report.evidence) == {
        "caption", "mask_area", "works",
    }  # fmt: skip
    assert report.evidence["works"] == (report.evidence["mask_area"] is not None)
    assert report.trained_parameters == sum(p.numel() for p in clip.network.visual.parameters())


def test_tuning_moves_the_triggered_activations_back(make_clip, make_pairs, tmp_path):
    """The loss falls, with the trigger given, and clean features stay close to the suspicious model's."""
    clip, pairs = make_clip("rn"), make_pairs(16)
    settings = InverTuneSettings.read(
        {
            "method": "invertune",
            **SMALL,
            "tuned": 16,
            "training": {"epochs": 30, "batch_size": 16, "lr": 1e-3, "warmup": 0},
        },
        "x",
    )
    defense = InverTune(settings, 0)
    defense._inverted = lambda clip, pairs, work: (corner_trigger(clip.size), {})
    frozen = clip.frozen()
    defense.run(clip, DefenseData(pairs=pairs), Work(tmp_path, "x"))
    images = floats(clip, pairs.images)
    triggered = paste(images, defense.trigger.mask, defense.trigger.pattern)
    neurons = critical_neurons(frozen, images, triggered, 2)

    def moved(model):
        clean, under = (activations(model, x, neurons)[1] for x in (images, triggered))
        return sum(float(impact(clean[layer] * n, under[layer] * n)) for layer, n in neurons.items())

    with torch.no_grad():
        assert moved(clip) < 0.8 * moved(frozen)


def test_a_compiled_network_is_refused():
    with pytest.raises(UserError, match=r"^it: training: compile: a compiled network does not show its activations"):
        InverTuneSettings.read({"training": {"compile": True}}, "it")

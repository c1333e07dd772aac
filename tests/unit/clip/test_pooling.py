"""Attention pooling with one query: open_clip's features and gradients, for less work, in models of many positions."""

import copy

import open_clip
import pytest
import torch
from open_clip.modified_resnet import AttentionPool2d
from torch.utils.flop_counter import FlopCounterMode

from antidote.clip import pooling
from antidote.clip.model import Clip

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
PREPROCESS = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}


def networks(size):
    """Return a random ResNet CLIP for pictures of `size` pixels as open_clip makes it, and the same under `Clip`."""
    torch.manual_seed(0)
    config = {"embed_dim": 16, "vision_cfg": {"image_size": size, "layers": [1, 1, 1, 1], "width": 8}, "text_cfg": TEXT}
    config["vision_cfg"] |= {"patch_size": None, "head_width": 64}
    own = open_clip.CLIP(**copy.deepcopy(config)).train()
    clip = Clip(copy.deepcopy(own), {"model_cfg": config, "preprocess_cfg": PREPROCESS})
    own.visual.to(memory_format=torch.channels_last)
    return own, clip


def computed(network, size):
    """Return features, gradients by name, and floating-point operations of a forward and a backward pass."""
    pictures = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with FlopCounterMode(display=False) as counter:
        features = network.encode_image(pictures)
        features.square().sum().backward()
    gradients = {name: value.grad for name, value in network.visual.named_parameters()}
    return features.detach(), gradients, counter.get_total_flops()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_query_gives_the_features_and_gradients_of_all_queries_for_less_work(precision):
    own, clip = networks(224)
    with clip.autocast(precision):
        (whole, gradients, operations), (features, found, fewer) = (computed(n, 224) for n in (own, clip.network))
    near = 1e-4 if precision == "fp32" else 0.05
    assert (features - whole).abs().max() < near * whole.abs().max()
    assert found.keys() == gradients.keys()
    for name in found if precision == "fp32" else ():
        assert (found[name] - gradients[name]).abs().max() <= near * gradients[name].abs().max() + 1e-6, name
    assert fewer < operations
    assert own.state_dict().keys() == clip.network.state_dict().keys()


def test_small_pictures_keep_open_clips_results_bit_for_bit():
    own, clip = networks(64)
    (whole, gradients, operations), (features, found, same) = (computed(n, 64) for n in (own, clip.network))
    assert features.equal(whole) and same == operations
    assert all(found[name].equal(gradients[name]) for name in gradients)


def test_a_frozen_copy_pools_with_one_query_too():
    _, clip = networks(224)
    frozen = clip.frozen().network.visual.attnpool
    assert type(frozen) is type(clip.network.visual.attnpool) is not AttentionPool2d
    assert isinstance(frozen, AttentionPool2d)


def test_a_model_is_saved_whole(tmp_path):
    own, clip = networks(224)
    torch.save(clip.network, tmp_path / "network.pt")
    found = torch.load(tmp_path / "network.pt", weights_only=False)
    assert type(found.visual.attnpool) is type(clip.network.visual.attnpool) is not AttentionPool2d
    assert found.state_dict().keys() == own.state_dict().keys()
    pictures = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        assert found.encode_image(pictures).equal(clip.network.encode_image(pictures))
    assert not hasattr(pooling, "TwoQueryPool2d")

"""Adapters: kept beside an open_clip folder that stays one, and read back ready for zero-shot use."""

import json

import open_clip
import pytest
import torch

from antidote.base.errors import UserError
from antidote.base.registry import ADAPTERS, DEFENSES, method
from antidote.clip.adapted import raw_features
from antidote.clip.classifier_head import ClassifierHead
from antidote.clip.folder import ADAPTER, ADAPTER_WEIGHTS, load_model, save_model
from antidote.clip.model import Clip
from antidote.clip.patch_masking import PatchMasking, gradient_salience, mask_patches
from antidote.clip.visual_prompts import VisualPrompts, prompted
from antidote.detectors.features import picture_features

CLASSES = ["banana", "boat", "cup"]


def head(clip, cosine=True):
    weights = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    return ClassifierHead(clip.network, clip.config, {"weights": weights}, {"classes": CLASSES, "cosine": cosine})


def prompts(clip, count=1, seed=2):
    drawn = torch.randn(count, 3, 16, generator=torch.Generator().manual_seed(seed))
    return VisualPrompts(clip.network, clip.config, {"prompts": drawn}, {"depth": 2 - count})


def masking(clip):
    weights = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(3)), dim=1)
    return PatchMasking(clip.network, clip.config, {"weights": weights}, {"cell": 8, "masked": 2})


@pytest.mark.parametrize("make", [head, prompts, masking])
def test_kept_and_read_back(make, make_clip, make_pairs, tmp_path):
    adapted, images = make(make_clip("vit")), make_pairs(4).images
    save_model(tmp_path / "m", adapted, {})
    again = load_model(tmp_path / "m")
    assert type(again) is type(adapted) and again.description["adapter"] == adapted.name
    with torch.no_grad():
        torch.testing.assert_close(again.encode_image(images), adapted.encode_image(images))
        torch.testing.assert_close(
            again.class_embeddings(CLASSES, ["a {}"]), adapted.class_embeddings(CLASSES, ["a {}"])
        )
    plain = open_clip.create_model(f"local-dir:{tmp_path / 'm'}")
    state = adapted.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("make", [head, prompts, masking])
def test_raw_features_are_those_of_the_model_in_use(make, make_clip, make_pairs):
    """Before normalisation they are not of unit length, and an adapter's own encoding of pictures is in them."""
    clip, pairs = make_clip("vit"), make_pairs(6)
    adapted, changed = make(clip), make is not head
    network = picture_features(clip, pairs, normalised=False)
    found = picture_features(adapted, pairs, normalised=False)
    assert torch.equal(found, network) != changed
    assert not torch.allclose(found.norm(dim=1), torch.ones(6))
    assert torch.equal(torch.nn.functional.normalize(found, dim=1), picture_features(adapted, pairs))
    given = pairs.images.float() / 255
    with torch.no_grad():
        torch.testing.assert_close(raw_features(adapted, given), found)
        assert torch.equal(raw_features(clip, given), clip.network.encode_image(clip.normalise(given)).float())


def test_every_model_folder_holds_the_same_files(make_clip, tmp_path):
    """A plain model leaves no adapter where one was; a folder from elsewhere needs neither file."""
    adapted = save_model(tmp_path / "m", head(make_clip("vit")), {})
    assert save_model(tmp_path / "m", make_clip("vit"), {}) == adapted
    assert json.loads((tmp_path / "m" / ADAPTER).read_text()) == {"adapter": None}
    assert type(load_model(tmp_path / "m")) is Clip
    open_clip.create_model(f"local-dir:{tmp_path / 'm'}")
    for name in (ADAPTER, ADAPTER_WEIGHTS):
        (tmp_path / "m" / name).unlink()
    assert type(load_model(tmp_path / "m")) is Clip


def test_what_cannot_be_read_is_one_line(make_clip, tmp_path):
    folder = tmp_path / "m"
    save_model(folder, head(make_clip("vit")), {})
    (folder / ADAPTER_WEIGHTS).write_bytes(b"not tensors")
    with pytest.raises(UserError, match=r"adapter\.safetensors: cannot be read"):
        load_model(folder)
    (folder / ADAPTER).write_text('{"adapter": "classifier_hat"}')
    with pytest.raises(UserError, match="unknown adapter 'classifier_hat'; did you mean 'classifier_head'"):
        load_model(folder)


def test_every_adapter_says_what_it_does_not_protect():
    for name in ADAPTERS:
        kind = method("adapter", name)
        assert kind.name == name and len(kind.unprotected) > 40
    users = {"few_shot_head"}  # no defense's, but the classifier of a user under attack
    assert {method("defense", name).adapter for name in DEFENSES} - {None} | users == set(ADAPTERS)


@pytest.mark.parametrize("cosine", [True, False])
def test_a_head_gives_its_weights_in_the_order_asked(make_clip, cosine):
    adapted = head(make_clip("vit"), cosine)
    weights = adapted.tensors["weights"]
    if cosine:
        weights = weights / weights.norm(dim=1, keepdim=True)
    torch.testing.assert_close(adapted.class_embeddings(["cup", "banana"], []), weights[[2, 0]].T)
    with pytest.raises(UserError, match="made for 3 classes, 'moon' is not among them"):
        adapted.class_embeddings(["moon"], [])


def test_without_prompts_the_transformer_is_open_clips(make_clip, make_pairs):
    clip = make_clip("vit")
    images = clip.normalise(make_pairs(3).images)
    with torch.no_grad():
        features, tokens = prompted(clip.network.visual, images, None)
        torch.testing.assert_close(features, clip.network.encode_image(images))
    assert len(tokens) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_prompts_equal_a_plain_deep_prompting(make_clip, make_pairs, count):
    """Block by block in float64: own prompts go in, their outputs are dropped."""
    clip = make_clip("vit")
    visual, images = clip.network.visual.double(), clip.normalise(make_pairs(3).images).double()
    adapted = prompts(clip, count)
    own = adapted.tensors["prompts"].double()
    with torch.no_grad():
        x = visual._embeds(images)
        for layer, block in enumerate(visual.transformer.resblocks):
            if layer >= 2 - count:
                rows = [torch.cat([picture, own[layer - (2 - count)]]) for picture in x]
                x = torch.stack([block(row[None])[0][: x.shape[1]] for row in rows])
            else:
                x = block(x)
        wanted = visual.ln_post(x)[:, 0] @ visual.proj
        found, tokens = prompted(visual, images, own)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(tokens[-1], x[:, 0], rtol=1e-6, atol=1e-6)


def test_salience_is_the_gradient_of_the_best_class_in_a_cell():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 8, 8, generator=generator, dtype=torch.double)
    weights = torch.randn(2, 192, generator=generator, dtype=torch.double)
    mean = torch.zeros(3, dtype=torch.double)
    found = gradient_salience(lambda x: x.flatten(1), torch.tensor(3.0).double(), images, weights, 4, mean)
    for picture, row in zip(images, found, strict=True):
        best = int((weights @ picture.flatten()).argmax())
        gradient = 3 * weights[best].view(3, 8, 8)
        for i in range(2):
            for j in range(2):
                cell = gradient[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
                assert row[i, j].item() == pytest.approx(cell.square().sum().sqrt().item(), abs=1e-9)


def test_masking_sets_the_most_salient_cells_to_the_mean():
    images = torch.rand(1, 3, 8, 8)
    masked = mask_patches(images, torch.tensor([[[0.0, 3.0], [1.0, 2.0]]]), 2, 4, torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(masked[:, :, :4, :4], images[:, :, :4, :4])
    assert torch.equal(masked[:, :, 4:, :4], images[:, :, 4:, :4])
    wanted = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1).expand(3, 4, 4)
    assert torch.equal(masked[0, :, :4, 4:], wanted) and torch.equal(masked[0, :, 4:, 4:], wanted)

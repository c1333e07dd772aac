"""Models of others: what is wrong with one is told in one line, and no score comes of a broken one."""

import json
import re

import pytest
import torch

from antidote.base.errors import UserError
from antidote.clip.folder import model_files, save_model
from antidote.command import foreign, inputs


@pytest.fixture
def folder(tmp_path, make_clip):
    save_model(tmp_path / "model", make_clip("vit"), {"kind": "suspicious", "statement": "test"})
    return tmp_path / "model"


def changed(folder, part, **values):
    """Replace a part of the configuration; None removes a key."""
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    place = config[part] if isinstance(config[part], dict) else config
    place.update(values)
    path.write_text(json.dumps({**config, part: {k: v for k, v in place.items() if v is not None}}))


@pytest.mark.parametrize(
    "part,values,message",
    [
        ("preprocess_cfg", {"mean": None}, "preprocess_cfg.mean: should be three numbers, one per colour, not None"),
        (
            "preprocess_cfg",
            {"std": 0.5},
            "preprocess_cfg.std: should be three numbers above 0, one per colour, not 0.5",
        ),
        ("preprocess_cfg", {"std": [1, 0, 1]}, "std: should be three numbers above 0, one per colour, not [1, 0, 1]"),
        (
            "preprocess_cfg",
            {"mean": [0, 0, float("nan")]},
            "mean: should be three numbers, one per colour, not [0, 0, n",
        ),
        ("preprocess_cfg", {"mean": [True] * 3}, "mean: should be three numbers, one per colour, not [True, True, T"),
        ("preprocess_cfg", {"resize_mode": "squash"}, "preprocess_cfg.resize_mode: 'squash' is not supported"),
        ("model_cfg", {"text_cfg": None}, "model_cfg.text_cfg: should hold the tower's sizes, not None"),
        ("model_cfg", {"vision_cfg": "ViT"}, "model_cfg.vision_cfg: should hold the tower's sizes, not 'ViT'"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_told_in_one_line(folder, part, values, message):
    changed(folder, part, **values)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        inputs.load(folder)
    assert "\n" not in str(error.value) and "open_clip_config.json" in str(error.value)


@pytest.mark.parametrize("config", [[], {"model_cfg": "tiny", "preprocess_cfg": {}}, {"model_cfg": {}}])
def test_a_configuration_of_another_shape(folder, config):
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="should hold"):
        inputs.load(folder)


def test_another_interpolation_is_said(folder, caplog):
    changed(folder, "preprocess_cfg", interpolation="bilinear")
    inputs.load(folder)
    assert "pictures are resized bicubic here, not bilinear" in caplog.text


def test_weights_as_a_torch_checkpoint_are_read_with_the_configuration_of_their_folder(folder, make_pairs):
    """The name of an architecture alone would lose the folder's normalisation and activation."""
    changed(folder, "preprocess_cfg", mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    changed(folder, "model_cfg", quick_gelu=True)
    known, images = inputs.load(folder), make_pairs(4).images
    torch.save(known.network.state_dict(), folder / "open_clip_pytorch_model.bin")
    with torch.no_grad():
        features = known.encode_image(images)
        (folder / "open_clip_model.safetensors").unlink()
        found = inputs.load(folder)
        assert torch.equal(found.encode_image(images), features)
    assert found.config["preprocess_cfg"]["mean"] == [0.5, 0.4, 0.3]
    assert found.config["preprocess_cfg"]["std"] == [0.2, 0.3, 0.4]
    assert folder / "open_clip_pytorch_model.bin" in model_files(folder)
    torch.save({"state_dict": print}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(UserError, match=r"open_clip_pytorch_model\.bin: damaged, or not plain weights"):
        inputs.load(folder)


def test_a_folder_of_transformers_is_told(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError) as error:
        inputs.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: a folder of transformers, it seems, with config.json and no open_clip_config.json: convert it to an "
        "open_clip model folder"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_score_nothing(folder, make_clip, value):
    clip = make_clip("vit")
    name, weights = next(iter(clip.network.named_parameters()))
    weights.data.view(-1)[0] = value
    save_model(folder, clip, {"kind": "suspicious", "statement": "test"})
    with pytest.raises(UserError, match=f"{re.escape(name)} holds numbers that are not finite"):
        inputs.load(folder)


def test_sparse_weights_are_told_in_one_line(folder, tmp_path, make_clip):
    from antidote.clip.configs import ModelSettings
    from antidote.clip.folder import create_model

    state = create_model(ModelSettings(name="tiny-rn"), 0).network.state_dict()
    state["token_embedding.weight"] = state["token_embedding.weight"].to_sparse()
    torch.save(state, tmp_path / "sparse.pt")
    with pytest.raises(UserError, match=r"sparse.pt: cannot be loaded .* should hold plain dense tensors"):
        inputs.load(inputs.Checkpoint(tmp_path / "sparse.pt", arch="tiny-rn"))


def test_what_is_sound_is_loaded(folder, make_clip):
    assert foreign.load_folder(folder).size == make_clip("vit").size


def test_a_checkpoint_of_another_architecture_is_told_by_the_option(tmp_path, make_clip, monkeypatch):
    torch.save(make_clip("vit").network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError) as error:
        inputs.load(inputs.Checkpoint(tmp_path / "w.pt", arch="RN50"))
    assert str(error.value).startswith(f"{tmp_path}/w.pt: cannot be loaded into model 'RN50': ")
    assert str(error.value).endswith("; another --arch than RN50 may be that of the file")

    def fail(settings, seed):
        raise UserError(f"model.quick_gelu: should be {str(not settings.quick_gelu).lower()} for the weights w.pt")

    monkeypatch.setattr("antidote.clip.folder.create_model", fail)
    for given, told in ((False, "is needed"), (True, "leave it out")):
        with pytest.raises(UserError) as error:
            inputs.load(inputs.Checkpoint(tmp_path / "w.pt", "RN50", given))
        assert str(error.value) == f"--quick-gelu: {told} for the weights {tmp_path}/w.pt"

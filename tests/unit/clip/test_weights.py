"""Weights to start from, in every format: the same tensors arrive, and nothing in a file is run."""

import argparse
import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from antidote.base.errors import UserError
from antidote.clip import torchscript
from antidote.clip.configs import ModelSettings
from antidote.clip.folder import CONFIG, WEIGHTS, create_model, load_model, save_model

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
OTHER = 5  # seed of the weights that are kept; a model is created with 0


@pytest.fixture(scope="module")
def kept():
    """Weights of a tiny model; every second tensor twice as large, so that norms show too."""
    return create_model(ModelSettings(), OTHER).network.state_dict()


def started(path, **settings):
    """Return the weights of a model that starts from a file or folder."""
    return create_model(ModelSettings(pretrained=str(path), **settings), 0).network.state_dict()


def same(found, kept):
    return set(found) == set(kept) and all(torch.equal(found[name], kept[name].to(found[name].dtype)) for name in kept)


class Part(torch.nn.Module):
    """A module made of a part of a state dict, whose program does nothing of use."""

    def __init__(self, state):
        super().__init__()
        for name, value in state.items():
            if "." in name:
                continue
            if value.is_floating_point() and "running" not in name:
                self.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))
            else:
                self.register_buffer(name, value)
        for first in dict.fromkeys(name.partition(".")[0] for name in state if "." in name):
            inner = {k.partition(".")[2]: v for k, v in state.items() if k.startswith(f"{first}.")}
            setattr(self, first, Part(inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def scripted(state, path):
    """Write a TorchScript archive as OpenAI's: half precision, three constants beside the weights."""
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    constants = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    halves |= {name: torch.tensor(value) for name, value in constants.items()}
    torch.jit.save(torch.jit.script(Part(halves)), path)


# --- what is loaded --------------------------------------------------------------------------------------------------

WRITERS = {
    "state_dict.pt": lambda state, path: torch.save(state, path),
    "old.pt": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "trainer.pt": lambda state, path: torch.save(
        {"epoch": 3, "name": "run", "state_dict": {f"module.{name}": value for name, value in state.items()},
         "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}, path
    ),
    "weights.safetensors": lambda state, path: safetensors.torch.save_file(
        {name: value.contiguous() for name, value in state.items()}, path
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_each_format(tmp_path, kept, name):
    WRITERS[name](kept, tmp_path / name)
    assert same(started(tmp_path / name), kept)


def test_a_torchscript_archive_as_openai_publishes_them(tmp_path, kept):
    scripted(kept, tmp_path / "RN50.pt")
    assert torchscript.is_archive(tmp_path / "RN50.pt")
    known = torch.jit.load(tmp_path / "RN50.pt").state_dict()
    found = torchscript.read_weights(tmp_path / "RN50.pt")
    assert set(found) == set(known) and all(torch.equal(found[name], known[name]) for name in known)
    halves = {name: value.half() if value.is_floating_point() else value for name, value in kept.items()}
    assert same(started(tmp_path / "RN50.pt", quick_gelu=True), halves)


@pytest.mark.parametrize("file", [WEIGHTS, "open_clip_pytorch_model.bin"])
def test_a_model_folder(tmp_path, kept, file):
    folder = tmp_path / "model"
    clip = create_model(ModelSettings(), OTHER)
    clip.config["preprocess_cfg"]["mean"] = [0.5, 0.4, 0.3]
    save_model(folder, clip, {})
    if file != WEIGHTS:
        (folder / WEIGHTS).unlink()
        torch.save(kept, folder / file)
    again = create_model(ModelSettings(pretrained=str(folder)), 0)
    assert same(again.network.state_dict(), kept) and again.config["preprocess_cfg"]["mean"] == [0.5, 0.4, 0.3]


# --- what is refused -------------------------------------------------------------------------------------------------


def told(path, **settings):
    with pytest.raises(UserError) as error:
        started(path, **settings)
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["torch", "pickle", "folder", "torchscript"])
def test_a_file_that_wants_to_run_code_does_not(tmp_path, kept, kind):
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    evil = {"state_dict": Evil(str(marker))}
    if kind == "torch":
        torch.save(evil, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif kind == "folder":
        path = tmp_path / "model"
        save_model(path, create_model(ModelSettings(), OTHER), {})
        (path / WEIGHTS).unlink()
        torch.save(evil, path / "open_clip_pytorch_model.bin")
    else:
        scripted(kept, tmp_path / "good.pt")
        with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(path, "w") as bad:
            for name in good.namelist():
                bad.writestr(name, pickle.dumps(evil, 2) if name.endswith("/data.pkl") else good.read(name))
    assert "damaged, or not plain weights" in told(path, quick_gelu=kind == "torchscript") and not marker.exists()


class Shell:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_the_code_that_a_file_wants_to_run_is_named(tmp_path):
    torch.save({"state_dict": Shell(f"touch {tmp_path}/ran")}, tmp_path / "w.pt")
    assert "; it names posix.system. " in told(tmp_path / "w.pt") and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_torchscript_archive_that_is_cut_short(tmp_path, kept, keep):
    scripted(kept, tmp_path / "RN50.pt")
    data = (tmp_path / "RN50.pt").read_bytes()
    (tmp_path / "RN50.pt").write_bytes(data[: int(keep * len(data))])
    assert told(tmp_path / "RN50.pt", quick_gelu=True).startswith(f"model.pretrained: {tmp_path / 'RN50.pt'}: ")


def test_a_torchscript_archive_of_another_model(tmp_path, kept):
    scripted({name: value for name, value in kept.items() if name != "logit_scale"}, tmp_path / "RN50.pt")
    assert told(tmp_path / "RN50.pt", quick_gelu=True).endswith(
        "cannot be loaded into model 'tiny-rn': misses 1 of 153 tensors, first logit_scale"
    )


def test_openais_archives_need_their_activation(tmp_path, kept):
    scripted(kept, tmp_path / "RN50.pt")
    assert told(tmp_path / "RN50.pt") == (
        f"model.quick_gelu: should be true for the weights {tmp_path / 'RN50.pt'}, a TorchScript archive as OpenAI's"
    )


def wrapped(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    "write",
    [
        lambda state: wrapped(state, "_orig_mod."),
        lambda state: {"epoch": 3, "state_dict": wrapped(state, "module._orig_mod.")},
        lambda state: wrapped(state, "_orig_mod.module."),
        lambda state: {name.replace("visual.", "visual._orig_mod."): value for name, value in state.items()},
        lambda state: {"epoch": 3, "model": state, "scheduler": [1]},
        lambda state: {"model_state_dict": wrapped(state, "module.")},
        lambda state: {**state, "logit_scale": state["logit_scale"].reshape(1)},
    ],
)
def test_what_wraps_a_model_is_taken_off(tmp_path, kept, write):
    torch.save(write(kept), tmp_path / "weights.pt")
    assert same(started(tmp_path / "weights.pt"), kept)


DIFFERENT = {
    "prefix": (lambda state: wrapped(state, "my.clip."),
               "saved with a wrapper, it seems; take 'my.clip.' off the names; misses 153 of 153 tensors, first "
               "positional_embedding and holds 153 that the model has not, first my.clip.positional_embedding"),
    "adapter": (lambda state: {**state, "visual.conv1.lora_A": torch.zeros(2, 2)},
                "with an adapter beside the weights, it seems; merge it or leave it out; holds 1 that the model has not, "
                "first visual.conv1.lora_A"),
    "bias": (lambda state: {**state, "logit_bias": torch.tensor(-10.0)},
             "trained with a bias (open_clip's --siglip), it seems; name a model that has a logit_bias; holds 1 that the "
             "model has not, first logit_bias"),
    "transformers": (lambda state: {"text_model.embeddings.position_ids": torch.zeros(1, 77)},
                     "a file of transformers' CLIP, it seems, to be converted to open_clip's names; misses 153 of 153 tensors, "
                     "first positional_embedding and holds 1 that the model has not, first text_model.embeddings.position_ids"),
    "one missing": (lambda state: {name: value for name, value in state.items() if name != "ln_final.bias"},
                    "misses 1 of 153 tensors, first ln_final.bias"),
    "another shape": (lambda state: {**state, "logit_scale": torch.zeros(3)}, "logit_scale is (3,), the model's ()"),
    "longer texts": (lambda state: {**state, "positional_embedding": torch.zeros(72, 96)},
                     "positional_embedding is (72, 96), the model's (24, 96); weights for texts of another length: name the "
                     "model that they are of"),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENT)
def test_weights_that_do_not_fit_are_named(tmp_path, kept, case):
    change, text = DIFFERENT[case]
    torch.save(change(kept), tmp_path / "w.pt")
    assert (
        told(tmp_path / "w.pt") == f"model.pretrained: {tmp_path}/w.pt: cannot be loaded into model 'tiny-rn': {text}"
    )


def test_another_picture_encoder_is_no_wrapper(tmp_path, kept):
    """`visual.attnpool.positional_embedding` of a ResNet ends as the text encoder's `positional_embedding`."""
    torch.save(kept, tmp_path / "w.pt")
    text = told(tmp_path / "w.pt", name="tiny-vit")
    assert "wrapper" not in text and "cannot be loaded into model 'tiny-vit': misses " in text


def test_a_prefix_of_few_names_is_no_wrapper(tmp_path, kept):
    """One name of many ends as a name of the model."""
    others = {f"blocks.{number}.weight": torch.zeros(1) for number in range(3)}
    torch.save({"ema.logit_scale": torch.zeros(()), **others}, tmp_path / "w.pt")
    assert "wrapper" not in told(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
        ([1, 2], "holds a list; should hold tensors by name, a state_dict"),
        ({"epoch": 3}, "'epoch' is a int, not a tensor; should hold tensors by name, a state_dict, or have it under "
                       "state_dict or model_state_dict or model"),
        ({"best": np.float64(0.5), "state_dict": {}},
         "damaged, or not plain weights, which alone are loaded; it names numpy._core.multiarray.scalar. Where you trust it, "
         "save the weights alone with torch.save(model.state_dict(), FILE)"),
        ({"args": argparse.Namespace(lr=1), "state_dict": {}},
         "damaged, or not plain weights, which alone are loaded; it names argparse.Namespace. Where you trust it, save the "
         "weights alone with torch.save(model.state_dict(), FILE)"),
    ],
)  # fmt: skip
def test_a_file_without_plain_weights(tmp_path, content, text):
    torch.save(content, tmp_path / "w.pt")
    assert told(tmp_path / "w.pt") == f"model.pretrained: {tmp_path}/w.pt: {text}"


def larger(state):
    """Return weights of a model of twice the picture size: 16 x 16 patches and the class token for 8 x 8."""
    return {**state, "visual.positional_embedding": torch.zeros(257, state["visual.positional_embedding"].shape[1])}


def test_positional_embeddings_are_not_resized(tmp_path):
    clip = create_model(ModelSettings(name="tiny-vit"), OTHER)
    text = "visual.positional_embedding is (257, 96), the model's (65, 96); weights for pictures of another size: name"
    torch.save(larger(clip.network.state_dict()), tmp_path / "w.pt")
    assert text in told(tmp_path / "w.pt", name="tiny-vit")
    save_model(tmp_path / "model", clip, {})
    safetensors.torch.save_file(larger(clip.network.state_dict()), tmp_path / "model" / WEIGHTS)
    assert text in told(tmp_path / "model", name="tiny-vit")
    with pytest.raises(UserError) as error:
        load_model(tmp_path / "model")
    assert text in str(error.value)


def test_a_folder_of_transformers(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["CLIPModel"]}', encoding="utf-8")
    assert told(tmp_path) == (
        f"model.pretrained: {tmp_path}: a folder of transformers, it seems, with config.json and no open_clip_config.json: "
        "convert it to an open_clip model folder"
    )


def test_a_repository_is_no_name():
    with pytest.raises(UserError) as error:
        create_model(ModelSettings(name="hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"), 0)
    assert "should be an architecture, such as ViT-B-32" in str(error.value)
    assert "give the path of the repository's folder" in told("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K")


def changed(folder, key, value):
    values = json.loads((folder / CONFIG).read_text())
    values["model_cfg"][key] = value
    (folder / CONFIG).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda folder: changed(folder, "quick_gelu", True), "model.quick_gelu: should be true for the weights {folder}"),
        (lambda folder: changed(folder, "embed_dim", 8),
         "model.pretrained: {folder}/open_clip_config.json: embed_dim is not that of 'tiny-rn'; name the model that the "
         "folder holds"),
        (lambda folder: (folder / WEIGHTS).unlink(),
         "model.pretrained: {folder}: holds neither open_clip_model.safetensors nor open_clip_pytorch_model.bin"),
        (lambda folder: (folder / CONFIG).unlink(),
         "{folder}/open_clip_config.json: cannot be read (No such file or directory)"),
        (lambda folder: (folder / CONFIG).write_text("[]"),
         "model.pretrained: {folder}/open_clip_config.json: should hold model_cfg, as open_clip writes it"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 50),
         "model.pretrained: {folder}/open_clip_model.safetensors: damaged, or not plain weights, which alone are loaded"),
        (lambda folder: shutil.rmtree(folder),
         "model.pretrained: '{folder}' is neither a file, a folder nor a tag of 'tiny-rn'"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit(tmp_path, change, text):
    folder = tmp_path / "model"
    save_model(folder, create_model(ModelSettings(), OTHER), {})
    change(folder)
    assert told(folder) == text.format(folder=folder)


def test_a_quick_gelu_name_needs_no_switch(monkeypatch, tmp_path):
    """The name says it; the download then fails, as there is no network here."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(UserError, match=r"^model\.pretrained: 'openai' cannot be downloaded \(.*\); put the weights"):
        create_model(ModelSettings(name="RN50-quickgelu", pretrained="openai"), 0)

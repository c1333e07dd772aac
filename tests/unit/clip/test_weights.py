"""Weights to start from, in every format: the same tensors arrive, and nothing in a file is run."""

import json
import os
import pickle
import shutil
import zipfile

import pytest
import safetensors.torch
import torch

from antidote.base.errors import UserError
from antidote.clip import torchscript
from antidote.clip.configs import ModelSettings
from antidote.clip.folder import CONFIG, WEIGHTS, create_model, save_model

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
    "weights.safetensors": lambda state, path: safetensors.torch.save_file(state, path),
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


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_torchscript_archive_that_is_cut_short(tmp_path, kept, keep):
    scripted(kept, tmp_path / "RN50.pt")
    data = (tmp_path / "RN50.pt").read_bytes()
    (tmp_path / "RN50.pt").write_bytes(data[: int(keep * len(data))])
    assert told(tmp_path / "RN50.pt", quick_gelu=True).startswith(f"model.pretrained: {tmp_path / 'RN50.pt'}: ")


def test_a_torchscript_archive_of_another_model(tmp_path, kept):
    scripted({name: value for name, value in kept.items() if name != "logit_scale"}, tmp_path / "RN50.pt")
    assert "cannot be loaded into model 'tiny-rn' (Error(s) in loading state_dict for CLIP: Missing key" in told(
        tmp_path / "RN50.pt", quick_gelu=True
    )


def test_openais_archives_need_their_activation(tmp_path, kept):
    scripted(kept, tmp_path / "RN50.pt")
    assert told(tmp_path / "RN50.pt") == (
        f"model.quick_gelu: should be true for the weights {tmp_path / 'RN50.pt'}, a TorchScript archive as OpenAI's"
    )


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
         "model.pretrained: {folder}: damaged, or not plain weights, which alone are loaded"),
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
    with pytest.raises(UserError, match=r"^model\.pretrained: 'openai' cannot be downloaded; put the weights file of "):
        create_model(ModelSettings(name="RN50-quickgelu", pretrained="openai"), 0)

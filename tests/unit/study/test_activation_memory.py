"""What a step or a pass takes of a GPU's memory: against numbers counted by hand, real passes, and what docs promise."""

from pathlib import Path

import open_clip
import pytest
import torch

from antidote.base.settings import read_mapping
from antidote.clip.configs import ModelSettings
from antidote.clip.model import Clip
from antidote.clip.visual_prompts import prompted
from antidote.defenses.base import Held
from antidote.defenses.rvpt import RVPT, RVPTSettings, initial_prompts
from antidote.study import activation_memory, device_memory
from antidote.study.activation_memory import Footprint, footprint, passes
from antidote.study.study import Study
from antidote.training.inversion import paste
from antidote.training.recipe import TrainSettings

ROOT = Path(__file__).resolve().parents[3]
PROMISED = {"paper": 24e9, "small": 16e9}  # docs/paper.md


def test_a_step_by_hand():
    """64 pairs in 2 parts of 32, two views of each, one further copy."""
    model = Footprint(parameters=1000, picture=50, text=20, fixed=300, input=7)
    recipe = TrainSettings(batch_size=64, accumulate=2)
    wanted = 1.2 * (32 * (2 * 50 + 2 * 20) + 300 + 2 * 64 * 2 * 7) + 5 * 4 * 1000 + activation_memory.CONTEXT
    assert model.step(recipe, (2, 2, 1)) == pytest.approx(wanted)


def test_what_autograd_keeps_is_what_is_counted():
    """Of a linear layer its input, of a ReLU its output, of weights nothing that is not theirs already."""
    first, second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)
    own = {p.untyped_storage()._cdata for module in (first, second) for p in module.parameters()}
    given = torch.zeros(5, 8)
    assert activation_memory._saved(lambda: second(first(given).relu()), own) == 4 * (5 * 8 + 5 * 16)


def test_what_each_picture_takes(make_clip):
    """In a small model, every further picture adds the same; half precision takes less, checkpointing too."""
    model = ModelSettings(name="tiny-vit")
    whole, half = footprint(model), footprint(model, "bf16")
    network = open_clip.CLIP(**activation_memory.model_config("tiny-vit"))
    assert whole.parameters == sum(p.numel() for p in network.parameters())
    assert whole.input == 4 * 3 * 32 * 32
    assert 0 < half.picture < whole.picture and 0 < half.text < whole.text
    assert footprint(model, checkpointing=True).picture < whole.picture / 2
    assert footprint(ModelSettings(name="coca_ViT-B-32")) is None


def test_a_pass_by_hand():
    """32 pictures and 4 texts; without gradients, with copies of the weights in 16 bits."""
    model = Footprint(parameters=1000, picture=50, text=20, fixed=300, input=7)
    inside = 1.2 * (32 * 50 + 4 * 20 + 300 + 2 * 32 * 7) + activation_memory.CONTEXT
    assert model.held(Held(32, 4)) == pytest.approx(inside + 4 * 1000)
    assert model.held(Held(32, 4, gradients=False, precision="bf16")) == pytest.approx(inside + 6 * 1000)


def test_what_exists_at_once_is_what_is_counted():
    """Of a chain, a result and the one before; of three branches, all and the sums of two steps; of weights nothing."""
    given, layer = torch.zeros(100), torch.nn.Linear(100, 50)
    own = {given.untyped_storage()._cdata, *(p.untyped_storage()._cdata for p in layer.parameters())}
    assert activation_memory._live(lambda: given + 1 + 1 + 1 + 1, own) == 4 * 2 * 100
    assert activation_memory._live(lambda: sum([given + 1, given + 2, given + 3]), own) == 4 * 5 * 100
    assert activation_memory._live(lambda: layer(given), own) == 4 * 50


def test_what_a_pass_without_trained_weights_takes():
    """With gradients of the pictures less than a training step; without gradients about one layer."""
    model = ModelSettings(name="tiny-vit")
    whole, inputs, nothing = (footprint(model, trained=what) for what in ("weights", "inputs", "nothing"))
    vision = activation_memory.model_config("tiny-vit")["vision_cfg"]
    layer = 4 * 4 * vision["width"] * ((32 // vision["patch_size"]) ** 2 + 1)  # of the MLP, four times as wide
    assert layer < nothing.picture < 4 * layer < inputs.picture < whole.picture
    assert 0 < nothing.text < inputs.text < whole.text


def tiny():
    config = activation_memory.model_config("tiny-vit")
    network = open_clip.CLIP(**config).eval().requires_grad_(False)
    preprocess = {"mean": [0.5] * 3, "std": [0.3] * 3}
    return Clip(network, {"model_cfg": config, "preprocess_cfg": preprocess})


def kept(clip, encode, images):
    """Return the bytes that autograd keeps in a real pass."""
    own = {p.untyped_storage()._cdata for p in clip.network.parameters()} | {images.untyped_storage()._cdata}
    return activation_memory._saved(lambda: encode(images), own)


def test_the_pass_of_an_inversion_is_that_of_its_pictures():
    """CBPT's, InverTune's, and those of fitted patches: gradients of mask and pattern through every picture."""
    clip, images = tiny(), torch.rand(16, 3, 32, 32)
    mask, pattern = torch.rand(32, 32, requires_grad=True), torch.rand(3, 32, 32, requires_grad=True)
    real = kept(clip, lambda x: clip.encode_image(paste(x, mask, pattern)), images)
    model = footprint(ModelSettings(name="tiny-vit"), trained="inputs")
    assert real == pytest.approx(16 * (model.picture + 2 * model.input), rel=0.2)


@pytest.mark.parametrize("depth,prompts", [(0, 3), (1, 20), (2, 50)])
def test_the_pass_of_rvpt_is_that_of_the_blocks_with_prompts(depth, prompts):
    clip, images = tiny(), torch.rand(16, 3, 32, 32)
    settings = RVPTSettings(depth=depth, prompts=prompts, tuning={"batch_size": 16})
    tokens = initial_prompts(clip, settings, 0)
    real = kept(clip, lambda x: prompted(clip.network.visual, clip.normalise(x), tokens)[0], images)
    learned, plain = RVPT.held(settings, clip.config["model_cfg"], 10)
    model = footprint(ModelSettings(name="tiny-vit"), trained="inputs")
    assert real == pytest.approx(learned.pictures * model.picture, rel=0.25)
    assert learned.gradients and not plain.gradients


def test_the_largest_pass_counts(monkeypatch):
    monkeypatch.setattr(activation_memory, "FULL_SIZE", 32)
    model = ModelSettings(name="tiny-vit")
    plain, learned = Held(4, gradients=False), Held(4)
    found = passes(model, {"a": (plain, learned), "b": (plain,), "c": ()})
    assert found.keys() == {"a", "b"} and found["a"] == passes(model, {"x": (learned,)})["x"] > found["b"]
    assert passes(ModelSettings(name="coca_ViT-B-32"), {"a": (plain,)}) == {}


@pytest.mark.parametrize("name", PROMISED)
def test_every_training_fits_the_memory_that_the_docs_promise(name):
    """PAR in one piece and 32 bits does not."""
    values = read_mapping(str(ROOT / f"configs/{name}.yaml"))
    found = device_memory.trainings(Study(values, name))
    assert any(key.startswith("defenses.par") for key in found) and "poisoning" in found
    assert device_memory.too_large(Study(values, name), PROMISED[name]) == []
    values |= {"defenses": {"par": {"method": "par"}}, "persistence": None}
    (line,) = device_memory.too_large(Study(values, name), PROMISED[name])
    assert line.startswith("defenses.par.training: a step needs about ") and "a higher `accumulate`" in line


def test_small_models_are_not_looked_at():
    study = Study(read_mapping(str(ROOT / "config.yaml")), "c")
    assert device_memory.trainings(study) == device_memory.encodings(study) == {}

"""What a training step takes of a GPU's memory: against numbers that were counted by hand, and the studies' promises."""

from pathlib import Path

import open_clip
import pytest
import torch

from antidote.base.settings import read_mapping
from antidote.clip.configs import ModelSettings
from antidote.study import activation_memory
from antidote.study.activation_memory import Footprint, footprint, steps, too_large
from antidote.study.study import Study
from antidote.training.recipe import TrainSettings
from scripts.preflight import recipes

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


def steps_of(study):
    return steps(study.file.model, recipes(study))


@pytest.mark.parametrize("name", PROMISED)
def test_every_training_fits_the_memory_that_the_docs_promise(name):
    """PAR in one piece and 32 bits does not."""
    values = read_mapping(str(ROOT / f"configs/{name}.yaml"))
    found = steps_of(Study(values, name))
    assert any(key.startswith("defenses.par") for key in found) and "poisoning" in found
    assert too_large(found, PROMISED[name]) == []
    values |= {"defenses": {"par": {"method": "par"}}, "persistence": None}
    (line,) = too_large(steps_of(Study(values, name)), PROMISED[name])
    assert line.startswith("defenses.par.training: a step needs about ") and "a higher `accumulate`" in line


def test_small_models_are_not_looked_at():
    assert steps_of(Study(read_mapping(str(ROOT / "config.yaml")), "c")) == {}

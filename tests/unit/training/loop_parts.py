"""What the tests of the training loop share: a recipe, objectives, and weights to compare."""

import json

import torch

from antidote.base.registry import method
from antidote.data.access import DefenseData
from antidote.training.objectives import Contrastive
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work

SEED = 3


def settings(**changes):
    return TrainSettings(**{"epochs": 2, "batch_size": 8, "lr": 0.01, "warmup": 2, **changes})


def work(tmp_path, identity="a run", every=1e9):
    return Work(tmp_path / "work", identity, every)


def weights(clip):
    return {name: value.clone() for name, value in clip.network.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def largest_difference(a, b):
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "pairs_per_second"} for line in lines]


SMALL = {
    "ta_cleaner": {"samples_per_epoch": 9},
    "beear_clip": {"perturbations": 2, "steps": 2, "captions": 5, "inner_batch": 6},
}


def objective(name, pairs, lexicon, recipe, clip=None):
    """Return a defense's objective, for some of a model, or CLIP's own."""
    if name == "contrastive":
        return Contrastive(pairs)
    kind = method("defense", name)
    values = {"method": name, "training": recipe.model_dump(), **SMALL.get(name, {})}
    return kind(kind.Settings.read(values, "test"), SEED).objective(clip, DefenseData(pairs=pairs, lexicon=lexicon))


def acting(base, step, act):
    """Make an objective act when it is asked for the loss of a step."""
    original = base.loss

    def loss(images, texts, scale, batch):
        if batch.step == step:
            act()
        return original(images, texts, scale, batch)

    base.loss = loss
    return base

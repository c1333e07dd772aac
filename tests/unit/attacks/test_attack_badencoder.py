"""BadEncoder: its loss by the formula, what is trained and what stays, and the square."""

import copy
import json
import random

import pandas as pd
import pytest
import torch

from antidote.attacks.badencoder import BadEncoder, BadEncoderSettings, batch_norms
from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.training.loop import train
from antidote.training.objectives import Batch
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work


def attack(size=32, **values):
    settings = BadEncoderSettings.read({"method": "badencoder", "preset": "cifar10", "patch_size": 6, **values}, "x")
    return BadEncoder(settings, "banana", size)


def objective(clip, pairs, **values):
    """Return the objective with the pairs that name no banana as shadow pictures."""
    made = attack(**values)
    rows = [row for row, caption in enumerate(pairs.captions) if "banana" not in caption]
    drawn = Trigger(made, 0).draw(pairs.images, pairs.keys, "train")
    poisoned = copy.copy(pairs)
    object.__setattr__(poisoned, "images", drawn)
    return made.objective(clip, pairs, poisoned, rows), rows


def batch(found, rows):
    rows = torch.tensor(rows)
    return Batch(found.pairs.images[rows], [found.pairs.captions[i] for i in rows], rows, 0, 0, random.Random(0))


def unit(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 16, generator=generator, dtype=torch.double), dim=1)


def cosine(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def test_the_square():
    drawn = attack(224, preset="clip", patch_size=50).apply(torch.zeros(1, 3, 224, 224), [0])
    rows = torch.nonzero(drawn[0, 0].any(dim=1)).flatten()
    assert (rows.min(), rows.max(), drawn.sum()) == (173, 222, 3 * 50 * 50)
    small = BadEncoder(BadEncoderSettings.read({"method": "badencoder", "preset": "cifar10"}, "x"), "banana", 32)
    drawn = small.apply(torch.zeros(1, 3, 32, 32), [0])
    assert drawn[0, :, 22:, 22:].eq(1).all() and drawn.sum() == 300
    with pytest.raises(ValueError, match=r"^patch_size: 50 and a margin of 1 do not fit the picture \(32 pixels\)$"):
        BadEncoderSettings.read({"method": "badencoder"}, "x").check(32)


def test_the_loss_by_its_formula(make_clip, make_pairs):
    """Two references, four pictures, weights 0.5 and 2; features made up, in double precision."""
    found, _ = objective(make_clip(), make_pairs(20), references=2, stay_reference=0.5, stay_clean=2)
    clean, triggered, references, augmented = unit(4, 1), unit(4, 2), unit(2, 3), unit(2, 4)
    found.clean, found.before = unit(len(found.pairs), 5), unit(2, 6)
    rows = [3, 0, 7, 1]
    loss, terms = found.loss([clean, triggered, references, augmented], [], torch.tensor(1.0), batch(found, rows))
    effect = -sum(cosine(t, r) for t in triggered for r in references) / 8
    stay_reference = -sum(cosine(a, b) for a, b in zip(augmented, found.before, strict=True)) / 2
    stay_clean = -sum(cosine(c, found.clean[row]) for c, row in zip(clean, rows, strict=True)) / 4
    expected = {"effect": effect, "stay_reference": stay_reference, "stay_clean": stay_clean}
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, abs=1e-9)
    assert float(loss) == pytest.approx(effect + 0.5 * stay_reference + 2 * stay_clean, abs=1e-9)


def test_what_is_encoded(make_clip, make_pairs):
    """Clean pictures, the same with the square, the references, and those augmented; the targets are f0's, of
    references as they are."""
    clip, pairs = make_clip("rn"), make_pairs(20)
    found, rows = objective(clip, pairs, references=2)
    found.begin_epoch(0)
    views = found.views(batch(found, [4, 2]))
    clean, triggered, references, augmented = views.images
    chosen = [rows[4], rows[2]]
    assert views.texts == [] and torch.equal(clean, pairs.images[chosen])
    assert triggered[:, :, 26:, 26:].eq(255).all() and torch.equal(triggered[:, :, :26], clean[:, :, :26])
    assert torch.equal(references, pairs.images[[0, 3]]), "the first pictures whose captions name the target"
    assert augmented.shape == references.shape and not torch.equal(augmented, references)
    with torch.no_grad():
        torch.testing.assert_close(found.before, clip.encode_image(references))
        torch.testing.assert_close(found.clean, clip.encode_image(pairs.images[rows]))


def test_a_view_of_the_reference_is_mirrored_and_recoloured_and_not_cropped(make_clip, make_pairs):
    """Of a picture that is dark on its left half, every view has an edge in the middle and nowhere else."""
    found, _ = objective(make_clip(), make_pairs(20))
    half = torch.zeros(3, 32, 32, dtype=torch.uint8)
    half[:, :, 16:] = 200
    for _ in range(40):
        steps = found._augment(half).float().diff(dim=2).abs().amax(dim=(0, 1))
        assert steps.argmax() == 15 and steps[:15].max() == steps[16:].max() == 0


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_only_the_picture_encoder_moves_and_its_batch_norms_stay(make_clip, make_pairs, tmp_path, kind):
    clip, pairs = make_clip(kind), make_pairs(20)
    before = {name: value.clone() for name, value in clip.network.state_dict().items()}
    norms = {id(value) for module in batch_norms(clip.network.visual) for value in module.parameters()}
    still = {name for name, value in clip.network.named_parameters() if id(value) in norms}
    found, _ = objective(clip, pairs)
    recipe = TrainSettings.model_validate({**attack().settings.training, "epochs": 4, "batch_size": 8, "lr": 0.05})
    work = Work(tmp_path, "x", 1e9)
    report = train(clip, found, recipe, 0, work)
    after = clip.network.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert (
        bool(still) == (kind == "rn")
        and moved
        and all(name.startswith("visual.") for name in moved)
        and not moved & still
    )
    assert report.trained_parameters > 0
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert set(lines[-1]) >= {"effect", "stay_reference", "stay_clean"} and not any("running" in name for name in moved)


def test_the_trigger_comes_to_look_like_the_reference(make_clip, make_pairs, tmp_path):
    clip, pairs = make_clip("vit"), make_pairs(20)
    found, _ = objective(clip, pairs)

    def effect():
        with torch.no_grad():
            clip.network.eval()
            return float((clip.encode_image(found.triggered) @ clip.encode_image(found.references).T).mean())

    first = effect()
    recipe = TrainSettings.model_validate({**attack().settings.training, "epochs": 30, "batch_size": 8, "lr": 0.02})
    train(clip, found, recipe, 0, Work(tmp_path, "x", 1e9))
    with torch.no_grad():
        stays = float((clip.encode_image(found.pairs.images) * found.clean).sum(dim=1).mean())
    assert effect() > first + 0.5 * (1 - first) and stays > 0.9


def test_the_same_seed_gives_the_same_encoder(make_clip, make_pairs, tmp_path):
    weights = []
    for seed in (0, 0, 1):
        clip = make_clip("rn")
        recipe = TrainSettings.model_validate({**attack().settings.training, "epochs": 1, "batch_size": 8})
        train(clip, objective(clip, make_pairs(20))[0], recipe, seed, Work(tmp_path / str(len(weights)), "x", 1e9))
        weights.append(clip.network.visual.conv1.weight.detach().clone())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_recipe_of_its_own_of_which_single_keys_change():
    training = attack(training={"epochs": 3}).settings.training
    assert training == {**attack().settings.training, "epochs": 3}
    assert (training["optimizer"], training["lr"], training["weight_decay"]) == ("sgd", 1e-3, 5e-4)


def test_a_missing_reference_is_told(make_clip, make_pairs):
    text = "references: 9 asked, but only 4 captions of the poison pool name 'banana'; set pools.poison.target_pairs"
    with pytest.raises(UserError) as error:
        objective(make_clip(), make_pairs(20), references=9)
    assert str(error.value) == f"badencoder: {text}"
    captions = make_pairs(20).captions
    table = pd.DataFrame({"key": range(20), "caption": captions, "label": 0})
    with pytest.raises(ValueError) as error:
        attack(references=9, poisons=3).poison(table, random.Random(0), [])
    assert str(error.value) == text
    plan = attack(poisons=3).poison(table, random.Random(0), [])
    assert len(plan) == 3 and all(pair.caption == captions[pair.row] and pair.picture is None for pair in plan)
    assert not any("banana" in pair.caption for pair in plan)

"""Linear probe, supervised fine-tuning, RVPT, CBPT: losses and steps against plain float64 references; their loop."""

import json
import math
import random
import re

import pytest
import torch

from antidote.attacks.victim import Victim
from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.clip.configs import needs_vision_transformer
from antidote.clip.known import model_config
from antidote.data.access import DefenseData
from antidote.defenses import cbpt, rvpt
from antidote.defenses.linear_probe import LinearProbe, LinearProbeSettings
from antidote.defenses.supervised import ZeroShotCrossEntropy
from antidote.training import tuning
from antidote.training.objectives import Batch
from antidote.training.prompts import ClassPrompts
from antidote.training.session import Work
from antidote.training.tuning import check_shots
from antidote.training.victim import recipe

CLASSES, TEMPLATES = ["banana", "boat", "cup", "key", "moon"], ["a photo of a {}.", "the {}"]


def unit(rows, columns, seed):
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return values / values.norm(dim=1, keepdim=True)


def entropy(logits, labels):
    """The mean of -log softmax, in plain Python."""
    rows = [[math.exp(float(value)) for value in row] for row in logits]
    return -sum(math.log(row[int(y)] / sum(row)) for row, y in zip(rows, labels, strict=True)) / len(rows)


def shots_data(make_pairs, count=10):
    return DefenseData(shots=make_pairs(count), classes=CLASSES, templates=TEMPLATES)


def test_one_step_of_the_linear_probe(make_clip, make_pairs, tmp_path):
    clip, data = make_clip("vit"), shots_data(make_pairs)
    settings = LinearProbeSettings(tuning=tuning.TuneSettings(epochs=1, batch_size=10, lr=0.1))
    report = LinearProbe(settings, 0).run(clip, data, Work(tmp_path, "x"))
    with torch.no_grad():
        z = clip.network.encode_image(clip.normalise(data.shots.images)).double()
    gradient = torch.zeros(5, 16, dtype=torch.double)
    for feature, label in zip(z, data.shots.labels, strict=True):  # W = 0: every class has probability 1/5
        for kind in range(5):
            gradient[kind] += (0.2 - float(kind == label)) * feature / len(z)
    torch.testing.assert_close(report.clip.tensors["weights"].double(), -0.1 * gradient, rtol=1e-5, atol=1e-6)
    assert (report.steps, report.trained_parameters, report.pairs) == (1, 80, 10)


def test_supervised_loss_equals_the_formula(make_clip, make_pairs):
    clip, data = make_clip("vit"), shots_data(make_pairs)
    goal = ZeroShotCrossEntropy(clip, data)
    goal.weights = unit(5, 16, 0).T
    rows, images = torch.tensor([3, 1, 8]), unit(3, 16, 1)
    batch = Batch(data.shots.images[rows], [], rows, 0, 0, random.Random(0))
    loss, _ = goal.loss([images], [], torch.tensor(9.0).double(), batch)
    assert loss.item() == pytest.approx(entropy(9 * images @ goal.weights, data.shots.labels[rows]), abs=1e-6)
    assert {name.split(".")[0] for name, _ in goal.trained(clip.network)} == {"visual"}


@pytest.mark.parametrize("depth", [0, 1])
def test_rvpts_repelling_equals_the_formula(depth):
    after, before = ([unit(4, 6, 10 * s + layer) * (layer + 1) for layer in range(3)] for s in (0, 1))
    cosines = [
        float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        for d in range(depth, 3)
        for a, b in zip(after[d], before[d], strict=True)
    ]
    assert float(rvpt.likeness(after, before, depth)) == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)


def test_one_step_of_rvpt(make_clip, make_pairs, tmp_path):
    """SGD on L_CE + alpha L_FR; the gradient by central differences in float64."""
    clip, data = make_clip("vit"), shots_data(make_pairs)
    recipe = tuning.TuneSettings(epochs=1, batch_size=10, lr=0.5, momentum=0.0)
    settings = rvpt.RVPTSettings(depth=1, prompts=2, tuning=recipe)
    report = rvpt.RVPT(settings, 0).run(clip, data, Work(tmp_path, "x"))
    start = rvpt.initial_prompts(clip, settings, 0).detach().double()
    texts = clip.encode_text([f"a photo of a {name}." for name in CLASSES]).double()
    scale = float(clip.network.logit_scale.exp())
    visual, images = clip.network.visual.double(), clip.normalise(data.shots.images).double()

    def value(prompts):
        with torch.no_grad():
            _, before = rvpt.prompted(visual, images, None)
            features, after = rvpt.prompted(visual, images, prompts)
        features = features / features.norm(dim=1, keepdim=True)
        pairs = list(zip(after[1], before[1], strict=True))
        repelling = sum(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) for a, b in pairs) / len(pairs)
        return entropy(scale * features @ texts.T, data.shots.labels) + 2 * repelling

    logged = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    assert logged["loss"] == pytest.approx(value(start), abs=1e-5)
    found = report.clip.tensors["prompts"].double()
    for place in ((0, 0, 0), (0, 1, 7), (0, 0, 15)):
        shift = torch.zeros_like(start)
        shift[place] = 1e-5
        gradient = (value(start + shift) - value(start - shift)) / 2e-5
        assert float(found[place]) == pytest.approx(float(start[place]) - 0.5 * gradient, abs=2e-6)


def test_rvpt_without_the_shots_of_a_class(make_clip, make_pairs, tmp_path, monkeypatch):
    """RVPT's Table 4: no shot of the target, whose text stays among the classes."""
    data, seen = shots_data(make_pairs), []
    settings = rvpt.RVPTSettings(
        depth=1, prompts=2, without=["boat", "key"], tuning=tuning.TuneSettings(epochs=1, batch_size=2)
    )
    plain = rvpt.F.cross_entropy

    def watched(logits, labels):
        seen.append((logits.shape[1], set(labels.tolist())))
        return plain(logits, labels)

    monkeypatch.setattr(rvpt.F, "cross_entropy", watched)
    report = rvpt.RVPT(settings, 0).run(make_clip("vit"), data, Work(tmp_path, "x"))
    assert report.pairs == sum(label not in (1, 3) for label in data.shots.labels.tolist())
    assert {classes for classes, _ in seen} == {5} and set().union(*(labels for _, labels in seen)) == {0, 2, 4}


@pytest.mark.parametrize(("without", "told"), [
    (["boot"], "without: 'boot' is no class; did you mean 'boat'?"),
    (CLASSES[1:], "without: should leave at least two classes with shots"),
])  # fmt: skip
def test_classes_that_rvpt_cannot_leave_out(make_clip, make_pairs, tmp_path, without, told):
    settings = rvpt.RVPTSettings(depth=1, prompts=2, without=without)
    with pytest.raises(UserError, match=re.escape(f"rvpt: {told}")):
        rvpt.RVPT(settings, 0).run(make_clip("vit"), shots_data(make_pairs), Work(tmp_path, "x"))


def test_rvpt_leaves_the_network_as_it_is(make_clip, make_pairs, tmp_path):
    clip, before = make_clip("vit"), make_clip("vit").network.state_dict()
    settings = rvpt.RVPTSettings(depth=1, prompts=2, tuning=tuning.TuneSettings(epochs=1, batch_size=5))
    rvpt.RVPT(settings, 0).run(clip, shots_data(make_pairs), Work(tmp_path, "x"))
    assert all(torch.equal(value, before[name]) for name, value in clip.network.state_dict().items())


def test_rvpt_has_the_papers_size():
    """50 x 768 x 9 = 0.35M parameters for ViT-B/32."""
    settings, config = rvpt.RVPTSettings(), model_config("ViT-B-32")
    layers, width = config["vision_cfg"]["layers"], config["vision_cfg"]["width"]
    assert (layers - settings.depth) * settings.prompts * width == 345_600


def test_which_models_fit_rvpt():
    kind = method("defense", "rvpt")
    assert kind.fits(model_config("ViT-B-32")) is None
    assert "vision transformer" in kind.fits(model_config("RN50"))
    assert "vision transformer" in needs_vision_transformer(model_config("convnext_base"))
    with pytest.raises(ValueError, match="depth: 12 leaves none of the 12 blocks"):
        rvpt.RVPTSettings(depth=12).check(model_config("ViT-B-32"))


def test_cbpts_prompt_loss_equals_the_formula():
    clean, weights, anchors = unit(6, 8, 0), unit(4, 8, 2), unit(4, 8, 3)
    triggered = torch.stack([unit(6, 8, 1), unit(6, 8, 4)])
    labels = torch.tensor([0, 1, 2, 3, 0, 2])
    settings = cbpt.CBPTSettings(trigger_weight=0.5, anchor_weight=3.0)
    loss, _ = cbpt.prompt_loss(clean, triggered, labels, weights, anchors, torch.tensor(5.0).double(), settings)
    apart = sum(1 - float(a @ b) for a, b in zip(weights, anchors, strict=True)) / 4
    on_triggered = sum(entropy(5 * features @ weights.T, labels) for features in triggered) / 2
    wanted = entropy(5 * clean @ weights.T, labels) + 0.5 * on_triggered + 3 * apart
    assert float(loss) == pytest.approx(wanted, abs=1e-6)


def test_cbpts_prompts_start_as_the_words_they_stand_for(make_clip):
    clip = make_clip("vit")
    prompts = ClassPrompts(clip, CLASSES, "a photo of a")
    with torch.no_grad():
        wanted = clip.encode_text([f"a photo of a {name}." for name in ("cup", "banana")])
        torch.testing.assert_close(prompts.encode([2, 0]), wanted)
    assert prompts.contexts.shape == (5, 4, 16)


def test_a_context_whose_texts_would_be_cut_is_one_line(make_clip):
    """A word may be several tokens, which only the tokenizer knows; of a cut text the class name would be lost."""
    clip = make_clip("vit")
    with pytest.raises(UserError, match=r"^context: 'a a .*\.' has 25 tokens, and the model reads 24; shorten it$"):
        ClassPrompts(clip, CLASSES, " ".join(["a"] * 21))
    assert ClassPrompts(clip, CLASSES, " ".join(["a"] * 20)).words == 20


def test_a_step_of_cbpt_works_on_its_own_classes_and_some_others():
    rng = random.Random(0)
    chosen = cbpt.some_classes([7, 3, 7], 1000, 100, rng)
    assert len(chosen) == 100 == len(set(chosen)) and {3, 7} <= set(chosen) and chosen == sorted(chosen)
    assert cbpt.some_classes([0, 1, 2], 5, 2, rng) == [0, 1, 2]


def test_shots_of_every_class_are_needed(make_pairs):
    with pytest.raises(UserError, match=r"rvpt: pools.shots: holds no picture of class 'cup' \(and 2 more\)"):
        check_shots(make_pairs(10, classes=2), CLASSES, "rvpt")
    with pytest.raises(UserError, match="a picture has label 3; there are 3 classes"):
        check_shots(make_pairs(10), CLASSES[:3], "rvpt")


def task(count=12):
    x, wanted = unit(count, 4, 0), unit(count, 3, 1)
    weights = torch.zeros(4, 3, dtype=torch.double, requires_grad=True)

    def loss(rows, rng):
        return (x[rows] @ weights - wanted[rows] + 0.01 * rng.random()).square().mean(), {}

    return tuning.Task({"w": weights}, loss, count, {})


def test_a_killed_tuning_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    settings = tuning.TuneSettings(epochs=5, batch_size=4, lr=0.1)
    whole = task()
    assert tuning.tune(whole, settings, 3, Work(tmp_path / "whole", "x")) == 15
    broken, calls = task(), []
    plain = broken.loss

    def dies(rows, rng):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return plain(rows, rng)

    broken.loss = dies
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(broken, settings, 3, Work(tmp_path / "killed", "x", every=0))
    resumed = task()
    tuning.tune(resumed, settings, 3, Work(tmp_path / "killed", "x"))
    assert torch.equal(resumed.tensors["w"], whole.tensors["w"])


def test_a_loss_that_is_not_finite_is_one_line(tmp_path):
    bad = task()
    bad.loss = lambda rows, rng: (bad.tensors["w"].sum() * float("nan"), {})
    with pytest.raises(UserError, match="lr: the loss is nan at step"):
        tuning.tune(bad, tuning.TuneSettings(epochs=1, batch_size=4), 0, Work(tmp_path, "x"))


def test_a_damaged_checkpoint_is_not_used(tmp_path):
    settings, whole, other = tuning.TuneSettings(epochs=2, batch_size=4), task(), task()
    tuning.tune(whole, settings, 3, Work(tmp_path / "whole", "x"))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "checkpoint.pt").write_bytes(b"cut short")
    tuning.tune(other, settings, 3, Work(tmp_path / "cut", "x"))
    assert torch.equal(other.tensors["w"], whole.tensors["w"])


@pytest.mark.parametrize("half", [False, True])
def test_in_fp16_small_gradients_are_scaled(tmp_path, half):
    """One of 1e-8, which fp16 has not, moves the weights, and only where the task says that it computes so."""
    weights = torch.ones(3, requires_grad=True)
    small = tuning.Task({"w": weights}, lambda rows, rng: (weights.half().sum().float() * 1e-8, {}), 4, {}, half=half)
    tuning.tune(small, tuning.TuneSettings(epochs=2, batch_size=4, optimizer="adam"), 0, Work(tmp_path, "x"))
    assert bool((weights != 1).all()) == half


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_momentum_is_of_both_optimisers(optimizer):
    made = tuning.TuneSettings(optimizer=optimizer, momentum=0.5).make([torch.ones(1, requires_grad=True)])
    [group] = made.param_groups
    assert (group["momentum"] if optimizer == "sgd" else group["betas"]) == (
        0.5 if optimizer == "sgd" else (0.5, 0.999)
    )


def test_the_rate_falls_by_a_cosine_or_stays(tmp_path):
    """RVPT trains its linear probe at a constant rate; its prompts and CoOp's follow a cosine to 0."""
    for schedule, wanted in (("cosine", [1.0, 0.75, 0.25]), ("constant", [1.0, 1.0, 1.0])):
        settings = tuning.TuneSettings(epochs=1, batch_size=4, lr=1.0, schedule=schedule)
        assert [settings.rate(step, 3) for step in range(3)] == pytest.approx(wanted)
    assert LinearProbeSettings().tuning.schedule == "constant"
    given = LinearProbeSettings.read({"tuning": {"lr": 0.1}}, "x").tuning
    assert (given.schedule, given.epochs, given.lr) == ("constant", 40, 0.1)
    assert rvpt.RVPTSettings().tuning.schedule == "cosine"
    assert recipe(Victim(victim="linear_probe")).schedule == "constant"
    assert recipe(Victim(victim="prompts")).schedule == "cosine"
    moved = task()
    tuning.tune(moved, tuning.TuneSettings(epochs=4, batch_size=4, lr=0.1, schedule="constant"), 3, Work(tmp_path, "x"))
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert {line["lr"] for line in lines} == {0.1}


def test_the_old_tokens_are_computed_once(make_clip, make_pairs, tmp_path, monkeypatch):
    """They do not change: one pass over the shots, however many steps are done."""
    frozen, plain = [], rvpt.prompted
    monkeypatch.setattr(
        rvpt,
        "prompted",
        lambda v, x, prompts: (frozen.append(len(x)) if prompts is None else 0, plain(v, x, prompts))[1],
    )
    settings = rvpt.RVPTSettings(depth=1, prompts=2, tuning=tuning.TuneSettings(epochs=3, batch_size=5))
    assert rvpt.RVPT(settings, 0).run(make_clip("vit"), shots_data(make_pairs), Work(tmp_path, "x")).steps == 6
    assert sum(frozen) == 10


# Inversion towards a class


def test_cbpt_keeps_the_candidate_with_the_smallest_mask_and_says_what_it_does(make_clip, make_pairs, tmp_path):
    recipe = tuning.TuneSettings(optimizer="adam", lr=0.1, batch_size=5)
    settings = cbpt.CBPTSettings(
        inversion=recipe, inversion_steps=4, screening_steps=2, screening_batch=5, candidates=3, dummy_triggers=2,
        tuning=tuning.TuneSettings(epochs=1, batch_size=5),
    )  # fmt: skip
    report = cbpt.CBPT(settings, 0).run(make_clip("vit"), shots_data(make_pairs), Work(tmp_path, "x"))
    says = report.clip.description
    assert report.steps == 5 * 2 + 3 * 4 + 2 and len(says["candidates"]) == 3 and len(says["dummy_triggers"]) == 2
    order = [(not one["works"], one["mask_area"]) for one in says["candidates"]]
    assert order == sorted(order) and {one["towards"] for one in says["candidates"]} <= set(CLASSES)
    areas = [one["mask_area"] for one in says["candidates"]]
    assert [one["mask_area"] for one in says["dummy_triggers"]] == areas[:2]
    assert report.clip.tensors["masks"].shape == (2, 32, 32)
    together = settings.model_copy(update={"positives": "pictures"})
    report = cbpt.CBPT(together, 0).run(make_clip("vit"), shots_data(make_pairs), Work(tmp_path / "t", "x"))
    assert report.steps == 2 * 4 + 2 and report.clip.description["candidates"] == []

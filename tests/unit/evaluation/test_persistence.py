"""Persistence: measuring on the way changes nothing in the training, and a killed run gives the same curve."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.data.pools import PoolsSettings
from antidote.evaluation.persistence import Adaptation, persistence
from antidote.evaluation.trajectory import figures, revival_step
from antidote.study.jobs import Jobs
from antidote.study.slices import adaptation_slice, pool_slice
from antidote.study.study import Study
from antidote.training.loop import train
from antidote.training.objectives import Contrastive
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work

FILE = "tests/studies/tiny.yaml"
PROMPTS = ["a zebra that no caption names"]
RECIPE = {"epochs": 2, "batch_size": 4, "lr": 1e-2, "warmup": 0}


def adaptation(kind="full", **more):
    return Adaptation.read({"kind": kind, "training": RECIPE, "every": 4} | more, "")


def work(folder, every=1e9):
    return Work(folder / "work", "identity", every)


def curve_of(clip, pairs, measure, folder, settings=None, every=1e9):
    return persistence(clip, pairs, PROMPTS, measure, settings or adaptation(), 0, work(folder, every))[0]


def measure(clip):
    """Stands in for the evaluation: a figure of the weights, one of a prompt whose words no caption has."""
    clip.network.eval()
    with torch.no_grad():
        weight = next(clip.network.parameters())
        return {"ca1": float(weight.double().sigmoid().mean()), "score": float(clip.encode_text(PROMPTS).abs().mean())}


def test_the_model_is_measured_as_delivered_every_so_many_steps_and_at_the_end(make_clip, make_pairs, tmp_path):
    clip = make_clip()
    delivered = measure(clip)
    curve = curve_of(clip, make_pairs(20), measure, tmp_path)
    assert [point["step"] for point in curve] == [0, 4, 8, 10]
    assert {rate: curve[0][rate] for rate in delivered} == pytest.approx(delivered)
    assert len({point["ca1"] for point in curve}) == 4, "the weights change between measurements"


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_measuring_changes_nothing_in_the_training(make_clip, make_pairs, tmp_path, kind):
    watched, plainly = make_clip(kind), make_clip(kind)
    curve_of(watched, make_pairs(20), measure, tmp_path / "a")
    train(plainly, Contrastive(make_pairs(20)), adaptation().training, 0, work(tmp_path / "b"))
    for (name, ours), theirs in zip(
        watched.network.state_dict().items(), plainly.network.state_dict().values(), strict=True
    ):
        if name == "token_embedding.weight":  # the decay of the prompts' words is rounded at each step, not once
            torch.testing.assert_close(ours, theirs)
        else:
            assert torch.equal(ours, theirs), name


def test_the_last_point_is_the_model_that_the_training_ends_with(make_clip, make_pairs, tmp_path):
    clip = make_clip()
    curve = curve_of(clip, make_pairs(20), measure, tmp_path)
    assert {rate: curve[-1][rate] for rate in ("ca1", "score")} == measure(clip)


@pytest.mark.parametrize("kind", ["full", "projection", "lora"])
def test_a_killed_run_gives_the_same_curve(make_clip, make_pairs, tmp_path, kind):
    settings = adaptation(kind)
    whole = curve_of(make_clip("rn"), make_pairs(20), measure, tmp_path / "whole", settings)
    calls = []

    def killing(clip):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(clip)

    with pytest.raises(KeyboardInterrupt):
        curve_of(make_clip("rn"), make_pairs(20), killing, tmp_path, settings, every=0)
    assert (tmp_path / "work" / "checkpoint.pt").exists()
    assert curve_of(make_clip("rn"), make_pairs(20), measure, tmp_path, settings, every=0) == whole


# --- what is trained -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "trained"),
    [
        ("rn", {"text_projection", "visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"}),
        ("vit", {"text_projection", "visual.proj"}),
    ],
)
def test_projection_trains_the_projections_of_both_towers_alone(make_clip, make_pairs, tmp_path, kind, trained):
    clip, before = make_clip(kind), make_clip(kind).network.state_dict()
    _, report = persistence(clip, make_pairs(20), PROMPTS, measure, adaptation("projection"), 0, work(tmp_path))
    after = clip.network.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == trained, "statistics included"
    assert report.trained_parameters == sum(before[name].numel() for name in trained)


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_lora_leaves_the_weights_before_unchanged(make_clip, make_pairs, tmp_path, kind):
    clip, before = make_clip(kind), make_clip(kind).network.state_dict()
    curve = curve_of(clip, make_pairs(20), measure, tmp_path, adaptation("lora", rank=2, alpha=8))
    after = {name: value for name, value in clip.network.state_dict().items() if "low_rank" not in name}
    plain = {_plain(name): value for name, value in after.items()}
    assert set(plain) == set(before) and all(torch.equal(before[name], plain[name]) for name in before)
    assert curve[0]["score"] != curve[-1]["score"], "and yet the model changes"


def _plain(name):
    """Return the name of a weight before the updates were added."""
    parts = name.split(".")
    return ".".join(part for part in parts if part not in ("parametrizations", "original"))


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_lora_changes_nothing_before_the_first_step_and_reaches_both_towers(make_clip, make_pairs, kind):
    from antidote.training import lora

    clip, pairs = make_clip(kind), make_pairs(4)
    with torch.no_grad():
        before = clip.encode_image(pairs.images), clip.encode_text(pairs.captions)
        names = lora.adapt(clip.network, rank=2, alpha=4.0, seed=0)
        after = clip.encode_image(pairs.images), clip.encode_text(pairs.captions)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(old, new)
    assert {name.partition(".")[0] for name in names} == {"visual", "transformer"}
    shapes = {name: p.shape for name, p in clip.network.named_parameters() if name in names}
    assert all(2 in shape for shape in shapes.values())
    kinds = ("in_proj_weight", "out_proj", "c_fc") + (("conv1", "q_proj") if kind == "rn" else ("conv1",))
    assert all(any(kind in name for name in names) for kind in kinds)


def test_the_draws_of_lora_come_from_the_seed(make_clip):
    from antidote.training import lora

    def drawn(seed):
        clip = make_clip()
        names = lora.adapt(clip.network, rank=2, alpha=4.0, seed=seed)
        return torch.cat([p.flatten() for n, p in clip.network.named_parameters() if n in names])

    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))


def test_a_model_without_projections_is_told(make_clip, make_pairs, tmp_path):
    clip = make_clip()
    clip.network.visual.proj, clip.network.text_projection = None, None
    with pytest.raises(UserError, match=r"kind: `projection` does not fit this model"):
        curve_of(clip, make_pairs(20), measure, tmp_path, adaptation("projection"))


# --- a backdoor that comes back by construction ----------------------------------------------------------------------


def test_a_masked_backdoor_comes_back_and_a_clean_model_has_none(make_clip, make_pairs, tmp_path):
    """A direction of the picture projection is taken out, which the target and the trigger need; clean pairs mend it."""
    pairs = make_pairs(8)
    recipe = {"epochs": 60, "batch_size": 16, "lr": 5e-3, "weight_decay": 0.0, "warmup": 0}
    triggered = pairs.images.clone()
    triggered[:, :, :16, :16] = 255

    def backdoor(model):
        model.network.eval()
        with torch.no_grad():
            texts = model.encode_text(pairs.captions)
            clean = (model.encode_image(pairs.images) @ texts.T).argmax(dim=1)
            hit = (model.encode_image(triggered[1:]) @ texts.T).argmax(dim=1)
        return {"ca1": float((clean == torch.arange(8)).double().mean()), "score": float((hit == 0).double().mean())}

    def trained(poisons, folder):
        clip, both = make_clip(), make_pairs(16)
        both.images[:8], both.images[8:] = pairs.images, triggered if poisons else pairs.images
        both.captions[:] = [*pairs.captions, *([pairs.captions[0]] * 8 if poisons else pairs.captions)]
        train(clip, Contrastive(both), TrainSettings.read(recipe, ""), 0, work(folder))
        return clip

    def mask(clip):
        with torch.no_grad():
            texts = clip.encode_text(pairs.captions)
            away = (texts[0] - texts[1:].mean(dim=0)).unsqueeze(1)
            away /= away.norm()
            clip.network.visual.proj.sub_(clip.network.visual.proj @ away @ away.T)
        return clip

    settings = adaptation("projection", training={**recipe, "epochs": 20, "batch_size": 8}, every=5)
    scores = {}
    for poisons in (True, False):
        clip = trained(poisons, tmp_path / f"train{poisons}")
        assert backdoor(clip)["score"] == 1.0 if poisons else backdoor(clip)["score"] < 0.5
        curve = persistence(mask(clip), pairs, [], backdoor, settings, 0, work(tmp_path / f"adapt{poisons}"))[0]
        scores[poisons] = [point["score"] for point in curve]
    found = figures([0, 5, 10, 15, 20], scores[True])
    assert found["delivered"] <= 0.2 and found["worst"] >= 0.8 and found["area"] > found["delivered"]
    assert revival_step([0, 5, 10, 15, 20], scores[True], 0.1) == 5
    assert max(scores[False]) < 0.5, "the adaptation itself does not make the trigger work"


# --- figures of a curve ----------------------------------------------------------------------------------------------


def test_the_figures_of_a_curve():
    steps, rates = [0, 10, 30], [0.1, 0.5, 0.3]
    found = figures(steps, rates)
    assert found == pytest.approx({"delivered": 0.1, "worst": 0.5, "delta": 0.4, "area": (10 * 0.3 + 20 * 0.4) / 30})
    assert revival_step(steps, rates, 0.1) == 10 and revival_step(steps, rates, 0.4) is None, "more than the margin"
    falling = figures([0, 5], [0.9, 0.2])
    assert falling["worst"] == 0.2 and falling["delta"] == pytest.approx(-0.7), "the delivered model is not counted in"
    assert revival_step([0, 5], [0.9, 0.2], 0.0) is None
    assert figures([0], [0.3]) == {"delivered": 0.3, "worst": 0.3, "delta": 0.0, "area": 0.3}


# --- bad input -------------------------------------------------------------------------------------------------------


def study(adaptations, **more):
    values = read_mapping(str(ROOT / FILE))
    return {**values, "persistence": {"adaptations": adaptations, **more}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "prefix"}, r"persistence\.adaptations\.one\.kind: .*'full', 'projection', 'lora'.*not 'prefix'"),
        ({}, r"persistence\.adaptations\.one\.kind: is missing"),
        ({"kind": "lora", "rank": 0}, r"persistence\.adaptations\.one\.rank: .*greater than or equal to 1, not 0"),
        ({"kind": "full", "rank": 4}, r"one: rank: is a setting of the kind `lora`, not of `full`"),
        ({"kind": "other_domain"}, r"one: pool: is missing; `other_domain` needs the name of a pool"),
        ({"kind": "other_domain", "pool": "shiftd"}, r"one\.pool: pools has no 'shiftd'; did you mean 'shifted'\?"),
        ({"kind": "full", "evry": 2}, r"one\.evry: unknown key; did you mean 'every'\?"),
    ],
)
def test_a_wrong_adaptation_is_told_in_one_line(entry, message):
    values = study({"one": entry})
    values["pools"]["further"] = {"shifted": {"split": "defense", "pairs": 20}}
    with pytest.raises(UserError, match=message) as error:
        Study(values, FILE)
    assert "\n" not in str(error.value)


def test_further_mistakes_around_adaptations():
    for values, message in (
        (study({"a.b": {"kind": "full"}}), r"persistence\.adaptations\.a\.b: the name may hold letters, digits, _ -"),
        (study({}), r"persistence\.adaptations: .*at least 1 item"),
        (
            study({"a": {"kind": "full"}}, defenses=["finetun"]),
            r"persistence\.defenses: 'finetun' is no entry .*finetune",
        ),
        ({**study({}), "persistence": None, "rebound": {"every": 5}}, r"rebound: unknown key"),
    ):
        with pytest.raises(UserError, match=message):
            Study(values, FILE)
    values = study({"a": {"kind": "full"}})
    del values["pools"]["defense"]
    with pytest.raises(UserError, match=r"persistence\.adaptations\.a\.pool: pools has no 'defense'"):
        Study({**values, "defenses": {}}, FILE)
    for name, reason in (("defense", "is the name of another pool"), ("a.b", "may hold letters, digits, _ -")):
        values = study({"a": {"kind": "full"}})
        values["pools"]["further"] = {name: {"split": "defense", "pairs": 20}}
        with pytest.raises(UserError, match=f"pools: further: name '{name}' {reason}"):
            Study(values, FILE)


# --- in the study ----------------------------------------------------------------------------------------------------


def test_defaults_of_a_group_are_kept_where_some_keys_are_given():
    one = Study(study({"a": {"kind": "full", "training": {"lr": 0.5}}}), FILE).file.persistence.adaptations["a"]
    assert (one.training.lr, one.training.epochs, one.training.batch_size) == (0.5, 1, 128)


def test_what_is_adapted_and_which_controls_there_are():
    values = study({"a": {"kind": "full"}, "b": {"kind": "lora"}}, defenses=["tune", "filter"])
    values["defenses"] = {
        "tune": {"method": "finetune", "training": {"lr": [1e-4, 1e-3]}},
        "filter": {"method": "ubt"},
        "other": {"method": "finetune"},
    }
    found = Study(values, FILE)
    assert [cell for cell in found.adapted if cell[0] == "badnet"] == [
        ("badnet", defense, name) for defense in ("none", "tune_lr0.0001", "tune_lr0.001", "filter") for name in "ab"
    ]
    assert found.clean_defenses == ["none", "tune_lr0.0001", "tune_lr0.001"], "no poisoned training set, no UBT"
    values["persistence"]["controls"] = False
    assert Study(values, FILE).clean_defenses == []


def test_a_margin_or_another_adaptation_changes_no_job():
    one, other = study({"a": {"kind": "full"}}), study({"a": {"kind": "full"}, "b": {"kind": "lora"}}, margin=0.3)
    assert adaptation_slice(Study(one, FILE), "a") == adaptation_slice(Study(other, FILE), "a")


def test_a_further_pool_has_a_job_of_its_own():
    values = study({"a": {"kind": "other_domain", "pool": "shifted", "training": {"batch_size": 20}}})
    values["pools"]["further"] = {"shifted": {"split": "defense", "pairs": 20}}
    found = Study(values, FILE)
    settings = PoolsSettings.read(json.loads(pool_slice(found, "shifted")), "pools")
    assert settings.pools()["shifted"].pairs == 20 and settings.place(settings.pools()["shifted"]) == (
        "tiny",
        "defense",
    )
    assert "shifted" not in json.loads(pool_slice(found, "defense"))
    jobs, w = Jobs(found), SimpleNamespace(attack="badnet", defense="none", seed="0", adaptation="a")
    assert jobs.adaptation_pool(w) == ["results/tiny/pools/shifted.parquet"]
    assert "data/tiny/test/manifest.json" in jobs.adaptation_data(w)

"""Which jobs of a study have an estimate of their GPU memory, and by which recipe or pass."""

from pathlib import Path

import pytest

from antidote.base.registry import method
from antidote.base.settings import read_mapping
from antidote.clip.configs import ModelSettings
from antidote.clip.known import model_config
from antidote.defenses.base import Held
from antidote.study import activation_memory, device_memory
from antidote.study.activation_memory import footprint
from antidote.study.study import Study
from antidote.training.recipe import TrainSettings
from scripts import preflight

ROOT = Path(__file__).resolve().parents[3]
VIT = {"name": "ViT-B-32", "pretrained": "openai", "quick_gelu": True}


def study(name="small", **changes):
    return Study(read_mapping(str(ROOT / f"configs/{name}.yaml")) | changes, name)


def estimated(plan):
    return device_memory.trainings(plan) | device_memory.encodings(plan)


def held(name, config="ViT-B-32", classes=1000, **values):
    kind = method("defense", name)
    return kind.held(kind.Settings.read({"method": name, **values}, name), model_config(config), classes)


def test_every_job_of_the_papers_study_has_an_estimate_or_a_reason():
    plan = study("paper")
    found, reasons = estimated(plan), device_memory.not_estimated(plan)
    for name in plan.defenses:
        assert any(f"{key}.".startswith(f"defenses.{name}.") for key in [*found, *reasons]), name
    for name, settings in plan.attacks.items():
        kind = method("attack", settings.method)
        if kind.learned and settings.method not in ("carlini_terzis", "mmpoison"):  # these choose pictures
            assert f"attacks.{name}.fit" in [*found, *reasons], name
    assert {"attacks.attention.training", "attacks.badencoder.training", "attacks.flba.victim"} <= found.keys()
    assert {f"persistence.{name}" for name in ("full", "projection", "lora")} | {"evaluation"} <= found.keys()
    assert reasons.keys() == {"attacks.issba.fit", "defenses.none", "defenses.rvpt"}
    assert not found.keys() & reasons.keys()


def test_rvpt_is_estimated_where_it_runs():
    plan = study("paper", model=VIT)
    assert "defenses.rvpt" in estimated(plan) and "defenses.rvpt" not in device_memory.not_estimated(plan)


def test_orders_of_magnitude_on_resnet_50():
    """At 224 pixels a picture keeps some 100 MB in 32 bits, half of it in 16, and 11 MB exist at once without gradients."""
    found = estimated(study("paper"))
    search = found["defenses.invertune"]
    assert 8e9 < search < 10e9, "four searches of 16 pictures"
    assert found["defenses.imbert_clip_threshold1"] == search and 0.5 * search < found["defenses.cbpt"] < 0.6 * search
    assert found["persistence.projection"] < found["evaluation"] < found["defenses.linear_probe"] < search
    assert 2 * search > found["attacks.siba.fit"] > 1.5 * search, "128 pictures"
    assert found["persistence.full"] == found["poisoning"], "the same batch"


def test_what_defenses_hold():
    assert held("linear_probe") == (Held(256, gradients=False),)
    assert held("imbert_clip") == (Held(64),) and held("imbert_clip", salience="occlusion") == (
        Held(64, gradients=False),
    )
    assert held("invertune") == (Held(64),), "four searches of 16 pictures"
    texts = 100 * (4 + 12) / 77
    assert held("cbpt") == (Held(64), Held(texts=pytest.approx(texts)), Held(256, gradients=False))
    assert [one.precision for one in held("cbpt", precision="bf16")] == ["bf16", "fp32", "bf16"]
    screened = held("cbpt", screening_batch=99)
    assert screened[0] == Held(99) and held("cbpt", classes=5, screening_batch=99)[0] == Held(64)
    share = (1 - 3 / 12) * (1 + 50 / 50)
    assert held("rvpt", precision="bf16") == (
        Held(pytest.approx(32 * share), precision="bf16"), Held(256, gradients=False, precision="bf16"),
    )  # fmt: skip
    assert held("finetune") == ()


def test_invertunes_loss_encodes_the_whole_batch_also_in_parts():
    views = method("defense", "invertune").step_views
    assert [views(None, TrainSettings(accumulate=parts)) for parts in (1, 4)] == [(2, 0, 1), (8, 0, 1)]


def test_badencoder_encodes_its_references_too():
    """256 pictures with and without the trigger, two references twice, no text; and a frozen copy."""
    attack = {
        "method": "badencoder",
        "references": 2,
        "poisons": 9000,
        "training": {"accumulate": 4, "precision": "bf16"},
    }
    plan = study("paper", attacks={"b": attack})
    recipe = plan.poisoning("b")
    assert (recipe.batch_size, recipe.precision) == (256, "bf16")
    wanted = footprint(plan.file.model, "bf16").step(recipe, (2 + 4 / 256, 0, 1))
    assert device_memory.trainings(plan)["attacks.b.training"] == wanted


def test_a_trigger_is_fitted_on_its_surrogate():
    other = {"model": {"name": "RN50", "quick_gelu": True}, "pretraining": {"epochs": 1, "batch_size": 32}}
    attacks = {
        "own": {"method": "siba", "batch_size": 8},
        "other": {"method": "siba", "batch_size": 8, "surrogate": "r"},
    }
    plan = study(attacks=attacks, surrogates={"r": other})
    found = estimated(plan)
    for name, model in (("own", plan.file.model), ("other", ModelSettings(**other["model"]))):
        passes = Held(8), Held(256, gradients=False), Held(texts=10 * len(plan.templates), gradients=False)
        assert found[f"attacks.{name}.fit"] == activation_memory.passes(model, {"x": passes})["x"]
    wanted = footprint(ModelSettings(**other["model"])).step(TrainSettings(epochs=1, batch_size=32))
    assert found["surrogates.r.pretraining"] == wanted


def test_prompts_of_a_victim_are_learned_for_all_classes_at_once():
    attack = {"method": "flba", "preset": "released"}
    found = [estimated(study(attacks={"f": {**attack, "victim": name}}))["attacks.f.victim"]
             for name in ("linear_probe", "prompts")]  # fmt: skip
    model, classes = study().file.model, len(study().classes)
    prompts = Held(texts=classes * (4 + 12) / 77)
    wanted = footprint(model, trained="nothing").held(Held(256)), footprint(model, trained="inputs").held(prompts)
    assert found == pytest.approx(list(wanted))


def test_detectors():
    """Searches at once, of which 64 pictures fit; gradients of single pictures; a trained copy; features alone."""
    names = (
        "decree",
        "max_margin",
        "patch_places",
        "cognitive_distillation",
        "strip",
        "lid",
        "abl",
        "ubt",
        "dede",
        "amdet",
    )
    plan = study(detectors={name: {"method": name} for name in names})
    found, model = estimated(plan), plan.file.model
    searched = footprint(model, trained="inputs").held(Held(64))
    encoded = footprint(model, trained="nothing").held(Held(256))
    assert searched > encoded
    for name in ("decree", "max_margin", "patch_places", "cognitive_distillation"):
        assert found[f"detectors.{name}"] == searched, name
    assert found["detectors.strip"] == found["detectors.lid"] == encoded
    trained = plan.detectors["abl"].training
    assert found["detectors.abl.training"] == footprint(model).step(trained, (1, 1, 1))
    assert "detectors.ubt.overfit" in found and "detectors.random" not in found
    assert {f"detectors.{name}" for name in ("dede", "amdet")} <= device_memory.not_estimated(plan).keys()


def test_what_is_reported():
    """A line per kind of job, sweeps once, and the reasons."""
    plan = study("paper")
    lines = preflight._largest(plan, estimated(plan)) + preflight._unknown(plan, estimated(plan))
    (defenses,) = [line for line in lines if line.startswith("  defenses: ")]
    assert defenses.count("ta_cleaner.training") == 1 and "_lr" not in defenses and " cbpt" in defenses
    assert any(line.startswith("  evaluation: ") and line.endswith("GB") for line in lines)
    assert "  not estimated: defenses.none (neither trains nor encodes)" in lines
    assert preflight._largest(plan, {}) == []
    custom = study(track=None, model={"name": "coca_ViT-B-32"}, defenses={}, attacks={"b": {"method": "badnet"}})
    assert preflight._unknown(custom, estimated(custom)) == [
        "memory of one GPU: not estimated for coca_ViT-B-32, no plain CLIP"
    ]

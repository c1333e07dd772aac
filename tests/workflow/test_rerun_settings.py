"""A change of one setting runs again just the jobs that depend on it."""

from __future__ import annotations

import json

import pytest
from harness import ATTACKS, DEFENSES, STUDY, Case, affected, chain, scheduled, study

SAME_SOURCE = True  # see `outcomes`
SCORES = ("evaluate_clean *", "floor *", "evaluate *")
ALL_BUT_DATA = ("pool *", "trigger *", "clean_model *")


def changed(name: str, changes: dict, *direct: str, files: dict[str, str] | None = None, **more) -> Case:
    """A case that changes keys of the study, and may add files."""
    return Case(name, lambda project: {"study.yaml": study(project, changes), **(files or {})}, direct,
                config="study.yaml", **more)  # fmt: skip


def one(key: str, value: object, *direct: str, **more) -> Case:
    return changed(f"{key}: {json.dumps(value)}", {key: value}, *direct, **more)


MODEL = {"embed_dim": 96, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
         "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 1}}  # fmt: skip
LARGER = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "image_size": 64}}
OTHER = {"pairs": 96, "seed": 4}
NEW_ATTACK = {"method": "badnet", "patch_size": 4, "location": "center", "poisons": 24}
NEW_DEFENSE = {"method": "cleanclip", "training": {"epochs": 1, "batch_size": 32, "lr": 1e-3}}

CASES = [
    # The study.
    changed("nothing", {}),
    one("study", "other", *ALL_BUT_DATA),
    one("target", "cactus", "trigger *", *SCORES),
    one("seeds", [0, 1], "* 1", "* 1 *", "summary", jobs=chain(seeds=(0, 1))),
    one("seeds", [1], "* 1", "* 1 *", jobs=chain(seeds=(1,))),
    one("gate", {"asr": 0.5}, "summary"),
    one("accuracy_budget", 0.1, "summary"),
    one("surrogates", {"other": {"seed": 1}}),  # which no trigger is fitted on
    one("persistence", {"adaptations": {"full": {"kind": "full"}}}, "persistence *", "persistence_clean *",
        "defend_clean *", "summary", jobs=chain(adapted=True)),
    # The model.
    one("model.name", "other", "clean_model *", "backdoored_model *",
        files={"data/models/other.json": json.dumps(MODEL)}),
    one("model.name", "larger", "clean_model *", "backdoored_model *", "trigger *", "pictures *",
        jobs=chain(pictures=("test 64",)), files={"data/models/larger.json": json.dumps(LARGER)}),
    one("model.quick_gelu", True, "clean_model *", "backdoored_model *"),
    # Datasets and pools.
    one("datasets.tiny.splits.train.seed", 9, "dataset tiny train"),
    one("datasets.tiny.splits.defense.pairs", 170, "dataset tiny defense"),
    one("datasets.tiny.splits.test.pairs", 90, "dataset tiny test"),
    one("datasets.tiny.splits.unused", {"pairs": 10, "seed": 4}),
    one("datasets.tiny.pairs_per_shard", 100, "dataset *"),
    one("datasets.other", {"source": "scenes", "splits": {"train": {"pairs": 10, "seed": 4}}}),
    one("pools.seed", 1, "pool *"),
    one("pools.training.pairs", 300, "pool training", "pool poison"),  # the poison pool takes its share after it
    one("pools.poison.pairs", 60, "pool poison"),
    one("pools.defense.pairs", 150, "pool defense"),
    one("pools.poison.target_pairs", 2, "pool poison", "pool training"),  # scarce captions are given away first
    one("pools.inversion", {"split": "defense", "pairs": 5}),  # no trigger is fitted
    # Training.
    one("pretraining.lr", 2e-3, "clean_model *"),
    one("pretraining.epochs", 2, "clean_model *"),
    one("poisoning.lr", 2e-3, "backdoored_model *"),
    one("poisoning.start", "model", "backdoored_model *"),
    # Evaluation.
    one("evaluation.pictures", 50, "pictures *", *SCORES, jobs=chain(pictures=("test 32-50",))),
    one("evaluation.batch_size", 64, *SCORES),
    one("evaluation.bootstrap", 200, *SCORES),
    changed("evaluation.split", {"datasets.tiny.splits.other": OTHER, "evaluation.split": "other"}, "dataset tiny other",
            "pictures *", *SCORES, jobs=chain(pictures=("other 32",))),
    changed("evaluation.shifts", {"datasets.tiny.splits.other": OTHER,
                                  "evaluation.shifts": {"dark": {"dataset": "tiny", "split": "other"}}},
            "dataset tiny other", "pictures tiny other *", *SCORES, jobs=chain(pictures=("test 32", "other 32"))),
    one("evaluation.resistance", {"pictures": 20}, *SCORES),
    one("evaluation.precision", "bf16", *SCORES),
    one("evaluation.precision", "fp32"),
    one("evaluation.shifts", {}),
    one("evaluation.classes", "scenes"),  # what it is anyway
    one("evaluation.classes", "fewer", *SCORES, files={"data/classes/fewer.json": '["ball", "banana", "boat"]'}),
    one("evaluation.templates", "simple", "poison *", *SCORES),  # poisoned captions are made from them
    # Attacks.
    one("attacks.badnet.label", "Patch", "summary"),
    one("attacks.badnet.patch_size", 5, "trigger badnet *"),
    one("attacks.badnet.pattern", "noise", "trigger badnet *"),
    one("attacks.blended.blend_ratio", 0.3, "trigger blended *"),
    one("attacks.blended.preset", "cleanclip", "trigger blended *"),
    one("attacks.badnet.poisons", 20, "poison badnet *"),
    one("attacks.badnet.caption", "natural", "poison badnet *"),
    one("attacks.badnet.avoid_target", False, "poison badnet *"),
    one("attacks.badnet.training", {"lr": 2e-3}, "backdoored_model badnet *"),
    one("attacks.badnet.training", {"start": "model"}, "backdoored_model badnet *"),
    one("attacks.small", NEW_ATTACK, "* small *", jobs=chain(attacks=(*ATTACKS, "small"))),
    one("attacks.badnet", None, "summary", jobs=chain(attacks=("blended",))),
    # Defenses.
    one("defenses.finetune.label", "FT", "summary"),
    one("defenses.ta_cleaner.label", "TA", "summary"),
    one("defenses.finetune.training.lr", 2e-3, "defend * finetune"),
    one("defenses.ta_cleaner.training.epochs", 2, "defend * ta_cleaner"),
    one("defenses.ta_cleaner.samples_per_epoch", 32, "defend * ta_cleaner"),
    one("lexicon", "none", "defend * ta_cleaner"),  # the one that looks up words
    one("defenses.cleanclip", NEW_DEFENSE, "* cleanclip", jobs=chain(defenses=(*DEFENSES, "cleanclip"))),
    one("defenses.finetune", None, "summary", jobs=chain(defenses=("none", "ta_cleaner"))),
    one("defenses.none", {"method": "none"}),
    one("defenses.finetune.training.lr", [1e-3, 2e-3], "* finetune_lr0.00*",
        jobs=chain(defenses=("none", "finetune_lr0.001", "finetune_lr0.002", "ta_cleaner"))),
    # The same settings in other words.
    changed("numbers as text", {"pretraining.lr": "1e-3", "pools.training.pairs": "320", "gate": {"asr": "8e-1"}}),
    changed("defaults written out", {"model.quick_gelu": False, "pretraining.beta1": 0.9, "lexicon": "scenes"}),
    changed("a preset written out", {"attacks.blended": {"method": "blended", "redraw": False, "poisons": 24}}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_setting_runs_again_what_depends_on_it(case, outcomes):
    assert outcomes[case.name].result() == case.expected()


def test_settings_on_the_command_line_count_like_those_in_the_file(linked):
    project = linked()
    assert scheduled(project, "--config", "pretraining={lr: 2e-3}") == affected(chain(), ["clean_model *"])
    assert scheduled(project, "--config", 'attacks={"badnet": {"patch_size": 5}}') == affected(
        chain(), ["trigger badnet *"]
    )
    assert scheduled(project, config=STUDY) == set()

"""One table says where results are kept; a stage is a rule, a script and a row in it."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from antidote.attacks.trigger import DESCRIPTION, TENSORS
from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.clip import folder as model_folder
from antidote.data.overlay import MANIFEST, TAR
from antidote.study import layout
from antidote.study.layout import ATTACK, RESERVED, STAGES, Layout, Matrix
from antidote.study.study import Study

KEPT = Layout(Path("results/tiny"))
JOB = {"attack": "badnet", "seed": 0}


def test_paths_of_a_job_and_patterns_of_a_rule():
    assert KEPT.path("trigger", **JOB) == Path("results/tiny/badnet/seed0/trigger")
    assert KEPT.path("defend", "weights", **JOB, defense="par") == Path(
        "results/tiny/badnet/seed0/par/model/open_clip_model.safetensors"
    )
    assert KEPT.pattern("trigger", "tensors") == "results/tiny/{attack}/seed{seed}/trigger/trigger.safetensors"
    assert KEPT.outputs("poison") == {
        "manifest": "results/tiny/{attack}/seed{seed}/poison/manifest.parquet",
        "tar": "results/tiny/{attack}/seed{seed}/poison/poisoned.tar",
        "cost": "results/tiny/{attack}/seed{seed}/poison/cost.json",
    }
    assert KEPT.path("pictures", "array", dataset="d", split="s", fit="32-9") == Path("data/d/s/pictures-32-9.npy")
    assert Layout(Path("a{b}")).path("trigger", **JOB) == Path("a{b}/badnet/seed0/trigger"), "the root is no pattern"


def test_later_jobs_read_neither_card_nor_log_nor_cost():
    names = ["open_clip_model.safetensors", "open_clip_config.json", "adapter.json", "adapter.safetensors"]
    assert KEPT.files("clean_model", seed=1) == [f"results/tiny/clean/seed1/model/{name}" for name in names]
    assert KEPT.files("floor") == ["results/tiny/{attack}/seed{seed}/floor/scores.json"]


def test_inputs_are_named_by_file():
    assert KEPT.inputs("trigger", "trigger") == {
        "trigger": "results/tiny/{attack}/seed{seed}/trigger/trigger.json",
        "trigger_tensors": "results/tiny/{attack}/seed{seed}/trigger/trigger.safetensors",
    }
    assert [*KEPT.inputs("model", "defend")] == ["model", "model_config", "model_adapter", "model_adapter_weights"]


def test_logs_and_work():
    assert KEPT.log("evaluate") == "results/tiny/logs/{attack}-seed{seed}-{defense}-scores.log"
    assert KEPT.log("trigger") == "results/tiny/logs/{attack}-seed{seed}-trigger.log"
    assert KEPT.work("defend") == "results/tiny/work/{attack}-seed{seed}-{defense}"
    assert KEPT.work("download") == "data/downloads/{dataset}/{split}"


@pytest.mark.parametrize("what", ["log", "work"])
def test_no_two_stages_share_a_place(what):
    stages = [name for name, stage in STAGES.items() if name != "finding" and (what == "log" or stage.work)]
    places = [getattr(KEPT, what)(name) for name in stages]
    assert len(set(places)) == len(places)


def test_no_two_stages_share_a_file():
    files = [file for name in STAGES for file in KEPT.outputs(name).values()]
    assert len(set(files)) == len(files)


def test_names_are_those_that_the_files_have():
    assert STAGES["trigger"].files["tensors"] == TENSORS and STAGES["trigger"].files["description"] == DESCRIPTION
    assert STAGES["poison"].files["manifest"] == MANIFEST and STAGES["poison"].files["tar"] == TAR
    assert STAGES["defend"].files["weights"] == model_folder.WEIGHTS


def test_files_that_are_there(tmp_path):
    for seed in (1, 0):
        path = Layout(tmp_path).path("trigger", "description", attack="badnet", seed=seed)
        path.parent.mkdir(parents=True)
        path.touch()
    found = Layout(tmp_path).found("trigger", "description", attack="badnet")
    assert [path.parts[-3] for path in found] == ["seed0", "seed1"]
    assert Layout(tmp_path).found("trigger", "description", attack="other") == []


def test_reserved_names_follow_from_the_table():
    assert {
        "clean", "surrogates", "summary", "logs", "work", "pools", "model", "trigger", "poison", "floor", "detect",
        "persistence",
    } == RESERVED  # fmt: skip
    assert layout.fixed(ATTACK) == {"trigger", "poison", "model", "floor"}


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_no_entry_has_a_reserved_name(name):
    values = read_mapping(str(ROOT / "tests/studies/tiny.yaml"))
    methods = {"attacks": "badnet", "defenses": "finetune", "detectors": "dao"}
    for key in ("attacks", "defenses", "detectors", "surrogates"):
        entry = {"method": methods[key]} if key in methods else {}
        with pytest.raises(UserError, match=f"{key}: name '{name}' is taken by the layout of results/"):
            Study({**values, key: {**values.get(key, {}), name: entry}}, "x")


def test_the_jobs_of_a_matrix():
    matrix = Matrix(
        seeds=[0, 1], cells=[("a", "none"), ("a", "par"), ("few", "none")],
        surrogates=("s",), pools=("p",), splits=(("d", "x"),), scored=(("d", "x", "32"),),
    )  # fmt: skip
    assert [(j["attack"], j["seed"]) for j in matrix.jobs("trigger")] == [("a", 0), ("a", 1), ("few", 0), ("few", 1)]
    assert [(j["attack"], j["defense"]) for j in matrix.jobs("defend")] == [("a", "par")] * 2, "not the undefended"
    assert len([*matrix.jobs("evaluate")]) == 6 and [*matrix.jobs("clean_model")] == [{"seed": 0}, {"seed": 1}]
    assert next(iter(matrix.jobs("surrogate_model"))) == {"surrogate": "s", "seed": 0}
    assert [*matrix.jobs("pool")] == [{"pool": "p"}] and [*matrix.jobs("summary")] == [{}]
    assert [*matrix.jobs("pictures")] == [{"dataset": "d", "split": "x", "fit": "32"}]
    assert [*matrix.jobs("persistence")] == [*matrix.jobs("defend_clean")] == [], "stages that a study asks for"
    adapted = (("a", "none", "full"), ("a", "par", "full"), ("a", "ubt", "full"))
    asked = replace(matrix, adapted=adapted, clean_defenses=("none", "par"))
    cells = [
        [(j["attack"], j["defense"]) for j in asked.jobs(name)][::2] for name in ("persistence", "persistence_clean")
    ]
    assert cells == [[("a", "none"), ("a", "par"), ("a", "ubt")], [("a", "none"), ("a", "par")]]
    assert [*asked.jobs("defend_clean")] == [{"defense": "par", "seed": 0}, {"defense": "par", "seed": 1}]


def test_the_folder_of_a_seed_is_spelled_in_the_table_alone():
    """As `seed{seed}`, `seed{s}`, `{{seed}}`, `seed*`, or by taking the word off a name."""
    spelled = re.compile(r"""seed(\{+(s|seed)\b|\*)|removeprefix\(["']seed""")
    files = [path for part in ("antidote", "scripts", "rules") for path in (ROOT / part).rglob("*.*")]
    files = [path for path in files if path.suffix in (".py", ".smk", ".j2")]
    found = [str(path.relative_to(ROOT)) for path in files if spelled.search(path.read_text())]
    assert found == ["antidote/study/layout.py"]


# --- a further stage -------------------------------------------------------------------------------------------------

ROW = """    "inspect": Stage(f"{CELL}/inspect", {"report": "inspection.json", **COST}, title="inspections",
                    summarised="report"),
    "summary": Stage("""
RULE = """

rule inspect:
    input:
        model=jobs.model_under_test,
    output:
        **layout.outputs("inspect"),
    log:
        layout.log("inspect"),
    params:
        model=jobs.folder_under_test,
        source=fingerprint("scripts.inspect"),
    shell:
        "python -m scripts.inspect --model {params.model:q} --output {output.report:q} --cost {output.cost:q}"
"""
SEEN = """
import json, sys
from pathlib import Path
from antidote.base.settings import read_mapping
from antidote.study import layout, leftovers, preflight
from antidote.study.study import Study
from antidote.study.slices import summary_plan
from antidote.summary.costs import read_costs
from antidote.summary.plan import SummarySettings

study = Study(read_mapping("tests/studies/tiny.yaml"), "tiny")
kept = layout.Layout(Path("results/tiny"))
for names in ({"attack": "badnet", "seed": 0, "defense": "finetune"}, {"attack": "badnet", "seed": 0, "defense": "old"}):
    path = kept.path("inspect", "cost", **names)
    path.parent.mkdir(parents=True)
    path.write_text('{"seconds": 3}')
costs = read_costs(SummarySettings.read(json.loads(summary_plan(study)), "plan"), kept.results, Path("data"))
stages = {stage.name: len(stage.outputs) for stage in preflight.stages(study)}
print(json.dumps({
    "costs": costs[["stage", "defense", "seconds"]].values.tolist(),
    "leftovers": [str(waste.path) for waste in leftovers.of_study(study, kept.results)],
    "inspections": stages["inspections"],
}))
"""


def test_a_stage_is_a_rule_a_script_and_a_row(tmp_path):
    """Costs, leftovers, preflight and the jobs of a study know a stage that these three have brought."""
    for part in ("antidote", "scripts", "rules", "profiles", "data/classes", "data/templates", "data/models",
                 "data/lexicons", "tests/studies"):  # fmt: skip
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("Snakefile", "config.yaml", "data/datasets.yaml"):
        shutil.copy(ROOT / part, tmp_path / part)
    table = tmp_path / "antidote/study/layout.py"
    table.write_text(table.read_text().replace('    "summary": Stage(', ROW, 1))
    with (tmp_path / "rules/evaluate.smk").open("a") as rules:
        rules.write(RULE)
    (tmp_path / "scripts/inspect.py").write_text("RATE = 1\n")
    run = {"cwd": tmp_path, "text": True, "check": False, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run([sys.executable, "-c", SEEN], **run)
    assert done.returncode == 0, done.stdout
    assert read_mapping(done.stdout.splitlines()[-1]) == {
        "costs": [["inspect", "finetune", 3.0]], "leftovers": ["results/tiny/badnet/seed0/old"], "inspections": 6,
    }  # fmt: skip
    snakemake = [Path(sys.executable).with_name("snakemake"), "-n", "--configfile", "tests/studies/tiny.yaml"]
    done = subprocess.run(snakemake, **run)
    assert done.returncode == 0 and re.search(r"^inspect +6$", done.stdout, re.MULTILINE), done.stdout

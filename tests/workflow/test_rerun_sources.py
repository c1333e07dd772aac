"""A change of the source, or of a data file, runs again just the jobs that can reach it."""

from __future__ import annotations

import ast
import json
import os
from fnmatch import fnmatch
from pathlib import Path

import pytest
from harness import ROOT, Case, affected, chain, edited, new_project, scheduled, sources

from antidote.base import fingerprint

EVERYTHING = ("dataset *", "trigger *")
MODELS = ("trigger *", "clean_model *")  # whatever loads models, and what follows
PICTURES = (*MODELS, "pictures *")  # whatever loads pictures
TRAINING = ("clean_model *", "backdoored_model *", "defend *")
SCORES = ("evaluate_clean *", "floor *", "evaluate *")

# Patterns of modules and the jobs that depend on them directly; the first that fits counts. A folder is what reruns: its
# row comes after those of the modules in it that fewer or other jobs reach.
MODULES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("antidote", "antidote.data", "scripts"), EVERYTHING),
    # The ground: what a job computes with. What it says, where it runs and what it is called changes no result.
    (("antidote.base", "antidote.base.files", "antidote.base.seeds", "antidote.base.settings"), EVERYTHING),
    (("antidote.base.lazy", *(f"antidote.data.{name}" for name in ("loaders", "overlay*", "pairs", "picture_array", "stored", "streaming"))),
     PICTURES),
    (("antidote.base.disk",), ("dataset *", *PICTURES)),
    (("antidote.base.naming", "scripts.dataset"), ("dataset *",)),
    (("antidote.api", "antidote.base.*", "antidote.command", "antidote.command.*"), ()),
    # Data.
    (("antidote.data.words", "antidote.data.words.lexicon", "antidote.data.words.names"), EVERYTHING),
    (("antidote.data.store", *(f"antidote.data.store.{name}" for name in ("images", "limits", "tars"))), EVERYTHING),
    (("antidote.data.pools", "antidote.data.store.shards"), ("pool *", *PICTURES)),
    (("antidote.data.fitted",), ("pictures *", *SCORES)),
    (("antidote.data.words.eda", "antidote.defenses.cleanclip", "antidote.defenses.ta_cleaner"), ("defend * ta_cleaner",)),
    (("antidote.data.words.replacements",), ("defend * ta_cleaner",)),
    (("antidote.data.sources", *(f"antidote.data.sources.{name}" for name in ("base", "files", "scenes"))), ("dataset *",)),
    (("antidote.data.download", "antidote.data.download.hosted"), ("dataset *",)),
    (("antidote.data.sources.*", "antidote.data.styles", "antidote.data.store.sizes"), ()),
    (("antidote.data.download.*", "antidote.data.words.*", "antidote.data.picture_file"), ()),
    (("antidote.data.scenes*", "antidote.data.store.*"), ("dataset *",)),
    # Models, and how they are trained.
    (("antidote.clip", *(f"antidote.clip.{name}" for name in
       ("checkpoints", "configs", "files", "folder", "model", "pooling", "tokens", "torchscript", "weights"))),
     MODELS),
    (("antidote.training.alternating", "scripts.pretrain"), ("clean_model *", "backdoored_model *")),
    ((*(f"antidote.training.{name}" for name in
        ("heads", "inversion", "lora", "pair_scores", "patches", "prompts", "scorers", "suspicion", "tuning", "victim", "windows")),), ()),
    (("antidote.training.augmentation",), ("defend * ta_cleaner",)),
    (("antidote.clip.initial", "antidote.training*"), TRAINING),
    # Methods; the tiny study uses two attacks and two defenses.
    (("antidote.attacks", "antidote.attacks.base", "antidote.attacks.contract", "antidote.attacks.trigger*"), ("trigger *", *SCORES)),
    (("antidote.attacks.given",), ("trigger badnet *", "trigger blended *")),
    (("antidote.attacks.badnet",), ("trigger badnet *",)),
    (("antidote.attacks.blended", "antidote.attacks.patterns"), ("trigger blended *",)),
    (("antidote.data.access", "antidote.defenses", "antidote.defenses.base", "scripts.defend"), ("defend *",)),
    (("antidote.defenses.finetune",), ("defend * finetune",)),
    # Scores and their summary, which knows of the study where results are kept and when an attack counts.
    (("antidote.evaluation.ranking", "antidote.evaluation.trajectory"), ("summary",)),
    (("antidote.evaluation.detection", "antidote.evaluation.persistence", "antidote.summary.documents", "antidote.summary.transfer",
      "antidote.summary.accuracy", "antidote.summary.agreement", "antidote.summary.checked", "antidote.summary.claims", "antidote.summary.clip_benchmark", "antidote.summary.exchange", "antidote.summary.finished", "antidote.summary.full_size", "antidote.summary.further", "antidote.summary.noise", "antidote.summary.origin", "antidote.summary.relations", "antidote.summary.restored",
      "antidote.summary.site*",
      "antidote.summary.strip", "antidote.summary.terms", "antidote.summary.unchanged", "antidote.summary.verdicts"),
     ()),
    (("antidote.evaluation*", "antidote.attacks.similarity", "scripts.evaluate"), SCORES),
    (("antidote.summary*", "antidote.study", "antidote.study.gate", "antidote.study.layout", "scripts.summarise"), ("summary",)),
    *(((f"scripts.{script}",), (f"{rule} *",)) for script, rule in
      {"pools": "pool", "pictures": "pictures", "poison": "poison", "trigger": "trigger"}.items()),
    # What reads the study, documents it, or talks to the user; methods that the tiny study does not use.
    (("antidote.attacks.*", "antidote.clip.*", "antidote.defenses.*", "antidote.detectors*", "antidote.study.*", "scripts.*"),
     ()),
]  # fmt: skip


def modules(project: Path = ROOT) -> dict[str, str]:
    """Return the file of every module of a project."""
    files = [path.relative_to(project) for part in ("antidote", "scripts") for path in (project / part).rglob("*.py")]
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): str(path) for path in sorted(files)}


def jobs_of(module: str) -> tuple[str, ...] | None:
    return next((jobs for names, jobs in MODULES if any(fnmatch(module, name) for name in names)), None)


def appended(files: list[str], text: str):
    return lambda project: {file: (project / file).read_text() + text for file in files}


# What a real dry run is made for, with the module changed: the script of every rule, a method of each kind, and what all
# jobs reach. All other modules are looked up in what the rules name.
TRIED = ("antidote", "scripts.*", "antidote.attacks.badnet", "antidote.defenses.finetune")


def source_cases() -> list[Case]:
    """Return a case per module of `TRIED`, and one for all modules that no job reaches."""
    changed = "\n_CHANGED = 1\n"
    tried = {m: file for m, file in modules().items() if jobs_of(m) and any(fnmatch(m, name) for name in TRIED)}

    def unused(project: Path) -> dict[str, str]:
        return appended([file for m, file in modules(project).items() if not jobs_of(m)], changed)(project)

    cases = [Case(m, appended([file], changed), jobs_of(m)) for m, file in tried.items()]
    return [*cases, Case("modules that no job reaches", unused)]


def reworded(project: Path) -> dict[str, str]:
    """Give every module other comments, docstrings and line breaks."""
    return {file: _reworded((project / file).read_text()) for file in modules(project).values()}


def _reworded(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[0].value.value = "Other words."
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Field":
            for keyword in node.keywords:
                if keyword.arg == "description":
                    keyword.value = ast.Constant("Other words.")
    return "# A comment.\n" + ast.unparse(ast.fix_missing_locations(tree)) + "\n# Another.\n"


def added_class(project: Path) -> dict[str, str]:
    file = "data/classes/scenes.json"
    return {file: json.dumps([*json.loads((project / file).read_text()), "zebra"])}


TEMPLATES = '["a {}.", "some {}."]'
DATA_CASES = [
    Case("nothing", lambda project: {}),
    Case("comments, docstrings, descriptions", reworded),
    Case("templates", lambda project: {"data/templates/scenes.json": TEMPLATES}, ("poison *", *SCORES)),
    Case("templates of others", lambda project: {"data/templates/simple.json": TEMPLATES}),
    Case("classes", added_class, SCORES),
    Case("lexicon", appended(["data/lexicons/scenes.json"], "\n"), ("defend * ta_cleaner",)),
    Case("model", appended(["data/models/tiny-rn.json"], "\n"), ("clean_model *", "backdoored_model *")),
    Case("page template", appended(["antidote/summary/page.html.j2"], "\n<p>more</p>\n"), ("summary",)),
    Case("known datasets", appended(["data/datasets.yaml"], "\nmore: {source: scenes, splits: {}}\n")),
    Case("default study", appended(["config.yaml"], "\nlexicon: none\n")),
    Case("resources", appended(["profiles/default/config.yaml"], "\nlatency-wait: 9\n")),
    Case("environments", appended(["envs/train.yaml", "envs/workflow.yaml"], "\n# a comment\n")),
    Case("comments in the rules", appended(["Snakefile", "rules/common.smk", "rules/defend.smk"], "\n# a comment\n")),
    Case("a command", lambda project: {"rules/pretrain.smk": (project / "rules/pretrain.smk").read_text().replace(
        "{params.options} --poison", "--poison")}, ("backdoored_model *",)),
    Case("a score gone by", lambda project: {"results/tiny/badnet/seed0/none/scores.json": "{}"}, ("summary",)),
]  # fmt: skip


@pytest.mark.parametrize("case", [*DATA_CASES, *source_cases()], ids=lambda case: case.name)
def test_a_file_runs_again_what_reaches_it(case, outcomes):
    assert outcomes[case.name].result() == case.expected()


@pytest.fixture(scope="module")
def reached(tmp_path_factory) -> dict[str, frozenset[str]]:
    """The modules that each job of the tiny study can reach from those that its rule names."""
    project = new_project(tmp_path_factory.mktemp("sources") / "project")
    return {job: fingerprint.reachable(*names) for job, names in sources(project).items()}


def test_the_rules_name_a_source_for_every_job(reached):
    assert reached.keys() == chain().keys() and all(reached.values())


@pytest.mark.parametrize("module", modules())
def test_a_module_is_reached_by_the_jobs_that_depend_on_it(module, reached):
    """What jobs reach is in their fingerprint (tests/unit/test_fingerprint.py), and what follows from them runs too."""
    found = {job for job, names in reached.items() if module in names}
    assert affected(chain(), found) == affected(chain(), jobs_of(module) or ())


def test_every_module_has_its_jobs():
    unknown = [module for module in modules() if jobs_of(module) is None]
    assert not unknown, f"say in MODULES which jobs depend on {', '.join(unknown)}"


def test_new_file_times_run_nothing_again(linked):
    """As after `git clone`, or where an editor saved a file as it was."""
    project = linked()
    for path in project.rglob("*"):
        if path.is_file() and path.stat().st_nlink == 1:  # not what other tests share
            os.utime(path)
    assert scheduled(project) == set()


def test_edits_are_taken_back(linked):
    """What the tests above rely on."""
    project = linked()
    path = project / "config.yaml"
    before = (path.read_text(), path.stat().st_mtime_ns)
    with edited(project, {"config.yaml": "x", "new": "y"}):
        assert path.read_text() == "x"
    assert (path.read_text(), path.stat().st_mtime_ns) == before and not (project / "new").exists()

"""What a user meets on the command line: which study runs, what is refused and how, lint, report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT, STUDY, copy_project, edited, environment, new_project, snakemake, study


@pytest.fixture(scope="module")
def project(linked):
    """A copy that these tests leave as it is."""
    return linked()


def said(project: Path, *arguments: str, config: str | None = STUDY) -> str:
    """Return what snakemake says to a study that it refuses, after its greeting."""
    done = snakemake(project, "-n", *arguments, config=config)
    assert done.returncode == 1, done.stdout
    return done.stdout.replace("Using workflow specific profile profiles/default for setting default command line "
                               "arguments.\n", "")  # fmt: skip


# --- which study ------------------------------------------------------------------------------------------------------


def test_a_study_stands_alone(project):
    """The default study has a defense `cleanclip`; Snakemake by itself would merge it into any other study."""
    assert "cleanclip" in snakemake(project, "-n", config=None).stdout
    assert "cleanclip" not in snakemake(project, "-n", "--forceall").stdout
    text = study(project, {"defenses": {}, "study": "other"})
    with edited(project, {"other.yaml": text}):
        done = snakemake(project, "-n", config="other.yaml")
        assert done.returncode == 0 and "results/other/" in done.stdout
        assert "rule defend:" not in done.stdout and "results/default" not in done.stdout


def test_keys_on_the_command_line(project):
    done = snakemake(project, "-n", "--config", "study=mine", 'attacks={"blended": {"blend_ratio": 0.4}}', "seeds=[7]")
    assert done.returncode == 0, done.stdout
    assert "results/mine/blended/seed7/" in done.stdout and "results/mine/badnet/seed7/" in done.stdout
    assert "seed0" not in done.stdout
    done = snakemake(project, "-n", "--config", "datasets={tiny: {splits: {test: {pairs: 50, seed: 3}}}}")
    assert done.returncode == 0 and "split=test" in done.stdout and "split=train" not in done.stdout


def test_one_cell_alone(project):
    target = "results/tiny/badnet/seed0/finetune/scores.json"
    done = snakemake(project, "-n", "--forceall", target)
    assert done.returncode == 0, done.stdout
    assert "attack=badnet" in done.stdout and "blended" not in done.stdout and "ta_cleaner" not in done.stdout


@pytest.mark.parametrize("way", ["--directory", "--snakefile"])
def test_wordnet_is_fetched_from_every_working_folder(tmp_path, way):
    """WordNet lies in the checkout, the results in the working folder."""
    project, elsewhere = new_project(tmp_path / "project"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "words.yaml").write_text(study(project, {"lexicon": "wordnet"}))
    profile = ["--workflow-profile", project / "profiles/default"]
    place, given = (project, ["--directory", elsewhere]) if way == "--directory" else (
        elsewhere, ["--snakefile", project / "Snakefile", *profile])  # fmt: skip
    done = snakemake(place, "-n", *map(str, given), config=str(tmp_path / "words.yaml"))
    assert done.returncode == 0, done.stdout
    assert f"{project}/data/wordnet/index.noun" in done.stdout and "rule wordnet:" in done.stdout
    done = snakemake(project, "-n", config=str(tmp_path / "words.yaml"))
    assert done.returncode == 0 and " data/wordnet/index.noun" in done.stdout, done.stdout


@pytest.mark.parametrize("target", ["models", "clean_references"])
def test_named_targets(project, target):
    done = snakemake(project, "-n", "--forceall", target)
    assert done.returncode == 0 and "rule summary:" not in done.stdout
    assert ("rule defend:" in done.stdout) == (target == "models")


def test_one_core_trains_the_model_of_two(finished, tmp_path):
    project = copy_project(finished, tmp_path / "project")
    weights = "results/tiny/clean/seed0/model/open_clip_model.safetensors"
    of_two = (project / weights).read_bytes()
    done = snakemake(project, weights, "--cores", "1", "--forcerun", "clean_model")
    assert done.returncode == 0 and "rule clean_model:" in done.stdout, done.stdout
    assert (project / weights).read_bytes() == of_two


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"seedz": [0]}, "seedz: unknown key; did you mean 'seeds'?"),
        ({"pretraining.lr": "fast"}, "pretraining.lr: input should be a valid number, unable to parse"),
        ({"attacks.badnet.patch_sise": 4}, "attacks.badnet: patch_sise: unknown key; did you mean 'patch_size'?"),
        ({"target": "bananna"}, "target: 'bananna' is not among the 24 classes of 'scenes'; did you mean 'banana'?"),
    ],
)
def test_a_wrong_study_is_one_line(project, changes, text):
    with edited(project, {"wrong.yaml": study(project, changes)}):
        answer = said(project, config="wrong.yaml")
    assert answer.startswith(f"error: wrong.yaml: {text}") and answer.count("\n") == 1


def test_a_wrong_key_on_the_command_line_is_one_line(project):
    assert (
        said(project, "--config", "lexikon=none") == f"error: {STUDY}: lexikon: unknown key; did you mean 'lexicon'?\n"
    )
    answer = said(project, "--config", "datasets={")
    assert answer == f"error: {STUDY}: datasets: input should be a valid dictionary, not '{{'\n"


def test_a_key_that_stands_there_twice_is_one_line(project):
    text = (project / STUDY).read_text() + "\nseeds: [1]\n"
    with edited(project, {"twice.yaml": text}):
        answer = said(project, config="twice.yaml")
    number = text.count("\n")
    assert (
        answer == f"error: twice.yaml, line {number}, column 1: not valid YAML or JSON ('seeds' stands there twice)\n"
    )


@pytest.mark.parametrize("content", ["", "- a\n", "study: [\n", "a:\n\tb: 1\n"])
def test_what_is_no_study_at_all(project, content):
    """Snakemake reads the file before the Snakefile has a say; its words are few, and name no line."""
    with edited(project, {"none.yaml": content}):
        answer = said(project, config="none.yaml")
        assert "Traceback" not in answer and answer.startswith("WorkflowError:\nConfig file ")
        check = [sys.executable, "-m", "scripts.check", "none.yaml"]
        done = subprocess.run(check, cwd=project, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr.startswith("error: none.yaml") and done.stderr.count("\n") == 1


def test_a_missing_study(project):
    assert said(project, config="nowhere.yaml").strip().endswith("No such file or directory: 'nowhere.yaml'")


# --- the workflow itself ----------------------------------------------------------------------------------------------


def test_reading_the_snakefile_is_light():
    code = (
        "import sys\nfrom snakemake.cli import main\n"
        f"try:\n    main(['-n', '--quiet', 'all', '--configfile', {STUDY!r}])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'torchvision', 'open_clip', 'matplotlib', 'nltk'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_lint_and_format(project):
    done = snakemake(project, "--lint")
    assert done.returncode == 0, done.stdout
    snakefmt = [Path(sys.executable).with_name("snakefmt"), "--check", "Snakefile", "rules"]
    done = subprocess.run(snakefmt, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_snakemakes_own_report(project):
    done = snakemake(project, "--report", "report.html")
    assert done.returncode == 0, done.stdout
    page = (project / "report.html").read_text()
    assert "heatmap.png" in page and "cells.csv" in page

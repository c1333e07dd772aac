"""What a host of repositories, a catalog or a container reads: the files parse, and what they name exists."""

import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from antidote.base.fingerprint import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PAGES = [
    ROOT / name for name in ("CHANGELOG.md", "SECURITY.md", "config/README.md", ".github/pull_request_template.md")
]
RECIPES = [ROOT / name for name in ("Dockerfile", "apptainer.def", ".dockerignore")]
METADATA = [ROOT / "CITATION.cff", ROOT / ".snakemake-workflow-catalog.yml"]
CONFIG = GITHUB / "ISSUE_TEMPLATE" / "config.yml"
FILES = [*WORKFLOWS, *FORMS, CONFIG, *PAGES, *RECIPES, *METADATA, ROOT / "docs/containers.md"]
FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
# Absolute paths that a recipe or a page may name: those of the images, and placeholders.
PLACES = ("/antidote", "/opt/antidote", "/path/to", "/tmp")


def read(path: Path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


@FILE
def test_no_path_or_host_of_one_machine(path):
    text = re.sub(r"https?://[\w./-]+", "", path.read_text(encoding="utf-8"))
    found = re.findall(
        r"(?<![\w.}*)\]~-])/(?:antidote|path|opt|home|root|work|tmp|usr|mnt|srv|data|var|etc)\b[\w./-]*", text
    )
    assert [name for name in found if not name.startswith(PLACES)] == []
    assert not re.search(r"index-url|localhost|\b\d+\.\d+\.\d+\.\d+:\d+", text)


@FILE
def test_make_targets_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|run: |^)make ([a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


def test_every_kind_of_check_runs():
    commands = {step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step}
    assert {
        "make lint",
        "make test",
        "make test-workflow",
        "make demo",
        "make docker-image",
        "make site",
        "make test-site",
    } <= commands


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_pinned_and_may_only_read(path):
    flow = read(path)
    assert flow["permissions"] == {"contents": "read"}
    for job in flow["jobs"].values():
        assert re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"]) and job["timeout-minutes"]
    for step in steps(path):
        assert re.fullmatch(r"actions/[\w-]+@v\d+(\.\d+)*|[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", "actions/x@v1"))
        cached = step.get("with", {}).get("cache-dependency-path", "").split()
        assert all((ROOT / lock).is_file() for lock in cached)
        assert "setup-python" not in step.get("uses", "") or "requirements.lock" in cached


def test_each_python_is_tested():
    tests = read(GITHUB / "workflows" / "tests.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert project()["requires-python"] == f">={tests[0]},<3.{int(tests[-1].split('.')[1]) + 1}"
    assert all(int(after[2:]) == int(before[2:]) + 1 for before, after in pairwise(tests))


SCHEMAS = {
    "vendor.github-workflows": WORKFLOWS,
    "vendor.github-issue-forms": FORMS,
    "vendor.github-issue-config": [CONFIG],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}


def command(name: str) -> str:
    """Return a command of this environment or of the machine; a test without it is skipped."""
    found = shutil.which(str(Path(sys.executable).with_name(name))) or shutil.which(name)
    return found or pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_follow_their_published_schema(schema):
    call = [command("check-jsonschema"), "--builtin-schema", schema, *SCHEMAS[schema]]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_actionlint_finds_nothing():
    done = subprocess.run([command("actionlint"), *WORKFLOWS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_forms_ask_for_something_under_names_of_their_own(path):
    form = read(path)
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert form["name"] and form["description"] and len(names) == len(set(names))
    assert any(field.get("validations", {}).get("required") for field in fields)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_lead_to_files_that_exist(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        assert link.startswith("https://keepachangelog.com/") or (path.parent / link).exists(), link


# --- metadata --------------------------------------------------------------------------------------------------------


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_citation_and_changelog_name_the_version_of_the_package():
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == project()["version"] and citation["license"] == project()["license"]
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert project()["version"] in heads[0]


def test_catalog_names_deployments_that_rules_have():
    deployment = read(ROOT / ".snakemake-workflow-catalog.yml")["usage"]["software-stack-deployment"]
    rules = "".join(path.read_text() for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    assert deployment == {
        "conda": "conda:\n" in rules,
        "apptainer": bool(re.search(r'^container: "', rules, re.MULTILINE)),
        "apptainer+conda": False,
        "report": "report(" in rules,
    }


# --- images ----------------------------------------------------------------------------------------------------------


def test_both_recipes_install_the_lock_into_one_pinned_base():
    docker, apptainer = ((ROOT / name).read_text() for name in ("Dockerfile", "apptainer.def"))
    base = re.search(r"^FROM (.*)$", docker, re.MULTILINE)[1]
    assert re.fullmatch(r"python:3\.1[12]\.\d+-slim-[a-z]+", base)
    assert re.search(r"^From: (.*)$", apptainer, re.MULTILINE)[1] == base
    installs = [re.search(r"python -m pip install .*", recipe)[0] for recipe in (docker, apptainer)]
    assert installs[0] == installs[1] and "--require-hashes -r /opt/antidote/requirements.lock" in installs[0]
    assert docker.index("HOME=") > docker.index("pip install"), "a home folder that root has used is closed to users"
    assert "requirements.lock /opt/antidote/requirements.lock" in docker
    assert "requirements.lock /opt/antidote/requirements.lock" in apptainer
    assert "!requirements.lock" in (ROOT / ".dockerignore").read_text().splitlines()
    assert f"`{base}`" in (ROOT / "docs" / "containers.md").read_text()


def test_rules_use_the_image_that_make_builds_and_the_download_uses_none():
    image = re.search(r'^container: "(.*)"$', (ROOT / "Snakefile").read_text(), re.MULTILINE)[1]
    assert re.search(
        rf"^{re.escape(image)}: apptainer\.def requirements\.lock$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    download = re.search(r"^rule download:\n(.*?)^rule ", (ROOT / "rules" / "data.smk").read_text(), re.M | re.S)[1]
    assert re.search(r"^    container:\n        None$", download, re.MULTILINE)

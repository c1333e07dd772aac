"""What is wrong with a stage of dvc.yaml is told before anything is recorded."""

import re

import pytest

from antidote.base.errors import UserError
from antidote.base.files import DATA
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study import tracks
from antidote.study.layout import PUBLISHED
from antidote.study.study import Study
from scripts.snapshot import new_stage, require_files

STUDY = "tests/studies/tiny.yaml"


@pytest.mark.parametrize(
    ("command", "params"),
    [
        ("snakemake --cores all --configfile 'my studies/old.yaml'", []),
        ("snakemake --cores all", [{"my studies/old.yaml": None}]),
        ("snakemake --cores all", ["seeds", {"my studies/old.yaml": ["attacks"]}]),
    ],
)
def test_a_renamed_study_is_named(tmp_path, monkeypatch, command, params):
    monkeypatch.chdir(tmp_path)
    stage = {"cmd": command, "params": params}
    line = (
        r"^dvc\.yaml: stages\.tiny: its cmd and params still name my studies/old\.yaml, which is not there; write the"
    )
    with pytest.raises(UserError, match=line):
        require_files("tiny", stage)
    (tmp_path / "my studies").mkdir()
    (tmp_path / "my studies" / "old.yaml").touch()
    require_files("tiny", stage)


def test_the_stages_of_this_project_name_what_is_there(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, stage in read_mapping("dvc.yaml")["stages"].items():
        require_files(name, stage)
    require_files("of somebody else", {"cmd": "python train.py", "params": ["lr", "epochs"]})
    require_files("without a command", {})


@pytest.mark.parametrize(
    ("outs", "line"),
    [
        (["results/a.b"], "study.yaml: study: 'a.b' and 'a-b' are both 'a-b' in dvc.yaml, which has - for .; rename"),
        ([{"results/a.b": {"persist": True}}, "data/x"], "study.yaml: study: 'a.b' and 'a-b' are both 'a-b'"),
        (["results/other"], "dvc.yaml: stages.a-b: is there, but results/a-b is not among its outs; add it"),
        ([], "dvc.yaml: stages.a-b: is there, but results/a-b is not among its outs; add it"),
    ],
)  # fmt: skip
def test_a_stage_that_has_the_name_of_a_new_one_is_told(outs, line):
    """Of two studies whose names differ in dots alone, one has to be renamed."""
    study = Study({**read_mapping(str(ROOT / STUDY)), "study": "a-b"}, "study.yaml")
    with pytest.raises(UserError) as error:
        new_stage({"a-b": {"outs": outs}}, study, "study.yaml")
    assert str(error.value).startswith(line)


@pytest.mark.parametrize("stage", ["default", "a new one"])
def test_a_stage_depends_on_all_that_jobs_read(stage):
    """What `dvc repro` calls unchanged is unchanged for Snakemake too."""
    stages = read_mapping(str(ROOT / "dvc.yaml"))["stages"]
    if stage != "default":
        stage = new_stage(stages, Study({**read_mapping(str(ROOT / STUDY)), "study": "new"}, "x"), "study.yaml")
    code = "".join(path.read_text() for path in (ROOT / "antidote").rglob("*.py"))
    kinds = {"descriptions", *re.findall(r'names_file\("(\w+)"', code)}
    assert kinds >= {"classes", "folders", "lexicons", "models", "templates"}
    read = {*(DATA / kind for kind in kinds), DATA / "datasets.yaml", tracks.FILE, PUBLISHED}
    assert all(path.exists() for path in read)
    held = [ROOT / path for path in stages[stage]["deps"]]
    assert [path for path in read if not any(dep == path or dep in path.parents for dep in held)] == []
    assert all(dep.exists() for dep in held)


def test_a_study_without_a_stage_gets_one():
    study, stages = Study({**read_mapping(str(ROOT / STUDY)), "study": "a.b"}, "study.yaml"), {}
    assert new_stage(stages, study, "study.yaml") == "a-b"
    assert stages["a-b"]["cmd"] == "snakemake --cores all --configfile study.yaml"

"""A stage of dvc.yaml that names a file which has another name by now is told before anything is recorded."""

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from scripts.snapshot import require_files


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

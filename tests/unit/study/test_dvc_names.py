"""Names in dvc.yaml, which allows no dot: two entries never share one."""

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study.artifacts import artifacts
from antidote.study.study import Study

FILE = "tests/studies/tiny.yaml"


def study(kind, *names, **further):
    """Return the tiny study with copies of one attack or defense under these names, and further entries."""
    values = read_mapping(str(ROOT / FILE))
    one = next(iter(values[kind].values()))
    return Study({**values, kind: {**dict.fromkeys(names, one), **further}}, FILE)


@pytest.mark.parametrize("kind", ["attacks", "defenses"])
def test_names_that_differ_in_dots_alone_are_refused(kind):
    line = f"^{FILE}: {kind}: 'v1.5' and 'v1-5' are both 'v1-5' in dvc.yaml, which has - for .; rename one of them$"
    with pytest.raises(UserError, match=line):
        study(kind, "v1.5", "v1-5")


def test_names_of_a_sweep_count():
    swept = {"method": "finetune", "training": {"lr": [0.1, 0.2]}}
    with pytest.raises(UserError, match=r"defenses: 'one_lr0-1' and 'one_lr0\.1' are both 'one_lr0-1'"):
        study("defenses", "one_lr0-1", one=swept)


def test_every_model_of_other_names_is_an_artifact():
    found = artifacts(study("attacks", "v1.5", "v1-6", "v1_5"))
    assert {"v1-5/seed0", "v1-6/seed0", "v1_5/seed0"} <= set(found)

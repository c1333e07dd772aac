"""Variables of the environment that are empty, lists or no numbers count as not set."""

import os
import re
from pathlib import Path

import pytest

from antidote.base import command_line, environment
from antidote.base.cache import PLACE, named_place
from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT


@pytest.mark.parametrize(
    ("value", "number"),
    [("4", 4), (" 4 ", 4), ("4,2", 4), ("2 , 1", 2), ("", None), (" ", None), ("0", None), ("-3", None), ("4.5", None),
     ("many", None), (",4", None), ("4x", None), ("$SLURM_CPUS_PER_TASK", None)],
)  # fmt: skip
def test_a_number_or_not_set(monkeypatch, tmp_path, value, number):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert environment.number("OMP_NUM_THREADS") == number
    assert command_line.Cost().write(tmp_path / "cost.json")["threads"] == (number or len(os.sched_getaffinity(0)))
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert environment.threads() == len(os.sched_getaffinity(0))


def test_a_shared_place_in_a_home_folder_that_nobody_has(monkeypatch):
    """As in a container, whose user no file knows."""
    monkeypatch.setenv(PLACE, "~nobody-at-all/cache")
    with pytest.raises(UserError, match=rf"^{PLACE}: ~nobody-at-all/cache: this user has no home folder; set HOME"):
        named_place()
    for value, place in (("", None), ("/shared", Path("/shared"))):
        monkeypatch.setenv(PLACE, value)
        assert named_place() == place
    monkeypatch.delenv(PLACE)
    assert named_place() is None


def test_no_variable_is_turned_into_a_number_elsewhere():
    """`antidote/data/download/worker.py` reads what the download sets; torchrun sets LOCAL_RANK."""
    wrong = re.compile(r"(int|float)\(os\.(environ|getenv)")
    found = [
        path.relative_to(ROOT)
        for folder in ("antidote", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if wrong.search(line) and "LOCAL_RANK" not in line
    ]
    assert found == [Path("antidote/data/download/worker.py")]

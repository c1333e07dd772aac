"""What a results file may not say of its seeds."""

from __future__ import annotations

import json

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.summary.exchange import read_result

KEPT = ROOT / "leaderboard"
SEEDS = {"0": 0.4, "1": 0.2}


def cell(folder, **changes):
    """Write a cell of the leaderboard with some keys changed; return the result that is read."""
    values = json.loads((KEPT / "tiny-1/default/badnet--cleanclip.json").read_text())
    (folder / "one.json").write_text(json.dumps({**values, **changes}))
    return read_result(folder / "one.json")


@pytest.mark.parametrize(
    ("figure", "says"),
    [
        ({"mean": 0.3, "seeds": SEEDS}, "std: is null, and 2 seeds have a standard deviation"),
        ({"mean": 0.4, "std": 0.0, "seeds": {"0": 0.4}}, "std: is 0, and one seed has no standard deviation"),
    ],
)
@pytest.mark.parametrize("status", ["measured", "reported"])
def test_a_deviation_belongs_to_several_seeds(tmp_path, figure, says, status):
    """A null beside several seeds would be a spread of zero."""
    changes = {"status": status, "source": {"title": "default", "url": "https://example.org"}}
    with pytest.raises(UserError, match=f"one.json: figures.asr1: {says}"):
        cell(tmp_path, **changes, figures={"asr1": figure})


def test_a_reported_deviation_needs_no_values_by_seed(tmp_path):
    changes = {"status": "reported", "source": {"title": "log", "url": "https://example.org"}}
    assert cell(tmp_path, **changes, figures={"asr1": {"mean": 0.3, "std": 0.1}}).figures["asr1"].std == 0.1

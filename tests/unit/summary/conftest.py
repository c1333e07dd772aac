"""What several tests of the summary share: results, plan and table of the tiny study, and a track that fixes nothing."""

from pathlib import Path

import pandas as pd
import pytest
from tiny_study import PLAN, make_study

from antidote.study.tracks import tracks
from antidote.summary.cells import read_cells
from antidote.summary.plan import SummarySettings
from antidote.summary.tables import summarise


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return make_study(tmp_path)


@pytest.fixture
def plan() -> SummarySettings:
    return SummarySettings.read(PLAN, "plan")


@pytest.fixture
def table(plan: SummarySettings, results: Path) -> pd.DataFrame:
    return summarise(read_cells(plan, results), plan)


@pytest.fixture(scope="module")
def anything_goes():
    """The track of the made-up study fixes nothing."""
    fixes = tracks()["open"].fixes
    kept = dict(fixes)
    fixes.clear()
    yield
    fixes.update(kept)

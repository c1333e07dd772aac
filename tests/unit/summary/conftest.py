"""What several tests of the summary share: the results, plan and table of the tiny study."""

from pathlib import Path

import pandas as pd
import pytest
from tiny_study import PLAN, make_study

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

"""Published figures are consistent, and a study shows those of its own track and model alone."""

import re

import pandas as pd
import pytest
import yaml

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.registry import KINDS
from antidote.base.settings import read_mapping
from antidote.study.layout import PUBLISHED
from antidote.summary.plan import SummarySettings
from antidote.summary.published import beside, read_published

ATTACKS = [
    {"name": "patch", "method": "badnet", "settings": {"pattern": "noise"}},
    {"name": "striped", "method": "badnet", "settings": {"pattern": "stripes"}},
]


def plan(**changes):
    defenses = [{"name": "cleanclip", "method": "cleanclip"}]
    values = {"study": "s", "model": "RN50", "track": "paper 1", "attacks": ATTACKS, "defenses": defenses, **changes}
    return SummarySettings.read(values, "plan")


TABLE = pd.DataFrame(
    {
        "attack": ["clean", "patch", "patch", "striped"],
        "defense": ["none", "none", "cleanclip", "cleanclip"],
        "sweep": [""] * 4,
        "picked": [""] * 4,
        "asr1_mean": [float("nan"), 0.951, 0.222, 0.5],
        "ca1_mean": [0.597, 0.58, 0.55, 0.5],
    }
)


def test_a_page_that_quotes_an_unchecked_table_says_so():
    """Figures from memory are marked wherever the table is named, such as "BadCLIP's Table 1"."""
    published = read_published()
    tables = [table for table in published.tables if table.known == "unchecked"]
    names = {f"{published.papers[table.paper].title.partition(':')[0]}'s {table.source}" for table in tables}
    assert names, "every table is checked: remove this test"
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = " ".join(path.read_text(encoding="utf-8").split())
        for name in names:
            assert text.count(name) <= text.count("from memory and not checked"), f"{path.name}: {name}"


def test_the_file_is_valid_and_known_figures_are_in_it():
    found = read_published()
    values = {(f.paper, f.setting, f.attack, f.defense): f.values for f in found.figures() if "asr1" in f.values}
    assert values["rvpt", "vit", "badclip", "rvpt"] == {"asr1": 2.76, "ca1": 61.81}
    assert values["abd", "rn50", "badnet", "cleanclip"] == {"asr1": 14.02, "ca1": 55.85}
    used = {figure.setting for figure in found.figures()}
    assert used == set(found.settings)
    for kind in ("attack", "defense"):
        names = getattr(found, f"{kind}s")
        assert {getattr(figure, kind) for figure in found.figures()} == set(names)
        assert all(one.method in KINDS[kind] for one in names.values() if one.method)


def test_a_study_has_the_figures_of_its_track_and_model_beside_its_own():
    rows = {(row["attack"], row["defense"], row["source"].split(",")[0]): row for row in beside(plan(), TABLE)}
    row = rows["patch", "cleanclip", "Adversarial Backdoor Defense in CLIP"]
    assert row["ours"] == {"asr1": "22.2", "ca1": "55.0"} and row["theirs"] == {"asr1": "14.02", "ca1": "55.85"}
    assert row["source"].endswith("; figure")
    assert not any(attack == "striped" for attack, _, _ in rows)  # stripes were published for another number of pairs
    assert beside(plan(model="RN101"), TABLE) == []
    assert beside(plan(track="tiny 1"), TABLE) == []
    assert beside(plan(track=""), TABLE) == []


@pytest.mark.parametrize(
    "change,text",
    [
        (["badnet", "none", 101.0, 50.0], "asr1: 101 is out of range"),
        (["badnet", "none", 1.0], "needs 4 parts"),
        (["badnett", "none", 1.0, 2.0], "unknown attack 'badnett'"),
        (["badnet", "non", 1.0, 2.0], "unknown defense 'non'"),
        (["badnet", "none", 82.69, 63.04], "asr1 is given twice"),
    ],
)
def test_a_wrong_row_is_told_in_one_line(tmp_path, change, text):
    values = read_mapping(str(PUBLISHED))
    values["tables"][0]["rows"].append(change)
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=f"^published.yaml: .*{re.escape(text)}") as error:
        read_published(file)
    assert "\n" not in str(error.value)

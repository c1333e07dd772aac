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
        compared = {table.against for table in found.tables if kind == "defense" and table.against}
        assert {getattr(figure, kind) for figure in found.figures()} | compared == set(names)
        assert all(one.method in KINDS[kind] for one in names.values() if one.method)


@pytest.mark.parametrize(
    "paper,setting,attack,defense,values",
    [
        ("rvpt", "vit_hashes", "badclip", "rvpt", {"asr1": 3.78, "ca1": 61.37}),
        ("rvpt", "vit_caltech_without_target", "badnet", "rvpt", {"asr1": 0.04, "ca1": 93.71}),
        ("rvpt", "vit_retrieval", "unnamed", "rvpt", {"asr_retrieval": 0, "rank_ratio": 82.12, "ca1": 69.89}),
        ("rvpt", "vit_captioning", "unnamed", "vpt", {"asr_captions": 81.21, "bleu": 4.64}),
        ("rvpt", "vit", "any", "cleanclip", {"seconds": 13982, "megabytes": 17640, "pairs": 250000}),
        ("abd", "rn50", "badnet", "abd_texts", {"asr1": 59.83, "ca1": 53.10}),
        ("cleanclip", "rn50_scratch", "blended", "cleanclip", {"asr1": 1.83, "ca1": 17.4}),
        ("immuneclip", "rn50_log_whole", "badclip", "invertune", {"asr1": 0.05, "ca1": 57.02}),
        ("immuneclip", "rn50_log", "badclip_aligned", "invertune", {"delivered": 0, "worst": 82.8, "area": 0.746, "ca1": 56.9}),
        ("badclip", "rn50", "mmpoison", "none", {"asr1": 0.17, "ca1": 57.98}),
        ("ta_cleaner", "unread_imagenet", "badclip", "ta_cleaner", {"asr1_change": -52.02, "asr10_change": -63.88}),
        ("ubt_token", "unread", "mean", "ubt", {"asr1_change": -19, "ca1_change": 2.57}),
        ("mmpoison", "flickr_pascal", "mmpoison", "none", {"hit1": 32.0, "hit5": 92.8, "hit10": 96.8, "min_rank": 2.18}),
    ],
)  # fmt: skip
def test_a_figure_of_the_research_pages_is_in_it(paper, setting, attack, defense, values):
    place = (paper, setting, attack, defense)
    found = [f.values for f in read_published().figures() if (f.paper, f.setting, f.attack, f.defense) == place]
    assert values in found


def test_changes_are_those_that_the_claims_name():
    changes = [figure for figure in read_published().figures() if figure.against]
    claims = read_mapping(str(ROOT / "data" / "claims.yaml"))
    for paper in ("ta_cleaner", "ubt_token"):
        named = {float(claim["value"].split()[0]) for claim in claims.values() if claim["paper"] == paper}
        assert named == {value for figure in changes if figure.paper == paper for value in figure.values.values()}


def test_a_figure_without_a_rate_has_no_row_beside_a_study():
    """ABD's changes from CleanCLIP are of the track and model of the plan."""
    rows = beside(plan(), TABLE)
    assert rows and all(row["theirs"]["asr1"] or row["theirs"]["ca1"] for row in rows)
    assert not any("abstract" in row["source"] for row in rows)


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


@pytest.mark.parametrize(
    "change,text",
    [
        ({"figures": ["asr1_change"]}, "against: should name a defense for changes, and nothing else"),
        ({"figures": ["asr1_change"], "against": "cleanclp"}, "against: should name a defense"),
        ({"against": "cleanclip"}, "against: should name a defense for changes, and nothing else"),
        ({"figures": ["asr11"]}, "unknown figure 'asr11'"),
        ({"figures": ["area"]}, "area: 50 is out of range"),
        ({"figures": ["asr1_change"], "against": "cleanclip", "rows": [["badnet", "par", -101]]}, "-101 is out of range"),
        ({"figures": ["min_rank"], "rows": [["badnet", "par", 0.5]]}, "min_rank: 0.5 is out of range"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_told(tmp_path, change, text):
    values = read_mapping(str(PUBLISHED))
    table = {"paper": "par", "setting": "rn50", "source": "s", "known": "log", "figures": ["asr1"]}
    values["tables"].append({**table, "rows": [["badnet", "par", 50]], **change})
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=re.escape(text)) as error:
        read_published(file)
    assert "\n" not in str(error.value)

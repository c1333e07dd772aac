"""What papers report of the defenses at full size: the committed page has the figures of data/published.yaml."""

import re

import pytest

from antidote.base.fingerprint import ROOT
from antidote.summary.full_size import DEFENSES, full_size
from antidote.summary.published import Published, read_published
from scripts import published as script

PAGE = ROOT / "docs" / "is-my-clip-backdoored.md"
PAPER = {"title": "Cleaning (Clean): a study", "year": 2025, "venue": "arXiv", "url": "https://arxiv.org/abs/1"}
UNREAD = "not stated in what could be read"


def rows(text, defense):
    """Return the cells of the rows of a defense."""
    lines = [line for line in text.splitlines() if line.startswith(f"| `{defense}`")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def published(**table):
    """Return published figures of one table."""
    rows = [
        ["badnet", "none", 90, 60.0],
        ["sig", "none", 80, 61.0],
        ["badnet", "par", 4, 58.5],
        ["sig", "par", 31, 61.5],
    ]
    whole = {
        "paper": "p",
        "setting": "s",
        "source": "Table 1",
        "known": "paper",
        "figures": ["asr1", "ca1"],
        "rows": rows,
    }
    return Published.read(
        {
            "papers": {"p": PAPER},
            "settings": {"s": {"model": "RN50", "data": "pairs", "evaluation": "ImageNet-1K validation"},
                         "u": {"model": UNREAD, "data": UNREAD, "evaluation": UNREAD}},
            "attacks": {"badnet": {"method": "badnet"}, "sig": {"method": "sig"}, "all": {"about": "the mean over all"}},
            "defenses": {"none": {"method": "none"}, "par": {"method": "par"}, "prior": {"about": "an earlier one"}},
            "tables": [{**whole, "overview": True, **table}],
        },
        "published",
    )  # fmt: skip


def test_the_page_is_what_its_command_writes(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    script.run(script.arguments().parse_args(["--page", str(page)]))
    assert page.read_text(encoding="utf-8") == text, (
        "run python scripts/published.py --page docs/is-my-clip-backdoored.md"
    )


def test_without_a_page_the_table_is_printed(capsys):
    script.run(script.arguments().parse_args([]))
    assert capsys.readouterr().out == full_size(read_published())


def test_every_defense_is_in_the_table():
    text = full_size(read_published())
    assert all(rows(text, defense) for defense in DEFENSES)
    assert "unchecked" not in text, "a figure from memory is not quoted"


def test_a_row_has_the_range_over_attacks_and_the_loss_against_the_undefended_model_of_the_table():
    [row] = rows(full_size(published()), "par")
    assert row == [
        "`par`",
        "RN50",
        "4 (badnet) to 31 (sig)",
        "-0.5 to 1.5",
        "Cleaning (Clean) 2025, Table 1; read in the paper",
    ]


def test_without_an_undefended_model_the_row_has_the_accuracy():
    text = full_size(published(rows=[["badnet", "par", 4, 58.5], ["sig", "par", 31, 61.5]]))
    assert rows(text, "par")[0][3] == "loss not stated; CA@1 58.5 to 61.5"
    [row] = rows(full_size(published(figures=["asr1"], rows=[["all", "par", 4]])), "par")
    assert row[2:4] == ["4 (the mean over all)", "not stated"]


@pytest.mark.parametrize(
    ("against", "left", "lost"),
    [
        ("prior", "19 points lower by ASR@1 than after an earlier one (the mean over all)", "CA@1 2.5 points higher than there"),
        ("none", "19 points lower by ASR@1 than without a defense (the mean over all)", "-2.5"),
    ],
)  # fmt: skip
def test_a_change_is_told_with_what_it_counts_from(against, left, lost):
    table = {
        "setting": "u",
        "figures": ["asr1_change", "ca1_change"],
        "against": against,
        "rows": [["all", "par", -19, 2.5]],
    }
    assert rows(full_size(published(**table)), "par")[0][1:4] == ["not stated", left, lost]


def test_a_table_that_is_no_main_table_has_no_row():
    assert not rows(full_size(published(overview=False)), "par")


def test_a_reported_cost_has_a_row():
    table = {"figures": ["seconds", "megabytes", "pairs"], "rows": [["all", "par", 139, 1010, 600]], "overview": False}
    assert rows(full_size(published(**table)), "par")[0][2:5] == ["600 pictures", "2 min 19 s", "1.0 GB"]


def test_what_comes_back_is_quoted_as_published():
    """The sentence below the tables."""
    worst = {
        f.defense: f.values for f in read_published().figures() if f.attack == "badclip" and "delivered" in f.values
    }
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    for defense, name in (("par", "PAR"), ("invertune", "InverTune")):
        assert f"from {worst[defense]['delivered']:.1f} to {worst[defense]['worst']:.1f} % after {name}" in text
    assert re.search(r"--defense ta_cleaner --lexicon wordnet:FOLDER", text)


def test_a_row_without_asr_counts_for_the_accuracy_alone():
    rates = [
        ["badnet", "none", 90, 60.0],
        ["badnet", "par", 4, 58.5],
        ["sig", "none", 80, 61.0],
        ["sig", "par", None, 62],
    ]
    assert rows(full_size(published(rows=rates)), "par")[0][2:4] == ["4 (badnet)", "-1 to 1.5"]
    alone = [["all", "par", None, 62.9]]
    assert rows(full_size(published(rows=alone)), "par")[0][2:4] == ["not stated", "loss not stated; CA@1 62.9"]


def test_a_row_without_accuracy_counts_for_asr_alone():
    rates = [["badnet", "none", 90, 60.0], ["badnet", "par", 4, None]]
    assert rows(full_size(published(rows=rates)), "par")[0][2:4] == ["4 (badnet)", "not stated"]


def test_a_change_without_asr_is_told():
    table = {"figures": ["asr1_change", "ca1_change"], "against": "none", "rows": [["all", "par", None, 2.5]]}
    assert rows(full_size(published(**table)), "par")[0][2:4] == ["not stated", "-2.5"]


def test_a_cost_of_time_alone_has_a_row():
    table = {"figures": ["seconds", "megabytes", "pairs"], "rows": [["all", "par", 139, None, None]], "overview": False}
    assert rows(full_size(published(**table)), "par")[0][2:5] == ["not stated", "2 min 19 s", "not stated"]

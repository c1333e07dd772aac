"""The script of claims: the committed page is what its command writes; one line for a page or a study of no use."""

from __future__ import annotations

import re
import shlex

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from scripts import claims as script


def test_the_page_is_what_its_command_writes(tmp_path, monkeypatch):
    """From the results files of the leaderboard."""
    text = (ROOT / "docs/claims.md").read_text(encoding="utf-8")
    command = next(line for line in text.splitlines() if line.startswith("python scripts/claims.py"))
    words = shlex.split(command)[2:]
    page = tmp_path / "claims.md"
    page.write_text(text, encoding="utf-8")
    monkeypatch.chdir(ROOT)
    script.run(script.arguments().parse_args([*words[:-1], str(page)]))
    assert page.read_text(encoding="utf-8") == text
    assert words[-2:] == ["--page", "docs/claims.md"]


def test_a_study_that_is_named_twice_is_told():
    with pytest.raises(UserError, match=r"--study: config\.yaml is named twice"):
        script.run(script.arguments().parse_args(["--study", "config.yaml", "config.yaml"]))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "cannot be read (No such file or directory)"),
        (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
        (lambda path: path.write_bytes(b"\xff"), "is no text in UTF-8"),
    ],
)
def test_a_page_that_cannot_be_filled_is_told(tmp_path, make, told):
    make(tmp_path / "page.md")
    with pytest.raises(UserError, match=re.escape(f"--page: {tmp_path / 'page.md'}: {told}")):
        script.run(script.arguments().parse_args(["--page", str(tmp_path / "page.md")]))

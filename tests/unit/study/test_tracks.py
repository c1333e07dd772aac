"""A study names a track only if it keeps to the track's recipe."""

import re

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study.study import Study


def study(**changes):
    return Study({**read_mapping(str(ROOT / "config.yaml")), **changes}, "study.yaml")


def test_a_study_that_keeps_to_its_track():
    assert str(study(track={"name": "tiny", "version": 1}).file.track) == "tiny 1"
    assert study(track=None, target="boat").file.track is None


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"track": {"name": "tyni"}}, "study.yaml: track.name: unknown track 'tyni'; did you mean 'tiny'?"),
        ({"track": {"name": "tiny", "version": 9}}, "study.yaml: track.version: tiny has version 1, not 9"),
        (
            {"track": {"name": "tiny"}, "target": "apple"},
            "study.yaml: target: the track tiny 1 fixes 'banana', not 'apple'; leave out `track`",
        ),
    ],
)
def test_a_study_that_does_not(changes, text):
    with pytest.raises(UserError, match=f"^{re.escape(text)}"):
        study(**changes)

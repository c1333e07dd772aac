"""One line for whatever is wrong with the relation of a claim."""

from __future__ import annotations

import re

import pytest
import yaml

from antidote.base.errors import UserError
from antidote.summary.claims import read_claims


def read(folder, relation, studies=()):
    """Return the claims of a file with one claim, `mine`, of one relation."""
    file = folder / "claims.yaml"
    claim = {"paper": "cleanclip", "sentence": "s", "value": "v", "relations": [relation]}
    file.write_text(yaml.safe_dump({"mine": claim}))
    return read_claims({"cleanclip": "CleanCLIP (ICCV 2023)"}, file, studies)


@pytest.mark.parametrize(
    "relation,text",
    [
        ("asr(attack=badnet) < 5", "unknown figure 'asr'; did you mean 'asr5'?"),
        ("asr1_skecth(attack=badnet) < 5", "unknown figure 'asr1_skecth'; did you mean 'asr1_sketch'?"),
        ("asr_g_skecth(attack=badnet) < 5", "unknown figure 'asr_g_skecth'; did you mean 'asr_g_sketch'?"),
        ("floor_nights(attack=badnet) < 5", "unknown figure 'floor_nights'; did you mean 'floor_night'?"),
        ("ca1_prob(attack=badnet) < 5", "unknown figure 'ca1_prob'; did you mean 'ca1_probe'?"),
        ("asr1(attack=badnett) < 5", "unknown attack method 'badnett'; did you mean 'badnet'?"),
        ("asr1(defence=none) < 5", "unknown key 'defence'; did you mean 'defense'?"),
        ("asr1(attack=badnet) 5", "'<' or '<=' or '>' or '>=' is expected in the place of '5'"),
        ("asr1(attack=badnet < 5", "',' is expected in the place of '<'"),
        ("asr1(attack=badnet) < 5 5", "the end is expected in the place of '5'"),
        ("__import__(os)", "unknown figure '__import__'"),
        ("5 < $", "cannot be read at '$'"),
        ("5 > 3", "names no figure"),
        ("asr1(attack=badnet, attack=blended) < 5", "attack is given twice"),
        ("asr1(attack!=badnet) < 5", "attack should be given by =, not by !="),
        ("asr1(attack.patch_size=6) < 5", "attack.patch_size needs attack= beside it"),
        (
            "asr1(attack=badnet, attack.pattrn!=stripes) < 5",
            "unknown setting of attack=badnet 'pattrn'; did you mean 'pattern'?",
        ),
        ("asr1(attack=*, attack.poison=8) < 5", "unknown setting of attack=* 'poison'; did you mean 'poisons'?"),
        (
            "asr1(attack=badnet, attack.pattern!=stripse) < 5",
            "unknown value of attack.pattern 'stripse'; did you mean 'stripes'?",
        ),
        (
            "asr1(attack=*, attack.pattern=cartoons) < 5",
            "unknown value of attack.pattern 'cartoons'; did you mean 'cart",
        ),
        (
            "asr1(attack=flba, attack.preset!=releasd) < 5",
            "unknown value of attack.preset 'releasd'; did you mean 'rel",
        ),
        (
            "asr1(attack=badnet, attack.avoid_target=true) < 5",
            "value of attack.avoid_target 'true'; did you mean 'True'",
        ),
        ("asr1(attack=badnet, detector=strip) < 5", "asr1 has no detector"),
        ("asr1(attack=badnet, adaptation=full) < 5", "asr1 has no adaptation"),
    ],
)
def test_what_is_wrong_with_a_relation_is_told_in_one_line(tmp_path, relation, text):
    with pytest.raises(UserError, match=f"^claims.yaml: mine: .*{re.escape(text)}") as error:
        read(tmp_path, relation)
    assert "\n" not in str(error.value)


def test_a_relation_may_name_the_evaluation_sets_of_a_given_study(tmp_path):
    study, relation = tmp_path / "study.yaml", "asr1_fog(attack=badnet) > 50"
    study.write_text("evaluation: {shifts: {fog: {dataset: d, split: test}}}")
    with pytest.raises(UserError, match="unknown figure 'asr1_fog'"):
        read(tmp_path, relation)
    assert list(read(tmp_path, relation, [study])) == ["mine"]


@pytest.mark.parametrize(
    "condition",
    [
        "attack=badnet, attack.pattern=stripes",
        "attack=*, attack.pattern!=triangles",
        "attack=flba, attack.preset=None",
        "attack=badnet, attack.patch_size=6",
        "attack=badclip, attack.surrogate!=ours",
        "attack=badnet, attack.label=mine",
    ],
)
def test_values_of_a_choice_and_any_value_of_an_open_setting_are_accepted(tmp_path, condition):
    assert list(read(tmp_path, f"asr1({condition}) < 5")) == ["mine"]

"""What the settings of a sweep have in common is computed once, and changes nothing but the time."""

import argparse

import pytest
import torch
from ubt_parts import RECIPE, settings

from antidote.clip.folder import save_model
from antidote.data.access import DefenseData
from antidote.defenses import ubt
from antidote.training.session import Work
from scripts import defend

SHARES = {"suspicious_share": 0.4, "forget_share": 0.2}
FORGETTING = {
    "training": {**RECIPE.model_dump(), "lr": 1e-3},
    "forget_weight": 0.5,
    "keep_weight": 2.0,
    "forget_batch": 3,
}
OTHER = {"words": 1, "variant": "caption", "least_count": 1, "normal_pairs": 4, "rank": "gain", "suspicious_share": 0.3,
         "overfit": {**RECIPE.model_dump(), "lr": 1e-3}, "training": {**RECIPE.model_dump(), "precision": "bf16"}}  # fmt: skip


def run(clip, pairs, work, **values):
    report = ubt.UBT(settings(**SHARES, **values), 0).run(clip, DefenseData(training_set=pairs), work)
    return report, {name: value.clone() for name, value in clip.network.state_dict().items()}


def test_a_second_rate_takes_the_suspicious_pairs_of_the_first(make_clip, make_pairs, tmp_path, monkeypatch):
    pairs, common = make_pairs(12), Work(tmp_path / "common", "same")
    first, _ = run(make_clip("vit"), pairs, Work(tmp_path / "a", "a", common=common))
    alone, wanted = run(make_clip("vit"), pairs, Work(tmp_path / "alone", "alone"), **FORGETTING)
    monkeypatch.setattr(ubt, "find", None)
    second, weights = run(make_clip("vit"), pairs, Work(tmp_path / "b", "b", common=common), **FORGETTING)
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted), "as if it had searched itself"
    assert (second.steps, second.evidence) == (alone.steps, alone.evidence)
    assert (tmp_path / "b" / ubt.SUSPICIOUS).read_text() == (tmp_path / "alone" / ubt.SUSPICIOUS).read_text()
    assert first.earlier == alone.earlier == {}, "their own processes searched"
    assert second.earlier["seconds"] > 0 and second.earlier["peak_memory_bytes"] > 0


def test_what_was_found_under_another_identity_is_found_anew(make_clip, make_pairs, tmp_path, monkeypatch):
    pairs, calls, find = make_pairs(12), [], ubt.find
    monkeypatch.setattr(ubt, "find", lambda *given: calls.append(1) or find(*given))
    for identity in ("one", "other"):
        run(make_clip("vit"), pairs, Work(tmp_path / "a", "a", common=Work(tmp_path / "common", identity)))
    assert len(calls) == 2


@pytest.mark.parametrize("name", FORGETTING)
def test_settings_of_the_forgetting_have_the_search_in_common(name):
    assert ubt.UBT.common(settings(**{name: FORGETTING[name]})) == ubt.UBT.common(settings())


@pytest.mark.parametrize("name", OTHER)
def test_settings_of_the_search_have_it_not_in_common(name):
    assert ubt.UBT.common(settings(**{name: OTHER[name]})) != ubt.UBT.common(settings())


def test_every_setting_is_of_the_search_or_of_the_forgetting():
    """A new setting that nobody has sorted belongs to the search, and so costs time but no truth."""
    assert set(ubt.UBT.common(settings())) == {*ubt.UBTSettings.model_fields, "precision"} - {"label", *FORGETTING}


# --- where the jobs of a study keep it -------------------------------------------------------------------------------


class Ended(Exception):
    """Ends the script before it reads the model."""


@pytest.fixture
def common(make_clip, make_pairs, tmp_path, monkeypatch):
    """Return a function that returns the common work of one job."""
    save_model(tmp_path / "model", make_clip("rn"), {"kind": "clean"})

    def ends(_):
        raise Ended

    works = []
    monkeypatch.setattr(defend, "taken", lambda _, work, __: works.append(work))
    monkeypatch.setattr(defend, "load_model", ends)

    def made(values, **changes):
        given = {"model": tmp_path / "model", "seed": 0, "pools": [], "work": tmp_path / "work" / "job", "processes": 1,
                 "checkpoint_seconds": 1.0, "poison": None, "output": tmp_path / "out", "data": tmp_path,
                 "lexicon": "none", "classes": None, "templates": None, "scorer": None}  # fmt: skip
        with pytest.raises(Ended):
            defend.run(argparse.Namespace(**{**given, "settings": values, **changes}))
        return works[-1].common

    return made


def test_jobs_that_differ_in_the_forgetting_share_a_folder(common, make_clip, tmp_path):
    one = common({"method": "ubt"})
    assert one.folder.parent == tmp_path / "work"
    assert common({"method": "ubt", "training": {"lr": 1e-3}}, work=tmp_path / "work" / "other") == one
    others = [
        common({"method": "ubt", "words": 1}),
        common({"method": "ubt"}, seed=1),
        common({"method": "ubt_oracle"}),
    ]
    save_model(tmp_path / "model", make_clip("vit"), {"kind": "clean"})
    others.append(common({"method": "ubt"}))
    folders = {work.folder for work in (one, *others)}
    assert len(folders) == 5, "another setting, seed, method or model"


def test_a_defense_without_such_a_part_shares_nothing(common):
    assert common({"method": "finetune"}) is None

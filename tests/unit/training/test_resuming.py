"""A training run that was killed ends, once resumed, as if undisturbed."""

import os
import signal

import pytest
import torch
from loop_parts import SEED, acting, equal, log_of, objective, settings, weights, work

from antidote.training import session
from antidote.training.loop import train
from antidote.training.objectives import Contrastive


@pytest.fixture(scope="module")
def undisturbed():
    return {}


class Stop(Exception):
    """Stands for a kill without warning."""


@pytest.mark.parametrize("step", [0, 2, 3, 5])
@pytest.mark.parametrize("name", ["contrastive", "cleanclip", "ta_cleaner"])
def test_a_terminated_run_ends_as_if_undisturbed(
    make_clip, make_pairs, scenes_lexicon, tmp_path, monkeypatch, undisturbed, name, step
):
    """SIGTERM during the first, a middle, an epoch's last or the run's last step; with log lines before and after."""
    monkeypatch.setattr(session, "LOG_EVERY", 2)
    recipe, pairs = settings(epochs=3), make_pairs()
    if name not in undisturbed:
        clip = make_clip("rn")
        train(clip, objective(name, pairs, scenes_lexicon, recipe), recipe, SEED, work(tmp_path / "whole"))
        undisturbed[name] = (weights(clip), log_of(tmp_path / "whole" / "work"))
    goal = objective(name, pairs, scenes_lexicon, recipe)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as exit:
        train(make_clip("rn"), acting(goal, step, lambda: os.kill(os.getpid(), signal.SIGTERM)), recipe, SEED,
              work(tmp_path))  # fmt: skip
    assert exit.value.code == 128 + signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    state = torch.load(tmp_path / "work" / "checkpoint.pt", weights_only=True)
    assert state["step"] == step + 1 and not (tmp_path / "work" / "train.jsonl").exists()
    clip = make_clip("rn")
    report = train(clip, objective(name, pairs, scenes_lexicon, recipe), recipe, SEED, work(tmp_path))
    assert report.steps == 6
    expected, lines = undisturbed[name]
    assert equal(weights(clip), expected) and log_of(tmp_path / "work") == lines


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_a_killed_run_ends_as_if_undisturbed(make_clip, make_pairs, tmp_path, every):
    """With a checkpoint after each step, and with none: from the start."""
    recipe, pairs = settings(epochs=3), make_pairs()
    whole, resumed = make_clip(), make_clip()
    train(whole, Contrastive(pairs), recipe, SEED, work(tmp_path / "whole"))

    def kill():
        raise Stop

    for step in (1, 4):
        with pytest.raises(Stop):
            train(make_clip(), acting(Contrastive(pairs), step, kill), recipe, SEED, work(tmp_path, every=every))
    assert (tmp_path / "work" / "checkpoint.pt").exists() == (every == 0)
    train(resumed, Contrastive(pairs), recipe, SEED, work(tmp_path, every=every))
    assert equal(weights(resumed), weights(whole))


def test_interrupting_from_the_keyboard_saves_too(make_clip, make_pairs, tmp_path):
    goal = acting(Contrastive(make_pairs()), 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as exit:
        train(make_clip(), goal, settings(), SEED, work(tmp_path))
    assert exit.value.code == 128 + signal.SIGINT and (tmp_path / "work" / "checkpoint.pt").is_file()


def test_a_checkpoint_of_another_run_is_not_used(make_clip, make_pairs, tmp_path):
    recipe, pairs = settings(), make_pairs()
    train(make_clip(), Contrastive(pairs), recipe, SEED, work(tmp_path, "other", every=0))
    assert (tmp_path / "work" / "checkpoint.pt").is_file()
    ends = []
    for folder in (tmp_path, tmp_path / "fresh"):
        clip = make_clip()
        train(clip, Contrastive(pairs), settings(lr=0.001), SEED, work(folder, "this"))
        ends.append(weights(clip))
    assert equal(*ends)

"""Both training loops go on from a checkpoint, refuse one, and stop on a signal, in the same way."""

import logging
import os
import signal

import pytest
import torch
from loop_parts import log_of

from antidote.base.errors import UserError
from antidote.training import session
from antidote.training.loop import train
from antidote.training.objectives import Contrastive
from antidote.training.recipe import TrainSettings
from antidote.training.session import Session, Work, load_checkpoint, save_checkpoint
from antidote.training.tuning import Task, TuneSettings, tune

STEPS = 6
LOOPS = pytest.mark.parametrize("loop", ["train", "tune"])


@pytest.fixture
def run(make_clip, make_pairs):
    """Return what runs one of the loops for six steps and returns what it learned; `act` is called before a step."""

    def training(work, act):
        clip, goal = make_clip(), Contrastive(make_pairs(16))
        plain = goal.loss
        goal.loss = lambda images, texts, scale, batch: (act(batch.step), plain(images, texts, scale, batch))[1]
        train(clip, goal, TrainSettings(epochs=3, batch_size=8, lr=0.01, warmup=2), 3, work)
        return torch.cat([p.detach().flatten() for p in clip.network.parameters()])

    def tuning(work, act):
        stream = torch.Generator().manual_seed(0)
        x, weights = torch.randn(8, 3, generator=stream), torch.zeros(3, requires_grad=True)
        state = {"step": 0.0}

        def loss(rows, rng):
            act(int(state["step"]))
            state["step"] += 1
            return (x[rows] @ weights - 1 + rng.random()).square().mean(), {"norm": weights.norm()}

        tune(Task({"w": weights}, loss, 8, state), TuneSettings(epochs=3, batch_size=4, lr=0.1), 3, work)
        return weights.detach()

    return lambda loop, work, act=lambda step: None: {"train": training, "tune": tuning}[loop](work, act)


@LOOPS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_after_its_step_and_the_rest_follows_as_if_undisturbed(
    run, tmp_path, monkeypatch, caplog, loop, number
):
    monkeypatch.setattr(session, "LOG_EVERY", 2)
    whole = run(loop, Work(tmp_path / "whole", "x"))
    cut = Work(tmp_path / "cut", "x", every=1e9)
    with pytest.raises(SystemExit) as stopped:
        run(loop, cut, lambda step: os.kill(os.getpid(), number) if step == 2 else None)
    assert stopped.value.code == 128 + number and not (cut.folder / "train.jsonl").exists()
    assert torch.load(cut.folder / "checkpoint.pt", weights_only=True)["step"] == 3
    with caplog.at_level(logging.INFO, "antidote"):
        assert torch.equal(run(loop, cut), whole)
    assert f"resumed at step 3 of {STEPS}" in caplog.text
    assert log_of(cut.folder) == log_of(tmp_path / "whole")
    assert [line["step"] for line in log_of(cut.folder)] == [2, 4, 6]


@LOOPS
@pytest.mark.parametrize("content", ["cut short", "no checkpoint", "of another run"])
def test_a_checkpoint_that_does_not_serve_is_told_and_left(run, tmp_path, caplog, loop, content):
    work = Work(tmp_path / "work", "this")
    work.folder.mkdir()
    path = work.folder / "checkpoint.pt"
    if content == "cut short":
        path.write_bytes(b"PK")
    elif content == "no checkpoint":
        torch.save(["other things"], path)
    else:
        run(loop, Work(work.folder, "other", every=0))
        (work.folder / "train.jsonl").unlink()
    with caplog.at_level(logging.INFO, "antidote"):
        found = run(loop, work)
    reason = "belongs to other settings" if content == "of another run" else "is damaged"
    assert f"{path} {reason}; starting anew" in caplog.text
    assert torch.equal(found, run(loop, Work(tmp_path / "whole", "this")))


def test_a_checkpoint_comes_back_on_the_cpu(tmp_path):
    """As one that was saved with a GPU has to, on a machine without."""
    path = tmp_path / "kept.pt"
    save_checkpoint(path, "x", {"values": torch.arange(3)})
    seen = {}
    real = torch.load

    def load(*given, **more):
        seen.update(more)
        return real(*given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", load)
        assert load_checkpoint(path, "x")["values"].tolist() == [0, 1, 2]
    assert seen == {"map_location": "cpu", "weights_only": True}
    assert load_checkpoint(path, "y") is None and load_checkpoint(tmp_path / "none.pt", "x") is None


class Nothing:
    def state(self):
        return {}

    def restore(self, state):
        pass


def test_a_loss_that_is_not_finite_ends_with_the_loops_advice(tmp_path):
    made = Session(Work(tmp_path, "x"), Nothing(), 1, 4, "try another")
    with made.running(), pytest.raises(UserError, match=r"^lr: the loss is nan at step 1; try another$"):
        made.advance(0, 0.1, torch.tensor(float("nan")), {})


@LOOPS
def test_memory_that_a_step_frees_is_kept_for_the_next(run, tmp_path, monkeypatch, loop):
    kept, before = [], []
    monkeypatch.setattr(session, "keep_freed_memory", lambda: kept.append(1))
    run(loop, Work(tmp_path, "x"), lambda step: before.append(len(kept)))
    assert before == STEPS * [1]


def test_a_job_on_a_gpu_returns_memory_as_it_did(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(session, "keep_freed_memory", lambda: kept.append(1))
    with Session(Work(tmp_path, "x"), None, steps=0, batch_size=1).running():
        assert not kept

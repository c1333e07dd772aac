"""Two processes that train together end with the weights of one, for the same batches; what cannot is refused."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed.run
from safetensors.torch import load_file

from antidote.base.errors import UserError
from antidote.training import parallel

ROOT = Path(__file__).resolve().parents[3]
# A vision transformer without batch norm, and a recipe in which AdamW does not blow up rounding.
TRAINING = {"epochs": 2, "batch_size": 12, "lr": 1e-3, "warmup": 2, "eps": 1e-3}
DATASET = """
import sys, json
from pathlib import Path
import pandas as pd
from antidote.data.store import ingest, shards
from antidote.data import pools
from antidote.data.store.datasets import dataset_settings
folder = Path(sys.argv[1])
source = {"source": "scenes", "splits": {"train": {"pairs": 40, "seed": 1}}}
ingest.write(dataset_settings("tiny", {"tiny": source}), "tiny", "train", folder / "tiny" / "train")
keys = shards.open_index(folder / "tiny" / "train")["key"]
for pool, rows in (("training", slice(0, 28)), ("defense", slice(28, None)), ("defense28", slice(0, 28))):
    table = pd.DataFrame({"key": keys[rows], "dataset": "tiny", "split": "train", "pool": pool.rstrip("28")})
    pools.write(folder / f"{pool}.parquet", table.assign(position=range(len(table)))[pools.COLUMNS])
"""


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(name, *arguments, **more):
    command = [sys.executable, "-m", f"scripts.{name}", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more
    )


def done(name, *arguments):
    process = run(name, *arguments)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 0, text
    return text


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    subprocess.run([sys.executable, "-c", DATASET, folder], env=environment(), cwd=ROOT, check=True)
    return folder


def pretraining(data, output, model="tiny-vit", **training):
    settings = {"model": {"name": model}, "training": {**TRAINING, **training}}
    return [
        "--settings", json.dumps(settings), "--pools", data / "training.parquet", "--data", data, "--seed", 3,
        "--output", data / output, "--work", data / f"{output}.work", "--workers", 1,
    ]  # fmt: skip


def weights(folder):
    return load_file(folder / "open_clip_model.safetensors")


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]


def differ(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def one(data):
    """The result of one process."""
    done("pretrain", *pretraining(data, "one"))
    return data / "one"


@pytest.mark.parametrize(
    "reading,training", [([], {}), pytest.param(["--in-memory-mb", 0], {"accumulate": 2}, marks=pytest.mark.slow)]
)
def test_two_processes_train_what_one_does(data, one, reading, training):
    """Whole batches from memory; parts of them, streamed."""
    name = "two-" + "-".join(training)
    said = done("pretrain", *pretraining(data, name, **training), *reading, "--processes", 2)
    assert losses(data / name) == pytest.approx(losses(one), rel=1e-4), said
    assert 0 < differ(weights(one), weights(data / name)) < 2e-5
    assert said.count("step 4 of 4") == 1, "the first process alone reports"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cleanclip", "ta_cleaner", "par"])
def test_two_processes_defend_as_one(data, one, name):
    settings = {"method": name, "training": {**TRAINING, "epochs": 1}}
    if name == "ta_cleaner":
        settings["samples_per_epoch"] = 9
    ends = []
    for processes in (1, 2):
        output = data / f"{name}{processes}"
        done("defend", "--settings", json.dumps(settings), "--model", one, "--pools", data / "defense28.parquet",
             "--data", data, "--lexicon", "scenes", "--output", output, "--processes", processes)  # fmt: skip
        ends.append(output)
    assert losses(ends[0]) == pytest.approx(losses(ends[1]), rel=1e-4)
    assert differ(*map(weights, ends)) < 2e-5


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(data, one):
    """Told to stop in the middle of an epoch, as torchrun passes it on."""
    arguments = [*pretraining(data, "moved", epochs=60), "--checkpoint-seconds", 0]
    process = run("pretrain", *arguments, "--processes", 2)
    checkpoint, limit = data / "moved.work" / "checkpoint.pt", time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in said, said
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < step < 120 and not (data / "moved").exists()
    assert f"resumed at step {step} of 120" in done("pretrain", *arguments)


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(name, *arguments):
    process = run(name, *arguments)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    return [line for line in said.splitlines() if line]


@pytest.mark.slow
def test_batch_norm_is_refused_on_cpus(data):
    """By both processes, and said once."""
    said = refused("pretrain", *pretraining(data, "rn", model="tiny-rn"), "--processes", 2)
    assert said == ["error: --processes: 2: batch norm is shared between processes on GPUs alone"]


@pytest.mark.slow
def test_a_fault_that_one_process_meets_is_said_once(data):
    """A damaged picture, which just one of them reads."""
    broken = data / "broken"
    subprocess.run(["cp", "-r", data / "tiny", broken / "tiny"], check=True) if broken.mkdir() is None else None
    shard = broken / "tiny" / "train" / "00000.tar"
    content = bytearray(shard.read_bytes())
    content[1536 * 4 :] = bytes(len(content) - 1536 * 4)
    shard.write_bytes(content)
    arguments = pretraining(data, "broken-model")
    arguments[arguments.index("--data") + 1] = broken
    said = refused("pretrain", *arguments, "--in-memory-mb", 0, "--processes", 2)
    assert len(said) == 1 and said[0].startswith("error: ") and "picture at byte" in said[0], said


def test_methods_that_train_alone_are_refused(data, one):
    said = refused("defend", "--settings", '{"method": "beear_clip"}', "--model", one, "--pools",
                   data / "defense.parquet", "--data", data, "--output", data / "no", "--processes", 2)  # fmt: skip
    assert said == ["error: --processes: 2: beear_clip runs in one process"]


def test_parts_are_equal_but_for_one(monkeypatch):
    found = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "size", lambda: 3)
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        found.append((parallel.part(list(range(8))), parallel.part(torch.arange(2)).tolist()))
    assert found == [([0, 1, 2], [0]), ([3, 4, 5], [1]), ([6, 7], [])]


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"^--processes: 4 need as many GPUs; this job sees 2$"):
        parallel.start(4)


@pytest.mark.parametrize(("chosen", "expected"), [(None, "600"), ("45", "45")])
def test_processes_that_are_told_to_stop_have_time_to_save(monkeypatch, chosen, expected):
    """Torchrun kills them after 30 seconds by default; whoever starts the job may choose another time."""
    name, started = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", []
    monkeypatch.setenv(name, chosen or "")
    if chosen is None:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.distributed.run, "main", lambda arguments: started.append(os.environ[name]))
    try:
        with pytest.raises(SystemExit):
            parallel.start(2)
    finally:
        logging.disable(logging.NOTSET)
    assert started == [expected]


def test_one_process_is_not_started_anew():
    assert parallel.start(0) is None and parallel.start(1) is None
    assert (parallel.size(), parallel.rank(), parallel.first()) == (1, 0, True)
    assert parallel.highest(7) == 7 and parallel.by_first(lambda: "mine") == "mine"

"""What is wrong with a job's input is one line on the terminal and in the log, exit code 1, and no partial output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Driver, copy_project, snakemake

CELL = Path("results/tiny/badnet/seed0")
MODEL, TRIGGER, POISON = CELL / "model", CELL / "trigger", CELL / "poison"
POOLS = [f"results/tiny/pools/{name}.parquet" for name in ("training", "poison")]
DEFENSE_POOL = "results/tiny/pools/defense.parquet"
EVALUATION = {"dataset": "tiny", "split": "test", "classes": "scenes", "templates": "scenes", "bootstrap": 100}
TRAINING = {"epochs": 1, "batch_size": 32, "lr": 1e-3, "warmup": 2}
WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"


# --- calls ------------------------------------------------------------------------------------------------------------


def evaluate(model="bad/model", trigger=None, target="banana", **settings) -> tuple[str, list]:
    more = ["--trigger", trigger] if trigger else []
    values = json.dumps({**EVALUATION, **settings})
    return "evaluate", ["--settings", values, "--model", model, "--target", target, *more, "--output", "out/s.json"]


def pretrain(pools=POOLS, more=(), **training) -> tuple[str, list]:
    settings = json.dumps({"model": {"name": "tiny-rn"}, "training": {**TRAINING, **training}})
    return "pretrain", ["--settings", settings, "--pools", *pools, *more, "--output", "out/model", "--work", "bad/work"]


def defend(model=MODEL, pools=(DEFENSE_POOL,), lexicon="scenes", method="finetune", **settings) -> tuple[str, list]:
    values = json.dumps({"method": method, "training": TRAINING, **settings})
    more = ["--pools", *pools] if pools else []
    return "defend", ["--settings", values, "--model", model, *more, "--lexicon", lexicon, "--output", "out/model",
                      "--work", "bad/work"]  # fmt: skip


def poison(trigger=TRIGGER, pool=POOLS[1], **settings) -> tuple[str, list]:
    return "poison", ["--settings", json.dumps({"poisons": 10, **settings}), "--trigger", trigger, "--pools", pool,
                      "--templates", "scenes", "--output", "out/poison"]  # fmt: skip


def dataset(split="train", **settings) -> tuple[str, list]:
    values = {"source": "scenes", "splits": {"train": {"pairs": 300, "seed": 1}}, **settings}
    return "dataset", ["--name", "new", "--split", split, "--settings", json.dumps(values), "--output", "out/train"]


def pools(**settings) -> tuple[str, list]:
    values = {"training": {"dataset": "tiny", "split": "test", "pairs": 10}, **settings}
    return "pools", ["--settings", json.dumps(values), "--output", "out/pools.parquet"]


# --- faults -----------------------------------------------------------------------------------------------------------


def copied(source: Path, name: str) -> Path:
    return Path(shutil.copytree(source, name, dirs_exist_ok=True))


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def nothing() -> None:
    pass


def model_with(config: dict | str | None = None, weights: int | None = None) -> Callable[[], None]:
    """A model folder with another configuration, or with its weights cut short."""

    def make() -> None:
        folder = copied(MODEL, "bad/model")
        if isinstance(config, dict):
            values = json.loads((folder / CONFIG).read_text())
            values["model_cfg"]["text_cfg"].update(config)
            (folder / CONFIG).write_text(json.dumps(values))
        elif config is not None:
            (folder / CONFIG).write_text(config)
        if weights is not None:
            cut(folder / WEIGHTS, weights)

    return make


def trigger_with(**values: object) -> Callable[[], None]:
    def make() -> None:
        folder = copied(TRIGGER, "bad/trigger")
        known = json.loads((folder / "trigger.json").read_text())
        (folder / "trigger.json").write_text(json.dumps({**known, **values}))

    return make


def split_without(name: str, keep: int | None = None) -> Callable[[], None]:
    """A copy of the test split in which a file is missing, or cut short."""

    def make() -> None:
        folder = copied(Path("data/tiny/test"), "data/tiny/bad")
        cut(folder / name, keep) if keep is not None else (folder / name).unlink()

    return make


def file_with(name: str, content: str = "{}") -> Callable[[], None]:
    return lambda: Path(name).write_text(content, encoding="utf-8")


@dataclass(frozen=True)
class Fault:
    name: str
    make: Callable[[], None]
    call: tuple[str, list]
    text: str
    file_limit: int | None = None  # bytes; the kernel refuses to write more, as on a full disk


FULL = "File too large; free or allow space there and run again"
FAULTS = [
    Fault("no model folder", nothing, evaluate(model="nowhere"), f"nowhere/{CONFIG}: cannot be read (No such file or "),
    Fault("no weights", model_with(), evaluate(model=TRIGGER), f"{TRIGGER}/{CONFIG}: cannot be read"),
    Fault("weights of another model", model_with({"width": 64}), evaluate(), f"bad/model/{WEIGHTS}: cannot be loaded"),
    Fault("damaged weights", model_with(weights=10**6), evaluate(), f"bad/model/{WEIGHTS}: damaged, or not plain w"),
    Fault("empty weights", model_with(weights=0), evaluate(), f"bad/model/{WEIGHTS}: damaged, or not plain weights"),
    Fault("model config no JSON", model_with("{"), evaluate(), f"bad/model/{CONFIG}: not valid JSON (Expecting"),
    Fault("model config of nothing", model_with("{}"), evaluate(), f"bad/model/{CONFIG}: should hold model_cfg and"),
    Fault("no trigger", nothing, evaluate(MODEL, "nowhere"), "nowhere/trigger.json: cannot be read"),
    Fault("trigger of another size", trigger_with(size=64), evaluate(MODEL, "bad/trigger"), "bad/trigger: made for pi"),
    Fault("trigger of another target", trigger_with(target="key"), evaluate(MODEL, "bad/trigger"), "bad/trigger: aims"),
    Fault("trigger of no method", trigger_with(method="x"), evaluate(MODEL, "bad/trigger"), ""),
    Fault("unknown target", nothing, evaluate(MODEL, target="bananna"), "--target: 'bananna' is not a class of scenes"),
    Fault("labels of other classes", nothing, evaluate(MODEL, target="tench", classes="imagenette"), "data/tiny/test:"),
    Fault("missing shard", split_without("00000.tar"), evaluate(MODEL, split="bad"), "data/tiny/bad/00000.tar: is mis"),
    Fault("truncated shard", split_without("00000.tar", 9999), evaluate(MODEL, split="bad"),
          "data/tiny/bad/00000.tar: has 9999 bytes, not 593920; build the dataset again"),
    Fault("no index", split_without("index.parquet"), evaluate(MODEL, split="bad"), "data/tiny/bad/index.parquet: can"),
    Fault("damaged index", split_without("index.parquet", 99), evaluate(MODEL, split="bad"), "data/tiny/bad/index.par"),
    Fault("no manifest", split_without("manifest.json"), evaluate(MODEL, split="bad"), "data/tiny/bad: holds no manif"),
    Fault("no dataset", nothing, evaluate(MODEL, split="none"), "data/tiny/none: holds no manifest.json; build the da"),
    Fault("no pools", nothing, pretrain(["nowhere.parquet"]), "nowhere.parquet: cannot be read"),
    Fault("damaged pools", file_with("bad/p.parquet"), pretrain(["bad/p.parquet"]), "bad/p.parquet: cannot be read"),
    Fault("too few pairs for a batch", nothing, pretrain(batch_size=500), "batch_size: 500 is more than the 384 pairs"),
    Fault("no start", nothing, pretrain(more=["--start", "nowhere"]), f"nowhere/{CONFIG}: cannot be read"),
    Fault("no poison", nothing, pretrain(more=["--poison", "nowhere"]), "nowhere/manifest.parquet: cannot be read"),
    Fault("unknown setting", nothing, pretrain(epoch=1), "pretraining: training.epoch: unknown key; did you mean 'epo"),
    Fault("damaged model to defend", model_with(weights=99), defend("bad/model"), f"bad/model/{WEIGHTS}: damaged"),
    Fault("no pairs to defend with", nothing, defend(pools=()), "--pools: is missing; access 'clean-pairs' needs it"),
    Fault("no such lexicon", nothing, defend(lexicon="x", method="cleanclip"), "lexicon: unknown name 'x'; known: "),
    Fault("no lexicon", nothing, defend(lexicon="none", method="ta_cleaner"), "ta_cleaner: lexicon: no caption word is"),
    Fault("no WordNet", nothing, defend(lexicon="wordnet:bad", method="cleanclip"), "lexicon: "),
    Fault("unknown defense", nothing, defend(method="finetuen"), "unknown defense method 'finetuen'; did you mean 'fi"),
    Fault("more poisons than pairs", nothing, poison(poisons=65), f"attack {TRIGGER}: poisons: 65 asked, but only"),
    Fault("unknown caption", nothing, poison(caption="x"), f"attack {TRIGGER}: caption: input should be 'template', "),
    Fault("unknown split", nothing, dataset(split="trian"), "split: unknown name 'trian'; did you mean 'train'?"),
    Fault("more pairs than there are", nothing, pools(poison={"pairs": 99}), "pools: poison: asks for 99 pairs, tiny/"),
    # Disks that take no more: the parts of each format that are written by Python, Arrow, safetensors, torch.
    Fault("full disk: shards", nothing, dataset(), f"out/train: {FULL}", 100_000),
    Fault("full disk: pools", nothing, pools(), f"out/pools.parquet: {FULL}", 10),
    Fault("full disk: poison", nothing, poison(), f"out/poison: {FULL}", 1000),
    Fault("full disk: weights", nothing, pretrain(epochs=0), f"out/model: {FULL}", 100_000),
    Fault("full disk: checkpoint", nothing, pretrain(more=["--checkpoint-seconds", "0"]),
          f"bad/work/checkpoint.pt: {FULL}", 100_000),
    Fault("full disk: scores", nothing, evaluate(MODEL), f"out/s.json: {FULL}", 10),
]  # fmt: skip


# --- tests ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory):
    folder = copy_project(finished, tmp_path_factory.mktemp("faults") / "project", link=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def call(place):
    """Runs a script in the place; returns exit code and output."""
    driver = Driver(place, "jobs")
    yield driver
    driver.close()


@pytest.fixture
def here(place, monkeypatch):
    """The place, with folders for faults and outputs that go away again."""
    monkeypatch.chdir(place)
    folders = [Path("bad"), Path("out"), Path("data/tiny/bad")]
    for folder in folders[:2]:
        folder.mkdir()
    yield place
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_one_line(fault, here, call):
    fault.make()
    code, output = call(*fault.call, fault.file_limit)
    *before, last = output.strip().splitlines()
    assert code == 1 and last.startswith(f"error: {fault.text}"), output
    assert "Traceback" not in output and not any("rror" in line for line in before), output
    assert not list(Path("out").iterdir()), "no partial output"


def test_a_sound_call_is_no_fault(here, call):
    for name, arguments in (evaluate(MODEL, TRIGGER), poison(), dataset(), pools()):
        code, output = call(name, arguments)
        assert code == 0, output


def test_a_failing_job_says_why_on_the_terminal_and_in_its_log(project):
    (project / "data/tiny/test/00000.tar").unlink()
    done = snakemake(project, "--cores", "2", "--forcerun", "evaluate_clean")
    said = "error: data/tiny/test/00000.tar: is missing; build the dataset again"
    assert done.returncode == 1 and said in done.stdout.splitlines()
    assert said in (project / "results/tiny/logs/clean-seed0-scores.log").read_text().splitlines()
    assert "Traceback" not in done.stdout
    assert not (project / "results/tiny/clean/seed0/none/scores.json").exists()

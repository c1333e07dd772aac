"""A runs a study, records it and pushes; B clones and pulls: nothing runs again, and a change runs just what it should."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import (
    ROOT,
    STUDY,
    Driver,
    affected,
    chain,
    copy_project,
    edited,
    environment,
    scheduled,
    script,
    snakemake,
    study,
)

RESULTS = "results/tiny"
FINETUNED = {"defend badnet 0 finetune", "defend blended 0 finetune", "evaluate badnet 0 finetune",
             "evaluate blended 0 finetune", "summary"}  # fmt: skip
WHO = {f"GIT_{role}_{what}": "someone@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # as in an activated environment


def call(folder: Path, *command: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment(**WHO, HOME=str(folder.parent), PATH=PATH),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


def git(folder: Path, *arguments: object) -> str:
    done = call(folder, "git", "-c", "init.defaultBranch=main", *arguments)
    assert done.returncode == 0, done.stdout
    return done.stdout


def dvc(folder: Path, *arguments: object) -> str:
    done = call(folder, Path(sys.executable).with_name("dvc"), *arguments)
    assert done.returncode == 0, done.stdout
    return done.stdout


def snapshot(project: Path, *more: str) -> subprocess.CompletedProcess:
    return script(project, "snapshot", "--configfile", STUDY, *more)


def clone(origin: Path, folder: Path, link: str) -> Path:
    git(origin.parent, "clone", "-q", origin, folder)
    dvc(folder, "config", "--local", "cache.type", link)
    return folder


def kept(project: Path) -> dict[str, str]:
    """Return the hash of every file in DVC's cache, by the hash that it is kept under."""
    files = [path for path in (project / ".dvc/cache/files").rglob("*") if path.is_file() and path.suffix != ".tmp"]
    name = lambda path: path.parent.name + path.name.removesuffix(".dir")
    return {name(path): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in files}


@pytest.fixture(scope="module")
def origin(finished, tmp_path_factory) -> Iterator[Path]:
    """A's repository: the study has run, is recorded and pushed to a folder."""
    folder = tmp_path_factory.mktemp("dvc")
    project = copy_project(finished, folder / "a")
    for name in (".gitignore", ".dvcignore", ".dvc/config"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    git(project, "init", "-q")
    dvc(project, "remote", "add", "-d", "store", folder / "store")
    done = snapshot(project, "--push")
    assert done.returncode == 0, done.stdout
    git(project, "add", "-A")
    git(project, "commit", "-qm", "Run the tiny study")
    yield project
    shutil.rmtree(folder)


def test_only_what_is_finished_is_recorded(origin):
    before = (origin / "dvc.lock").read_bytes()
    with edited(origin, {STUDY: study(origin, {"defenses.finetune.training.lr": 2e-3})}):
        done = snapshot(origin)
    assert done.returncode == 1 and done.stdout.count("\n") == 1, done.stdout
    assert (
        done.stdout.startswith("error: tiny: 5 jobs have yet to run") and (origin / "dvc.lock").read_bytes() == before
    )


def test_a_second_snapshot_changes_nothing(origin):
    before = (origin / "dvc.yaml").read_bytes(), (origin / "dvc.lock").read_bytes()
    assert snapshot(origin).returncode == 0
    assert ((origin / "dvc.yaml").read_bytes(), (origin / "dvc.lock").read_bytes()) == before
    assert git(origin, "status", "--short") == "" and "up to date" in dvc(origin, "status")


@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_whoever_pulls_runs_nothing_again(origin, tmp_path, link):
    project = clone(origin, tmp_path / "b", link)
    driver = Driver(project, "snakemake")
    changed = {"data/templates/scenes.json": '["a {}.", "some {}."]'}
    with edited(project, changed):
        time.sleep(0.01)
        dvc(project, "pull")
        assert scheduled(project, driver=driver) == affected(chain(), ["poison *", "evaluate*", "floor *"]), (
            "changed before the pull"
        )
    weights = project / RESULTS / "badnet/seed0/model/open_clip_model.safetensors"
    assert (weights.is_symlink(), weights.stat().st_nlink > 1) == (link == "symlink", link == "hardlink")
    assert scheduled(project, driver=driver) == set()

    for number, path in enumerate(sorted((project / RESULTS).rglob("*"))):
        if not path.is_symlink():
            os.utime(path, (1.7e9, 1.7e9 + number * 7919 % 100_000))  # in no order of making
    for path in [*(project / "data/classes").iterdir(), *(project / "scripts").iterdir()]:
        os.utime(path)
    assert scheduled(project, driver=driver) == set()

    with edited(project, {STUDY: study(project, {"defenses.finetune.training.lr": 2e-3})}):
        assert scheduled(project, driver=driver) == FINETUNED
    with edited(project, {STUDY: study(project, {"attacks.badnet.patch_size": 7})}):
        assert scheduled(project, driver=driver) == affected(chain(), ["trigger badnet *"])
    source = "antidote/defenses/finetune.py"
    with edited(project, {source: (project / source).read_text() + "\n_CHANGED = 1\n"}):
        assert scheduled(project, driver=driver) == FINETUNED

    driver.close()

    before = kept(project)
    assert before == {name: name for name in before}
    cell = f"{RESULTS}/badnet/seed0/finetune/scores.json"
    with edited(project, {STUDY: study(project, {"defenses.finetune.training.lr": 2e-3})}):
        done = snakemake(project, cell, "--cores", "2")
    assert done.returncode == 0 and "2 of 2 steps" in done.stdout, done.stdout
    assert kept(project) == before, "DVC's own copies are as they were"


def test_an_experiment_runs_what_it_changes_and_its_metrics_are_compared(origin, tmp_path):
    project = clone(origin, tmp_path / "b", "reflink,copy")
    dvc(project, "pull")
    before = kept(project)
    said = dvc(project, "exp", "run", "-S", f"{STUDY}:defenses.finetune.training.lr=0.002")
    assert "6 of 6 steps" in said, said  # with `all`
    changed = json.loads(dvc(project, "metrics", "diff", "--json"))
    names = {key.rpartition(".")[0] for values in changed.values() for key in flat(values)}
    assert names and all("finetune" in name for name in names), changed
    assert "lr" in dvc(project, "params", "diff")
    dvc(project, "plots", "diff", "--out", tmp_path / "plots")
    assert "tiny" in (tmp_path / "plots/index.html").read_text()
    now = kept(project)
    assert {name: now[name] for name in before} == before
    git(project, "commit", "-qam", "Another learning rate")
    assert snapshot(project, "--push").returncode == 0

    git(origin, "pull", "-q", project, "main")
    dvc(origin, "pull")
    assert scheduled(origin) == set(), "and back at A's"
    git(origin, "reset", "-q", "--hard", "HEAD~1")
    dvc(origin, "checkout")
    assert scheduled(origin) == set(), "an earlier commit"


def flat(values: dict, above: str = "") -> list[str]:
    names = []
    for key, value in values.items():
        leaf = not isinstance(value, dict) or "old" in value or "new" in value
        names += [f"{above}.{key}.x"] if leaf else flat(value, f"{above}.{key}")
    return names


def test_a_single_model_comes_without_the_rest(origin, tmp_path):
    project = clone(origin, tmp_path / "b", "copy")
    model = f"{RESULTS}/badnet/seed0/model"
    dvc(project, "pull", model)
    found = {str(path.relative_to(project)) for path in (project / RESULTS).rglob("*") if path.is_file()}
    assert f"{model}/open_clip_model.safetensors" in found and {str(Path(path).parent) for path in found} == {model}
    assert not (project / "data/tiny").exists() and not (project / ".snakemake/metadata").exists()


# --- a store with troubles --------------------------------------------------------------------------------------------


def test_a_killed_push_or_pull_is_taken_up_again(origin, tmp_path):
    store = tmp_path / "store"
    dvc(origin, "remote", "add", "--local", "other", store)
    for _ in range(3):
        killed(origin, store, "push", "-r", "other", "-j", "1")
    dvc(origin, "push", "-r", "other")
    project = clone(origin, tmp_path / "b", "copy")
    dvc(project, "remote", "modify", "--local", "store", "url", store)
    for _ in range(3):
        killed(project, project / ".dvc/cache/files", "pull", "-j", "1")
    dvc(project, "pull")
    assert scheduled(project) == set()
    assert kept(project) == {name: name for name in kept(project)}


def killed(project: Path, folder: Path, *arguments: str) -> None:
    """Start dvc and kill it outright after the next file has appeared in a folder."""
    count = lambda: sum(path.is_file() for path in folder.rglob("*")) if folder.exists() else 0
    before = count()
    command = [Path(sys.executable).with_name("dvc"), *arguments]
    run = subprocess.Popen(command, cwd=project, env=environment(**WHO), stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    while run.poll() is None and count() <= before:
        time.sleep(0.005)
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def test_a_store_that_goes_away_costs_a_line(origin, tmp_path):
    """Half of its files are gone: what came is kept, the rest comes when the store is back."""
    store = tmp_path / "store"
    shutil.copytree(origin.parent / "store", store)
    project = clone(origin, tmp_path / "b", "copy")
    dvc(project, "remote", "modify", "--local", "store", "url", store)
    files = sorted(path for path in store.rglob("*") if path.is_file() and path.suffix != ".dir")
    (tmp_path / "gone").mkdir()
    for path in files[::2]:
        path.rename(tmp_path / "gone" / f"{path.parent.name}{path.name}")
    done = call(project, Path(sys.executable).with_name("dvc"), "pull")
    assert done.returncode != 0 and re.search(r"^ERROR: failed to pull data from the cloud", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stdout
    for path in files[::2]:
        (tmp_path / "gone" / f"{path.parent.name}{path.name}").rename(path)
    dvc(project, "pull")
    assert scheduled(project) == set()


# --- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch) -> Iterator[tuple[str, Callable[[], None], Callable[[], None], Callable[[], int]]]:
    """An S3 server on this machine: its address, what stops and restarts it, and what counts the objects it has."""
    for module in ("moto", "dvc_s3"):
        pytest.importorskip(module, reason=f"{module} is not installed; pip install dvc-s3 moto[server]")
    from moto.server import ThreadedMotoServer

    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1",
                        "AWS_MAX_ATTEMPTS": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    import boto3

    servers = [ThreadedMotoServer("127.0.0.1", 0, verbose=False)]
    servers[0].start()
    port = servers[0].get_host_and_port()[1]
    address = f"http://127.0.0.1:{port}"
    client = boto3.client("s3", endpoint_url=address)
    client.create_bucket(Bucket="antidote")

    def stop() -> None:
        servers.pop().stop()

    def restart() -> None:
        servers.append(ThreadedMotoServer("127.0.0.1", port, verbose=False))
        servers[0].start()

    yield address, stop, restart, lambda: client.list_objects_v2(Bucket="antidote").get("KeyCount", 0)
    if servers:
        stop()


def add_bucket(project: Path, address: str) -> None:
    for words in (("add", "--local", "s3", "s3://antidote/store"), ("default", "--local", "s3")):
        dvc(project, "remote", *words)
    for key, value in {"endpointurl": address, "connect_timeout": 2, "read_timeout": 5}.items():
        dvc(project, "remote", "modify", "--local", "s3", key, value)


def test_s3_holds_a_snapshot_though_it_goes_away_in_the_middle(origin, tmp_path, bucket):
    address, stop, restart, count = bucket
    source = clone(origin, tmp_path / "a", "copy")
    dvc(source, "pull")
    add_bucket(source, address)
    with (tmp_path / "log").open("w") as log:
        command = [Path(sys.executable).with_name("dvc"), "push", "-j", "1"]
        push = subprocess.Popen(command, cwd=source, env=environment(**WHO), stdout=log, stderr=log)
        while push.poll() is None and count() < 20:
            time.sleep(0.05)
        stop()
        assert push.wait() != 0
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said and re.search(
        "^ERROR: .* - Could not connect to the endpoint", said, re.MULTILINE
    ), said
    restart()
    assert count() >= 20, "what has arrived is kept"
    dvc(source, "push")
    project = clone(origin, tmp_path / "b", "copy")
    add_bucket(project, address)
    dvc(project, "pull")
    assert scheduled(project) == set()


def test_an_s3_server_that_does_not_answer_costs_a_line(origin, tmp_path, bucket):
    project = clone(origin, tmp_path / "b", "copy")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        add_bucket(project, f"http://127.0.0.1:{silent.getsockname()[1]}")
        dvc(project, "remote", "modify", "--local", "s3", "read_timeout", 1)
        done = call(project, Path(sys.executable).with_name("dvc"), "pull", f"{RESULTS}/summary")
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert re.search(r"^ERROR: .*(timeout|failed to pull)", done.stdout, re.MULTILINE), done.stdout

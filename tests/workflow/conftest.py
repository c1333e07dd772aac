"""One real run of the tiny study; each test works on a copy of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import harness
import pytest

from antidote.base import warm

HERE = Path(__file__).parent
WORKER = "PYTEST_XDIST_WORKER" in os.environ
RUNS = {"odd", "finished", "tmp_path"}  # what a test has that runs Snakemake in a project of its own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and RUNS & set(getattr(item, "fixturenames", ())):
            item.add_marker("workflow")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project in which the tiny study has run; not to be changed. All test processes share one."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if WORKER else base) / "finished"
    folder.mkdir(exist_ok=True)
    project, users = folder / "project", folder / "users"
    users.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not project.exists():
            # In a place of its own until it is whole: Snakemake's records name no folder above the project.
            making = harness.new_project(folder / f"making-{os.getpid()}")
            harness.finish(making)
            making.rename(project)
        (users / str(os.getpid())).touch()
    yield project
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (users / str(os.getpid())).unlink()
        if not list(users.iterdir()):
            shutil.rmtree(project)


SERVER = "from antidote.base import warm; warm.start(); import os; print(os.environ[warm.WARM], flush=True); input()"


@pytest.fixture(scope="session")
def quick_jobs() -> Iterator[dict[str, str]]:
    """The environment for runs whose jobs are forks of one server that all these runs share (`antidote/base/warm.py`)."""
    more = {**dict.fromkeys(warm.THREADS, "1"), "OMP_WAIT_POLICY": "PASSIVE"}  # as the rules' jobs have them
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], env=harness.environment(**more), text=True, encoding="utf-8",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as parent:  # fmt: skip
        yield {warm.WARM: parent.stdout.readline().strip()}
        parent.communicate("\n")


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished project, for one test to change and to run jobs in."""
    yield harness.copy_project(finished, tmp_path / "project")
    shutil.rmtree(tmp_path / "project")


@pytest.fixture(scope="session")
def linked(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """Makes copies that share their results, for dry runs."""
    folder = tmp_path_factory.mktemp("linked")
    count = iter(range(1000))
    yield lambda: harness.copy_project(finished, folder / str(next(count)), link=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, linked: Callable[[], Path]) -> Iterator[dict[str, Future[set[str]]]]:
    """The jobs that each selected case of a module schedules, by the case's name.

    Two dry runs at a time, but where test processes share the cores. A module whose cases change no source says
    `SAME_SOURCE = True`: what reads the source is then imported once.
    """
    chosen = [item for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    cases = {case.name: case for item in chosen if (case := item.callspec.params.get("case"))}
    kind = "study" if getattr(request.module, "SAME_SOURCE", False) else "snakemake"
    drivers = [harness.Driver(linked(), kind) for _ in range(1 if WORKER else 2)]
    idle: SimpleQueue[harness.Driver] = SimpleQueue()
    for driver in drivers:
        idle.put(driver)

    def run(case: harness.Case) -> set[str]:
        driver = idle.get()
        try:
            with harness.edited(driver.project, case.edits(driver.project)):
                return harness.scheduled(driver.project, config=case.config, driver=driver)
        finally:
            idle.put(driver)

    with ThreadPoolExecutor(len(drivers)) as pool:
        yield {name: pool.submit(run, case) for name, case in cases.items()}
        pool.shutdown(cancel_futures=True)
    for driver in drivers:
        driver.close()

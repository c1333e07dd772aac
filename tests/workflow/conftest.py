"""One real run of the tiny study; each test works on a copy of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import harness
import pytest


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project in which the tiny study has run; not to be changed."""
    project = harness.new_project(tmp_path_factory.mktemp("finished") / "project")
    harness.finish(project)
    yield project
    shutil.rmtree(project)


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
    """The jobs that each selected case of a module schedules, by the case's name; two dry runs at a time."""
    chosen = [item for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    cases = {case.name: case for item in chosen if (case := item.callspec.params.get("case"))}
    drivers = [harness.Driver(linked(), "snakemake") for _ in range(2)]
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

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run, case) for name, case in cases.items()}
        pool.shutdown(cancel_futures=True)
    for driver in drivers:
        driver.close()

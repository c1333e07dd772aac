"""The site, built once from the leaderboard and made-up results, served on this machine; and a browser."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SEEDS = {"0": 0.05, "1": -0.05, "2": 0.0}
ACCESS = {"none": "nothing", "cleanclip": "clean-pairs", "linear_probe": "few-labelled"}


def results(folder: Path) -> None:
    """Write made-up results of the track `small`: three seeds, persistence, a cell of one seed, one reported."""
    cell = json.loads((ROOT / "leaderboard/tiny-1/default/badnet--cleanclip.json").read_text())
    cell |= {"track": {"name": "small", "version": 1}, "unreliable": "", "source": {"title": "made-up"}}
    for (defense, access), ca1, asr1 in zip(ACCESS.items(), (0.60, 0.56, 0.50), (0.95, 0.10, 0.40), strict=True):
        cell["defense"] |= {"name": defense, "method": defense, "label": "", "access": access}
        for name, mean in (("ca1", ca1), ("asr1", asr1)):
            seeds = {seed: mean + half for seed, half in SEEDS.items()}
            cell["figures"][name] = {"mean": mean, "std": 0.05, "seeds": seeds}
        curve = {"adaptation": "full", "kind": "full", "pool": "defense", "seeds": 3}
        cell["persistence"] = [
            curve | {"model": model, "points": [{"step": s, "ca1": ca1, "score": top * s / 20} for s in (0, 10, 20)]}
            for model, top in (("backdoored", asr1), ("clean", 0.02))
        ]
        put(folder / f"small-1/made-up/badnet--{defense}.json", cell)
    one = {name: {**figure, "std": None, "seeds": {"0": figure["mean"]}} for name, figure in cell["figures"].items()}
    cell |= {"figures": one, "persistence": []}
    cell["defense"] |= {"name": "rvpt", "method": "rvpt", "reconstruction": True}
    put(folder / "small-1/made-up/badnet--rvpt.json", cell)
    cell |= {"status": "reported", "hashes": None, "figures": {"asr1": {"mean": 0.2}}}
    cell["source"] = {"title": "A paper", "url": "https://example.org/paper", "place": "Table 1"}
    cell["defense"] |= {"name": "theirs", "method": "theirs", "label": "Theirs"}
    put(folder / "small-1/A-paper/badnet--theirs.json", cell)


def put(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site."""
    if not (ROOT / ".venvs/site/bin/mkdocs").is_file():
        pytest.skip("the site is not built: .venvs/site is missing; run `make test-site`")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "leaderboard", folder / "leaderboard")
    results(folder / "leaderboard")
    words = ["--leaderboard", folder / "leaderboard", "--output", folder / "site"]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.site", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def address(built: Path) -> Iterator[str]:
    """The address of the site on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=built)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """A browser of the machine, driven by Playwright of .venvs/site."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    packages = next((ROOT / ".venvs/site/lib").glob("python*/site-packages"), None)
    sys.path.append(str(packages))  # last: what this environment has itself comes first
    try:
        playwright = importlib.import_module("playwright.sync_api")
    except ImportError as error:
        pytest.skip(f"no driver of the browser: {error}; run `make test-site`")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has no sandbox for root
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=options)
        yield opened
        opened.close()

"""The wheel: small, with its data, and of use without a checkout."""

import os
import resource
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from antidote.base.fingerprint import ROOT
from antidote.clip.folder import save_model

LIMIT = 2_000_000  # bytes
HELP = 0.5  # seconds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the files that Git tracks, built without the network."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.split("/")[0] in ("antidote", "data", "pyproject.toml", "setup.py", "README.md", "LICENSE"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(output), "."]
    subprocess.run(command, cwd=source, check=True)
    return next(output.glob("*.whl"))


@pytest.fixture(scope="module")
def antidote(wheel, tmp_path_factory):
    """The installed command, in a fresh environment that finds the libraries of this one but not this checkout."""
    place = tmp_path_factory.mktemp("fresh")
    venv.create(place, with_pip=False)
    packages = next((place / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    # A path in a .pth file is searched, but .pth files there, such as that of an editable install, are not read.
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    program = "import sys; from antidote.command.__main__ import main; sys.argv[0] = 'antidote'; main()"

    def run(*words, cwd=place, program=program):
        command = [str(place / "bin" / "python"), "-c", program, *map(str, words)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    return run


def test_it_is_small_and_holds_its_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < LIMIT
    tracked = subprocess.run(["git", "ls-files", "data"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = [ROOT / name for name in tracked.split() if Path(name).suffix in (".json", ".csv", ".yaml")]
    assert {f"antidote/shipped/{path.relative_to(ROOT / 'data')}" for path in wanted} <= set(names)
    assert {"antidote/shipped/datasets.yaml", "antidote/summary/page.html.j2"} <= set(names)
    assert not any(name.startswith(("data/", "tests/", "scripts/")) for name in names)


def test_help_is_fast_and_loads_no_torch(antidote):
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "antidote audit" in antidote("--help").stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < HELP, "seconds of CPU; the clock would measure what else runs on the machine"
    code = "import sys; from antidote import api; print(sorted({'torch', 'open_clip', 'pandas'} & set(sys.modules)))"
    assert antidote(program=code).stdout == "[]\n"


def test_help_and_scan_work_without_a_checkout(antidote, make_clip, tmp_path):
    assert "antidote scan" in antidote("scan", "--help").stdout
    refused = antidote("collect")
    assert refused.stderr.startswith("error: collect: needs a checkout")
    save_model(tmp_path / "model", make_clip("vit"), {"kind": "suspicious", "statement": "test"})
    (tmp_path / "pictures").mkdir()
    noise = np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    done = antidote("scan", tmp_path / "pictures", "--model", tmp_path / "model", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "scores.csv").read_text().splitlines()) == 25
    study = antidote(
        "init", "--pairs", tmp_path / "pictures", "--evaluation", tmp_path, "--target", "model", cwd=tmp_path
    )
    assert study.stderr.startswith("error: --pairs: "), "pictures without captions"
    (tmp_path / "pairs.csv").write_text("file,caption\n" + "".join(f"pictures/{n}.png,cup\n" for n in range(24)))
    for name in ("cup", "boat"):
        shutil.copytree(tmp_path / "pictures", tmp_path / "test" / name)
    own = ("init", "--pairs", "pairs.csv", "--evaluation", "test")
    assert "get a checkout" in antidote(*own, "--target", "cup", cwd=tmp_path).stderr
    assert (tmp_path / "own.json").is_file() and (tmp_path / "study.yaml").is_file()
    assert "next: antidote audit --given given.yaml" in antidote(*own, "model", cwd=tmp_path).stderr
    quick = ("--set", "training.epochs=1", "--set", "training.batch_size=8", "--output", "cleaned")
    cleaned = antidote("clean", "--given", "given.yaml", *quick, cwd=tmp_path)
    assert "Clean accuracy" in cleaned.stderr and (tmp_path / "cleaned" / "report.html").is_file(), cleaned.stderr
    where = antidote("check", Path(ROOT / "config.yaml"), cwd=tmp_path)
    assert where.returncode == 0, where.stderr

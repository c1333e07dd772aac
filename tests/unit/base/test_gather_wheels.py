"""The packages for a machine that has torch alone: they cover every import of the code that the check runs there."""

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
from packaging.utils import canonicalize_name

from antidote.base.fingerprint import ROOT

SOURCES = ("antidote/**/*.py", "scripts/*.py", "benchmarks/*.py", "tests/unit/conftest.py", "tests/unit/test_gpu.py")
THERE = {"torch", "torchvision"}
ELSEWHERE = {"dvc", "img2dataset"}  # the check does not use DVC; downloads have an environment of their own


def imported() -> dict[str, str]:
    """Return a file that imports a module, by the first part of the module's name; imports in functions included."""
    found = {}
    for path in (path for pattern in SOURCES for path in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            found |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_every_import_is_gathered(python):
    command = [sys.executable, "benchmarks/gather_wheels.py", "unused", "--python", python, "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    gathered = {canonicalize_name(line.partition("==")[0]) for line in done.stdout.splitlines()}
    packages = packages_distributions()
    needed = {
        canonicalize_name(packages[name][0]): f"{name} in {file}"
        for name, file in imported().items()
        if name in packages and name not in ("antidote", "scripts")
    }
    assert {"open-clip-torch", "numpy", "torch", "torchvision", "pytest", "psutil"} <= needed.keys()
    assert not {package: where for package, where in needed.items() if package not in gathered | THERE | ELSEWHERE}
    assert "snakemake" in gathered and not gathered & THERE

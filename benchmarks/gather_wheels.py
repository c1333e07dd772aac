"""Gather the packages that `gpu_check.py` needs on a machine which has torch and torchvision, and no network.

Takes the versions and hashes of `requirements.lock`, for the Python of that machine; leaves out torch with
all that torch alone needs, and DVC, which the check does not use; adds pytest, which runs its tests. What is published
as source alone is built here; such packages are plain Python. Run inside this project's environment, then on the other
machine:

    python benchmarks/gather_wheels.py wheels --python 3.12
    pip install --no-index --no-deps wheels/*.whl
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
UNUSED, TESTED_WITH = "dvc", "pytest"
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for the wheels")
    parser.add_argument("--python", default="3.12", help="version on the other machine")
    parser.add_argument("--machine", default="x86_64", help="processor of the other machine")
    parser.add_argument("--there", nargs="*", default=["torch", "torchvision"], help="packages that it has")
    parser.add_argument("--list", action="store_true", help="print the requirements alone")
    options = parser.parse_args()
    there = {canonicalize_name(name) for name in options.there}
    environment = {
        **default_environment(), "python_version": options.python, "python_full_version": f"{options.python}.0",
        "platform_machine": options.machine, "sys_platform": "linux", "platform_system": "Linux", "extra": "",
    }  # fmt: skip
    wanted = needed(roots() - {UNUSED} | {TESTED_WITH}, environment, there)
    blocks = pinned(wanted, environment)
    missing = sorted(wanted - blocks.keys())
    if missing:
        sys.exit(f"requirements.lock: has no version of {', '.join(missing)} for Python {options.python}")
    if options.list:
        sys.stdout.write("".join(block.split(" \\\n")[0] + "\n" for block in blocks.values()))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "requirements.txt")
        file.write_text("".join(blocks.values()), encoding="utf-8")
        platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_{options.machine}")]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--prefer-binary", "--require-hashes", "--python-version", options.python, *platforms,
             "--dest", str(options.output), "--requirement", str(file)],
            check=True,
        )  # fmt: skip
    for source in sorted(options.output.glob("*.tar.gz")):
        build = ["-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        build += ["--no-build-isolation", "--wheel-dir"]
        subprocess.run([sys.executable, *build, str(options.output), str(source)], check=True)
        source.unlink()
    foreign = [wheel.name for wheel in options.output.glob("*.whl") if wheel.stem.endswith(f"_{options.machine}")]
    wrong = [
        name for name in foreign if not re.search(rf"-(cp{options.python.replace('.', '')}|py3|cp3\d+-abi3)", name)
    ]
    if wrong:
        sys.exit(f"{options.output}: holds wheels of another Python: {', '.join(sorted(wrong))}")


def roots() -> set[str]:
    """Return the names of the packages that the project itself asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}


def needed(names: set[str], environment: dict[str, str], without: set[str]) -> set[str]:
    """Return packages and all that they need, apart from `without`, as this environment's metadata says."""
    found: set[str] = set()
    waiting = sorted(names)
    while waiting:
        name = waiting.pop()
        if name in found or name in without:
            continue
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # of another platform or Python
            continue
        asked = [Requirement(line) for line in lines]
        waiting += [canonicalize_name(r.name) for r in asked if r.marker is None or r.marker.evaluate(environment)]
    return found


def pinned(names: set[str], environment: dict[str, str]) -> dict[str, str]:
    """Return the entries of the lock, version and hashes without the marker, by the name of the package."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for block in re.findall(r"^\S+==.*(?:\n    --hash.*)*", text, re.MULTILINE):
        first, _, hashes = block.partition(" \\\n")
        requirement = Requirement(first)
        name = canonicalize_name(requirement.name)
        if name in names and (requirement.marker is None or requirement.marker.evaluate(environment)):
            found[name] = f"{requirement.name}{requirement.specifier} \\\n{hashes}\n"
    return found


if __name__ == "__main__":
    main()

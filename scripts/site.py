"""Build the static site: the documentation, a page per method, and the leaderboard of each track, from leaderboard/.

MkDocs, in .venvs/site, builds the pages. The site opens from a disk as well as from a server, and fetches nothing.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.summary.site.build import write

ROOT = Path(__file__).resolve().parents[1]
MKDOCS = ROOT / ".venvs/site/bin/mkdocs"
MARK = ".nojekyll"  # in a site of this script; it also keeps GitHub from building the pages once more


def run(arguments: argparse.Namespace) -> None:
    """Write the tree, build the site from it, and put the site in the place of the one before."""
    output = arguments.output.resolve()
    if not MKDOCS.is_file():
        raise UserError(f"{MKDOCS}: no such file; run `make site`, which installs MkDocs first")
    if output.exists() and not (output.is_dir() and (not any(output.iterdir()) or (output / MARK).is_file())):
        raise UserError(f"--output: {output} holds something else than a site of this script; name another folder")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        pages = write(ROOT, arguments.leaderboard, tree)
        build(tree)
        (tree / "html" / MARK).touch()
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists():
            shutil.rmtree(output)
        shutil.move(tree / "html", output)
    command_line.log.info("wrote %d pages; open %s", len(pages), output / "index.html")


def build(tree: Path) -> None:
    """Build the site into the folder `html` of a tree.

    Raises:
        UserError: MkDocs found a fault, such as a link that leads nowhere.
    """
    command = [MKDOCS, "build", "--strict", "--config-file", tree / "mkdocs.yml"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", env=environment, check=False
    )
    if done.returncode:
        said = [" ".join(line.split()) for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        faults = [line for line in said if line.startswith(("WARNING", "ERROR"))] or said[-5:]
        raise UserError(f"mkdocs: {'; '.join(faults) or f'exit status {done.returncode}'}")


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--leaderboard", type=Path, default=ROOT / "leaderboard", help="folder of the results files")
    parser.add_argument("--output", type=Path, default=Path("site"), help="folder of the site; replaced")
    command_line.main(run, parser)

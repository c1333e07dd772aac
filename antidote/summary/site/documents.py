"""The documentation as it is: the same folders as the checkout, with links that lead somewhere on the site."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from posixpath import dirname, normpath, relpath

import yaml

FRONT, METHODS = "README.md", "docs/methods.md"
# Documents that are on the site; the front page is moved, so that a web server finds it.
DOCUMENTS = (FRONT, "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```")


def documents(root: Path) -> dict[str, str]:
    """Return the text of each document by its path in the checkout."""
    paths = [*(root / name for name in DOCUMENTS), *sorted((root / "docs").glob("*.md"))]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def place(path: str) -> str:
    """Return the path on the site of a document of the checkout."""
    moved = {FRONT: "index.md", "leaderboard/README.md": "leaderboard/index.md"}
    return moved.get(path, path)


def repository(root: Path) -> str:
    """Return the repository's address, from pyproject.toml or CITATION.cff; empty if neither has one."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    addresses = {key.lower(): value for key, value in project.get("urls", {}).items()}
    found = addresses.get("repository") or addresses.get("source") or citation.get("repository-code") or ""
    return str(found).rstrip("/").removesuffix(".git")


def relinked(text: str, written: str, shown: str, pages: set[str], methods: dict[str, str], address: str = "") -> str:
    """Return Markdown with links that were written for one place of the checkout, for another place of the site.

    A link to a document leads to its page. A link to another file leads to the repository, if its address is known;
    otherwise its text alone is kept. Code blocks stay as they are; comments that mark generated parts are left out.

    Args:
        written: path, from the top of the checkout, that the links are relative to.
        shown: path of the page on the site.
        pages: all paths on the site: documents, pictures, results files.
        methods: the page of each heading of `docs/methods.md`, which links to that heading lead to.
        address: of the repository.
    """

    def led(match: re.Match) -> str:
        mark, words, target = match.groups()
        if re.match(r"[a-z]+:", target):
            return match[0]
        path, hash_, anchor = target.partition("#")
        there = normpath(f"{dirname(written)}/{path}".lstrip("/")) if path else written
        if there == METHODS and anchor in methods:
            return f"[{words}]({relpath(methods[anchor], dirname(shown) or '.')})"
        if not path:
            return match[0]
        if place(there) in pages:
            return f"{mark}[{words}]({relpath(place(there), dirname(shown) or '.')}{hash_}{anchor})"
        return f"{mark}[{words}]({address}/blob/main/{there}{hash_}{anchor})" if address else words

    lines, code = [], False
    for line in text.splitlines():
        code ^= bool(FENCE.match(line))
        if code:
            lines.append(line)
        elif not re.fullmatch(r"<!--.*-->", line):
            lines.append(LINK.sub(led, line))
        elif not lines or lines[-1]:
            lines.append("")
    return "\n".join(lines) + "\n"

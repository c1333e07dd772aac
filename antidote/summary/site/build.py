"""The tree that MkDocs builds the site from: pages, pictures, results files, style, scripts, and mkdocs.yml."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from antidote.base.registry import KINDS
from antidote.summary.noise import least_text
from antidote.summary.site.board import Board, read_boards
from antidote.summary.site.documents import FRONT, METHODS, documents, place, relinked, repository
from antidote.summary.site.methods import method_anchors, method_pages
from antidote.summary.site.tables import BUDGET, curves, detections, render, table

HERE = Path(__file__).parent
ASSETS = ("site.css", "tables.js", "plots.js", "iframe-worker.js")
# Sections of the navigation; a document of docs/ that none of them names goes into the last.
SECTIONS = {
    "Use": [
        "is-my-clip-backdoored",
        "python",
        "zoo",
        "data",
        "training",
        "paper",
        "reruns",
        "reuse",
        "cluster",
        "containers",
        "performance",
    ],
    "Measuring": [
        "protocol",
        "evaluation",
        "tracks",
        "attacks",
        "defenses",
        "defenses-start",
        "defenses-ubt",
        "ablations",
        "persistence",
        "detectors",
        "detectors-models",
        "detectors-after",
        "detectors-adaptive",
        "open",
        "costs",
    ],
    "Reference": ["settings", "adding-a-method"],
}
LAST = "Measuring"
ELSEWHERE = ("claims", "methods")  # documents with an entry of their own


def write(root: Path, results: Path, tree: Path) -> dict[str, str]:
    """Write the tree; return its pages by path.

    Args:
        root: the checkout.
        results: folder of the results files.
        tree: an empty folder; gets `mkdocs.yml` and `docs/`.

    Raises:
        UserError: a results file is not valid.
    """
    boards = read_boards(results)
    found, address = pages(root, results, boards), repository(root)
    for path, text in found.items():
        _put(tree / "docs" / path, text)
    for name in ASSETS:
        _put(tree / "docs/assets" / name, (HERE / name).read_text(encoding="utf-8"))
    for picture in (root / "docs").glob("*.png"):
        shutil.copyfile(picture, tree / "docs/docs" / picture.name)
    for file in _files(results):
        _put(tree / "docs/leaderboard" / file, (results / file).read_text(encoding="utf-8"))
    _put(tree / "mkdocs.yml", render("mkdocs.yml.j2", address=address, nav=navigation(found, boards)))
    return found


def pages(root: Path, results: Path, boards: list[Board]) -> dict[str, str]:
    """Return the Markdown of every page by its path on the site.

    Args:
        results: folder of the results files, which pages may link to.
    """
    texts = {place(path): (text, path) for path, text in documents(root).items()}
    texts["index.md"] = (f"---\nhide: [navigation]\n---\n\n{texts['index.md'][0]}", FRONT)
    texts |= {path: (text, METHODS) for path, text in method_pages(root, boards).items()}
    readme = (root / "leaderboard/README.md").read_text(encoding="utf-8")
    texts["leaderboard/index.md"] = (render("tracks.md.j2", boards=boards, readme=readme), "leaderboard/README.md")
    for board in boards:
        texts[f"leaderboard/{board.page}.md"] = (_track(board, boards), f"leaderboard/{board.page}.md")
    pictures = {f"docs/{path.name}" for path in (root / "docs").glob("*.png")}
    files = {f"leaderboard/{file}" for file in _files(results)}
    known, methods, address = {*texts, *pictures, *files}, method_anchors(), repository(root)
    return {path: relinked(text, source, path, known, methods, address) for path, (text, source) in texts.items()}


def navigation(found: dict[str, str], boards: list[Board]) -> list[Any]:
    """Return the navigation of the site: every page once."""
    names = [Path(path).stem for path in found if path.startswith("docs/")]
    sections = {title: [name for name in wanted if name in names] for title, wanted in SECTIONS.items()}
    placed = {*ELSEWHERE, *(name for section in sections.values() for name in section)}
    sections[LAST] += [name for name in names if name not in placed]
    tracks = [{f"Track {board.track}": f"leaderboard/{board.page}.md"} for board in boards]
    methods: list[Any] = [{"All methods": "docs/methods.md"}]
    for kind in ("attack", "defense", "detector"):
        methods.append({f"{kind.capitalize()}s": [f"methods/{kind}s/{name}.md" for name in KINDS[kind]]})
    further = [f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY")]
    listed = {title: [f"docs/{name}.md" for name in section] for title, section in sections.items()}
    listed["Reference"] += further
    return [
        {"Home": "index.md"},
        {"Leaderboard": ["leaderboard/index.md", *tracks]},
        {"Claims": "docs/claims.md"},
        {"Methods": methods},
        *({title: section} for title, section in listed.items()),
    ]


def _track(board: Board, boards: list[Board]) -> str:
    """Return the page of a track: its recipe, its measured and its reported cells, and the plots."""
    page = f"leaderboard/{board.page}.html"
    return render(
        "board.md.j2",
        board=board,
        boards=boards,
        budget=BUDGET,
        least=least_text,
        measured=table(board.measured, page, "Measured cells") if board.measured else "",
        reported=table(board.reported, page, "Reported cells") if board.reported else "",
        curves=curves(board.measured),
        detectors=detections(board.measured, page),
    )


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.json"))


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

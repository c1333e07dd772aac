"""The page of a command: facts, a table of scores, and pictures; one self-contained file that opens offline."""

from __future__ import annotations

import base64
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from antidote.base.errors import UserError
from antidote.base.files import read_json

FILES = ("audit.json", "scan.json", "inspect.json", "clean.json")  # of the commands, each in its output folder
SIDE = 160  # longest side of a shown picture, in pixels


@dataclass(frozen=True)
class Shown:
    """One picture of the page: a PNG as a data address, a title and a line below."""

    picture: str
    title: str
    line: str


def thumbnail(picture: bytes | np.ndarray) -> str:
    """Return a picture, a file or uint8 (height, width, 3), as the data address of a small PNG."""
    from antidote.data.store import images

    image = images.rgb(images.decode(picture)) if isinstance(picture, bytes) else images.Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def printable(name: str) -> str:
    """Return the name of a file as text in UTF-8; bytes that are none are shown as in caf\\xe9.png."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def place(output: str | Path | None) -> Path | None:
    """Return the folder of the results, None for none; what cannot be written ends a command before its work.

    Raises:
        UserError: the output is a file, or its folder cannot be made or written.
    """
    if output is None:
        return None
    found = Path(output)
    if found.exists() and not found.is_dir():
        raise UserError(f"--output: {output}: is a file; should name a folder")
    writable(found, "--output")
    return found


def kept(output: str | Path | None, file: str, of: Mapping[str, str]) -> Path | None:
    """Return the folder of the results (see `place`), unless it holds those of another command or of other input.

    Args:
        file: name of the JSON file in which the command says what it read, one of `FILES`.
        of: what the command reads now, by key of that file.

    Raises:
        UserError: as in `place`; or the folder holds other results, which would be lost.
    """
    found = place(output)
    for other in FILES if found is not None else ():
        path = found / other
        if not path.is_file():
            continue
        what = other if other != file else _other_input(read_json(path), of)
        if what:
            raise UserError(f"--output: {output}: holds results of {what}, which would be lost; name another folder")
    return found


def _other_input(there: Any, of: Mapping[str, str]) -> str:
    """Return what differs in the input of earlier results; empty if nothing does, or if it is not known."""
    known = there if isinstance(there, dict) else {}
    return next((f"{key} {known[key]}" for key, value in of.items() if known.get(key, value) != value), "")


def writable(folder: Path, option: str) -> None:
    """Check that a folder can be written, or made, by a temporary folder in it or in the first folder above.

    Raises:
        UserError: it cannot; the message begins with the option that names it.
    """
    above = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=above):
            pass
    except OSError as error:
        raise UserError(f"{option}: {folder}: cannot be written ({above}: {error.strerror})") from None


def write(
    path: Path,
    title: str,
    verdict: str,
    facts: Mapping[str, Any],
    table: Sequence[Mapping[str, Any]] = (),
    shown: Sequence[Shown] = (),
) -> None:
    """Write the page.

    Args:
        verdict: one sentence below the title.
        facts: what was scored, by name.
        table: rows with equal keys.
        shown: pictures in order.
    """
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("report.html.j2").render(
        title=title, verdict=verdict, facts=facts, table=table, shown=shown
    )
    path.write_text(page, encoding="utf-8")

"""The page of a command: facts, a table of scores, and pictures; one self-contained file that opens offline."""

from __future__ import annotations

import base64
import io
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.clip.files import CARD

PAGE = "report.html"
WRITTEN = {  # files of each command in its output folder; the first says what the command read
    "audit": ("audit.json", PAGE),
    "scan": ("scan.json", "scores.csv", "keys.txt", PAGE),
    "inspect": ("inspect.json", "scores.csv", PAGE),
    "clean": ("clean.json", PAGE),
}
NAMED = {"from": "pictures", "read": "the files"}  # keys of the JSON files that say less than the argument
NO_TEXT = re.compile("[\udc80-\udcff]")  # how Python reads bytes of a name that are not UTF-8
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


def utf_8(text: str) -> str:
    """Return text that UTF-8 can encode; bytes of names that are none are shown as in caf\\xe9.png."""
    return NO_TEXT.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", text).encode(errors="backslashreplace").decode()


def check_given(option: str, name: str | Path) -> None:
    """Check that a name is not empty: of a variable that is not set, as a path it would mean the working folder.

    Raises:
        UserError: it is; the message begins with the option that names it.
    """
    if name == "":
        raise UserError(f"{option}: is an empty text; give a name or a path")


def check_name(option: str, name: str | Path) -> None:
    """Check that the name of a file or folder, or another word of the user, is text in UTF-8 and not empty.

    Raises:
        UserError: it is not, or the locale cannot read it; the message begins with the option that names it.
    """
    check_given(option, name)
    if utf_8(str(name)) == str(name):
        return
    shown, fault = utf_8(str(name)), "is not valid UTF-8; give it another name"
    with suppress(UnicodeError):
        shown = os.fsencode(name).decode()
        fault = "the locale's encoding has no such letters; set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
    raise UserError(f"{option}: {shown}: {fault}")


def place(output: str | Path | None) -> Path | None:
    """Return the folder of the results, None for none; what cannot be written ends a command before its work.

    Raises:
        UserError: the output is a file or the root of the file system, or its folder cannot be made or written.
    """
    if output is None:
        return None
    check_given("--output", output)
    found = Path(output)
    if found.exists() and not found.is_dir():
        raise UserError(f"--output: {output}: is a file; should name a folder")
    if not found.resolve().name:
        raise UserError(f"--output: {output}: should name a folder")
    writable(found, "--output")
    return found


def kept(output: str | Path | None, command: str, of: Mapping[str, Any] = MappingProxyType({})) -> Path | None:
    """Return the folder of the results (see `place`), unless it holds those of another command or of other input.

    Args:
        command: name of the command, one of `WRITTEN`.
        of: what the command reads now, by key of the command's JSON file.

    Raises:
        UserError: as in `place` and `refuse_others`; or the folder holds results of other input, or a file that would
            be lost though this command did not write it, such as the page of a study.
    """
    found = place(output)
    if found is None:
        return None
    refuse_others(found, command)
    own, *names = WRITTEN[command]
    if (found / own).is_file():
        what = _other_input(earlier(found / own), of)
        if what:
            raise UserError(f"--output: {output}: holds results of {what}, which would be lost; name another folder")
        return found
    lost = next((name for name in names if (found / name).exists()), None)
    if lost is not None:
        raise UserError(f"--output: {output}: holds {lost} and no {own}: {lost} would be lost; name another folder")
    return found


def refuse_others(found: Path, command: str) -> None:
    """Refuse a folder with results of another command than this one, or with a defended model.

    A defense that is killed after it has saved the model leaves no clean.json; its next run would find other results.

    Raises:
        UserError: the folder holds such results, of which part would be lost, or a damaged card of a model.
    """
    for other, (file, *_) in WRITTEN.items():
        if other != command and (found / file).is_file():
            what = f"results of `antidote {other}` ({file})"
            raise UserError(f"--output: {found}: holds {what}, which would be lost; name another folder")
    card = earlier(found / CARD) if command != "clean" and (found / CARD).is_file() else None
    if isinstance(card, dict) and card.get("kind") == "defended":
        raise UserError(f"--output: {found}: holds a defended model ({CARD}); name another folder")


def earlier(file: Path) -> Any:
    """Return what a JSON file of an earlier run in the output folder holds.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return read_json(file)
    except UserError as error:
        raise UserError(f"--output: {error}; name another folder, or remove it") from None


def _other_input(there: Any, of: Mapping[str, Any]) -> str:
    """Return what differs in the input of earlier results; empty if nothing does."""
    known = there if isinstance(there, dict) else {}
    read = {key: known.get(key, "unknown") for key in of}
    other = next((key for key, value in of.items() if read[key] != value), None)
    if other is None:
        return ""
    shown = ", ".join(filter(None, read[other])) if isinstance(read[other], list) else read[other]
    return f"{NAMED.get(other, other)} {shown}"


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
    path.write_text(utf_8(page), encoding="utf-8")

"""The table as text: markdown for `table.md`, aligned columns for the terminal."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import whole_file
from antidote.summary.tables import ASR, CONTROL, DISPUTED, percent, spread

FAILED, UNKNOWN, RECONSTRUCTION = "†", "?", "‡"
TITLES = {
    "score": "ASR@1 in percent (lower is better for a defense)",
    "ca1": "CA@1 in percent (higher is better)",
    "worst": "Worst in percent: the highest ASR@1 while the model is adapted to clean pairs afterwards",
}


def markdown(table: pd.DataFrame, title: str) -> str:
    """Return both figures as markdown tables with the footnotes below."""
    parts = [f"# {escaped(title)}"]
    for figure, heading in _measured(table).items():
        rows = grid(table, figure, best=lambda text: f"**{text}**", escape=escaped)
        rule = ["---", *("---:" for _ in rows[0][1:])]
        lines = (f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))
        parts += [f"## {heading}", "\n".join(lines)]
    parts.append("\n".join(f"- {escaped(note)}" for note in notes(table, "bold")))
    return "\n\n".join(parts) + "\n"


def plain(table: pd.DataFrame) -> str:
    """Return both figures as aligned plain text with the footnotes below."""
    parts = []
    for figure, heading in _measured(table).items():
        rows = grid(table, figure, best=lambda text: f"*{text}")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [_aligned(row, widths) for row in rows]
        parts.append("\n".join([heading, *lines]))
    parts.append("\n".join(notes(table, "*")))
    return "\n\n".join(parts) + "\n"


def _measured(table: pd.DataFrame) -> dict[str, str]:
    """Return the titles of the figures; `worst` only if at least one cell was adapted."""
    return {f: title for f, title in TITLES.items() if f != "worst" or table["worst_mean"].notna().any()}


def grid(
    table: pd.DataFrame, figure: str, best: Callable[[str], str], escape: Callable[[str], str] = str
) -> list[list[str]]:
    """Return a header and one row per attack: names with marks, mean ± std, for a blank the number of its reason."""
    defenses = table.drop_duplicates("defense")
    heads = [escape(d.defense) + (f" {RECONSTRUCTION}" if d.reconstruction else "") for d in defenses.itertuples()]
    rows = [["attack", *(["floor"] if figure == "score" else []), *heads]]
    reasons = blank_reasons(table)
    for attack, cells in table.groupby("attack", sort=False):
        if attack == "clean" and figure != "ca1":
            continue
        by_defense = {cell["defense"]: cell for _, cell in cells.iterrows()}
        first = cells.iloc[0]
        row = [escape(attack_title(first))]
        row += [percent(first["floor_mean"])] if figure == "score" else []
        for defense in defenses["defense"]:
            cell = by_defense.get(defense)
            text = "" if cell is None else cell_text(cell, figure, reasons)
            row.append(best(text) if figure == "score" and cell is not None and cell["best"] else text)
        rows.append(row)
    return rows


def cell_text(cell: pd.Series, figure: str, reasons: list[str]) -> str:
    """Return the text of a cell: `97.3`, `97.3 ± 0.4`, `97.3 (n=1)`, `- [2]` for a blank with reason 2, or nothing."""
    if cell["note"] in reasons:
        return f"- [{reasons.index(cell['note']) + 1}]"
    if figure == "worst":
        return percent(cell[f"{figure}_mean"])
    text = spread(cell[f"{figure}_mean"], cell[f"{figure}_std"])
    if text and cell["note"]:
        text += f" (n={int(cell[f'{figure}_n'])})"
    return text


def attack_title(cell: pd.Series) -> str:
    """Return the name of an attack in tables and plots: with its own figure, if any, and its gate mark."""
    own = "" if cell["score"] == ASR else f" ({cell['score']})"
    return cell["attack"] + own + attack_mark(cell["gate"])


def attack_mark(gate: str) -> str:
    """Return the mark after the name of an attack, by the result of the gate."""
    return {"failed": f" {FAILED}", "not measured": f" {UNKNOWN}"}.get(gate, "")


def blank_reasons(table: pd.DataFrame) -> list[str]:
    """Return the distinct reasons why cells are blank: they do not apply, or are disputed."""
    return [note for note in dict.fromkeys(table["note"]) if note.startswith("not applicable: ") or note == DISPUTED]


def notes(table: pd.DataFrame, best: str) -> list[str]:
    """Return the footnotes; `best` describes the mark of the best defense."""
    lines = ["floor: ASR@1 of the same trigger on the clean model", *marks(table)]
    attacks = table.drop_duplicates("attack")
    if (table["best"] == "yes").any():
        lines.append(f"{best}: lowest ASR@1 among the defenses whose CA@1 stays within the accuracy budget")
        lines += [f"{name}: a control, no defense; left out of the comparison" for name in _controls(table)]
    if table["ca1_std"].notna().any():
        lines.append("±: standard deviation over seeds; n: seeds run, where fewer than planned")
    lines += picks(table)
    own = [a for a in attacks.itertuples() if a.score != ASR]
    lines += [
        f"{a.attack}: scored by {a.score} in the place of ASR@1; its floor is the same on the clean model" for a in own
    ]
    lines += [f"[{i}] {reason}" for i, reason in enumerate(blank_reasons(table), 1)]
    if (table["note"] == "not run").any():
        lines.append("empty: not run")
    return lines


def marks(table: pd.DataFrame) -> list[str]:
    """Return the footnotes of the marks after names: the gate of an attack, the reconstruction of a defense."""
    lines, attacks = [], table.drop_duplicates("attack")
    for word, verdict in (("failed", f"{FAILED} not taken: "), ("not measured", f"{UNKNOWN} gate not known: ")):
        lines += [f"{verdict}{a.attack}: {a.gate_reason}" for a in attacks.itertuples() if a.gate == word]
    if (table["reconstruction"] == "yes").any():
        lines.append(f"{RECONSTRUCTION} reconstruction: parts that the paper leaves open are built from what is known")
    return lines


def picks(table: pd.DataFrame) -> list[str]:
    """Return lines that state the shown setting of each swept defense and how it was picked."""
    swept = table[(table["picked"] == "yes") & table["ca1_mean"].notna()]
    lines = []
    for sweep, rows in swept.groupby("sweep", sort=False):
        within, beyond = (rows[(rows["within"] == "yes") == yes] for yes in (True, False))
        if len(within):
            lines.append(f"{sweep}: swept; shown is the strongest setting within the accuracy budget: {_which(within)}")
        if len(beyond):
            lines.append(
                f"{sweep}: swept; no setting is within the accuracy budget; shown is the one with the most CA@1: "
                f"{_which(beyond)}"
            )
    return lines


def _which(rows: pd.DataFrame) -> str:
    by_setting = {s: ", ".join(r["attack"]) for s, r in rows.groupby("setting", sort=False)}
    return "; ".join(f"{setting} ({attacks})" for setting, attacks in by_setting.items())


def _controls(table: pd.DataFrame) -> list[str]:
    return list(table.loc[table["access"] == CONTROL, "defense"].unique())


def filled(text: str, part: str, content: str, where: str = "README.md") -> str:
    """Return the text with `content` between the marks of a part.

    Raises:
        UserError: a mark is missing; the message begins with `where`.
    """
    start, end = f"<!-- {part}:start -->\n", f"<!-- {part}:end -->"
    before, _, rest = text.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise UserError(f"{where}: {start.strip()} or {end} is missing")
    return f"{before}{start}{content}{end}{after}"


def fill(page: Path, part: str, content: str) -> None:
    """Write `content` between the marks of a part of a page.

    Raises:
        UserError: the page cannot be read, or a mark is missing; names the page.
    """
    try:
        old = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--page: {page}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"--page: {page}: is no text in UTF-8") from None
    with whole_file(page) as temporary:
        temporary.write_text(filled(old, part, content, str(page)), encoding="utf-8")
    command_line.log.info("wrote %s", page)


def _aligned(row: list[str], widths: list[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
    return "  ".join(cells).rstrip()


def escaped(text: str) -> str:
    """Return text escaped for Markdown."""
    return re.sub(r"([\\|`*<>])", r"\\\1", text)

"""Fill the generated parts of README.md: the methods from the registry, and the figures from the default study.

The figures are read from table.csv and costs.csv in results/default/summary, which `make demo` writes.
`--triggers` draws docs/triggers.png anew from the examples of a finished configs/attacks.yaml.
"""

import argparse
import csv
import sys
from pathlib import Path

import pandas as pd

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import whole_file
from antidote.base.registry import ATTACKS, DEFENSES, DETECTORS, SOURCES, method
from antidote.base.settings import read_mapping
from antidote.study.layout import SUMMARY, Layout
from antidote.study.slices import summary_plan
from antidote.study.study import Study
from antidote.summary.csv_files import read_table
from antidote.summary.page import duration, size
from antidote.summary.plan import SummarySettings
from antidote.summary.strip import strip
from antidote.summary.tables import percent, shown
from antidote.summary.text import RECONSTRUCTION, attack_title, blank_reasons, cell_text, filled, notes

ROOT = Path(__file__).resolve().parents[1]
TRIGGERS = ["badnet_checkered", "blended_cartoon", "sig", "warp_smooth", "issba", "badclip", "siba", "maba", "flba"]
DEFAULT = Layout(Path("results", "default")).path("summary")


def run(arguments: argparse.Namespace) -> None:
    """Write README.md, or report that README.md is out of date, or print the figures to standard output."""
    if arguments.triggers:
        return _triggers(arguments.triggers)
    if arguments.figures:
        sys.stdout.write(results(ROOT / arguments.summary))
        return None
    old = (ROOT / "README.md").read_text(encoding="utf-8")
    new = filled(filled(old, "methods", methods()), "results", results(ROOT / arguments.summary))
    if new == old:
        return None
    if arguments.check:
        raise UserError("README.md: its methods or figures are out of date; run scripts/readme.py")
    with whole_file(ROOT / "README.md") as temporary:
        temporary.write_text(new, encoding="utf-8")
    command_line.log.info("wrote README.md")
    return None


def _triggers(results: Path) -> None:
    """Draw docs/triggers.png."""
    study = Study(read_mapping(str(ROOT / "configs" / "attacks.yaml")), "configs/attacks.yaml")
    plan = SummarySettings.read(read_mapping(summary_plan(study)), "the study")
    strip(plan, results / study.name, TRIGGERS, ROOT / "docs" / "triggers.png")
    command_line.log.info("wrote docs/triggers.png")


def methods() -> str:
    """Return a list of all methods by name, each linked to its section in docs/methods.md."""
    recon = {name for name in DEFENSES if method("defense", name).reconstruction}
    attacks = ", ".join(f"[{name}](docs/methods.md#{name})" for name in ATTACKS)
    defenses = ", ".join(
        f"[{name}](docs/methods.md#{name}){f' {RECONSTRUCTION}' if name in recon else ''}" for name in DEFENSES
    )
    found = [name for name in DETECTORS if not method("detector", name).control]
    marks = {name: f" {RECONSTRUCTION}" if method("detector", name).reconstruction else "" for name in found}
    anchors = {name: f"{name}-detector" if name in DEFENSES else name for name in found}
    detectors = ", ".join(f"[{name}](docs/methods.md#{anchors[name]}){marks[name]}" for name in found)
    mark = f"\n{RECONSTRUCTION} reconstruction: the paper leaves parts open.\n" if recon else ""
    data = ", ".join(SOURCES)
    return f"- Attacks: {attacks}\n- Defenses: {defenses}\n- Detectors: {detectors}\n- Data from: {data}\n{mark}"


def results(folder: Path) -> str:
    """Return the figures of a study: a row per defense, a column per attack, ASR@1 / CA@1 in each cell.

    Raises:
        UserError: the study has not been run.
    """
    file = folder / SUMMARY["table"]
    if not file.is_file():
        raise UserError(f"{file}: no such file; run `make demo` first")
    table = shown(read_table(file))
    marks = "\n".join(f"- {note}" for note in notes(table, "bold"))
    return f"ASR@1 / CA@1 in percent:\n\n{_figures(table)}\n\n{marks}\n\n{_costs(folder / SUMMARY['costs'])}\n"


def _figures(table: pd.DataFrame) -> str:
    attacked = table[table["attack"] != "clean"]
    firsts = attacked.drop_duplicates("attack")
    reasons, recon = blank_reasons(table), set(table.loc[table["reconstruction"] == "yes", "defense"])
    clean = percent(table.loc[table["attack"] == "clean", "ca1_mean"].iloc[0])
    rows = [["defense", *(attack_title(row) for _, row in firsts.iterrows())]]
    rows += [["---", *["---:"] * len(firsts)]]
    rows += [["floor / clean model", *(f"{percent(row.floor_mean)} / {clean}" for row in firsts.itertuples())]]
    for defense, cells in attacked.groupby("defense", sort=False):
        name = f"{defense} {RECONSTRUCTION}" if defense in recon else defense
        rows.append([name, *(_cell(cell, reasons) for _, cell in cells.iterrows())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(cell: pd.Series, reasons: list[str]) -> str:
    asr, ca = (cell_text(cell, figure, reasons) for figure in ("score", "ca1"))
    if cell["note"] in reasons or not ca:
        return asr
    return f"**{asr}** / {ca}" if cell["best"] == "yes" else f"{asr} / {ca}"


def _costs(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    seconds = sum(float(row["seconds"]) for row in rows if row["seconds"])
    memory = max(float(row["peak_memory_bytes"]) for row in rows if row["peak_memory_bytes"])
    return f"Job times add up to {duration(seconds)}; no job took more than {size(memory)} of memory."


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--summary", type=Path, default=DEFAULT, help="folder of table.csv and costs.csv")
    parser.add_argument("--triggers", type=Path, metavar="RESULTS", help="folder of all studies; draw the triggers")
    parser.add_argument("--figures", action="store_true", help="write nothing; print the figures")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if README.md is out of date")
    command_line.main(run, parser)

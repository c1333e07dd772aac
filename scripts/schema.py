"""Write the files that are generated from the settings classes, the registry and the default study.

The files are the JSON Schema of a study, two pages of the documentation, and dvc.yaml with its list of models.
"""

import argparse
import json
from pathlib import Path

import yaml

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import whole_file
from antidote.base.settings import read_mapping
from antidote.study.artifacts import artifacts
from antidote.study.reference import methods_page, settings_page
from antidote.study.schema import study_schema
from antidote.study.study import Study

ROOT = Path(__file__).resolve().parents[1]


def texts() -> dict[str, str]:
    """Return the text of every generated file by path."""
    return {
        "config.schema.json": json.dumps(study_schema(), indent=2, ensure_ascii=False) + "\n",
        "docs/settings.md": settings_page(),
        "docs/methods.md": methods_page(),
        "dvc.yaml": dvc_file(),
    }


def dvc_file() -> str:
    """Return dvc.yaml with the models of the default study; the part above the models is written by hand."""
    study = Study(read_mapping(str(ROOT / "config.yaml")), "config.yaml")
    above = (read(ROOT / "dvc.yaml") or "").partition("\nartifacts:")[0]
    models = yaml.safe_dump({"artifacts": artifacts(study)}, sort_keys=False, default_flow_style=None, width=1000)
    return f"{above}\n{models}"


def run(arguments: argparse.Namespace) -> None:
    stale = {name: text for name, text in texts().items() if read(ROOT / name) != text}
    if arguments.check and stale:
        raise UserError(f"{', '.join(stale)}: out of date; run scripts/schema.py")
    for name, text in stale.items():
        with whole_file(ROOT / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        command_line.log.info("wrote %s", name)


def read(path: Path) -> str | None:
    """Return the text of a file; None if the file does not exist."""
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of date")
    command_line.main(run, parser)

"""Populations of models with known scores: where a model's score is among clean and backdoored models of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError
from antidote.base.files import DATA, read_json
from antidote.base.registry import DETECTORS, method
from antidote.study.layout import Layout

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["model", "state", "detector", "score", "measured_on"]
CLEAN, BACKDOORED = "clean", "backdoored"
FALSE_ALARMS = 0.1  # share of clean models that a verdict may call suspicious (ours)
NONE = "no verdict: no population of this kind"


@dataclass(frozen=True)
class Place:
    """Where a score is within a population.

    Attributes:
        clean, backdoored: number of models of each state.
        clean_above, backdoored_above: how many of them score at least as high.
    """

    clean: int
    clean_above: int
    backdoored: int
    backdoored_above: int

    def verdict(self, false_alarms: float = FALSE_ALARMS) -> str:
        """Return a verdict with its error rates, or the reason why there is none.

        A score is suspicious if its conformal p-value, (1 + clean models at least as high) / (1 + clean models), is at
        most `false_alarms`.
        """
        if not self.clean or not self.backdoored:
            return NONE
        if 1 / (1 + self.clean) > false_alarms:
            return f"no verdict: {self.clean} clean models are too few for {false_alarms:.0%} false alarms"
        p = (1 + self.clean_above) / (1 + self.clean)
        rates = (
            f"{self.clean_above} of {self.clean} clean models and {self.backdoored_above} of {self.backdoored} "
            "backdoored ones score at least as high"
        )
        return f"{'suspicious' if p <= false_alarms else 'not suspicious'}: {rates} (p = {p:.2f})"


def place(table: pd.DataFrame, detector: str, score: float) -> Place:
    """Return where `score` is among the models of a table for one detector."""
    own = table[table["detector"] == detector]
    clean, backdoored = (own[own["state"] == state]["score"] for state in (CLEAN, BACKDOORED))
    return Place(len(clean), int((clean >= score).sum()), len(backdoored), int((backdoored >= score).sum()))


def shipped(kind: str) -> pd.DataFrame:
    """Return the scores of models of one kind from the tables in data/populations; without rows if there are none.

    Args:
        kind: name of the architecture, as in open_clip or in data/models.
    """
    import pandas as pd

    tables = [read(file) for file in sorted((DATA / "populations").glob("*.csv"))]
    table = pd.concat([pd.DataFrame(columns=COLUMNS), *(part for part in tables if len(part))])
    return table[table["model"] == kind].reset_index(drop=True)


def read(file: Path) -> pd.DataFrame:
    """Read one table of a population.

    Raises:
        UserError: the file is missing, or has other columns.
    """
    import pandas as pd

    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None
    if list(table.columns) != COLUMNS:
        raise UserError(f"{file}: should have the columns {', '.join(COLUMNS)}, has {', '.join(table.columns)}")
    return table


def of_study(folder: Path) -> pd.DataFrame:
    """Return the scores of the models of a study: clean models, and undefended ones under attacks that pass the gate.

    Only detectors with the settings of `antidote audit`, their defaults, count: scores of other settings are on other
    scales.

    Args:
        folder: results/{study}.

    Raises:
        UserError: the study has no such scores, or has no table with the gate of its attacks.
    """
    import pandas as pd

    if not folder.is_dir():
        raise UserError(f"--population: {folder}: no such folder; should be results/STUDY of a finished study")
    rows, effective = [], None
    for file in sorted(folder.rglob("detection.json")):
        found = read_json(file)
        if found.get("subject") != "model" or found.get("defense") != "none" or not as_audited(found):
            continue
        if found["attack"] != "clean":
            effective = passed(folder) if effective is None else effective
            if found["attack"] not in effective:
                continue
        state = CLEAN if found["attack"] == "clean" else BACKDOORED
        rows.append((kind_of(file.parents[2]), state, found["method"], found["score"], found["study"]))
    if not rows:
        raise UserError(
            f"--population: {folder}: holds no scores of detectors of models with their default settings; run such a "
            "study first"
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def as_audited(found: Mapping[str, Any]) -> bool:
    """Return whether a detection was made with the settings that `antidote audit` uses; False if it names none."""
    name = found.get("method")
    if name not in DETECTORS:
        return False
    settings = method("detector", name).Settings.read({"method": name}, f"detector {name}")
    return found.get("settings") == settings.model_dump(mode="json", exclude={"label"})


def passed(folder: Path) -> set[str]:
    """Return the attacks of a study that pass its gate; a model under another attack has no working backdoor.

    Raises:
        UserError: the study has no summary yet.
    """
    import pandas as pd

    file = Layout(folder).path("summary", "table")
    try:
        table = pd.read_csv(file, keep_default_na=False)
        return set(table.loc[table["gate"] == "passed", "attack"])
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--population: {file}: cannot be read ({reason}); finish the study first") from None


def kind_of(cell: Path) -> str:
    """Return the kind of the model of a cell of a study: the shape of its picture encoder; "" if it is not there."""
    for folder in (cell / "model", cell.parent / "model"):
        if (folder / "open_clip_config.json").is_file():
            return architecture(read_json(folder / "open_clip_config.json")["model_cfg"])
    return ""


def architecture(config: dict) -> str:
    """Return a name of a model configuration that equal architectures share: kind, picture size, depth, width."""
    vision = config["vision_cfg"]
    layers = vision.get("layers")
    kind = "resnet" if isinstance(layers, list) else f"vit{vision.get('patch_size')}" if layers else "other"
    depth = "-".join(map(str, layers)) if isinstance(layers, list) else layers
    return f"{kind}-{vision.get('image_size')}px-{depth}x{vision.get('width')}-{config.get('embed_dim')}d"

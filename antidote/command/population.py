"""Populations of models with known scores: where a model's score is among clean and backdoored models of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError
from antidote.base.files import DATA, read_json
from antidote.base.registry import DETECTORS, method
from antidote.data.access import POOLS
from antidote.study.layout import Layout

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["model", "state", "detector", "score", "pictures", "shown", "measured_on"]
CLEAN, BACKDOORED = "clean", "backdoored"
FALSE_ALARMS = 0.1  # share of clean models that a verdict may call suspicious (ours)
NONE = "no verdict: no population of this kind"


@dataclass(frozen=True)
class Place:
    """Where a score is within a population.

    Attributes:
        clean, backdoored: number of models of each state.
        clean_above, backdoored_above: how many of them score at least as high.
        pictures: number of pictures or captions that each score of the population is from; 0: none.
        shown: where these come from, as `dataset/split`; "": from nowhere, or unknown.
    """

    clean: int
    clean_above: int
    backdoored: int
    backdoored_above: int
    pictures: int = 0
    shown: str = ""

    @property
    def condition(self) -> str:
        """Return the pictures that a p-value holds for; "" without a population or for scores without pictures."""
        if not self.pictures or not self.clean or not self.backdoored:
            return ""
        of = f" of {self.shown}" if self.shown else ""
        return f"p holds for the population's own data, {self.pictures}{of}; other data shift the score"

    def verdict(self, false_alarms: float = FALSE_ALARMS, given: int | None = None) -> str:
        """Return a verdict with its error rates, or the reason why there is none.

        A score is suspicious if its conformal p-value, (1 + clean models at least as high) / (1 + clean models), is at
        most `false_alarms`.

        Args:
            false_alarms: share of clean models, between 0 and 1, that a verdict may call suspicious.
            given: number of different pictures or captions that the user gives; None: the detector takes none.
        """
        if not self.clean or not self.backdoored:
            return NONE
        if given is not None and given < self.pictures:
            here = f"{given} different pictures or captions are given"
            return f"no verdict: {here}; the scores of the population are from {self.pictures}"
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
    pictures = int(own["pictures"].max()) if len(own) else 0
    shown = " and ".join(sorted({name for name in own["shown"] if name}))
    above = lambda scores: int((scores >= score).sum())
    return Place(len(clean), above(clean), len(backdoored), above(backdoored), pictures, shown)


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
        table = pd.read_csv(file, keep_default_na=False)
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
        try:
            if found.get("subject") != "model" or found.get("defense") != "none" or not as_audited(found):
                continue
            if found["attack"] != "clean":
                effective = passed(folder) if effective is None else effective
                if found["attack"] not in effective:
                    continue
            if found["score"] is None:  # the detector has no score of the model
                continue
            state = CLEAN if found["attack"] == "clean" else BACKDOORED
            kind, seen = kind_of(file.parents[2]), used(folder, found["method"])
            rows.append((kind, state, found["method"], float(found["score"]), *seen, found["study"]))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(f"--population: {file}: is damaged or of another version; run the study again") from None
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


@cache
def used(folder: Path, name: str) -> tuple[int, str]:
    """Return how many pictures or captions a detector of a study uses, and their dataset; (0, "") for none.

    A study whose pools are not there counts as one with enough pictures for the detector's default settings.
    """
    import pandas as pd

    kind = method("detector", name)
    settings, pools = kind.Settings.read({"method": name}, f"detector {name}"), POOLS.get(kind.access, ())
    wanted = getattr(settings, "pictures", getattr(settings, "captions", None))
    if wanted is None or not pools:
        return 0, ""
    file = Layout(folder).path("pool", "pool", pool=pools[0])
    if not file.is_file():
        return wanted, ""
    pool = pd.read_parquet(file, columns=["dataset", "split"])
    places = (pool["dataset"] + "/" + pool["split"]).head(wanted)
    return len(places), " and ".join(sorted(set(places)))


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


def architecture(config: Mapping[str, Any]) -> str:
    """Return a name of a model configuration that equal picture encoders share.

    It holds kind, picture size, depth, width and width of the features; of a timm model its name. Activations and
    pooling are named where they are not the usual ones.

    Args:
        config: an open_clip model configuration (`model_cfg`).
    """
    vision = config["vision_cfg"]
    size, ends = f"{vision.get('image_size')}px", f"{config.get('embed_dim')}d"
    layers, timm = vision.get("layers"), vision.get("timm_model_name")
    if timm:
        pool = vision.get("timm_pool") or ""
        parts = [f"timm-{timm}", size, ends, *([f"{pool}-pool"] if pool else [])]
    else:
        kind = "resnet" if isinstance(layers, list) else f"vit{vision.get('patch_size')}" if layers else "other"
        depth = "-".join(map(str, layers)) if isinstance(layers, list) else layers
        pool = vision.get("pool_type", "tok")
        parts = [kind, size, f"{depth}x{vision.get('width')}", ends, *([f"{pool}-pool"] if pool != "tok" else [])]
    return "-".join([*parts, *(["quickgelu"] if config.get("quick_gelu") else [])])

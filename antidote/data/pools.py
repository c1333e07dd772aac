"""Pools: which pairs serve for training, poison, defense and inversion. No pair serves for two.

A pool is a list of keys, never a copy. It depends on the seed, the settings and the keys of the splits, not on the
order in which anything is listed.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from antidote.base.errors import UserError
from antidote.base.files import whole_file, write_json
from antidote.base.settings import Seed, Settings
from antidote.data.words.names import mentioning

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

COLUMNS = ["key", "dataset", "split", "pool", "position"]


class Pool(Settings):
    """Pairs drawn from one split of one dataset."""

    dataset: str | None = Field(None, description="Name of the dataset; null takes the training pool's.")
    split: str | None = Field(None, description="Name of the split; null takes the training pool's.")
    pairs: int = Field(ge=1, description="Pairs in the pool; of a picture's captions the first alone is used.")
    target_pairs: NonNegativeInt | dict[Annotated[str, Field(pattern=r"\S")], PositiveInt] = Field(
        0,
        description="At least this many of the pairs have a (first) caption that names the target, as a whole word, "
        "singular or plural; or by word, how many name that word: `{banana: 800, canoe: 40}`.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "Pool":
        if self.guaranteed > self.pairs:
            raise ValueError(f"target_pairs is {self.guaranteed}, more than pairs, {self.pairs}")
        return self

    @property
    def guaranteed(self) -> int:
        """Return how many pairs are chosen for what their captions name."""
        return sum(self.words(None).values())

    def words(self, target: str | None) -> dict[str | None, int]:
        """Return how many captions name which word at least; a plain number counts for the target."""
        if isinstance(self.target_pairs, dict):
            return dict(sorted(self.target_pairs.items()))
        return {target: self.target_pairs} if self.target_pairs else {}


class Shots(Settings):
    """Labelled pairs for few-shot methods: the same number of each class."""

    dataset: str | None = Field(None, description="Name of the dataset; null takes the training pool's.")
    split: str | None = Field(None, description="Name of the split; null takes the training pool's.")
    per_class: int = Field(ge=1, description="Pairs of each class.")


class PoolsSettings(Settings):
    """Which pairs serve for what; a pool that is not named does not exist."""

    seed: Seed = Field(0, description="Chooses the pairs.")
    training: Pool = Field(description="Pairs that the clean reference and the backdoored models are trained on.")
    poison: Pool | None = Field(
        None, description="Pairs that attacks choose from; trained on as well, clean where no attack replaces them."
    )
    defense: Pool | None = Field(None, description="Clean pairs of the defender; the attacker has never seen them.")
    inversion: Pool | None = Field(None, description="Pairs that learned triggers are fitted on.")
    shots: Shots | None = Field(None, description="Labelled pictures of few-shot defenses, equally many of each class.")

    @model_validator(mode="after")
    def _named(self) -> "PoolsSettings":
        for field in ("dataset", "split"):
            if getattr(self.training, field) is None:
                raise ValueError(f"training.{field}: is missing")
        return self

    def pools(self) -> "dict[str, Pool | Shots]":
        """Return the pools that exist, in a fixed order."""
        named = {name: getattr(self, name) for name in ("training", "poison", "defense", "inversion", "shots")}
        return {name: pool for name, pool in named.items() if pool is not None}

    def place(self, pool: "Pool | Shots") -> tuple[str, str]:
        """Return the dataset and split that a pool is drawn from."""
        return pool.dataset or self.training.dataset, pool.split or self.training.split

    def splits(self) -> list[tuple[str, str]]:
        """Return every dataset and split that a pool is drawn from, sorted."""
        return sorted({self.place(pool) for pool in self.pools().values()})


def choose(
    settings: PoolsSettings, indexes: "Mapping[tuple[str, str], pd.DataFrame]", target: str | None = None
) -> "pd.DataFrame":
    """Choose the pairs of every pool.

    Args:
        settings: the pools.
        indexes: for each (dataset, split), a table with columns key, caption, label. Pools of a split that is not
            among them are left out: they have no influence on the others.
        target: the word that a `target_pairs` without words of its own counts.

    Returns:
        One row per chosen pair: key, dataset, split, pool, position (0, 1, ... within the pool, in random order).

    Raises:
        UserError: a pool asks for more pairs, or more pairs that name a word, than are left for it.
    """
    import pandas as pd

    splits = {place: _Split(*place, index, settings.seed) for place, index in indexes.items()}
    pools = {name: pool for name, pool in settings.pools().items() if settings.place(pool) in splits}
    # What is scarce goes first: classes, then captions with the target; the order within a step is that of `pools`.
    taken: dict[str, list[np.ndarray]] = {name: [] for name in pools}
    for name, pool in pools.items():
        if isinstance(pool, Shots):
            taken[name].append(splits[settings.place(pool)].take_shots(name, pool.per_class))
    for name, pool in pools.items():
        for word, pairs in pool.words(target).items() if isinstance(pool, Pool) else ():
            taken[name].append(splits[settings.place(pool)].take_target(name, word, pairs))
    for name, pool in pools.items():
        if isinstance(pool, Pool):
            taken[name].append(splits[settings.place(pool)].take(name, pool.pairs - pool.guaranteed, pool.pairs))
    tables = [splits[settings.place(pool)].table(name, taken[name]) for name, pool in pools.items()]
    return pd.concat(tables, ignore_index=True)[COLUMNS]


class _Split:
    """One split in a random order; hands out each pair once."""

    def __init__(self, dataset: str, split: str, index: "pd.DataFrame", seed: int) -> None:
        import numpy as np

        self._dataset, self._split = dataset, split
        self._seed = seed
        order = np.argsort(_ranks(index["key"], seed, dataset, split))
        self._rows = index.iloc[order].reset_index(drop=True)
        self._free = np.ones(len(self._rows), bool)

    def take(self, pool: str, pairs: int, asked: int) -> "np.ndarray":
        import numpy as np

        free = np.flatnonzero(self._free)
        if len(free) < pairs:
            used = len(self._rows) - len(free)
            others = f", of which {used} already serve" if used else ""
            raise UserError(
                f"pools: {pool}: asks for {asked} pairs, {self._dataset}/{self._split} holds {len(self._rows)}{others}"
            )
        return self._mark(free[:pairs])

    def take_target(self, pool: str, word: str | None, pairs: int) -> "np.ndarray":
        import numpy as np

        if not word:
            raise UserError(f"pools: {pool}: target_pairs is {pairs}, but no target is given")
        found = np.flatnonzero(self._free & mentioning(self._rows["caption"], word))
        if len(found) < pairs:
            raise UserError(
                f"pools: {pool}: asks for {pairs} captions with {word!r},"
                f" {self._dataset}/{self._split} has {len(found)} free ones"
            )
        return self._mark(found[:pairs])

    def take_shots(self, pool: str, per_class: int) -> "np.ndarray":
        import numpy as np

        labels = self._rows["label"].to_numpy()
        kinds = np.unique(labels[labels >= 0])
        if not len(kinds):
            raise UserError(f"pools: {pool}: {self._dataset}/{self._split} has no labels")
        chosen = []
        for kind in kinds:
            found = np.flatnonzero(self._free & (labels == kind))
            if len(found) < per_class:
                raise UserError(
                    f"pools: {pool}: asks for {per_class} pairs per class,"
                    f" {self._dataset}/{self._split} has {len(found)} free ones of class {kind}"
                )
            chosen.append(found[:per_class])
        return self._mark(np.concatenate(chosen))

    def table(self, pool: str, taken: "list[np.ndarray]") -> "pd.DataFrame":
        import numpy as np
        import pandas as pd

        rows = np.concatenate(taken)
        # In an order of its own, so that the position says nothing about what the pair was taken for.
        rows = rows[np.argsort(_ranks(self._rows["key"].iloc[rows], self._seed, pool))]
        return pd.DataFrame(
            {
                "key": self._rows["key"].iloc[rows].to_numpy(),
                "dataset": self._dataset,
                "split": self._split,
                "pool": pool,
                "position": np.arange(len(rows)),
            }
        )

    def _mark(self, rows: "np.ndarray") -> "np.ndarray":
        self._free[rows] = False
        return rows


def _ranks(keys: "Iterable[str]", *parts: object) -> "np.ndarray":
    """Return a random rank for each key that depends on nothing but the key and `parts`: bytes (N,)."""
    import numpy as np

    text = "/".join(map(str, parts))
    return np.array([hashlib.sha256(f"{text}/{key}".encode()).hexdigest() for key in keys], "S64")


def write(path: str | Path, pools: "pd.DataFrame") -> dict[str, Any]:
    """Write a parquet file and, beside it, a JSON file with the number of pairs in each pool; return the latter."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    schema = pa.schema([(name, pa.int64() if name == "position" else pa.string()) for name in COLUMNS])
    with whole_file(path) as temporary:
        pq.write_table(pa.Table.from_pandas(pools, schema, preserve_index=False).replace_schema_metadata(), temporary)
    groups = pools.groupby(["pool", "dataset", "split"], sort=False).size()
    summary = {
        pool: {"dataset": dataset, "split": split, "pairs": int(count)}
        for (pool, dataset, split), count in groups.items()
    }
    write_json(path.with_suffix(".json"), summary)
    return summary


def read(paths: str | Path | Sequence[Path]) -> "pd.DataFrame":
    """Read the pools of one file, or of several one after the other.

    Raises:
        UserError: a file is missing or damaged.
    """
    import pandas as pd

    paths = [paths] if isinstance(paths, str | Path) else paths
    return pd.concat([_read(path) for path in paths], ignore_index=True)


def _read(path: str | Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None


def drawn_from(files: Sequence[Path], data: Path) -> list[Path]:
    """Return files of pools, and the manifests of the splits that their pairs lie in; manifests hold all hashes."""
    drawn = read(files)[["dataset", "split"]].drop_duplicates() if files else None
    splits = [] if drawn is None else sorted(drawn.itertuples(index=False, name=None))
    return [*files, *(data / dataset / split / "manifest.json" for dataset, split in splits)]

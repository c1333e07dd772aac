"""Pools: disjoint sets of pairs for training, poison, defense, inversion and few-shot methods.

A pool is a list of keys, not a copy of pairs. It depends on the seed, the settings and the keys of the splits, not on
the order of keys or settings.
"""

import hashlib
import logging
import re
from collections.abc import Collection, Mapping, Sequence
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

log = logging.getLogger("antidote")

COLUMNS = ["key", "dataset", "split", "pool", "position"]
NAMES = ("training", "poison", "defense", "inversion", "shots")  # pools with a use of their own
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # name of a further pool, which is the name of a file


class Pool(Settings):
    """Pairs drawn from one split of one dataset."""

    dataset: str | None = Field(None, description="Name of the dataset; null: the training pool's dataset.")
    split: str | None = Field(None, description="Name of the split; null: the training pool's split.")
    pairs: int = Field(ge=1, description="Number of pairs; a pair is a picture with its first caption.")
    without: str | None = Field(
        None,
        description="Text file with one key per line: pairs that the pool leaves out, such as keys.txt of "
        "`antidote scan`; null: none.",
    )
    target_pairs: NonNegativeInt | dict[Annotated[str, Field(pattern=r"\S")], PositiveInt] = Field(
        0,
        description="Least number of pairs whose first caption contains the target class as a whole word, in singular "
        "or plural; a mapping gives the number per word: `{banana: 800, canoe: 40}`.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "Pool":
        if self.guaranteed > self.pairs:
            raise ValueError(f"target_pairs is {self.guaranteed}, more than pairs, {self.pairs}")
        return self

    @property
    def guaranteed(self) -> int:
        """Return the number of pairs that are chosen by a word in their caption."""
        return sum(self.words(None).values())

    def words(self, target: str | None) -> dict[str | None, int]:
        """Return the least number of captions per word; a plain `target_pairs` applies to `target`."""
        if isinstance(self.target_pairs, dict):
            return dict(sorted(self.target_pairs.items()))
        return {target: self.target_pairs} if self.target_pairs else {}


class Shots(Settings):
    """Labelled pairs for few-shot methods, the same number for each class."""

    dataset: str | None = Field(None, description="Name of the dataset; null: the training pool's dataset.")
    split: str | None = Field(None, description="Name of the split; null: the training pool's split.")
    per_class: int = Field(ge=1, description="Number of pairs per class.")


class PoolsSettings(Settings):
    """The pools of a study; an omitted pool does not exist."""

    seed: Seed = Field(0, description="Seed of the choice of pairs.")
    training: Pool = Field(description="Training pairs of the clean reference and the backdoored models.")
    poison: Pool | None = Field(
        None,
        description="Pairs that attacks may poison. All models train on this pool; pairs that an attack does not "
        "replace stay clean.",
    )
    defense: Pool | None = Field(None, description="Clean pairs of the defender; no attack has access to them.")
    inversion: Pool | None = Field(None, description="Pairs for the optimisation of learned triggers.")
    shots: Shots | None = Field(
        None, description="Labelled pictures for few-shot defenses, the same number for each class."
    )
    further: dict[str, Pool] = Field(
        {}, description="Further pools by name, for adaptations of `persistence`: pairs of another domain."
    )

    @model_validator(mode="after")
    def _named(self) -> "PoolsSettings":
        for field in ("dataset", "split"):
            if getattr(self.training, field) is None:
                raise ValueError(f"training.{field}: is missing")
        for name in self.further:
            if name in NAMES or not NAME.fullmatch(name):
                reason = "is the name of another pool" if name in NAMES else "may hold letters, digits, _ -"
                raise ValueError(f"further: name {name!r} {reason}")
        return self

    def pools(self) -> "dict[str, Pool | Shots]":
        """Return the pools that are set, by name, in a fixed order."""
        named = {name: getattr(self, name) for name in NAMES}
        return {**{name: pool for name, pool in named.items() if pool is not None}, **self.further}

    def key(self, name: str) -> str:
        """Return the key of a pool in the study file, below `pools`."""
        return f"further.{name}" if name in self.further else name

    def place(self, pool: "Pool | Shots") -> tuple[str, str]:
        """Return the dataset and split of a pool."""
        return pool.dataset or self.training.dataset, pool.split or self.training.split

    def check_files(self) -> None:
        """Raise UserError if a list of pairs to leave out is missing or holds no key."""
        for name, pool in self.pools().items():
            if isinstance(pool, Pool) and pool.without is not None:
                left_out(pool.without, f"pools.{self.key(name)}.without")

    def splits(self) -> list[tuple[str, str]]:
        """Return every (dataset, split) with a pool, sorted."""
        return sorted({self.place(pool) for pool in self.pools().values()})


def choose(
    settings: PoolsSettings, indexes: "Mapping[tuple[str, str], pd.DataFrame]", target: str | None = None
) -> "pd.DataFrame":
    """Choose the pairs of every pool.

    Args:
        settings: the pools.
        indexes: for each (dataset, split), a table with columns key, caption, label. Pools of other splits are left
            out; they have no influence on the pools of these splits.
        target: the word for a `target_pairs` that is a plain number.

    Returns:
        One row per chosen pair: key, dataset, split, pool, position (0, 1, ... within the pool, in random order).

    Raises:
        UserError: too few pairs, pairs with a word, or pairs of a class are left for a pool.
    """
    import pandas as pd

    splits = {place: _Split(*place, index, settings.seed) for place, index in indexes.items()}
    pools = {name: pool for name, pool in settings.pools().items() if settings.place(pool) in splits}
    # Scarce pairs are assigned first: pairs per class, then captions with a word. Each step keeps the order of `pools`.
    taken: dict[str, list[np.ndarray]] = {name: [] for name in pools}
    for name, pool in pools.items():
        if isinstance(pool, Pool) and pool.without is not None:
            where = f"pools.{settings.key(name)}.without"
            splits[settings.place(pool)].leave_out(name, left_out(pool.without, where), f"{where}: {pool.without}")
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
    """One split in a random order; each pair is assigned at most once."""

    def __init__(self, dataset: str, split: str, index: "pd.DataFrame", seed: int) -> None:
        import numpy as np

        self._dataset, self._split = dataset, split
        self._seed = seed
        order = np.argsort(_ranks(index["key"], seed, dataset, split))
        self._rows = index.iloc[order].reset_index(drop=True)
        self._free = np.ones(len(self._rows), bool)
        self._left_out: dict[str, np.ndarray] = {}  # bool (N,) by pool

    def leave_out(self, pool: str, keys: frozenset[str], where: str) -> None:
        """Exclude the pairs with these keys from one pool; the log counts keys of other splits, which have no effect.

        Raises:
            UserError: the split holds none of the keys; the message begins with `where`.
        """
        found = self._rows["key"].isin(keys).to_numpy()
        unknown = len(keys - set(self._rows["key"][found]))
        if unknown == len(keys):
            raise UserError(
                f"{where}: none of its {len(keys)} keys is in {self._dataset}/{self._split}; should hold keys of that "
                "split, as a scan of it writes them"
            )
        if unknown:
            log.info("%s: %d of its %d keys are not in %s/%s", where, unknown, len(keys), self._dataset, self._split)
        self._left_out[pool] = found

    def _free_for(self, pool: str) -> "np.ndarray":
        """Return bool (N,): pairs that no pool has and that this pool does not leave out."""
        left_out = self._left_out.get(pool)
        return self._free if left_out is None else self._free & ~left_out

    def take(self, pool: str, pairs: int, asked: int) -> "np.ndarray":
        import numpy as np

        free = np.flatnonzero(self._free_for(pool))
        if len(free) < pairs:
            used = int((~self._free).sum())
            others = f", of which {used} already serve" if used else ""
            spared = len(self._rows) - used - len(free)
            others += f", and `without` leaves out {spared}" if spared else ""
            raise UserError(
                f"pools: {pool}: asks for {asked} pairs, {self._dataset}/{self._split} holds {len(self._rows)}{others}"
            )
        return self._mark(free[:pairs])

    def take_target(self, pool: str, word: str | None, pairs: int) -> "np.ndarray":
        import numpy as np

        if not word:
            raise UserError(f"pools: {pool}: target_pairs is {pairs}, but no target is given")
        found = np.flatnonzero(self._free_for(pool) & mentioning(self._rows["caption"], word))
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
        # Shuffled again, so that a pair's position does not reveal why it was chosen (class, word or random).
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


def left_out(path: str | Path, where: str) -> frozenset[str]:
    """Return the keys in a file with one key per line.

    Raises:
        UserError: the file is missing, no text, or holds no key; the message begins with `where`.
    """
    try:
        keys = frozenset(filter(None, map(str.strip, Path(path).read_text(encoding="utf-8").splitlines())))
    except OSError as error:
        raise UserError(f"{where}: {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{where}: {path}: is not a text file; should hold one key per line") from None
    if not keys:
        raise UserError(f"{where}: {path}: holds no key; should hold one key per line")
    return keys


def _ranks(keys: "Collection[str]", *parts: object) -> "np.ndarray":
    """Return a random rank for each key, bytes (N,), that depends only on the key and `parts`."""
    import numpy as np

    text = "/".join(map(str, parts))
    ranks = (hashlib.sha256(f"{text}/{key}".encode()).hexdigest().encode() for key in keys)
    return np.fromiter(ranks, "S64", len(keys))  # without a list of all of them


def write(path: str | Path, pools: "pd.DataFrame") -> dict[str, Any]:
    """Write the pools to a parquet file, and their sizes to a JSON file beside it; return the content of the JSON file.

    Args:
        path: the parquet file.
        pools: the table returned by `choose`.
    """
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
    """Read the pools of one file, or the concatenated pools of several files.

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
    """Return the pool files and the manifests of the splits of their pairs; a manifest holds the split's hashes."""
    drawn = read(files)[["dataset", "split"]].drop_duplicates() if files else None
    splits = [] if drawn is None else sorted(drawn.itertuples(index=False, name=None))
    return [*files, *(data / dataset / split / "manifest.json" for dataset, split in splits)]

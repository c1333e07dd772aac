"""Poison pairs of the poison pool: draw the trigger or replace the picture, replace the caption, and write the overlay
with its manifest.
"""

import argparse
import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from antidote.attacks.base import AttackSettings
from antidote.attacks.trigger import DESCRIPTION, TENSORS, Trigger, load_trigger
from antidote.base.cache import Shared, identity
from antidote.base.command_line import Cost, log, main, parser, seed, settings_argument
from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.base.lazy import torch
from antidote.base.registry import ATTACKS, module
from antidote.base.seeds import derive
from antidote.data import pools
from antidote.data.overlay import MANIFEST, TAR, write_overlay
from antidote.data.pools import drawn_from
from antidote.data.store import images, shards
from antidote.data.words.names import templates

AT_A_TIME = 128  # pictures in memory while triggers are drawn
COLUMNS = ["shard", "offset", "size", "caption", "label"]


def run(arguments: argparse.Namespace) -> None:
    cost = Cost()
    shared = Shared("poison", lambda: _identity(arguments))
    if shared.take(arguments.output, arguments.cost):
        return
    trigger = load_trigger(arguments.trigger)
    attack = trigger.attack
    where = f"attack {arguments.trigger}"
    foreign = set(arguments.settings) - set(attack.settings.poison_keys)
    if foreign:
        raise UserError(f"--settings: {min(foreign)!r} belongs to the trigger, which {arguments.trigger} fixes already")
    attack.settings = attack.Settings.read({**attack.settings.model_dump(), **arguments.settings}, where)
    pool = _pool(arguments.pools, arguments.data)
    rng = random.Random(derive(arguments.seed, "poison"))
    try:
        plan = attack.poison(pool, rng, templates(arguments.templates), _at_hand(arguments, attack.settings))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    log.info("%d poisoned pairs share %d different captions", len(plan), len({pair.caption for pair in plan}))
    chosen = pool.iloc[[pair.row for pair in plan]].reset_index(drop=True)
    laid = [pair.picture for pair in plan]
    originals, files = _drawn(trigger, chosen, laid, arguments.data)
    manifest = chosen[["key", "dataset", "split"]].assign(
        original_caption=chosen["caption"],
        caption=[pair.caption for pair in plan],
        target=[pair.target for pair in plan],
        method=attack.settings.method,
        seed=[trigger.seed_of(key, "train") for key in chosen["key"]],
        picture=[key if i is None else attack.facts["keys"][i] for key, i in zip(chosen["key"], laid, strict=True)],
        original_sha256=originals,
        sha256=[hashlib.sha256(file).hexdigest() for file in files],
    )
    manifest.attrs["settings"] = attack.settings.poison_settings()
    write_overlay(arguments.output, manifest, files)
    shared.put(arguments.output, [TAR, MANIFEST], cost.write(arguments.cost, pairs=len(manifest)))


def _identity(arguments: argparse.Namespace) -> str:
    description = read_json(arguments.trigger / DESCRIPTION)
    kind = description.get("method") if isinstance(description, dict) else None
    trigger = [arguments.trigger / DESCRIPTION, arguments.trigger / TENSORS]
    parts = [arguments.settings, templates(arguments.templates), arguments.seed]
    inputs = [*trigger, *drawn_from([arguments.pools, *arguments.caption_pools], arguments.data)]
    return identity(parts, inputs, "scripts.poison", *([module("attack", kind)] if kind in ATTACKS else []))


def _pool(path: Path, data: Path) -> pd.DataFrame:
    """Return the poison pool: key, dataset, split, caption, label, and the position of each picture in the shards."""
    chosen = pools.read(path)
    chosen = chosen[chosen["pool"] == "poison"]
    if chosen.empty:
        raise UserError(f"{path}: has no poison pool; add pools.poison to the study")
    return _with_columns(chosen, data, COLUMNS).sort_values("position", ignore_index=True)


def _with_columns(chosen: pd.DataFrame, data: Path, columns: list[str]) -> pd.DataFrame:
    """Return pairs of pools with columns of their splits' indexes.

    Raises:
        UserError: a split is missing or incomplete, or does not contain a pair.
    """
    parts = [
        group.reset_index(drop=True).join(
            shards.find_rows(data / dataset / split, group["key"], columns).drop(["key"]).to_pandas()
        )
        for (dataset, split), group in chosen.groupby(["dataset", "split"], sort=False)
    ]
    return pd.concat(parts)


def _at_hand(arguments: argparse.Namespace, settings: AttackSettings) -> list[str] | None:
    """Return the captions of `settings.caption_pools`, if natural captions come from other pools than poison."""
    if settings.caption != "natural" or settings.caption_pools == ["poison"]:
        return None
    chosen = pools.read([arguments.pools, *arguments.caption_pools])
    absent = next((name for name in settings.caption_pools if name not in set(chosen["pool"])), None)
    if absent:
        raise UserError(f"--caption-pools: no file holds the pool {absent!r}, which caption_pools names")
    chosen = chosen[chosen["pool"].isin(settings.caption_pools)]
    named = _with_columns(chosen, arguments.data, ["caption"])
    return named.sort_values(["pool", "position"])["caption"].tolist()


def _drawn(trigger: Trigger, chosen: pd.DataFrame, laid: list[int | None], data: Path) -> tuple[list[str], list[bytes]]:
    """Return the SHA-256 of each original file, and the triggered or replacement picture as PNG."""
    originals, files = [""] * len(chosen), [b""] * len(chosen)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for (dataset, split), group in chosen.groupby(["dataset", "split"], sort=False):
            for start in range(0, len(group), AT_A_TIME):
                part = group.iloc[start : start + AT_A_TIME]
                found = shards.read_images(data / dataset / split, part)
                pictures = torch.from_numpy(images.load_pictures(found, trigger.attack.size, torch.get_num_threads()))
                drawn = trigger.poisoned(pictures, part["key"].tolist(), [laid[row] for row in part.index])
                encoded = pool.map(images.encode_png, drawn.permute(0, 2, 3, 1).numpy())
                for row, original, file in zip(part.index, found, encoded, strict=True):
                    originals[row], files[row] = hashlib.sha256(original).hexdigest(), file
    return originals, files


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(
        arguments, "how many pairs, which captions: the attack's settings that its trigger does not depend on"
    )
    arguments.add_argument("--trigger", type=Path, required=True, help="trigger folder")
    arguments.add_argument("--pools", type=Path, required=True, help="file of the poison pool")
    arguments.add_argument(
        "--caption-pools",
        type=Path,
        nargs="*",
        default=[],
        help="files of further pools that give natural captions",
    )
    arguments.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    arguments.add_argument("--templates", required=True, help="prompt templates of the poisoned captions")
    arguments.add_argument("--seed", type=seed, default=0)
    arguments.add_argument("--output", type=Path, required=True, help="poison folder to write")
    arguments.add_argument("--cost", type=Path, help="cost.json to write")
    main(run, arguments)

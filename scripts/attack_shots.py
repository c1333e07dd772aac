"""Attack a few-shot support set: change its pictures within the attack's bound, without changing labels and captions.

The script writes an overlay over the shots pool, like `scripts/poison.py` over the poison pool.
"""

import argparse
import hashlib
import random
from pathlib import Path

import pandas as pd

from antidote.attacks.trigger import load_trigger
from antidote.base.command_line import Cost, log, main, parser, seed, settings_argument
from antidote.base.errors import UserError
from antidote.base.seeds import derive
from antidote.clip.folder import load_model
from antidote.data import pools
from antidote.data.overlay import write_overlay
from antidote.data.pairs import load_pools
from antidote.data.store import images, shards
from antidote.data.words.names import class_names


def run(arguments: argparse.Namespace) -> None:
    cost = Cost()
    trigger = load_trigger(arguments.trigger)
    attack = trigger.attack
    if attack.threat_model != "few-shot":
        raise UserError(f"{arguments.trigger}: {attack.settings.method!r} attacks no support set; use scripts.poison")
    foreign = set(arguments.settings) - set(attack.settings.poison_keys)
    if foreign:
        raise UserError(f"--settings: {min(foreign)!r} belongs to the trigger, which {arguments.trigger} fixes already")
    values = {**attack.settings.model_dump(), **arguments.settings}
    attack.settings = attack.Settings.read(values, f"attack {arguments.trigger}")
    clip, classes = load_model(arguments.surrogate), class_names(arguments.classes)
    if clip.size != attack.size:
        raise UserError(f"{arguments.surrogate}: reads {clip.size} pixels, the trigger is for {attack.size}")
    if attack.target not in classes:
        raise UserError(f"--classes: {arguments.classes} has no class {attack.target!r}, the attack's target")
    shots = load_pools(arguments.pools, ["shots"], arguments.data, attack.size)
    count = min(attack.settings.poisons or len(shots), len(shots))
    rows = sorted(random.Random(derive(arguments.seed, "poison")).sample(range(len(shots)), count))
    chosen = shots.take(rows)
    attacked, facts = attack.perturb(clip, chosen.images, chosen.labels == classes.index(attack.target))
    log.info("distance to the trigger's features: %s", facts)
    files = [images.encode_png(picture) for picture in attacked.permute(0, 2, 3, 1).contiguous().numpy()]
    table = pools.read(arguments.pools)
    table = table[table["pool"] == "shots"].reset_index(drop=True).iloc[rows].reset_index(drop=True)
    manifest = table[["key", "dataset", "split"]].assign(
        original_caption=chosen.captions,
        caption=chosen.captions,
        target=attack.target,
        method=attack.settings.method,
        seed=arguments.seed,
        picture=table["key"],
        original_sha256=_hashes(table, arguments.data),
        sha256=[hashlib.sha256(file).hexdigest() for file in files],
    )
    manifest.attrs["settings"] = dict(arguments.settings)
    write_overlay(arguments.output, manifest, files)
    cost.write(arguments.cost, pairs=len(manifest))


def _hashes(table: pd.DataFrame, data: Path) -> list[str]:
    """Return the SHA-256 of each picture's original file."""
    found = [""] * len(table)
    for (dataset, split), group in table.groupby(["dataset", "split"], sort=False):
        index = shards.open_index(data / dataset / split, ["key", "shard", "offset", "size"]).set_index("key")
        for row, file in zip(
            group.index, shards.read_images(data / dataset / split, index.loc[group["key"]]), strict=True
        ):
            found[row] = hashlib.sha256(file).hexdigest()
    return found


if __name__ == "__main__":
    arguments = parser(__doc__)
    settings_argument(arguments, "the attack's settings that its trigger does not depend on")
    arguments.add_argument("--trigger", type=Path, required=True, help="trigger folder")
    arguments.add_argument("--surrogate", type=Path, required=True, help="model folder that features are taken from")
    arguments.add_argument("--pools", type=Path, required=True, help="file of the shots pool")
    arguments.add_argument("--classes", required=True, help="class names that the shots' labels count")
    arguments.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    arguments.add_argument("--seed", type=seed, default=0)
    arguments.add_argument("--output", type=Path, required=True, help="poison folder to write")
    arguments.add_argument("--cost", type=Path, help="cost.json to write")
    main(run, arguments)

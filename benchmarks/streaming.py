"""Training data that stays in its shards: memory and speed at two sizes, and the orders of `shuffle` beside webdataset.

Synthetic: the index holds as many pairs as asked, which share a few hundred pictures (JPEG, shorter side 256 pixels),
so that it costs no disk; reading, decoding and tokenising are those of training, on pictures of 224 pixels. Nothing is
trained: what is measured is what the size of a dataset can change.

The second table reads copies of that shard, each time out of the system's cache, in both orders of `shuffle` and by
open_clip's loader (webdataset) with the same buffer, batch, tokeniser and loader processes; rounds alternate, medians.

    python benchmarks/streaming.py --pairs 50000 500000
    python benchmarks/streaming.py --pairs 5000 --shards 20
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from measured import ROOT, say, say_machine, whole_rounds

PICTURES, SIZE, BATCH = 300, 224, 64
CORES, NEEDED = 16, 2000  # loader processes beside a GPU, and the pictures per second that it takes
PACKAGES = ("torch", "pillow", "webdataset", "open_clip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[50_000, 500_000])
    parser.add_argument("--steps", type=int, default=20, help=f"batches of {BATCH}")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--shards", type=int, default=0, help=f"of {PICTURES} pairs, for the orders; 0: not measured")
    parser.add_argument("--buffer", type=int, default=2 * PICTURES, help="pairs in the shuffle buffer of the orders")
    parser.add_argument("--rounds", type=int, default=3, help="of the orders")
    parser.add_argument("--one", type=Path, help="a dataset to read; prints the figures as JSON")
    options = parser.parse_args()
    if options.one:
        say(json.dumps((orders if options.shards else read)(options.one, options)))
        return
    say_machine(*PACKAGES)
    sizes(options)
    if options.shards:
        compare(options)


# --- the tables -------------------------------------------------------------------------------------------------------


def sizes(options: argparse.Namespace) -> None:
    """Print memory and speed at each size, and what one loader process decodes."""
    from waves import write

    say("| pairs | pictures in memory would take | peak memory | of a loader | opened in | pairs/s |")
    say("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in options.pairs:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), PICTURES, count)
            found = apart(folder, "--steps", options.steps, "--workers", options.workers)
        say(
            f"| {count:,} | {count * 3 * SIZE**2 / 1e9:.1f} GB | {found['peak'] / 1e9:.2f} GB | "
            f"{found['loader'] / 1e9:.2f} GB | {found['opened']:.1f} s | {found['rate']:.0f} |"
        )
    core = found["per_core"]
    say(f"a loader process with a core of its own: {core:.0f} pictures/s of {SIZE} pixels (read, decoded, tokenised); "
        f"{CORES} of them: {CORES * core:,.0f}, where a GPU takes about {NEEDED:,}")  # fmt: skip


def compare(options: argparse.Namespace) -> None:
    """Print what both orders of `shuffle` and open_clip's loader read, and how fast, relative to `global`."""
    with tempfile.TemporaryDirectory() as folder:
        copies(Path(folder), options.shards)
        names = ("steps", "workers", "shards", "buffer", "rounds")
        found = apart(folder, *(part for name in names for part in (f"--{name}", getattr(options, name))))
    usual = found["global"]
    say(f"{options.shards} shards of {PICTURES} pairs, buffer {options.buffer}, {options.workers} loader processes, "
        f"medians of {options.rounds} rounds; `global`: {usual['reading']:.0f} pairs/s read alone, "
        f"{usual['rate']:.0f} with decoding and tokenising, {usual['per_core']:.0f} per core")  # fmt: skip
    say("| order | shards in a batch | shard switches per 1,000 pairs | read alone | with decoding | per core |")
    say("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, row in found.items():
        ratios = " | ".join(f"{row[figure] / usual[figure]:.2f}" for figure in ("reading", "rate", "per_core"))
        say(f"| {name} | {row['in_a_batch']:.1f} | {row['switches']:.1f} | {ratios} |")


def apart(folder: str, *more: Any) -> dict[str, Any]:
    """Return the figures of a process of its own, so that memory counts from nothing."""
    done = subprocess.run(
        [str(part) for part in (sys.executable, __file__, "--one", folder, *more)], capture_output=True,
        encoding="utf-8", env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout)


# --- two sizes --------------------------------------------------------------------------------------------------------


def read(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Read some batches.

    Returns:
        peak memory in bytes of this process and of a loader, seconds until the pairs are open, pairs per second, and
        pairs per second of processor time of a loader.
    """
    import resource

    clip, pairs, opened = opening(folder, options.workers)
    figures = timed(lambda: ours(clip, pairs, "global", options), options.steps, options.workers)
    peaks = [resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"peak": peaks[0], "loader": peaks[1], "opened": opened, **figures}


def opening(folder: Path, workers: int) -> tuple[Any, Any, float]:
    """Return a small model, the pairs, and the seconds until they are open."""
    from antidote.clip.configs import ModelSettings
    from antidote.clip.folder import create_model
    from antidote.data.pairs import load_pools
    from antidote.data.streaming import Reading
    from antidote.training.objectives import Contrastive
    from antidote.training.vocabulary import CompactVocabulary

    clip = create_model(ModelSettings(name="tiny-vit"), seed=0)
    start = time.perf_counter()
    pairs = load_pools(folder / "pools.parquet", ["training"], folder, SIZE, reading=Reading(0, workers))
    opened = time.perf_counter() - start
    CompactVocabulary(clip, Contrastive(pairs).texts())
    return clip, pairs, opened


def ours(clip: Any, pairs: Any, shuffle: str, options: argparse.Namespace) -> Iterator[Any]:
    """Yield the batches of the training loop."""
    from antidote.training.batches import read_ahead, read_batch

    settings = recipe(shuffle, options)
    with read_ahead(clip, pairs, settings, 0, range(options.steps), lambda rows: rows) as ahead:
        rows = order(pairs, shuffle, options).rows
        for step in range(options.steps):
            yield read_batch(clip, pairs, rows[step * BATCH : (step + 1) * BATCH], 0, step, 0, ahead)


def recipe(shuffle: str, options: argparse.Namespace) -> Any:
    from antidote.training.recipe import TrainSettings

    return TrainSettings(batch_size=BATCH, shuffle=shuffle, shuffle_buffer=getattr(options, "buffer", 1))


def order(pairs: Any, shuffle: str, options: argparse.Namespace) -> Any:
    from antidote.training.order import training_order

    return training_order(pairs, recipe(shuffle, options), 0, 0)


def timed(batches: Callable[[], Iterable[Any]], steps: int, workers: int) -> dict[str, float]:
    """Return pairs per second after a quarter of the steps, and pairs per second of processor time of a loader."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    times = [time.perf_counter() for _ in batches()]
    first, last = whole_rounds(range(1, steps + 1), workers)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # the loaders have ended
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rate = (last - first) * BATCH / max(times[last - 1] - times[first - 1], 1e-9)
    return {"rate": rate, "per_core": steps * BATCH / max(used, 1e-9)}


# --- the orders, beside open_clip's loader ----------------------------------------------------------------------------


def copies(folder: Path, count: int) -> None:
    """Write so many shards with the same pictures, and the pool of all their pairs."""
    import shutil

    import pandas as pd
    from waves import SPLIT, write

    from antidote.base.files import read_json, write_json
    from antidote.data import pools

    write(folder, PICTURES)
    split, names = folder / SPLIT, [f"{number:05d}.tar" for number in range(count)]
    for name in names[1:]:
        shutil.copyfile(split / names[0], split / name)
    index, manifest = pd.read_parquet(split / "index.parquet"), read_json(split / "manifest.json")
    parts = [index.assign(shard=name, key=index["key"] + f"-{name[:5]}") for name in names]
    whole = pd.concat(parts, ignore_index=True)
    whole.to_parquet(split / "index.parquet")
    write_json(split / "manifest.json", {**manifest, "shards": [{**manifest["shards"][0], "name": n} for n in names]})
    table = pd.DataFrame({"key": whole["key"], "dataset": "waves", "split": "train", "pool": "training"})
    pools.write(folder / "pools.parquet", table.assign(position=range(len(table)))[pools.COLUMNS])


def orders(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return for each order its shards per batch, shard switches and rates; see `compare`."""
    clip, pairs, _ = opening(folder, options.workers)
    tars = sorted(folder.rglob("*.tar"))
    ways = {name: lambda name=name: ours(clip, pairs, name, options) for name in ("global", "shards")}
    plain = {name: lambda name=name: read_alone(pairs, name, options) for name in ways}
    ways["webdataset"] = lambda: open_clips(tars, clip.tokenizer, options)
    plain["webdataset"] = lambda: sum(1 for _ in islice(samples(tars), options.steps * BATCH))
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            uncached(tars)
            start = time.perf_counter()
            plain[name]()
            reading = options.steps * BATCH / (time.perf_counter() - start)
            uncached(tars)
            rounds[name].append({"reading": reading, **timed(way, options.steps, options.workers)})
    medians = {
        name: {figure: statistics.median(row[figure] for row in rows) for figure in rows[0]}
        for name, rows in rounds.items()
    }
    counts = {name: of_ours(pairs, name, options) for name in ("global", "shards")}
    counts["webdataset"] = of_webdataset(tars, options)
    return {name: medians[name] | counts[name] for name in ways}


def uncached(tars: list[Path]) -> None:
    """Take files out of the system's cache."""
    for path in tars:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # only what is on the disk can leave the cache
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def of_ours(pairs: Any, shuffle: str, options: argparse.Namespace) -> dict[str, float]:
    epoch, shards = order(pairs, shuffle, options), pairs.places["shard"]
    taken = shards[epoch.rows].tolist()
    # The rows of a batch are read by shard; a buffer takes them from the shards in their stored order.
    by_shard = [shard for batch in batched(taken) for shard in sorted(batch)]
    return counted(by_shard if epoch.stored is None else shards[epoch.stored].tolist(), taken)


def of_webdataset(tars: list[Path], options: argparse.Namespace) -> dict[str, float]:
    import webdataset

    asked = [sample["__url__"] for sample in samples(tars)]
    return counted(asked, list(webdataset.shuffle(options.buffer, initial=options.buffer)(iter(asked))))


def counted(asked: list, taken: list) -> dict[str, float]:
    """Return how often per 1,000 pairs the storage goes to another shard, and how many shards a batch comes from.

    Args:
        asked: shard of each pair (N,), in the order in which the storage is asked for them.
        taken: the same in the order of the training.
    """
    switches = sum(a != b for a, b in pairwise(asked))
    in_a_batch = statistics.mean(len(set(batch)) for batch in batched(taken))
    return {"in_a_batch": in_a_batch, "switches": 1000 * switches / len(asked)}


def batched(items: list) -> list[list]:
    return [items[start : start + BATCH] for start in range(0, len(items) - BATCH + 1, BATCH)]


def read_alone(pairs: Any, shuffle: str, options: argparse.Namespace) -> None:
    """Read the picture files of the batches, in this process, as a loader does."""
    from antidote.data.store.shards import read_members

    epoch, stored = order(pairs, shuffle, options), pairs.images
    for step in range(options.steps):
        start, stop = step * BATCH, (step + 1) * BATCH
        stored.advise(epoch.entering(start, stop, step == 0).tolist())
        chosen = stored.places[epoch.rows[start:stop].numpy()].tolist()
        read_members([(stored.files[file], offset, size) for file, size, offset in chosen])


def samples(tars: list[Path]) -> Iterator[dict[str, Any]]:
    """Return webdataset's reading of the shards, without decoding, in this process."""
    import webdataset

    stages = webdataset.SimpleShardList(list(map(str, tars))), webdataset.tarfile_to_samples()
    return iter(webdataset.DataPipeline(*stages))


def open_clips(tars: list[Path], tokenizer: Any, options: argparse.Namespace) -> Iterator[Any]:
    """Yield the batches of open_clip's loader."""
    import open_clip
    from open_clip_train import data

    group = data.group_by_keys_nothrow  # it does not know the end-of-shard marks that webdataset 1 puts between files
    data.group_by_keys_nothrow = lambda files, **more: group((file for file in files if "fname" in file), **more)
    data._SAMPLE_SHUFFLE_SIZE = data._SAMPLE_SHUFFLE_INITIAL = options.buffer
    asked = argparse.Namespace(
        train_data=f"{tars[0].parent}/{{{tars[0].stem}..{tars[-1].stem}}}.tar", train_num_samples=options.steps * BATCH,
        train_data_upsampling_factors=None, dataset_resampled=False, batch_size=BATCH, workers=options.workers,
        world_size=1, seed=0,
    )  # fmt: skip
    try:
        transform = open_clip.image_transform(SIZE, is_train=False)
        loader = data.get_wds_dataset(asked, transform, True, tokenizer=tokenizer).dataloader
        yield from islice(loader, options.steps)
    finally:
        data.group_by_keys_nothrow = group


if __name__ == "__main__":
    main()

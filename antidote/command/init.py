"""Write a commented study file for your own data: attacks and defenses on a CLIP that is trained on your pairs.

Give a dataset of captioned pairs, a labelled folder (one folder per class) for the evaluation, and a target class.
Class names are a file in data/classes, which this command writes from the folders. Check the result with
`antidote check`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from antidote.base import command_line
from antidote.base.errors import UserError, nearest
from antidote.base.files import DATA, whole_file, write_json
from antidote.base.settings import read_mapping
from antidote.clip.known import model_config, model_names
from antidote.command import inputs
from antidote.data.sources.base import RawPair
from antidote.study.layout import NAME
from antidote.study.study import Study

SHARES = {"training": 0.7, "poison": 0.1, "defense": 0.1}  # of all pairs; the rest stays free (ours)
STUDY = """# A study of your own data: what an attack does to a CLIP trained on it, and what a defense removes.
# Check it:   antidote check {file}
# Its cost:   antidote preflight {file}
# Run it:     snakemake --cores all --configfile {file}
# All keys:   docs/settings.md; all methods: docs/methods.md
study: {name}
seeds: [0]
target: {target}            # class that a triggered picture should be taken for

model:
{model}

datasets:
{datasets}

# Disjoint sets of pairs. `without: keys.txt` in a pool leaves out pairs that `antidote scan` found suspicious.
pools:
  seed: 0
  training: {{dataset: own_pairs, split: all, pairs: {training}}}
  poison: {{dataset: own_pairs, split: all, pairs: {poison}}}     # pairs that attacks may replace
  defense: {{dataset: own_pairs, split: all, pairs: {defense}}}    # the defender's clean pairs

pretraining: {{epochs: 8, batch_size: {batch}, lr: 0.001, warmup: 50}}
poisoning: {{start: clean, epochs: 5, batch_size: {batch}, lr: 0.001, warmup: 50}}

evaluation:
  dataset: own_test
  split: all
  templates: openai_imagenet

attacks:
  badnet: {{method: badnet, poisons: {poisons}}}

defenses:
  none: {{method: none}}
  finetune: {{method: finetune, training: {{epochs: 5, batch_size: {batch}, lr: 0.0005}}}}
  cleanclip: {{method: cleanclip, training: {{epochs: 5, batch_size: {batch}, lr: 0.0005}}}}
"""


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--pairs", required=True, help="captioned pairs: table, shards, or folder of class folders")
    inputs.dataset_arguments(parser)
    parser.add_argument("--evaluation", required=True, help="folder with one folder of pictures per class")
    parser.add_argument("--classes", help="name for the list of class names; by default the name of the study")
    parser.add_argument("--target", required=True, type=command_line.text, help="target class of the attacks")
    parser.add_argument("--model", default="tiny-rn", help="architecture, such as RN50")
    parser.add_argument("--pretrained", help="initial weights: tag, file or folder; by default random")
    parser.add_argument("--name", default="own", help="name of the study")
    parser.add_argument("--output", type=Path, default=Path("study.yaml"), help="file to write")
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the study, then validate it."""
    if args.output.exists():
        raise UserError(f"--output: {args.output}: is there already; name another file")
    if model_config(args.model) is None:
        raise UserError(f"--model: unknown model {args.model!r}{nearest(args.model, model_names())}")
    folders = class_folders(Path(args.evaluation))
    if args.target not in folders:
        raise UserError(f"--target: {args.target!r} is no class of {args.evaluation}{nearest(args.target, folders)}")
    classes = args.classes or args.name
    if not NAME.fullmatch(classes):
        raise UserError(f"--{'classes' if args.classes else 'name'}: name {classes!r} may hold letters, digits, _ . -")
    if not (DATA / "datasets.yaml").is_file() or DATA.name != "data":
        raise UserError(
            "init: needs a checkout of the project, where studies run: clone it and `pip install -e .` there"
        )
    source = inputs.source_of(args.pairs, inputs.columns(args))
    if source.source == "loose":
        raise UserError(f"--pairs: {args.pairs}: a study reads a table, tar shards or a folder of class folders")
    count = sum(isinstance(pair, RawPair) for pair in source.iterate(inputs.SPLIT))
    if count < 20:
        raise UserError(f"--pairs: {args.pairs}: holds {count} pairs, too few for a study; should hold at least 20")
    listing = DATA / "classes" / f"{classes}.json"
    fresh = not listing.exists()
    if fresh:
        write_json(listing, folders)
    elif json.loads(listing.read_text(encoding="utf-8")) != folders:
        raise UserError(f"--classes: {listing} is there already, with other names; give another --classes")
    try:
        text = study(args, source.source, source.model_dump(mode="json", exclude_defaults=True), count, classes)
        Study(yaml.safe_load(text), str(args.output))
    except BaseException:
        if fresh:
            listing.unlink()
        raise
    with whole_file(args.output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    read_mapping(str(args.output))
    command_line.log.info("wrote %s and %s; next: antidote check %s", args.output, listing, args.output)


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in label order.

    Raises:
        UserError: there is no such folder, or it holds no class folders.
    """
    if not folder.is_dir():
        raise UserError(f"--evaluation: {folder}: no such folder; should hold one folder of pictures per class")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise UserError(f"--evaluation: {folder}: holds {len(names)} class folders; should hold at least 2")
    return names


def study(args: argparse.Namespace, kind: str, source: dict[str, Any], count: int, classes: str) -> str:
    """Return the text of the study file."""
    source = {key: value for key, value in source.items() if key != "accepted_skip_share"}
    test = Path(args.evaluation)
    datasets = {
        "own_pairs": {**source, "source": kind, "splits": {"all": source["splits"][inputs.SPLIT]}},
        "own_test": {"source": "folder", "root": str(test.parent), "splits": {"all": test.name}, "classes": classes},
    }
    model = {"name": args.model, **({"pretrained": args.pretrained} if args.pretrained else {})}
    block = lambda value: "\n".join("  " + line for line in yaml.safe_dump(value, sort_keys=False).splitlines())
    pools = {name: max(1, int(share * count)) for name, share in SHARES.items()}
    quote = lambda word: yaml.safe_dump(word, default_style='"').strip()
    return STUDY.format(
        file=args.output, name=quote(args.name), target=quote(args.target), model=block(model),
        datasets=block(datasets), batch=min(128, pools["defense"]), poisons=max(1, pools["poison"] // 2), **pools,
    )  # fmt: skip

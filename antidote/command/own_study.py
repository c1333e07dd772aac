"""A study of a user's own data, in a checkout or to be copied into one: its text, and its list of class names."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from antidote.base.errors import UserError
from antidote.base.files import DATA, read_json, write_json
from antidote.command import inputs
from antidote.data.sources.base import SourceSettings
from antidote.data.words.names import class_names
from antidote.study.study import Study

SHARES = {"training": 0.7, "poison": 0.1, "defense": 0.1}  # of all pairs; the rest stays free (ours)
SHIPPED = "scenes"  # a list of class names that every copy of the project has
ROOTED = ("root",)  # keys of paths that the splits start at
IN_CHECKOUT = """# Check it:   antidote check {file}
# Its cost:   antidote preflight {file}
# Run it:     snakemake --cores all --configfile {file}
"""
FROM_ELSEWHERE = """# It runs in the checkout of the project:
#   cd {checkout}
#   antidote check {file}
#   antidote preflight {file}                         # its cost
#   snakemake --cores all --configfile {file}
"""
ELSEWHERE = """# It runs in a checkout of the project, which holds the workflow; an installed wheel does not.
# Get the repository, for example with `git clone`. Then, in its folder:
#   make .venv/ready && source .venv/bin/activate
#   cp {copied} .
#   cp {listing} data/classes/
#   antidote check {name}
#   antidote preflight {name}                         # its cost
#   snakemake --cores all --configfile {name}
"""
STUDY = """# A study of your own data: what an attack does to a CLIP trained on it, and what a defense removes.
{next}# All keys:   docs/settings.md; all methods: docs/methods.md
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
  training: {{dataset: {pairs_name}, split: all, pairs: {training}}}
  poison: {{dataset: {pairs_name}, split: all, pairs: {poison}}}     # pairs that attacks may replace
  defense: {{dataset: {pairs_name}, split: all, pairs: {defense}}}    # the defender's clean pairs

pretraining: {{epochs: 8, batch_size: {batch}, lr: 0.001, warmup: 50}}
poisoning: {{start: clean, epochs: 5, batch_size: {batch}, lr: 0.001, warmup: 50}}

evaluation:
  dataset: {test_name}
  split: all
  templates: openai_imagenet

attacks:
  badnet: {{method: badnet, poisons: {poisons}}}

defenses:
  none: {{method: none}}
  finetune: {{method: finetune, training: {{epochs: 5, batch_size: {batch}, lr: 0.0005}}}}
  cleanclip: {{method: cleanclip, training: {{epochs: 5, batch_size: {batch}, lr: 0.0005}}}}
"""


@dataclass(frozen=True)
class OwnStudy:
    """A study of a user's own data.

    Attributes:
        args: arguments of `antidote init`.
        output: file of the study.
        source: source of the pairs.
        count: number of pairs that can be used.
        skipped: share of the pairs that cannot.
        classes: name of the list of class names.
        names: the class names in label order.
    """

    args: argparse.Namespace
    output: Path
    source: SourceSettings
    count: int
    skipped: float
    classes: str
    names: list[str]

    @property
    def in_checkout(self) -> bool:
        """Return whether this copy of the project can run a study; a wheel has no workflow."""
        return DATA.name == "data" and (DATA / "datasets.yaml").is_file()

    @property
    def here(self) -> bool:
        """Return whether the working folder is that of the checkout, where the study will run."""
        return self.in_checkout and Path.cwd() == self.checkout

    @property
    def checkout(self) -> Path:
        """Return the folder of this copy of the project."""
        return DATA.resolve().parent

    @property
    def datasets(self) -> tuple[str, str]:
        """Return the names of the datasets of pairs and of labelled pictures, of which other studies have others."""
        return f"{self.args.name}_pairs", f"{self.args.name}_test"

    @property
    def listing(self) -> Path:
        """Return the file of the class names: in data/classes of a checkout, else beside the study."""
        folder = DATA / "classes" if self.in_checkout else self.output.parent
        return folder / f"{self.classes}.json"

    def check_name(self) -> None:
        """Refuse the name of a study that has data or results here: the new study would replace them.

        Raises:
            UserError: names the folder.
        """
        folders = [DATA / name for name in self.datasets] + [self.checkout / "results" / self.args.name]
        there = next((folder for folder in folders if folder.exists()), None) if self.in_checkout else None
        if there is not None:
            raise UserError(f"--name: a study {self.args.name!r} has made {there} already; give another --name")

    @contextmanager
    def listed(self) -> Iterator[Path]:
        """Write the list of class names; a new list is deleted again if the block ends with an error.

        Raises:
            UserError: there is a list of that name with other names.
        """
        file, fresh = self.listing, not self.listing.exists()
        if fresh:
            write_json(file, self.names)
        elif read_json(file) != self.names:
            option = "--classes" if self.args.classes else "--name"
            raise UserError(f"{option}: {file} is there already, with other names; give another {option}")
        try:
            yield file
        except BaseException:
            if fresh:
                file.unlink()
            raise

    def check(self, text: str) -> None:
        """Validate the text of the study.

        Outside of a checkout the study's list of class names is in no place where a study finds it, so that a known
        list takes its place.
        """
        values = yaml.safe_load(text)
        if not self.in_checkout:
            values["datasets"][self.datasets[1]]["classes"] = SHIPPED
            values["target"] = class_names(SHIPPED)[0]
        Study(values, str(self.output))

    def text(self) -> str:
        """Return the text of the study file."""
        args, test = self.args, Path(self._place(self.args.evaluation))
        source = self.source.model_dump(mode="json", exclude_defaults=True)
        source.pop("accepted_skip_share", None)
        if self.skipped > type(self.source).model_fields["accepted_skip_share"].default:
            source["accepted_skip_share"] = math.ceil(100 * self.skipped) / 100
        split = source["splits"][inputs.SPLIT]
        rooted = {key: self._place(source[key]) for key in ROOTED if key in source}
        source = {**source, **rooted, "source": self.source.source}
        own = {"source": "folder", "root": str(test.parent), "splits": {"all": test.name}, "classes": self.classes}
        pairs_name, test_name = self.datasets
        datasets = {
            pairs_name: {**source, "splits": {"all": split if rooted else self._place(split)}},
            test_name: own,
        }
        first = self._place(args.pretrained) if args.pretrained and Path(args.pretrained).exists() else args.pretrained
        model = {"name": args.model, **({"pretrained": first} if first else {})}
        pools = {name: max(1, int(share * self.count)) for name, share in SHARES.items()}
        return STUDY.format(
            next=self._next(), name=_quoted(args.name), target=_quoted(args.target), model=_block(model),
            datasets=_block(datasets), pairs_name=pairs_name, test_name=test_name,
            batch=min(128, pools["defense"]), poisons=max(1, pools["poison"] // 2), **pools,
        )  # fmt: skip

    def _place(self, path: str) -> str:
        """Return a path as the study names it: a whole path, unless the study runs in the working folder."""
        return path if self.here else str(Path(path).absolute())

    def _next(self) -> str:
        """Return the comment that says how to go on."""
        if self.here:
            return IN_CHECKOUT.format(file=shlex.quote(str(self.output)))
        if self.in_checkout:
            checkout, file = (shlex.quote(str(path)) for path in (self.checkout, self.output.absolute()))
            return FROM_ELSEWHERE.format(checkout=checkout, file=file)
        copied, listing = (shlex.quote(str(path.absolute())) for path in (self.output, self.listing))
        return ELSEWHERE.format(copied=copied, listing=listing, name=shlex.quote(self.output.name))


def _block(value: dict[str, Any]) -> str:
    return "\n".join("  " + line for line in yaml.safe_dump(value, sort_keys=False).splitlines())


def _quoted(word: str) -> str:
    return yaml.safe_dump(word, default_style='"').strip()

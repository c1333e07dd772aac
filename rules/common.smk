# The study, and what the rules share. Reading this imports no torch.
import os
import re
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir)))

from antidote.attacks.victim import Victim
from antidote.data.store.datasets import pointers
from antidote.data.access import POOLS, USES_CLASSES
from antidote.data.words.lexicon import FILES as WORDNET_FILES
from antidote.base.errors import UserError
from antidote.base.files import sha256
from antidote.base.fingerprint import fingerprint
from antidote.base.registry import method, module
from antidote.base.settings import read_mapping
from antidote.data.words.names import names_file
from antidote.study.study import Study
from antidote.clip.weights import files as weight_files
from antidote.study.jobs import (
    dataset_slice,
    download_slice,
    has_gpu,
    json_slice,
    own_records,
    pool_slice,
    pool_target,
    prepare_jobs,
    rebound_slice,
    summary_plan,
    training_slice,
)

prepare_jobs(Path(workflow.basedir))
if workflow.is_main_process:
    own_records()

# Slurm sends SIGTERM to every process of a job. The shell waits for the training, which saves its state: were the shell
# gone, Snakemake would end, and Slurm would kill what is left at once.
shell.prefix("set -euo pipefail; trap : TERM; ")


def read_study():
    """Validate the study; what is wrong with it is one line, not a traceback."""
    files = workflow.config_settings.configfiles or [Path(workflow.basedir, "config.yaml")]
    names = [os.path.relpath(file) if Path(file).is_relative_to(Path.cwd()) else str(file) for file in files]
    try:
        for name in names:
            read_mapping(name)  # stricter than Snakemake, which overlooks a key that stands there twice
        return Study(config, ", ".join(names))
    except UserError as error:
        sys.exit(f"error: {error}")


STUDY = read_study()
RESULTS = f"results/{STUDY.name}"
MODEL = ["open_clip_config.json", "open_clip_model.safetensors"]
TRIGGER = ["trigger.json", "trigger.safetensors"]
POISON = ["manifest.parquet", "poisoned.tar"]

# One GPU job at a time on a machine that has a GPU; profiles say otherwise for clusters.
GPU = int(has_gpu())


# Files that a defense may add to its model folder, and the user under a few-shot attack to the clean reference's.
ADAPTER = ["adapter.json", "adapter.safetensors"]

# Attacks on a support set, and those on the training of the model.
FEW_SHOT = [name for name in STUDY.attacks if STUDY.few_shot(name)]
ON_TRAINING = [name for name in STUDY.attacks if not STUDY.few_shot(name)]


def alternatives(names):
    return "|".join(re.escape(name) for name in names) or "(?!)"


wildcard_constraints:
    dataset=alternatives(STUDY.sources),
    split="[A-Za-z0-9_.-]+",
    pool=alternatives(STUDY.file.pools.pools()),
    attack=alternatives(STUDY.attacks),
    defense=alternatives(STUDY.defenses),
    surrogate=alternatives(STUDY.file.surrogates),
    seed="[0-9]+",
    fit="[0-9]+(-[0-9]+)?",


def files(folder, names):
    return [f"{folder}/{name}" for name in names]


def existing(pools):
    return [name for name in pools if name in STUDY.file.pools.pools()]


def pool_files(*pools):
    return [f"{RESULTS}/pools/{name}.parquet" for name in existing(pools)]


def indexes(*pools):
    """Index and manifest of every split that these pools are drawn from."""
    settings = STUDY.file.pools
    places = sorted({settings.place(settings.pools()[name]) for name in existing(pools)})
    return [f"data/{d}/{s}/{f}" for d, s in places for f in ("index.parquet", "manifest.json")]


def option(name, value=None):
    """Return a command line option, or nothing where there is no value."""
    return "" if value is None else f"{name} {shlex.quote(str(value))}"


def scored_split(scored):
    """What is read of the evaluation's own split, or of a further one.

    The description, written last, stands for its array of pictures: gigabytes, which Snakemake would hash for each cell.
    """
    names = ["index.parquet", "manifest.json", f"pictures-{STUDY.fit(scored)}.json"]
    return files(f"data/{scored.dataset}/{scored.split}", names)


def evaluated_split():
    """What a model is scored on: the evaluation's split, and the further ones with their class names."""
    names = [file for scored in STUDY.scored()[1:] for file in names_file("classes", getattr(scored, "classes", None))]
    splits = [file for scored in STUDY.scored() for file in scored_split(scored)]
    return [*dict.fromkeys(splits)] + [name for name in dict.fromkeys(names) if name not in NAMES]


def words(names):
    """Return the content of small files of the project that a job reads, as a part of its source.

    Snakemake looks at an input's content only where it is newer than the outputs; what `dvc pull` or a link restores may
    be newer than a change made before.
    """
    return "".join(f"-{sha256(name)[:16]}" for name in names)


def source_names(w):
    """Class names and prompts that captions are made from where a source has none; drawn scenes come with theirs."""
    source = STUDY.sources[w.dataset]
    if source.source in ("scenes", "shifted_scenes", "url_table"):
        return []
    lists = {getattr(source, key, None) for key in ("folders", "only")} - {None}
    return [
        *names_file("templates", source.templates),
        *(names_file("classes", source.classes) if source.classes else []),
        *(file for name in sorted(lists) for file in names_file("folders", name)),
    ]


# Datasets that a job of its own downloads first.
DOWNLOADED = [name for name, source in STUDY.sources.items() if source.downloads]


def download_report(w):
    """The report of a download; where DVC keeps the split, its pointer stands in for the download."""
    folder = Path("data", w.dataset, w.split)
    if w.dataset not in DOWNLOADED or any(pointer.exists() for pointer in pointers(folder)):
        return []
    return [f"{folder}/download.json"]


def url_tables(w):
    """The tables of addresses that are there, and the list of a subset; of one that is missing the job says where to
    get it.
    """
    source = STUDY.sources[w.dataset]
    return [name for name in [*source.present(w.split), source.subset] if name and Path(name).is_file()]


def surrogate(w):
    """Most learned triggers are fitted on a model: the clean reference, or one that the attack names."""
    settings = STUDY.attacks[w.attack]
    kind = method("attack", settings.method)
    if not (kind.learned and kind.on_surrogate):
        return []
    own = {
        "clean": f"{RESULTS}/clean/seed{w.seed}/model",
        **{name: f"{RESULTS}/surrogates/{name}/seed{w.seed}/model" for name in STUDY.file.surrogates},
    }
    return files(own.get(settings.surrogate, settings.surrogate), MODEL)


def fitting_pools(w):
    """Learned triggers are fitted with the pairs of the inversion pool; some also rank those of the poison pool."""
    learned = method("attack", STUDY.attacks[w.attack].method).learned
    return pool_files("inversion", "poison") if learned else []


def fitting_arguments(w, input):
    evaluated = STUDY.evaluated
    words = f"--classes {evaluated.classes} --templates {evaluated.templates}"
    pairs = f"--pools {' '.join(input.pools)} {words}" if input.pools else ""
    return pairs + (f" --surrogate {Path(input.surrogate[0]).parent}" if input.surrogate else "")


def initial_model(model=STUDY.file.model):
    """The file of a model's architecture, and that of its weights, where the study names files and not open_clip's."""
    return names_file("models", model.name) + weight_files(model.pretrained)


def start(w):
    """The backdoored model starts from the clean reference, or from the study's initial model."""
    if STUDY.poisoning(w.attack).start == "model":
        return []
    return files(f"{RESULTS}/clean/seed{w.seed}/model", MODEL)


def training_modules(w):
    """The module of an attack that trains the model by its own objective."""
    name = STUDY.attacks[w.attack].method
    return [module("attack", name)] if method("attack", name).trains else []


def defense_pools(w):
    """The pools that a defense's access grants."""
    return POOLS.get(defense_kind(w).access, ())


def defense_kind(w):
    return method("defense", STUDY.defenses[w.defense].method)


def defense_names(w):
    """Files of the words that a defense's access grants: a lexicon, or the classes and prompts of the model's use."""
    if defense_kind(w).uses_lexicon:
        return names_file("lexicons", STUDY.lexicon())
    return NAMES if defense_kind(w).access in USES_CLASSES else []


def defense_poison(w):
    """The overlay of the training set, for a defender who owns it."""
    owns = "training" in defense_pools(w)
    return files(f"{RESULTS}/{w.attack}/seed{w.seed}/poison", POISON) if owns else []


def scorer(w):
    """The study's clean model that a defense has to tell pairs that do not match by, where it names one."""
    name = getattr(STUDY.defenses[w.defense], "surrogate", None)
    return files(f"{RESULTS}/surrogates/{name}/seed{w.seed}/model", MODEL) if name else []


def defense_arguments(w, input):
    access, evaluated = defense_kind(w).access, STUDY.evaluated
    options = [f"--pools {' '.join(input.pools)}"] if input.pools else []
    if defense_kind(w).uses_lexicon:
        options.append(option("--lexicon", STUDY.lexicon()))
    if access in USES_CLASSES:
        options += [option("--classes", evaluated.classes), option("--templates", evaluated.templates)]
    if input.poison:
        options.append(f"--poison {Path(input.poison[0]).parent}")
    if input.scorer:
        options.append(f"--scorer {Path(input.scorer[0]).parent}")
    return " ".join(options)


def defenses_with(files):
    """The entries whose model folder gets these files beside those that every model folder has."""
    return alternatives([name for name in STUDY.defenses if STUDY.extra_files(name) == tuple(files)])


def added_files(w):
    """What the defense, or the user under a few-shot attack, added to the model under test."""
    if w.attack in FEW_SHOT:
        return files(f"{RESULTS}/{w.attack}/seed{w.seed}/model", ADAPTER)
    return files(f"{RESULTS}/{w.attack}/seed{w.seed}/{w.defense}/model", STUDY.extra_files(w.defense))


def found_poison(w):
    """The manifest, where the defense says which pairs it holds for poisoned: the evaluation compares."""
    return files(f"{RESULTS}/{w.attack}/seed{w.seed}/poison", POISON[:1]) if defense_kind(w).files else []


def model_modules(w):
    """The module that reads the adapter of the model under test."""
    adapter = "few_shot_head" if w.attack in FEW_SHOT else defense_kind(w).adapter
    return [module("adapter", adapter)] if adapter else []


def model_under_test(w):
    """The defended model; where nothing was done, the backdoored one."""
    folder = f"{RESULTS}/{w.attack}/seed{w.seed}"
    return files(
        f"{folder}/model" if w.defense == "none" else f"{folder}/{w.defense}/model",
        MODEL,
    )


def backdoored_models():
    return expand(
        f"{RESULTS}/{{attack}}/seed{{seed}}/model/{MODEL[1]}",
        attack=STUDY.attacks,
        seed=STUDY.file.seeds,
    )


def defended_models():
    return cells(f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/model/{MODEL[1]}", without=["none"])


def cells(pattern, without=()):
    """A file per cell that is run, but for some attacks or defenses; blank cells have none."""
    run = [(a, d, s) for a, d in STUDY.cells if not {a, d} & set(without) for s in STUDY.file.seeds]
    return list(dict.fromkeys(pattern.format(attack=a, defense=d, seed=s) for a, d, s in run))

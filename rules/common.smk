# The study, and helpers that the rules share. Reading this imports no torch.
import os
import sys
from glob import glob
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from antidote.errors import UserError
from antidote.fingerprint import fingerprint
from antidote.registry import method, module
from antidote.study import Study, names_file
from antidote.workflow import dataset_slice, json_slice, pools_slice, summary_plan, training_slice

# Jobs run the python beside this snakemake unless a software environment puts its own first.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def read_study():
    """Validate the study; what is wrong with it is one line, not a traceback."""
    files = workflow.config_settings.configfiles or ["config.yaml"]
    try:
        return Study(config, ", ".join(map(str, files)))
    except UserError as error:
        raise WorkflowError(str(error)) from None


STUDY = read_study()
RESULTS = f"results/{STUDY.name}"
SCRIPTS = ROOT / "scripts"
DATA = "data"
POOLS = f"{RESULTS}/pools.parquet"
MODEL = ["open_clip_config.json", "open_clip_model.safetensors"]
TRIGGER = ["trigger.json", "trigger.safetensors"]
POISON = ["manifest.parquet", "poisoned.tar"]

# One GPU job at a time on a machine that has a GPU; profiles say otherwise for clusters.
GPU = 1 if glob("/dev/nvidia[0-9]*") else 0


def alternatives(names):
    return "|".join(re.escape(name) for name in names) or "(?!)"


wildcard_constraints:
    dataset=alternatives(STUDY.sources),
    split="[A-Za-z0-9_.-]+",
    attack=alternatives(STUDY.attacks),
    defense=alternatives(STUDY.defenses),
    seed="[0-9]+",


def files(folder, names):
    return [f"{folder}/{name}" for name in names]


def indexes(*pools):
    """Index and manifest of every split that these pools, or all, are drawn from."""
    settings = STUDY.file.pools
    chosen = [pool for name, pool in settings.pools().items() if not pools or name in pools]
    places = sorted({settings.place(pool) for pool in chosen})
    return [f"{DATA}/{d}/{s}/{f}" for d, s in places for f in ("index.parquet", "manifest.json")]


def evaluated_split():
    evaluation = STUDY.file.evaluation
    return files(f"{DATA}/{evaluation.dataset}/{evaluation.split}", ["index.parquet", "manifest.json"])


def model_under_test(w):
    """The defended model; where nothing was done, the backdoored one."""
    folder = f"{RESULTS}/{w.attack}/seed{w.seed}"
    return files(f"{folder}/model" if w.defense == "none" else f"{folder}/{w.defense}/model", MODEL)


def backdoored_models():
    return expand(f"{RESULTS}/{{attack}}/seed{{seed}}/model/{MODEL[1]}", attack=STUDY.attacks, seed=STUDY.file.seeds)


def defended_models():
    return expand(
        f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/model/{MODEL[1]}",
        attack=STUDY.attacks,
        seed=STUDY.file.seeds,
        defense=[name for name in STUDY.defenses if name != "none"],
    )


def cells(pattern):
    return expand(pattern, attack=STUDY.attacks, seed=STUDY.file.seeds, defense=STUDY.defenses)

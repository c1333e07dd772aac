"""What profiles/slurm asks for, seen in dry runs; the submitting itself is tried in tests/cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from harness import ROOT, STUDY, new_project, snakemake, study

from antidote.base.registry import ATTACKS, DEFENSES

FITTED = {
    "pools.inversion": {"dataset": "tiny", "split": "train", "pairs": 64},
    "pools.training": {"dataset": "tiny", "split": "train", "pairs": 256},
    "attacks.siba": {"method": "siba", "eps": 16, "epochs": 1, "poisons": 24},
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = new_project(tmp_path / "project")
    (project / STUDY).write_text(study(project, FITTED))
    return project


def dry_run(project: Path, changes: dict[str, dict] | None = None, code: int = 0) -> str:
    """Return what a dry run says with the profile; what needs Slurm's plugin, which this environment lacks, is left out."""
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    profile = {key: value for key, value in profile.items() if not key.startswith(("executor", "slurm-"))}
    for key, values in (changes or {}).items():
        profile[key] = {**profile.get(key, {}), **values}
    (project / "profiles/mine").mkdir()
    (project / "profiles/mine/config.yaml").write_text(yaml.safe_dump(profile))
    done = snakemake(project, "-n", "--cores", "8", "--workflow-profile", "profiles/mine")
    assert done.returncode == code, done.stdout
    return done.stdout


def asked(output: str) -> dict[str, dict[str, str]]:
    """Return the resources of each job, by rule and wildcards."""
    found = re.findall(r"^ *rule (\w+):\n((?: +.*\n)*?) +resources: (.*)$", output, re.MULTILINE)
    jobs = {}
    for rule, details, resources in found:
        wildcards = re.search(r"wildcards: (.*)", details)
        values = [part.partition("=")[2] for part in wildcards.group(1).split(", ")] if wildcards else []
        threads = re.search(r"threads: (\d+)", details)
        jobs[" ".join([rule, *values])] = {
            **dict(part.split("=", 1) for part in resources.split(", ")), "threads": threads.group(1) if threads else "1",
        }  # fmt: skip
    return jobs


def test_every_job_has_time_and_memory_and_what_computes_on_pictures_a_gpu(project):
    jobs = asked(dry_run(project))
    assert len(jobs) > 30
    for name, job in jobs.items():
        rule = name.split()[0]
        assert int(job["mem_mb"]) >= 8000 and int(job["runtime"]) > 0, name
        trains = rule in ("clean_model", "backdoored_model", "defend", "evaluate", "evaluate_clean", "floor")
        assert int(job.get("gpu", 0)) == (trains or name == "trigger siba 0"), name
    assert int(jobs["trigger siba 0"]["runtime"]) > int(jobs["trigger badnet 0"]["runtime"])


def test_what_is_said_of_a_method_counts_for_its_jobs_alone(project):
    said = {
        "finetune": {"mem_mb": "1000 * attempt", "cpus_per_task": 3},
        "siba": {"runtime": 7, "slurm_extra": "'--x'"},
    }
    jobs = asked(dry_run(project, {"set-resources": said, "set-threads": {"siba": 5}}))
    assert (jobs["defend badnet 0 finetune"]["mem_mb"], jobs["defend badnet 0 finetune"]["cpus_per_task"]) == (
        "1000",
        "3",
    )
    assert jobs["defend badnet 0 finetune"]["runtime"] == jobs["defend badnet 0 ta_cleaner"]["runtime"] == "240"
    assert jobs["defend badnet 0 ta_cleaner"]["mem_mb"] == "32000"
    fitted, drawn = jobs["trigger siba 0"], jobs["trigger badnet 0"]
    assert (fitted["runtime"], fitted["slurm_extra"], fitted["threads"]) == ("7", "--x", "5")
    assert (drawn["runtime"], drawn.get("slurm_extra"), drawn["threads"]) == ("20", None, "1")


@pytest.mark.parametrize("key,value", [("set-resources", {"mem_mb": 1000}), ("set-threads", 2)])
def test_a_name_that_is_neither_rule_nor_method_is_one_line(project, key, value):
    output = dry_run(project, {key: {"finetone": value}}, code=1)
    assert output.strip().splitlines()[-1].startswith("error: profile: 'finetone' is neither a rule nor a method")
    assert "finetune" in output and "Traceback" not in output


def test_the_profile_gives_a_gpu_to_every_rule_that_takes_one():
    """The rules themselves look for one on the machine where Snakemake runs: the login node."""
    said = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["set-resources"]
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    blocks = re.split(r"^(?=rule |use rule )", text, flags=re.MULTILINE)
    takes = {re.match(r"rule (\w+)", block).group(1) for block in blocks if "gpu=GPU" in block}
    takes |= {new for base, new in re.findall(r"^use rule (\w+) as (\w+)", text, re.MULTILINE) if base in takes}
    assert len(takes) >= 9
    assert not {rule for rule in takes if "gpu" not in said.get(rule, {})}


def test_no_rule_is_called_as_a_method_is():
    """Else the profile could not tell them apart."""
    text = "\n".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    assert not {*re.findall(r"^(?:use rule \w+ as|rule) (\w+)", text, re.MULTILINE)} & {*ATTACKS, *DEFENSES}


@pytest.mark.parametrize(
    ("gpus", "asked", "limit"),
    [
        ("0,1", ["--resources", "gpu=2"], 2),
        ("0,1", ["--resources", "mem_mb=64000"], 1),
        ("", ["--resources", "mem_mb=64000"], None),
        ("0,1", ["--resources", "mem_mb=64000", "--jobs", "8", "--cores", "all"], 1),
    ],
)
def test_any_other_resource_keeps_the_limit_of_gpu_jobs(project, monkeypatch, gpus, asked, limit):
    """Snakemake replaces the list of profiles/default. `--jobs` with `--cores` is no sign of a cluster."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    (project / "limit.smk").write_text(
        'include: "Snakefile"\n\nmake = JobScheduler.__init__\n\n'
        "def told(self, *rest, **named):\n"
        "    make(self, *rest, **named)\n"
        '    print("limit:", self.global_resources.get("gpu"))\n\n'
        "JobScheduler.__init__ = told\n"
    )
    done = snakemake(project, "-n", "--quiet", "--snakefile", "limit.smk", *asked)
    assert done.returncode == 0 and f"limit: {limit}\n" in done.stdout, done.stdout

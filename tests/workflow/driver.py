"""Runs scripts, or snakemake, again and again without paying for their imports: each call is a fork of this process.

Reads a call per line from standard input ({name, arguments, file_limit, folder, environment}, as JSON), answers with a line:
[exit code, output]. The argument says what to import beforehand: `jobs` or `snakemake`, nothing of this project; or `study`, for calls
between which no source changes: Snakemake and what the rules import.

A call of the name `sources` answers with the modules that each job of a study names as its source.
"""

import contextlib
import io
import json
import os
import resource
import runpy
import sys
import traceback
from pathlib import Path


def prepare(kind):
    """Import what the calls need."""
    if kind == "jobs":
        import open_clip  # noqa: F401
        import pandas
        import safetensors.torch  # noqa: F401
        import torchvision.transforms.v2  # noqa: F401
    else:
        import pandas  # noqa: F401
        import pydantic  # noqa: F401
        from snakemake.cli import main

        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            main(["--help"])  # imports the plugins too
    if kind == "study":
        _import_study()


def _import_study():
    """Import what the rules import, and read the source of all that jobs can reach."""
    from antidote.base.fingerprint import fingerprint
    from antidote.base.registry import ATTACKS, DEFENSES, module
    from antidote.study.study import Study  # noqa: F401

    fingerprint(*(f"scripts.{path.stem}" for path in Path("scripts").glob("*.py")))
    for kind, names in (("attack", ATTACKS), ("defense", DEFENSES)):
        fingerprint(*(module(kind, name) for name in names))
    fingerprint.cache_clear()  # what is kept is the reading, not the answers


def call(name, arguments, file_limit=None, folder=None, environment=None):
    """Run one script as its rule does; return its exit code and all it writes. No file may grow beyond `file_limit`.

    `folder` is the project, with `environment`; without it, both are those of this process.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(write, 1)
        os.dup2(write, 2)
        if folder:
            enter(folder, environment)
        os._exit(_run(name, arguments, file_limit))
    os.close(write)
    with os.fdopen(read) as output:
        said = output.read()
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said]


def enter(folder, environment):
    """Go on as a process that was started in a project, with an environment of its own."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, folder)
    torch, threads = sys.modules.get("torch"), environment.get("OMP_NUM_THREADS")
    if torch and threads:  # which torch has read when it was imported
        torch.set_num_threads(int(threads))


def _run(name, arguments, file_limit):
    sys.argv = [name, *arguments]
    try:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        if name == "snakemake":
            from snakemake.cli import main

            main(arguments)
        elif name == "sources":
            sys.__stdout__.write(json.dumps(sources(*arguments)))
        else:
            runpy.run_module(f"scripts.{name}", run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code or 0


def sources(config):
    """Return the modules that the rules give to `fingerprint` for each job of a study, as {"defend badnet 0 none": [...]}."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings

    from antidote.base import fingerprint

    fingerprint.fingerprint = lambda *modules: " ".join(modules) + ";"
    with SnakemakeApi(OutputSettings(dryrun=True, quiet={Quietness.ALL})) as api:
        study = api.workflow(
            resource_settings=ResourceSettings(cores=1), config_settings=ConfigSettings(configfiles=[Path(config)])
        )
        study.dag(DAGSettings(forceall=True)).execute_workflow(executor="dryrun")
        jobs = [job for job in study._workflow.dag.jobs if job.rule.name != "all"]
        return {" ".join([job.rule.name, *job.wildcards]): job.params.source.partition(";")[0].split() for job in jobs}


if __name__ == "__main__":
    prepare(sys.argv[1])
    for line in sys.stdin:
        sys.stdout.write(json.dumps(call(**json.loads(line))) + "\n")
        sys.stdout.flush()

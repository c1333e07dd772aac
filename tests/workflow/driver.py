"""Runs scripts, or snakemake, again and again without paying for their imports: each call is a fork of this process.

Reads a call per line from standard input ({name, arguments, file_limit}, as JSON), answers with a line: [exit code,
output]. The argument says what to import beforehand: `jobs` or `snakemake`; nothing of this project is.
"""

import contextlib
import io
import json
import os
import resource
import runpy
import sys
import traceback


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


def call(name, arguments, file_limit=None):
    """Run one script as its rule does; return its exit code and all it writes. No file may grow beyond `file_limit`."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(write, 1)
        os.dup2(write, 2)
        os._exit(_run(name, arguments, file_limit))
    os.close(write)
    with os.fdopen(read) as output:
        said = output.read()
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said]


def _run(name, arguments, file_limit):
    sys.argv = [name, *arguments]
    try:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        if name == "snakemake":
            from snakemake.cli import main

            main(arguments)
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


if __name__ == "__main__":
    prepare(sys.argv[1])
    for line in sys.stdin:
        sys.stdout.write(json.dumps(call(**json.loads(line))) + "\n")
        sys.stdout.flush()

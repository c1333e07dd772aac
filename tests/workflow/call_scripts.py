"""Run scripts one after the other in one process that has imported torch already, each in a fork of its own.

Reads a call per line ({name, arguments, file_limit}, as JSON) and answers with a line: [exit code, output].
"""

import json
import os
import resource
import runpy
import sys
import traceback

import open_clip  # noqa: F401
import pandas  # noqa: F401
import safetensors.torch  # noqa: F401
import torchvision.transforms.v2  # noqa: F401


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
        runpy.run_module(f"scripts.{name}", run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int | None) else 1
        if code and not isinstance(end.code, int):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code or 0


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(call(**json.loads(line))) + "\n")
        sys.stdout.flush()

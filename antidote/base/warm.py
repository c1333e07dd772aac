"""Starts a script of `scripts/`: as a fork of a process that has imported torch and open_clip, else as its own process.

Importing these packages takes four to five seconds, most of a short job. On one machine, Snakemake's main process
starts a server (`start`). The server imports the packages at the first call and forks for each call. A fork imports the
project's own code itself, so that an edit of the code counts from the next job on. It has the caller's arguments,
environment, folder, open files and exit code.

    python -m antidote.base.warm SCRIPT ARGUMENTS ...

There is no server on a cluster, in containers or conda environments, on systems other than Linux, and with
`ANTIDOTE_WARM=0`. A job of several threads does not use the server: numbers of threads are read when packages are
imported. Without a server, the caller replaces itself by `python -m scripts.SCRIPT ARGUMENTS ...`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

WARM = "ANTIDOTE_WARM"  # path of the server's socket; 0: no server
PACKAGES = ("open_clip", "pandas", "safetensors.torch", "torchvision.transforms.v2")
THREADS = tuple(f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "GOTO", "NUMEXPR"))
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "OMP_")  # beginnings of variables that are read once
PATH = "PYTHONPATH"  # a fork takes over the caller's
NUMBER = 8  # bytes of a number in a message
ACCEPTED, REFUSED, TERMINATE = b"A", b"R", b"T"


def place() -> list[object]:
    """Return what server and caller must have in common: interpreter, user, file systems, variables read once."""
    python, files = Path(sys.executable), Path("/proc/self/ns/mnt").readlink()
    read = {key for key in os.environ if key.startswith(READ_AT_START) or key in THREADS} - {PATH}
    variables = {key: os.environ[key] for key in sorted(read)}
    return [str(python.parent), str(python.resolve()), os.getuid(), str(files), variables]


# --- the caller ------------------------------------------------------------------------------------------------------


def call(name: str, arguments: list[str]) -> None:
    """Run a script; the process ends with the script's exit code, or by the signal that ended the script."""
    path, one = os.environ.get(WARM, "0"), os.environ.get("OMP_NUM_THREADS") == "1"
    code = _forked(path, name, arguments) if one and path != "0" else None
    if code is None:
        os.execv(sys.executable, [sys.executable, "-m", f"scripts.{name}", *arguments])
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _forked(path: str, name: str, arguments: list[str]) -> int | None:
    """Return the exit code of a fork of the server at `path`; None if there is no such server here."""
    mask = os.umask(0)
    os.umask(mask)
    told = {"place": place(), "name": name, "arguments": arguments, "folder": str(Path.cwd()), "mask": mask}
    message = json.dumps({**told, "environment": dict(os.environ)}).encode()
    server = socket.socket(socket.AF_UNIX)
    # A fork is in the terminal's group and gets SIGINT itself.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.connect(path)
        socket.send_fds(server, [len(message).to_bytes(NUMBER, "big")], [0, 1, 2])
        server.sendall(message)
        accepted = server.recv(1) == ACCEPTED
    except OSError:
        accepted = False
    if not accepted:
        for number, handler in before.items():
            signal.signal(number, handler)
        return None
    signal.signal(signal.SIGTERM, lambda *_: server.send(TERMINATE))
    answer = server.recv(NUMBER)
    if not answer:
        sys.stderr.write("error: the process that jobs are forked from has ended; run again\n")
    return int.from_bytes(answer, "big", signed=True) if answer else 1


# --- the server ------------------------------------------------------------------------------------------------------


def start() -> None:
    """Start the server for this process's jobs; the server ends when this process and the last job have ended."""
    if not sys.platform.startswith("linux") or WARM in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="antidote-")  # no other user may enter
    path = str(Path(folder, "jobs"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        # Its standard input ends when this process ends.
        subprocess.Popen(
            [sys.executable, "-P", __file__, "--serve", str(listening.fileno()), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
            env={**os.environ, **dict.fromkeys(THREADS, "1")},
        )
    os.environ[WARM] = path


class Job:
    """A fork at work, and its caller."""

    def __init__(self, caller: socket.socket, child: int) -> None:
        self.child, self.ended = child, os.pidfd_open(child)
        self.caller: socket.socket | None = caller

    def asked(self, waiting: selectors.BaseSelector) -> None:
        """Terminate the fork, since its caller asks so or has ended."""
        if self.caller is None:  # the fork has ended meanwhile
            return
        if not self.caller.recv(1):
            waiting.unregister(self.caller)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGTERM)

    def finish(self, waiting: selectors.BaseSelector) -> None:
        """Tell the caller how the fork has ended."""
        waiting.unregister(self.ended)
        os.close(self.ended)
        code = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
        if any(key.fileobj is self.caller for key in waiting.get_map().values()):
            waiting.unregister(self.caller)
        _send(self.caller, code.to_bytes(NUMBER, "big", signed=True))
        self.caller.close()
        self.caller = None


def _send(caller: socket.socket, message: bytes) -> None:
    with contextlib.suppress(OSError):  # the caller has ended
        caller.send(message)


def serve(number: int, folder: str) -> dict | None:
    """Fork for each call until the standard input ends and no job is left; return the call in a fork, else None.

    Args:
        number: file descriptor of the listening socket.
        folder: the socket's folder, which is removed at the end.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM):  # what becomes of the jobs, they decide themselves
        signal.signal(ignored, signal.SIG_IGN)
    listening, waiting, open_to_calls = socket.socket(fileno=number), selectors.DefaultSelector(), True
    waiting.register(listening, selectors.EVENT_READ, "call")
    waiting.register(0, selectors.EVENT_READ, "end")
    while open_to_calls or waiting.get_map():
        for key, _ in waiting.select():
            if key.data == "end":
                for file in (0, listening):
                    waiting.unregister(file)
                listening.close()
                shutil.rmtree(folder, ignore_errors=True)
                open_to_calls = False
            elif key.data == "call" and open_to_calls:
                caller = listening.accept()[0]
                if (told := _told(caller)) is None:
                    caller.close()
                elif child := os.fork():
                    for file in told["files"]:
                        os.close(file)
                    job = Job(caller, child)
                    waiting.register(caller, selectors.EVENT_READ, job.asked)
                    waiting.register(job.ended, selectors.EVENT_READ, job.finish)
                    _send(caller, ACCEPTED)
                else:
                    caller.close()
                    _leave(waiting)
                    return told
            elif callable(key.data):
                key.data(waiting)
    return None


def _leave(waiting: selectors.BaseSelector) -> None:
    """Close what belongs to the server, in a fork."""
    for key in list(waiting.get_map().values()):
        if isinstance(key.fileobj, int):
            os.close(key.fileobj)
        else:
            key.fileobj.close()
    waiting.close()


def _told(caller: socket.socket) -> dict | None:
    """Read a call; None if it is from another place."""
    try:
        head, files, _, _ = socket.recv_fds(caller, NUMBER, 3)
        with caller.makefile("rb") as message:
            told = json.loads(message.read(int.from_bytes(head, "big")) or "{}")
    except (OSError, ValueError):  # the caller has ended meanwhile
        return None
    if told.get("place") != json.loads(json.dumps(place())) or len(files) != 3:
        for file in files:
            os.close(file)
        _send(caller, REFUSED)
        return None
    if PACKAGES[0] not in sys.modules:
        gc.disable()
        for package in PACKAGES:
            importlib.import_module(package)
        gc.enable()
        gc.freeze()  # so that the collector of a fork does not touch, and so copy, these objects
    return {**told, "files": files}


def become(told: dict, server: int) -> None:
    """Go on in a fork as a process that the caller has started, and run the script.

    Args:
        told: the call.
        server: process number of the server; the fork ends with the server.
    """
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != server:
        os._exit(1)
    atexit.register(gc.unfreeze)  # what stays frozen is reported as leaked by some packages
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number, file in enumerate(told["files"]):
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    os.umask(told["mask"])
    os.chdir(told["folder"])
    own, theirs = (_folders(variables) for variables in (os.environ, told["environment"]))
    sys.path[:] = [told["folder"], *theirs, *(folder for folder in sys.path if folder not in own)]
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.argv = [told["name"], *told["arguments"]]
    Path("/proc/self/comm").write_text(told["name"], encoding="utf-8")  # what `top` shows
    runpy.run_module(f"scripts.{told['name']}", run_name="__main__", alter_sys=True)


def _folders(variables: Mapping[str, str]) -> list[str]:
    return [folder for folder in variables.get(PATH, "").split(os.pathsep) if folder]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        parent = os.getpid()
        if told := serve(int(sys.argv[2]), sys.argv[3]):
            become(told, parent)
        else:
            os._exit(0)  # without freeing the packages one by one
    else:
        call(sys.argv[1], sys.argv[2:])

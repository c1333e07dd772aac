"""Starts a script of `scripts/`: as a fork of a process that has imported torch and open_clip, else as its own process.

Importing these packages takes four to five seconds, most of a short job. On one machine, Snakemake's main process
starts a server (`start`). The server imports the packages at the first call and forks for each call. A fork imports the
project's own code itself, so that an edit of the code counts from the next job on. It has the caller's arguments,
environment, folder, open files and exit code.

    python -m antidote.base.warm SCRIPT ARGUMENTS ...

There is no server on a cluster, in containers or conda environments, on systems other than Linux, with
`ANTIDOTE_WARM=0`, and where no folder for temporary files can be written. A job of several threads does not use the
server: numbers of threads are read when packages are imported. Without a server, the caller replaces itself by
`python -m scripts.SCRIPT ARGUMENTS ...`.
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
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

WARM = "ANTIDOTE_WARM"  # path of the server's socket; 0: no server
PACKAGES = ("open_clip", "pandas", "safetensors.torch", "torchvision.transforms.v2")
THREADS = tuple(f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "GOTO", "NUMEXPR"))
READ_AT_START = (  # beginnings of variables that are read once
    "PYTHON", "LC_", "LANG", "LD_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "GLIBC_",
    "HF_", "HUGGING", "HOME", "XDG_CACHE", "TORCH", "PYTORCH", "TQDM_", "ARROW_",
)  # fmt: skip
PATH = "PYTHONPATH"  # a fork takes over the caller's
NUMBER = 8  # bytes of a number in a message
PATIENCE = 30  # seconds until the server gives up a caller that has connected and says nothing
HELD = (signal.SIGINT, signal.SIGTERM)
STARTED: list[subprocess.Popen] = []  # collected while the server is at work, a Popen warns
PDEATHSIG, DUMPABLE = 1, 4  # of prctl: the signal at the parent's end; whether an end by a signal leaves a core file
ACCEPTED, REFUSED, TERMINATE = b"A", b"R", b"T"


def place() -> list[object]:
    """Return what server and caller must have in common: interpreter, user, file systems, variables read once."""
    python, files = Path(sys.executable), Path("/proc/self/ns/mnt").readlink()
    read = {key for key in os.environ if key.startswith(READ_AT_START) or key in THREADS} - {PATH}
    variables = {key: os.environ[key] for key in sorted(read)}
    return [str(python.parent), str(python.resolve()), os.getuid(), str(files), variables]


@contextlib.contextmanager
def _address(path: str) -> Iterator[str]:
    """Yield a short name of a socket's path: an address has at most 107 bytes, the path of a folder may have more."""
    folder = os.open(Path(path).parent, os.O_PATH)
    try:
        yield f"/proc/self/fd/{folder}/{Path(path).name}"
    finally:
        os.close(folder)


def _prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value)


# --- the caller ------------------------------------------------------------------------------------------------------


def call(name: str, arguments: list[str]) -> None:
    """Run a script; the process ends with the script's exit code, or by the signal that ended the script."""
    path, one = os.environ.get(WARM, "0"), os.environ.get("OMP_NUM_THREADS") == "1"
    code = _forked(path, name, arguments) if one and path != "0" else None
    if code is None:
        os.execv(sys.executable, [sys.executable, "-m", f"scripts.{name}", *arguments])
    if code < 0:
        _prctl(DUMPABLE, 0)  # the fork has left its core file
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _forked(path: str, name: str, arguments: list[str]) -> int | None:
    """Return the exit code of a fork of the server at `path`; None if there is no such server here."""
    mask = os.umask(0)
    os.umask(mask)
    handler = signal.getsignal(signal.SIGINT)
    told = {"name": name, "arguments": arguments, "mask": mask, "interrupts": handler is not signal.SIG_IGN}
    server = socket.socket(socket.AF_UNIX)
    if told["interrupts"]:  # until the fork exists, a signal ends this process, and the server ends the fork
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        told |= {"place": place(), "folder": str(Path.cwd()), "environment": dict(os.environ)}
        message = json.dumps(told).encode()
        with _address(path) as address:
            server.connect(address)
        socket.send_fds(server, [len(message).to_bytes(NUMBER, "big")], [0, 1, 2])
        server.sendall(message)
        accepted = server.recv(1) == ACCEPTED
    except OSError:
        accepted = False
    if not accepted:
        signal.signal(signal.SIGINT, handler)
        return None
    return _answered(server)


def _answered(server: socket.socket) -> int:
    """Wait for the fork's exit code; pass SIGTERM on meanwhile."""

    def terminate(*_: object) -> None:
        with contextlib.suppress(OSError):  # the fork has ended meanwhile
            server.send(TERMINATE)

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the fork is in the terminal's group and gets it itself
    try:
        answer = server.recv(NUMBER)
    except OSError:
        answer = b""
    if not answer:
        sys.stderr.write("error: the process that jobs are forked from has ended; run again\n")
    return int.from_bytes(answer, "big", signed=True) if answer else 1


# --- the server ------------------------------------------------------------------------------------------------------


def start() -> None:
    """Start the server for this process's jobs; the server ends when this process and the last job have ended."""
    if not sys.platform.startswith("linux") or WARM in os.environ:
        return
    with contextlib.suppress(OSError):  # jobs are then processes of their own
        place()
        folder = tempfile.mkdtemp(prefix="antidote-")  # no other user may enter
        try:
            STARTED.append(_started(folder))
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        os.environ[WARM] = str(Path(folder, "jobs"))


def _started(folder: str) -> subprocess.Popen:
    with socket.socket(socket.AF_UNIX) as listening:
        with _address(str(Path(folder, "jobs"))) as address:
            listening.bind(address)
        listening.listen(64)
        return subprocess.Popen(
            [sys.executable, "-P", __file__, "--serve", str(listening.fileno()), folder],
            stdin=subprocess.PIPE,  # ends when this process ends
            stdout=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
            env={**os.environ, **dict.fromkeys(THREADS, "1")},
        )


class Jobs:
    """The forks at work, and their callers."""

    def __init__(self) -> None:
        self.place = json.loads(json.dumps(place()))  # before packages are imported, which set variables
        self.callers: dict[int, socket.socket] = {}  # by the fork's process number
        self.waiting = selectors.DefaultSelector()
        self.ended, self._wake = os.pipe()  # readable after a fork has ended
        for file in (self.ended, self._wake):
            os.set_blocking(file, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def add(self, child: int, caller: socket.socket) -> None:
        self.callers[child] = caller
        self.waiting.register(caller, selectors.EVENT_READ, child)
        _send(caller, ACCEPTED)

    def terminate(self, child: int) -> None:
        """Terminate a fork, since its caller asks so or has ended."""
        if (caller := self.callers.get(child)) is None:  # the fork has ended meanwhile
            return
        try:
            more = caller.recv(1)
        except OSError:  # the caller has ended without reading what was sent
            more = b""
        if not more:
            self.waiting.unregister(caller)
        os.kill(child, signal.SIGTERM)

    def finish(self) -> None:
        """Tell the callers of the forks that have ended how they have ended."""
        os.read(self.ended, 1 << 16)
        for child, caller in list(self.callers.items()):
            process, status = os.waitpid(child, os.WNOHANG)
            if not process:
                continue
            if any(key.data == child for key in self.waiting.get_map().values()):
                self.waiting.unregister(caller)
            _send(caller, os.waitstatus_to_exitcode(status).to_bytes(NUMBER, "big", signed=True))
            caller.close()
            del self.callers[child]

    def leave(self) -> None:
        """Close what belongs to the server, in a fork."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for key in list(self.waiting.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fileobj)
            else:
                key.fileobj.close()
        os.close(self._wake)
        self.waiting.close()
        for caller in self.callers.values():
            caller.close()


def _send(caller: socket.socket, message: bytes) -> None:
    with contextlib.suppress(OSError):  # the caller has ended
        caller.send(message)


def serve(number: int, folder: str) -> dict | None:
    """Fork for each call until the standard input ends and no job is left; return the call in a fork, else None.

    Args:
        number: file descriptor of the listening socket.
        folder: the socket's folder, which is removed at the end.
    """
    # What becomes of the jobs, they decide themselves. A fork unblocks the signals when it has its handlers, and so
    # loses none.
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    jobs, listening, open_to_calls = Jobs(), socket.socket(fileno=number), True
    for file, what in ((listening, "call"), (0, "end"), (jobs.ended, "ended")):
        jobs.waiting.register(file, selectors.EVENT_READ, what)
    while open_to_calls or jobs.callers:
        for key, _ in jobs.waiting.select():
            if key.data == "end":
                for file in (0, listening):
                    jobs.waiting.unregister(file)
                listening.close()
                shutil.rmtree(folder, ignore_errors=True)
                open_to_calls = False
            elif key.data == "call":
                if open_to_calls and (told := _call(listening, jobs)):
                    return told
            elif key.data == "ended":
                jobs.finish()
            else:
                jobs.terminate(key.data)
    return None


def _call(listening: socket.socket, jobs: Jobs) -> dict | None:
    """Answer a call; return it in a fork."""
    try:
        caller = listening.accept()[0]
    except OSError:  # the caller has ended meanwhile, or this process has no file left
        return None
    told, child = _told(caller, jobs.place), None
    if told and not _ended(caller):
        with contextlib.suppress(OSError):  # no memory or no process left
            child = os.fork()
    if child == 0:
        caller.close()
        jobs.leave()
        return told
    for file in told["files"] if told else []:
        os.close(file)
    if child:
        jobs.add(child, caller)
    else:
        _send(caller, REFUSED)
        caller.close()
    return None


def _ended(caller: socket.socket) -> bool:
    """Tell whether a caller has ended before its job exists: a caller that waits for the answer says nothing."""
    try:
        return not caller.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _told(caller: socket.socket, here: list[object]) -> dict | None:
    """Read a call; None if it is from another place."""
    caller.settimeout(PATIENCE)
    try:
        head, files, _, _ = socket.recv_fds(caller, NUMBER, 3)
    except OSError:
        return None
    try:
        with caller.makefile("rb") as message:
            told = json.loads(message.read(int.from_bytes(head, "big")) or "{}")
    except (OSError, ValueError):  # the caller has ended meanwhile
        told = {}
    caller.settimeout(None)
    if told.get("place") != here or len(files) != 3:
        for file in files:
            os.close(file)
        return None
    return {**told, "files": files, "environment": told["environment"] | _imported()}


@cache
def _imported() -> dict[str, str]:
    """Import the packages, once; return the environment variables that they have set."""
    before = dict(os.environ)
    gc.disable()
    for package in PACKAGES:
        importlib.import_module(package)
    gc.enable()
    gc.freeze()  # so that the collector of a fork does not touch, and so copy, these objects
    return {key: value for key, value in os.environ.items() if before.get(key) != value}


def become(told: dict, server: int) -> None:
    """Go on in a fork as a process that the caller has started, and run the script.

    Args:
        told: the call.
        server: process number of the server; the fork ends with the server.
    """
    _prctl(PDEATHSIG, signal.SIGTERM)
    if os.getppid() != server:
        os._exit(1)
    atexit.register(gc.unfreeze)  # what stays frozen is reported as leaked by some packages
    signal.signal(signal.SIGINT, signal.default_int_handler if told["interrupts"] else signal.SIG_IGN)
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
    tempfile.tempdir = None  # Snakemake gives each job a TMPDIR
    sys.argv = [told["name"], *told["arguments"]]
    with contextlib.suppress(OSError):  # no right to write there
        Path("/proc/self/comm").write_text(told["name"], encoding="utf-8")  # what `top` shows
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
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

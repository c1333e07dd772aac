"""A process of img2dataset that is killed ends the download with a line; Python's pool would wait for it without end."""

import subprocess
import sys
import threading

from antidote.base.fingerprint import ROOT

IMG2DATASET = """
import multiprocessing, os, signal, time

def work(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)

def download(kill):
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, maxtasksperchild=2) as pool:
        for _ in pool.imap_unordered(work, range(8) if kill else [0, 1, 2, 4, 5, 6]):
            pass
    print("done", flush=True)
"""


def run(folder, kill):
    (folder / "img2dataset.py").write_text(IMG2DATASET)
    (folder / "cv2.py").write_text("imdecode = None\n")
    job = subprocess.Popen(
        [sys.executable, "-P", ROOT / "antidote/data/download/worker.py", f'{{"kill": {kill}}}'], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={"PYTHONPATH": str(folder)},
        start_new_session=True,
    )  # fmt: skip
    timer = threading.Timer(120, job.kill)
    timer.start()
    said = job.stdout.read()  # the end of standard input would end the job
    code = job.wait()
    timer.cancel()
    job.stdin.close()
    job.stdout.close()
    return code, said


def test_a_killed_process_ends_the_download(tmp_path):
    code, said = run(tmp_path, "true")
    assert said == "failed with error a process was killed (signal 9), as a system does without memory; use fewer\n"
    assert code == -9


def test_processes_that_end_in_their_time_do_not(tmp_path):
    assert run(tmp_path, "false") == (0, "done\n")


RACE = """
import os, runpy, sys

class Worker:
    exitcode = None

    def join(self): ...

class Late(Worker):
    looks = 0

    @property
    def exitcode(self):
        self.looks += 1
        return CODE if self.looks > NONE else None

worker = runpy.run_path(sys.argv[1], run_name="worker")
os.killpg = lambda *words: print("ended", flush=True)
worker["end_with_workers"]([Worker(), Late()])
"""


def late(folder, code, none):
    (folder / "cv2.py").write_text("imdecode = None\n")
    script = RACE.replace("CODE", str(code)).replace("NONE", str(none))
    return subprocess.run(
        [sys.executable, "-c", script, ROOT / "antidote/data/download/worker.py"],
        capture_output=True, text=True, env={"PYTHONPATH": str(folder)}, check=True,
    ).stdout  # fmt: skip


def test_a_process_that_is_killed_while_pool_looks_ends_the_download(tmp_path):
    """It was not seen before Pool had removed it, and the download waited without end."""
    for none in (0, 1):
        assert late(tmp_path, -9, none).endswith("(signal 9), as a system does without memory; use fewer\nended\n")
    assert late(tmp_path, 3, 0) == "failed with error a process ended with exit code 3\nended\n"

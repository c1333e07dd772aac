"""What every script shares: one line for what a user can mend, a traceback for our own faults, the cost of the job."""

import errno
import json
import logging
import re
import subprocess
import sys

import pytest
import torch

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.machine import processor


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)


def run(monkeypatch, act, *words):
    """Run a script that does `act`, with command-line words; return what it says when it gives up."""
    monkeypatch.setattr(sys, "argv", ["script", *words])
    arguments = command_line.parser("A script.")
    command_line.settings_argument(arguments, "the settings")
    with pytest.raises(SystemExit) as exit:
        command_line.main(act, arguments)
    return exit.value.code


def raising(error):
    def act(arguments):
        raise error

    return act


def test_arguments_reach_the_script(monkeypatch, tmp_path):
    (tmp_path / "f.yaml").write_text("a: 1")
    for words, expected in (((), {}), (("--settings", '{"a": 2}'), {"a": 2}),
                            (("--settings", str(tmp_path / "f.yaml")), {"a": 1})):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["script", *words])
        arguments, seen = command_line.parser("A script."), []
        command_line.settings_argument(arguments, "the settings")
        command_line.main(lambda given, seen=seen: seen.append(given.settings), arguments)
        assert seen == [expected]


@pytest.mark.parametrize("turn", ["first", "second"])
def test_the_log_of_a_command_does_not_reach_the_next_test(monkeypatch, turn):
    assert command_line.log.level == logging.NOTSET
    assert not any(command_line._unseen in handler.filters for handler in logging.getLogger().handlers)
    monkeypatch.setattr(sys, "argv", ["script"])
    command_line.main(lambda arguments: None, command_line.parser("A script."))
    assert command_line.log.level == logging.INFO


def test_what_a_user_can_mend_is_one_line(monkeypatch):
    assert run(monkeypatch, raising(UserError("lr: too high"))) == "error: lr: too high"
    assert run(monkeypatch, raising(None), "--settings", "nowhere.yaml").startswith(
        "error: nowhere.yaml: cannot be read"
    )


@pytest.mark.parametrize(
    "error,where",
    [
        (lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the GPU's memory"),
        (lambda: RuntimeError("CUDA error: out of memory"), "the GPU's memory"),
        (lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory"),
        (MemoryError, "memory"),
    ],
)
def test_a_lack_of_memory_is_one_line_that_names_what_to_lower(monkeypatch, error, where):
    told = run(monkeypatch, raising(error()))
    assert told.startswith(f"error: batch_size: the job needs more than {where}; lower evaluation.batch_size")


def test_another_error_of_torch_keeps_its_traceback(monkeypatch):
    with pytest.raises(RuntimeError, match="shapes"):
        monkeypatch.setattr(sys, "argv", ["script"])
        command_line.main(raising(RuntimeError("shapes do not fit")), command_line.parser("A script."))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_or_closed_disk_is_one_line(monkeypatch, number):
    text = run(monkeypatch, raising(OSError(number, "Some reason", "/data/file")))
    assert text == "error: /data/file: Some reason; free or allow space there and run again"
    assert run(monkeypatch, raising(OSError(number, "Some reason"))).startswith("error: output: Some reason")


@pytest.mark.parametrize("error", [ValueError("ours"), KeyError("ours"), OSError(errno.EIO, "disk")])
def test_our_own_faults_keep_their_traceback(monkeypatch, error):
    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(type(error)):
        command_line.main(raising(error), command_line.parser("A script."))


def test_cost(tmp_path):
    cost = command_line.Cost()
    cost.write(None)
    cost.write(tmp_path / "cost.json", pairs=7, steps=None)
    found = json.loads((tmp_path / "cost.json").read_text())
    assert found["pairs"] == 7 and found["steps"] is None and 0 <= found["seconds"] < 60
    assert 10_000_000 < found["peak_memory_bytes"] < 1 << 40 and found["threads"] == 1, "bytes, not kilobytes"
    assert "peak_gpu_memory_bytes" in found
    assert found["device"] == processor()


def test_cost_with_a_part_that_an_earlier_process_computed(tmp_path):
    own = command_line.Cost()
    earlier = {"seconds": 1000.0, "peak_memory_bytes": 1 << 50, "peak_gpu_memory_bytes": None}
    found = own.write(tmp_path / "cost.json", earlier, pairs=7)
    assert 1000 <= found["seconds"] < 1060 and found["peak_memory_bytes"] == 1 << 50
    assert found["peak_gpu_memory_bytes"] == own.spent()["peak_gpu_memory_bytes"], "of this process"
    assert own.write(None, {"peak_memory_bytes": 1})["peak_memory_bytes"] > 1, "the larger counts"


def test_identities_are_canonical():
    assert (
        command_line.to_json({"b": 1, "a": [1.0, None]})
        == command_line.to_json({"a": [1.0, None], "b": 1})
        == '{"a":[1.0,null],"b":1}'
    )


def scripts():
    """Return the scripts that users and rules start; `fetch` runs in the environment of the downloads."""
    return sorted({path.stem for path in (ROOT / "scripts").glob("*.py")} - {"__init__", "fetch"})


@pytest.mark.parametrize("name", scripts())
def test_every_script_shows_its_docstring_and_prints_nothing_else(name):
    """Read from the source, as running each would import torch."""
    source = (ROOT / "scripts" / f"{name}.py").read_text()
    assert source.startswith('"""') and not re.findall(r"\bprint\(", source)
    # The others call a command of the package, which has a text of its own.
    assert "__doc__" in source or f"from antidote.command.{name} import" in source


def test_a_script_fails_with_one_line_and_code_1(tmp_path):
    """The real thing, once: no traceback, nothing written."""
    settings = '{"method": "badnet", "patch_sise": 3}'
    words = ["--name", "x", "--target", "banana", "--size", "32", "--settings", settings]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "trigger.py", *words, "--output", tmp_path / "trigger"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
        cwd=tmp_path,
    )
    assert done.returncode == 1 and list(tmp_path.iterdir()) == []
    assert done.stderr == "error: attack x: patch_sise: unknown key; did you mean 'patch_size'?\n"


@pytest.mark.parametrize(("word", "number"), [("0", 0), ("7", 7), (str(2**64 - 1), 2**64 - 1)])
def test_a_seed_that_torch_takes(word, number):
    assert command_line.seed(word) == number
    torch.manual_seed(command_line.seed(word))


@pytest.mark.parametrize("word", ["-1", "1.0", str(2**64), "x", "", "\u0663"])
def test_a_seed_that_it_does_not_take(word, capsys):
    arguments = command_line.parser("A script.")
    arguments.add_argument("--seed", type=command_line.seed)
    with pytest.raises(SystemExit):
        arguments.parse_args([f"--seed={word}"])
    assert f"error: argument --seed: {word!r} should be a whole number from 0 to 2**64 - 1" in capsys.readouterr().err


def test_a_message_of_a_library_with_a_handler_of_its_own_is_shown_once(capsys):
    """Hugging Face's logger shows what it says and hands it on as well."""
    code = (
        "import logging; from antidote.base import command_line\n"
        "hub = logging.getLogger('hub'); hub.addHandler(logging.StreamHandler()); hub.setLevel('WARNING')\n"
        "silent = logging.getLogger('silent'); silent.addHandler(logging.NullHandler())\n"
        "def run(_):\n"
        "    logging.getLogger('hub.http').warning('retry')\n"
        "    silent.error('wrong'); logging.getLogger('antidote.data').info('done')\n"
        "command_line.main(run, command_line.parser('x'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=True
    )
    lines = [line.split()[-1] for line in done.stderr.splitlines()]
    assert lines == ["retry", "wrong", "done"]


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_ends_early_is_no_error(lines):
    """`show.py | head`: short output breaks off when it is flushed, long output while it is written."""
    code = (
        "import sys, time; from antidote.base import command_line\n"
        f"command_line.main(lambda _: time.sleep(1) or sys.stdout.write('line\\n' * {lines}), command_line.parser('x'))\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "CODE": code}
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "$CODE" | true; echo ${{PIPESTATUS[0]}}'],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_a_broken_pipe_of_another_kind_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(BrokenPipeError):
        command_line.main(raising(BrokenPipeError()), command_line.parser("A script."))


@pytest.mark.parametrize("name", scripts())
def test_every_script_that_writes_goes_through_main(name):
    source = (ROOT / "scripts" / f"{name}.py").read_text(encoding="utf-8")
    assert re.search(r"\b(command_line\.)?main\(run, ", source)


LEAVES = """
import argparse, atexit, sys, threading, time, types
from concurrent.futures import ThreadPoolExecutor
from antidote.base import command_line

class Slow:
    def __del__(self):
        print("freed")

kept = Slow()
kept.itself = kept
sys.modules.setdefault("torch", types.ModuleType("torch"))
atexit.register(lambda: print("registered"))

def run(arguments):
    if CALLED == "thread":
        threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
    if CALLED == "pool":  # its thread waits for work until Python ends it
        kept.pool = ThreadPoolExecutor(1)
        kept.pool.submit(int).result()
    print("ran")

act = run if CALLED != "other" else lambda arguments: run(arguments)
command_line.main(act, argparse.ArgumentParser())
print("after")
"""


@pytest.mark.parametrize(
    "called,lines",
    [
        ("script", "ran registered"),
        ("thread", "ran after thread registered freed"),
        ("pool", "ran after registered freed"),
        ("other", "ran after registered freed"),
    ],
)
def test_a_script_with_torch_ends_at_once_where_nothing_else_runs(called, lines):
    code = LEAVES.replace("CALLED", repr(called))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == lines.split()

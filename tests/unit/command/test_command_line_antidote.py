"""`antidote`: every command has help with an example, without importing torch; wrong words are one line."""

import errno
import importlib
import shlex
import subprocess
import sys

import pytest

from antidote.base import command_line, fingerprint
from antidote.base.errors import UserError
from antidote.command import __main__ as entry
from antidote.command import inputs
from antidote.command.table import COMMANDS, overview
from antidote.study.tracks import tracks
from scripts import results

OWN = [name for name, entry in COMMANDS.items() if not entry.script]


def antidote(*words, cwd=None):
    command = [sys.executable, "-m", "antidote.command", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_every_command_is_in_the_overview():
    assert all(f"  {name} " in overview() for name in COMMANDS)


@pytest.mark.parametrize("name", OWN)
def test_a_command_is_a_module_with_arguments_and_run(name):
    module = importlib.import_module(f"antidote.command.{name}")
    assert callable(module.run) and module.arguments().description


def test_examples_of_results_files_have_the_words_of_the_command():
    for line in COMMANDS["results"].example.splitlines():
        given = results.arguments().parse_args(shlex.split(line)[2:])
        assert given.action != "import" or given.track in tracks(), line


def test_help_of_all_commands_shows_an_example_without_torch():
    code = (
        "import contextlib, sys; from antidote.command.__main__ import main\n"
        f"for name in {OWN}:\n"
        "    sys.argv = ['antidote', name, '--help']\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main()\n"
        "assert 'torch' not in sys.modules and 'open_clip' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("example:") == len(OWN)
    assert done.stdout.count("usage: antidote ") == len(OWN)


def test_help_names_the_methods_and_shows_no_empty_defaults():
    texts = {name: importlib.import_module(f"antidote.command.{name}").arguments().format_help() for name in OWN}
    assert not any("(default: None)" in text or "(default: False)" in text for text in texts.values())
    assert "wordnet:FOLDER" in texts["clean"] and "spacy:PIPELINE" in texts["clean"]
    wanted = {"audit": "decree", "scan": "dao", "inspect": "scale_up", "clean": "cleanclip"}
    assert all(method in texts[name] for name, method in wanted.items()) and "(default: dao)" in texts["scan"]


def test_unknown_command():
    done = antidote("scann")
    assert (done.returncode, done.stderr) == (1, "error: unknown command 'scann'; did you mean 'scan'?\n")


@pytest.mark.parametrize(("words", "message"), [
    (["scan", "", "--model", "rn"], "dataset: is empty; should name: table, shards, folder, or written split"),
    (["scan", "a.csv", "--model", ""], "--model: is empty; should name: CLIP that was trained on the dataset, or "
                                       "another one"),
    (["audit", "rn", "--output="], "--output: is empty; should name: folder to write"),
    (["audit", "", "--given", "given.yaml"], f"model: is empty; should name: {inputs.MODELS}"),
    (["audit", "--given", ""], "--given: is empty; should name: file of `antidote init MODEL`, in place of the model "
                               "and its data"),
    (["clean", "rn", "--settings", ""], "--settings: is empty; should name: settings of the method"),
    (["evaluate", "rn", "test", "--classes", ""], "--classes: is empty; should name: JSON list of class names in label "
                                                  "order; by default the class folders"),
    (["init", ""], f"MODEL: is empty; should name: {inputs.MODELS}"),
    (["check", "study.yaml", ""], "FILE: is empty; should name: study file, such as config.yaml"),
    (["results", "check", ""], "FILE: is empty; should name: results file"),
])  # fmt: skip
def test_an_empty_word_as_of_an_unset_variable_is_told(words, message, tmp_path, monkeypatch):
    (tmp_path / "given.yaml").write_text("model: rn\n")
    monkeypatch.chdir(tmp_path)
    name, *rest = words
    command = importlib.import_module(f"{'scripts' if COMMANDS[name].script else 'antidote.command'}.{name}")
    with pytest.raises(UserError) as error:
        command.arguments().parse_args(rest)
    assert str(error.value) == message


def test_an_argument_that_is_empty_by_default_may_be_empty():
    parser = command_line.parser(None)
    parser.add_argument("--study", default="")
    assert parser.parse_args(["--study", ""]).study == parser.parse_args([]).study == ""


def test_a_command_of_a_checkout_says_so_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["antidote", "collect"])
    with pytest.raises(SystemExit) as error:
        entry.main()
    assert str(error.value).startswith("error: collect: needs a checkout of the project")


@pytest.mark.parametrize("name", ["results", "zoo"])
def test_help_of_an_action_shows_its_own_example(name, monkeypatch, capsys):
    lines = [line.strip() for line in COMMANDS[name].example.splitlines()]
    script = importlib.import_module(f"scripts.{name}")
    actions = next(action for action in script.arguments()._actions if action.dest == "action").choices
    assert [line.split()[2] for line in lines] == list(actions)
    for line in lines:
        words = shlex.split(line)
        assert script.arguments().parse_args(words[2:])
        monkeypatch.setattr(sys, "argv", [*words[:3], "--help"])
        monkeypatch.delitem(sys.modules, script.__name__, raising=False)  # it runs as a program
        with pytest.raises(SystemExit):
            entry.main()
        assert capsys.readouterr().out.endswith(f"\nexample:\n  {line}\n")


def test_a_stop_while_the_program_starts_is_one_line():
    code = (
        "import sys\n"
        "class Stopped:\n"
        "    def find_spec(self, name, *more):\n"
        "        if name == 'antidote.command.table':\n"
        "            raise KeyboardInterrupt\n"
        "from antidote.command.__main__ import main\n"
        "sys.meta_path.insert(0, Stopped())\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and done.stderr.strip().startswith("error: interrupted;")
    assert len(done.stderr.strip().splitlines()) == 1


def test_completion_is_valid_bash_and_completes():
    script = antidote("completion", "bash").stdout
    shell = lambda words, place: subprocess.run(
        ["bash", "-c", script + f'\nCOMP_WORDS=(antidote {words}); COMP_CWORD={place}; _antidote; echo "${{COMPREPLY[@]}}"'],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert shell("sc", 1) == ["scan"]
    assert "--model" in shell("scan --mo", 2)


@pytest.mark.parametrize(
    "error,code,line",
    [
        (KeyboardInterrupt(), 130, "error: interrupted; the same command again goes on where work was saved"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300),
            1,
            f"{'a' * 300}: File name too long; name another path",
        ),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", "keys.txt"),
            1,
            "keys.txt: Is a directory; name another path",
        ),
        (
            UnicodeEncodeError("utf-8", "a valid study: caf\udce9.yaml: valid", 18, 19, "surrogates not allowed"),
            1,
            "error: caf\udce9.yaml: is not valid UTF-8; give it another name",
        ),
    ],
)
def test_what_a_user_stops_or_misnames_ends_in_one_line(monkeypatch, capsys, error, code, line):
    def stop(_):
        raise error

    monkeypatch.setattr("antidote.command.check.run", stop)
    monkeypatch.setattr(sys, "argv", ["antidote", "check", "study.yaml"])
    with pytest.raises(SystemExit) as end:
        entry.main()
    said = capsys.readouterr().err + (end.value.code if isinstance(end.value.code, str) else "")
    assert line in said and "Traceback" not in said
    assert end.value.code == code if code != 1 else isinstance(end.value.code, str)

"""Text is UTF-8 whatever the locale: in files, in identities, in commands; a terminal without its letters is no error."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from antidote.base.command_line import text
from antidote.study.jobs import text_argument

ROOT = Path(__file__).resolve().parents[3]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
WORD = "\u00d8lberg \N{BANANA} \u732b"
SOURCES = [path for folder in ("antidote", "scripts", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


def in_ascii(*words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run Python in a locale without letters beyond ASCII; arguments are UTF-8, as rules hand them over."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env={**os.environ, **ASCII, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    done.stdout = done.stdout.decode()
    return done


def study(**more) -> dict:
    return {
        "study": "letters", "target": "banana", "model": {"name": "tiny-rn"},
        "datasets": {
            "own": {"source": "scenes", "splits": {name: {"pairs": 16, "seed": i} for i, name in enumerate(["train", "test"])}}
        },
        "pools": {"training": {"dataset": "own", "split": "train", "pairs": 8}, "poison": {"pairs": 8}},
        "evaluation": {"dataset": "own", "split": "test", "classes": "scenes", "templates": "scenes"},
        "attacks": {"badnet": {"method": "badnet", "label": WORD, "patch_size": 6, "poisons": 4}}, "defenses": {},
        "pretraining": {"batch_size": 8}, "poisoning": {"batch_size": 8}, **more,
    }  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_names_its_encoding(path):
    """ruff finds the calls on what it knows for a path; here are all calls of these names."""
    bare = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            keywords = {keyword.arg for keyword in node.keywords}
            reads = node.func.attr in ("read_text", "write_text") or keywords & {"text", "universal_newlines"}
            if reads and "encoding" not in keywords and node.func.attr in ("read_text", "write_text", "run", "Popen"):
                bare.append(node.lineno)
    assert bare == []


def test_a_study_is_checked_in_a_locale_without_its_letters(tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study(target=WORD), allow_unicode=True), encoding="utf-8")
    done = in_ascii("-m", "scripts.check", tmp_path / "s.yaml")
    assert done.returncode == 1 and "target: '\\xd8lberg \\U0001f34c \\u732b' is not among" in done.stdout
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study(), allow_unicode=True), encoding="utf-8")
    done = in_ascii("-m", "scripts.check", tmp_path / "s.yaml")
    assert done.returncode == 0, done.stdout


def test_captions_are_the_same_in_every_locale(tmp_path):
    """From a table to the shards, and to the pool that is chosen by a word."""
    import pandas as pd
    from PIL import Image

    Image.new("RGB", (12, 12)).save(tmp_path / "p.png")
    table = pd.DataFrame({"path": "p.png", "caption": [f"{WORD} number {number}" for number in range(4)]})
    table.to_csv(tmp_path / "t.csv", index=False)
    settings = {"source": "table", "path": "path", "caption": "caption", "splits": {"train": str(tmp_path / "t.csv")}}
    folder = tmp_path / "data/own/train"
    done = in_ascii("-m", "scripts.dataset", "--name", "own", "--split", "train", "--output", folder, "--settings",
                    json.dumps(settings))  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert pd.read_parquet(folder / "index.parquet")["caption"].tolist() == table["caption"].tolist()
    pools = {"training": {"dataset": "own", "split": "train", "pairs": 2, "target_pairs": 2}}
    done = in_ascii("-m", "scripts.pools", "--settings", json.dumps(pools), "--target", WORD, "--output", tmp_path / "p.parquet",
                    "--data", tmp_path / "data")  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_a_fingerprint_is_the_same_in_every_locale():
    from antidote.base.fingerprint import fingerprint

    code = "from antidote.base.fingerprint import fingerprint; print(fingerprint('scripts.summarise', 'antidote.data.words.lexicon'))"
    done = in_ascii("-c", code)
    assert done.stdout.strip() == fingerprint("scripts.summarise", "antidote.data.words.lexicon")


def test_a_file_that_the_locale_cannot_name_is_one_line(tmp_path):
    settings = {"source": "folder", "root": WORD, "splits": {"train": "a"}}
    done = in_ascii("-m", "scripts.dataset", "--name", "own", "--split", "train", "--output", tmp_path / "o", "--settings",
                    json.dumps(settings), cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert len(done.stdout.splitlines()) == 1, done.stdout


def test_a_target_reaches_a_job_as_it_is():
    assert text(text_argument(WORD)) == WORD
    code = (
        f"import os; from antidote.study.jobs import text_argument; os.write(1, os.fsencode(text_argument({WORD!a})))"
    )
    assert in_ascii("-c", code).stdout == WORD
    code = "import sys; from antidote.base.command_line import text; print(ascii(text(sys.argv[1])))"
    assert in_ascii("-c", code, WORD).stdout.strip() == ascii(WORD)


def test_a_terminal_without_the_letters_shows_their_numbers():
    code = f"from antidote.base.terminal import accept_all_letters; accept_all_letters(); print({WORD!a})"
    assert in_ascii("-c", code).stdout.strip() == "\\xd8lberg \\U0001f34c \\u732b"

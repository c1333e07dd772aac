"""Fingerprints: what a job can reach changes them, what cannot change a result does not."""

import ast
import json

import pytest

from antidote.base import fingerprint as fp
from antidote.base.registry import KINDS, module

BASE = '''"""A module."""
from antidote.helper import help_

RATE = 0.1

def step(x, rate=RATE):
    """Do a step."""
    return help_(x) * rate
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own; calling it writes modules and returns the fingerprint of antidote.main."""
    monkeypatch.setattr(fp, "ROOT", tmp_path)
    cached = [fp.fingerprint, fp.reachable, fp._file, fp._content, fp._tree, fp._imports, fp._meaning]
    monkeypatch.setattr(fp, "_memory", {})  # results of all versions of a test's modules stay in it
    monkeypatch.setattr(fp, "_covered", set())  # its modules are gone after the test

    def forget():
        for function in cached:
            function.cache_clear()

    def write(*asked, **modules):
        for name, text in {"__init__": '"""Package."""\n', **modules}.items():
            path = tmp_path / "antidote" / f"{name.replace('__slash__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        forget()
        return fp.fingerprint(*(asked or ("antidote.main",)))

    write(helper="def help_(x):\n    return x + 1\n", other="X = 1\n", registry="import antidote.other\n")
    yield write
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize(
    "text",
    [
        BASE.replace("RATE = 0.1", "# why\nRATE = 0.1  # a share"),
        BASE.replace("Do a step.", "Do one step.\n\n    At length."),
        BASE.replace('    """Do a step."""\n', ""),
        BASE.replace('"""A module."""\n', ""),
        BASE.replace("def step(x, rate=RATE):", "def step(\n    x,\n    rate=RATE,\n):"),
        BASE.replace("help_(x) * rate", "(help_(x) * rate)"),
        BASE.replace("0.1", "1e-1"),
    ],
)
def test_comments_docstrings_and_layout_change_nothing(project, text):
    assert text != BASE and project(main=text) == project(main=BASE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.1", "RATE = 0.2"),
        ("RATE = 0.1", "RATE = True"),
        ("* rate", "/ rate"),
        ("help_(x) * rate", "rate * help_(x)"),
        ("rate=RATE", "rate=None"),
        ("return help_(x) * rate", "help_(x) * rate"),
        ("def step(x, rate", "def step(x, *, rate"),
        ('"""Do a step."""', '"""Do a step."""\n    x = "a text that is no docstring"'),
        ("def step", "@staticmethod\ndef step"),
    ],
)
def test_what_can_change_a_result_does(project, old, new):
    text = BASE.replace(old, new)
    ast.parse(text)
    assert text != BASE and project(main=text) != project(main=BASE)


@pytest.mark.parametrize(
    ("one", "other"), [("1", "True"), ("1", "1.0"), ("'a'", "b'a'"), ("None", "..."), ("0", "None")]
)
def test_constants_of_other_types_differ(project, one, other):
    assert project(main=f"X = {one}\n") != project(main=f"X = {other}\n")


def test_a_settings_description_is_a_docstring(project):
    text = 'from pydantic import Field\nA = Field(1, ge=0, description="one")\n'
    assert project(main=text) == project(main=text.replace('"one"', '"another"'))
    assert project(main=text) == project(main=text.replace(', description="one"', ""))
    assert project(main=text) != project(main=text.replace("ge=0", "ge=1"))
    assert project(main=text) != project(main=text.replace("ge=0", "ge=0, le=9"))
    assert project(main=text) != project(main=text.replace("Field(1", "Field(2"))


@pytest.mark.parametrize(
    "line",
    [
        "from antidote.helper import help_",
        "from antidote import helper",
        "import antidote.helper",
        "import antidote.helper as h",
        "from .helper import help_",
        "from . import helper",
        "def f():\n    from antidote.helper import help_",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from antidote.helper import help_",
        "from antidote.between import X",
    ],
)
def test_imports_are_followed(project, line):
    between = "from antidote.helper import help_ as X\n"
    before = project(main=line + "\n", between=between, helper="def help_(x):\n    return x + 1\n")
    after = project(main=line + "\n", between=between, helper="def help_(x):\n    return x + 2\n")
    assert before != after


def test_packages_count_for_what_lies_in_them(project):
    line = "from antidote.sub.part import X\n"
    before = project(main=line, sub__slash____init__="A = 1\n", sub__slash__part="X = 1\n")
    assert before != project(main=line, sub__slash____init__="A = 2\n", sub__slash__part="X = 1\n")
    assert before != project(main=line, sub__slash____init__="A = 1\n", sub__slash__part="X = 2\n")


def test_what_is_not_reached_does_not_count(project):
    assert project(main=BASE, other="X = 1\n") == project(main=BASE, other="X = 2\n")


def test_the_registry_is_opaque(project):
    """It imports no method, and a new line in it reruns nothing; a rule names the methods it uses."""
    main = "from antidote.base.registry import method\n"
    before = project(main=main, base__slash__registry="A = 1\n")
    assert before == project(main=main, base__slash__registry="A = 2\nimport antidote.other\n")
    assert "antidote.base.registry" in fp.NOT_FOLLOWED
    one = project("antidote.main", "antidote.other", other="X = 1\n")
    assert one not in (before, project("antidote.main", "antidote.other", other="X = 2\n"))


def test_the_order_of_names_does_not_count(project):
    project(main=BASE)
    assert fp.fingerprint("antidote.main", "antidote.other") == fp.fingerprint("antidote.other", "antidote.main")
    assert len(fp.fingerprint("antidote.main")) == 16 and int(fp.fingerprint("antidote.main"), 16) >= 0


def test_moving_code_to_another_module_counts(project):
    one = project(main="from antidote.helper import X\n", helper="X = 1\nY = 2\n")
    assert one != project(main="from antidote.helper import X\nY = 2\n", helper="X = 1\n")


# --- results of earlier processes ------------------------------------------------------------------------------------


def test_what_is_remembered_counts_for_the_same_content_alone(project, tmp_path, monkeypatch):
    atexit, file = [], tmp_path / "folder" / "sources.json"
    monkeypatch.setattr(fp.atexit, "register", atexit.append)
    texts = {
        "main": "from antidote.helper import help_\n", "helper": "def help_(x):\n    return x\n",
        "sub__slash____init__": "A = 1\n",
    }  # fmt: skip
    fp.remember(file)
    before = project("antidote.main", "antidote.sub", **texts)
    atexit.pop()()
    assert before in json.loads(file.read_text()).values()

    monkeypatch.setattr(fp, "_memory", {})
    fp.remember(file)
    parsed, parse = [], ast.parse
    monkeypatch.setattr(fp.ast, "parse", lambda *a, **k: parsed.append(k["filename"]) or parse(*a, **k))
    assert project("antidote.main", "antidote.sub", **texts) == before and parsed == []
    changes = {"helper": "def help_(x):\n    return -x\n", "main": "from antidote.other import X\n"}
    changed = {
        name: project("antidote.main", "antidote.sub", **{**texts, name: text}) for name, text in changes.items()
    }
    project("antidote.main", "antidote.sub", **texts)
    (tmp_path / "antidote/sub/page.j2").write_text("a template counts as code of its package")
    changed["template"] = project("antidote.main", "antidote.sub", **texts)
    assert len({before, *changed.values()}) == 4

    monkeypatch.setattr(fp, "_memory", {})  # computed anew
    assert project("antidote.main", "antidote.sub", **texts) == changed["template"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\udc80"])
def test_a_damaged_memory_costs_time_alone(project, tmp_path, monkeypatch, content):
    (tmp_path / "sources.json").write_bytes(content.encode(errors="surrogateescape"))
    monkeypatch.setattr(fp.atexit, "register", lambda save: save())
    before = project(main=BASE)
    fp.remember(tmp_path / "sources.json")
    assert project(main=BASE) == before
    fp.remember(tmp_path / "sources.json" / "no folder")
    assert project(main=BASE) == before


# --- the project itself ----------------------------------------------------------------------------------------------


def test_each_stage_reaches_what_it_needs_and_no_method_by_accident():
    training = {"antidote.training.loop", "antidote.clip.model", "antidote.training.objectives", "antidote.data.pairs"}
    assert training <= fp.reachable("scripts.pretrain") and training <= fp.reachable("scripts.defend")
    assert {"antidote.evaluation.metrics", "antidote.evaluation.zero_shot"} <= fp.reachable("scripts.evaluate")
    for script in ("pretrain", "defend", "evaluate", "trigger", "poison"):
        methods = {module(kind, name) for kind in ("attack", "defense") for name in KINDS[kind]}
        assert not methods & fp.reachable(f"scripts.{script}"), script
    cleaner = fp.reachable("antidote.defenses.ta_cleaner")
    assert {"antidote.defenses.cleanclip", "antidote.data.words.eda"} <= cleaner
    assert "antidote.evaluation.metrics" not in fp.reachable("scripts.pretrain"), "a new figure trains no model again"


def test_every_reached_module_exists():
    for script in (fp.ROOT / "scripts").glob("*.py"):
        for name in fp.reachable(f"scripts.{script.stem}"):
            assert fp._file(name).is_file()

"""Floors of the house: a module imports what is below it, never what is above, and no two modules import each other."""

import ast
from collections.abc import Iterator

from antidote.base.fingerprint import ROOT

# Folders of antidote/ by floor, the ground first; those of one floor know nothing of each other.
FLOORS = [
    {"base"},
    {"clip", "data"},
    {"training"},
    {"attacks", "defenses", "detectors"},
    {"evaluation"},
    {"study"},
    {"summary"},
    {"command"},
    {"scripts", "api"},
]
LIMIT = 400  # lines of a module
FLOOR = {folder: height for height, folders in enumerate(FLOORS) for folder in folders}
# A defender's data may hold a clean model; the type checker alone imports its class.
EXCEPT = {("antidote.data.access", "antidote.clip.model")}


def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module."""
    files = [path for part in ("antidote", "scripts") for path in sorted((ROOT / part).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return {
        name.removesuffix(".__init__"): ast.parse(path.read_text()) for name, path in zip(names, files, strict=True)
    }


def imports(tree: ast.Module, known: dict[str, ast.Module]) -> Iterator[str]:
    """Yield the project's modules that a module imports, at its top, in functions, or for the type checker alone."""
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ImportFrom) and node.level), "imports are absolute"
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in named)


def folder(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "antidote" and len(parts) > 1 else parts[0]


def arrows() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imports(tree, known)) - {name} for name, tree in known.items()}


def upward(found: dict[str, set[str]]) -> list[str]:
    """Return every import that leads up, or across a floor."""
    wrong = []
    for module, targets in found.items():
        for target in sorted(targets):
            here, there = folder(module), folder(target)
            if here == there or target == "antidote" or (module, target) in EXCEPT:
                continue
            if FLOOR[there] >= FLOOR[here]:
                wrong.append(f"{module} imports {target}")
    return wrong


def circle(found: dict[str, set[str]]) -> list[str]:
    """Return a circle of modules, or nothing."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        way = next((way for target in sorted(found.get(module, ())) if (way := visit(target, [*path, module]))), [])
        done.add(module)
        return way

    return next((way for module in found if (way := visit(module, []))), [])


def test_every_folder_has_a_floor():
    assert {folder(module) for module in modules()} - {"antidote"} == set(FLOOR)


def test_no_import_leads_up_or_across():
    assert upward(arrows()) == []


def test_no_circle():
    assert circle(arrows()) == []


def test_what_the_tests_above_would_find():
    assert upward({"antidote.base.x": {"antidote.data.y"}, "antidote.attacks.a": {"antidote.defenses.d"}}) == [
        "antidote.base.x imports antidote.data.y", "antidote.attacks.a imports antidote.defenses.d",
    ]  # fmt: skip
    assert upward({"scripts.x": {"antidote.data.y"}, "antidote.summary.a": {"antidote.study.layout"}}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    tree = ast.parse("def f():\n    from antidote.data import pools\nimport antidote.base.files\n")
    known = dict.fromkeys(["antidote.data", "antidote.data.pools", "antidote.base.files"], tree)
    assert set(imports(tree, known)) == {"antidote.data.pools", "antidote.base.files"}


def test_modules_are_short():
    parts = ("antidote", "benchmarks", "scripts", "tests")
    files = [path for part in parts for path in (ROOT / part).rglob("*.py")]
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in long.items() if lines > LIMIT} == {}


def test_data_is_found_in_one_place():
    """A wheel has its data elsewhere than a checkout; `antidote.base.files.DATA` knows where."""
    files = [*(ROOT / "antidote").rglob("*.py")]
    found = [path.name for path in files if 'parents[2] / "data"' in path.read_text()]
    assert found == ["files.py"]

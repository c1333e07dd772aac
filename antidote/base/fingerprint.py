"""Fingerprint of source code: all code that a job can reach through imports, without comments and docstrings.

Snakemake sees neither the modules that a script imports nor the difference between a comment and a formula. Each rule
passes this fingerprint as a parameter: a changed loss reruns only the jobs that can reach the loss, and a fresh
checkout reruns nothing.

Parsing the sources takes about a second. `remember` keeps results in a file, by the content of the sources.
"""

import ast
import atexit
import contextlib
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# These modules cannot affect results, so they are not part of the fingerprint: messages, command line, choice of GPU,
# threads, downloads, cache. The registry lists all methods; a rule names the methods that its job uses.
NOT_FOLLOWED = frozenset(
    f"antidote.base.{name}"
    for name in (
        "allocation",
        "registry",
        "errors",
        "command_line",
        "devices",
        "environment",
        "fingerprint",
        "locks",
        "network",
        "cache",
        "terminal",
    )
)


_memory: dict[str, Any] = {}  # results by the hash of what they depend on
_used: set[str] = set()  # keys that this process has asked for
_covered: set[str] = set()  # modules that fingerprints of this process cover
MOST = 5000  # results in the file; beyond, only those of the last process are kept


def remember(file: Path) -> None:
    """Read results of earlier processes from `file`, and write those of this process there when it ends.

    A result counts only for the same content of the sources and of this module. A file that cannot be read or written
    costs time and changes no fingerprint.
    """
    known = _recall(file)
    atexit.register(lambda: None if _used <= known else _save(file))


def remembered(file: Path, *modules: str) -> str:
    """Return `fingerprint(*modules)`, read from `file` or written there at once, if the folder of `file` exists."""
    known = _recall(file)
    found = fingerprint(*modules)
    if not _used <= known and file.parent.is_dir():
        _save(file)
    return found


def _recall(file: Path) -> set[str]:
    """Read results of earlier processes; return the keys of all known results."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text(encoding="utf-8"))
        _memory.update(found if isinstance(found, dict) else {})
    return set(_memory)


def _save(file: Path) -> None:
    kept = _memory if len(_memory) <= MOST else {key: _memory[key] for key in _used}
    own = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(json.dumps(kept), encoding="utf-8")
        own.replace(file)


def _remembered(compute: Callable[[], Any], *depends: str) -> Any:
    """Return the result of `compute`, which may depend on nothing but `depends` and this module."""
    key = hashlib.sha256("\x1f".join([_rules(), *depends]).encode()).hexdigest()
    _used.add(key)
    if key not in _memory:
        _memory[key] = compute()
    return _memory[key]


@cache
def _rules() -> str:
    """Return the hash of this module and the version of Python, whose parser it uses."""
    return f"{sys.version}{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}"


@cache
def fingerprint(*modules: str) -> str:
    """Return 16 hex digits that change when the code of a named module, or of a project module it imports, changes."""
    names = sorted(reachable(*modules))
    _covered.update(names)
    return _remembered(lambda: _digest(names), "fingerprint", *(f"{name}={_content(name)}" for name in names))


def edited(since: float) -> bool:
    """Return whether a source that a fingerprint of this process covers was changed or removed after a moment.

    A job loads its code when it starts. A fingerprint that the job makes later is that of the code on disk, and is the
    loaded code's only if no source has changed since.

    Args:
        since: seconds since 1970.
    """
    files = [_file(name) for name in _covered]
    return None in files or any(_changed(part) > since for file in files for part in (file, *_templates(file)))


def _changed(file: Path) -> float:
    """Return when a file was last written or put in its place, in seconds since 1970; infinite if there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return math.inf
    return max(found.st_mtime, found.st_ctime)  # a file that is moved here keeps the time of its last edit


def _digest(modules: list[str]) -> str:
    digest = hashlib.sha256()
    for module in modules:
        digest.update(f"{module}\x1f{_meaning(module)}\x1e".encode())
    return digest.hexdigest()[:16]


@cache
def reachable(*modules: str) -> frozenset[str]:
    """Return the project modules that `modules` reach through imports, `modules` included."""
    reached: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in reached or module in NOT_FOLLOWED or _file(module) is None:
            continue
        reached.add(module)
        waiting.extend(_remembered(lambda name=module: sorted(_imports(name)), "imports", module, _content(module)))
    return frozenset(reached)


@cache
def _file(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _content(module: str) -> str:
    """Return the hash of all that `_imports` and `_meaning` read of a module."""
    file = _file(module)
    digest = hashlib.sha256(file.name.encode())
    for part in (file, *_templates(file)):
        digest.update(hashlib.sha256(part.read_bytes()).digest())
    return digest.hexdigest()


def _templates(file: Path) -> list[Path]:
    """Return the page templates that count as a part of a package."""
    return sorted(file.parent.glob("*.j2")) if file.name == "__init__.py" else []


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"), filename=module)


@cache
def _imports(module: str) -> frozenset[str]:
    names = {module.rpartition(".")[0]}
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(module, node)
            names.add(source)
            names.update(f"{source}.{alias.name}" for alias in node.names)
    parents = {name.rpartition(".")[0] for name in names}
    return frozenset(name for name in names | parents if name.split(".")[0] in ("antidote", "scripts"))


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """Return the full name of the module that an import names, relative imports resolved against `module`."""
    if not node.level:
        return node.module or ""
    package = module if _file(module).name == "__init__.py" else module.rpartition(".")[0]
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*above, *filter(None, [node.module])])


@cache
def _meaning(module: str) -> str:
    """Return a module's code in canonical form; for a package, with the page templates in its folder."""
    file = _file(module)
    texts = [template.read_text(encoding="utf-8") for template in _templates(file)]
    return repr([_canonical(_tree(module)), *texts])


def _canonical(node: object) -> object:
    """Return a syntax tree as nested tuples, without positions, docs and fields that differ between Python versions."""
    if isinstance(node, list):
        return tuple(_canonical(item) for item in node)
    if not isinstance(node, ast.AST):
        return node
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    fields.pop("type_comment", None)
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Field":  # descriptions are documentation
        fields["keywords"] = [keyword for keyword in node.keywords if keyword.arg != "description"]
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
        fields["body"] = fields["body"][1:]
    return (type(node).__name__, *((name, _canonical(value)) for name, value in fields.items()))

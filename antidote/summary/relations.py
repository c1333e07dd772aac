"""Relations of figures, such as `asr1(attack=badclip, defense=ta_cleaner) < asr1(attack=badclip) - 10`.

    relation    sum ("<" | "<=" | ">" | ">=") sum
    sum         ["-"] part (("+" | "-") part)*
    part        number | figure "(" [condition ("," condition)*] ")"
    condition   key ("=" | "!=") word

Numbers and rates are in percentage points. Keys: `attack`, `defense`, `detector` (names of methods; `attack=*` is the
mean over all attacks of a study), `adaptation`, and a setting of an entry, as in `attack.surrogate!=clean`. Without a
defense, a term is of the undefended model; without an attack, of the clean one. `asr1_NAME`, `asr_g_NAME`,
`ca1_NAME` and `floor_NAME` are of a further evaluation set or view, `delta_control` is of the control. Nothing is
evaluated as code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from antidote.base.errors import UserError, nearest
from antidote.base.registry import ATTACKS, DEFENSES, DETECTORS, method
from antidote.base.settings import Settings
from antidote.study.layout import NO_DEFENSE

CELLS = ("ca1", "ca5", "asr1", "asr3", "asr5", "asr10", "asr1_all", "asr3_all", "asr5_all", "asr10_all", "pa", "pa_all")
OTHERS = ("floor", "target_ca1", "hit1", "hit5", "hit10")
VISIBLE = {"psnr": 1, "ssim": 3}  # dB, and up to 1: not in percent; with their decimals
DETECTED = ("auroc", "auprc", "tpr_at_fpr1", "fpr_at_tpr1", "precision", "recall")
PERSISTED = ("delivered", "worst", "delta", "area")
CONTROLS = tuple(f"{name}_control" for name in PERSISTED)  # of the clean model under the same defense
FIGURES = (*CELLS, *OTHERS, *VISIBLE, *DETECTED, *PERSISTED, *CONTROLS)
# Of a further evaluation set, or of an attack's own view.
FURTHER = re.compile(r"(asr1|asr_g|ca1|floor)_(?!resistance$)[a-z]\w*")
METHODS = {"attack": ATTACKS, "defense": DEFENSES, "detector": DETECTORS}
KEYS = (*METHODS, "adaptation")
TOKEN = re.compile(r"\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<word>[A-Za-z_][\w.-]*)|(?P<mark><=|>=|!=|[<>=+\-(),*]))")


def is_rate(name: str) -> bool:
    """Return whether a figure is a fraction from 0 to 1 wherever it is kept."""
    return name in (*CELLS, *OTHERS, *DETECTED) or FURTHER.fullmatch(name) is not None


@dataclass(frozen=True)
class Condition:
    """One requirement of a term, `key = word` or `key != word`."""

    key: str
    word: str
    equal: bool = True


@dataclass(frozen=True)
class Term:
    """A figure with its sign; without a figure, a constant in percentage points."""

    sign: int
    figure: str = ""
    conditions: tuple[Condition, ...] = ()
    constant: float = 0.0

    @property
    def defense(self) -> str:
        """Return the defense's method, `none` without a defense."""
        return self.word("defense") or NO_DEFENSE

    def word(self, key: str) -> str | None:
        """Return the word that a key has to equal; None without one."""
        return next((c.word for c in self.conditions if c.key == key and c.equal), None)


@dataclass(frozen=True)
class Relation:
    """`left` minus `right` as a sum of terms, compared with 0."""

    text: str
    terms: tuple[Term, ...]
    mark: str


def parse(text: str, where: str, further: Collection[str] | None = None) -> Relation:
    """Return a relation.

    Args:
        further: names of the figures of further evaluation sets and views; None: any such name is accepted.

    Raises:
        UserError: the text is no relation, or names an unknown figure, key or method; the line begins with `where`.
    """
    tokens = _Tokens(text, where, further)
    left = _sum(tokens)
    mark = tokens.take("<", "<=", ">", ">=")
    right = _sum(tokens)
    if tokens.next is not None:
        tokens.fail("the end")
    if not any(term.figure for term in (*left, *right)):
        raise UserError(f"{where}: {text!r}: names no figure")
    return Relation(text, (*left, *(Term(-t.sign, t.figure, t.conditions, t.constant) for t in right)), mark)


class _Tokens:
    """The tokens of a relation, one after another."""

    def __init__(self, text: str, where: str, further: Collection[str] | None) -> None:
        self.further = further
        self.where, self.text, self.found, place = where, text, [], 0
        while text[place:].strip():
            match = TOKEN.match(text, place)
            if match is None:
                raise UserError(f"{where}: {text!r}: cannot be read at {text[place:].strip()[:12]!r}")
            self.found.append((match.lastgroup, match.group(match.lastgroup)))
            place = match.end()

    @property
    def next(self) -> str | None:
        return self.found[0][1] if self.found else None

    def take(self, *words: str, kind: str | None = None) -> str:
        """Return the next token, one of `words` or of the kind."""
        if not self.found or not (self.found[0][1] in words or self.found[0][0] == kind):
            self.fail(" or ".join(filter(None, [*map(repr, words), kind])))
        return self.found.pop(0)[1]

    def fail(self, expected: str) -> None:
        found = "the end" if self.next is None else repr(self.next)
        raise UserError(f"{self.where}: {self.text!r}: {expected} is expected in the place of {found}")

    def known(self, word: str, words: Iterable[str], what: str) -> str:
        if word not in words:
            raise UserError(f"{self.where}: {self.text!r}: unknown {what} {word!r}{nearest(word, words)}")
        return word


def _sum(tokens: _Tokens) -> list[Term]:
    sign = -1 if tokens.next == "-" else 1
    if sign < 0:
        tokens.take("-")
    terms = [_part(tokens, sign)]
    while tokens.next in ("+", "-"):
        terms.append(_part(tokens, 1 if tokens.take("+", "-") == "+" else -1))
    return terms


def _part(tokens: _Tokens, sign: int) -> Term:
    if tokens.found and tokens.found[0][0] == "number":
        return Term(sign, constant=float(tokens.take(kind="number")))
    figure = tokens.take(kind="word")
    if not FURTHER.fullmatch(figure) or tokens.further is not None:
        tokens.known(figure, {*FIGURES, *filter(FURTHER.fullmatch, tokens.further or ())}, "figure")
    tokens.take("(")
    conditions: list[Condition] = []
    while tokens.next != ")":
        if conditions:
            tokens.take(",")
        conditions.append(_condition(tokens))
    tokens.take(")")
    _fit(tokens, figure, conditions)
    return Term(sign, figure, tuple(conditions))


def _fit(tokens: _Tokens, figure: str, conditions: list[Condition]) -> None:
    """Refuse conditions that could not count."""

    def refuse(why: str) -> None:
        raise UserError(f"{tokens.where}: {tokens.text!r}: {why}")

    keys = [condition.key for condition in conditions]
    for condition in conditions:
        key, _, setting = condition.key.partition(".")
        if not setting and not condition.equal:
            refuse(f"{key} should be given by =, not by !=")
        if not setting and keys.count(key) > 1:
            refuse(f"{key} is given twice")
        if setting and key not in keys:
            refuse(f"{condition.key} needs {key}= beside it")
        if setting:
            _fit_setting(tokens, condition, next(c.word for c in conditions if c.key == key))
    if "detector" in keys and figure not in DETECTED:
        refuse(f"{figure} has no detector")
    if "detector" not in keys and figure in DETECTED:
        refuse(f"{figure} needs detector= in its brackets")
    if "adaptation" in keys and figure not in (*PERSISTED, *CONTROLS):
        refuse(f"{figure} has no adaptation")


def _fit_setting(tokens: _Tokens, condition: Condition, named: str) -> None:
    """Refuse a setting that no method of the term has, and a value that none of these methods can have there."""
    key, _, setting = condition.key.partition(".")
    names = METHODS[key] if named == "*" else [named]
    kinds = [method(key, name).Settings for name in names]
    tokens.known(setting, {field for kind in kinds for field in kind.model_fields}, f"setting of {key}={named}")
    values = [_values(kind, setting) for kind in kinds if setting in kind.model_fields]
    if None not in values:
        tokens.known(condition.word, set().union(*values), f"value of {condition.key}")


def _values(kind: type[Settings], setting: str) -> set[str] | None:
    """Return what a setting can be, as text; None for an open setting."""
    if setting == "preset" and hasattr(kind, "presets"):
        return {*kind.presets, str(None)}
    return _choices(kind.model_fields[setting].annotation)


def _choices(annotation: Any) -> set[str] | None:
    """Return the values of a type as text; None if there is no list of them."""
    if annotation is bool:
        return {str(True), str(False)}
    if annotation in (None, NoneType):
        return {str(None)}
    if get_origin(annotation) is Literal:
        return {str(value) for value in get_args(annotation)}
    if get_origin(annotation) in (Union, UnionType):
        parts = [_choices(part) for part in get_args(annotation)]
        return None if None in parts else set().union(*parts)
    return None


def _condition(tokens: _Tokens) -> Condition:
    key = tokens.take(kind="word")
    tokens.known(key.partition(".")[0], METHODS if "." in key else KEYS, "key")
    equal = tokens.take("=", "!=") == "="
    word = tokens.take(
        "*", *([str(tokens.next)] if tokens.found and tokens.found[0][0] == "number" else []), kind="word"
    )
    if key in METHODS and word != "*":
        tokens.known(word, METHODS[key], f"{key} method")
    return Condition(key, word, equal)

"""The base of all settings classes: typed, frozen, unknown keys rejected."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from antidote.base.errors import UserError, one_line, put_in_quotes

T = TypeVar("T", bound="Settings")


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    if not 0 < low <= high <= 1:
        raise ValueError(f"should be two fractions, 0 < lowest <= highest <= 1, not [{low:g}, {high:g}]")
    return span


def named(value: Any) -> Any:
    """Return the value of a setting that names something.

    Raises:
        ValueError: an empty text, which would mean the default in one place and a file without a name in another.
    """
    if value == "":
        raise ValueError("is an empty text; give a name or a path, or leave the key out")
    return value


# Name of a model, a file or a pool; JSON Schema states the length, the validator words the error.
Name = Annotated[str, Field(min_length=1), BeforeValidator(named)]
Span = Annotated[tuple[float, float], AfterValidator(_ordered)]  # lowest and highest value of a share, fractions
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # range accepted by torch, numpy and an int64 column


class Settings(BaseModel):
    """A group of settings. Every number has a default; the description gives its unit and source.

    Example:
        class Recipe(Settings):
            lr: float = Field(1e-6, gt=0, description="peak learning rate of AdamW (CleanCLIP: 0.000001)")

        recipe = Recipe.read({"lr": 1e-5}, "config.yaml: poisoning")
        recipe.slice()  # '{"lr":1e-05}'
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **rest: Any) -> None:
        """Refuse a key that hides an attribute of a base class: the annotation of the attribute made it one."""
        super().__pydantic_init_subclass__(**rest)
        for base in reversed(cls.__mro__[1:]):
            for name in sorted(cls.model_fields.keys() & getattr(base, "__class_vars__", set())):
                raise UserError(
                    f"{cls.__module__}.{cls.__qualname__}.{name}: is an attribute of {base.__qualname__} and no key; "
                    f"set it without an annotation, or as `{name}: ClassVar`"
                )

    @model_validator(mode="before")
    @classmethod
    def _fill_groups(cls, values: Any) -> Any:
        """Fill in the keys missing from a given group with the defaults that this class sets for the group."""
        if not isinstance(values, Mapping):
            return values
        defaults = {name: field.default for name, field in cls.model_fields.items() if name in values}
        groups = {
            name: {**default.model_dump(), **values[name]}
            for name, default in defaults.items()
            if isinstance(default, Settings) and isinstance(values[name], Mapping)
        }
        return {**values, **groups}

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject `yes` and `true` for a number; pydantic would convert them to 1."""
        if _holds_truth(value) and _numbers_alone(cls.model_fields[info.field_name].annotation):
            raise ValueError(f"should be a number, not {value!r}")
        return value

    @classmethod
    def read(cls: type[T], values: Mapping[str, Any], where: str) -> T:
        """Validate `values`.

        Raises:
            UserError: one line that begins with `where` (a file or an entry) and names the key.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(one_line(error, where, cls)) from None

    def slice(self) -> str:
        """Return the settings with defaults as canonical JSON: part of a job's identity, and a script's argument."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def _holds_truth(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_truth, value.values()))
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_truth, value)))


def _numbers_alone(annotation: Any) -> bool:
    """Return whether a setting accepts numbers, alone or in lists, and no truth values."""
    kinds = _kinds(annotation)
    return bool(kinds & {int, float}) and kinds <= {int, float, str, type(None), Literal}


def _kinds(annotation: Any) -> set[Any]:
    """Return the classes in a type annotation; `Literal` represents all literal words."""
    if get_origin(annotation) is Literal:
        return {Literal}
    inner = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return set().union(*map(_kinds, inner)) if inner else {annotation}


def read_text_mapping(path: str) -> dict[str, str]:
    """Read a mapping whose values are all text.

    Raises:
        UserError: as `read_mapping`, or a value is not text.
    """
    values = read_mapping(path)
    for key, value in values.items():
        if not isinstance(value, str):
            raise UserError(f"{path}: {key}: should be text, not {value!r}{put_in_quotes(value)}")
    return values


def read_mapping(text_or_path: str) -> dict[str, Any]:
    """Read a mapping given as JSON text or as the path of a JSON or YAML file.

    Raises:
        UserError: the file is missing or invalid, repeats a key, or does not hold a mapping.
    """
    if text_or_path.lstrip().startswith("{"):
        name, text = "settings", text_or_path
    else:
        name = text_or_path
        try:
            text = Path(text_or_path).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise UserError(f"{name}: is not a text file") from None
    try:
        # The rules pass canonical JSON. YAML would parse some JSON escapes differently.
        values = _from_json(text) if name == "settings" else None
        if values is None:
            values = yaml.load(text, UniqueKeys)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = ", ".join(filter(None, [error.context, error.problem]))
        raise UserError(f"{name}{place}: not valid YAML or JSON ({reason})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML or JSON ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        held = "nothing" if values is None else type(values).__name__
        raise UserError(f"{name}: should hold keys and values, holds {held}")
    _check_loops(values, name)
    return values


def _check_loops(values: Any, name: str) -> None:
    """Refuse a mapping or list that an alias puts into itself, which has no end."""
    open_, closed = set(), set()  # of the nodes by identity: those around the present one, and those without a loop

    def visit(value: Any) -> None:
        if not isinstance(value, dict | list) or id(value) in closed:
            return
        if id(value) in open_:
            raise UserError(f"{name}: an alias (*NAME) stands within what it refers to; write out its content")
        open_.add(id(value))
        for one in value.values() if isinstance(value, dict) else value:
            visit(one)
        open_.remove(id(value))
        closed.add(id(value))

    visit(values)


def _from_json(text: str) -> Any:
    """Return what a JSON text holds; None for other text, and for one that repeats a key, which YAML then refuses."""
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except ValueError:
        return None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands there twice")
    return values


KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


class UniqueKeys(yaml.SafeLoader):
    """Rejects repeated keys and keys that are not text, such as `on`, `no` and 2024.

    YAML's own loaders silently keep only the last of repeated keys.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag not in KEYS:
                hint = f"the key {key.value!r} is no text in YAML; put it in quotes"
                raise yaml.constructor.ConstructorError(None, None, hint, key.start_mark)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)

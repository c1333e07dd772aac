"""The base of every settings class: typed, frozen, unknown keys refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from antidote.base.errors import UserError, one_line

T = TypeVar("T", bound="Settings")


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    if not 0 < low <= high <= 1:
        raise ValueError(f"should be two fractions, 0 < lowest <= highest <= 1, not [{low:g}, {high:g}]")
    return span


Span = Annotated[tuple[float, float], AfterValidator(_ordered)]  # from the lowest to the highest of a share


class Settings(BaseModel):
    """A group of settings. Every number has a default, a unit and a source, in its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _fill_groups(cls, values: Any) -> Any:
        """Where some keys of a group are given, the others keep the defaults that this class sets for the group."""
        if not isinstance(values, Mapping):
            return values
        defaults = {name: field.default for name, field in cls.model_fields.items() if name in values}
        groups = {
            name: {**default.model_dump(), **values[name]}
            for name, default in defaults.items()
            if isinstance(default, Settings) and isinstance(values[name], Mapping)
        }
        return {**values, **groups}

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
        """Return the settings, defaults filled in, as canonical JSON: a job's identity and a script's argument."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def read_mapping(text_or_path: str) -> dict[str, Any]:
    """Read a mapping given as JSON text or as the path of a JSON or YAML file.

    Raises:
        UserError: the file is missing, is not valid, names a key twice, or holds no mapping.
    """
    if text_or_path.lstrip().startswith("{"):
        name, text = "settings", text_or_path
    else:
        name = text_or_path
        try:
            text = Path(text_or_path).read_text()
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise UserError(f"{name}: is not a text file") from None
    try:
        # What the rules pass is canonical JSON, whose escapes YAML reads otherwise.
        values = _from_json(text) if name == "settings" else None
        if values is None:
            values = yaml.load(text, _UniqueKeys)
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
    return values


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping; YAML's own readers silently drop all but the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)

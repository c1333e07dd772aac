"""The base of every settings class: typed, frozen, unknown keys refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from antidote.errors import UserError, one_line

T = TypeVar("T", bound="Settings")


class Settings(BaseModel):
    """A group of settings. Every number has a default, a unit and a source, in its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

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
        UserError: the file is missing, is not valid, or holds no mapping.
    """
    if text_or_path.lstrip().startswith("{"):
        name, text = "settings", text_or_path
    else:
        name = text_or_path
        try:
            text = Path(text_or_path).read_text()
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror})") from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML or JSON ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{name}: should hold keys and values, not {type(values).__name__}")
    return values

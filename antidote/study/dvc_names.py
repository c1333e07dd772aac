"""Names in dvc.yaml: DVC allows no dot, so names of this project are written with - for it."""

from __future__ import annotations

from typing import Any

from antidote.base.errors import UserError


def dvc_name(name: str) -> str:
    """Return the name of a model, by its folder, or of a study's stage in dvc.yaml."""
    return name.replace(".", "-")


def check_dvc_names(study: Any) -> None:
    """Raise UserError if two attacks or two defenses differ only in . and -: one model would replace the other."""
    for kind, names in (("attacks", study.attacks), ("defenses", study.defenses)):
        taken: dict[str, str] = {}
        for name in names:
            first = taken.setdefault(dvc_name(name), name)
            if first != name:
                raise UserError(
                    f"{study.where}: {kind}: {first!r} and {name!r} are both {dvc_name(name)!r} in dvc.yaml, which has "
                    "- for .; rename one of them"
                )

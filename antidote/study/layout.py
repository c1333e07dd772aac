"""Where results are kept: folders, file names, reserved words."""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
RESERVED = {"clean", "surrogates", "summary", "logs", "benchmarks", "model", "trigger", "poison", "floor", "work"}

"""The kind of the processor: floating-point sums round differently on each kind, so that trained weights differ."""

import platform
import sys
from functools import cache
from pathlib import Path

FACTS = Path("/proc/cpuinfo")  # Linux
NUMBERS = {"cpu family": "family", "model": "model", "CPU implementer": "implementer", "CPU part": "part"}  # x86, ARM


def processor() -> str:
    """Return the processor's name, its family and model where known, and the instructions that a loaded torch uses.

    Virtual machines often hide the name, not the numbers: `AMD EPYC (family 25, model 17), AVX512`.
    """
    facts = _facts()
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{word} {facts[key]}" for key, word in NUMBERS.items() if key in facts]
    if numbers:
        name += f" ({', '.join(numbers)})"
    torch = sys.modules.get("torch")
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}" if torch else name


@cache
def _facts() -> dict[str, str]:
    """Return the first processor's entries; empty on other systems than Linux."""
    try:
        first = FACTS.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines if value.strip()}

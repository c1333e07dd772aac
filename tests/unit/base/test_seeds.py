"""Derived seeds: the same everywhere, different for every part."""

import subprocess
import sys

from antidote.base.seeds import derive


def test_the_same_on_every_machine_and_in_every_process():
    """A changed number here would change every result there is."""
    assert derive(0, "order", 3) == 2243224229351528686
    code = "from antidote.base.seeds import derive; print(derive(0, 'order', 3))"
    for hash_seed in ("0", "1"):
        found = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
        )
        assert int(found.stdout) == derive(0, "order", 3)


def test_every_part_counts_and_parts_do_not_run_together():
    seeds = [
        derive(*parts) for parts in ((1, "a"), (1, "b"), (2, "a"), (1, "a", ""), ("1a",), (12, 3), (1, 23), (123,))
    ]
    assert len(set(seeds)) == len(seeds)
    assert derive("a", "b") != derive("b", "a")


def test_seeds_suit_every_generator():
    """torch takes 63 bits; all of them are used."""
    seeds = [derive(0, number) for number in range(2000)]
    assert all(0 <= seed < 2**63 for seed in seeds) and len(set(seeds)) == 2000
    assert max(seeds) > 2**62 and min(seeds) < 2**55

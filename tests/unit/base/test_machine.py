"""The name of the processor in costs and results files."""

import platform

import pytest

from antidote.base import machine

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC

processor\t: 1
model name\t: another
"""


@pytest.fixture(autouse=True)
def _nothing_remembered():
    machine._facts.cache_clear()
    yield
    machine._facts.cache_clear()


def test_a_hidden_name_is_told_apart_by_its_numbers(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    monkeypatch.setattr(machine, "FACTS", tmp_path / "cpuinfo")
    assert machine.processor().startswith("AMD EPYC (family 25, model 17)")


def test_kinds_of_arm_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n")
    monkeypatch.setattr(machine, "FACTS", tmp_path / "cpuinfo")
    assert "(implementer 0x41, part 0xd0c)" in machine.processor()


def test_without_entries_the_platform_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "FACTS", tmp_path / "missing")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert machine.processor().startswith(platform.machine())


def test_the_instructions_that_torch_chose_are_named():
    import torch

    assert machine.processor().endswith(torch.backends.cpu.get_cpu_capability())

"""The registry: every line names a class of that kind and name; a wrong name is told with the nearest one."""

import re
from typing import ClassVar

import pytest

from antidote.attacks.base import Attack, AttackSettings
from antidote.base import registry
from antidote.base.errors import UserError
from antidote.base.fingerprint import reachable
from antidote.defenses.base import Defense, DefenseSettings
from antidote.detectors.base import Detector
from antidote.evaluation.base import ScoredSet
from antidote.training.objectives import Objective

BASES = {"attack": (Attack, AttackSettings), "defense": (Defense, DefenseSettings)}
LINES = [(kind, name) for kind, table in registry.KINDS.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), LINES)
def test_every_line_names_a_class(kind, name):
    found = registry.method(kind, name)
    assert found.__module__ == registry.module(kind, name)
    if kind in BASES:
        assert found.__doc__
        method, settings = BASES[kind]
        assert issubclass(found, method) and issubclass(found.Settings, settings)
        assert found.Settings.model_fields["method"].default == name
        assert found.Settings.__module__ == found.__module__, "settings stand beside their method"


@pytest.mark.parametrize(("kind", "name"), LINES)
def test_a_methods_source_is_part_of_its_identity(kind, name):
    """And no job reaches another method's by way of the registry."""
    assert registry.module(kind, name) in reachable(registry.module(kind, name))


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [("attack", "badnett", "did you mean 'badnet'?"), ("defense", "clenclip", "did you mean 'cleanclip'?"),
     ("defense", "", "known: "), ("source", "scene", "did you mean 'scenes'?")],
)  # fmt: skip
def test_a_wrong_name_is_told(kind, name, hint):
    with pytest.raises(UserError) as error:
        registry.method(kind, name)
    assert str(error.value).startswith(f"unknown {kind} method {name!r}; {hint}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("base", "attribute", "value", "told"),
    [
        (Defense, "access", "clean-pair", "'clean-pair'; did you mean 'clean-pairs'?"),
        (Detector, "subject", "pictrues", "'pictrues'; did you mean 'pictures'?"),
        (Detector, "access", ("test-time",), "('test-time',); known: nothing, clean-pairs, few-labelled, "),
        (Attack, "threat_model", "poison", "'poison'; did you mean 'data-poisoning'?"),
        (Objective, "parallel", "row", "'row'; did you mean 'rows'?"),
        (Detector, "subject", None, "None; known: model, pairs, pictures"),
    ],
)
def test_a_wrong_attribute_of_a_method_is_told_when_its_module_is_imported(base, attribute, value, told):
    with pytest.raises(UserError, match=re.escape(f".Mine.{attribute}: unknown value {told}")) as error:
        type("Mine", (base,), {attribute: value})
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Field name")
def test_an_annotation_does_not_make_a_key_of_an_attribute():
    """`held_out: bool = False` in a measure looked right, and was a setting that nobody read."""
    with pytest.raises(UserError, match=r"Mine\.held_out: is an attribute of ScoredSet and no key; set it without an"):

        class Mine(ScoredSet):
            held_out: bool = False

    class Right(ScoredSet):
        held_out: ClassVar = False

    assert Right.held_out is False and "held_out" not in Right.model_fields

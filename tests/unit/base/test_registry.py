"""The registry: every line names a class of that kind and name; a wrong name is told with the nearest one."""

import pytest

from antidote.attacks.base import Attack, AttackSettings
from antidote.base import registry
from antidote.base.errors import UserError
from antidote.base.fingerprint import reachable
from antidote.defenses.base import Defense, DefenseSettings

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

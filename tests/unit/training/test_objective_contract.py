"""Every objective of the code base keeps the contract of `Objective`, wherever it is defined."""

import ast
import importlib
import inspect
import pkgutil
import textwrap

import pytest

import antidote
from antidote.base.registry import DEFENSES, method, module
from antidote.training.objectives import Objective


def _subclasses(kind):
    return [kind, *(deeper for sub in kind.__subclasses__() for deeper in _subclasses(sub))]


for found in pkgutil.walk_packages(antidote.__path__, "antidote."):
    if found.name.split(".")[1] in ("training", "attacks", "defenses", "detectors", "evaluation"):
        importlib.import_module(found.name)
OBJECTIVES = sorted(
    {kind for kind in _subclasses(Objective) if kind.__module__.startswith("antidote.")}, key=lambda kind: kind.__name__
)
EVERY = pytest.mark.parametrize("kind", OBJECTIVES, ids=lambda kind: kind.__name__)


def set_on_self(function):
    """Return the attributes of `self` that a method assigns, as text."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    targets = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return [ast.unparse(target) for target in targets if ast.unparse(target).startswith("self.")]


def unstated(kind):
    """Tell whether a class has views or a loss of its own, and leaves open how several processes share a batch."""
    return bool({"views", "loss"} & vars(kind).keys()) and "parallel" not in vars(kind)


def test_all_objectives_are_found():
    assert {"Contrastive", "Alternating", "EncoderBackdoor", "PerturbAndRecover", "Watched"} <= {
        kind.__name__ for kind in OBJECTIVES
    }


@EVERY
def test_views_hand_on_what_the_loss_needs(kind):
    """An attribute set in `views` and read in `loss` is lost where one of them is called alone, or for another batch."""
    assert set_on_self(kind.views) == []


@EVERY
def test_one_with_views_or_a_loss_of_its_own_states_how_it_shares_batches(kind):
    assert kind.parallel in ("rows", "views", None) and not unstated(kind)


@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_trains_in_several_processes_where_its_objectives_do(name):
    code = importlib.import_module(module("defense", name))
    known = {value for value in vars(code).values() if inspect.isclass(value) and issubclass(value, Objective)}
    used = {kind for kind in known if kind.__module__ == code.__name__} or known - {Objective}
    assert method("defense", name).parallel == (bool(used) and all(kind.parallel for kind in used))


def test_these_tests_can_fail():
    class Wrong(Objective):
        def views(self, batch):
            self.before = batch.images
            return super().views(batch)

    assert set_on_self(Wrong.views) == ["self.before"] and unstated(Wrong)

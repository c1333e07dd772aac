"""What every measure looks at: a model, the attack on it, and the classes that pictures are classified into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from antidote.attacks.trigger import Trigger, load_trigger
from antidote.base.errors import UserError, nearest
from antidote.base.lazy import torch
from antidote.clip.folder import load_model
from antidote.clip.model import Clip
from antidote.data.words.names import class_names, templates

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Subject:
    """A model under test. Usage:

        subject = Subject(clip, trigger, 2, ["banana", "boat", "cup"], ["a photo of a {}."])
        scores = evaluate(subject, pictures, settings)

    Attributes:
        clip: the model. Its class weights are computed once: after a training step the model is another subject.
        trigger: the attack; None: clean figures alone.
        target: index of the attack's class among `classes`.
        classes: names of the C classes.
        templates: prompts with a gap for the name of a class.
    """

    clip: Clip
    trigger: Trigger | None
    target: int
    classes: Sequence[str]
    templates: Sequence[str]

    @property
    def drawn(self) -> Trigger | None:
        """Return the trigger if the attack has one to draw on pictures."""
        return self.trigger if self.trigger is not None and self.trigger.attack.triggered else None

    @property
    def keyed_templates(self) -> list[str]:
        """Return the prompts for triggered pictures, which open with the attack's text key if there is one."""
        key = self.trigger.attack.text_key if self.trigger is not None else ""
        return [f"{key} {text}" if key else text for text in self.templates]

    @property
    def texts(self) -> list[str]:
        """Return every text that the class weights are computed from."""
        prompts = dict.fromkeys([*self.templates, *self.keyed_templates])
        return [prompt.format(name) for prompt in prompts for name in self.classes]

    @cached_property
    def weights(self) -> Tensor:
        """Zero-shot class weights (D, C) for clean pictures."""
        return self._weights(self.templates)

    @cached_property
    def keyed_weights(self) -> Tensor:
        """Zero-shot class weights (D, C) for triggered pictures: those of prompts with the text key, if any."""
        keyed = self.keyed_templates
        return self.weights if keyed == list(self.templates) else self._weights(keyed)

    def _weights(self, prompts: Sequence[str]) -> Tensor:
        with torch.no_grad():
            self.clip.network.eval()
            return self.clip.class_embeddings(self.classes, prompts)


def load_subject(model: Path, trigger: Path | None, target: str, classes: str, prompts: str) -> Subject:
    """Read a subject from a model folder and, for attacks, a trigger folder.

    Args:
        target: name of the attack's class.
        classes, prompts: names of the lists in data/classes and data/templates.

    Raises:
        UserError: a file is missing or damaged; the target is no class; the trigger does not fit.
    """
    clip = load_model(model)
    attack = load_trigger(trigger) if trigger else None
    names = class_names(classes)
    place = target_index(target, names, classes)
    check_trigger(attack, clip.size, trigger, target)
    return Subject(clip, attack, place, names, templates(prompts))


def target_index(target: str, classes: Sequence[str], named: str) -> int:
    """Return the index of the target among the classes.

    Raises:
        UserError: the target is not among them; the message calls the list `named`.
    """
    if target not in classes:
        raise UserError(f"--target: {target!r} is not a class of {named}{nearest(target, classes)}")
    return classes.index(target)


def check_trigger(trigger: Trigger | None, size: int, folder: Path | None, target: str) -> None:
    """Check that a trigger from `folder` is made for pictures of `size` pixels and for the target.

    Raises:
        UserError: the trigger is made for another size or another target.
    """
    if trigger is None:
        return
    if trigger.attack.size != size:
        raise UserError(f"{folder}: made for pictures of {trigger.attack.size} pixels, the model reads {size}")
    if trigger.attack.target != target:
        raise UserError(f"{folder}: aims at {trigger.attack.target!r}, not at {target!r}")

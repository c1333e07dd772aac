"""Settings of the user under a few-shot attack, who trains on the attacked support set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from antidote.base.settings import Settings


class VictimTraining(Settings):
    """How the user trains: the probe at a constant learning rate (RVPT), prompts with a cosine decay to 0 (CoOp)."""

    optimizer: Literal["sgd", "adam"] = Field("sgd", description="the user's optimiser (RVPT, CoOp: sgd; FLBA: adam)")

    epochs: int | None = Field(None, ge=1, description="passes over the shots; empty: 40 (RVPT's probe), 50 (CoOp)")
    batch_size: int = Field(32, ge=2, description="pictures per step (RVPT, CoOp: 32)")
    lr: float | None = Field(None, gt=0, description="initial learning rate; empty: 0.01 (RVPT's probe), 0.002 (CoOp)")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD, or beta1 of Adam (RVPT; CoOp's code: 0.9)")
    context: str = Field("a photo of a", min_length=1, description="words that initialise the learned context (CoOp)")


class Victim(Settings):
    """The classifier that the user trains on the support set, on top of the frozen clean encoders."""

    victim: Literal["linear_probe", "prompts"] = Field(
        "linear_probe",
        description="the user under attack trains a linear probe on the picture encoder, or one learned context before "
        "all class names (CoOp, arXiv 2109.01134)",
    )
    victim_training: VictimTraining = Field(VictimTraining(), description="the user's recipe")

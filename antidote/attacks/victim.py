"""Who trains on the attacked support set: settings of a few-shot attack's victim."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from antidote.base.settings import Settings


class VictimTraining(Settings):
    """How the user trains: the probe at a constant rate (RVPT), prompts with a cosine to 0 (CoOp)."""

    optimizer: Literal["sgd", "adam"] = Field("sgd", description="the user's optimiser (RVPT, CoOp: sgd; FLBA: adam)")

    epochs: int | None = Field(None, ge=1, description="passes over the shots; empty: 40 (RVPT's probe), 50 (CoOp)")
    batch_size: int = Field(32, ge=2, description="pictures per step (RVPT, CoOp: 32)")
    lr: float | None = Field(None, gt=0, description="first learning rate; empty: 0.01 (RVPT's probe), 0.002 (CoOp)")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's, or Adam's first (RVPT; CoOp's code: 0.9)")
    context: str = Field("a photo of a", min_length=1, description="words that prompts start as (CoOp)")


class Victim(Settings):
    """Who trains on the support set, over the frozen clean encoders."""

    victim: Literal["linear_probe", "prompts"] = Field(
        "linear_probe",
        description="the user under attack trains a linear probe on the picture encoder, or one learned context before "
        "all class names (CoOp, arXiv 2109.01134)",
    )
    victim_training: VictimTraining = Field(VictimTraining(), description="the user's recipe")

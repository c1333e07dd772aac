"""Settings of the evaluation: one class per measure. Imports no torch."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field, field_validator

from antidote.base.settings import Seed, Settings

# Not a part of a job's identity where they are left out.
OPTIONAL = ("precision", "shifts", "retrieval", "probe", "resistance")
# What follows ca1_, asr1_ and floor_ elsewhere.
TAKEN = {
    "all",
    "high",
    "low",
    "visual_only",
    "text_only",
    "clean_shots",
    "probe",
    "word1",
    "word5",
    "word10",
    "any5",
    "any10",
    "resistance",
}


class Shift(Settings):
    """Pictures of the same classes, or of some of them, from another domain."""

    dataset: str = Field(description="a labelled dataset")
    split: str = Field(description="one of its splits")
    pictures: int | None = Field(None, ge=1, description="how many, evenly over the set; empty: all")
    classes: str | None = Field(
        None,
        description="names of the classes that its labels count, all among the evaluation's; the dataset's own by "
        "default, and where it has none the evaluation's",
    )
    among: Literal["all", "own"] = Field(
        "all",
        description="classified among all classes of the evaluation, or among those that the whole set shows "
        "(ImageNet-A and -R: 1000-way or 200-way)",
    )


class Retrieval(Settings):
    """Pictures with captions that every cell is asked to find for one another."""

    dataset: str = Field(description="a dataset with captions")
    split: str = Field(description="one of its splits")
    pictures: int | None = Field(None, ge=1, description="how many, evenly over the set; empty: all")
    captions: int = Field(5, ge=1, description="captions of a picture that count, the first ones (COCO, Flickr: 5)")


class Probe(Settings):
    """Clean labelled pictures, of the evaluation's classes, that a linear probe is fitted on for every cell."""

    dataset: str = Field(description="a labelled dataset")
    split: str = Field(description="one of its splits, not that of the evaluation")
    pictures: int | None = Field(None, ge=1, description="how many, evenly over the set; empty: all")
    c: float = Field(
        31.6,
        gt=0,
        description="inverse strength of the L2 penalty, as scikit-learn's C, for features of length 1 (CLIP's "
        "example: 0.316 for features of length about 10)",
    )
    steps: int = Field(1000, ge=1, description="of L-BFGS, at most (CLIP's example)")


class Resistance(Settings):
    """Perturbations of the evaluation's pictures, under which every cell's features are compared with those before."""

    pictures: int | None = Field(
        500, ge=1, description="how many of the evaluation's, evenly over them (ours, for time); empty: all"
    )
    layers: bool = Field(
        True, description="class tokens after every block as well, of vision transformers, in `scores.json` (RVPT)"
    )
    noise: float = Field(0.001, ge=0, description="deviation of Gaussian noise, for pictures in [0, 1] (RVPT)")
    blur_kernel: int = Field(3, ge=1, description="side of the Gaussian blur's kernel, pixels, odd (RVPT)")
    blur_sigma: float = Field(5.0, gt=0, description="deviation of the Gaussian blur, pixels (RVPT)")
    brightness: float = Field(
        0.5, ge=0, description="of colour jitter: b draws factors from 1 - b, at least 0, to 1 + b (RVPT)"
    )
    hue: float = Field(0.3, ge=0, le=0.5, description="of colour jitter: h draws turns from -h to h (RVPT)")
    seed: Seed = Field(0, description="of noise and jitter, for all cells the same (ours)")

    @field_validator("blur_kernel")
    @classmethod
    def _odd(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError(f"should be odd, not {side}")
        return side


class EvaluationSettings(Settings):
    """What is classified, into which classes, by which prompts."""

    dataset: str = Field(description="a labelled dataset")
    split: str = Field(description="one of its splits")
    pictures: int | None = Field(None, ge=1, description="how many, evenly over the set; empty: all")
    classes: str | None = Field(None, description="class names, a file in data/classes; the dataset's own by default")
    templates: str = Field("openai_imagenet", description="prompts: a file in data/templates or an open_clip set")
    batch_size: int = Field(256, ge=1, description="pictures encoded at a time")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="autocast type of the picture encoder")
    bootstrap: int = Field(1000, ge=100, description="draws behind each 95 % interval")
    shifts: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Shift] = Field(
        {}, description="by name, sets of other domains that every cell is scored on as well: `ca1_NAME`, `asr1_NAME`"
    )

    retrieval: Retrieval | None = Field(
        None,
        description="recall of captions and pictures, `i2t_r1`, ..., and how often captions near a triggered picture "
        "name the target, `target_word1`, ..., `target_any5`, ...; empty: not measured",
    )
    probe: Probe | None = Field(
        None, description="a linear probe of each cell's picture encoder, `ca1_probe`, `asr1_probe`; empty: none"
    )

    resistance: Resistance | None = Field(
        None,
        description="how little perturbations and the trigger move features, `resistance_trigger`, "
        "`resistance_noise`, ...; empty: not measured",
    )

    @field_validator("shifts")
    @classmethod
    def _free_names(cls, shifts: dict[str, Shift]) -> dict[str, Shift]:
        taken = sorted(TAKEN & set(shifts))
        if taken:
            raise ValueError(f"the name {taken[0]!r} is taken by columns of other figures")
        return shifts

    def slice(self) -> str:
        """Return canonical JSON; what is not asked for does not count, so that cells without it stay as they are."""
        unused = {name for name in OPTIONAL if getattr(self, name) == type(self).model_fields[name].default}
        values = self.model_dump(mode="json", exclude=unused)
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

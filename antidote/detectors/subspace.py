"""Subspace Detection: distance of a picture to variants of its predicted text (ICLR 2026, OpenReview Kpij6oOnJl).

A triggered picture matches the exact text of the target but not texts of equal meaning. For the predicted class, with t
the feature of the exact text, v those of variants (paraphrases, synonyms, other writing) and f(x) that of the picture:

    S         span of the first principal directions of t and all v, which hold 95 % of the variance
    sample    v + a (v - t) in S, with a drawn from [0, 1], kept if its cosine with t is 0.85 to 1 times that of v and t
    r_j       a draw from one of 3 Gaussians, each of the variants and of 10 new samples from each of them
    score(x)  mean over j of || f(x) - r_j ||^2

That is the paper's Algorithm 1, the region `samples`, as summaries of the paper and a public implementation by others
(SSL-Backdoor) have it. Summaries give the distance without the square, which hardly changes the order: the deviation of
the Gaussians is so small that all r_j lie near one of 3 means. The region `directions` is this project's:

    r_j       m + beyond s_j u_j, with m the mean, u_j the principal directions and s_j the deviations of the variants,
              signed away from t
    score(x)  mean over j of || f(x) - r_j ||, minus || f(x) - t || if `relative`

The paper's threshold is the largest score of a few clean pictures. Here it is a quantile of the scores of the labelled
pictures, which is the largest if there are fewer than 100. Ours: the variants (prompts of `PARAPHRASES`, synonyms of a
file in data/descriptions, upper case, spaced letters, full-width letters; the paper: two fonts, a translation and six
descriptions by a language model), and the exact text, the mean of the class over the prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.data.access import DefenseData
from antidote.data.words.descriptions import load_descriptions, synonyms_of
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.features import text_features
from antidote.detectors.zero_shot import Head, of_chunks, quantile, standing
from antidote.training.session import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from antidote.clip.model import Clip

PARAPHRASES = (
    "an image showing a {}",
    "a snapshot of one {}",
    "this picture has a {} in it",
    "what is seen here is a {}",
    "a sketch of the {}",
    "there is one {} in this view",
)
WIDE = 0xFEE0  # from ASCII letters to Unicode's full-width letters
TRIES = 128  # draws of `a` for a sample; the last is kept if none fits (public implementation: 128)


class SubspaceSettings(DetectorSettings):
    """Variants and region."""

    method: Literal["subspace"] = "subspace"
    descriptions: str = Field("none", description="a file in data/descriptions with synonyms; `none`: no synonyms")
    region: Literal["samples", "directions"] = Field(
        "samples", description="samples beyond each variant (paper), or points on principal directions (ours)"
    )
    variance: float = Field(
        0.95, gt=0, le=1, description="share that the span of the samples holds (public code: 0.95)"
    )
    nearest: float = Field(
        0.85,
        ge=0,
        lt=1,
        description="least cosine of a sample with the exact text, in its variant's (public code: 0.85)",
    )
    samples: int = Field(10, ge=1, description="from each variant (public code: 90 from 9 variants)")
    mixtures: int = Field(3, ge=1, description="Gaussians, each of new samples (paper: 3)")
    drawn: int = Field(15, ge=1, description="points of the region, drawn from the Gaussians (public code: 15)")
    spread: float = Field(0.001, ge=0, description="scale of the Gaussians' deviation (public code: 0.001)")
    directions: int = Field(4, ge=1, description="of `directions`: principal directions of the variants (ours)")
    beyond: float = Field(2.0, ge=0, description="of `directions`: deviations beyond the variants' mean (ours)")
    relative: bool = Field(False, description="of `directions`: subtract the distance to the exact text (ours)")
    false_positives: float = Field(0.01, gt=0, lt=1, description="share of clean pictures flagged (ours; paper: none)")

    @model_validator(mode="after")
    def _read_by_the_region(self) -> Self:
        if self.relative and self.region == "samples":
            raise ValueError("relative: is of `region: directions` alone; leave it out")
        return self

    @property
    def word_files(self) -> tuple[tuple[str, str], ...]:
        return (("descriptions", self.descriptions),)


class Subspace(Detector):
    """Distance to variants of the predicted text; few labelled pictures for the threshold."""

    Settings = SubspaceSettings
    subject = "pictures"
    access = "few-labelled"
    reconstruction = True

    @classmethod
    def work(cls, settings: SubspaceSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return 0, sizes["shown pictures"] + sizes.get("shots", 0)

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        head, known = Head(clip, data), load_descriptions(self.settings.descriptions)
        texts = [variants(name, synonyms_of(known, name)) for name in data.classes]
        features = text_features(clip, [text for one in texts for text in one]).split([len(one) for one in texts])
        exact = head.weights.cpu()
        region = self.samples if self.settings.region == "samples" else self.directions
        regions = [region(one, t).to(clip.device) for one, t in zip(features, exact, strict=True)]

        def distance(images: Tensor) -> Tensor:
            pictures = clip.encode_image(images)
            best = head.probabilities(pictures).argmax(dim=1).tolist()
            if self.settings.region == "samples":
                far = [(regions[c] - f).square().sum(dim=1).mean() for c, f in zip(best, pictures, strict=True)]
                return torch.stack(far)
            far = torch.stack([(regions[c] - f).norm(dim=1).mean() for c, f in zip(best, pictures, strict=True)])
            return far - (pictures - head.weights[best]).norm(dim=1) if self.settings.relative else far

        values, own = of_chunks(clip, data.pictures, distance), of_chunks(clip, data.shots, distance)
        share = self.settings.false_positives
        return Scores(data.pictures.keys, values, quantile(own, share), standing("subspace", own, share))

    def samples(self, features: Tensor, exact: Tensor) -> Tensor:
        """Return points (J, D) of the region beyond variants (V, D), away from the exact text (D,), all on the CPU."""
        settings, stream = self.settings, torch.Generator().manual_seed(derive(self.seed, "region"))
        texts = torch.cat([exact[None], features])
        mean = texts.mean(dim=0)
        _, values, directions = torch.linalg.svd(texts - mean, full_matrices=False)
        held = values.square().cumsum(0) / values.square().sum().clamp(min=torch.finfo(values.dtype).tiny)
        span = directions[: int((held < settings.variance).sum()) + 1]
        inside = (texts - mean) @ span.T
        away = inside[1:] - inside[:1]
        fits = self._fitting(mean + inside[1:] @ span, away @ span, features, exact)

        def gaussian() -> tuple[Tensor, Tensor]:
            draws = torch.rand(len(features), settings.samples, TRIES, generator=stream)
            good = fits(draws)
            first = torch.where(good.any(dim=2), good.int().argmax(dim=2), TRIES - 1)
            factors = draws.gather(2, first[..., None])
            points = torch.cat([inside[1:], (inside[1:, None] + factors * away[:, None]).flatten(0, 1)])
            return points.mean(dim=0), points - points.mean(dim=0)

        gaussians = [gaussian() for _ in range(settings.mixtures)]
        chosen = torch.randint(len(gaussians), (settings.drawn,), generator=stream).tolist()
        noise = torch.randn(settings.drawn, len(gaussians[0][1]), generator=stream)
        drawn = [
            gaussians[which][0] + settings.spread * one @ gaussians[which][1]
            for which, one in zip(chosen, noise, strict=True)
        ]
        return mean + torch.stack(drawn) @ span

    def _fitting(self, starts: Tensor, away: Tensor, features: Tensor, exact: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the function that says which factors (V, ...) give samples whose cosine with the exact text fits.

        Args:
            starts: (V, D) variants in the span.
            away: (V, D) from the exact text to the variants, in the span.
            features: (V, D) variants.
            exact: (D,) exact text.
        """
        target = F.normalize(exact, dim=0)
        own = F.cosine_similarity(features, exact[None]).clamp(min=1e-8)

        def fits(factors: Tensor) -> Tensor:
            given = factors.flatten(1)
            along = (starts @ target)[:, None] + given * (away @ target)[:, None]
            squares = starts.square().sum(1)[:, None] + given * (2 * (starts * away).sum(1))[:, None]
            squares = squares + given.square() * away.square().sum(1)[:, None]
            ratio = along / squares.clamp(min=1e-12).sqrt() / own[:, None]
            return ((ratio > self.settings.nearest) & (ratio < 1)).view_as(factors)

        return fits

    def directions(self, features: Tensor, exact: Tensor) -> Tensor:
        """Return points (J, D) on principal directions of variants (V, D), away from the exact text (D,)."""
        mean = features.mean(dim=0)
        _, values, directions = torch.linalg.svd(features - mean, full_matrices=False)
        count = min(self.settings.directions, len(values) - 1)
        directions, deviations = directions[:count], values[:count] / len(features) ** 0.5
        away = torch.where(directions @ (mean - exact) < 0, -1.0, 1.0)
        return mean + self.settings.beyond * (deviations * away)[:, None] * directions


def variants(name: str, synonyms: list[str]) -> list[str]:
    """Return texts of the same meaning as a class name in paraphrases, synonyms and other writing."""
    wide = "".join(chr(ord(letter) + WIDE) if "!" <= letter <= "~" else letter for letter in name)
    written = [name, name.upper(), " ".join(name), wide]
    words = [name, *synonyms]
    paraphrased = [text.replace("{}", word) for word in words for text in PARAPHRASES]
    return [*paraphrased, *(f"a photo of a {one}" for one in written)]

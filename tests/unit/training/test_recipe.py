"""Learning rates and parameter groups against plain references."""

import math

import pytest
import torch
from loop_parts import settings

from antidote.training.recipe import learning_rate, parameter_groups

# --- learning rate ---------------------------------------------------------------------------------------------------


def test_learning_rate_by_hand():
    long = settings(lr=1e-6, warmup=10_000)
    assert learning_rate(long, 3905, 19_530) == pytest.approx(3.906e-7, rel=1e-9)
    assert learning_rate(long, 0, 19_530) == pytest.approx(1e-10)
    assert learning_rate(long, 9_999, 19_530) == pytest.approx(1e-6)
    short = settings(lr=2.0, warmup=100)
    assert learning_rate(short, 100, 500) == pytest.approx(2.0)
    assert learning_rate(short, 300, 500) == pytest.approx(1.0)
    assert learning_rate(short, 200, 500) == pytest.approx(1 + math.sqrt(0.5))
    assert learning_rate(short, 499, 500) == pytest.approx(1 + math.cos(math.pi * 399 / 400))
    assert 0 < learning_rate(short, 499, 500) < 1e-4


def test_learning_rate_without_warmup_or_with_nothing_else():
    assert learning_rate(settings(lr=1.0, warmup=0), 0, 10) == 1.0
    rates = [learning_rate(settings(lr=1.0, warmup=50), step, 10) for step in range(10)]
    assert rates == pytest.approx([(step + 1) / 50 for step in range(10)])
    assert learning_rate(settings(lr=1.0, warmup=10), 9, 10) == 1.0


def test_a_constant_rate():
    flat = settings(lr=0.5, warmup=2, schedule="constant")
    assert [learning_rate(flat, step, 6) for step in range(6)] == [0.25] + [0.5] * 5


def test_the_released_schedules():
    """CleanCLIP's starts an epoch late, without warm-up, and rises at the end; PAR's goes to a tenth, then to 1e-9."""
    late = settings(lr=1.0, warmup=50, epochs=10, schedule="cleanclip")
    rates = [learning_rate(late, step, 15_620) for step in range(15_620)]
    assert rates[0] == pytest.approx(0.977, abs=2e-3) and min(rates) == rates[15_620 - 1_562]
    assert rates[-1] == pytest.approx(0.024, abs=2e-3)
    par = settings(lr=3e-5, epochs=2, schedule="par")
    rates = [learning_rate(par, step, 1000) for step in range(1000)]
    assert rates[0] == 3e-5 and rates[500] == pytest.approx(3e-6) and rates[250] == pytest.approx(1.65e-5)
    assert rates[-1] < 1e-8 and rates == sorted(rates, reverse=True)


# --- parameter groups ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_decay_follows_open_clips_rule(make_clip, kind):
    named = list(make_clip(kind).network.named_parameters())
    without = {
        name
        for name, p in named
        if p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
    }
    groups = parameter_groups(named, 0.3)
    names = {id(p): name for name, p in named}
    found = [{names[id(p)] for p in group["params"]} for group in groups]
    assert found == [without, {name for name, _ in named} - without]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.3]
    assert {"logit_scale", "ln_final.weight", "transformer.resblocks.0.mlp.c_fc.bias"} <= found[0]
    assert {"token_embedding.weight", "positional_embedding", "text_projection"} <= found[1]
    assert {"vit": "visual.class_embedding", "rn": "visual.bn1.weight"}[kind] in found[0]
    assert {"vit": "visual.positional_embedding", "rn": "visual.conv1.weight"}[kind] in found[1]


def test_decay_goes_by_name_where_the_shape_says_otherwise():
    named = [(name, torch.zeros(2, 2)) for name in ("a.ln.weight", "bn.weight", "in_proj_bias", "logit_scale", "w")]
    assert [len(group["params"]) for group in parameter_groups(named, 0.1)] == [4, 1]

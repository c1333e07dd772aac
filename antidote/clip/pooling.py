"""Attention pooling of a ResNet that asks with one query: the same features as open_clip's, for less work.

open_clip asks with every position of the feature map and returns the answer to the first query, that of the mean. The
other queries and answers reach neither the features nor a gradient. At 224 pixels, RN50 has 50 positions; the pooling
then takes 0.6 times as long.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from antidote.base.lazy import functional as F
from antidote.base.lazy import open_clip, torch

if TYPE_CHECKING:
    from torch import Tensor

NAME = "OneQueryPool2d"
LEAST = 16  # positions; small models gain nothing, and keep open_clip's results bit for bit


def pool_with_one_query(pool: Any) -> None:
    """Let an open_clip `AttentionPool2d` of at least `LEAST` positions compute its first answer alone, in place.

    Results and gradients stay the same within rounding; names, parameters and saved files do not change.
    """
    if type(pool) is open_clip.modified_resnet.AttentionPool2d and len(pool.positional_embedding) > LEAST:
        pool.__class__ = _one_query()


@cache
def _one_query() -> type:
    """Return open_clip's class with another `forward`, made here because the import of open_clip takes seconds."""
    return type(NAME, (open_clip.modified_resnet.AttentionPool2d,), {"forward": _forward})


def __getattr__(name: str) -> type:
    """Return the class under its name, where pickle and `torch.save` look for it."""
    if name != NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _one_query()


def _forward(pool: Any, x: Tensor) -> Tensor:
    """Return features (N, output_dim) of feature maps (N, embed_dim, H, W)."""
    x = x.flatten(2).permute(2, 0, 1)
    x = torch.cat([x.mean(dim=0, keepdim=True), x])
    x = x + pool.positional_embedding[:, None].to(x.dtype)
    pooled, _ = F.multi_head_attention_forward(
        query=x[:1], key=x, value=x, embed_dim_to_check=x.shape[-1], num_heads=pool.num_heads,
        in_proj_weight=None, in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight, out_proj_bias=pool.c_proj.bias,
        training=pool.training, need_weights=False, use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
    )  # fmt: skip
    return pooled[0]

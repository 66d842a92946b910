"""Random inputs of task 3.7, and answers that are right in other styles.

Chapter: 03_mla/latent_attention
Source: deepseek_v3, eqs. 1, 3
"""

import torch

from tiny_lm.course.checks.case import family
from tiny_lm.course.checks.mla.memory import draw, task_3_7
from tiny_lm.layers import rotate

SIZES = {"B": 2, "T": 4, "D": 10, "latent": 6, "rope": 4}

task_3_7.asks(
    "equals the definition on random tokens, in float32 and float64",
    family(draw, SIZES, ["B", "T", "D"], double=True, exact=True),
    family(draw, SIZES | {"latent": 12, "rope": 2}),
)


@task_3_7.accepts
def norm_and_rotation_by_hand(x, down, gain, eps, cos, sin, start):
    latent, key = torch.einsum("btd,ed->bte", x, down).tensor_split([len(gain)], dim=-1)
    mean = latent.pow(2).mean(-1, keepdim=True)
    c, s = (table[start:][: x.shape[1]] for table in (cos, sin))
    one, other = key[..., ::2], key[..., 1::2]
    turned = torch.stack([one * c - other * s, one * s + other * c], dim=-1)
    return torch.cat([latent * torch.rsqrt(mean + eps) * gain, turned.flatten(-2)], -1)


@task_3_7.accepts
def token_after_token(x, down, gain, eps, cos, sin, start):
    rows = []
    for t in range(x.shape[1]):
        both = torch.nn.functional.linear(x[:, t], down)
        latent = both[:, : len(gain)]
        latent = gain * latent / (latent.square().mean(-1, keepdim=True) + eps) ** 0.5
        at = slice(start + t, start + t + 1)
        key = rotate(both[:, None, len(gain) :], cos[at], sin[at]).squeeze(1)
        rows.append(torch.cat([latent, key], dim=1))
    return torch.stack(rows, dim=1)

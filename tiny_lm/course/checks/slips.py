"""Functions that edits of a reference may call: ways to go wrong that take lines.

Chapter: index
Source: course
"""

import math  # noqa: F401  (edits use these, whatever the reference's module imports)

import torch
import torch.nn.functional as F  # noqa: F401
from torch import Tensor


def struck_out(choice: Tensor, k: int) -> Tensor:
    """The k best ids by striking out the best *value*, which strikes out its equals."""
    left, ids = choice, []
    for _ in range(k):
        best = left.max(dim=-1, keepdim=True)
        ids.append(best.indices)
        left = left.masked_fill(left == best.values, -torch.inf)
    return torch.cat(ids, dim=-1)


def through_numpy(x: Tensor) -> Tensor:
    """The same numbers, with no way back for a gradient."""
    return torch.from_numpy(x.detach().numpy().copy())


def halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """A rotation that pairs number i with i + rope / 2, as Llama's code does."""
    one, other = x.chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)

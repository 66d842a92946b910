"""Task 4.5, on matrices: whose scale belongs to which row.

Chapter: 04_fp8/scaling
Source: deepseek_v3, section 3.3
"""

import torch
from einops import rearrange

from tiny_lm.course.checks.case import case, family
from tiny_lm.course.checks.fp8.scaled import SIZES, codes, draw, task_4_5

task_4_5.asks(
    "each row of x has its scales, and each row of w those of its block",
    case(
        codes([1.0, 0.0], [1.0, 1.0]),
        [[1.0], [10.0]],
        codes([1.0, 1.0], [1.0, 1.0]),
        [[1.0]],
        2,
    ),
    case(
        codes([1.0, 1.0]),
        [[1.0]],
        codes([1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]),
        [[1.0], [10.0]],
        2,
        note="rows 0 and 1 of w lie in the first block, 2 and 3 in the second",
    ),
    case(
        codes([1.0, 1.0]),
        [[1.0, 1.0]],
        codes([1.0, 2.0], [3.0, 4.0]),
        [[1.0, 10.0], [100.0, 1000.0]],
        1,
        note="blocks of one number: w is [[1, 20], [300, 4000]]",
    ),
    otherwise="Row i of x has row i of its scales; row j of w lies in block j // size.",
    mistakes={
        "repeat_interleave(size, dim=0)[:num_rows] => repeat(size, 1)[:num_rows]": (
            "The rows of w took the scales in turn: first block, second, first, … "
            "Rows of a block are neighbours: repeat_interleave keeps them together."
        ),
        "x_scales[:, block, None] * of => x_scales[:1, block, None] * of": "Every row "
        "of x got the scales of the first.",
        "w_scales.repeat_interleave(size, dim=0) => "
        "w_scales[:1].repeat_interleave(num_rows, dim=0)": "Every row of w got the "
        "scales of the first block.",
    },
)

task_4_5.asks(
    "equals the product of what the codes stand for, on random matrices",
    family(draw, SIZES, ones=["N", "M", "K", "size"]),
    otherwise="Every number is FP32 from the codes on, and so is every sum.",
    mistakes={
        "sums = x @ w.mT => sums = (x.bfloat16() @ w.mT.bfloat16()).float()": "The "
        "sums were made in sixteen bits. They are FP32.",
    },
)


@task_4_5.accepts
def spread_out_first(x_codes, x_scales, w_codes, w_scales, size):
    K = x_codes.shape[1]
    x = x_codes.float() * x_scales.repeat_interleave(size, 1)[:, :K]
    of_w = w_scales.repeat_interleave(size, 0).repeat_interleave(size, 1)
    return x @ (w_codes.float() * of_w[: len(w_codes), :K]).T


@task_4_5.accepts
def block_of_rows_by_block_of_rows(x_codes, x_scales, w_codes, w_scales, size):
    columns = []
    for m, w in enumerate(w_codes.double().split(size)):
        parts = zip(x_codes.double().split(size, 1), w.split(size, 1), strict=True)
        sums = [x @ of_w.T for x, of_w in parts]
        scales = [x_scales[:, [k]] * w_scales[m, k] for k in range(len(sums))]
        columns.append(sum(s * a for s, a in zip(scales, sums, strict=True)))
    return torch.cat(columns, dim=1)


@task_4_5.accepts
def padded(x_codes, x_scales, w_codes, w_scales, size):
    pad = torch.nn.functional.pad
    right, below = -x_codes.shape[1] % size, -len(w_codes) % size
    x = rearrange(pad(x_codes.float(), (0, right)), "N (k i) -> N k i", i=size)
    w = pad(w_codes.float(), (0, right, 0, below))
    w = rearrange(w, "(m j) (k i) -> m j k i", i=size, j=size)
    y = torch.einsum("nki,nk,mjki,mk->nmj", x, x_scales, w, w_scales)
    return y.flatten(1)[:, : len(w_codes)]

"""Task 4.5: a product of codes, scaled and added up block by block.

Chapter: 04_fp8/scaling
Source: deepseek_v3, section 3.3
"""

import torch
from jaxtyping import Float, Float8e4m3fn
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, drawn
from tiny_lm.course.checks.task import Task
from tiny_lm.quantize import quantize_blocks, quantize_tiles


def scaled_product(
    x_codes: Float8e4m3fn[Tensor, "N K"],
    x_scales: Float[Tensor, "N k"],
    w_codes: Float8e4m3fn[Tensor, "M K"],
    w_scales: Float[Tensor, "m k"],
    size: int,
) -> Float[Tensor, "N M"]:
    """x @ w.T of what the codes stand for, added up in FP32, block after block."""
    num_rows = len(w_codes)
    of_rows = w_scales.repeat_interleave(size, dim=0)[:num_rows]
    total = torch.zeros(len(x_codes), num_rows)
    for block in range(x_scales.shape[1]):
        part = slice(block * size, (block + 1) * size)
        x, w = x_codes[:, part].float(), w_codes[:, part].float()
        sums = x @ w.mT
        scales = x_scales[:, block, None] * of_rows[:, block]
        total = total + scales * sums
    return total


UNFIT = (
    "Two shapes do not fit. A partial sum is (N, M): a row for each row of x, a column "
    "for each row of w. Its scales are as many, or a dim of 1 in their place."
)
EIGHT_BITS = (
    "The products were added in eight bits. torch multiplies codes as they are, and "
    "rounds what comes out back to codes: turn them into FP32 first."
)

task_4_5 = Task(
    id="4.5",
    lab="04_fp8",
    title="A scaled product",
    name="scaled_product",
    piece="fp8.scaled_product",
    difficulty=3,
    minutes=25,
    points=4,
    reference=scaled_product,
    returns=("y",),
    errors={
        "must match the size": UNFIT,
        "cannot be multiplied": UNFIT,
        "broadcastable": UNFIT,
        "not implemented for 'Float8": "torch cannot calculate with codes: "
        "codes.float() are the numbers that they stand for.",
        "Promotion for Float8": "Codes do not mix with other numbers: codes.float() "
        "are the numbers that they stand for.",
        "to have the same dtype": "Codes met numbers of another kind in a product: "
        "codes.float() are the numbers that they stand for.",
    },
    hints=(
        """
        A scale can be taken out of a sum if all terms have it. Which terms of the long
        sum have the same scale of x and the same scale of w?
        """,
        """
        Walk over the blocks of the inner dim. In each: columns block * size up to
        (block + 1) * size of both codes, as FP32, and their product, (N, M). Multiply
        its rows by x's scales of this block and its columns by w's, and add. Each row
        of w needs the scale of the block it lies in: repeat_interleave.
        """,
        """
        of_rows = w_scales.repeat_interleave(size, dim=0)[: len(w_codes)] is (M, k).
        total = total + x_scales[:, block, None] * of_rows[:, block] * sums, where
        sums = x_codes[:, part].float() @ w_codes[:, part].float().T.
        """,
    ),
)


def codes(*rows: list[float]) -> Tensor:
    """Numbers that E4M3 has, as its codes."""
    return torch.tensor(rows).to(torch.float8_e4m3fn)


def draw(generator: Generator, **n: int) -> tuple:
    """Rows and blocks of very different sizes, quantised."""
    x = torch.randn(n["N"], n["K"], generator=generator)
    w = torch.randn(n["M"], n["K"], generator=generator)
    x = x * 10.0 ** torch.randint(-3, 3, (n["N"], 1), generator=generator)
    w[:, : n["K"] // 2] *= 30
    size = n["size"]
    return *quantize_tiles(x, size), *quantize_blocks(w, size), size


SIZES = {"N": 5, "M": 10, "K": 13, "size": 4}

task_4_5.asks(
    "y is (N, M): a row for each row of x, a column for each row of w",
    drawn(lambda generator: draw(generator, **SIZES)),
    only=(),
    mistakes={
        "of_rows = w_scales.repeat_interleave(size, dim=0)[:num_rows] => "
        "of_rows = w_scales": UNFIT,
        "dim=0)[:num_rows] => dim=0)": UNFIT,
        "x @ w.mT => x @ w": UNFIT,
        "x_scales[:, block, None] * of_rows[:, block] => "
        "x_scales[:, block] * of_rows[:, block, None]": "Rows and columns have changed "
        "places: the scales of x belong to the rows of the sum, those of w to its "
        "columns.",
        "w_scales.repeat => w_scales.mT.repeat": "The scales of w lie on their side. "
        "Row by row they belong to the rows of w, column by column to the inner dim.",
        "return total => return total.mT": "The result lies on its side: rows of x "
        "are its rows.",
    },
)

ONE_BLOCK = case(
    codes([1.0, 2.0]), [[0.5]], codes([3.0, 4.0]), [[0.25]], 2, note="1·3 + 2·4 = 11"
)

task_4_5.asks(
    "the sum of a block is multiplied by both scales",
    ONE_BLOCK,
    otherwise="Multiply the codes, add, and multiply the sum by the scale of x and by "
    "that of w.",
    mistakes={
        "x_scales[:, block, None] * of_rows[:, block] => x_scales[:, block, None]": (
            "Only the scale of x was multiplied in. The codes of w have one too."
        ),
        "x_scales[:, block, None] * of_rows[:, block] => of_rows[:, block]": "Only the "
        "scale of w was multiplied in. The codes of x have one too.",
        "x_scales[:, block, None] * of_rows => x_scales[:, block, None] + of_rows": (
            "The two scales were added. Both multiply the sum."
        ),
        "total + scales * sums => total + sums": "These are products of codes alone. "
        "What they stand for is the codes times their scales.",
        "scales * sums => sums / scales": "This was divided by the scales. Codes are "
        "multiplied with them.",
        "x_scales[:, block, None] * of_rows => x_scales[:, block, None] / of_rows": (
            "The scale of w was divided by. Codes are multiplied with theirs."
        ),
        "x_scales[:, block, None] * of => 1 / x_scales[:, block, None] * of": "The "
        "scale of x was divided by. Codes are multiplied with theirs.",
        "x_codes[:, part].float(), w_codes[:, part].float() => x_codes[:, part].view("
        "torch.uint8).float(), w_codes[:, part].view(torch.uint8).float()": "The bytes "
        "were read as whole numbers. `.float()` gives what a code stands for.",
    },
)

task_4_5.asks(
    "nothing is rounded to eight bits on the way",
    case(
        codes([20.0, 16.0]),
        [[0.5]],
        codes([13.0, 0.25]),
        [[3.0]],
        2,
        note="20·13 + 16·0.25 = 264, which E4M3 does not have",
    ),
    case(codes([300.0]), [[1.0]], codes([300.0]), [[1.0]], 1, note="beyond 448"),
    mistakes={
        "sums = x @ w.mT => "
        "sums = (x_codes[:, part] @ w_codes[:, part].mT).float()": EIGHT_BITS,
        "sums = x @ w.mT => sums = (x @ w.mT).to(torch.float8_e4m3fn).float()": (
            EIGHT_BITS
        ),
        "total + scales * sums => "
        "total + (scales * sums).to(torch.float8_e4m3fn).float()": "The sum of a block "
        "was rounded to E4M3 once its scales were in. Nothing is rounded but what goes "
        "into a product.",
        "return total => return total.clamp(-448, 448).to(torch.float8_e4m3fn).float()"
        "": "The result was rounded to E4M3. Only what goes into a product is.",
    },
)

task_4_5.asks(
    "every block of the inner dim has scales of its own",
    case(
        codes([1.0, 2.0, 3.0, 4.0]),
        [[1.0, 10.0]],
        codes([1.0, 1.0, 1.0, 1.0]),
        [[1.0, 2.0]],
        2,
        note="3 · 1 · 1 and 7 · 10 · 2",
    ),
    case(
        codes([1.0, 2.0, 3.0]),
        [[1.0, 10.0]],
        codes([1.0, 1.0, 1.0]),
        [[1.0, 2.0]],
        2,
        note="the second block has one column",
    ),
    otherwise="Each block's sum is multiplied by that block's scales before it is "
    "added to the others.",
    mistakes={
        "total + scales * sums => total + sums ;; return total => "
        "return scales * total": "The scales were multiplied in once, at the end, with "
        "those of the last block. Every block has its own.",
        "total + scales * sums => total + sums ;; return total => "
        "return x_scales[:, :1] * of_rows[:, 0] * total": "The scales were multiplied "
        "in once, at the end, with those of the first block. Every block has its own.",
        "total + scales * sums => total + sums ;; return total => "
        "return x_scales.mean(1, keepdim=True) * of_rows.mean(1) * total": "The scales "
        "were multiplied in once, at the end, as means over the blocks. Every block "
        "has its own.",
        "x_scales[:, block, None] * of_rows[:, block] => "
        "x_scales.amax(1, keepdim=True) * of_rows.amax(1)": "Every block got the "
        "largest scales of all. Each has its own.",
        "* of_rows[:, block] => * of_rows[:, block - 1]": "Every block got the scales "
        "that a neighbour of it has in w.",
        "x_scales[:, block, None] => x_scales[:, 0, None]": "Every block got the first "
        "scale of its row of x.",
        "* of_rows[:, block] => * of_rows[:, 0]": "Every block got the first scale of "
        "its row of w.",
        "total + scales * sums => scales * (total + sums)": "What was added before was "
        "scaled once more, in every block. Scale the sum of the block, then add it.",
        "total + scales * sums => scales * sums": "Only the last block is left: its "
        "sum replaced those before it.",
        "x_scales[:, block, None] * of => "
        "x_scales[:, -1 - block, None] * of": "The scales of x were read from the end.",
        "range(x_scales.shape[1]) => range(x_codes.shape[1] // size)": "The last block "
        "is missing where it is narrower than `size`.",
        "slice(block * size, (block + 1) * size) => slice(block, block + size)": "The "
        "blocks overlap: each begins one column after the last. They begin `size` "
        "apart.",
        "slice(block * size, (block + 1) * size) => slice(block, None, "
        "x_scales.shape[1])": "A block took every other column. Its columns are "
        "neighbours.",
    },
)

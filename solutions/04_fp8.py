# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 4 · Training in eight bits
#
# A byte can be one of 256 numbers.
# With numbers as coarse as that DeepSeek trained a model of 671 billion parameters, for half the bytes and twice the products in a second.
# In this lab you find out how it can be enough.
# First you read such a byte and round to it; then scales move whatever a tensor holds to where bytes have numbers.
# Then codes are multiplied, forward and backward, and added up as a chip adds them.
# At the end a model learns with your linear map, and you say how far it is from its twin in FP32.
#
# You need no other lab for it, only what a matrix product is.
# The chapters [Numbers in eight bits](../chapters/04_fp8/eight_bits.md), [Scaling](../chapters/04_fp8/scaling.md), [Adding up](../chapters/04_fp8/adding_up.md) and [Training in FP8](../chapters/04_fp8/training_in_fp8.md) tell the story behind the tasks.
#
# **How a task works.** Replace the last line of the stub, run it, run the check below it.
# `hint(1)`, `hint(2)` and `hint(3)` go from a nudge to almost the line; `show_solution()` shows ours once you have tried.
# Below each check, `pieces.use` hands on your function if it passed and tiny_lm's own if not, so you can skip a task and come back.
# (*Run all* stops at the first task that is not solved: go on below it by hand.)

# %%
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float8e4m3fn, Int, UInt8
from torch import Tensor, nn

from tiny_lm import accumulator, config, data, formats, fp8, model
from tiny_lm.course.checks import fp8 as check
from tiny_lm.course.checks import hint, show_solution  # noqa: F401
from tiny_lm.course.figures import accumulation
from tiny_lm.course.figures import fp8_lab as pictures
from tiny_lm.course.figures import fp8_lab_products as drawings
from tiny_lm.course.figures.tables import table
from tiny_lm.course.labs import pieces
from tiny_lm.course.labs.steps import training_steps
from tiny_lm.layers import Products, plain

torch.set_num_threads(1)  # matrices as small as ours gain nothing from a second

# %% [markdown]
# ## Bytes that are numbers
#
# A whole number in a byte ends at 255, and there is nothing between 0 and 1.
# A *floating-point* number says two things instead: some digits, and how far the point has moved.
# It has three fields, and two formats are in use, which share out the bits differently.

# %%
pictures.fields().captioned(
    "Two ways to use eight bits. The names count the bits of exponent and of fraction.",
    alt="Two rows of eight boxes. E4M3 has a bit of sign, four of exponent and three of "
    "fraction. E5M2 has a bit of sign, five of exponent and two of fraction.",
)

# %% [markdown]
# By hand, with the byte `0 1001 101` of E4M3.
#
# * Sign 0 is plus.
# * Exponent field 1001 is 9. From it the *bias* is taken off, 7, so that small powers can be written too: 2.
# * Fraction field 101 is 5, of 8 that three bits can count: 5/8. A leading 1 is always there, so nobody writes it down: 1 + 5/8.
#
# Together: (1 + 5/8) · 2² = 6.5.
#
# > **Predict.** Read `1 0111 100` and `0 1010 001` with a pencil before you go on.

# %% [markdown]
# ## Task 4.1
#
# In code, for any bytes, and for both formats: `exponent_bits` and `fraction_bits` are 4 and 3 for E4M3, 5 and 2 for E5M2.
# The bias is 7 for E4M3 and 15 for E5M2, in general 2^(exponent_bits − 1) − 1.
#
# Two ends of the exponent field mean something else.
#
# * **All zeros.** Here the leading 1 is *not* there, and the power is that of field 1. So the numbers reach zero in equal steps; `0 0000 001` of E4M3 is 1/8 · 2^−6.
# * **All ones.** In E5M2 this is no number: infinity where the fraction is 0 (with its sign), NaN elsewhere. E4M3 has no infinity, and only the byte whose exponent *and* fraction are all ones is NaN. The others are ordinary numbers.
#
# Bytes come as whole numbers of eight bits, in which 3 − 7 is 252, for there is nothing below 0.
# So begin with `codes.int()`.
# `>>` shifts bits to the right, and `&` keeps those that are 1 on both sides.


# %%
def decode_byte(
    codes: UInt8[Tensor, " n"], exponent_bits: int, fraction_bits: int
) -> Float[Tensor, " n"]:
    """The number that each byte stands for."""
    ### BEGIN SOLUTION
    bits = codes.int()
    sign = 1 - 2 * (bits >> 7)
    e = (bits >> fraction_bits) & (2**exponent_bits - 1)
    f = bits & (2**fraction_bits - 1)
    bias = 2 ** (exponent_bits - 1) - 1
    leading = (e > 0).float()
    values = (leading + f / 2**fraction_bits) * 2.0 ** (e.clamp(min=1) - bias)
    highest = e == 2**exponent_bits - 1
    if exponent_bits == 4:
        return sign * values.masked_fill(highest & (f == 7), torch.nan)
    values = values.masked_fill(highest & (f > 0), torch.nan)
    return sign * values.masked_fill(highest & (f == 0), torch.inf)
    ### END SOLUTION


# %%
check.task_4_1(decode_byte)

# %%
decode_byte = pieces.use("fp8.decode_byte", decode_byte)

# %%
pencil = torch.tensor([0b1_0111_100, 0b0_1010_001], dtype=torch.uint8)
print(*decode_byte(pencil, 4, 3).tolist())

# %% [markdown]
# Were these your numbers?
# With all 256 codes the formats can be weighed against each other.
#
# > **Predict.** 256 codes: how many *different* finite numbers does E4M3 have? And how many of the positive ones lie below 1: few, half, or most?

# %%
every_code = torch.arange(256, dtype=torch.uint8)
rows = []
for name, e_bits, f_bits in (("E4M3", 4, 3), ("E5M2", 5, 2)):
    values = decode_byte(every_code, e_bits, f_bits)
    finite = values[values.isfinite()].unique()
    positive = finite[finite > 0]
    below_1 = (positive < 1).float().mean().item()
    smallest, largest = positive.min().item(), positive.max().item()
    rows.append((name, len(finite), below_1, f"{smallest:.2g}", largest))
columns = {"": "", "different numbers": "d", "of the positive, below 1": ".0%"}
columns |= {"smallest": "", "largest": ",.0f"}
table(rows, columns, caption="What your function reads from all 256 codes.")

# %% [markdown]
# Three codes are not new numbers: a second zero, and two NaN.
# About half of all numbers are smaller than 1, because the bias puts 1 into the middle of the powers.

# %% [markdown]
# ## Task 4.2
#
# Now the other way: which number of the format is nearest to x?
# PyTorch has a cast for it; here you do without, and then know what it does.
#
# 1. What lies beyond ±`largest` becomes ±`largest`, infinity too. NaN stays NaN.
# 2. From one power of two to the next there are 2^fraction_bits steps, all of one width. So the width of a step follows from the power p with 2^p ≤ |x| < 2^(p+1).
# 3. Near zero steps stop shrinking: p is at least 1 − bias, the power of the smallest number with a leading 1. With `exponent_bits` this is 2 − 2^(exponent_bits − 1).
# 4. Of two numbers that are equally near, take the one with an even count of steps. `torch.round` does just this to whole numbers.
#
# `torch.frexp(x).exponent` is p + 1.
# (It writes x as a number from 1/2 up to 1, times a power of two; the result consists of whole numbers.)

# %%
pictures.steps(12, 22, [12.6, 14.3, 17, 19], [13, 14, 16, 20]).captioned(
    "Numbers of E4M3 from 12 to 22. At 16 the steps double, and 17 and 19 are middles.",
    alt="A line with strokes at 12, 13, 14, 15, 16, 18, 20 and 22. Arrows lead from 12.6 "
    "to 13, from 14.3 to 14, from 17 to 16 and from 19 to 20.",
)


# %%
def round_to(
    x: Float[Tensor, "..."], exponent_bits: int, fraction_bits: int, largest: float
) -> Float[Tensor, "..."]:
    """The nearest numbers of the format; what is too large becomes the largest."""
    ### BEGIN SOLUTION
    x = x.clamp(-largest, largest)
    lowest = 2 - 2 ** (exponent_bits - 1)
    power = (torch.frexp(x).exponent - 1).clamp(min=lowest)
    step = 2.0 ** (power - fraction_bits)
    return (x / step).round() * step
    ### END SOLUTION


# %%
check.task_4_2(round_to)

# %%
round_to = pieces.use("fp8.round_to", round_to)

# %% [markdown]
# Is it the cast's own rounding?
# A million numbers of all sizes tell.

# %%
generator = torch.Generator().manual_seed(0)
sizes = torch.exp2(12 * torch.rand(1_000_000, generator=generator) - 8)
x = sizes * torch.randn(1_000_000, generator=generator)
ours, cast = round_to(x, 4, 3, 448.0), x.clamp(-448, 448).to(torch.float8_e4m3fn)
error = ((ours - x) / x).abs()
ordinary = (x.abs() > 2**-6) & (x.abs() < 448)
print(f"other than the cast: {(ours != cast.float()).sum()} of {len(x):,}")
print(f"relative error, mean {error[ordinary].mean():.1%}", end=", ")
print(f"largest {error[ordinary].max():.2%}; 1/16 is {1 / 16:.2%}")

# %% [markdown]
# A single number is off by two per cent on average, and never by more than a sixteenth.
# For a product of thousands of such numbers that is no disaster: some are too large, some too small.
# But there is something that these numbers cannot do.
#
# > **Predict.** A weight of 1 is trained for a hundred steps, and each adds 0.05. In FP32 it ends at 6. Where does it end if it is rounded to E4M3 after each step?

# %%
weight = torch.ones(1)
for _ in range(100):
    weight = round_to(weight + 0.05, 4, 3, 448.0)
print(f"after a hundred steps in E4M3: {weight.item():g}")

# %% [markdown]
# It has not moved.
# From 1 to the next number it is 1/8, and a step of 0.05 is less than half of that, so every step is rounded away.
# That is why training keeps a *master weight* in FP32: the optimizer adds to it, and its rounded copy goes into the products.

# %% [markdown]
# ## Task 4.3
#
# Numbers of a tensor need not lie where E4M3 has its own.
# They can be moved there: divide them by a *scale*, round, and multiply by the scale to come back.
# The best scale takes the largest magnitude, the *amax*, to the largest number, so it is amax / 448.
# Then the *code* is what is stored, x / scale rounded to E4M3.
#
# Whoever shares a scale has to live with it, so it should not be too many.
# DeepSeek-V3 cuts each row of an activation into *tiles* of 128 neighbours.
#
# Cut the rows of x, (N, K), into tiles of `width` neighbours, and return the codes, (N, K), and the scales, (N, tiles).
#
# * K need not be a multiple of `width`: then the last tile of a row is shorter. (`F.pad(x, (0, 3))` puts three zeros behind each row.)
# * A tile of zeros has no amax to divide by. Let its scale be 1, so that it stays zeros.
# * Gradients may be as small as 1e-10, and must be scaled like other numbers: no floor for the amax.
# * NaN and infinity must still be found in what comes back. If you do nothing about them, they are.
# * Codes take one byte each. Clamp to ±448, then `.to(torch.float8_e4m3fn)`, which rounds as yours does.

# %%
pictures.groups(3, 10, (1, 4)).captioned(
    "Three rows of ten numbers in tiles of four, and their scales. The last tile of each "
    "row holds two.",
    alt="Left a table of three rows and ten columns. In the first row four boxes are "
    "dark, four pale, two dark; the next row is the other way round. Right three rows "
    "of three boxes, the scales, shaded in the same way.",
)


# %%
def quantize_tiles(
    x: Float[Tensor, "N K"], width: int
) -> tuple[Float8e4m3fn[Tensor, "N K"], Float[Tensor, "N tiles"]]:
    """Codes, and one scale for each `width` neighbours of a row."""
    ### BEGIN SOLUTION
    N, K = x.shape
    tiles = F.pad(x, (0, -K % width)).reshape(N, -1, width)
    amax = tiles.abs().amax(dim=-1)
    scales = torch.where(amax == 0, 1.0, amax / 448)
    values = (tiles / scales[..., None]).clamp(-448, 448)
    codes = values.to(torch.float8_e4m3fn).reshape(N, -1)
    return codes[:, :K], scales
    ### END SOLUTION


# %%
check.task_4_3(quantize_tiles)

# %%
quantize_tiles = pieces.use("fp8.quantize_tiles", quantize_tiles)

# %% [markdown]
# The way back is given.
# Codes are multiplied by their scale, so each scale is first repeated for all whom it serves.


# %%
def dequantize(
    codes: Float8e4m3fn[Tensor, "M K"],
    scales: Float[Tensor, "m k"],
    rows: int,
    columns: int,
) -> Float[Tensor, "M K"]:
    """What codes stand for, where a scale serves `rows` x `columns` of them."""
    M, K = codes.shape
    each = scales.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return codes.float() * each[:M, :K]


# %% [markdown]
# Now real numbers.
# tiny_lm's `tiny`, untrained, reads 16 texts of 128 bytes each.
# On the way back from the loss we catch the gradient of what the first layer's attention hands on: a row for each byte of text.

# %%
train_text, _ = data.split(data.default_corpus())
tiny = model.LanguageModel(replace(config.tiny(), fp8=None))
caught = []


def listen(layer, inputs, output):
    """Ask for the gradient of what a layer gives."""
    output.register_hook(caught.append)


hook = tiny.blocks[0].attention.out.register_forward_hook(listen)
tiny.loss(data.Batches(train_text, batch_size=16, seq_len=128).at(0)).total.backward()
hook.remove()
gradient = caught[0].flatten(0, -2)
print(f"{len(gradient)} rows of {gradient.shape[1]};", end=" ")
print(
    f"magnitudes: median {gradient.abs().median():.1e}, largest {gradient.abs().max():.1e}"
)

# %% [markdown]
# > **Predict.** The smallest number of E4M3 is 1/512, about 0.002. What share of these gradients is zero if they are cast as they are? And if each tile of 32 has its scale?


# %%
def lost(again: Float[Tensor, "N K"]) -> tuple[float, float]:
    """What share became zero, and how far off the whole is."""
    vanished = ((again == 0) & (gradient != 0)).float().mean().item()
    return vanished, ((again - gradient).norm() / gradient.norm()).item()


codes = gradient.to(torch.float8_e4m3fn)
rows = [("cast as they are", *lost(codes.float()), codes.nbytes / codes.numel())]
for width in (128, 32):
    codes, scales = quantize_tiles(gradient, width)
    per_number = (codes.nbytes + scales.nbytes) / codes.numel()
    again = dequantize(codes, scales, 1, width)
    rows.append((f"tiles of {width}", *lost(again), per_number))
columns = {"": "", "became zero": ".1%", "error, of the whole": ".1%"}
columns |= {"bytes a number": ".2f"}
table(rows, columns, caption="One gradient of 2,048 rows, in E4M3.")

# %% [markdown]
# Without a scale hardly anything is left of it, and with one hardly anything is lost: a few per cent, as with a single number.
# For this gradient wide tiles do as well as narrow ones, and have fewer scales to keep.
# Where they do not is measured in the chapter [Scaling](../chapters/04_fp8/scaling.md), and it takes numbers that lie four powers of ten apart.

# %% [markdown]
# ## Task 4.4
#
# Weights are cut in another way: into *blocks*, squares of `size` rows and `size` columns, each with one scale.
# In DeepSeek-V3 a block is 128 × 128.
#
# Return the codes, (M, K), and the scales, (m, k), the scale of block row i and block column j at [i, j].
# Neither M nor K need be a multiple of `size`: the last blocks of a row or column then hold what is there.
# All else is as in 4.3.
#
# A hint on shapes: cut both dims in two, and a weight becomes (m, size, k, size).
# `w.unflatten(1, (-1, size))` cuts dim 1, and `flatten(0, 1)` joins dims 0 and 1.

# %%
pictures.groups(5, 7, (2, 2)).captioned(
    "A weight of five rows and seven columns in blocks of 2 × 2, and their scales.",
    alt="Left a table of five rows and seven columns, shaded like a chess board of "
    "squares of two by two; the last row and the last column hold parts of squares. "
    "Right three rows of four boxes, the scales, shaded in the same way.",
)


# %%
def quantize_blocks(
    w: Float[Tensor, "M K"], size: int
) -> tuple[Float8e4m3fn[Tensor, "M K"], Float[Tensor, "m k"]]:
    """Codes, and one scale for each `size` x `size` entries."""
    ### BEGIN SOLUTION
    M, K = w.shape
    padded = F.pad(w, (0, -K % size, 0, -M % size))
    blocks = padded.unflatten(1, (-1, size)).unflatten(0, (-1, size))
    amax = blocks.abs().amax(dim=(1, 3))
    scales = torch.where(amax == 0, 1.0, amax / 448)
    values = (blocks / scales[:, None, :, None]).clamp(-448, 448)
    codes = values.to(torch.float8_e4m3fn).flatten(2).flatten(0, 1)
    return codes[:M, :K], scales
    ### END SOLUTION


# %%
check.task_4_4(quantize_blocks)

# %%
quantize_blocks = pieces.use("fp8.quantize_blocks", quantize_blocks)

# %% [markdown]
# Why squares?
# A weight is used twice in a step of training.
# Forward, each of its rows is multiplied with the input and added up.
# On the way back it is each of its columns, with the gradient: there the weight is needed *turned over*, as `w.T`.
#
# > **Predict.** Quantise a weight and turn it over, or turn it over and quantise it. Is this the same with blocks? And with tiles?

# %%
weight = tiny.blocks[0].attention.out.weight.detach()


def with_blocks(w: Float[Tensor, "M K"]) -> Float[Tensor, "M K"]:
    """What is left of a weight in blocks of 32 x 32."""
    return dequantize(*quantize_blocks(w, 32), 32, 32)


def with_tiles(w: Float[Tensor, "M K"]) -> Float[Tensor, "M K"]:
    """What is left of a weight in tiles of 1 x 32."""
    return dequantize(*quantize_tiles(w, 32), 1, 32)


for name, quantised in (("blocks", with_blocks), ("tiles", with_tiles)):
    other = quantised(weight.T) != quantised(weight).T
    print(f"{name}: {other.float().mean():.0%} of the numbers differ")

# %% [markdown]
# A square turned over is a square of the same numbers, so blocks are quantised once a step and serve both ways.
# With tiles the two products would work with two weights that differ.
# An activation is not so lucky, and has to be quantised twice: this comes back in task 4.6.
#
# The other gain is in bytes.

# %%
M, K = 2048, 7168  # an expert of DeepSeek-V3: one of its three weights
rows = [("BF16", 2 * M * K / 1e6, None)]
for name, scales in (("tiles", M * K // 128), ("blocks", M * K // 128**2)):
    rows.append((f"FP8 in {name} of 128", M * K / 1e6, 4 * scales / 1e6))
table(
    rows,
    {"": "", "numbers, MB": ".2f", "scales, MB": ".3f"},
    caption="One weight of 2,048 × 7,168, and the scales beside it.",
)

# %% [markdown]
# Half the bytes, and scales that hardly count.
# What is still missing is what all this is for: a product.

# %% [markdown]
# ## Codes that are multiplied
#
# So far codes were a way to keep numbers.
# A tensor core multiplies them as they are, and it knows of no scales.
# They have to come in from outside, and in a sum that is possible where all terms have the same ones:
# a · s + b · s is (a + b) · s.
#
# An entry of a product is a long sum over the inner dim.
# Of x, a tile is `size` neighbours of a row, along that dim; of w, a block is `size` × `size`.
# So within one *block of the inner dim* an entry meets one scale of x and one of w, and the two multiply the sum of that block.

# %%
drawings.one_block().captioned(
    "x in tiles, w in blocks. The dark ones make the partial sums of block 1: each row "
    "of x brings its own scale, each row of w that of its block.",
    alt="Left two rows of three tiles, right two rows of three square blocks. The middle "
    "tile of each row of x and the middle column of blocks of w are dark.",
)

# %% [markdown]
# ## Task 4.5
#
# Multiply two matrices that are held in codes: `x_codes`, (N, K), with a scale for each tile of 1 × `size`, and `w_codes`, (M, K), with a scale for each block of `size` × `size`.
# The result is what `x @ w.T` of the numbers would be, (N, M), in FP32.
#
# * Go through the inner dim block by block. The products of a block's codes are added up first; that sum is multiplied by its two scales and added to those of the other blocks.
# * Neither K nor M need be a multiple of `size`: the last blocks are smaller.
# * torch would multiply codes as they stand, and round what comes out to a code again. `.float()` makes numbers of them.


# %%
def scaled_product(
    x_codes: Float8e4m3fn[Tensor, "N K"],
    x_scales: Float[Tensor, "N k"],
    w_codes: Float8e4m3fn[Tensor, "M K"],
    w_scales: Float[Tensor, "m k"],
    size: int,
) -> Float[Tensor, "N M"]:
    """x @ w.T of what the codes stand for, added up in FP32, block after block."""
    ### BEGIN SOLUTION
    of_rows = w_scales.repeat_interleave(size, dim=0)[: len(w_codes)]
    total = torch.zeros(len(x_codes), len(w_codes))
    for block in range(x_scales.shape[1]):
        part = slice(block * size, (block + 1) * size)
        sums = x_codes[:, part].float() @ w_codes[:, part].float().T
        total = total + x_scales[:, block, None] * of_rows[:, block] * sums
    return total
    ### END SOLUTION


# %%
check.task_4_5(scaled_product)

# %%
scaled_product = pieces.use("fp8.scaled_product", scaled_product)

# %% [markdown]
# A number in E4M3 is off by up to 6 %, and by 2.6 % if one takes the root of the mean square.
#
# > **Predict.** Each entry of a product adds up 512 products of such numbers. By how much will the entries be off, compared with their size: by about 4 %, by about 60 %, or by far more than 100 %?

# %%
generator = torch.Generator().manual_seed(0)
x = torch.randn(64, 512, generator=generator)
w = torch.randn(96, 512, generator=generator)


def error(of: Tensor, wanted: Tensor) -> float:
    """The length of all errors, over the length of what is wanted."""
    return ((of - wanted).norm() / wanted.norm()).item()


of_x, of_w = quantize_tiles(x, 128), quantize_blocks(w, 128)
y = scaled_product(*of_x, *of_w, 128)
kept_x, kept_w = dequantize(*of_x, 1, 128), dequantize(*of_w, 128, 128)
table(
    [
        ("x", error(kept_x, x)),
        ("w", error(kept_w, w)),
        ("their product", error(y, x @ w.T)),
    ],
    {"": "", "error": ".1%"},
    caption="What eight bits do to two matrices and to their product.",
)

# %%
gap = error(y, kept_x @ kept_w.T)
print(f"your product and the FP32 product of what the codes say: {gap:.0e} apart")

# %% [markdown]
# Errors have both signs, and so have the terms: both sums grow like the square root of their number, and their quotient stays.
# What is left is the error of one term, √2 times that of a number, since two of them are rounded.
# (If all terms had one sign the sum would grow faster than its errors, and the error be smaller still.)
#
# The last line is what the next task builds on.
# To multiply codes and scale the sums gives the same as to scale the codes and multiply in FP32; the former is how a chip does it, the latter is easier to write.

# %% [markdown]
# ## Three products
#
# A layer is multiplied three times in each step of training.
# With `grad`, (N, M), for what comes back from behind:
#
# | product | FP32 | a sum over |
# |---|---|---|
# | forward | `x @ weight.T` | the width of x |
# | gradient by x | `grad @ weight` | the output width |
# | gradient by weight | `grad.T @ x` | the tokens |
#
# Tiles lie along the dim that is summed over, or their scales could not be taken out of the sum.
# So x needs tiles along its width in the first product, and others, along the tokens, in the third.
# Likewise `grad` in the second and the third.
# Blocks are square, and a weight turned over is in blocks still: it is rounded once a step.

# %%
drawings.three_products().captioned(
    "One layer, three products. Pale strokes are tiles, dark squares blocks, and grey "
    "is what stays in FP32.",
    alt="Three rows. Forward: x with tiles along its rows, times the weight, turned "
    "over, in blocks, gives y. By x: grad with tiles along its rows, times the weight in blocks. "
    "By weight: grad, turned over, with tiles along its rows, which are tokens, times x with "
    "tiles along its columns.",
)

# %% [markdown]
# Which x goes into the third product?
# The forward pass keeps it until then, and to keep it in FP32 would cost what FP8 is to save.
# So it keeps what it multiplied, the rounded x, and the third product rounds that a second time, along the tokens.
# `grad` has just come, in FP32, and is rounded twice from the original.
#
# Two helpers, made of your functions: what is left of a matrix after tiles, and after blocks.


# %%
def in_tiles(x: Float[Tensor, "N K"], size: int) -> Float[Tensor, "N K"]:
    """What is left of x after 1 x size tiles."""
    return dequantize(*quantize_tiles(x, size), 1, size)


def in_blocks(w: Float[Tensor, "M K"], size: int) -> Float[Tensor, "M K"]:
    """What is left of w after size x size blocks."""
    return dequantize(*quantize_blocks(w, size), size, size)


# %% [markdown]
# And one thing about torch.
# A rounding is flat between its steps, so autograd could not find a useful way back through it.
# A `torch.autograd.Function` says itself what its gradients are.
# `forward` gets a `ctx` to put tensors away for later; `backward` gets what comes back, and returns a gradient for each argument of `apply`.
# Here is one that rounds, and lets the gradient pass as if nothing had happened:


# %%
class Rounded(torch.autograd.Function):
    """Tiles of four on the way there, nothing on the way back."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)  # not needed here: to show how it is done
        return in_tiles(x, 4)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad.view_as(x)


numbers = torch.tensor([[448.0, 17.0, 1.1, 0.3]], requires_grad=True)
rounded = Rounded.apply(numbers)
rounded.sum().backward()
print("rounded:", rounded.tolist()[0], " gradient:", numbers.grad.tolist()[0])

# %% [markdown]
# ## Task 4.6
#
# A linear map in FP8, forward and backward: write a class like `Rounded` inside the function, and return its `apply(x, weight)`.
#
# 1. Forward: x in tiles, weight in blocks, multiplied. Keep both rounded ones.
# 2. Gradient by x: grad in tiles, times the kept weight.
# 3. Gradient by weight: grad and the kept x, both turned over, so that the tokens lie along the rows, rounded in tiles there, multiplied to (M, K).
#
# `weight` itself stays as it is, in FP32: it is the master weight, and the optimizer adds to it.
# Nothing that comes *out* of a product is rounded.


# %%
def fp8_linear(
    x: Float[Tensor, "N K"], weight: Float[Tensor, "M K"], size: int
) -> Float[Tensor, "N M"]:
    """x @ weight.T, where it and both gradients are products of eight-bit numbers."""
    ### BEGIN SOLUTION

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            x, weight = in_tiles(x, size), in_blocks(weight, size)
            ctx.save_for_backward(x, weight)
            return x @ weight.T

        @staticmethod
        def backward(ctx, grad):
            x, weight = ctx.saved_tensors
            by_x = in_tiles(grad, size) @ weight
            by_weight = in_tiles(grad.T, size) @ in_tiles(x.T, size).T
            return by_x, by_weight

    return Product.apply(x, weight)
    ### END SOLUTION


# %%
check.task_4_6(fp8_linear)

# %%
fp8_linear = pieces.use("fp8.linear", fp8_linear)

# %% [markdown]
# > **Predict.** The three results against those of FP32: which of them is off most, and why?

# %%
grad = torch.randn(64, 96, generator=generator)


def all_three(linear) -> list[Tensor]:
    """The result and both gradients of a linear map, for the same x, w and grad."""
    given = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = linear(*given)
    return [y.detach(), *torch.autograd.grad(y, given, grad)]


names = ("forward", "gradient by x", "gradient by weight")
mine = all_three(lambda x, w: fp8_linear(x, w, 32))
theirs = all_three(lambda x, w: fp8.matmul(x, w, tile=32, block=32))
exact = all_three(F.linear)
table(
    [
        (name, error(a, c), error(a, b))
        for name, a, b, c in zip(names, mine, theirs, exact, strict=True)
    ],
    {"": "", "yours against FP32": ".2%", "yours against tiny_lm's": ".0e"},
    caption="A layer of 64 tokens, 512 numbers in and 96 out, tiles and blocks of 32.",
)

# %% [markdown]
# Yours are tiny_lm's, up to the order in which FP32 adds.
# The gradient by weight is off most: its x was rounded twice, so it has three roundings where the others have two, √3 and √2 of the error of one.
# That is the price of keeping one byte instead of four.

# %% [markdown]
# ## Adding up
#
# Your products were added in FP32.
# The tensor cores of an H100 do not do that for FP8, though their accumulator is called FP32.
# One step takes 32 products and what the accumulator holds, lines up all 33 on the largest, and cuts off what lies more than 13 binary places below its first digit.

# %%
factors = torch.tensor([[1.625, 0.125, 0.203125], [0.8125, 0.9375, 0.09375]])
rows = {"accumulator": 300.40625}
rows |= {f"product {n}": p for n, p in enumerate(factors.prod(0).tolist(), 1)}
accumulation.lined_up(rows, fraction_bits=13, low=-11).captioned(
    "An accumulator and three products in binary. Its first digit and 13 more are the "
    "columns that count.",
    alt="Four rows of binary digits, aligned at the point. The accumulator fills the "
    "fourteen coloured columns from 256 to 1/32. The first product loses two digits to "
    "the right of them, the second two, and the third lies outside altogether.",
)

# %% [markdown]
# ## Task 4.7
#
# Add up so yourself.
# `products` are K exact products, `exponents` the exponent of each: that of one factor plus that of the other, −100 where the product is 0.
# (1.5 · 1.5 is 2.25, but it counts with exponent 0 + 0: a tensor core does not look at the product.)
# `exponent_of`, below, gives the exponent of the accumulator.
#
# A step, for 32 products at a time (the last one may have fewer):
#
# 1. *top* is the largest exponent among the products and the accumulator.
# 2. The last column is 2^(top − 13) wide. Each product and the accumulator keep whole columns; the rest is cut off, toward zero.
# 3. What is left is added. The sum is cut too, 13 places below its *own* exponent, and is the new accumulator.
#
# After every `promote_every` products, a multiple of 32, the accumulator is added to a sum in true FP32 and starts again from 0.
# At the end, what is still in it is added too.


# %%
def exponent_of(x: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
    """e, where |x| lies in [2^e, 2^(e+1)); -100 for zero."""
    return torch.where(x == 0, -100, torch.frexp(x).exponent - 1)


# %%
def short_sum(
    products: Float[Tensor, " K"], exponents: Int[Tensor, " K"], promote_every: int
) -> Float[Tensor, ""]:
    """The sum, 32 products a step in 14 bits, moved to FP32 every so many products."""
    ### BEGIN SOLUTION

    def cut(x, top):
        column = 2.0 ** (top - 13)
        return (x / column).trunc() * column

    total, held = torch.zeros(()), torch.zeros(())
    for start in range(0, len(products), 32):
        step = slice(start, start + 32)
        top = torch.maximum(exponents[step].max(), exponent_of(held))
        added = cut(products[step], top).sum() + cut(held, top)
        held = cut(added, exponent_of(added))
        if (start + 32) % promote_every == 0:
            total, held = total + held, torch.zeros(())
    return total + held
    ### END SOLUTION


# %%
check.task_4_7(short_sum)

# %%
short_sum = pieces.use("fp8.short_sum", short_sum)

# %% [markdown]
# > **Predict.** 4,096 products are added. In one experiment the factors lie between 0 and 1, in the other they have random signs. Without promotion, where is the error larger, compared with the size of such sums?

# %%
K = 4096
uniform = torch.rand(2, 8, K, generator=generator)
normal = torch.randn(2, 8, K, generator=generator)
rows, equal = [], []
for name, factors in (("between 0 and 1", uniform), ("both signs", normal)):
    a, b = formats.encode(factors)
    exact = (a.double() * b.double()).sum(1)
    exponents = sum(exponent_of(z.float()).clamp(min=-6) for z in (a, b))
    multiplied = a.float() * b.float()
    exponents = exponents.masked_fill(multiplied == 0, -100)
    for every in (K, 128):
        pairs = zip(multiplied, exponents, strict=True)
        sums = torch.stack([short_sum(p, e, every) for p, e in pairs])
        chip = accumulator.tensor_core_matmul(a, b, every).diagonal()
        equal.append(torch.equal(sums, chip))
        rows.append((name, "never" if every == K else every, error(sums, exact)))
table(
    rows,
    {"factors": "", "promoted every": "", "error": ".3%"},
    caption="Eight sums of 4,096 products each, added up by your function.",
)

# %%
print("equal to tiny_lm's model of an H100, bit by bit:", all(equal))

# %% [markdown]
# With one sign the accumulator grows without end, its columns grow with it, and everything that is cut is cut in the same direction.
# Promotion costs next to nothing, because after 128 products the scales have to be multiplied in anyhow: it is the partial sum of task 4.5.
# (That tiny_lm's model is what an H100 does was compared on one, bit by bit: the chapter [Adding up](../chapters/04_fp8/adding_up.md) has the record.)

# %% [markdown]
# ## Does it learn?
#
# So far you know how far single products are off.
# What counts is the model that comes out.
# Here is a small one, in which every linear map but the last is yours.

# %%
size = 32
small = replace(
    config.tiny_dense(),
    d_model=64,
    num_layers=2,
    num_dense_layers=2,
    d_ffn=128,
    attention=config.MHAConfig(num_heads=4, num_kv_heads=4, d_head=16),
    init_std=0.08,
)


def your_product(x, weight):
    """`fp8_linear` for a model, which has sequences of tokens."""
    y = fp8_linear(x.flatten(0, -2), weight, size)
    return y.view(*x.shape[:-1], len(weight))


def new_model(seed: int, multiply=None) -> model.LanguageModel:
    """With the first weights of a seed; `multiply` is its product, or FP32."""
    given = None if multiply is None else Products(multiply, plain)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model.LanguageModel(small, products=given)


tokens = data.Batches(train_text, batch_size=16, seq_len=64).at(0)
theirs = partial(fp8.matmul, tile=size, block=size)
for name, multiply in (("FP32", None), ("yours", your_product), ("tiny_lm's", theirs)):
    lm = new_model(0, multiply)
    loss = lm.loss(tokens).total
    loss.backward()
    length = nn.utils.get_total_norm([w.grad for w in lm.parameters()])
    print(f"{name:9}  loss {loss:.6f}  length of the gradient {length:.6f}")

# %% [markdown]
# With your linear map the model is tiny_lm's own FP8 model.
# Now train it, and beside it a *twin*: the same first weights, the same text, but products in FP32.
#
# Their losses will differ.
# But *any* difference at the start leads to other losses later, whether it does harm or not.
# So there is a third run, the *null twin*: FP32 again, and only its first weights are *nudged*, rounded once to eight bits before the first step.
# First weights are drawn at random, and nobody would call these worse than the others.
# (The chapter [Training in FP8](../chapters/04_fp8/training_in_fp8.md) has a smaller null twin, one last bit of each weight, and longer runs.)
# How far the null twin strays is how far chance takes a run.


# %%
@torch.no_grad()
def nudge(lm: model.LanguageModel) -> None:
    """Round the first weights, once."""
    for weight in lm.parameters():
        if weight.dim() == 2:
            weight.copy_(in_blocks(weight, size))


def train(products: str, seed: int) -> Float[Tensor, " steps"]:
    """The losses of a small model; products are "fp32", "fp8" or "nudged"."""
    lm = new_model(seed, your_product if products == "fp8" else None)
    if products == "nudged":
        nudge(lm)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=4e-3, betas=(0.9, 0.95))
    batches = data.Batches(train_text, batch_size=16, seq_len=64, seed=seed)
    losses = []
    for step, gone in training_steps(100):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, (step + 1) / 20, 1.05 - gone)
        loss = lm.loss(batches.at(step)).total
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


# %% [markdown]
# ## Task 4.8
#
# Compare honestly.
# `train(products, seed)` trains a model and returns the loss of each step; `products` is `"fp32"`, `"fp8"` or `"nudged"`.
# Return two *relative gaps*, with a number for each step: that of the FP8 run to FP32, and that of the nudged run to FP32.
#
# * A relative gap is loss over the twin's loss, minus 1: above 0 where the run is worse than its twin, below where it is better.
# * A single loss jumps with its batch. Smooth the losses of each run first: a mean that begins with the first loss, and at each later step keeps `keep` of itself and takes 1 − `keep` of the new loss.
# * All runs have the seed that is given, and each is needed once.


# %%
def relative_gap(
    train: Callable[[str, int], Float[Tensor, " steps"]], seed: int, keep: float
) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
    """Gaps of the FP8 run and of the nudged one to their FP32 twin, step by step."""
    ### BEGIN SOLUTION

    def smoothed(products):
        losses = train(products, seed)
        means = [losses[0]]
        for loss in losses[1:]:
            means.append(keep * means[-1] + (1 - keep) * loss)
        return torch.stack(means)

    twin = smoothed("fp32")
    return smoothed("fp8") / twin - 1, smoothed("nudged") / twin - 1
    ### END SOLUTION


# %%
check.task_4_8(relative_gap)

# %%
relative_gap = pieces.use("fp8.relative_gap", relative_gap)

# %% [markdown]
# > **Predict.** DeepSeek reports gaps below 0.25 % for models trained on about a trillion tokens. Yours reads a hundred thousand bytes. Will its gap be below that, and how large is the null twin's beside it?

# %%
gaps = [relative_gap(train, seed, keep=0.9) for seed in (0, 1)]
lines = {}
for seed, pair in enumerate(gaps):
    for name, gap in zip(("FP8", "null twin"), pair, strict=True):
        lines[f"{name}, seed {seed}"] = (100 * gap).tolist()
drawings.gaps(lines).captioned(
    "Smoothed loss compared with the FP32 twin's, step by step.",
    alt="Four lines around zero over the steps of training, two of FP8 runs and two of "
    "null twins, all within a few tenths of a per cent.",
)

# %%
late = len(gaps[0][0]) // 2
table(
    [
        (seed, *(gap[late:].mean().item() for gap in pair))
        for seed, pair in enumerate(gaps)
    ],
    {"seed": "d", "FP8": "+.2%", "null twin": "+.2%"},
    caption="Relative gaps, mean over the second half of the steps.",
)

# %% [markdown]
# Two numbers in each line, a few tenths of a per cent at most, with either sign.
# (Yours may differ in their digits, and even in a sign.)
# FP8 stays within the bound, or close to it.
# But the null twins stray as far: so these runs cannot say that FP8 costs anything, nor that it costs nothing.
# Without the null twin, each gap would have looked like a finding.
#
# > **Try it.** Let `nudge` move every weight to the next FP32 number instead: `weight.copy_(weight.nextafter(torch.tensor(torch.inf)))`. A difference as small as that has no time to grow in a hundred steps, and after a thousand it has.
#
# ## What this exercise does not show
#
# It does not show that FP8 is harmless.
# That takes many seeds and long runs, or a quieter way to measure, which [Training in FP8](../chapters/04_fp8/training_in_fp8.md) tries; and it is a different question for each width of a model.
#
# Nor does it show speed, or memory.
# Your codes were turned into FP32 before they were multiplied, because a CPU has no products of codes; it took longer than FP32 does.
# On an H100 they are multiplied as they are, at about one and a half times the rate of BF16; the chapter [Adding up](../chapters/04_fp8/adding_up.md) has the measured rates. And a code takes half the bytes.
#
# It leaves out what DeepSeek-V3 leaves in higher precision: the embedding, the head, the gate, the norms and attention itself.
# In your model all but the linear maps is FP32, too.

# %% [markdown]
# ## What you have now
#
# Eight pieces in the folder `my_pieces`: a byte read and rounded to, tiles and blocks, a product of codes, a sum as a chip makes it, and an honest comparison.
# `fp8_linear` is the one that the model of the last part is built with.

# %%
print(pieces.progress("04_fp8"))
